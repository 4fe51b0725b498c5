"""Units of length as OME, OME-Zarr and ImageJ spell them."""

from __future__ import annotations

import re
import sys
from fractions import Fraction

ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|&#x([0-9a-fA-F]{1,6});|&#([0-9]{1,7});")
"""A character that Java or XML has escaped, as programs write the micro sign."""

PREFIXES = {
    "yocto": ("y", -24),
    "zepto": ("z", -21),
    "atto": ("a", -18),
    "femto": ("f", -15),
    "pico": ("p", -12),
    "nano": ("n", -9),
    "micro": ("u", -6),
    "milli": ("m", -3),
    "centi": ("c", -2),
    "deci": ("d", -1),
    "": ("", 0),
    "deca": ("da", 1),
    "hecto": ("h", 2),
    "kilo": ("k", 3),
    "mega": ("M", 6),
    "giga": ("G", 9),
    "tera": ("T", 12),
    "peta": ("P", 15),
    "exa": ("E", 18),
    "zetta": ("Z", 21),
    "yotta": ("Y", 24),
}
"""Symbol and power of ten of each prefix of the metre. The case of a symbol counts: `Mm` is a megametre."""

SYMBOLS = {f"{symbol}m": power for symbol, power in PREFIXES.values()} | {"\u00c5": -10}

NAMED_UM = {
    **dict.fromkeys(("micron", "mikron"), Fraction(1)),
    "angstrom": Fraction(1, 10**4),
    **dict.fromkeys(("thou", "mil"), Fraction(254, 10)),
    **dict.fromkeys(("pt", "point"), Fraction(25400, 72)),
    **dict.fromkeys(("li", "line"), Fraction(25400, 12)),
    **dict.fromkeys(("in", "inch", "inche"), Fraction(25400)),
    **dict.fromkeys(("ft", "foot", "feet"), Fraction(304800)),
    **dict.fromkeys(("yd", "yard"), Fraction(914400)),
    **dict.fromkeys(("mi", "mile"), Fraction(1609344000)),
    **dict.fromkeys(("ua", "au"), Fraction(149597870700) * 10**6),
    "ly": Fraction(9460730472580800) * 10**6,
    **dict.fromkeys(("pc", "parsec"), Fraction(30856775814913673) * 10**6),
}
"""Micrometres of the units that have a name of their own; names are in small letters and the singular."""


def unit_in_um(text: str) -> Fraction | None:
    """Return the micrometres of a unit of length: `\u00b5m`, `um`, `micrometers`, `cm`, `inch`, `thou` and others.

    None where the text names no length, such as `pixel` or `reference frame`.
    """
    word = _repaired(ESCAPE.sub(_unescaped, text)).strip()
    # The micro sign and the Greek letter, then the letter with a ring and the sign of the \u00e5ngstr\u00f6m.
    word = word.replace("\u00b5", "u").replace("\u03bc", "u").replace("\u212b", "\u00c5")
    if word in SYMBOLS:
        return _metres(SYMBOLS[word])
    lower = word.lower()
    for name in (lower, lower.removesuffix("s")):
        if name in NAMED_UM:
            return NAMED_UM[name]
        for ending in ("meter", "metre"):
            if name.endswith(ending) and name.removesuffix(ending) in PREFIXES:
                return _metres(PREFIXES[name.removesuffix(ending)][1])
    # A capital counts as the small letter only where it has no other meaning: MM could be mega or milli.
    return _metres(SYMBOLS[lower]) if lower in ("um", "nm", "cm") else None


def _metres(power: int) -> Fraction:
    return Fraction(10) ** (power + 6)


def _repaired(text: str) -> str:
    """Return the text as it was before some program took its UTF-8 for Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _unescaped(match: re.Match[str]) -> str:
    digits = match[1] or match[2]
    code = int(digits, 16) if digits else int(match[3])
    return chr(code) if code <= sys.maxunicode else ""
