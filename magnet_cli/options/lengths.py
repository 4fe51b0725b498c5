"""Exact lengths with a unit, for window sides that are given in micrometres or metres instead of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

UM_OF = {
    "nm": Fraction(1, 1000),
    "um": Fraction(1),
    "mm": Fraction(1000),
    "cm": Fraction(10_000),
    "m": Fraction(10**6),
    "km": Fraction(10**9),
}
"""Size in micrometres of each unit in which a length may be given."""
OTHER_SPELLINGS = {"\u00b5m": "um", "\u03bcm": "um"}
"""Other spellings of units: with the micro sign, and with the Greek letter mu, which has the same shape."""
UNIT_PATTERN = "|".join([*OTHER_SPELLINGS, *UM_OF])


@dataclass(frozen=True, kw_only=True)
class PhysicalSize:
    """A width and a height in micrometres, both positive."""

    width: Fraction
    height: Fraction
    unit: str
    """Unit in which the size was given, a key of `UM_OF`."""

    def __str__(self) -> str:
        width, height = (f"{float(side / UM_OF[self.unit]):g}" for side in (self.width, self.height))
        return f"{width}{self.unit}" if width == height else f"{width}x{height}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class PhysicalScales:
    """Window sides with a unit, coarsest first."""

    sizes: tuple[PhysicalSize, ...]

    @property
    def in_metres(self) -> bool:
        """Whether all sizes are in metres or kilometres: they then measure the ground and not a microscope's slide."""
        return all(size.unit in ("m", "km") for size in self.sizes)


def in_unit(um: Fraction, unit: str) -> Fraction:
    """Convert a length to another unit.

    Args:
        um: The length in micrometres.
        unit: The unit of the result, a key of `UM_OF`.
    """
    return um / UM_OF[unit]
