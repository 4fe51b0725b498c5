"""Lengths with a unit, exact: window sides that are given in micrometres or metres instead of pixels."""

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
"""Micrometres of the units in which a length may be given."""
OTHER_SPELLINGS = {"\u00b5m": "um", "\u03bcm": "um"}
"""The micro sign, and the Greek letter that looks like it."""
UNIT_PATTERN = "|".join([*OTHER_SPELLINGS, *UM_OF])


@dataclass(frozen=True, kw_only=True)
class PhysicalSize:
    """A width and a height, in micrometres; both positive."""

    width: Fraction
    height: Fraction
    unit: str
    """In which it was given, one of `UM_OF`."""

    def __str__(self) -> str:
        width, height = (f"{float(side / UM_OF[self.unit]):g}" for side in (self.width, self.height))
        return f"{width}{self.unit}" if width == height else f"{width}x{height}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class PhysicalScales:
    """Window sides with a unit, coarsest first."""

    sizes: tuple[PhysicalSize, ...]

    @property
    def in_metres(self) -> bool:
        """Whether they are of the ground rather than of what lies under a microscope."""
        return all(size.unit in ("m", "km") for size in self.sizes)


def in_unit(um: Fraction, unit: str) -> Fraction:
    """Micrometres in another unit.

    Args:
        um: A length.
        unit: One of `UM_OF`.
    """
    return um / UM_OF[unit]
