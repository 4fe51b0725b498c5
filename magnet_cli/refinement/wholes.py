"""The pass over objects that are held as a whole: each is cut out and refined, and claims the pixels of its region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from skimage.measure import label as connected
from typing_extensions import override

from magnet_cli.arithmetic.cascade.carry import refine_object
from magnet_cli.arithmetic.cascade.fusion import UNKNOWN, as_claim
from magnet_cli.images.protocol import NODATA
from magnet_cli.refinement.pass_context import Counted
from magnet_cli.refinement.refinement_plan import claims_name
from magnet_cli.run.job import Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box
    from magnet_cli.masks.spec import GroupId
    from magnet_cli.refinement.pass_context import RefineWork
    from magnet_cli.refinement.survey import MaskObject


@dataclass(frozen=True, kw_only=True)
class CutOut:
    """The region of an object: its pixels, its mask, and where it may claim."""

    label: int
    box: Box
    pixels: NDArray[Any]
    """Pixels of the image, `(height, width, 3)`."""
    inside: NDArray[np.bool_]
    """True on the object, `(height, width)`."""
    silent: NDArray[np.bool_]
    """True where nothing may be claimed, `(height, width)`."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The refined probability of an object, by which it claims pixels."""

    label: int
    box: Box
    values: NDArray[np.uint8]
    """The probability v / 254 of each pixel of the box, `(height, width)`; 255 where nothing is claimed."""
    counts: dict[str, int]


class Objects(Runner):
    """The pass over objects that are held as a whole."""

    def __init__(self, work: RefineWork) -> None:
        self._work = work

    @override
    def read(self, group: int) -> CutOut:
        each = self._work.plan.census.at(group)
        box = self._work.plan.census.region(each.box)
        pixels, valid = self._work.pixels(box, pitch=1)
        labels = self._work.mask.read(box)
        alike = labels == each.label
        # Another object of the class may reach into the region. It is refined by itself.
        inside = _component(alike, each, box)
        silent = labels == NODATA
        if self._work.plan.is_binary:
            # Other objects of a binary mask are no background of this one. Each claims its own pixels.
            silent |= alike & ~inside
        return CutOut(
            label=each.label,
            box=box,
            pixels=pixels,
            inside=inside,
            silent=silent if valid is None else silent | ~valid,
        )

    @override
    def compute(self, given: CutOut, known: None) -> Claim:
        del known
        network = Counted(self._work.network)
        mask = torch.from_numpy(given.inside.astype(np.float32))
        image = self._work.network.normalised(given.pixels)
        found = refine_object(image, mask, network, self._work.plan.settings.cascade)
        values = as_claim(found.numpy())
        values[given.silent] = UNKNOWN
        return Claim(
            label=given.label,
            box=given.box,
            values=values,
            counts={"wholes": network.wholes, "windows": network.windows},
        )

    @override
    def store(self, group: GroupId, found: Claim) -> dict[str, object]:
        name = claims_name(found.label)
        self._work.resources.sink.put_field(group, name=name, box=found.box, values=found.values[None])
        return {**found.counts}


def _component(alike: NDArray[np.bool_], each: MaskObject, box: Box) -> NDArray[np.bool_]:
    """Return the pixels of one object among those of its class. The box contains the whole object."""
    # The survey counts objects in the same way: pixels that touch at a corner belong together.
    numbers = connected(alike, connectivity=2)  # type: ignore[no-untyped-call]
    row, col = each.seed
    found: NDArray[np.bool_] = numbers == numbers[row - box.y, col - box.x]
    return found
