"""Law 2 by counts: what a run holds at a time depends on the plan, never on the image's size."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.errors import DeviceError
from magnet_cli.geometry import Size
from magnet_cli.images.reader import PyramidImage
from magnet_cli.masks.journal import Journal
from magnet_cli.models import device
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation import group_reader as reading
from magnet_cli.segmentation import image_planner
from tests.laws.support import blurry_bundle, segment, write_tiled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from magnet_cli.images.protocol import Region, Request
    from magnet_cli.masks.spec import GroupId
    from magnet_cli.plan import Plan

SIZES = (Size(width=570, height=560), Size(width=1160, height=970))
"""Two image sizes, both with blocks in the middle that no edge cuts."""


@dataclass
class Watch:
    """Counters of what a run holds, which several threads change."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    alive: int = 0
    """Number of groups that are being read, wait, are computed or are stored."""
    most_alive: int = 0
    groups: int = 0
    pixels: int = 0
    """Bytes of the pixels of blocks that exist."""
    most_pixels: int = 0
    largest_request: int = 0
    largest_region: int = 0
    largest_canvas: int = 0
    largest_put: int = 0
    dtypes: set[torch.dtype] = field(default_factory=set)
    plan: Plan | None = None

    def add(self, name: str, amount: int) -> None:
        with self.lock:
            value = getattr(self, name) + amount
            setattr(self, name, value)
            setattr(self, f"most_{name}", max(value, getattr(self, f"most_{name}")))

    def largest(self, name: str, amount: int) -> None:
        with self.lock:
            setattr(self, f"largest_{name}", max(amount, getattr(self, f"largest_{name}")))


def watched(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Put a watch around reading, canvases and storing."""
    watch = Watch()
    monkeypatch.setattr(PyramidImage, "read", reading_watched(watch, PyramidImage.read))
    monkeypatch.setattr(reading, "read_block", blocks_watched(watch, reading.read_block))
    for name in ("put_labels", "put_field"):
        monkeypatch.setattr(Journal, name, puts_watched(watch, getattr(Journal, name)))
    monkeypatch.setattr(Journal, "finish_group", finishing_watched(watch, Journal.finish_group))
    monkeypatch.setattr(Canvas, "sample", canvases_watched(watch, Canvas.sample))

    def planned(*arguments: Any, **named: Any) -> Plan:
        watch.plan = make_plan(*arguments, **named)
        return watch.plan

    monkeypatch.setattr(image_planner, "make_plan", planned)
    return watch


def reading_watched(watch: Watch, read: Callable[..., list[Region]]) -> Callable[..., list[Region]]:
    def called(self: PyramidImage, requests: Sequence[Request]) -> list[Region]:
        regions = read(self, requests)
        for request, region in zip(requests, regions, strict=True):
            watch.largest("request", request.box.area)
            watch.largest("region", region.pixels.nbytes)
        return regions

    return called


def blocks_watched(watch: Watch, read_block: Callable[..., reading.BlockPixels]) -> Callable[..., reading.BlockPixels]:
    def called(*arguments: Any, **named: Any) -> reading.BlockPixels:
        watch.add("alive", 1)
        block = read_block(*arguments, **named)
        for pixels in block.stages:
            watch.add("pixels", pixels.nbytes)
            weakref.finalize(pixels, watch.add, "pixels", -pixels.nbytes)
        return block

    return called


def puts_watched(watch: Watch, put: Callable[..., None]) -> Callable[..., None]:
    def called(self: Journal, *arguments: Any, **named: Any) -> None:
        values = named["labels"] if "labels" in named else named["values"]
        watch.largest("put", values.nbytes)
        put(self, *arguments, **named)

    return called


def finishing_watched(watch: Watch, finish: Callable[..., None]) -> Callable[..., None]:
    def called(self: Journal, group: GroupId, **named: Any) -> None:
        finish(self, group, **named)
        # The pass that joins the borders of blocks reads none of their pixels.
        if watch.plan is None or group.pass_index < len(watch.plan.passes):
            watch.add("alive", -1)
        with watch.lock:
            watch.groups += 1

    return called


def canvases_watched(watch: Watch, sample: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def called(self: Canvas, *arguments: Any) -> torch.Tensor:
        with watch.lock:
            watch.dtypes.add(self.values.dtype)
        watch.largest("canvas", self.values.numel())
        return sample(self, *arguments)

    return called


@pytest.mark.parametrize(("workers", "points"), [pytest.param(0, "all", marks=pytest.mark.full), (2, "40%")])
def test_what_is_held_does_not_grow_with_the_image(
    workers: int, points: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = blurry_bundle(tmp_path / "bundle", scales=(32, 64, 128))
    scales = tuple(Size(width=side, height=side) for side in (256, 128, 64, 32))
    options = SegmentOptions(
        weights=str(weights), scales=scales, points=parse_points(points), overlap=8, num_workers=workers
    )
    seen = []
    for size in SIZES:
        pixels = np.random.default_rng(1).integers(0, 160, (size.height, size.width, 3), dtype=np.uint8)
        image = write_tiled(tmp_path / f"{size}.tif", pixels)
        with monkeypatch.context() as patch:
            watch = watched(patch)
            segment(image, tmp_path / f"{size}.mask.tif", options)
        seen.append(watch)
    small, large = seen
    assert large.groups > 4 * small.groups
    assert large.largest_request == small.largest_request
    assert large.largest_region == small.largest_region
    assert large.largest_canvas == small.largest_canvas
    assert large.largest_put == small.largest_put
    for watch in seen:
        assert watch.dtypes == {torch.float16}
        assert watch.plan is not None
        memory = watch.plan.memory
        assert memory.ahead == workers
        # Waiting, one being computed, and, with a thread that writes, one being stored.
        assert 1 <= watch.most_alive <= memory.ahead + 1 + bool(workers)
        assert watch.most_pixels <= memory.group * (memory.ahead + 1)
        assert watch.alive == 0


def test_a_budget_that_cannot_hold_one_group_is_refused_before_the_first_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = blurry_bundle(tmp_path / "bundle", scales=(32, 64, 128))
    image = write_tiled(tmp_path / "s.tif", np.zeros((300, 300, 3), np.uint8))
    watch = watched(monkeypatch)
    with pytest.raises(DeviceError, match="needs at least"):
        segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(weights), memory=64 << 20))
    assert watch.largest_request == 0
    assert not (tmp_path / "m.tif").exists()


def test_a_run_that_takes_more_than_its_budget_ends_with_exit_code_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = blurry_bundle(tmp_path / "bundle", scales=(32, 64, 128))
    image = write_tiled(tmp_path / "s.tif", np.full((300, 300, 3), 80, np.uint8))
    options = SegmentOptions(weights=str(weights), memory=8 << 30, num_workers=0)
    # A short run would begin with the last reading of the run before it, whose size is not that of the readings here.
    latest = "magnet_cli.system.memory._Latest.reading"
    monkeypatch.setattr(latest, None)
    monkeypatch.setattr(device, "host_memory", lambda: 0)
    monkeypatch.setattr("magnet_cli.system.memory.host_memory", lambda: 9 << 30)
    with pytest.raises(DeviceError, match=r"may use 8\.00 GiB") as raised:
        segment(image, tmp_path / "m.tif", options)
    assert raised.value.exit_code == 6
    monkeypatch.setattr("magnet_cli.system.memory.host_memory", lambda: 1 << 30)
    monkeypatch.setattr(latest, None)
    report = segment(image, tmp_path / "m.tif", options)
    groups = report["groups"]
    assert isinstance(groups, dict)
    assert groups["resumed"] > 0
