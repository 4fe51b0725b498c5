"""The table of stored resolutions."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from magnet_cli.geometry import LEVEL0, Pitch, Size
from magnet_cli.images.protocol import Level
from magnet_cli.images.resampling import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ASPECT_TOLERANCE = 0.02
"""Relative difference of the axes' downsamples beyond which a picture is no level but a label or a macro image."""


def axis_downsample(full: int, stored: int) -> Fraction:
    """Return the level-0 pixels that a stored pixel covers along an axis.

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
    """Return the level-0 pixels of a stored pixel, by the longer axis where the shorter agrees with it."""
    x = axis_downsample(full.width, stored.width)
    y = axis_downsample(full.height, stored.height)
    longer, other, length = (
        (x, full.height, stored.height) if full.width >= full.height else (y, full.width, stored.width)
    )
    # The shorter side of a deep level has few pixels, so its own ratio is the less exact one.
    if longer.denominator == 1 and length in (max(1, other // longer.numerator), -(-other // longer.numerator)):
        return Pitch.square(longer)
    whole = round(
        Fraction(full.width, stored.width) if full.width >= full.height else Fraction(full.height, stored.height)
    )
    if shrinks(full, stored, whole) and not any(shrinks(full, stored, other) for other in (whole - 1, whole + 1)):
        return Pitch.square(whole)
    return Pitch(x=x, y=y)


def shrinks(full: Size, stored: Size, factor: int) -> bool:
    """Return whether shrinking by a whole factor gives the stored size, each side rounded either way."""
    return factor > 0 and all(
        length in (max(1, whole // factor), -(-whole // factor))
        for whole, length in ((full.width, stored.width), (full.height, stored.height))
    )


def is_reduction(full: Size, stored: Size) -> bool:
    """Return whether a stored picture can be a smaller version of the full one, judged by its shape."""
    if stored.width > full.width or stored.height > full.height or stored == full:
        return False
    fits_x = stored.width * full.height
    fits_y = stored.height * full.width
    slack = max(full.width, full.height)
    return abs(fits_x - fits_y) <= max(ASPECT_TOLERANCE * max(fits_x, fits_y), slack)


def placements(full: Size, stored: Size, *, tile: Size | None, before: Sequence[Pitch] = ()) -> tuple[Level, ...]:
    """Return the levels that a stored picture may be by its shape, the likeliest first; none where no level fits.

    A picture that was padded to whole tiles has the power of two, or of the step between the levels before it, whose
    level fills as many tiles; the padding is no part of the level.

    Args:
        full: Size of level 0 in pixels.
        stored: Size of the picture in pixels.
        tile: Tile size of the picture's storage; None where it has no tiles.
        before: Downsamples of the finer levels that are known, level 0 left out, rising.
    """
    fitting = is_reduction(full, stored)
    exact = Level(size=stored, downsample=downsample(full, stored))
    if fitting and exact.downsample.x == exact.downsample.y and exact.downsample.x.denominator == 1:
        return (exact,)
    if stored.width > full.width + (tile.width if tile else 0) or stored.height > full.height + (
        tile.height if tile else 0
    ):
        return ()
    last = before[-1].x if before else Fraction(1)
    step = last / before[-2].x if len(before) > 1 else last if before else Fraction(2)
    found = (
        []
        if tile is None
        else [
            Level(size=_shrunk(full, stored, power), downsample=Pitch.square(power))
            for power in _powers(full, step)
            if power > last and _is_padded(full, stored, tile, power)
        ]
    )
    # Programs shrink by the same factor from level to level, so the next such step is the likeliest.
    found.sort(key=lambda level: (level.downsample.x != last * step, level.downsample.x))
    return (*found, *((exact,) if fitting else ()))


def _powers(full: Size, step: Fraction) -> Iterator[int]:
    """Return the powers of two, and of the step between the levels of the image, up to its longer side."""
    longest = max(full.width, full.height)
    steps = {2} | ({int(step)} if step.denominator == 1 and step > 1 else set())
    found = {base**power for base in steps for power in range(1, longest.bit_length() + 1)}
    return (power for power in sorted(found) if power <= longest)


def _shrunk(full: Size, stored: Size, power: int) -> Size:
    """Return the pixels that surely belong to a padded level: its padding hides whether a side was rounded up."""
    sides = []
    for whole, length in ((full.width, stored.width), (full.height, stored.height)):
        low, high = max(1, whole // power), -(-whole // power)
        sides.append(length if length in (low, high) else low)
    return Size(width=sides[0], height=sides[1])


def _is_padded(full: Size, stored: Size, tile: Size, power: int) -> bool:
    """Return whether a level of this downsample has the stored size, or fills tiles that have it."""
    sides = ((full.width, stored.width, tile.width), (full.height, stored.height, tile.height))
    return all(
        any(length in (shrunk, -(-shrunk // side) * side) for shrunk in {max(1, whole // power), -(-whole // power)})
        for whole, length, side in sides
    )


def level_table(full: Size, reduced: Iterable[Size]) -> tuple[Level, ...]:
    """Return level 0 and the reduced levels, in the order given."""
    levels = [Level(size=full, downsample=LEVEL0)]
    levels.extend(Level(size=size, downsample=downsample(full, size)) for size in reduced)
    return tuple(levels)


def choose_level(levels: Sequence[Level], pitch: Pitch) -> int:
    """Return the index of the coarsest level that is not coarser than the pitch; 0 where the pitch is below 1."""
    chosen = 0
    for index, level in enumerate(levels):
        fits = level.downsample.x <= pitch.x * (1 + Fraction(TOLERANCE)) and level.downsample.y <= pitch.y * (
            1 + Fraction(TOLERANCE)
        )
        if fits and level.downsample.x >= levels[chosen].downsample.x:
            chosen = index
    return chosen
