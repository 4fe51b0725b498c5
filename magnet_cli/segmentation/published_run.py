"""`--compat published`: one image, all at once, with the published arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

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
from magnet_cli.masks.spec import GroupId
from magnet_cli.segmentation.results import count_labels
from magnet_cli.segmentation.scheduler import Progress

if TYPE_CHECKING:
    from magnet_cli.arithmetic.published.stages import PublishedSettings
    from magnet_cli.options.segment import Rule
    from magnet_cli.plan import Plan
    from magnet_cli.segmentation.scheduler import Work

MOST_PIXELS = 64 << 20
"""The published arithmetic holds every class of the whole image several times over, in float32."""


def run_published(plan: Plan, work: Work) -> None:
    """Segment the whole image in one group.

    Raises:
        UsageError: The image is not one block, or an option has no published counterpart.
        WeightsError: The bundle's bands or refiner do not fit.
    """
    if plan.probabilities or plan.uncertainty:
        raise UsageError("--compat published writes the mask alone", advice="Leave --probabilities and --uncertainty")
    if not work.networks.has_refiner and len(plan.stages) > 1:
        raise WeightsError("the published arithmetic needs a refiner", advice="Take --compat paper --merge mean")
    group = GroupId(pass_index=plan.passes[-1].number, index=0)
    if work.sink.finished(group.pass_index):
        work.on_progress(Progress(pass_index=group.pass_index, group=0, groups=1, resumed=True))
        return
    settings = published_settings(plan, work)
    size = plan.image.size
    with work.clock.measure("read"):
        box = Box.whole(plan.working.cover(size))
        requests = [Request(pitch=plan.working, box=box, resample="bilinear", bands=plan.bands)]
        if plan.image.has_mask:
            requests.append(Request(pitch=LEVEL0, box=Box.whole(size), bands=plan.bands))
        region, *at_level0 = work.image.read(requests)
    if region.pixels.dtype != np.uint8:
        raise WeightsError("the published arithmetic reads 8-bit images", value=plan.image.dtype, file=plan.image.path)
    pixels = np.ascontiguousarray(region.pixels)
    with work.clock.measure("forward"), torch.inference_mode():
        shifted = plan.settings.compat == "published"
        probs = segment_published(
            pixels, work.networks, settings=settings, shifted=shifted, device=work.networks.device
        )
        labels = labels_published(probs, size=size)
    for level0 in at_level0:
        if level0.valid is not None:
            labels[~level0.valid] = NODATA
    if work.area is not None:
        labels[~work.area.mask(Box.whole(size), LEVEL0)] = NODATA
    with work.clock.measure("write"):
        work.sink.put_labels(group, box=Box.whole(size), labels=labels)
        counts, missing = count_labels(labels, plan.classes)
        stages = {str(stage.number): windows_run(settings, index) for index, stage in enumerate(plan.stages)}
        found = {"stages": stages, "labels": counts, "nodata": missing, "threads": work.threads}
        work.sink.finish_group(group, counts={**found, **work.clock.note()})
    work.on_progress(Progress(pass_index=group.pass_index, group=0, groups=1, resumed=False))


def published_settings(plan: Plan, work: Work) -> PublishedSettings:
    """The published program's options that correspond to a plan.

    Raises:
        UsageError: There are none.
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
    normalisation = work.normalisation
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
    """How many windows a stage has, and how many of them are computed."""
    windows = len(place_windows(settings.stages[index], crop=settings.crop))
    limit = ALL_PATCHES if index == 0 else settings.patches_of(index)
    return {"windows": windows, "run": windows if limit == ALL_PATCHES else min(windows, limit)}


def _points(rule: Rule) -> float:
    if rule.kind == "threshold":
        raise UsageError("--compat published chooses points by count or share", value=f"--points {rule.spelled('q')}")
    if rule.kind == "all":
        return 1.0
    return float(rule.values[0]) if rule.kind == "share" else int(rule.values[0])


def _patches(rule: Rule, stages: int) -> int | tuple[int, ...]:
    if rule.kind not in ("all", "count"):
        raise UsageError("--compat published chooses windows by count", value=f"--patches {rule.spelled('u')}")
    return -1 if rule.kind == "all" else tuple(int(rule.value(step)) for step in range(stages))
