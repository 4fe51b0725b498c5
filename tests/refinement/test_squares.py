"""Classical tools work from file to file: squares leave no trace, evidence is read exactly, and runs resume."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch
import zarr
from scipy.ndimage import gaussian_filter

from magnet_cli.arithmetic.classical import DenseCrf, GuidedFilter
from magnet_cli.errors import DeviceError, OutputError, SourceError, UsageError
from magnet_cli.masks.verification import verify_mask
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.values import parse_value_range
from magnet_cli.refinement import method_loader as loading
from magnet_cli.refinement.api import plan_refine, refine
from magnet_cli.segmentation import api as segmentation
from tests.cli.support import write_colours_bundle
from tests.cli.support import write_image as write_colours
from tests.refinement.support import discs, labels_in, write_grey, write_image, write_named
from tests.refinement.test_memory import watched
from tests.refinement.test_refining import SMALL, inputs, thin

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 64
REACH = 5
GUIDED = RefineOptions(method="guided", num_workers=0)


@dataclass(frozen=True, kw_only=True)
class Same:
    """A tool that returns its probabilities and keeps their sizes."""

    title: str = "nothing"
    bands: tuple[str, ...] = ("red", "green", "blue")
    value_range: tuple[float, float] = (0.0, 255.0)
    reach: int = REACH
    needs_doubt: bool = False
    fail_at: int | None = None
    seen: list[tuple[int, ...]] = field(default_factory=list, compare=False)

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert image.dtype == np.uint8
        assert image.shape == (*probs.shape[1:], 3)
        self.seen.append(probs.shape)
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        return probs

    def bytes_a_pixel(self, classes: int) -> int:
        return 4 * classes

    def describe(self) -> dict[str, object]:
        return {"method": "guided"}


class Bright(Same):
    """A tool that gives class 1 where the image is bright, and class 0 elsewhere."""

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        bright = (super().apply(probs, image)[0] >= 0) & (image.mean(axis=2) > 127)
        return np.stack([~bright, bright]).astype(np.float32)


def use(monkeypatch: pytest.MonkeyPatch, tool: Any, *, side: int = SIDE) -> Any:
    """Let classical methods use a tool, in squares of a side."""
    monkeypatch.setattr(loading, "classical", lambda _: tool)
    monkeypatch.setattr("magnet_cli.refinement.squares.SIDE", side)
    return tool


@pytest.mark.parametrize("kind", ["0/1", "0/255", "labels", "probability"])
def test_a_tool_that_changes_nothing_gives_the_mask_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stored, expected = inputs(SMALL)[kind]
    tool = use(monkeypatch, Same())
    image, mask = write_image(tmp_path / "i.tif", thin(SMALL)), write_grey(tmp_path / "m.tif", stored)
    result = refine(image, mask, tmp_path / "out.tif", GUIDED)
    np.testing.assert_array_equal(labels_in(result.output), expected)
    assert max(height * width for _, height, width in tool.seen) <= (SIDE + 2 * REACH) ** 2
    assert cast("dict[str, Any]", result.report["refined"])["changed_pixels"] == 0
    assert verify_mask(result.output).ok


def test_what_a_tool_finds_is_written_and_what_is_not_known_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Bright())
    truth = discs(SMALL, (70, 70, 40))
    wrong = np.roll(truth, 9, axis=0).astype(np.uint8)
    wrong[30:50, 60:80] = 255
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", wrong)
    found = labels_in(refine(image, mask, tmp_path / "out.tif", GUIDED).output)
    np.testing.assert_array_equal(found, np.where(wrong == 255, 255, truth))


def test_where_the_image_holds_no_data_the_mask_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Bright())
    truth = discs(SMALL, (70, 70, 40))
    image = write_image(tmp_path / "i.tif", truth)
    pixels = tifffile.imread(image)
    pixels[pixels == 0] = 1
    pixels[:, 60:70] = 0
    tifffile.imwrite(
        image, pixels, tile=(64, 64), photometric="rgb", extratags=[(42113, "s", 0, "0", True)], metadata=None
    )
    wrong = np.roll(truth, 9, axis=0)
    mask = write_grey(tmp_path / "m.tif", wrong.astype(np.uint8))
    found = labels_in(refine(image, mask, tmp_path / "out.tif", GUIDED).output)
    np.testing.assert_array_equal(found[:, 60:70], wrong[:, 60:70])
    np.testing.assert_array_equal(np.delete(found, np.s_[60:70], axis=1), np.delete(truth, np.s_[60:70], axis=1))


def blurred(shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Return an image of discs, and labels of four classes whose borders are displaced."""
    truth = discs(shape, (60, 70, 45), (120, 30, 25), (30, 150, 28))
    labels = np.roll(truth, (4, -3), axis=(0, 1)).astype(np.uint8)
    labels[:, shape[1] // 2 :] *= 2
    labels[-30:, -50:] = 3
    labels[10:20, 10:30] = 255
    return truth, labels


def test_the_guided_filter_in_squares_is_the_guided_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2.ximgproc")
    truth, labels = blurred((170, 190))
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", labels)
    found = []
    for side in (64, 256):
        use(monkeypatch, GuidedFilter(radius=8), side=side)
        options = RefineOptions(method="guided", num_workers=side % 3)
        found.append(labels_in(refine(image, mask, tmp_path / f"{side}.tif", options).output))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.count_nonzero(found[0] != labels) > 100


def test_the_crf_in_squares_is_nearly_the_crf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRF reaches everywhere. With a rim of two deviations, few pixels that it changes depend on the squares."""
    pytest.importorskip("pydensecrf")
    shape = (170, 190)
    truth = discs(shape, (60, 70, 45), (120, 30, 25), (30, 150, 28))
    grey = np.where(truth, 150, 100) + np.random.default_rng(3).normal(0, 4, shape)
    tifffile.imwrite(tmp_path / "i.tif", np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), tile=(64, 64))
    soft = gaussian_filter(np.roll(truth, (4, -3), axis=(0, 1)).astype(np.float32), 6)
    mask = write_grey(tmp_path / "m.tif", soft)
    found = []
    for side in (64, 256):
        use(monkeypatch, DenseCrf(position=16), side=side)
        result = refine(tmp_path / "i.tif", mask, tmp_path / f"{side}.tif", RefineOptions(method="crf"))
        found.append(labels_in(result.output))
    before, after = (np.count_nonzero(labels != truth) for labels in (soft > 0.5, found[1]))
    assert after < before / 2
    assert np.count_nonzero(found[0] != found[1]) < 0.03 * (before - after)


def test_a_crf_needs_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRF changes no label where all are equally certain, so it is refused."""
    pytest.importorskip("pydensecrf")
    truth, labels = blurred((100, 100))
    sure = np.stack([labels == 0, labels != 0])
    pixels = np.repeat(np.where(truth, 150, 100).astype(np.uint8)[..., None], 3, axis=2)
    for certainty in (0.51, 0.7, 0.9):
        probs = np.where(sure, certainty, 1 - certainty).astype(np.float32)
        np.testing.assert_array_equal(DenseCrf(position=16).apply(probs, pixels).argmax(axis=0), sure[1])
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", labels)
    use(monkeypatch, DenseCrf())
    with pytest.raises(UsageError, match="--evidence"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(method="crf"))


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = thin(SMALL)
    image = write_image(tmp_path / "i.tif", truth)
    mask = write_grey(tmp_path / "m.tif", np.roll(truth, 2, axis=0).astype(np.uint8))
    use(monkeypatch, Bright())
    whole = refine(image, mask, tmp_path / "whole" / "m.tif", GUIDED)
    use(monkeypatch, Bright(fail_at=4))
    with pytest.raises(KeyboardInterrupt):
        refine(image, mask, tmp_path / "cut" / "m.tif", GUIDED)
    assert not (tmp_path / "cut" / "m.tif").exists()
    use(monkeypatch, Bright())
    with pytest.raises(OutputError, match="other"):
        refine(image, mask, tmp_path / "cut" / "m.tif", RefineOptions(method="guided", bands=("3", "2", "1")))
    cut = refine(image, mask, tmp_path / "cut" / "m.tif", GUIDED)
    groups, all_groups = (cast("dict[str, int]", found.report["groups"]) for found in (cut, whole))
    assert groups["resumed"] >= 3
    assert groups["resumed"] + groups["computed"] == all_groups["computed"] == 9
    assert whole.output.read_bytes() == cut.output.read_bytes()
    assert refine(image, mask, tmp_path / "cut" / "m.tif", GUIDED).was_done


def test_what_is_held_does_not_grow_with_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = watched(monkeypatch)
    monkeypatch.setattr("magnet_cli.refinement.input_mask.SIDE", SIDE)
    held = []
    for width in (200, 600):
        tool = use(monkeypatch, Same())
        truth = thin((200, width))
        image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", truth.astype(np.uint8))
        refine(image, mask, tmp_path / f"{width}.tif", GUIDED)
        held.append((dict(most), max(tool.seen)))
    assert held[0] == held[1]
    assert held[0][0].keys() == {"read", "put_labels"}
    assert max(held[0][0].values()) == (SIDE + 2 * REACH) ** 2


def test_squares_of_one_class_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = use(monkeypatch, Same())
    labels = np.zeros((200, 300), np.uint8)
    labels[90:100, 90:100] = 1
    image, mask = write_image(tmp_path / "i.tif", labels > 0), write_grey(tmp_path / "m.tif", labels)
    report = refine(image, mask, tmp_path / "out.tif", GUIDED).report
    (step,) = cast("list[dict[str, int]]", report["passes"])
    assert (step["groups"], step["looked_at"], len(tool.seen)) == (20, 1, 1)


@pytest.fixture
def segmented(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return an image, its mask by `segment`, and the probabilities that were kept."""
    bundle = write_colours_bundle(tmp_path / "bundle")
    image = write_colours(tmp_path / "i.tif")
    options = SegmentOptions(weights=str(bundle), probabilities=True, method="patch")
    (result,) = segmentation.segment([image], tmp_path / "m.tif", options)
    return image, result.mask, tmp_path / "m.probabilities.zarr"


def test_what_segment_has_kept_says_what_its_mask_says(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence also decides pixels of a mask without classes."""
    image, mask, kept = segmented
    use(monkeypatch, Same(), side=32)
    options = RefineOptions(method="guided", evidence=kept)
    result = refine(image, mask, tmp_path / "out.tif", options)
    np.testing.assert_array_equal(labels_in(result.output), labels_in(mask))
    assert len(set(np.unique(labels_in(mask)))) == 3
    plan = plan_refine(image, mask, options).plan.describe()
    assert plan["evidence"] == str(kept)


def test_coarser_probabilities_are_resampled_as_for_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, image = write_colours_bundle(tmp_path / "bundle"), write_colours(tmp_path / "i.tif", size=(111, 151))
    options = SegmentOptions(weights=str(bundle), probabilities=True, method="patch", scales=parse_scales("48"))
    (result,) = segmentation.segment([image], tmp_path / "m.tif", options)
    kept = tmp_path / "m.probabilities.zarr"
    assert zarr.open_array(kept).shape[1:] == (74, 101)
    use(monkeypatch, Same(), side=40)
    refined = refine(image, result.mask, tmp_path / "out.tif", RefineOptions(method="guided", evidence=kept))
    # Only what interpolation brings within a step of 1/254 of a tie may differ.
    assert np.count_nonzero(labels_in(refined.output) != labels_in(result.mask)) <= 4


def test_rounded_probabilities_that_tie_leave_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is so uncertain that many pixels are decided by less than the rounding of kept probabilities."""
    torch.manual_seed(0)
    network = build_backbone("conv", classes=3, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.02)
    described = describe(name="unsure", classes=3, size=32, scales=(32, 64))
    write_bundle(tmp_path / "bundle", described, {"backbone.safetensors": network}, dtype=torch.float32)
    image = write_colours(tmp_path / "i.tif")
    options = SegmentOptions(weights=str(tmp_path / "bundle"), probabilities=True, method="patch")
    (result,) = segmentation.segment([image], tmp_path / "m.tif", options)
    use(monkeypatch, Same())
    kept = tmp_path / "m.probabilities.zarr"
    refined = refine(image, result.mask, tmp_path / "out.tif", RefineOptions(method="guided", evidence=kept))
    stored = np.asarray(zarr.open_array(kept)[:]).astype(int)
    assert np.count_nonzero(np.diff(np.sort(stored, axis=0)[-2:], axis=0) == 0) > 100
    np.testing.assert_array_equal(labels_in(refined.output), labels_in(result.mask))


def test_what_was_kept_of_another_mask_is_refused(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Same())
    other = write_named(tmp_path / "other.tif", labels_in(mask), "sky", "g", "b")
    with pytest.raises(SourceError, match="sky"):
        refine(image, other, tmp_path / "out.tif", RefineOptions(method="guided", evidence=kept))
    with pytest.raises(SourceError, match="none"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(method="guided", evidence=tmp_path / "none"))
    field = zarr.open_array(kept, mode="r+")
    attributes = dict(field.attrs)
    whole = zarr.create_array(tmp_path / "whole", shape=field.shape, chunks=(3, 10**6, 10**6), dtype="u1")
    whole.attrs.update(attributes)
    (tmp_path / "empty").mkdir()
    chunk = next(file for file in kept.rglob("*") if file.is_file() and file.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    for wrong in (tmp_path / "whole", tmp_path / "empty", kept):
        with pytest.raises(SourceError, match="no field"):
            refine(image, mask, tmp_path / "out.tif", RefineOptions(method="guided", evidence=wrong))
    field.attrs["pitch"] = {"x": "9" * 99, "y": "1"}
    with pytest.raises(SourceError, match="no field"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(method="guided", evidence=kept))


def test_options_of_the_cascade_and_of_the_tools_do_not_mix() -> None:
    with pytest.raises(UsageError, match="--L"):
        RefineOptions(method="guided", side=128)
    with pytest.raises(UsageError, match="--weights"):
        RefineOptions(method="crf", weights="some")


def test_images_of_other_kinds_are_seen_as_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Bright())
    truth = discs(SMALL, (70, 60, 40))
    mask = write_grey(tmp_path / "mask.tif", np.roll(truth, 3, axis=0).astype(np.uint8))
    grey = write_grey(tmp_path / "grey.tif", tifffile.imread(write_image(tmp_path / "i.tif", truth))[..., 0])
    assert np.array_equal(labels_in(refine(grey, mask, tmp_path / "a.tif", GUIDED).output), truth)
    deep = write_grey(tmp_path / "deep.tif", np.where(truth, 9000, 100).astype(np.uint16))
    with pytest.raises(SourceError, match="--value-range"):
        refine(deep, mask, tmp_path / "b.tif", GUIDED)
    options = RefineOptions(method="guided", value_range=parse_value_range("0,10000"))
    assert np.array_equal(labels_in(refine(deep, mask, tmp_path / "b.tif", options).output), truth)


def test_a_small_budget_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = use(monkeypatch, Same())
    image = write_image(tmp_path / "i.tif", thin(SMALL))
    mask = write_grey(tmp_path / "m.tif", thin(SMALL).astype(np.uint8))
    with pytest.raises(DeviceError, match="host memory"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(method="guided", memory=64 << 20))
    assert not tool.seen
