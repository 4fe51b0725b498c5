"""Rational polynomial coefficients (RPC) of a camera: the TIFF tag, and the texts that hold the same numbers."""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING

from magnet_cli.images.geotransform import DOUBLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.images.geotransform import Tag

RPC = 50844
"""The code of the tag RPCCoefficientTag, which holds 92 numbers; the first two are errors in metres."""
RPC_SCALARS = (
    *("LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF"),
    *("LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"),
)
RPC_POLYNOMIALS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")
RPC_TERMS = 20
RPB_NAMES = {
    "ERR_BIAS": "errBias",
    "ERR_RAND": "errRand",
    "LINE_OFF": "lineOffset",
    "SAMP_OFF": "sampOffset",
    "LAT_OFF": "latOffset",
    "LONG_OFF": "longOffset",
    "HEIGHT_OFF": "heightOffset",
    "LINE_SCALE": "lineScale",
    "SAMP_SCALE": "sampScale",
    "LAT_SCALE": "latScale",
    "LONG_SCALE": "longScale",
    "HEIGHT_SCALE": "heightScale",
    "LINE_NUM_COEFF": "lineNumCoef",
    "LINE_DEN_COEFF": "lineDenCoef",
    "SAMP_NUM_COEFF": "sampNumCoef",
    "SAMP_DEN_COEFF": "sampDenCoef",
}
"""Names of the numbers in the files .RPB of DigitalGlobe, by GDAL's names for them."""
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def rpc_values(text_of: Callable[[str], str | None]) -> tuple[float, ...]:
    """Return the numbers of the tag RPCCoefficientTag, or none of them where one is missing.

    Args:
        text_of: A function that gives the text of an item by GDAL's name for it.
    """
    # The specification of the tag says -1 for an unknown error.
    errors = [finite_number(text_of(key) or "-1") for key in ("ERR_BIAS", "ERR_RAND")]
    scalars = [finite_number((text_of(key) or "").split(" ")[0]) for key in RPC_SCALARS]
    terms = [[finite_number(part) for part in (text_of(key) or "").split()] for key in RPC_POLYNOMIALS]
    values = [
        *(-1.0 if value is None else value for value in errors),
        *scalars,
        *(part for row in terms for part in row),
    ]
    if None in values or any(len(row) != RPC_TERMS for row in terms):
        return ()
    return tuple(value for value in values if value is not None)


def values_of_lines(text: str) -> tuple[float, ...]:
    """Read a file `NAME_RPC.TXT`: lines such as `LINE_OFF: +002199.00 pixels` and `LINE_NUM_COEFF_1: ...`."""
    found: dict[str, str] = {}
    for key, value in re.findall(rf"^\s*(\w+)\s*:\s*({NUMBER})", text, re.MULTILINE):
        name = re.sub(r"_\d+$", "", key)
        found[name] = f"{found[name]} {value}" if name in found and name != key else value
    return rpc_values(found.get)


def values_of_assignments(text: str) -> tuple[float, ...]:
    """Read a file `NAME.RPB`: assignments such as `lineOffset = 2199;` and `lineNumCoef = (1, 2, ...);`."""
    found = {}
    for name, word in RPB_NAMES.items():
        match = re.search(rf"\b{word}\s*=\s*\(?([^;)]*)\)?\s*;", text)
        if match:
            found[name] = " ".join(re.findall(NUMBER, match[1]))
    return rpc_values(found.get)


def rpc_tag(values: tuple[float, ...]) -> Tag:
    """Return coefficients as a TIFF tag."""
    return RPC, DOUBLE, len(values), values


def finite_number(text: str) -> float | None:
    """Return the number that a text states, with a decimal point or comma; None where it states none."""
    try:
        found = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return found if isfinite(found) else None
