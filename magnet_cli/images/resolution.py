"""The physical size of a pixel, and which stored values are only a writer's default."""

from __future__ import annotations

from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING

from magnet_cli.images.protocol import Resolution

if TYPE_CHECKING:
    from collections.abc import Iterable

COARSEST_MICROSCOPE_UM = 50
"""A pixel this large or larger is no microscope's: the tag describes paper or a screen."""

DEFAULT_DPI = (25.4, 72, 75, 96, 100, 120, 150, 200, 240, 300, 350, 400, 600, 1200, 2400)
"""Densities that programs and scanners of paper write (25.4 is libvips' 1 pixel/mm)."""

DPI_TOLERANCE = 2e-3
"""Relative; covers densities stored as whole pixels per centimetre."""

UM_PER_INCH = Fraction(25400)


def decimal(value: object) -> Fraction | None:
    """A positive, finite number as its shortest decimal says; None where it is none."""
    if not isinstance(value, int | float | str | Fraction):
        return None
    if isinstance(value, Fraction):
        return value if value > 0 else None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return Fraction(repr(number)) if isfinite(number) and number > 0 else None


def microscope(x: Fraction | None, y: Fraction | None) -> tuple[Resolution | None, tuple[str, ...]]:
    """A pixel size in micrometres from a density tag, and what to tell the user about it.

    Args:
        x: Micrometres a pixel, or None where the file says nothing.
        y: Likewise.

    Returns:
        None with a note where the value is a default of screens or paper.
    """
    if x is None or y is None:
        return None, ()
    if x >= COARSEST_MICROSCOPE_UM or y >= COARSEST_MICROSCOPE_UM or _is_default(x) or _is_default(y):
        dpi = float(UM_PER_INCH / x)
        return None, (f"the stored resolution ({dpi:.4g} pixels per inch) is a default for screens or print: ignored",)
    return Resolution(x=x, y=y, unit="um"), ()


def known(x: object, y: object, *, unit: str) -> Resolution | None:
    """A resolution that a slide or a georeference states; None where either value is not a positive number."""
    exact_x, exact_y = decimal(x), decimal(y)
    if exact_x is None or exact_y is None:
        return None
    return Resolution(x=exact_x, y=exact_y, unit=unit)


def _is_default(um: Fraction, defaults: Iterable[float] = DEFAULT_DPI) -> bool:
    dpi = float(UM_PER_INCH / um)
    return any(abs(dpi - default) <= DPI_TOLERANCE * default for default in defaults)
