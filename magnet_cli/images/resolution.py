"""The physical size of a pixel, and which stored values are only a writer's default."""

from __future__ import annotations

import re
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING

from magnet_cli.images.protocol import Resolution

if TYPE_CHECKING:
    from collections.abc import Iterable

COARSEST_MICROSCOPE_UM = 20
"""A density of pixels this large or larger is no microscope's, whose lowest objectives give about 10: it describes
paper or a screen, and photographs from the air carry any such number."""

COARSEST_STATED_UM, FINEST_STATED_UM = 1000, Fraction(1, 10**5)
"""Largest and smallest pixel size that a microscope can have: a millimetre, and a tenth of an atom."""

LARGEST_ASPECT = 4
"""Ratio of a pixel's sides beyond which the values are a writer's mistake."""

LARGEST_OBJECTIVE = 1000

DEFAULT_DPI = (25.4, 72, 75, 96, 100, 120, 150, 200, 240, 300, 350, 400, 600, 1200, 2400)
"""Densities that programs and scanners of paper write (25.4 is libvips' 1 pixel/mm)."""

DPI_TOLERANCE = 2e-3
"""Relative tolerance; it covers densities stored as whole pixels per centimetre."""

UM_PER_INCH = Fraction(25400)

DECIMAL_COMMA = re.compile(r"\s*\d+,\d+\s*")
"""A number as programs write it under a locale whose decimal sign is a comma. No size of a pixel groups thousands."""


def decimal(value: object) -> Fraction | None:
    """Return a positive, finite number as its shortest decimal says.

    The result is None for other texts. A decimal comma is understood.
    """
    # In Python the values `true` and `false` of JSON are whole numbers.
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        return None
    if isinstance(value, Fraction):
        return value if value > 0 else None
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
        value = value.replace(",", ".")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    # repr gives the shortest decimal that is this float, which is what the file's writer meant: 0.2525, and no
    # neighbour.
    return Fraction(repr(number)) if isfinite(number) and number > 0 else None


Found = tuple[Resolution | None, tuple[str, ...]]
"""The size of a pixel, or None, and notes for the user about it."""


def microscope(x: Fraction | None, y: Fraction | None) -> Found:
    """Return a pixel size in micrometres from a density tag, and what to tell the user about it.

    Args:
        x: Micrometres a pixel, or None where the file says nothing.
        y: The same along y.

    Returns:
        None with a note where the value is a default of screens or paper, or absurd.
    """
    if x is None or y is None:
        return None, ()
    if x >= COARSEST_MICROSCOPE_UM or y >= COARSEST_MICROSCOPE_UM or _is_default(x) or _is_default(y):
        dpi = float(UM_PER_INCH / x)
        return None, (f"the stored resolution ({dpi:.4g} pixels per inch) is a default for screens or print: ignored",)
    return stated(x, y, unit="um")


def stated(x: object, y: object, *, unit: str) -> Found:
    """Return a pixel size that a slide, a description or a georeference states, and what to tell the user about it.

    Args:
        x: A number as it is stored, or None where the file says nothing.
        y: The same along y.
        unit: `um` or `m`.

    Returns:
        None with a note where a value is no positive number, or absurd for a microscope's.
    """
    if x is None or y is None:
        return None, ()
    exact_x, exact_y = decimal(x), decimal(y)
    if exact_x is None or exact_y is None:
        return None, (not_positive(x, y),)
    absurd = _absurd(exact_x, exact_y) if unit == "um" else None
    if absurd is not None:
        size = f"{float(exact_x):.4g} x {float(exact_y):.4g} {unit}"
        return None, (f"the stored pixel size ({size}) is absurd, {absurd}: ignored",)
    return Resolution(x=exact_x, y=exact_y, unit=unit), ()


def not_positive(x: object, y: object) -> str:
    """Return the note about stored sizes that are zero, negative or no number."""
    return f"the stored pixel size ({_shown(x)} x {_shown(y)}) is no positive number: ignored"


def objective(value: object) -> Fraction | None:
    """Return the magnification of an objective; None where it is no number, or none that an objective has."""
    found = decimal(value)
    return found if found is not None and found <= LARGEST_OBJECTIVE else None


def _absurd(x: Fraction, y: Fraction) -> str | None:
    if not all(FINEST_STATED_UM < side < COARSEST_STATED_UM for side in (x, y)):
        return "no microscope's"
    aspect = max(x / y, y / x)
    return f"one side {float(aspect):.4g} times the other" if aspect > LARGEST_ASPECT else None


def _shown(value: object) -> str:
    return f"{float(value):.4g}" if isinstance(value, Fraction | float) else str(value)[:20]


def _is_default(um: Fraction, defaults: Iterable[float] = DEFAULT_DPI) -> bool:
    dpi = float(UM_PER_INCH / um)
    return any(abs(dpi - default) <= DPI_TOLERANCE * default for default in defaults)
