"""The ceiling: the passes of a run on tensors that are in memory already, and nothing else."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from magnet_cli import images
from magnet_cli.bench.passes import run_passes
from magnet_cli.bench.program import made_plan
from magnet_cli.bench.task import Contender, Ready, Took
from magnet_cli.bench.timing import measured, repeated
from magnet_cli.events import Events
from magnet_cli.geometry import Box
from magnet_cli.images.protocol import Request
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan.windows import Index
from magnet_cli.segmentation.computer import Normalisation
from magnet_cli.segmentation.segment_model import Model, load_model
from magnet_cli.system.memory import host_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.bench.task import Task
    from magnet_cli.bench.timing import Measurement
    from magnet_cli.images.protocol import Image
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Stage

SAMPLE = 16
"""Number of sampled windows, rounded up to whole batches. Their content does not change the time of a pass."""
SHARE = 0.1
"""Share of the program's time for which passes are repeated."""
LEAST, MOST = 0.5, 30.0
"""Bounds of the time for which passes are repeated, in seconds."""


class Ceiling(Contender[SegmentOptions]):
    """The forward passes of a run alone, with the program's own networks, precision and batch."""

    def prepare(self) -> Ready:
        """Load the bundle, sample windows and run each stage once."""
        self._model = load_model(self._task.options, Events())
        self._plan = made_plan(self._task.image, self._model, self._task.options)
        pin_arithmetic(usable_cores())
        patches = sampled_patches(self._task, self._plan, self._model, count=SAMPLE)
        patches = patches.to(self._model.networks.device)
        batch = self._plan.batch
        self._batches = [patches[start : start + batch] for start in range(0, len(patches), batch)]
        scale = self._plan.stages[-1].scale
        # Probabilities of any patch of the same size serve as the field of a stage: content does not change the time.
        self._fields = [self._model.networks.predict(batch.flip(0), scale) for batch in self._batches]
        for stage in self._plan.stages:
            # The first pass of each kind is slower: kernels are chosen and memory is taken from the system.
            self._pass(stage, 0)
        return Ready(loaded=host_memory())

    def run(self, what: str, program: Took | None) -> Took:
        """Time each stage's passes in turn, and return the time of those of a whole run.

        Args:
            what: It is not used.
            program: Windows and seconds of each stage in the program's run.
        """
        del what
        if program is None:
            raise RuntimeError
        least = least_seconds(program)
        seconds, tried = 0.0, 0
        with measured(self._model.networks.device) as found:
            for stage in self._plan.stages:
                windows = program.by_stage[str(stage.number)]
                if not windows:
                    continue
                spent, passes = repeated(
                    partial(self._pass, stage),
                    batches=len(self._batches),
                    least=least * windows / program.windows,
                    device=self._model.networks.device,
                )
                seconds += windows * spent / passes
                tried += passes
        return scaled(found, seconds=seconds, windows=program.windows, tried=tried)

    @torch.inference_mode()
    def _pass(self, stage: Stage, number: int) -> int:
        """Run one batch of a stage and return its number of windows."""
        patches, field = self._batches[number], self._fields[number]
        run_passes(self._plan, self._model.networks, stage, patches=patches, field=field)
        return len(patches)


def scaled(found: Measurement, *, seconds: float, windows: int, tried: int) -> Took:
    """Return what the passes of a whole run would take, from a sample of them.

    Args:
        found: The measurement of the sample.
        seconds: The seconds of all windows of the run.
        windows: The windows of the run.
        tried: Windows of the sample.
    """
    return Took(
        seconds=seconds,
        windows=windows,
        host_base=found.host_base,
        host_peak=found.host_peak,
        device_peak=found.device_peak,
        parts={"measured_seconds": round(found.seconds, 3), "measured_windows": tried},
    )


def least_seconds(program: Took) -> float:
    """Return how long to repeat the passes of a run."""
    return min(MOST, max(LEAST, SHARE * program.seconds))


def sampled_patches(task: Task[SegmentOptions], plan: Plan, model: Model, *, count: int) -> Tensor:
    """Return the patches of the finest stage from all over the image.

    Args:
        task: Names the image.
        plan: The plan of a run over it.
        model: The bundle on its device.
        count: The least number of windows, rounded up to whole batches. Fewer windows are taken several times.

    Returns:
        `(n, bands, h, w)` float32, normalised, on the host.
    """
    count = -(-count // plan.batch) * plan.batch
    stage = plan.stages[-1]
    with opened(task) as image:
        cells = list(_spread(stage, count))
        found = np.stack([_patch(image, plan, stage, cell) for cell in cells])
    pixels = torch.from_numpy(found.astype(np.float32))
    return normalisation(plan, model).apply(pixels)


def opened(task: Task[Any]) -> Image:
    """Return the image of a task; what has to be decoded as a whole goes to the task's folder."""
    free = shutil.disk_usage(task.folder).free
    return images.open_image(task.image, cache=images.CacheBudget(folder=task.folder, max_bytes=free // 2))


def normalisation(plan: Plan, model: Model) -> Normalisation:
    """Return the normalisation of the image for the bundle."""
    return Normalisation.of(plan, mean=model.bundle.input.mean, std=model.bundle.input.std)


def _spread(stage: Stage, count: int) -> Iterator[Index]:
    """Yield the cells evenly over the image, row by row."""
    for number in range(count):
        row, column = divmod(number * stage.cells.pixels // count, stage.cells.width)
        yield Index(column=column, row=row)


def _patch(image: Image, plan: Plan, stage: Stage, cell: Index) -> NDArray[np.generic]:
    """Return `(h, w, bands)`, the network's input size: reflected where the image is smaller."""
    box = stage.window(cell).intersection(Box.whole(stage.extent))
    pixels = image.read([Request(pitch=stage.pitch, box=box, resample=plan.resample, bands=plan.bands)])[0].pixels
    missing = (stage.input.height - box.height, stage.input.width - box.width)
    return np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
