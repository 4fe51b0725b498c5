"""Masks of the stored pixels that hold data."""

from __future__ import annotations

from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


BITS = (0, 1)
"""Values that a bilevel sample can have."""


def storable(nodata: float | None, dtype: np.dtype[Any]) -> float | None:
    """Return the nodata value where pixels of this dtype can have it, else None."""
    if nodata is None or dtype.kind == "f":
        return nodata
    # GDAL writes nodata as text, so an image of integers may declare -3.4e38 or NaN, which none of its pixels can have.
    if not isfinite(nodata) or nodata != int(nodata):
        return None
    limits = np.iinfo(dtype)
    return nodata if limits.min <= nodata <= limits.max else None


def without_nodata(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return a mask that is False where every band has the nodata value.

    Args:
        values: `(height, width, bands)`.
        nodata: Nodata value, as `storable` returns it; None where the image has none.

    Returns:
        `(height, width)`, or None where every pixel is valid.
    """
    if nodata is None or isnan(nodata) or (values.dtype.kind == "b" and nodata not in BITS):
        return None
    # A pixel counts as missing only if all of its bands are: black is a colour where one band alone has the nodata
    # value.
    valid: NDArray[np.bool_] = (values != values.dtype.type(nodata)).any(axis=2)
    return None if valid.all() else valid


def finite(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return a mask that is True where every band is finite (neither NaN nor infinite).

    Args:
        values: `(height, width, bands)`.

    Returns:
        `(height, width)`, or None where every pixel is valid.
    """
    if values.dtype.kind != "f":
        return None
    valid: NDArray[np.bool_] = np.isfinite(values).all(axis=2)
    return None if valid.all() else valid


def both(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return the pixels valid in both; None counts as valid everywhere, and `(height, width)` holds for every band."""
    if one is None or other is None:
        return other if one is None else one
    shape = max(one.shape, other.shape, key=len)
    in_both: NDArray[np.bool_] = spread(one, shape) & spread(other, shape)
    return in_both


def spread(valid: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return validity as an array `(height, width)` or `(height, width, bands)`; None is valid everywhere."""
    if valid is None:
        return np.ones(shape, np.bool_)
    if valid.ndim == len(shape):
        return valid
    return np.repeat(valid[:, :, None], shape[2], axis=2)


def of_bands(valid: NDArray[np.bool_], bands: Sequence[int]) -> NDArray[np.bool_]:
    """Return a mask that is True where any of some bands holds data.

    Args:
        valid: `(height, width)` for every band, or `(height, width, bands)`.
        bands: Positions of these bands in `valid`.

    Returns:
        `(height, width)`.
    """
    if valid.ndim == 2:  # noqa: PLR2004 (axes)
        return valid
    any_of_them: NDArray[np.bool_] = np.any(valid[:, :, list(bands)], axis=2)
    return any_of_them
