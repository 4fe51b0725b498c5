"""Masks of every kind are read by the content of their files or as an option states, and never by a silent guess."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box
from magnet_cli.refinement.input_mask import open_mask
from tests.exports.support import CLASSES, write_mask

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.refinement.input_mask import InputMask

HALF = Fraction(1, 2)
SHAPE = (31, 45)


def disc() -> NDArray[np.bool_]:
    row, col = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray((row - 15) ** 2 + (col - 20) ** 2 < 90)


def opened(path: Path, kind: Any = "auto", threshold: Fraction | None = None) -> InputMask:
    return open_mask(path, kind=kind, threshold=threshold or HALF, is_given=threshold is not None)


def read(path: Path, kind: Any = "auto", threshold: Fraction | None = None) -> NDArray[np.uint8]:
    with opened(path, kind, threshold) as mask:
        return mask.read(Box.whole(mask.size))


def tiff(path: Path, values: NDArray[Any], **more: Any) -> Path:
    tifffile.imwrite(path, values, **{"photometric": "minisblack", **more})
    return path


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_mask_of_two_values_is_binary_whichever_they_are(tmp_path: Path, value: int, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    Image.fromarray(disc().astype(np.uint8) * np.uint8(value)).save(path)
    with opened(path) as mask:
        assert mask.reading.kind == "binary"
        assert f"0, {value}" in mask.notes[0]
        assert np.array_equal(mask.read(Box.whole(mask.size)), disc())


def test_a_bilevel_picture_is_binary(tmp_path: Path) -> None:
    Image.fromarray(disc()).save(tmp_path / "m.png")
    tiff(tmp_path / "m.tif", disc())
    assert np.array_equal(read(tmp_path / "m.png"), disc())
    assert np.array_equal(read(tmp_path / "m.tif"), disc())


def test_a_mask_that_calls_its_background_missing_is_binary(tmp_path: Path) -> None:
    path = tiff(tmp_path / "m.tif", disc().astype(np.uint8), extratags=[(42113, 2, 0, "0", True)])
    assert np.array_equal(read(path), disc())
    with opened(path) as mask:
        assert len(mask.notes) == 1


def test_classes_that_a_mask_calls_missing_are_told(tmp_path: Path) -> None:
    path = tiff(tmp_path / "m.tif", disc().astype(np.uint8) * np.uint8(2), extratags=[(42113, 2, 0, "0", True)])
    with opened(path, "labels") as mask:
        assert np.array_equal(mask.read(Box.whole(mask.size)), np.where(disc(), 2, 255))
        assert mask.notes[1].endswith("pixels of its nodata value 0 count as 255")


def test_few_values_are_classes_and_255_is_not_computed(tmp_path: Path) -> None:
    labels = disc().astype(np.uint8) * 3
    labels[:4, :5] = 255
    with opened(tiff(tmp_path / "m.tif", labels)) as mask:
        assert mask.reading.kind == "labels"
        assert [entry.name for entry in mask.reading.classes] == ["class 0", "class 1", "class 2", "class 3"]
        assert np.array_equal(mask.read(Box.whole(mask.size)), labels)


def test_classes_keep_the_names_and_colours_of_their_mask(tmp_path: Path) -> None:
    labels = disc().astype(np.uint8)
    with opened(write_mask(tmp_path / "m.tif", labels)) as mask:
        assert mask.reading.kind == "labels"
        assert [entry.color for entry in mask.reading.classes] == ["#00FFFF", "#ffff00", "#0000ff"]
        assert np.array_equal(mask.read(Box.whole(mask.size)), labels)


def test_a_palette_means_classes(tmp_path: Path) -> None:
    picture = Image.fromarray(disc().astype(np.uint8) * 100, mode="P")
    picture.putpalette([0, 0, 0] * 100 + [255, 0, 0])
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read(tmp_path / "m.png"), disc() * 100)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.uint16])
def test_a_probability_is_cut_at_the_threshold_that_was_named(tmp_path: Path, dtype: Any) -> None:
    wave = np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    scale = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    path = tiff(tmp_path / "m.tif", (wave * scale).astype(dtype))
    stored = tifffile.imread(path).astype(np.float64) / scale
    for threshold in (HALF, Fraction(9, 10)):
        assert np.array_equal(read(path, "probability", threshold), stored > float(threshold))
    with opened(path, "probability") as mask:
        assert "probability" in mask.notes[0]


def test_floating_values_are_a_probability_and_missing_ones_stay_missing(tmp_path: Path) -> None:
    values = disc().astype(np.float32)
    values[0, 0] = np.nan
    labels = read(tiff(tmp_path / "m.tif", values))
    assert labels[0, 0] == 255
    assert np.array_equal(labels.ravel()[1:], disc().ravel()[1:])


def test_grey_that_may_be_either_is_not_guessed(tmp_path: Path) -> None:
    grey = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.uint8)
    with pytest.raises(SourceError, match="--mask-kind"):
        read(tiff(tmp_path / "m.tif", grey))
    assert np.array_equal(read(tmp_path / "m.tif", "binary"), grey != 0)


def test_a_jpeg_is_a_probability_and_nothing_else(tmp_path: Path) -> None:
    Image.fromarray(disc().astype(np.uint8) * np.uint8(255)).save(tmp_path / "m.jpg", quality=60)
    assert (np.asarray(Image.open(tmp_path / "m.jpg")) != 0).sum() > disc().sum()
    for kind in ("binary", "labels"):
        with pytest.raises(SourceError, match=f"cannot be read as {kind}.*--mask-kind probability"):
            read(tmp_path / "m.jpg", kind)
    assert np.array_equal(read(tmp_path / "m.jpg", "probability"), disc())


def test_wrong_masks_are_refused_by_name(tmp_path: Path) -> None:
    scores = tiff(tmp_path / "scores.tif", disc() * np.float32(7))
    with pytest.raises(SourceError, match="0 to 1"):
        read(scores)
    colours = tiff(tmp_path / "rgb.tif", np.zeros((*SHAPE, 3), np.uint8), photometric="rgb")
    with pytest.raises(SourceError, match="one band"):
        read(colours)
    with pytest.raises(SourceError, match="class index"):
        read(tiff(tmp_path / "large.tif", disc() * np.uint16(700)), "labels")
    with pytest.raises(SourceError, match=r"class index is 0 to 254 \(got -1\)"):
        read(tiff(tmp_path / "below.tif", np.where(disc(), np.int16(3), np.int16(-1))), "labels")
    with pytest.raises(SourceError, match="whole numbers"):
        read(scores, "labels")
    with pytest.raises(UsageError, match="--threshold"):
        read(tiff(tmp_path / "binary.tif", disc().astype(np.uint8)), threshold=HALF)


@pytest.mark.parametrize(
    ("objects", "chosen"), [((CLASSES[1].name,), [1]), (("1",), [1]), (("2", CLASSES[0].name), [0, 2])]
)
def test_some_classes_are_the_object_and_all_else_is_around_it(
    tmp_path: Path, objects: tuple[str, ...], chosen: list[int]
) -> None:
    labels = (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 3).astype(np.uint8)
    labels[3, 5:9] = 255
    path = write_mask(tmp_path / "m.tif", labels)
    with open_mask(path, kind="auto", threshold=HALF, objects=objects) as mask:
        found = mask.read(Box.whole(mask.size))
        assert mask.reading.kind == "binary"
        around, one = mask.reading.classes
        assert (around.name, one.name) == ("background", " and ".join(CLASSES[label].name for label in chosen))
        assert one.color == CLASSES[chosen[0]].color
        assert np.array_equal(found == 1, np.isin(labels, chosen))
        assert np.array_equal(found == 255, labels == 255)
        assert "--object" in mask.notes[0]


def test_an_object_that_the_mask_does_not_name_is_refused(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.tif", disc().astype(np.uint8))
    with pytest.raises(UsageError, match="--object names classes of the mask"):
        open_mask(path, kind="auto", threshold=HALF, objects=("sky",))
