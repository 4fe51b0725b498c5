"""The published arithmetic done as published: one window at a time, float32, canvases of the whole image.

It runs `arithmetic/published/stages.py`, the published program's steps with its defects mended, which meets the golden
values. A second version of it could drift away from them. It is naive because its networks run as loaded on one window
after the other, and because all of its maps have the size of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.arithmetic.published.stages import (
    ALL_PATCHES,
    PublishedSettings,
    labels_published,
    segment_published,
    settings_from_scales,
)
from magnet_cli.bench.ceiling import normalisation, opened
from magnet_cli.bench.patching import refusal
from magnet_cli.bench.plain_networks import PlainNetworks
from magnet_cli.bench.program import made_plan
from magnet_cli.bench.task import Contender, Ready, Took
from magnet_cli.bench.timing import TimedNetworks, measured
from magnet_cli.events import Events
from magnet_cli.geometry import Box, Size
from magnet_cli.images.protocol import Request
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.segment import OF_GRNETS, SegmentOptions
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.memory import host_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.options.rules import Rule
    from magnet_cli.plan import Plan

COPIES = 5
"""Maps of all classes, of the size of the last stage, that live together: the field, the sum of the windows and its
mean, what was chosen, and what resizing takes meanwhile. On the paper's 2448 x 2448 pixels and 7 classes it took
1,029 MB above the loaded program, where `needed_bytes` says 1,067."""


@dataclass(frozen=True, kw_only=True)
class NaiveRun:
    """The labels of the arithmetic, and its time by network."""

    labels: NDArray[np.uint8]
    """`(height, width)`, of the size asked for."""
    windows: int
    networks: dict[str, float]
    """Seconds in `backbone` and `refiner`."""


class Naive(Contender[SegmentOptions]):
    """The published arithmetic over one image."""

    def prepare(self) -> Ready:
        """Load the networks and read the image, if there is room for canvases of its size."""
        self._model = load_model(self._task.options, Events())
        self._plan = made_plan(self._task.image, self._model, self._task.options)
        why = self._no_meaning()
        if why is not None:
            return Ready(refusal="does not apply", reason=why)
        self._settings = naive_settings(self._plan)
        needs = needed_bytes(self._plan, self._settings)
        refused = refusal(needs, device=self._plan.machine.device)
        if refused is not None:
            return refused
        pin_arithmetic(usable_cores())
        given = normalisation(self._plan, self._model)
        self._settings = replace(self._settings, mean=given.mean, std=given.std)
        how = self._plan.settings.merge
        plain = PlainNetworks.load(self._model.bundle, device=self._plan.machine.device, precision="float32", how=how)
        self._networks = TimedNetworks(plain)
        size, loaded = self._settings.input, host_memory()
        patch = torch.zeros((1, len(given.mean), size.height, size.width), device=plain.device)
        # The first call of each network allocates memory and chooses kernels; the time of that is no part of the
        # comparison.
        own = self._networks.predict(patch, size)
        self._networks.refine(own, own, size)
        self._pixels = self._read()
        return Ready(loaded=loaded, needs=needs)

    def run(self, what: str, program: Took | None) -> Took:
        """Segment the image that is in memory. The time is measured as by the published program's own clock."""
        del what, program
        with measured(self._networks.device) as found:
            run = run_naive(self._pixels, self._networks, settings=self._settings, size=self._plan.image.size)
        inside = sum(run.networks.values())
        parts = {**run.networks, "rest": found.seconds - inside}
        return Took(
            seconds=found.seconds,
            windows=run.windows,
            host_base=found.host_base,
            host_peak=found.host_peak,
            device_peak=found.device_peak,
            parts={name: round(seconds, 3) for name, seconds in parts.items()},
        )

    def _no_meaning(self) -> str | None:
        settings, given = self._plan.settings, normalisation(self._plan, self._model)
        if not settings.refines or settings.method in OF_GRNETS:
            return f"the published program has no method {settings.method}"
        if set(given.spans) != {(0, 255)} or self._plan.image.dtype != "uint8":
            return "the published program reads 8-bit images and values from 0 to 255"
        if settings.patches.kind not in ("all", "count"):
            return "the published program chooses windows by count"
        return None

    def _read(self) -> NDArray[np.uint8]:
        working = self._plan.working
        box = Box.whole(working.cover(self._plan.image.size))
        request = Request(pitch=working, box=box, resample="bilinear", bands=self._plan.bands)
        with opened(self._task) as image:
            return np.ascontiguousarray(image.read([request])[0].pixels)


def run_naive(
    pixels: NDArray[np.uint8], networks: TimedNetworks, *, settings: PublishedSettings, size: Size
) -> NaiveRun:
    """Return the labels of an image by the published arithmetic.

    Args:
        pixels: (H, W, bands).
        networks: Their time is counted.
        settings: The settings, with a batch of 1.
        size: The size of the labels.
    """
    networks.reset()
    with torch.inference_mode():
        probs = segment_published(pixels, networks, settings=settings, shifted=True, device=networks.device)
        labels = labels_published(probs, size=size)
    return NaiveRun(labels=labels, windows=networks.windows, networks=dict(networks.seconds))


def naive_settings(plan: Plan) -> PublishedSettings:
    """Return the published program's options: the plan's finest windows, and scales doubled up to the whole image."""
    image, finest = plan.working.cover(plan.image.size), plan.stages[-1].scale
    scales = [finest]
    while scales[-1].width < image.width or scales[-1].height < image.height:
        scales.append(Size(width=2 * scales[-1].width, height=2 * scales[-1].height))
    settings = plan.settings
    return settings_from_scales(
        scales,
        image=image,
        input=plan.stages[-1].input,
        points=_points(settings.points),
        patches=_patches(settings.patches, len(scales) - 1),
        median=settings.median,
    )


def needed_bytes(plan: Plan, settings: PublishedSettings) -> int:
    """Return the bytes of float32 maps of the last stage, its scores and points, and twice the image's pixels."""
    maps = settings.finest.pixels * (COPIES * 4 * plan.classes + 32)
    return maps + plan.image.size.pixels * 2 * len(plan.image.bands)


def _points(rule: Rule) -> float:
    """Return the published counterpart of a rule for points; that of a threshold is all points."""
    if rule.kind in ("all", "threshold"):
        return 1.0
    return float(rule.values[0]) if rule.kind == "share" else int(rule.values[0])


def _patches(rule: Rule, stages: int) -> int | tuple[int, ...]:
    return ALL_PATCHES if rule.kind == "all" else tuple(int(rule.value(step)) for step in range(stages))
