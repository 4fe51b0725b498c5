"""Scores equal those of independent computations, and do not change when the mask is read in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.evaluation import mask_scores as evaluation
from magnet_cli.evaluation.boundary import BoundaryCounts, add_block, boundary_radii
from magnet_cli.evaluation.mask_scores import Evaluation, check_inputs, evaluate
from magnet_cli.geometry import Box, Size
from magnet_cli.options.evaluate import EvaluationOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from tests.cli.support import write_colours_bundle, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FEW = st.sampled_from([0, 1, 2, 3, 7, 255])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    mask, truth = (draw(arrays.arrays(np.uint8, shape, elements=FEW)) for _ in range(2))
    truth.flat[0] = 1
    return mask, truth


def write(folder: Path, **rasters: NDArray[np.uint8]) -> dict[str, Path]:
    for name, values in rasters.items():
        tifffile.imwrite(folder / f"{name}.tif", values, photometric="minisblack")
    return {name: folder / f"{name}.tif" for name in rasters}


def scored(folder: Path, mask: NDArray[np.uint8], truth: NDArray[np.uint8], **options: Any) -> Evaluation:
    paths = write(folder, mask=mask, truth=truth)
    return evaluate(paths["mask"], paths["truth"], EvaluationOptions(**options))


def naive_ious(mask: NDArray[np.uint8], truth: NDArray[np.uint8], ignore: set[int]) -> dict[int, float]:
    """Return the IoU of each class by intersecting sets of pixels."""
    places = [place for place in np.ndindex(truth.shape) if int(truth[place]) not in ignore]
    found = {}
    for label in set(range(255)) - ignore:
        wanted = {place for place in places if truth[place] == label}
        given_ = {place for place in places if mask[place] == label}
        if wanted | given_:
            found[label] = len(wanted & given_) / len(wanted | given_)
    return found


@settings(max_examples=60, deadline=None)
@given(pair=pairs(), ignore=st.sets(st.sampled_from([0, 2, 255])), exclude=st.sets(st.sampled_from([2, 3])))
def test_ious_are_those_of_a_naive_count(
    tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    ignore: set[int],
    exclude: set[int],
) -> None:
    mask, truth = pair
    found = scored(tmp_path_factory.mktemp("e"), mask, truth, ignore=tuple(ignore), exclude=tuple(exclude))
    expected = naive_ious(mask, truth, ignore | {255})
    assert {entry.index: entry.iou for entry in found.classes} == pytest.approx(expected)
    kept = [value for label, value in expected.items() if label not in exclude]
    assert found.miou == (pytest.approx(sum(kept) / len(kept)) if kept else None)
    labelled = ~np.isin(truth, [*ignore, 255])
    assert found.labelled == labelled.sum()
    assert found.accuracy == pytest.approx((mask == truth)[labelled].mean())
    assert found.not_computed == (mask == 255)[labelled].sum()


def naive_boundary(
    mask: NDArray[np.uint8], truth: NDArray[np.uint8], radii: tuple[float, ...], ignore: set[int]
) -> list[float] | None:
    """Return the boundary accuracy for each radius by comparing every pixel with every other one."""
    known = ~np.isin(truth, list(ignore))
    rows, columns = np.nonzero(known)
    values, right = truth[known].astype(int), (mask == truth)[known]
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    differs = values[:, None] != values
    near = [((squared <= radius**2) & differs).any(axis=1) for radius in radii]
    return [float(right[where].mean()) for where in near] if near[0].any() else None


@settings(max_examples=40, deadline=None)
@given(pair=pairs(), sides=st.tuples(st.integers(1, 5), st.integers(1, 5)), reach=st.integers(1, 6))
def test_boundary_accuracy_of_blocks_is_that_of_a_naive_whole(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]], sides: tuple[int, int], reach: int
) -> None:
    mask, truth = pair
    radii = tuple(sorted((1.0, 1.5, 2.0, 2.5, float(reach))))
    counts = BoundaryCounts(radii=radii, rule="paper")
    height, width = truth.shape
    for y in range(0, height, sides[0]):
        for x in range(0, width, sides[1]):
            box = Box(x=x, y=y, width=min(sides[1], width - x), height=min(sides[0], height - y))
            seen = box.grown(counts.reach).intersection(Box(x=0, y=0, width=width, height=height))
            labelled = truth[seen.slices] != 255
            inner = box.shifted(x=-seen.x, y=-seen.y)
            add_block(
                (counts,),
                truth[seen.slices],
                labelled=labelled,
                inner=inner,
                right=(mask == truth)[box.slices],
                counted=labelled[inner.slices],
            )
    expected = naive_boundary(mask, truth, radii, {255})
    if expected is None:
        assert counts.mba is None
    else:
        assert counts.accuracies == pytest.approx(expected)
        assert counts.mba == pytest.approx(np.mean(expected))


def test_whole_numbers_of_pixels_are_near_as_opencv_says() -> None:
    truth = np.random.default_rng(0).integers(0, 3, (8, 9)).repeat(20, axis=0).repeat(20, axis=1).astype(np.uint8)
    counts = BoundaryCounts(radii=(1.0, 2.0, 3.0, 5.0, 8.0))
    everywhere = np.ones(truth.shape, np.bool_)
    inner = Box(x=0, y=0, width=180, height=160)
    add_block((counts,), truth, labelled=everywhere, inner=inner, right=everywhere, counted=everywhere)
    for radius, near in zip(counts.radii, counts.near, strict=True):
        reach = np.arange(-int(radius), int(radius) + 1)
        disc = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.uint8)
        assert near == np.count_nonzero(cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, disc))


def test_radii() -> None:
    for size in (Size(width=2048, height=2048), Size(width=9, height=9), Size(width=10**6, height=10**6)):
        assert boundary_radii(size) == pytest.approx((3, 5.6625, 8.325, 10.9875, 13.65))
    assert boundary_radii(Size(width=2048, height=2048), "paper")[-1] == pytest.approx(13.65, abs=0.01)
    assert boundary_radii(Size(width=2048, height=1024), "paper") == pytest.approx((3, 4.81, 6.62, 8.43, 10.24))
    assert boundary_radii(Size(width=2048, height=1024), "published") == (1, 2, 4, 6, 8)
    assert boundary_radii(Size(width=448, height=448), "paper") == (3, 3, 3, 3, 3)
    assert boundary_radii(Size(width=320, height=240), "published") == (1, 1, 1, 1, 1)


def scene(shape: tuple[int, int] = (300, 420)) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a mask, a truth with ignored pixels, and a region."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 4, (shape[0] // 10, shape[1] // 10))
    truth = coarse.repeat(10, axis=0).repeat(10, axis=1).astype(np.uint8)
    mask = np.where(rng.random(shape) < 0.1, rng.integers(0, 5, shape), truth).astype(np.uint8)
    truth[100:140, 30:200] = 255
    region = (rng.random(shape) < 0.8).astype(np.uint8)
    return mask, truth, region


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask, truth, region = scene()
    paths = write(tmp_path, mask=mask, truth=truth, region=region)
    options = EvaluationOptions(boundary="paper", ignore=(3,))
    whole = evaluate(paths["mask"], paths["truth"], options, roi=paths["region"]).describe()
    monkeypatch.setattr(evaluation, "BLOCK", 70)
    monkeypatch.setattr(evaluation, "SMALLEST_BLOCK", 1)
    assert evaluate(paths["mask"], paths["truth"], options, roi=paths["region"]).describe() == whole
    outside = truth.copy()
    outside[region == 0] = 255
    write(tmp_path, outside=outside)
    cut = evaluate(paths["mask"], tmp_path / "outside.tif", options)
    assert cut.describe()["classes"] == whole["classes"]


def test_a_class_that_neither_has_is_left_out_of_the_mean(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    found = scored(tmp_path, np.array([[0, 0, 1, 3]], np.uint8), truth, names=("a", "b", "c", "d"))
    assert [(entry.name, entry.iou, entry.in_mean) for entry in found.classes] == [
        ("a", 1.0, True),
        ("b", 0.5, True),
        ("c", None, False),
        ("d", 0.0, True),
    ]
    assert found.miou == 0.5


def test_a_pixel_that_was_not_computed_is_wrong(tmp_path: Path) -> None:
    found = scored(tmp_path, np.array([[0, 255]], np.uint8), np.array([[0, 0]], np.uint8))
    assert (found.miou, found.accuracy, found.not_computed) == (0.5, 0.5, 1)


def test_an_ignored_label_in_the_mask_is_wrong_but_computed(tmp_path: Path) -> None:
    mask, truth = np.array([[0, 255, 1, 1]], np.uint8), np.array([[1, 1, 1, 0]], np.uint8)
    found = scored(tmp_path, mask, truth, ignore=(0,))
    assert (found.labelled, found.right, found.not_computed) == (3, 1, 1)
    assert found.confusion.tolist() == [[1, 2]]


def test_inputs_that_cannot_be_compared_are_found_before_there_is_a_mask(tmp_path: Path) -> None:
    zeros = np.zeros((4, 5), np.uint8)
    paths = write(tmp_path, image=zeros, truth=zeros, roi=zeros, turned=zeros.T.copy())
    check_inputs(paths["image"], paths["truth"], roi=paths["roi"])
    size = r"turned.tif: the size must be that of .*image.tif, 5x4 \(got 4x5\)"
    with pytest.raises(SourceError, match=size):
        check_inputs(paths["image"], paths["turned"], roi=None)
    with pytest.raises(SourceError, match=size):
        check_inputs(paths["image"], paths["truth"], roi=paths["turned"])
    paths["image"].write_text("no image")
    with pytest.raises(SourceError, match="this file is not an image"):
        check_inputs(paths["image"], paths["truth"], roi=None)


def test_a_truth_without_border_has_no_boundary_accuracy(tmp_path: Path) -> None:
    flat = np.zeros((9, 9), np.uint8)
    assert scored(tmp_path, flat, flat, boundary="paper").describe()["mba"] is None


def naive_bands(
    mask: NDArray[np.uint8], truth: NDArray[np.uint8], radii: tuple[float, ...], ignore: set[int]
) -> tuple[list[int], list[int]]:
    """Return the pixels near a border for each radius and the right ones among them, by shifting the image."""
    known = ~np.isin(truth, list(ignore))
    reach = int(max(radii))
    padded, there = np.pad(truth, reach), np.pad(known, reach)
    height, width = truth.shape
    nearest = np.full(truth.shape, np.inf)
    for down, across in np.ndindex(2 * reach + 1, 2 * reach + 1):
        place = np.s_[down : down + height, across : across + width]
        squared = (down - reach) ** 2 + (across - reach) ** 2
        differs = known & there[place] & (padded[place] != truth)
        nearest[differs & (nearest > squared)] = squared
    bands = [nearest <= radius**2 for radius in radii]
    return [int(band.sum()) for band in bands], [int((band & (mask == truth)).sum()) for band in bands]


def test_both_boundary_accuracies_are_those_of_a_direct_count(tmp_path: Path) -> None:
    mask, truth, _ = scene((60, 90))
    truth[20:40, 30:60] = 255
    found = scored(tmp_path, mask, truth, ignore=(3,), boundary="paper")
    near, right = naive_bands(mask, truth, (3, 5.6625, 8.325, 10.9875, 13.65), {3, 255})
    assert found.boundary is not None
    assert (found.boundary.near.tolist(), found.boundary.right.tolist()) == (near, right)
    described = found.describe()
    assert described["mba"] == pytest.approx(np.mean(np.divide(right, near)))
    assert described["mba_paper"] == pytest.approx(right[0] / near[0])
    assert "mba_paper" not in scored(tmp_path, mask, truth, boundary="fixed").describe()


def test_no_band_runs_along_ignored_pixels(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    truth[:, 10:14] = 255
    mask = truth.copy()
    mask[:, :10] = 1
    found = scored(tmp_path, mask, truth, boundary="paper").describe()
    assert found["pixel_accuracy"] == pytest.approx(46 / 56)
    assert (found["mba"], found["mba_paper"]) == (1, 1)
    # 13 pixels on each side: those of the left strip are 17 away and more.
    boundary: Any = found["boundary"]
    assert boundary["fixed"]["pixels"][-1] == 2 * 13 * 40


def test_radii_that_grow_too_large_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "LARGEST_REACH", 13)
    truth = np.zeros((2, 4400), np.uint8)
    truth[:, 2200:] = 1
    found = scored(tmp_path, truth, truth, boundary="paper")
    assert (found.boundary_beside, found.describe()["mba"]) == (None, 1)
    assert "paper radii" in found.notes[0]


def test_f1_is_that_of_precision_and_recall(tmp_path: Path) -> None:
    mask, truth, _ = scene((60, 90))
    found = scored(tmp_path, mask, truth, exclude=(2,))
    known = truth != 255
    expected = {}
    for label in range(5):
        hits = ((mask == label) & (truth == label) & known).sum()
        precision = hits / ((mask == label) & known).sum()
        recall = hits / (truth == label).sum() if (truth == label).any() else 0.0
        expected[label] = 2 * precision * recall / (precision + recall) if hits else 0.0
    assert {entry.index: entry.f1 for entry in found.classes} == pytest.approx(expected)
    assert found.f1 == pytest.approx(np.mean([value for label, value in expected.items() if label != 2]))


def test_the_confusion_is_told_by_class(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    found = scored(tmp_path, np.array([[0, 1, 1, 255, 1]], np.uint8), truth)
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_255_that_may_be_a_class_is_pointed_out(tmp_path: Path) -> None:
    truth = np.array([[0, 255]], np.uint8)
    assert "--truth-values 255=1" in scored(tmp_path, truth // 255, truth).notes[0]
    found = scored(tmp_path, truth // 255, truth, truth_values={255: 1})
    assert (found.miou, found.labelled, found.notes) == (1.0, 2, ())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_background_that_a_truth_calls_its_nodata_value_can_be_counted(tmp_path: Path) -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[20:40, 20:40] = 1
    found = np.roll(truth, 5, axis=0)
    profile: dict[str, Any] = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8"}
    for name, values in (("found", found), ("truth", truth)):
        options: dict[str, Any] = {"nodata": 0, "SPARSE_OK": True, "blockysize": 8} if name == "truth" else {}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, **options) as file:
            file.write(values, 1)
    score = evaluate(tmp_path / "found.tif", tmp_path / "truth.tif", EvaluationOptions())
    assert score.labelled == 400
    assert any("add --truth-values 0=0" in note for note in score.notes)
    score = evaluate(tmp_path / "found.tif", tmp_path / "truth.tif", EvaluationOptions(truth_values={0: 0}))
    assert score.labelled == 64 * 64
    assert score.notes == ()
    assert [entry.iou for entry in score.classes] == [pytest.approx(3596 / 3796), pytest.approx(300 / 500)]


def test_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    zeros = np.zeros((4, 5), np.uint8)
    with pytest.raises(SourceError, match=r"mask.tif: the size must be that of .*truth.tif, 5x4 \(got 4x5\)"):
        scored(tmp_path, zeros.T.copy(), zeros)
    with pytest.raises(SourceError, match="no pixel of the truth is labelled"):
        scored(tmp_path, zeros, zeros, ignore=(0,))
    with pytest.raises(SourceError, match=r"mask.tif: a label must be below 2.*got 2"):
        scored(tmp_path, zeros + np.uint8(2), zeros, names=("a", "b"))
    with pytest.raises(SourceError, match=r"truth.tif: a label must be below 2.*got 3"):
        scored(tmp_path, zeros, zeros + np.uint8(3), names=("a", "b"))
    with pytest.raises(UsageError, match="0 to 255"):
        EvaluationOptions(ignore=(256,))


def test_a_truth_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path, mask=np.ones((9, 9), np.uint8), truth=np.ones((9, 9), np.uint8))
    compare = evaluation._Pair.compare

    def meddling(pair: Any) -> Evaluation:
        found = compare(pair)
        paths["truth"].write_bytes(paths["truth"].read_bytes() + b"more")
        return found

    monkeypatch.setattr(evaluation._Pair, "compare", meddling)
    with pytest.raises(SourceError, match="changed while it was read") as caught:
        evaluate(paths["mask"], paths["truth"])
    assert caught.value.file == str(paths["truth"])


def test_labels_of_the_truth_that_are_no_class_of_the_mask_are_named(tmp_path: Path) -> None:
    """The truth numbers its classes from 1, and the mask from 0."""
    colours = write_colours_bundle(tmp_path / "colours")
    options = SegmentOptions(weights=str(colours), device="cpu", tissue="none")
    (made,) = segment(write_image(tmp_path / "i.tif"), tmp_path / "m.tif", options)
    shifted = write(tmp_path, truth=made.array() + np.uint8(1))["truth"]
    found = evaluate(tmp_path / "m.tif", shifted)
    assert [(entry.name, entry.iou) for entry in found.classes] == [("r", 0), ("g", 0), ("b", 0), ("3", 0)]
    (note,) = found.notes
    assert "label 3 is no class of the mask, whose classes are 0 to 2, and lowers the mean by" in note
    assert "Add --ignore 3 where it means unlabelled" in note
    pixels = made.array() + np.uint8(1)
    pixels[0, 0] = 7
    (note,) = evaluate(tmp_path / "m.tif", write(tmp_path, more=pixels)["more"]).notes
    assert "labels 3, 7 are no class of the mask, whose classes are 0 to 2, and lower the mean by" in note
    assert "Add --ignore 3 --ignore 7 where they mean unlabelled" in note
    right = evaluate(tmp_path / "m.tif", shifted, EvaluationOptions(truth_values={1: 0, 2: 1, 3: 2}))
    assert (right.miou, right.notes) == (1.0, ())
