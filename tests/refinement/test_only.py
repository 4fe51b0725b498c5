"""With `--only`, all classes stay in the mask, and pixels that refined objects lose get their next class."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import torch
import zarr

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.events import Events
from magnet_cli.geometry import Pitch
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.options.forms import parse_classes
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement.api import plan_refine, refine
from magnet_cli.refinement.evidence import FieldEvidence, kept_bytes
from magnet_cli.segmentation import api as segmentation
from magnet_cli.segmentation import image_planner
from tests.cli.support import write_image as write_colours
from tests.refinement.support import Echo, Swallow, discs, labels_in, use, write_grey, write_image, write_named

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.options.segment import Method

SHAPE = (150, 131)
GREEN = 1


class Forgo(Echo):
    """A cascade that removes every object."""

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        del images
        return torch.full_like(inside, 0.1)


@pytest.fixture
def segmented(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return an image, its mask by `segment` with areas of three classes, and the probabilities that were kept."""
    return make_segmented(tmp_path, shape=SHAPE, method="patch")


def make_segmented(tmp_path: Path, *, shape: tuple[int, int], method: Method) -> tuple[Path, Path, Path]:
    """Return the same of an image of some size."""
    network = build_backbone("conv", classes=3, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            # Not sure of anything, so that rounding leaves something of the other classes.
            parameter.copy_(torch.eye(3)[..., None, None] if parameter.ndim == 4 else torch.zeros(3))
    named = [{"name": name, "color": "#000000"} for name in "rgb"]
    described = describe(name="unsure", classes=named, size=32, scales=(32, 64))
    write_bundle(tmp_path / "bundle", described, {"backbone.safetensors": network})
    image = write_colours(tmp_path / "i.tif", size=shape)
    options = SegmentOptions(weights=str(tmp_path / "bundle"), probabilities=True, method=method)
    (result,) = segmentation.segment([image], tmp_path / "m.tif", options)
    return image, result.mask, tmp_path / "m.probabilities.zarr"


def passed_on(labels: NDArray[np.uint8], kept: Path) -> NDArray[np.uint8]:
    """Return the mask in which the most probable other class has replaced green."""
    stored = np.asarray(zarr.open_array(kept, mode="r")[:])[:, : labels.shape[0], : labels.shape[1]]
    stored[GREEN] = 0
    expected = np.where(labels == GREEN, stored.argmax(axis=0), labels).astype(np.uint8)
    assert set(np.unique(expected[labels == GREEN])) == {0, 2}
    return expected


def test_what_the_objects_of_one_class_give_up_goes_to_the_next_most_probable(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Forgo())
    options = RefineOptions(only=("g",), evidence=kept)
    result = refine(image, mask, tmp_path / "out.tif", options)
    labels = labels_in(mask)
    assert np.array_equal(labels_in(result.output), passed_on(labels, kept))
    report: Any = result.report
    assert report["options"]["only"] == ["g"]
    assert report["options"]["evidence"] == str(kept)
    assert {"--evidence", str(kept), "--only", "g"} <= set(report["command"])
    same = refine(image, mask, tmp_path / "same.tif", RefineOptions(only=("g",)))
    assert np.array_equal(labels_in(same.output), labels), "without evidence there is no other class"


def test_the_last_stage_of_segment_passes_on_as_well(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Forgo())
    options = SegmentOptions(
        weights=str(tmp_path / "bundle"),
        method="patch",
        refine="cascadepsp",
        refine_weights="any",
        refine_only=("g",),
    )
    (result,) = segmentation.segment([image], tmp_path / "last.tif", options)
    assert np.array_equal(labels_in(result.mask), passed_on(labels_in(mask), kept))
    assert np.array_equal(labels_in(tmp_path / "last.unrefined.tif"), labels_in(mask))
    report = json.loads((tmp_path / "last.json").read_text())
    assert report["options"]["refine"]["only"] == ["g"]
    assert "--refine-only" in report["command"]
    other = SegmentOptions(weights=str(tmp_path / "bundle"), refine="cascadepsp", refine_only=("green",))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UsageError, match="--refine-only names classes of the mask: r, g, b"):
        segmentation.segment([image], tmp_path / "none.tif", other)
    with pytest.raises(UsageError, match="--refine-only names classes of the mask: r, g, b"):
        image_planner.plan_segment([image], other)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_objects_of_other_classes_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.ones(SHAPE, np.uint8)
    labels[discs(SHAPE, (40, 40, 20))] = 2
    labels[discs(SHAPE, (100, 90, 20))] = 3
    labels[:17] = 255
    labels[30:33, 62:65] = 3  # a speck of another class
    network = use(monkeypatch, Swallow())
    image, mask = write_image(tmp_path / "i.tif", labels == 2), write_grey(tmp_path / "m.tif", labels)
    options = RefineOptions(only=("2",))
    assert plan_refine(image, mask, options).plan.describe()["objects"] == {
        "found": 1,
        "refined": 1,
        "left": 0,
        "large": [],
    }
    found = labels_in(refine(image, mask, tmp_path / "out.tif", options).output)
    assert network.calls == 1
    expected = labels.copy()
    around = expected[40 - 20 - 6 : 40 + 21 + 6, 40 - 20 - 6 : 40 + 21 + 6]
    around[around == 1] = 2
    assert (around == 255).any()
    assert (around == 3).any()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("method", ["patch", "downsample"])
def test_squares_and_an_interruption_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Evidence may have a coarser grid than the image, and objects may be too large to be held as a whole."""
    shape = (500, 420)
    image, _, _ = make_segmented(tmp_path, shape=shape, method=method)
    mask, kept = tmp_path / "m.tif", tmp_path / "m.probabilities.zarr"
    use(monkeypatch, Forgo())
    options = RefineOptions(only=("g",), evidence=kept)
    whole = refine(image, mask, tmp_path / "whole.tif", options)
    objects: Any = whole.report["objects"]
    assert objects["large"]
    found = labels_in(whole.output)
    assert set(np.unique(found[labels_in(mask) == GREEN])) == {0, 2}
    monkeypatch.setattr("magnet_cli.refinement.refinement_plan.SQUARE", 128)
    squares = refine(image, mask, tmp_path / "squares.tif", options)
    assert np.array_equal(labels_in(squares.output), found)
    read, calls = FieldEvidence.read, iter(range(100))

    def interrupted(*given: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return read(*given)

    with monkeypatch.context() as once:
        once.setattr(FieldEvidence, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refine(image, mask, tmp_path / "cut.tif", options)
    cut = refine(image, mask, tmp_path / "cut.tif", options)
    groups: Any = cut.report["groups"]
    assert groups["resumed"] > 2
    assert cut.output.read_bytes() == squares.output.read_bytes()


def test_probabilities_with_a_part_that_is_gone_are_refused(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Forgo())
    next(file for file in kept.rglob("*") if file.is_file() and file.name != "zarr.json").unlink()
    with pytest.raises(SourceError, match="damaged"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(only=("g",), evidence=kept))
    assert not (tmp_path / "out.tif").exists()


def test_a_finer_grid_takes_more_memory() -> None:
    fine = Pitch(x=Fraction(1, 4), y=Fraction(1, 2))
    assert kept_bytes(5, Pitch.square(1)) == kept_bytes(5, Pitch.square(8)) == kept_bytes(5, fine) / 8


def test_what_is_no_class_is_refused(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, _ = segmented
    use(monkeypatch, Echo())
    for word in ("\N{SUPERSCRIPT TWO}", "9" * 5000, "-1", "3"):
        with pytest.raises(UsageError, match="--only names classes of the mask: r, g, b"):
            refine(image, mask, tmp_path / "out.tif", RefineOptions(only=(word,)))
    with pytest.raises(UsageError, match="--stuff names classes that are refined"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(only=("g",), stuff=("b",)))
    with pytest.raises(UsageError, match="--only names classes"):
        parse_classes(" ,", "--only")


def test_a_mask_that_another_tool_saved_takes_the_names_of_the_evidence(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Forgo())
    imagecodecs.imwrite(tmp_path / "saved.png", labels_in(mask))
    options = RefineOptions(only=("g",), evidence=kept)
    saved = refine(image, tmp_path / "saved.png", tmp_path / "saved.tif", options)
    assert np.array_equal(labels_in(saved.output), passed_on(labels_in(mask), kept))
    refined: Any = saved.report["refined"]
    assert refined["because"] == "--only g"


@pytest.mark.parametrize("options", [RefineOptions(only=("0",)), RefineOptions(objects=("0",))])
def test_one_object_is_never_taken_for_classes(
    options: RefineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a mask of classes, 255 would mean pixels that were not computed."""
    disc = discs(SHAPE, (40, 40, 20))
    use(monkeypatch, Echo())
    image = write_image(tmp_path / "i.tif", disc)
    for name, values in (("grey", disc.astype(np.uint8) * 255), ("float", disc.astype(np.float32))):
        mask = write_grey(tmp_path / f"{name}.tif", values)
        with pytest.raises(UsageError, match="takes classes out of a mask of"):
            refine(image, mask, tmp_path / "out.tif", options)
    result = refine(image, tmp_path / "grey.tif", tmp_path / "out.tif", replace(options, mask_kind="labels"))
    assert np.array_equal(labels_in(result.output) == 255, disc)


def test_classes_are_chosen_from_a_mask_in_which_only_two_occur(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disc = discs(SHAPE, (40, 40, 20)).astype(np.uint8)
    network = use(monkeypatch, Echo())
    image, mask = write_image(tmp_path / "i.tif", disc > 0), write_grey(tmp_path / "m.tif", disc)
    result = refine(image, mask, tmp_path / "out.tif", RefineOptions(only=("1",)))
    assert network.calls == 1
    assert np.array_equal(labels_in(result.output), disc)
    refined: Any = result.report["refined"]
    assert refined["read_as"] == "labels"


def test_a_mask_of_one_object_has_no_classes_to_choose_from(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Echo())
    one = write_grey(tmp_path / "one.tif", (labels_in(mask) == GREEN).astype(np.uint8))
    with pytest.raises(UsageError, match="--evidence gives pixels"):
        refine(image, one, tmp_path / "out.tif", RefineOptions(evidence=kept))
    other = write_named(tmp_path / "other.tif", labels_in(mask), "sky", "g", "b")
    with pytest.raises(SourceError, match="size and the classes"):
        refine(image, other, tmp_path / "out.tif", RefineOptions(evidence=kept))
    with pytest.raises(UsageError, match="--object"):
        RefineOptions(objects=("g",), only=("g",))
    with pytest.raises(UsageError, match="--only"):
        RefineOptions(only=("g",), mask_kind="binary")
    with pytest.raises(UsageError, match="--refine-only"):
        SegmentOptions(refine="guided", refine_only=("g",))
    published = SegmentOptions(
        weights=str(tmp_path / "bundle"), compat="published", refine="cascadepsp", refine_only=("g",)
    )
    with pytest.raises(UsageError, match="--compat published and --refine-only g"):
        image_planner.plan_segment([image], published)
    assert not (tmp_path / "out.tif").exists()


def test_a_cascade_of_one_kind_of_object_does_not_refine_classes_that_it_does_not_know(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    network = use(monkeypatch, Forgo(), kind="g")
    before = set(tmp_path.iterdir())
    refused = r"sharpens one kind of object, g.*got r, g, b.*"
    for call in (lambda: refine(image, mask, tmp_path / "out.tif"), lambda: plan_refine(image, mask)):
        with pytest.raises(UsageError, match=refused + "Give --only g, so.*--object g for"):
            call()
    last = SegmentOptions(weights=str(tmp_path / "bundle"), method="patch", refine="cascadepsp", refine_weights="any")
    with pytest.raises(UsageError, match=refused + "Give --refine-only g, so that other classes stay$"):
        segmentation.segment([image], tmp_path / "last.tif", last)
    with pytest.raises(UsageError, match=refused):
        image_planner.plan_segment([image], last)
    assert (network.calls, set(tmp_path.iterdir())) == (0, before)
    use(monkeypatch, Forgo(), kind="roof")
    with pytest.raises(UsageError, match=r"Give --only NAME, so.*--object NAME for"):
        plan_refine(image, mask)
    plan_refine(image, mask, RefineOptions(objects=("g",)))
    assert not [note for note in plan_refine(image, mask, RefineOptions(only=("g",))).plan.notes if "trained" in note]
    use(monkeypatch, Forgo(), kind="g")
    other = plan_refine(image, mask, RefineOptions(only=("g", "b"), evidence=kept))
    note = "stand-in was trained on g, and the classes to refine are g, b"
    assert note in other.plan.notes
    told: list[str] = []
    planner = image_planner.Planner.of(replace(last, refine_only=("1", "b")))
    foreseen = planner.preview(planner.plan(image))
    assert foreseen is not None
    assert note in foreseen.lines
    events = Events()
    monkeypatch.setattr(events, "message", told.append)
    segmentation.segment([image], tmp_path / "last.tif", replace(last, refine_only=("1", "b")), events=events)
    assert f"magnet: {note}" in told
