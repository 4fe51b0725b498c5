"""Values of `--bands` and `--value-range`, parsed and checked before any image is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import spell_decimal

MOST_BANDS = 4096
"""Largest number of bands that `--bands` accepts."""
LARGEST = Fraction(10**12)

_NUMBER = r"[+-]?(?:\d{1,13}(?:\.\d{0,30})?|\.\d{1,30})"
_PAIR = re.compile(rf"({_NUMBER})(%?),({_NUMBER})(%?)")


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """The stored values that are mapped to the ends of the range that a bundle was trained on."""

    kind: Literal["values", "percentiles", "dtype"]
    """`values`: `low` and `high` are stored values. `percentiles`: they are percentiles of each band, sampled from the
    image. `dtype`: the range is that of the image's integer type, and both are unused."""
    low: Fraction = Fraction(0)
    """Lower end, as a stored value or a percentage."""
    high: Fraction = Fraction(0)
    """Upper end, as a stored value or a percentage."""

    def __str__(self) -> str:
        if self.kind == "dtype":
            return "dtype"
        sign = "%" if self.kind == "percentiles" else ""
        return f"{float(self.low):g}{sign},{float(self.high):g}{sign}"


def parse_bands(text: str) -> tuple[str, ...]:
    """Parse bands by number (the first is 1) or by name, like `4,3,2` or `red,green,blue`.

    Whether an image has these bands is checked when it is opened.

    Raises:
        UsageError: A word is empty, or there are more than `MOST_BANDS`.
    """
    words = tuple(word.strip() for word in text.split(","))
    if not all(words) or len(words) > MOST_BANDS:
        raise UsageError(
            "--bands are the image's bands in the bundle's order, by number (the first is 1) or by name",
            value=repr(text),
            advice="Write --bands 4,3,2 or --bands red,green,blue; 'magnet info' shows an image's bands",
        )
    return words


def as_bands(values: tuple[object, ...] | list[object]) -> tuple[str, ...]:
    """Convert bands that Python names by numbers or texts.

    Raises:
        UsageError: The list or one of its texts is empty.
    """
    return parse_bands(",".join(map(str, values)))


def parse_value_range(text: str) -> ValueRange:
    """Parse a range of stored values: `0,10000`, `2%,98%` or `dtype`.

    Raises:
        UsageError: The text has none of these forms, or the second number is not larger than the first.
    """
    word = text.strip().lower().replace(" ", "")
    if word == "dtype":
        return ValueRange(kind="dtype")
    match = _PAIR.fullmatch(word)
    if match is not None and match[2] == match[4]:
        low, high = Fraction(match[1]), Fraction(match[3])
        least, most = (Fraction(0), Fraction(100)) if match[2] else (-LARGEST, LARGEST)
        if least <= low < high <= most:
            return ValueRange(kind="percentiles" if match[2] else "values", low=low, high=high)
    raise UsageError(
        "--value-range is LOW,HIGH in stored values, LOW%,HIGH% of each band's values, or dtype, with LOW below HIGH",
        value=repr(text),
        advice="Write --value-range 0,10000, --value-range 2%,98% or --value-range dtype",
    )


def spell_value_range(given: ValueRange) -> str:
    """Write a range as `parse_value_range` reads it, with all digits of its numbers."""
    sign = "%" if given.kind == "percentiles" else ""
    return "dtype" if given.kind == "dtype" else f"{spell_decimal(given.low)}{sign},{spell_decimal(given.high)}{sign}"
