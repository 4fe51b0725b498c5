"""Passes over large objects, level by level: each block reads the result of the level before from the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import override

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.area_means import area_mean
from magnet_cli.arithmetic.cascade.carry import carried, noted
from magnet_cli.arithmetic.cascade.fusion import UNKNOWN, as_claim
from magnet_cli.arithmetic.cascade.steps import BORDER, S1, global_step, holds_border, local_step
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images.protocol import NODATA
from magnet_cli.refinement.level_fields import joined_level
from magnet_cli.refinement.pass_context import Counted
from magnet_cli.refinement.refinement_plan import share_name
from magnet_cli.run.job import Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.refinement.pass_context import RefineWork
    from magnet_cli.refinement.refinement_plan import LevelPass

RIM = 1
"""Pixels of the level before around a block that bilinear interpolation needs."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a level with everything that is needed to refine it."""

    group: int
    box: Box
    """The pixels that the block computes, on the level's grid."""
    area: Box
    """The pixels that are read to compute those of `box`: the windows around it."""
    own: Tensor
    """The input mask over `area`, `(height, width)` float32 in [0, 1]."""
    start: Tensor | None
    """The probabilities over `area` from which the level starts, `(2, height, width)`. None for the first level."""
    pixels: NDArray[Any] | None
    """Pixels of the image. None if no window holds a border, so that the network does not run."""
    silent: NDArray[np.bool_] | None
    """Pixels of `box` on which nothing may be claimed, on the last level. None on others."""


@dataclass(frozen=True, kw_only=True)
class Sharpened:
    """The result of a block."""

    box: Box
    values: NDArray[np.uint8]
    """Values as the journal stores them, `(LevelPass.channels, height, width)`; on the last level the claims."""
    counts: dict[str, int]


class Levels(Runner):
    """The pass over one level of a large object."""

    def __init__(self, work: RefineWork, step: LevelPass) -> None:
        self._work = work
        self._step = step
        self._blocks = step.blocks
        self._results = work.resources.results

    @override
    def read(self, group: int) -> Block:
        step = self._step
        if step.index == 0:
            return self._read_whole()
        part = step.part(group) if step.has_windows else None
        box = self._blocks[group] if part is None else part.box
        area = box if part is None else part.area
        own = self._share(step, area)
        start = carried(self._before(area).sample(area, step.level.pitch), own)
        windows = () if part is None else part.windows
        runs = any(holds_border(start[S1, *_within(window.box, area)]) for window in windows)
        # Even if the network does not run, claims may change labels on the last level. They must not where the image
        # holds no data, so its validity is read for them too.
        claims = step.is_last and bool(((start[S1] > BORDER) != (own > BORDER)).any())
        pixels, valid = self._work.pixels(step.on_image(area), pitch=step.reading) if runs or claims else (None, None)
        silent = self._silent(box, area, valid) if step.is_last else None
        return Block(
            group=group, box=box, area=area, own=own, start=start, pixels=pixels if runs else None, silent=silent
        )

    @override
    def compute(self, given: Block, known: None) -> Sharpened:
        del known
        network, step = Counted(self._work.network), self._step
        box, area, pitch = given.box, given.area, step.level.pitch
        if given.start is None and given.pixels is not None:
            image = _shrunk(self._work.network.normalised(given.pixels), step)
            own = _shrunk(given.own[None], step)[0]
            found = noted(global_step(image, own, network, pitch=pitch), own).values
        elif given.start is not None and given.pixels is not None:
            image = self._work.network.normalised(given.pixels)
            start = Canvas(values=given.start, box=area, pitch=pitch)
            found = local_step(image, start, network, step.part(given.group)).values
        elif given.start is not None:
            found = given.start[:, *_within(box, area)]
        else:
            message = "the first level of an object is always computed"
            raise RuntimeError(message)
        values = as_claim(found.numpy())
        if given.silent is not None:
            # Only the probability of the finest scale claims pixels. The other channels start the next level, and there
            # is none.
            values = values[S1][None]
            values[0, given.silent] = UNKNOWN
        return Sharpened(box=box, values=values, counts={"wholes": network.wholes, "windows": network.windows})

    @override
    def store(self, group: GroupId, found: Sharpened) -> dict[str, object]:
        name = self._step.layer(group.index)
        self._work.resources.sink.put_field(group, name=name, box=found.box, values=found.values)
        return {**found.counts}

    def _read_whole(self) -> Block:
        """Read the whole region for the first level, at the next finer pitch that is a power of two."""
        step = self._step
        fine = Pitch.square(step.reading).cover(step.region.size)
        whole = Box.whole(fine)
        pixels, _ = self._work.pixels(step.on_image(whole), pitch=step.reading)
        return Block(
            group=0,
            box=Box.whole(step.level.size),
            area=whole,
            own=self._share(step, whole),
            start=None,
            pixels=pixels,
            silent=None,
        )

    def _share(self, step: LevelPass, box: Box) -> Tensor:
        """Read the input mask at the pitch at which a level is read."""
        if step.reading == 1:
            found = self._work.mask.read(step.on_image(box)) == step.label
        else:
            found = self._results.read_field(share_name(step.label, step.reading), box)[0]
        return torch.from_numpy(found.astype(np.float32))

    def _before(self, area: Box) -> Canvas:
        """Read the result of the level before under an area, with the rim that interpolation needs."""
        step = self._step.before
        level = step.level
        box = level.pitch.around(area, self._step.level.pitch).grown(RIM).intersection(Box.whole(level.size))
        found = Canvas(values=torch.from_numpy(joined_level(self._results, step, box)), box=box, pitch=level.pitch)
        # Blocks that share pixels cannot say by themselves which ones the level has changed.
        return noted(found, self._share(step, box)) if step.has_windows else found

    def _silent(self, box: Box, area: Box, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        silent: NDArray[np.bool_] = self._work.mask.read(self._step.on_image(box)) == NODATA
        return silent if valid is None else silent | ~valid[_within(box, area)]


def _within(box: Box, area: Box) -> tuple[slice, slice]:
    return box.shifted(x=-area.x, y=-area.y).slices


def _shrunk(values: Tensor, step: LevelPass) -> Tensor:
    """Shrink `(channels, h, w)` values from the pitch at which they were read to that of the level, by area means."""
    pitch, size = step.level.pitch, step.level.size
    rows = area_mean(values, dim=1, pitch=pitch.y / step.reading, count=size.height)
    return area_mean(rows, dim=2, pitch=pitch.x / step.reading, count=size.width)
