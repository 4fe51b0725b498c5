"""Hashed lattices, value noise and periodic textures: numbers that depend on a seed and a place, and on nothing else.

Only element-wise arithmetic is used (no BLAS, no transcendental functions), because that gives the same bits for a
pixel whatever array it is computed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTURE_SIDE = 1024
"""Period of every texture, in pixels; a power of two."""

GRASS, CANOPY, RIPPLE, GRAIN = range(4)
"""Index of each texture in what `textures` returns."""


def hashed(xs: NDArray[np.int64], ys: NDArray[np.int64], *, salt: int) -> NDArray[np.uint32]:
    """Return well mixed 32-bit numbers for integer places; `xs` and `ys` broadcast.

    The mixing is the finalizer of MurmurHash3 over a sum of coordinates times large odd constants.
    """
    mixed = (xs * 0x9E3779B1 + ys * 0x85EBCA77 + salt * 0xC2B2AE3D) & 0xFFFFFFFF
    value = mixed.astype(np.uint32)
    value ^= value >> np.uint32(16)
    value *= np.uint32(0x85EBCA6B)
    value ^= value >> np.uint32(13)
    value *= np.uint32(0xC2B2AE35)
    value ^= value >> np.uint32(16)
    return value


def uniform(xs: NDArray[np.int64], ys: NDArray[np.int64], *, salt: int) -> NDArray[np.float32]:
    """Return numbers in [0, 1) for integer places; `xs` and `ys` broadcast."""
    # 24 bits are what float32 holds exactly, so the result is never rounded up to 1.
    return (hashed(xs, ys, salt=salt) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def value_noise(
    xs: NDArray[np.int64], ys: NDArray[np.int64], *, wavelength: int, salt: int, period: int | None = None
) -> NDArray[np.float32]:
    """Return lattice noise that is interpolated smoothly.

    Args:
        xs: Columns of the points, `(columns,)`.
        ys: Rows of the points, `(rows,)`.
        wavelength: Distance of lattice points, in pixels.
        salt: Number that makes one noise differ from another.
        period: Number of lattice points after which the noise repeats. None means never.

    Returns:
        `(rows, columns)` in [-1, 1].
    """
    left, right, across = _lattice(xs, wavelength=wavelength)
    top, bottom, down = _lattice(ys, wavelength=wavelength)
    columns = np.arange(left[0], right[-1] + 1)
    rows = np.arange(top[0], bottom[-1] + 1)
    if period is None:
        knots = uniform(columns[None, :], rows[:, None], salt=salt)
    else:
        knots = uniform(columns[None, :] % period, rows[:, None] % period, salt=salt)
    knots = knots * np.float32(2) - np.float32(1)
    start = knots[:, left - columns[0]]
    lines = start + (knots[:, right - columns[0]] - start) * across
    start = lines[top - rows[0]]
    noise: NDArray[np.float32] = start + (lines[bottom - rows[0]] - start) * down[:, None]
    return noise


def _lattice(
    places: NDArray[np.int64], *, wavelength: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the lattice point before and after each place (ascending), and the smoothed share of the one after."""
    # The cubic 3t^2 - 2t^3 has slope 0 at lattice points, so their lines do not show.
    before = places // wavelength
    share = (places - before * wavelength).astype(np.float32) / np.float32(wavelength)
    return before, before + 1, share * share * (np.float32(3) - np.float32(2) * share)


def fractal(
    xs: NDArray[np.int64], ys: NDArray[np.int64], *, wavelength: int, octaves: int, salt: int
) -> NDArray[np.float32]:
    """Return a sum of value noises, each of half the wavelength and 0.55 of the strength.

    The result is `(rows, columns)` in [-1, 1].
    """
    total = np.zeros((len(ys), len(xs)), np.float32)
    strength, norm = 1.0, 0.0
    for octave in range(octaves):
        noise = value_noise(xs, ys, wavelength=wavelength >> octave, salt=salt * 31 + octave)
        total += noise * np.float32(strength)
        norm += strength
        strength *= 0.55
    return total / np.float32(norm)


def textures(seed: int) -> NDArray[np.int8]:
    """Return the four textures, `(4, TEXTURE_SIDE, TEXTURE_SIDE)`, about -127 to 127, repeating without a seam."""
    grass = _periodic((2, 5, 16, 64), (0.35, 0.3, 0.2, 0.35), salt=seed * 97 + 1)
    canopy = _crowns(spacing=8, salt=seed * 97 + 2) + _periodic((2, 64), (0.3, 0.25), salt=seed * 97 + 3)
    ripple = _periodic((4, 32, 128), (0.3, 0.4, 0.5), salt=seed * 97 + 4)
    grain = _periodic((1, 2, 8), (0.5, 0.3, 0.3), salt=seed * 97 + 5)
    planes = np.stack([grass, canopy, ripple, grain])
    return np.clip(planes * np.float32(127), -127, 127).astype(np.int8)


def _periodic(wavelengths: tuple[int, ...], strengths: tuple[float, ...], *, salt: int) -> NDArray[np.float32]:
    """Return a sum of noises that repeats every `TEXTURE_SIDE` pixels."""
    places = np.arange(TEXTURE_SIDE, dtype=np.int64)
    total = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE), np.float32)
    for octave, (wavelength, strength) in enumerate(zip(wavelengths, strengths, strict=True)):
        period = max(1, TEXTURE_SIDE // wavelength)
        noise = value_noise(places, places, wavelength=wavelength, salt=salt * 31 + octave, period=period)
        total += noise * np.float32(strength)
    return total


def _crowns(*, spacing: int, salt: int) -> NDArray[np.float32]:
    """Return tree tops at jittered places `spacing` pixels apart: bright in the middle, dark where they meet."""
    places = np.arange(TEXTURE_SIDE, dtype=np.int64)
    xs, ys = places[None, :], places[:, None]
    count = TEXTURE_SIDE // spacing
    nearest = np.full((TEXTURE_SIDE, TEXTURE_SIDE), np.inf, np.float32)
    # A top moves within its own square, so the nearest top hardly ever lies beyond the squares beside it.
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            column, row = xs // spacing + across, ys // spacing + down
            at_x = (column + uniform(column % count, row % count, salt=salt * 31)) * np.float32(spacing)
            at_y = (row + uniform(column % count, row % count, salt=salt * 31 + 1)) * np.float32(spacing)
            away = ((at_x - xs) ** 2 + (at_y - ys) ** 2).astype(np.float32)
            np.minimum(nearest, away, out=nearest)
    return np.float32(0.75) - nearest * np.float32(1.6 / spacing**2)
