"""`--method grnet` equals the arithmetic module on an image of one block, and keeps the laws on larger ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch

import magnet_cli
from magnet_cli.arithmetic.grnet_stages import CellLayout, all_cells, cut_out, resized, segmented
from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.networks import Networks, load_networks
from magnet_cli.models.registry import build_backbone, build_local, build_selector
from magnet_cli.options.rules import ALL, Rule, parse_patches, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan.windows import Pass, Stage
from magnet_cli.segmentation.grnet_computer import flagged
from tests.train.fields import probabilities_in

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.grnet_stages import Fusion, Outcome, Variant
    from magnet_cli.segmentation.computer import Forward

pytestmark = pytest.mark.full

SIDE, CELLS, CLASSES = 32, 2, 3
SMALL = {"width": 4, "lateral": 4, "head": 4, "depths": [1, 1, 1, 1], "aggregation": 8}
NODATA_TAG = 42113
"""GDAL's TIFF tag for the value of missing pixels."""
OPTIONS = SegmentOptions(method="grnet", device="cpu", precision="float32", num_workers=0)


def grnet(folder: Path, *, fusion: str = "detail", selector: bool = True) -> Path:
    """Make a bundle of random networks whose image is two inputs wide, so that a cell has the size of an input."""
    torch.manual_seed(4)
    cut = {"cells": CELLS}
    options: dict[str, dict[str, Any]] = {"selector": {"width": 4, **cut}, "local": {**SMALL, **cut, "fusion": fusion}}
    networks = {
        "backbone.safetensors": build_backbone("conv", classes=CLASSES, bands=3, options={"kernel": 3}),
        "selector.safetensors": build_selector("ppn-small", bands=3, classes=2, options=options["selector"]),
        "local.safetensors": build_local("grnet-small", classes=CLASSES, bands=3, options=options["local"]),
    }
    for value in networks["backbone.safetensors"].parameters():
        value.data *= 6
    entries: dict[str, Any] = {
        "local": {"architecture": "grnet-small", "options": options["local"], "file": "local.safetensors"}
    }
    if selector:
        entries["selector"] = {
            "architecture": "ppn-small",
            "options": options["selector"],
            "file": "selector.safetensors",
        }
    described = describe(classes=CLASSES, size=SIDE, scales=(CELLS * SIDE,), backbone={"options": {"kernel": 3}})
    described["networks"] |= entries
    write_bundle(folder, described, networks, dtype=torch.float32)
    return folder


def picture(folder: Path, *, width: int = 64, height: int = 64) -> tuple[Path, NDArray[np.uint8]]:
    """Write and return an image of 2 x 2 pixels of one colour, so that means of four are exact."""
    values = np.random.default_rng(1).integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    pixels = np.kron(values, np.ones((2, 2, 1), np.uint8))
    path = folder / "image.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16))
    return path, pixels


class Parts:
    """Loaded networks in the form that `segmented` expects."""

    def __init__(self, networks: Networks) -> None:
        self.backbone, self.selector = networks.scores, networks.selected
        self.local, self.networks = self, networks

    def __call__(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        return self.networks.cell_scores(patches, probs)

    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        return self.networks.aggregate(refined, scores)


def on_tensors(weights: Path, pixels: NDArray[np.uint8], *, fusion: Fusion, variant: Variant) -> tuple[Outcome, Tensor]:
    """Return what the arithmetic module computes for a picture of one block, and the scores F^G of all of it."""
    detail = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    overview = torch.nn.functional.avg_pool2d(detail, 2)
    parts, size = (
        Parts(load_networks(load_bundle(str(weights)), device="cpu", precision="float32")),
        Size(width=SIDE, height=SIDE),
    )
    layout = CellLayout.of(fusion, side=CELLS, overview=size, patch=size)
    found = segmented(
        parts, overview, lambda chosen: cut_out(detail, chosen, side=CELLS), layout=layout, variant=variant
    )
    return found, parts.backbone(overview)


def stages_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the report's entry for each stage."""
    stages: list[dict[str, Any]] = report["passes"][0]["stages"]
    return stages


def mask_of(image: Path, bundle: Path, output: Path, **changes: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    options = replace(OPTIONS, **{"weights": str(bundle), **changes})
    [result] = magnet_cli.segment([image], output, options)
    if result.error is not None:
        raise result.error
    assert result.report is not None
    return tifffile.imread(output), dict(result.report)


@pytest.mark.parametrize("fusion", ["literal", "detail"])
@pytest.mark.parametrize(("variant", "patches"), [("selected", None), ("all", ALL)])
def test_an_image_of_one_block_is_the_papers(
    tmp_path: Path, fusion: Fusion, variant: Variant, patches: Rule | None
) -> None:
    weights = grnet(tmp_path / "grnet", fusion=fusion)
    image, pixels = picture(tmp_path)
    mask, report = mask_of(image, weights, tmp_path / "mask.tif", patches=patches)
    found, scores = on_tensors(weights, pixels, fusion=fusion, variant=variant)
    whole = Size(width=64, height=64)
    under = resized(scores.softmax(dim=1), whole).argmax(dim=1)[0].numpy()
    fused = resized(found.scores, whole).argmax(dim=1)[0].numpy()
    chosen = [cell for _, cell in found.chosen]
    assert len(chosen) == (4 if variant == "all" else len(chosen))
    assert 0 < len(chosen) < 4 or variant == "all"
    expected = under.copy()
    for cell in chosen:
        box = Box(x=32 * (cell % 2), y=32 * (cell // 2), width=32, height=32).slices
        expected[box] = fused[box]
    # What is told apart must differ, and canvases in float16 may tip a few pixels.
    assert (expected != under).mean() > 0.05
    assert (mask == expected).mean() > 0.995
    stages = stages_of(report)
    assert [stage["windows_run"] for stage in stages] == [1, len(chosen)]
    assert stages[1]["not_run"]["unselected"] == 4 - len(chosen)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (150, 70)])
def test_cells_by_themselves_are_the_papers(tmp_path: Path, width: int, height: int) -> None:
    """The paper's LocalNet has neither saliency nor fusion, and no first stage."""
    weights = grnet(tmp_path / "grnet")
    image, pixels = picture(tmp_path, width=width, height=height)
    mask, report = mask_of(image, weights, tmp_path / "mask.tif", method="grnet-local", overlap=0)
    found, scores = on_tensors(weights, pixels[:64, :64], fusion="detail", variant="local-only")
    expected = found.scores.argmax(dim=1)[0].numpy()
    other = resized(scores, Size(width=64, height=64)).argmax(dim=1)[0].numpy()
    assert (expected != other).mean() > 0.05
    assert (mask[:64, :64] == expected).mean() > 0.995
    (stage,) = stages_of(report)
    assert stage["windows_run"] == stage["windows"] == -(-width // 32) * -(-height // 32)
    with pytest.raises(UsageError, match="grnet-local has no such --patches"):
        mask_of(image, weights, tmp_path / "x.tif", method="grnet-local", patches=parse_patches("selector"))


def test_several_blocks_need_no_neighbour_and_a_region_keeps_its_labels(tmp_path: Path) -> None:
    weights = grnet(tmp_path / "grnet")
    image, _ = picture(tmp_path, width=150, height=70)
    mask, report = mask_of(image, weights, tmp_path / "mask.tif")
    assert report["options"]["overlap"] > 0
    assert stages_of(report)[0]["windows_run"] > 2
    assert (mask < CLASSES).all()
    other, _ = mask_of(image, weights, tmp_path / "other.tif", num_workers=2)
    assert np.array_equal(mask, other)
    box = Box(x=50, y=20, width=30, height=21)
    inside, _ = mask_of(image, weights, tmp_path / "inside.tif", roi=box)
    assert np.array_equal(inside[box.slices], mask[box.slices])
    assert (inside == 255).sum() == mask.size - box.area


def test_literal_fusion_keeps_labels_inside_a_region_too(tmp_path: Path) -> None:
    weights = grnet(tmp_path / "grnet", fusion="literal")
    image, _ = picture(tmp_path, width=90, height=70)
    mask, _ = mask_of(image, weights, tmp_path / "mask.tif", overlap=8)
    box = Box(x=25, y=28, width=9, height=10)
    inside, _ = mask_of(image, weights, tmp_path / "inside.tif", roi=box, overlap=8)
    assert np.array_equal(inside[box.slices], mask[box.slices])


def test_a_cell_that_is_refined_leaves_no_edge_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The selector takes the first cell of each block. Without blending, the border of that cell shows."""
    only = torch.full((1, CELLS * CELLS), -9.0)
    only[0, 0] = 9

    def selected(self: Networks, patches: Tensor) -> Tensor:
        del self
        return only.expand(len(patches), -1)

    monkeypatch.setattr(Networks, "selected", selected)
    weights = grnet(tmp_path / "grnet")
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, np.full((96, 120, 3), 90, np.uint8), photometric="rgb", tile=(16, 16))
    steepest = {}
    for blend in ("linear", "none"):
        output = tmp_path / f"{blend}.tif"
        _, report = mask_of(path, weights, output, overlap=16, blend=blend, probabilities=True)
        assert 0 < stages_of(report)[1]["windows_run"] < stages_of(report)[1]["windows"] / 2
        values = probabilities_in(output)
        edges = [np.abs(np.diff(values, axis=axis)) for axis in (1, 2)]
        steepest[blend] = max(float(part.max()) for part in edges)
    assert steepest["none"] > 0.1
    assert steepest["linear"] < steepest["none"] / 4


def test_an_image_smaller_than_a_cell_is_reflected(tmp_path: Path) -> None:
    image, _ = picture(tmp_path, width=12, height=6)
    mask, report = mask_of(image, grnet(tmp_path / "grnet"), tmp_path / "mask.tif", patches=ALL)
    assert mask.shape == (6, 12)
    assert (mask < CLASSES).all()
    assert [stage["windows_run"] for stage in stages_of(report)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scales": (Size(width=64, height=64),)}, UsageError, "scales of its bundle"),
        ({"points": parse_points("3")}, UsageError, "no such --points"),
        ({"merge": "mean"}, UsageError, "no such --merge"),
        ({"compat": "published"}, UsageError, "no such --compat"),
        ({"median": 3}, UsageError, "no such --median"),
        ({"method": "grnet-local", "median": 3}, UsageError, "no such --median"),
        ({"overlap": 0, "blend": "spline"}, UsageError, "has no windows to join"),
        ({"patches": parse_patches("3")}, UsageError, "no such --patches.*selector or all"),
        ({"method": "magnet-fast", "patches": parse_patches("selector")}, UsageError, "is for --method grnet"),
        ({"weights": "aerial"}, WeightsError, "no local branch"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    image, _ = picture(tmp_path)
    weights = grnet(tmp_path / "grnet")
    with pytest.raises(error, match=message):
        mask_of(image, weights, tmp_path / "mask.tif", **changes)


def test_without_a_selector_every_cell_is_looked_at(tmp_path: Path) -> None:
    image, _ = picture(tmp_path)
    weights = grnet(tmp_path / "grnet", selector=False)
    _, report = mask_of(image, weights, tmp_path / "mask.tif")
    assert report["options"]["patches"] == "all"
    assert stages_of(report)[1]["windows_run"] == len(all_cells(1, side=CELLS))
    with pytest.raises(WeightsError, match="no selector"):
        mask_of(image, weights, tmp_path / "other.tif", patches=parse_patches("selector"))


def test_a_block_with_hardly_any_data_is_looked_at(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[5, 40] = 200
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(NODATA_TAG, "s", 0, "0", True)])
    mask, report = mask_of(path, grnet(tmp_path / "grnet"), tmp_path / "mask.tif", patches=ALL)
    assert mask[5, 40] < CLASSES
    assert (mask == 255).sum() == mask.size - 1
    assert stages_of(report)[1]["windows_run"] == 1


def test_a_window_of_several_cells_is_refined_where_the_centre_of_any_of_them_was_chosen() -> None:
    def stage(number: int, side: int) -> Stage:
        return Stage(
            number=number,
            scale=Size(width=side, height=side),
            input=Size(width=512, height=512),
            margin=64,
            image=Size(width=1187, height=512),
            working=Pitch(x=Fraction(1), y=Fraction(1)),
            blend="linear",
        )

    coarse, fine = stage(1, 2048), stage(2, 512)
    step = Pass(number=0, stages=(coarse, fine))
    (block,) = (step.block(number) for number in range(step.blocks.pixels))
    (window,) = step.windows(block, coarse)
    last = list(step.windows(block, fine))[-1]
    assert {cell.column for cell in last.cells} == {2, 3}
    state = SimpleNamespace(bound=SimpleNamespace(step=step), pixels=SimpleNamespace(block=block))
    one = SimpleNamespace(at=SimpleNamespace(state=state, stage=coarse), window=window)
    chosen = torch.zeros(4, 4, dtype=torch.bool)
    chosen[:, 2] = True  # the centre of cell 3 lies in it, and the one of both cells together does not
    assert flagged(cast("Forward", one), chosen.flatten()) == {last.cell}
