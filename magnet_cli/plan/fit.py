"""Window sides with a unit as whole numbers of working-grid pixels."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.lengths import in_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import Resolution
    from magnet_cli.lengths import PhysicalScales

LEAST_PIXELS = 8
"""Working pixels of what all sides have in common: with fewer, the pixel chosen would lie far from the one wanted."""


def fit_exactly(scales: PhysicalScales, wanted: Fraction, unit: str) -> tuple[Fraction, tuple[Size, ...]] | None:
    """The size of a working pixel nearest to one that is wanted with which every side is a whole number of pixels.

    Args:
        scales: Window sides, coarsest first.
        wanted: Size of a pixel.
        unit: Of `wanted`, `um` or `m`.

    Returns:
        That size, and the sides in pixels; None where the sides have too little in common for it to be near.
    """
    sides = [in_unit(side, unit) for size in scales.sizes for side in (size.width, size.height)]
    common = reduce(_common, sides)
    if common < min(sides) and common < LEAST_PIXELS * wanted:
        return None
    pixel = common / max(1, round(common / wanted))
    sizes = tuple(
        Size(width=int(in_unit(size.width, unit) / pixel), height=int(in_unit(size.height, unit) / pixel))
        for size in scales.sizes
    )
    return pixel, sizes


def fit_rounded(scales: PhysicalScales, pixel: Resolution) -> tuple[tuple[Size, ...], tuple[str, ...]]:
    """Sides in working pixels of a size that is asked for, to the nearest whole one; multiples stay multiples.

    Args:
        scales: Window sides, coarsest first.
        pixel: Size of a working pixel.

    Returns:
        The sides, coarsest first, and a note where one of them is not what was asked.

    Raises:
        UsageError: A side is less than a pixel.
    """
    widths = [in_unit(size.width, pixel.unit) / pixel.x for size in scales.sizes]
    heights = [in_unit(size.height, pixel.unit) / pixel.y for size in scales.sizes]
    if min(widths + heights) < 1:
        raise UsageError(
            "a scale is at least one pixel of the working grid",
            value=f"{scales.sizes[-1]} at {float(pixel.x):.4g} {pixel.unit} a pixel",
            advice="Read at a finer size, or take larger scales",
        )
    sizes = tuple(
        Size(width=width, height=height) for width, height in zip(_whole(widths), _whole(heights), strict=True)
    )
    inexact = [
        f"{scale} is {float(width):.6g} x {float(height):.6g} pixels and taken as {size.width} x {size.height}"
        for scale, size, width, height in zip(scales.sizes, sizes, widths, heights, strict=True)
        if width != size.width or height != size.height
    ]
    if not inexact:
        return sizes, ()
    return sizes, (f"scales are whole pixels of the size that is read: {'; '.join(inexact)}",)


def _whole(exact: Sequence[Fraction]) -> list[int]:
    """Lengths, longest first, to the nearest whole number, from the shortest up: whole ratios are kept."""
    found: list[int] = []
    finer = None
    for length in reversed(exact):
        ratio = None if finer is None else length / finer
        whole = ratio is not None and ratio.denominator == 1
        found.append(found[-1] * int(ratio) if whole and ratio is not None else round(length))
        finer = length
    return found[::-1]


def _common(one: Fraction, other: Fraction) -> Fraction:
    """The largest length of which both are whole multiples."""
    shared = gcd(one.numerator * other.denominator, other.numerator * one.denominator)
    return Fraction(shared, one.denominator * other.denominator)
