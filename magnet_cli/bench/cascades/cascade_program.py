"""The program itself: `refine`, as a user runs it, into a folder that is emptied afterwards."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from magnet_cli.bench.task import Contender, Ready, Shape, Took, for_drawn
from magnet_cli.events import Events
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.api import plan_pair, refine_pair
from magnet_cli.refinement.effort import effort_of, step_pixels
from magnet_cli.refinement.method_loader import load_method
from magnet_cli.refinement.pairs import Pair
from magnet_cli.refinement.planner import resolve
from magnet_cli.system.memory import host_memory

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.refinement.cascade_method import Cascade, CascadeJob
    from magnet_cli.refinement.pass_context import Sharpener


class CascadeProgram(Contender[RefineOptions]):
    """Refines the mask of a task, again and again."""

    def prepare(self) -> Ready:
        """Load the bundle and refine a small mask."""
        self._method = loaded_cascade(self._options)
        self._watched = Watched(self._method.model.network)
        self._method = replace(self._method, model=replace(self._method.model, network=self._watched))
        drawn = for_drawn(self._options)
        settings = resolve(drawn, self._method.model)
        # A small mask comes first, so that no measured run loads libraries.
        self._refine(self._task.warm, self._task.warm_mask, replace(self._method, settings=settings), drawn)
        pair = self._pair(self._task.image, self._task.mask, self._task.folder / "mask.tif")
        job = cast("CascadeJob", plan_pair(pair.info, pair.mask, self._method, self._options, Events()))
        return Ready(loaded=host_memory(), size=pair.info.size, windows=effort_of(job.plan).steps, case=job.case)

    def run(self, what: str, program: Took | None) -> Took:
        """Refine the mask, and return what the run took."""
        del what, program
        base = host_memory()
        self._watched.shapes.clear()
        seconds, report = self._refine(self._task.image, self._task.mask, self._method, self._options)
        memory, split = report["memory"], report["seconds"]
        shapes = dict(self._watched.shapes)
        pixels = sum(step_pixels(shape.step, shape.height, shape.width) * count for shape, count in shapes.items())
        steps: Counter[str] = Counter({"global": 0, "local": 0})
        for shape, count in shapes.items():
            steps[shape.step] += count
        return Took(
            seconds=seconds,
            windows=steps.total(),
            full_windows=pixels / step_pixels("local", self._method.settings.side, self._method.settings.side),
            host_base=base,
            host_peak=memory["host_peak"],
            device_peak=memory["device_peak"],
            parts={**split, "finish": round(max(0.0, seconds - split["wall"]), 3)},
            by_stage=dict(steps),
            by_shape=shapes,
            report=report,
        )

    def _refine(
        self, image: str, mask: str | None, method: Cascade, options: RefineOptions
    ) -> tuple[float, dict[str, Any]]:
        """Refine into a folder that is removed afterwards, and return the seconds and the report of the run."""
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self._task.folder))
        try:
            start = time.perf_counter()
            result = refine_pair(self._pair(image, mask, folder / "mask.tif"), method, options, Events())
            seconds = time.perf_counter() - start
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return seconds, cast("dict[str, Any]", result.report)

    def _pair(self, image: str, mask: str | None, output: Path) -> Pair:
        return Pair.open(image, named_mask(mask), output)


class Watched:
    """Counts the shapes of a network's inputs.

    Args:
        network: The network whose passes are counted.
    """

    def __init__(self, network: Sharpener) -> None:
        self._network = network
        self.shapes: Counter[Shape] = Counter()

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self._network.device

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run the global step, and count its shape."""
        self.shapes[Shape(step="global", height=images.shape[2], width=images.shape[3])] += len(images)
        return self._network.three_levels(images, masks)

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run the local step, and count its shape."""
        self.shapes[Shape(step="local", height=images.shape[2], width=images.shape[3])] += len(images)
        return self._network.two_levels(images, masks, coarse)

    def normalised(self, pixels: NDArray[Any]) -> Tensor:
        """Return pixels as the network takes them."""
        return self._network.normalised(pixels)


def loaded_cascade(options: RefineOptions) -> Cascade:
    """Return the cascade that the options name.

    Raises:
        WeightsError, DeviceError, UsageError: The cascade cannot be loaded.
    """
    return cast("Cascade", load_method(options, Events()))


def named_mask(mask: str | None) -> str:
    """Return the mask of a task, which has one where a cascade runs."""
    if mask is None:
        message = "a cascade sharpens a mask"
        raise RuntimeError(message)
    return mask
