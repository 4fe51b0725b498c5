"""The ceiling: the steps of a run on tensors that are in memory already, and nothing else."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from magnet_cli import images
from magnet_cli.arithmetic.cascade.steps import STRIDE
from magnet_cli.bench.cascades.cascade_program import loaded_cascade, named_mask
from magnet_cli.bench.ceiling import least_seconds, opened, scaled
from magnet_cli.bench.task import Contender, Ready, Shape, Took
from magnet_cli.bench.timing import measured, repeated
from magnet_cli.geometry import Box
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.effort import step_pixels
from magnet_cli.refinement.pairs import open_input_mask
from magnet_cli.system.memory import host_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Size

SAMPLE = 4
"""Number of sampled windows. Their content does not change the time of a step."""
MOST_SHAPES = 16
"""Largest number of shapes of windows that are timed; each stands for those of about its size."""


class Alike(NamedTuple):
    """Steps of about one size."""

    shape: Shape
    """The shape of the middle window."""
    steps: int


class CascadeCeiling(Contender[RefineOptions]):
    """Global and local steps with the program's own network, precision and batch, which is one."""

    def prepare(self) -> Ready:
        """Load the bundle, sample windows and run each step once."""
        cascade = loaded_cascade(self._task.options)
        self._network = cascade.model.network
        pin_arithmetic(usable_cores())
        side = cascade.settings.side
        with opened(self._task) as image, open_input_mask(named_mask(self._task.mask), self._task.options) as mask:
            view = cascade.view(images.inspect(self._task.image))
            boxes = list(_spread(image.info.size, side))
            # The published arithmetic makes a side that is a multiple of the stride larger by another stride.
            to = side + 2 * STRIDE
            self._images = [
                self._network.normalised(_reflected(view.read(image, box, pitch=1)[0], to))[None] for box in boxes
            ]
            inside = [_reflected(mask.read(box) == 1, to).astype(np.float32) * 2 - 1 for box in boxes]
        self._masks = [torch.from_numpy(values)[None, None] for values in inside]
        for step in ("global", "local"):
            # The first pass of a shape is slower: kernels are chosen and memory is taken from the system.
            self._passes(Shape(step=step, height=side + -side % STRIDE, width=side + -side % STRIDE))(0)
        return Ready(loaded=host_memory())

    def run(self, what: str, program: Took | None) -> Took:
        """Time steps of the sizes that a run had, and return the time that all of its steps would take.

        Args:
            what: Unused.
            program: The steps of the program's run by their size, and its time.
        """
        del what
        if program is None:
            raise RuntimeError
        least, seconds, tried = least_seconds(program), 0.0, 0
        together = sum(_pixels(shape) * count for shape, count in program.by_shape.items())
        with measured(self._network.device) as found:
            for alike in alike_steps(program.by_shape):
                share = _pixels(alike.shape) * alike.steps / together
                spent, steps = repeated(
                    self._passes(alike.shape), batches=SAMPLE, least=least * share, device=self._network.device
                )
                seconds += alike.steps * spent / steps
                tried += steps
        return scaled(found, seconds=seconds, windows=program.windows, tried=tried)

    def _passes(self, shape: Shape) -> Any:
        """Return a function that runs one step over the sample of a given number, and returns 1."""
        device, part = self._network.device, (..., slice(shape.height), slice(shape.width))
        given = [
            (image[part].contiguous().to(device), mask[part].contiguous().to(device))
            for image, mask in zip(self._images, self._masks, strict=True)
        ]
        return partial(self._step, shape, given)

    def _step(self, shape: Shape, given: list[tuple[Tensor, Tensor]], number: int) -> int:
        image, mask = given[number]
        if shape.step == "global":
            self._network.three_levels(image, mask)
        else:
            self._network.two_levels(image, mask, mask)
        return 1


def alike_steps(by_shape: Mapping[Shape, int]) -> list[Alike]:
    """Group steps of the same kind by size, into as many groups as there are shapes, up to `MOST_SHAPES`.

    Args:
        by_shape: Number of steps of each shape.
    """
    found = []
    for step in ("global", "local"):
        shapes = sorted((shape for shape in by_shape if shape.step == step), key=_pixels)
        groups = min(len(shapes), MOST_SHAPES // 2)
        for number in range(groups):
            group = shapes[number * len(shapes) // groups : (number + 1) * len(shapes) // groups]
            count = sum(by_shape[shape] for shape in group)
            mean = sum(_pixels(shape) * by_shape[shape] for shape in group) / count
            middle = min(group, key=lambda shape: abs(_pixels(shape) - mean))
            found.append(Alike(shape=middle, steps=count))
    return found


def _pixels(shape: Shape) -> int:
    return step_pixels(shape.step, shape.height, shape.width)


def _spread(size: Size, side: int) -> Iterator[Box]:
    """Yield the windows evenly from corner to corner."""
    across, down = max(0, size.width - side), max(0, size.height - side)
    for number in range(SAMPLE):
        x, y = (room * number // (SAMPLE - 1) for room in (across, down))
        yield Box(x=x, y=y, width=side, height=side).intersection(Box.whole(size))


def _reflected(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return `(height, width, ...)` as a square of a side."""
    missing = [(0, side - length) for length in values.shape[:2]]
    return np.pad(values, [*missing, (0, 0)][: values.ndim], mode="symmetric")
