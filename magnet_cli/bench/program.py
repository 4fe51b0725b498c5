"""The program itself: `segment`, as a user runs it, into a folder that is emptied afterwards."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from magnet_cli.bench.task import Contender, Ready, Took, for_drawn
from magnet_cli.bench.timing import TimedNetworks
from magnet_cli.events import Events
from magnet_cli.masks.targets import Target
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.image_planner import case_of, plan_image, windows_planned
from magnet_cli.segmentation.image_series import segment_target
from magnet_cli.segmentation.segment_model import Model, load_model
from magnet_cli.system.memory import host_memory

if TYPE_CHECKING:
    from magnet_cli.models.networks import Networks
    from magnet_cli.plan import Plan


class Program(Contender[SegmentOptions]):
    """Segments the image of a task, again and again."""

    def prepare(self) -> Ready:
        """Load the bundle and segment a small image."""
        self._model = load_model(self._options, Events())
        self._timer = TimedNetworks(self._model.networks)
        if self._task.timed:
            self._model = replace(self._model, networks=cast("Networks", self._timer))
        self._segment(self._task.warm, for_drawn(self._options))
        plan = made_plan(self._task.image, self._model, self._options)
        return Ready(
            loaded=host_memory(),
            size=plan.image.size,
            windows=windows_planned(plan),
            case=case_of(plan, digest=self._model.bundle.digest),
        )

    def run(self, what: str, program: Took | None) -> Took:
        """Segment the image, and return what the run took."""
        del what, program
        base = host_memory()
        self._timer.reset()
        seconds, report = self._segment(self._task.image, self._options)
        stages = _by_stage(report)
        memory, split = report["memory"], report["seconds"]
        networks = {f"networks_{name}": value for name, value in self._timer.seconds.items() if self._task.timed}
        return Took(
            seconds=seconds,
            windows=sum(stages.values()),
            host_base=base,
            host_peak=memory["host_peak"],
            device_peak=memory["device_peak"],
            parts={**split, "finish": round(max(0.0, seconds - split["wall"]), 3), **networks},
            by_stage=stages,
            report=report,
        )

    def _segment(self, image: str, options: SegmentOptions) -> tuple[float, dict[str, Any]]:
        """Return the seconds and the report of a run, and remove its files."""
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self._task.folder))
        try:
            target = Target(image=image, mask=folder / "mask.tif")
            start = time.perf_counter()
            result = segment_target(target, self._model, options, Events(), alone=True)
            seconds = time.perf_counter() - start
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if result.error is not None:
            raise result.error
        return seconds, cast("dict[str, Any]", result.report)


def made_plan(image: str, model: Model, options: SegmentOptions) -> Plan:
    """Return the plan of `segment` for the image."""
    return plan_image(image, model.facts, options, model.machine)


def _by_stage(report: dict[str, Any]) -> dict[str, int]:
    return {str(stage["stage"]): stage["windows_run"] for step in report["passes"] for stage in step["stages"]}
