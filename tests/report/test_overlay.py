"""The picture beside a mask shows the image with the mask over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile

from magnet_cli.geometry import Pitch, Size
from magnet_cli.images import open_image
from magnet_cli.masks.report_file import read_report
from magnet_cli.report.colours import ColourMapping
from magnet_cli.report.legend import MOST, draw_legend, listed, share_text
from magnet_cli.report.overlay import blended, draw_overlay
from magnet_cli.report.picture import BLANK, Class, MaskPicture, read_picture, read_pixels
from tests.cli.support import expected_labels, invoke, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def picture(names: list[str], *, side: int = 40) -> MaskPicture:
    classes = tuple(
        Class(name=name, color=f"#{40 + label % 200:02x}80f0", pixels=side, share=1 / len(names), area=None, unit=None)
        for label, name in enumerate(names)
    )
    labels = np.arange(side * side).reshape(side, side) % len(names)
    return MaskPicture(
        pixels=np.full((side, side, 3), 100, np.uint8),
        labels=labels.astype(np.uint8),
        pitch=1,
        size=Size(width=side, height=side),
        classes=classes,
    )


def decoded(data: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = imagecodecs.png_decode(data)
    return pixels


def test_half_image_half_colour(here: Path, image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "--overlay").exit_code == 0
    seen = decoded((here / "s.mask.overlay.png").read_bytes())
    scale = 640 // 150
    height, width = 110 * scale, 150 * scale
    assert seen.shape[1] >= width
    assert seen.shape[0] > height
    drawn = seen[:height:scale, :width:scale].astype(float)
    pixels = tifffile.imread(image).astype(float)
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], float)[expected_labels()]
    same = tifffile.imread("s.mask.tif") == expected_labels()
    assert same.mean() > 0.95
    np.testing.assert_allclose(drawn[same], (pixels / 2 + colours / 2)[same], atol=1)


def test_what_was_not_computed_is_the_image(here: Path, bundle: Path) -> None:
    values = tifffile.imread(write_image(here / "plain.tif"))
    values[:, 100:] = 0
    tifffile.imwrite(here / "s.tif", values, photometric="rgb", tile=(64, 64), extratags=[(42113, "s", 0, "0", True)])
    assert invoke("segment", "s.tif", "--weights", bundle, "-o", "m.tif").exit_code == 0
    with open_image(here / "s.tif") as image:
        found = read_picture(image, here / "m.tif", read_report(here / "m.json"))
    assert (blended(found)[:, 104:] == BLANK).all()
    assert (blended(found)[:, :96] != BLANK).any(axis=2).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_image_and_mask_lie_on_each_other(here: Path, bundle: Path) -> None:
    """The picture shows the mask's overview and the image's means, also for a width that no overview divides."""
    size = (150, 4501)
    write_image(here / "wide.tif", size=size)
    assert invoke("segment", "wide.tif", "--weights", bundle, "-o", "m.tif").exit_code == 0
    with open_image(here / "wide.tif") as image:
        found = read_picture(image, here / "m.tif", read_report(here / "m.json"))
    assert (found.pitch, found.labels.shape) == (4, (38, 1126))
    assert found.pixels.shape == (38, 1126, 3)
    with rasterio.open(here / "m.tif", overview_level=1) as mask:
        np.testing.assert_array_equal(found.labels, mask.read(1))
    agree = found.pixels.argmax(axis=2) == found.labels
    assert agree.mean() > 0.99


@pytest.mark.parametrize(
    ("dtype", "bands", "photometric"), [("uint16", 3, "rgb"), ("float32", 1, "minisblack"), ("int16", 7, "minisblack")]
)
def test_values_of_any_kind_are_seen(tmp_path: Path, dtype: str, bands: int, photometric: str) -> None:
    ramp = np.linspace(100, 4000, 90 * 130).reshape(90, 130).astype(dtype)
    values = np.repeat(ramp[..., None], bands, axis=2) if bands > 1 else ramp
    more: dict[str, Any] = {"planarconfig": "contig"} if bands > 1 else {}
    tifffile.imwrite(tmp_path / "x.tif", values, photometric=photometric, tile=(32, 32), **more)
    with open_image(tmp_path / "x.tif") as image:
        seen = read_pixels(image, Pitch.square(2), ColourMapping(bands=(0, 1, 2) if bands > 1 else (0,)))
    assert seen.shape == (45, 65, 3)
    assert seen.dtype == np.uint8
    assert seen[0].max() < 20
    assert seen[-1].min() > 235


def test_many_bands_are_read_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 255, (120, 80, 9), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig", tile=(32, 32))
    with open_image(tmp_path / "x.tif") as image:
        whole = read_pixels(image, Pitch.square(2), ColourMapping(bands=(8, 1, 2)))
        largest = 0
        read = image.read

        def counted(requests: Any) -> Any:
            nonlocal largest
            largest = max(largest, requests[0].box.area * 9)
            return read(requests)

        monkeypatch.setattr(image, "read", counted)
        monkeypatch.setattr("magnet_cli.report.picture.STRIP_VALUES", 2000)
        np.testing.assert_array_equal(read_pixels(image, Pitch.square(2), ColourMapping(bands=(8, 1, 2))), whole)
    assert 0 < largest <= 2000


def test_the_legend_names_every_class() -> None:
    names = ["water", "a name with $dollars$ & <signs>", "\N{CJK UNIFIED IDEOGRAPH-6C34}", "x" * 300]
    seen = decoded(draw_overlay(picture(names)))
    legend = seen[640:]
    for entry in picture(names).classes:
        colour = np.frombuffer(bytes.fromhex(entry.color[1:]), np.uint8)
        assert (legend == colour).all(axis=2).sum() > 30
    assert (seen[:, -1] == 255).all() or seen.shape[1] == 640


def test_a_legend_fits_its_picture() -> None:
    wide = draw_legend(picture([f"class {number}" for number in range(12)]), width=1000)
    narrow = draw_legend(picture([f"class {number}" for number in range(12)]), width=400)
    assert wide.shape[1] <= 1000
    assert narrow.shape[1] <= 400
    assert narrow.shape[0] > wide.shape[0]


def test_rare_classes_of_many_are_left_out() -> None:
    classes = [
        Class(name=str(label), color="#000000", pixels=label % 100, share=0.0, area=None, unit=None)
        for label in range(255)
    ]
    kept, more = listed(classes)
    assert (len(kept), more) == (MOST, 255 - MOST)
    assert min(entry.pixels for entry in kept) >= max(entry.pixels for entry in classes if entry not in kept)
    assert [int(entry.name) for entry in kept] == sorted(int(entry.name) for entry in kept)
    assert draw_legend(picture([str(label) for label in range(255)]), width=640).shape[1] <= 640


@pytest.mark.parametrize(("share", "text"), [(0, "0.0 %"), (0.0001, "< 0.1 %"), (0.0005, "0.1 %"), (1, "100.0 %")])
def test_a_share_is_not_rounded_away(share: float, text: str) -> None:
    assert share_text(share) == text
