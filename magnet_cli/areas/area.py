"""The protocol of every kind of area, and the intersection of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box, Pitch


def percent(share: float) -> str:
    """Write a share, 0 to 1, in percent: with one decimal place, or with its first digit where that is below 0.1 %."""
    return f"{100 * share:.1f} %" if share >= 0.001 or not share else f"{100 * share:.1g} %"  # noqa: PLR2004 - 0.1 %


class Area(Protocol):
    """A part of level 0. Its methods may be called from several threads at once."""

    def touches(self, box: Box) -> bool:
        """Return whether something of a level-0 box may lie in the area; False only where nothing does."""

    def mask(self, box: Box, pitch: Pitch) -> NDArray[np.bool_]:
        """Return `(box.height, box.width)`, True where the centre of a pixel of this pitch lies in the area."""


@dataclass(frozen=True, kw_only=True)
class Both:
    """The intersection of several areas."""

    areas: Sequence[Area]

    def touches(self, box: Box) -> bool:
        """Return whether something of a level-0 box may lie in every area."""
        return all(area.touches(box) for area in self.areas)

    def mask(self, box: Box, pitch: Pitch) -> NDArray[np.bool_]:
        """Return where the centres of pixels lie in every area, `(box.height, box.width)` bool."""
        first, *others = self.areas
        inside = first.mask(box, pitch)
        for area in others:
            inside &= area.mask(box, pitch)
        return inside
