"""An upper bound on the work of a cascade: steps of the network, and the pixels that go through it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from magnet_cli.arithmetic.cascade.pyramid import cascade_levels, spans
from magnet_cli.refinement.refinement_plan import LevelPass

if TYPE_CHECKING:
    from magnet_cli.arithmetic.cascade.steps import CascadeSettings
    from magnet_cli.geometry import Size
    from magnet_cli.refinement.refinement_plan import RefinePlan

GLOBAL, LOCAL = 3, 2
"""Forward passes through the module in a global and in a local step (CascadePSP)."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """The work of global and local steps if every window holds a border. Windows without one are skipped in the run."""

    steps: int = 0
    pixels: int = 0
    """Pixels that go through the module in all passes of these steps."""

    def __add__(self, other: Effort) -> Effort:
        return Effort(steps=self.steps + other.steps, pixels=self.pixels + other.pixels)

    def windows(self, side: int) -> float:
        """Return the number of local steps over full windows of a side that have as many pixels."""
        return self.pixels / (LOCAL * side * side)


def effort_of(plan: RefinePlan) -> Effort:
    """Return the most work that a plan may take."""
    cascade, census = plan.settings.cascade, plan.census
    found = Effort()
    for number in range(census.small):
        region = census.region(census.at(number).box)
        found += _of_region(region.size, cascade)
    for step in plan.passes:
        if isinstance(step, LevelPass):
            found += _of_level(step)
    return found


def step_pixels(step: str, height: int, width: int) -> int:
    """Return the pixels that go through the module in all passes of one step.

    Args:
        step: `global` or `local`.
        height: Height of the step's input in pixels.
        width: Width of the step's input in pixels.
    """
    return (GLOBAL if step == "global" else LOCAL) * height * width


# A mask has many objects of one size. The bound keeps the cache from growing with the mask.
@lru_cache(maxsize=4096)
def _of_region(size: Size, cascade: CascadeSettings) -> Effort:
    """Return the work of an object that is held as a whole."""
    longest = max(size.width, size.height)
    least = cascade.side if cascade.published else min(cascade.least, cascade.side)
    if longest < least:
        whole = Effort(steps=1, pixels=GLOBAL * size.pixels * least**2 // longest**2)
        # The published program runs windows at full size even over objects that are smaller than the network's input.
        return whole + _of_windows(size, side=cascade.side) if cascade.published and not cascade.fast else whole
    first, *finer = cascade_levels(size, side=cascade.side)
    found = Effort(steps=1, pixels=GLOBAL * first.size.pixels)
    for level in [] if cascade.fast else finer[-1:] if cascade.published else finer:
        found += _of_windows(level.size, side=cascade.side)
    return found


def _of_windows(size: Size, *, side: int) -> Effort:
    rows, columns = spans(size.height, side=side), spans(size.width, side=side)
    height, width = (sum(span.end - span.begin for span in along) for along in (rows, columns))
    return Effort(steps=len(rows) * len(columns), pixels=LOCAL * height * width)


def _of_level(step: LevelPass) -> Effort:
    """Return the work of a level of a large object, each of whose windows is computed once."""
    if step.index == 0:
        return Effort(steps=1, pixels=GLOBAL * step.level.size.pixels)
    return _of_windows(step.level.size, side=step.side) if step.has_windows else Effort()
