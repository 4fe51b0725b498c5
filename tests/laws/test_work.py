"""Counts of the work on a fixed image, which no machine changes: a change that computes or copies more fails here."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from magnet_cli.arithmetic.points import UNDECIDED
from magnet_cli.geometry import Size
from magnet_cli.images.input_states import InputStates
from magnet_cli.images.read_samples import ReadSamples
from magnet_cli.images.tiff_store import TiffStore
from magnet_cli.masks.journal import Journal
from magnet_cli.models.networks import Networks
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.block_stage import BlockStage
from tests.laws.support import (
    blurry_bundle,
    magnet,
    part,
    report_of,
    scene_pixels,
    segment,
    write_tiled,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from magnet_cli.images import Image

SIZE = Size(width=700, height=500)
SIDE = 64
"""Side of the network's input."""
MEDIAN = 11
LARGE = UNDECIDED * MEDIAN * MEDIAN * 8
"""Bytes of the largest array that a block needs, which gathers squares. Probabilities of the image are larger."""


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A counter of the computing thread's allocations above a size."""

    def __init__(self, least: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.least = least
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out._is_view() and out.untyped_storage().nbytes() >= self.least:
            self.sizes.append(out.untyped_storage().nbytes())
        return out


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the counts of a run's work."""
    counts: Counter[str] = Counter()

    def counted(owner: type, name: str, key: str, amount: Callable[..., int]) -> None:
        real = getattr(owner, name)

        def called(*arguments: Any, **named: Any) -> Any:
            counts[key] += 1
            counts[f"{key} amount"] += amount(*arguments, **named)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, called)

    counted(Networks, "predict", "forward", lambda _, patches, __: len(patches))
    counted(Networks, "refine", "refine", lambda _, own, *__: len(own))
    counted(TiffStore, "_bands", "decoded", lambda _, __, tile, ___: tile.area)
    # A file that nothing has written to for seconds is not read again, which a slow machine would decide.
    monkeypatch.setattr(InputStates, "is_untouched", lambda *_: False)
    read_again = ReadSamples.refuse_difference

    def counted_apart(samples: ReadSamples, image: Image) -> None:
        """Count reads that only check that the file is unchanged under keys of their own."""
        before = Counter(counts)
        read_again(samples, image)
        for key in ("decoded", "decoded amount"):
            counts[f"{key} again"] += counts[key] - before[key]
            counts[key] = before[key]

    monkeypatch.setattr(ReadSamples, "refuse_difference", counted_apart)
    counted(BlockStage, "_on_device", "upload", lambda _, array: array.nbytes)
    counted(Journal, "put_labels", "labels", lambda *_, labels, **__: labels.nbytes)
    return counts


def stages_of(report: dict[str, object]) -> list[dict[str, Any]]:
    passes = part(report, "passes")
    assert isinstance(passes, list)
    return [stage for step in passes for stage in step["stages"]]


def windows(report: dict[str, object]) -> int:
    return sum(stage["windows_run"] for stage in stages_of(report))


@pytest.mark.parametrize("points", ["all", "50%", "q>0.1"])
def test_every_window_once_every_tile_once_every_pixel_once(points: str, tmp_path: Path, seen: Counter[str]) -> None:
    image = write_tiled(tmp_path / "s.tif", scene_pixels(SIZE))
    bundle = blurry_bundle(tmp_path / "bundle", side=SIDE, scales=(SIDE, 2 * SIDE))
    options = SegmentOptions(
        weights=str(bundle), overlap=24, median=MEDIAN, merge="refiner", points=parse_points(points), num_workers=0
    )
    with Allocations(LARGE + 1) as huge:
        report = segment(image, tmp_path / "m.tif", options)
    ran, batch = windows(report), 4
    cells = [math.ceil(SIZE.width / side) * math.ceil(SIZE.height / side) for side in (80, 40)]
    assert ran == sum(cells)
    assert seen["forward amount"] == ran
    assert seen["refine amount"] == cells[1]
    # Full batches, but for the last of a stage in a group.
    groups = part(report, "groups", "computed")
    assert isinstance(groups, int)
    assert seen["forward"] <= math.ceil(ran / batch) + 2 * groups
    # Tiles are kept decoded for their neighbours: none is decoded twice.
    tiles = math.ceil(SIZE.width / 64) * math.ceil(SIZE.height / 64)
    assert seen["decoded"] == tiles
    # Spots are smaller than a tile, so that the comparison in the end decodes few of them.
    assert 0 < seen["decoded again"] <= tiles // 2
    assert seen["labels amount"] == SIZE.pixels
    # Each stage of a block goes to the device in one piece; rims make it more than the image, and not much.
    blocks = cells[0]
    assert seen["upload"] == 2 * blocks
    assert seen["upload amount"] < 3 * SIZE.pixels * (1 + 1 / 4) * (SIDE / (SIDE - 24)) ** 2
    assert huge.sizes == []


REPEATED = Size(width=90, height=84)
"""A size of the image at which all cells of the second of three stages have one window, and so have the last two cells
of each row and column of the third. Cells have 40 pixels, and windows 12 more on each side."""


@pytest.mark.parametrize(
    "words",
    [
        ("--merge=refiner",),
        ("--merge=geometric",),
        ("--merge=mean", "--points=50%"),
        ("--method=magnet-fast", "--patches=75%"),
        ("--method=magnet-fast", "--patches=u>0.2", "--points=q>0.05"),
        ("--method=magnet-fast", "--patches=75%", "--select=ppn"),
        ("--method=patch",),
    ],
    ids=" ".join,
)
def test_a_window_of_several_cells_once(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = write_tiled(tmp_path / "s.tif", scene_pixels(REPEATED)), tmp_path / "m.tif"
    bundle = blurry_bundle(tmp_path / "bundle", side=SIDE, scales=(SIDE,), selector="--select=ppn" in words)
    passed: list[tuple[Size, bytes]] = []
    predict = Networks.predict

    def noted(networks: Networks, patches: torch.Tensor, scale: Size) -> torch.Tensor:
        passed.extend((scale, patch.contiguous().numpy().tobytes()) for patch in patches)
        return predict(networks, patches, scale)

    monkeypatch.setattr(Networks, "predict", noted)
    is_patch = "--method=patch" in words
    scales = () if is_patch else (f"--scales={SIDE},{2 * SIDE},{4 * SIDE}",)
    ended = magnet("segment", image, f"--weights={bundle}", "--overlap=24", *scales, *words, "-o", mask)
    assert ended.code == 0, ended.said
    report = report_of(mask)
    # No patch is computed twice, and as many are computed as the report says.
    assert len(set(passed)) == len(passed) == windows(report)
    stages = stages_of(report)
    assert [stage["windows"] for stage in stages] == ([4] if is_patch else [1, 1, 4])
    for stage in stages:
        assert stage["windows_run"] + sum(stage["not_run"].values()) == stage["windows"]
        assert 0 < stage["windows_run"] <= stage["windows_planned"] <= stage["windows"]
    if "--method=magnet-fast" not in words:
        assert all(stage["windows_run"] == stage["windows"] for stage in stages)
