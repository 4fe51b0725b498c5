"""How much a cascade has to look at, at most: passes, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from magnet_cli.arithmetic.cascade.pyramid import LevelPart, cascade_levels, spans
from magnet_cli.refinement.refinement_plan import LevelPass

if TYPE_CHECKING:
    from magnet_cli.arithmetic.cascade.steps import CascadeSettings
    from magnet_cli.geometry import Size
    from magnet_cli.refinement.refinement_plan import RefinePlan

GLOBAL, LOCAL = 3, 2
"""Passes through the module in a global and in a local step."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Steps of the network over wholes and windows, before anybody knows which windows hold a border."""

    steps: int = 0
    pixels: int = 0
    """That all passes of these steps look at, together."""

    def __add__(self, other: Effort) -> Effort:
        return Effort(steps=self.steps + other.steps, pixels=self.pixels + other.pixels)

    def windows(self, side: int) -> float:
        """How many local steps over full windows of a side look at as many pixels."""
        return self.pixels / (LOCAL * side * side)


def effort_of(plan: RefinePlan) -> Effort:
    """The most that a plan comes to."""
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
    """What all passes of one step look at.

    Args:
        step: `global` or `local`.
        height: Of what is looked at.
        width: Likewise.
    """
    return (GLOBAL if step == "global" else LOCAL) * height * width


@lru_cache(maxsize=4096)
def _of_region(size: Size, cascade: CascadeSettings) -> Effort:
    """Of an object that is held as a whole."""
    longest = max(size.width, size.height)
    least = cascade.side if cascade.published else min(cascade.least, cascade.side)
    if longest < least:
        whole = Effort(steps=1, pixels=GLOBAL * size.pixels * least**2 // longest**2)
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
    """Of a level of a large object: blocks look again at the windows that they share."""
    if step.index == 0:
        return Effort(steps=1, pixels=GLOBAL * step.level.size.pixels)
    found = Effort()
    for block in [] if step.fast else step.blocks:
        windows = LevelPart(level=step.level, box=block, side=step.side).windows
        found += Effort(steps=len(windows), pixels=LOCAL * sum(window.box.area for window in windows))
    return found
