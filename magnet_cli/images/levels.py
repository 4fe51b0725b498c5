"""The table of stored resolutions."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from magnet_cli.geometry import LEVEL0, Pitch
from magnet_cli.images.protocol import Level
from magnet_cli.images.resampling import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magnet_cli.geometry import Size

ASPECT_TOLERANCE = 0.02
"""Relative difference of the axes' downsamples beyond which a picture is no level but a label or a macro image."""


def axis_downsample(full: int, stored: int) -> Fraction:
    """Level-0 pixels that a stored pixel covers along an axis.

    Snapped to a power of two where shrinking by it gives the stored length, rounded either way; else the exact ratio.
    """
    power = 1
    while full // power >= stored:
        if stored in (full // power, -(-full // power)):
            return Fraction(power)
        power *= 2
    if -(-full // power) == stored:
        return Fraction(power)
    return Fraction(full, stored)


def downsample(full: Size, stored: Size) -> Pitch:
    """Level-0 pixels that a stored pixel covers: the longer axis decides for both where the shorter agrees with it."""
    x = axis_downsample(full.width, stored.width)
    y = axis_downsample(full.height, stored.height)
    longer, other, length = (
        (x, full.height, stored.height) if full.width >= full.height else (y, full.width, stored.width)
    )
    if longer.denominator == 1 and length in (max(1, other // longer.numerator), -(-other // longer.numerator)):
        return Pitch.square(longer)
    return Pitch(x=x, y=y)


def is_reduction(full: Size, stored: Size) -> bool:
    """Whether a stored picture can be a smaller version of the full one, judged by its shape."""
    if stored.width > full.width or stored.height > full.height or stored == full:
        return False
    fits_x = stored.width * full.height
    fits_y = stored.height * full.width
    slack = max(full.width, full.height)
    return abs(fits_x - fits_y) <= max(ASPECT_TOLERANCE * max(fits_x, fits_y), slack)


def level_table(full: Size, reduced: Iterable[Size]) -> tuple[Level, ...]:
    """Level 0 and the reduced ones, in the order given."""
    levels = [Level(size=full, downsample=LEVEL0)]
    levels.extend(Level(size=size, downsample=downsample(full, size)) for size in reduced)
    return tuple(levels)


def choose_level(levels: Sequence[Level], pitch: Pitch) -> int:
    """Index of the coarsest level that is not coarser than the pitch; 0 where the pitch is below 1."""
    chosen = 0
    for index, level in enumerate(levels):
        fits = level.downsample.x <= pitch.x * (1 + Fraction(TOLERANCE)) and level.downsample.y <= pitch.y * (
            1 + Fraction(TOLERANCE)
        )
        if fits and level.downsample.x >= levels[chosen].downsample.x:
            chosen = index
    return chosen
