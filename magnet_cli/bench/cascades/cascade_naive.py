"""The published arithmetic done as published: the whole image as one region in memory, float32, the model as loaded.

It runs `arithmetic/published/cascade_steps.py`, which meets the golden values of the published package.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli import images
from magnet_cli.arithmetic.cascade.steps import BORDER, STRIDE
from magnet_cli.arithmetic.published.cascade_steps import refine_published
from magnet_cli.bench.cascades.cascade_program import Watched, loaded_cascade, named_mask
from magnet_cli.bench.ceiling import opened
from magnet_cli.bench.patching import refusal
from magnet_cli.bench.task import Contender, Ready, Took
from magnet_cli.bench.timing import measured, synchronise
from magnet_cli.geometry import Box
from magnet_cli.models.cascade_networks import load_cascade
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.pairs import open_input_mask
from magnet_cli.system.memory import host_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.refinement.pass_context import Sharpener

MAPS = 14
"""Float32 maps of the image's size that live together: three bands, the mask as it is and as -1 to 1, both results of
the global step enlarged, what is inside of them, both as -1 to 1, the sum of the windows, their number, the mean and
the result; counted in the source."""
ROWS = 1024
"""The rows of the image that are read at a time."""


class CascadeNaive(Contender[RefineOptions]):
    """The published package's arithmetic over one mask."""

    def prepare(self) -> Ready:
        """Load the network and read image and mask, if there is room for maps of their size."""
        cascade = loaded_cascade(self._task.options)
        with open_input_mask(named_mask(self._task.mask), self._task.options) as mask:
            if mask.reading.kind == "labels":
                reason = "the published program sharpens one object, and this mask has several classes"
                return Ready(refusal="does not apply", reason=reason)
            needs = MAPS * 4 * mask.size.pixels
            refused = refusal(needs, device="cpu")
            if refused is not None:
                return refused
            pin_arithmetic(usable_cores())
            self._settings = cascade.settings
            exact = replace(cascade.model.bundle, compat="published")
            self._network = TimedCascade(load_cascade(exact, device=cascade.machine.device, precision="float32"))
            # This comes before the image and the mask are read, whose memory belongs to the runs.
            loaded, view = host_memory(), cascade.view(images.inspect(self._task.image))
            self._image, self._mask = _empty(mask.size, 3), _empty(mask.size, 1)[0]
            with opened(self._task) as image:
                for top in range(0, mask.size.height, ROWS):
                    box = Box(x=0, y=top, width=mask.size.width, height=min(ROWS, mask.size.height - top))
                    pixels = view.read(image, box, pitch=1)[0]
                    self._image[:, box.y : box.bottom] = self._network.normalised(pixels)
                    self._mask[box.y : box.bottom] = torch.from_numpy((mask.read(box) == 1).astype(np.float32))
        side = self._settings.side + -self._settings.side % STRIDE
        few = torch.zeros((1, 3, side, side), device=self._network.device)
        self._network.two_levels(few, few[:, :1], few[:, :1])
        return Ready(loaded=loaded, needs=needs)

    def run(self, what: str, program: Took | None) -> Took:
        """Sharpen the mask that is in memory."""
        del what, program
        self._network.reset()
        with measured(self._network.device) as found:
            probs = refine_published(
                self._image, self._mask, self._network, side=self._settings.side, fast=self._settings.fast
            )
            probs > BORDER  # noqa: B015 - the mask, which the program makes too
        parts = {**self._network.seconds, "rest": found.seconds - sum(self._network.seconds.values())}
        return Took(
            seconds=found.seconds,
            windows=self._network.shapes.total(),
            host_base=found.host_base,
            host_peak=found.host_peak,
            device_peak=found.device_peak,
            parts={name: round(seconds, 3) for name, seconds in parts.items()},
        )


class TimedCascade(Watched):
    """A network with a watch.

    Args:
        network: The network whose time is measured.
    """

    def __init__(self, network: Sharpener) -> None:
        super().__init__(network)
        self.reset()

    def reset(self) -> None:
        """Set the counts and the seconds to zero."""
        self.shapes.clear()
        self.seconds = {"global": 0.0, "local": 0.0}

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run the three passes of the global step, timed."""
        return self._timed("global", lambda: super(TimedCascade, self).three_levels(images, masks))

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two passes of the local step, timed."""
        return self._timed("local", lambda: super(TimedCascade, self).two_levels(images, masks, coarse))

    def _timed(self, step: str, call: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        synchronise(self.device)
        start = time.perf_counter()
        found = call()
        # A GPU still computes when a call returns, so the clock stops once it is done.
        synchronise(self.device)
        self.seconds[step] += time.perf_counter() - start
        return found


def _empty(size: Size, bands: int) -> Tensor:
    return torch.empty((bands, size.height, size.width))
