"""`--compat published`: an image of one block, segmented as a whole with the arithmetic of the published program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from typing_extensions import override

from magnet_cli.arithmetic.published.stages import (
    ALL_PATCHES,
    labels_published,
    segment_published,
    settings_from_scales,
)
from magnet_cli.arithmetic.published.window_grid import place_windows
from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.protocol import NODATA, Request
from magnet_cli.run.job import Runner
from magnet_cli.segmentation.canvas_output import count_labels
from magnet_cli.segmentation.segment_job import SegmentJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.arithmetic.published.stages import PublishedSettings
    from magnet_cli.images.protocol import Region
    from magnet_cli.masks.spec import GroupId
    from magnet_cli.options.rules import Rule
    from magnet_cli.plan import Plan
    from magnet_cli.run.job import Resources, RunPass
    from magnet_cli.segmentation.computer import Normalisation

MOST_PIXELS = 64 << 20
"""Largest image in pixels, because the published arithmetic holds all classes of the whole image several times over, in
float32."""


@dataclass(frozen=True, kw_only=True)
class WholeImage:
    """The only pass of a published run: the whole image in one group."""

    number: int
    groups: int = 1
    what: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedJob(SegmentJob):
    """A job that segments an image as a whole with the published arithmetic."""

    @property
    @override
    def passes(self) -> Sequence[RunPass]:
        # The journal expects labels of the plan's last pass, so the only pass has that number.
        return [WholeImage(number=self.plan.passes[-1].number)]

    @property
    @override
    def work(self) -> Sequence[float]:
        return [sum(super().work)]

    @property
    @override
    def activity(self) -> str:
        return "forward"

    @override
    def runner(self, step: RunPass, resources: Resources) -> PublishedRunner:
        """Return the runner of the only pass.

        Raises:
            UsageError: The image is too large, or an option has no published counterpart.
            WeightsError: The bundle has no refiner, or the image's values do not span 0 to 255.
        """
        plan = self.plan
        if plan.probabilities or plan.uncertainty:
            raise UsageError(
                "--compat published writes the mask alone", advice="Leave out --probabilities and --uncertainty"
            )
        if not self.networks.has_refiner and len(plan.stages) > 1:
            raise WeightsError("the published arithmetic needs a refiner", advice="Use --compat paper --merge mean")
        return PublishedRunner(self, published_settings(plan, self.normalisation), resources)


class PublishedRunner(Runner):
    """The only pass of a published run, whose one group is the whole image.

    Args:
        job: The job, with its plan, networks and area.
        settings: The options of the published program.
        resources: The open image, and the sink for labels.
    """

    def __init__(self, job: SegmentJob, settings: PublishedSettings, resources: Resources) -> None:
        self._job = job
        self._settings = settings
        self._resources = resources

    @override
    def read(self, group: int) -> list[Region]:
        del group
        plan = self._job.plan
        box = Box.whole(plan.working.cover(plan.image.size))
        requests = [Request(pitch=plan.working, box=box, resample="bilinear", bands=plan.bands)]
        if plan.image.has_mask:
            requests.append(Request(pitch=LEVEL0, box=Box.whole(plan.image.size), bands=plan.bands))
        return self._resources.image.read(requests)

    @override
    def compute(self, given: list[Region], known: None) -> NDArray[np.uint8]:
        del known
        plan, networks, (region, *at_level0) = self._job.plan, self._job.networks, given
        if region.pixels.dtype != np.uint8:
            raise WeightsError(
                "the published arithmetic reads 8-bit images",
                value=plan.image.dtype,
                file=plan.image.path,
                advice="Convert the image to 8 bits, or leave --compat out",
            )
        size, pixels = plan.image.size, np.ascontiguousarray(region.pixels)
        with torch.inference_mode():
            shifted = plan.settings.compat == "published"
            probs = segment_published(
                pixels, networks, settings=self._settings, shifted=shifted, device=networks.device
            )
            labels = labels_published(probs, size=size)
        # The published program knows neither missing data nor areas, so both are cut out of its finished labels.
        for level0 in at_level0:
            if level0.valid is not None:
                labels[~level0.valid] = NODATA
        if self._job.area is not None:
            labels[~self._job.area.mask(Box.whole(size), LEVEL0)] = NODATA
        return labels

    @override
    def store(self, group: GroupId, found: NDArray[np.uint8]) -> dict[str, object]:
        plan = self._job.plan
        self._resources.sink.put_labels(group, box=Box.whole(plan.image.size), labels=found)
        counts, missing = count_labels(found, plan.classes)
        stages = {str(stage.number): windows_run(self._settings, index) for index, stage in enumerate(plan.stages)}
        return {"stages": stages, "labels": counts, "nodata": missing}


def published_settings(plan: Plan, normalisation: Normalisation) -> PublishedSettings:
    """Translate a plan into options of the published program.

    Raises:
        UsageError: The image is too large, or an option of the plan has no counterpart.
        WeightsError: The values of the image or of the bundle do not span 0 to 255.
    """
    size = plan.working.cover(plan.image.size)
    if size.pixels > MOST_PIXELS:
        raise UsageError(
            f"--compat published holds the whole image on the device, so it takes at most {MOST_PIXELS} pixels",
            value=f"{size} = {size.pixels}",
            advice="Leave --compat out",
        )
    settings = settings_from_scales(
        [stage.scale for stage in plan.stages],
        image=size,
        input=plan.stages[0].input,
        points=_points(plan.settings.points),
        patches=_patches(plan.settings.patches, len(plan.stages) - 1),
        median=plan.settings.median,
    )
    if set(plan.value_range) != {(0, 255)}:
        low, high = next(span for span in plan.value_range if span != (0, 255))
        raise WeightsError(
            "the published arithmetic takes values from 0 to 255",
            value=f"{low:g} to {high:g}",
            file=plan.image.path,
            advice="Leave --compat out",
        )
    return replace(settings, mean=normalisation.mean, std=normalisation.std, batch=plan.batch)


def windows_run(settings: PublishedSettings, index: int) -> dict[str, int]:
    """Return the number of windows of a stage, and how many of them are computed."""
    windows = len(place_windows(settings.stages[index], crop=settings.crop))
    limit = ALL_PATCHES if index == 0 else settings.patches_of(index)
    return {"windows": windows, "run": windows if limit == ALL_PATCHES else min(windows, limit)}


def _points(rule: Rule) -> float:
    if rule.kind == "threshold":
        raise UsageError(
            "--compat published chooses points by count or share",
            value=f"--points {rule.spelled('q')}",
            advice="Write --points 4096 or --points 75%",
        )
    if rule.kind == "all":
        return 1.0
    return float(rule.values[0]) if rule.kind == "share" else int(rule.values[0])


def _patches(rule: Rule, stages: int) -> int | tuple[int, ...]:
    if rule.kind not in ("all", "count"):
        raise UsageError(
            "--compat published chooses windows by count",
            value=f"--patches {rule.spelled('u')}",
            advice="Write --patches 16, or --patches all",
        )
    return ALL_PATCHES if rule.kind == "all" else tuple(int(rule.value(step)) for step in range(stages))
