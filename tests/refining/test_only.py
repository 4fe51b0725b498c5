"""Some classes of a mask refined, all of them kept: what their objects gain, and where what they give up goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zarr

from magnet_cli import segmentation
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.models.registry import build_backbone
from magnet_cli.models.writing import describe, write_bundle
from magnet_cli.options import SegmentOptions
from magnet_cli.refining.options import RefineOptions
from magnet_cli.refining.refine import plan_refine, refine_mask
from tests.cli.support import write_image as write_colours
from tests.refining.support import Echo, Swallow, discs, labels_in, use, write_grey, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

SHAPE = (150, 131)
GREEN = 1


class Forgo(Echo):
    """Says of each object that nothing of it is there."""

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        del images
        return torch.full_like(inside, 0.1)


@pytest.fixture
def segmented(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An image, its mask by `segment` with areas of three classes, and the probabilities that were kept."""
    network = build_backbone("conv", classes=3, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            # Not sure of anything, so that rounding leaves something of the other classes.
            parameter.copy_(torch.eye(3)[..., None, None] if parameter.ndim == 4 else torch.zeros(3))
    named = [{"name": name, "color": "#000000"} for name in "rgb"]
    described = describe(name="unsure", classes=named, size=32, scales=(32, 64))
    write_bundle(tmp_path / "bundle", described, {"backbone.safetensors": network})
    image = write_colours(tmp_path / "i.tif", size=SHAPE)
    options = SegmentOptions(weights=str(tmp_path / "bundle"), probabilities=True, method="patch")
    (result,) = segmentation.segment([image], tmp_path / "m.tif", options)
    return image, result.mask, tmp_path / "m.probabilities.zarr"


def passed_on(labels: NDArray[np.uint8], kept: Path) -> NDArray[np.uint8]:
    """The mask where green has given up all pixels, with the most probable of the others in its place."""
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
    result = refine_mask(image, mask, tmp_path / "out.tif", options)
    labels = labels_in(mask)
    assert np.array_equal(labels_in(result.output), passed_on(labels, kept))
    report: Any = result.report
    assert report["options"]["only"] == ["g"]
    assert report["options"]["evidence"] == str(kept)
    assert {"--evidence", str(kept), "--only", "g"} <= set(report["command"])
    same = refine_mask(image, mask, tmp_path / "same.tif", RefineOptions(only=("g",)))
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
        segmentation.plan_images([image], other)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_objects_of_other_classes_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.ones(SHAPE, np.uint8)
    labels[discs(SHAPE, (40, 40, 20))] = 2
    labels[discs(SHAPE, (100, 90, 20))] = 3
    labels[:4] = 255
    network = use(monkeypatch, Swallow())
    image, mask = write_image(tmp_path / "i.tif", labels == 2), write_grey(tmp_path / "m.tif", labels)
    options = RefineOptions(only=("2",))
    assert plan_refine(image, mask, options).plan.describe()["objects"] == {
        "found": 1,
        "refined": 1,
        "left": 0,
        "large": [],
    }
    found = labels_in(refine_mask(image, mask, tmp_path / "out.tif", options).output)
    assert network.calls == 1
    expected = labels.copy()
    expected[40 - 20 - 6 : 40 + 21 + 6, 40 - 20 - 6 : 40 + 21 + 6] = 2
    assert np.array_equal(found, expected)


def test_a_mask_of_one_object_has_no_classes_to_choose_from(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    use(monkeypatch, Echo())
    one = write_grey(tmp_path / "one.tif", (labels_in(mask) == GREEN).astype(np.uint8))
    for options in (RefineOptions(only=("1",)), RefineOptions(evidence=kept)):
        with pytest.raises(UsageError, match="several classes"):
            refine_mask(image, one, tmp_path / "out.tif", options)
    with pytest.raises(UsageError, match="--only names classes of the mask"):
        refine_mask(image, mask, tmp_path / "out.tif", RefineOptions(only=("x",)))
    other = write_grey(tmp_path / "other.tif", labels_in(mask))
    with pytest.raises(SourceError, match="size and the classes"):
        refine_mask(image, other, tmp_path / "out.tif", RefineOptions(evidence=kept))
    with pytest.raises(UsageError, match="--object"):
        RefineOptions(objects=("g",), only=("g",))
    with pytest.raises(UsageError, match="--only"):
        RefineOptions(only=("g",), mask_kind="binary")
    with pytest.raises(UsageError, match="--refine-only"):
        SegmentOptions(refine="guided", refine_only=("g",))
    assert not (tmp_path / "out.tif").exists()
