"""Forms that many options share: whole numbers, decimal numbers, sizes of memory, choices and names of classes."""

from __future__ import annotations

import re
from decimal import Context, Decimal
from fractions import Fraction
from numbers import Integral, Rational
from pathlib import Path
from typing import Any, get_args

from magnet_cli.errors import UsageError
from magnet_cli.options.option import Form
from magnet_cli.system.addresses import is_address, local_path
from magnet_cli.system.memory import parse_bytes

DECIMAL_PATTERN = r"\d{1,9}(?:\.\d{0,30})?|\.\d{1,30}"
"""Pattern of a decimal number. Its digits are limited and it has no exponent, because Python refuses to parse
thousands of digits, and an exact number with a large exponent would take any amount of memory."""
BYTES_IN = {1: "B", 1 << 20: "MiB", 1 << 30: "GiB"}
"""Names of the units of memory by their number of bytes."""
_DIGITS = Context(prec=30)


def parse_decimal(text: str, option: str) -> Fraction:
    """Parse a decimal number without a sign into an exact fraction.

    Raises:
        UsageError: The text is no such number.
    """
    if not re.fullmatch(DECIMAL_PATTERN, text.strip()):
        raise UsageError(f"{option} is a positive decimal number", value=repr(text), advice=f"Write {option} 0.5")
    return Fraction(text.strip())


def spell_decimal(value: object) -> str:
    """Write a fraction as a decimal number of up to thirty digits, without an exponent."""
    if not isinstance(value, Fraction):
        return str(value)
    # A float would lose digits of the fraction, and a fraction like 1/3 has no last digit.
    return format(_DIGITS.divide(value.numerator, value.denominator), "f")


def exact(value: Rational | float | Decimal) -> Fraction:
    """Convert a Python number to a fraction; a float means the decimal number that Python prints for it.

    Raises:
        ValueError: The number is not finite.
    """
    # The float 0.1 is not one tenth but a binary fraction near it. What the user wrote is the shortest text of the
    # float.
    return Fraction(str(value)) if isinstance(value, float) else Fraction(value)


def parse_classes(text: str | None, option: str) -> tuple[str, ...]:
    """Parse names or indices of classes with commas between them.

    Raises:
        UsageError: The text names no class, which would mean all of them.
    """
    if text is None:
        return ()
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    # An empty list would pass for the default, which is all classes, and refine what nobody named.
    if not found:
        raise UsageError(f"{option} names classes", value=repr(text), advice=f"Name a class, or leave {option} out")
    return found


def _parse_whole(text: str, option: str) -> int:
    if not re.fullmatch(r"\s*-?\d{1,18}\s*", text):
        raise UsageError(f"{option} is a whole number", value=repr(text), advice=f"Write {option} 4")
    return int(text)


def _refuse_switch(text: str, option: str) -> bool:
    raise UsageError(f"{option} is given or not", value=repr(text), advice="Give True or False")


def _spell_bytes(value: int) -> str:
    unit = max(size for size in BYTES_IN if value % size == 0)
    return f"{value // unit}{BYTES_IN[unit]}"


def words_of(values: tuple[object, ...] | list[object]) -> tuple[str, ...]:
    """Convert names and numbers to texts."""
    return tuple(str(value) for value in values)


def choice(literal: Any) -> Form:
    """Make the form of an option that takes one of the words of a `Literal`."""
    known = get_args(literal)

    def parse(text: str, option: str) -> str:
        word = text.strip().lower().replace("_", "-")
        if word not in known:
            raise UsageError(
                f"{option} is one of {', '.join(known)}",
                value=repr(text),
                advice=f"Write {' or '.join(known)} after {option}",
            )
        return word

    return Form(parse=parse, types=(), annotation=literal)


TEXT = Form(parse=lambda text, _: text, types=(), metavar="TEXT")
BUNDLE = Form(parse=lambda text, _: text, types=(Path,), convert=str, metavar="NAME")
FILE = Form(
    parse=lambda text, option: local_path(text, rule=f"{option} takes a file that lies on a disk"),
    types=(Path,),
    metavar="FILE",
)
RASTER = Form(parse=lambda text, _: text if is_address(text) else Path(text), types=(Path,), metavar="FILE|URL")
"""Form of rasters that are read like images. An address stays a text, because a path would join its slashes."""
SWITCH = Form(parse=_refuse_switch, types=(bool,), annotation=bool)
WHOLE = Form(parse=_parse_whole, types=(Integral,), convert=int, annotation=int, metavar="N")
NUMBER = Form(
    parse=parse_decimal, spell=spell_decimal, types=(Rational, float, Decimal), convert=exact, metavar="NUMBER"
)
BYTES = Form(
    parse=lambda text, option: parse_bytes(text, option=option),
    spell=_spell_bytes,
    types=(Integral,),
    convert=int,
    metavar="SIZE",
)
CLASSES = Form(parse=parse_classes, spell=",".join, types=(tuple, list), convert=words_of, metavar="NAMES")
