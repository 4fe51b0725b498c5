"""Large objects, level by level: each block of a level reads what the level before it left in the journal."""

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
from magnet_cli.arithmetic.cascade.pyramid import LevelPart
from magnet_cli.arithmetic.cascade.steps import BORDER, S1, global_step, holds_border, local_step
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images.protocol import NODATA
from magnet_cli.refinement.pass_context import Counted
from magnet_cli.refinement.refinement_plan import claims_name, share_name
from magnet_cli.run.job import Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.refinement.pass_context import RefineWork
    from magnet_cli.refinement.refinement_plan import LevelPass

RIM = 1
"""Pixels of the level before that a block needs around it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a block of a level looks at."""

    part: LevelPart
    own: Tensor
    """The mask over `part.area`, `(height, width)` float32."""
    start: Tensor | None
    """What the level starts from, `(2, height, width)`; None for the first level."""
    pixels: NDArray[Any] | None
    """Stored values; None where no window holds a border."""
    silent: NDArray[np.bool_] | None
    """On the last level, over `part.box`: where nothing may be claimed."""


@dataclass(frozen=True, kw_only=True)
class Sharpened:
    """What was found in a block."""

    box: Box
    values: NDArray[np.uint8]
    """`(channels, height, width)` as the journal keeps them; claims on the last level."""
    counts: dict[str, int]


class Levels(Runner):
    """The pass over one level of a large object."""

    def __init__(self, work: RefineWork, step: LevelPass) -> None:
        self._work = work
        self._step = step
        self._blocks = step.blocks

    @override
    def read(self, group: int) -> Block:
        step = self._step
        if step.index == 0:
            return self._read_whole()
        part = LevelPart(level=step.level, box=self._blocks[group], side=step.side)
        area = part.box if step.fast else part.area
        own = self._share(area)
        start = carried(self._before(area).sample(area, step.level.pitch), own)
        runs = not step.fast and any(holds_border(start[S1, *_within(window.box, area)]) for window in part.windows)
        # Also where the claims alone would change something they must be silent where the image holds no data.
        claims = step.is_last and bool(((start[S1] > BORDER) != (own > BORDER)).any())
        pixels, valid = self._work.pixels(step.on_image(area), pitch=step.reading) if runs or claims else (None, None)
        silent = self._silent(part.box, area, valid) if step.is_last else None
        return Block(part=part, own=own, start=start, pixels=pixels if runs else None, silent=silent)

    @override
    def compute(self, given: Block, known: None) -> Sharpened:
        del known
        network, step = Counted(self._work.network), self._step
        box, pitch = given.part.box, step.level.pitch
        area = box if step.fast else given.part.area
        own = given.own[_within(box, area)]
        if given.start is None and given.pixels is not None:
            image = _shrunk(self._work.network.normalised(given.pixels), step)
            own = _shrunk(given.own[None], step)[0]
            found = global_step(image, own, network, pitch=pitch)
        elif given.start is not None and given.pixels is not None:
            image = self._work.network.normalised(given.pixels)
            start = Canvas(values=given.start, box=area, pitch=pitch)
            found = local_step(image, start, network, given.part)
        elif given.start is not None:
            found = Canvas(values=given.start[:, *_within(box, area)], box=box, pitch=pitch)
        else:
            message = "a first level is always looked at"
            raise RuntimeError(message)
        values = as_claim(noted(found, own).values.numpy())
        if given.silent is not None:
            values = values[S1][None]
            values[0, given.silent] = UNKNOWN
        return Sharpened(box=box, values=values, counts={"wholes": network.wholes, "windows": network.windows})

    @override
    def store(self, group: GroupId, found: Sharpened) -> dict[str, object]:
        step, sink = self._step, self._work.resources.sink
        if step.is_last:
            sink.put_field(group, name=claims_name(step.label), box=step.on_image(found.box), values=found.values)
        else:
            sink.put_field(group, name=step.field(step.index), box=found.box, values=found.values)
        return {**found.counts}

    def _read_whole(self) -> Block:
        """The first level: the whole region, at a pitch that image and mask are read at."""
        step = self._step
        fine = Pitch.square(step.reading).cover(step.region.size)
        whole = Box.whole(fine)
        pixels, _ = self._work.pixels(step.on_image(whole), pitch=step.reading)
        part = LevelPart(level=step.level, box=Box.whole(step.level.size), side=step.side)
        return Block(part=part, own=self._share(whole), start=None, pixels=pixels, silent=None)

    def _share(self, box: Box) -> Tensor:
        """The mask at the pitch at which the level is read."""
        step = self._step
        if step.reading == 1:
            found = self._work.mask.read(step.on_image(box)) == step.label
        else:
            found = self._work.resources.results.read_field(share_name(step.label, step.reading), box)[0]
        return torch.from_numpy(found.astype(np.float32))

    def _before(self, area: Box) -> Canvas:
        """What the level before says under an area and around it."""
        before = self._step.levels[self._step.index - 1]
        box = before.pitch.around(area, self._step.level.pitch).grown(RIM).intersection(Box.whole(before.size))
        values = self._work.resources.results.read_field(self._step.field(self._step.index - 1), box)
        return Canvas(values=torch.from_numpy(values.astype(np.float32)), box=box, pitch=before.pitch)

    def _silent(self, box: Box, area: Box, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        silent: NDArray[np.bool_] = self._work.mask.read(self._step.on_image(box)) == NODATA
        return silent if valid is None else silent | ~valid[_within(box, area)]


def _within(box: Box, area: Box) -> tuple[slice, slice]:
    return box.shifted(x=-area.x, y=-area.y).slices


def _shrunk(values: Tensor, step: LevelPass) -> Tensor:
    """`(channels, h, w)` at the pitch at which they were read, at the level's own."""
    pitch, size = step.level.pitch, step.level.size
    rows = area_mean(values, dim=1, pitch=pitch.y / step.reading, count=size.height)
    return area_mean(rows, dim=2, pitch=pitch.x / step.reading, count=size.width)
