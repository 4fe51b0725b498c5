"""Sides of windows, in pixels or with a unit of length: `--scales`."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from numbers import Integral
from typing import Literal, TypeVar, cast

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.forms import (
    DECIMAL_PATTERN,
    spell_decimal,
)
from magnet_cli.options.lengths import OTHER_SPELLINGS, UM_OF, UNIT_PATTERN, PhysicalScales, PhysicalSize, in_unit
from magnet_cli.options.option import Form

_SCALE = re.compile(rf"({DECIMAL_PATTERN})(?:x({DECIMAL_PATTERN}))?(?:\s*({UNIT_PATTERN}))?")


def parse_scales(text: str) -> tuple[Size, ...] | PhysicalScales | Literal["auto", "full"]:
    """Parse window sides in any order: `625,1250`, `256x128,512x256`, `320um,0.64mm`, `auto` or `full`.

    Returns:
        The sides, coarsest first, in working-grid pixels or with their units; or the word `auto` or `full`.

    Raises:
        UsageError: A side is no number, is smaller than a pixel, or occurs twice; of two windows neither holds the
            other; or some sides have a unit and others have none.
    """
    word = text.strip().lower()
    if word in ("auto", "full"):
        return cast("Literal['auto', 'full']", word)
    found = [_scale(part.strip(), text) for part in word.split(",")]
    physical = [size for size in found if isinstance(size, PhysicalSize)]
    if not physical:
        return tuple(_descending([size for size in found if isinstance(size, Size)]))
    if len(physical) < len(found):
        raise UsageError(
            "scales are all in pixels or all in units of length",
            value=repr(text),
            advice="Write --scales 625,1250 or --scales 320um,640um",
        )
    return PhysicalScales(sizes=tuple(_descending(physical)))


SizeT = TypeVar("SizeT", Size, PhysicalSize)


def _descending(sizes: list[SizeT]) -> list[SizeT]:
    """Sort window sizes, coarsest first.

    Raises:
        UsageError: Two sizes are the same, or neither holds the other.
    """
    # Each window has to lie inside a coarser one, whose result it refines. One that is wider but lower does not.
    ordered = sorted(sizes, key=lambda size: -size.width * size.height)
    for coarse, fine in pairwise(ordered):
        same = (coarse.width, coarse.height) == (fine.width, fine.height)
        if coarse.width < fine.width or coarse.height < fine.height or same:
            raise UsageError(
                "each scale must differ from the others and be at least as wide and as high as the next finer one",
                value=f"{coarse} beside {fine}",
                advice="List each window side once",
            )
    return ordered


def as_scales(given: PhysicalScales | tuple[Size | int, ...] | list[Size | int]) -> tuple[Size, ...] | PhysicalScales:
    """Convert window sides from Python to sizes in pixels, coarsest first; a whole number means a square.

    Raises:
        TypeError: A side is neither a size nor a whole number.
        UsageError: Two sizes are the same, or neither holds the other.
    """
    if isinstance(given, PhysicalScales):
        return given
    return tuple(_descending([_square(side) for side in given]))


def _square(side: object) -> Size:
    """Return the size of a square window for a whole number; a size is returned unchanged."""
    if isinstance(side, Size):
        return side
    if not isinstance(side, Integral) or isinstance(side, bool):
        raise TypeError(side)
    if int(side) < 1:
        raise UsageError(
            "a scale is at least one pixel",
            value=side,
            advice="Choose scales from the network's input size upward; 'magnet weights show' names it",
        )
    return Size(width=int(side), height=int(side))


def spell_scales(scales: tuple[Size, ...] | PhysicalScales | str) -> str:
    """Write window sides as `parse_scales` reads them, with all their digits."""
    if isinstance(scales, str):
        return scales
    if isinstance(scales, PhysicalScales):
        return ",".join(map(_spell_physical, scales.sizes))
    return ",".join(map(str, scales))


def _spell_physical(size: PhysicalSize) -> str:
    width, height = (spell_decimal(in_unit(side, size.unit)) for side in (size.width, size.height))
    return f"{width}x{height}{size.unit}"


def _scale(part: str, text: str) -> Size | PhysicalSize:
    match = _SCALE.fullmatch(part)
    advice = "Write window sides in pixels or with a unit, like --scales 625,1250,2500, 256x128,512x256 or 320um,640um"
    if match is None:
        value = repr(part) if part == text.strip().lower() else f"{part!r} in {text!r}"
        raise UsageError("--scales takes numbers, WIDTHxHEIGHT pairs, auto or full", value=value, advice=advice)
    width, height = Fraction(match[1]), Fraction(match[2] or match[1])
    if match[3]:
        return _physical(width, height, OTHER_SPELLINGS.get(match[3], match[3]), part)
    if width < 1 or height < 1:
        raise UsageError("a scale is at least one pixel", value=part, advice=advice)
    if width.denominator != 1 or height.denominator != 1:
        raise UsageError("a scale is a whole number of pixels", value=part, advice=advice)
    return Size(width=int(width), height=int(height))


def _physical(width: Fraction, height: Fraction, unit: str, part: str) -> PhysicalSize:
    if not width or not height:
        raise UsageError("a scale is a positive length", value=part, advice="Write --scales 320um,640um")
    return PhysicalSize(width=width * UM_OF[unit], height=height * UM_OF[unit], unit=unit)


SCALES = Form(
    parse=lambda text, _: parse_scales(text),
    spell=spell_scales,
    types=(PhysicalScales, tuple, list),
    convert=as_scales,
    metavar="LIST",
)
