"""An opened image for Python programs: its facts, and any box at a level or a pixel size as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.images.backends import open_image
from magnet_cli.images.cache import CacheBudget
from magnet_cli.images.protocol import Image, ImageInfo, Request
from magnet_cli.options.lengths import UM_OF, PhysicalScales
from magnet_cli.options.regions import parse_box
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.values import as_bands, parse_bands
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Alpha

MOST_SHOWN = 10**15
"""Messages give no larger number of pixels. Fractions have no limit, and floats end at 1.8e308."""


@dataclass(frozen=True, kw_only=True)
class ImageArray:
    """Pixels of a box of an image."""

    pixels: NDArray[Any]
    """`(height, width, bands)` in the image's dtype; 0 where the image has no data."""
    valid: NDArray[np.bool_]
    """`(height, width)`: where the image has data, for at least half of a pixel's area."""
    box: Box
    """Area that the pixels cover, in pixels of the full resolution.

    Coarser pixels may reach beyond the box that was asked for, and beyond the image.
    """
    pitch: Pitch
    """Size of a pixel in pixels of the full resolution."""


class OpenImage(Closing):
    """An image that is open for reading. Close it, or use it as a context; reading is safe from several threads.

    Args:
        image: Image that is read; closed together with this object.
    """

    def __init__(self, image: Image) -> None:
        self._image = image

    @property
    def info(self) -> ImageInfo:
        """Size, levels, bands, dtype, pixel size and place of the image."""
        return self._image.info

    def read(
        self,
        box: Box | str | None = None,
        *,
        level: int | None = None,
        pixel_size: str | float | Fraction | None = None,
        bands: str | Sequence[int | str] | None = None,
    ) -> ImageArray:
        """Read a box as arrays; only the stored tiles under it are decoded.

        Args:
            box: Box in pixels of the full resolution, a `Box` or `x,y,width,height`; None for the whole image.
            level: Read the pixels of this stored level. 0 is the full resolution, and the default.
            pixel_size: Read pixels of this size, means of finer ones: `0.5um`, `2m`, or a number in the image's unit,
                which is um for slides and m for maps.
            bands: Bands in the order in which they are wanted, by number (from 1) or name: `4,3,2`. None reads all.

        Raises:
            UsageError: The box lies outside the image, or there is no such level or band.
            SourceError: The file does not state the size of a pixel, or the image cannot be decoded.
        """
        info = self.info
        wanted = Box.whole(info.size) if box is None else _box(box)
        if not wanted.area or not Box.whole(info.size).contains(wanted):
            raise UsageError(
                "a box has pixels and lies inside the image",
                value=f"{wanted} of {info.size} pixels",
                file=info.path,
                advice="Give x, y, width and height in pixels of the full resolution",
            )
        pitch = self._pitch(level, pixel_size)
        on_grid = pitch.around(wanted, LEVEL0).intersection(Box.whole(pitch.cover(info.size)))
        region = self._image.read([Request(pitch=pitch, box=on_grid, bands=self._bands(bands))])[0]
        valid = np.ones(region.pixels.shape[:2], np.bool_) if region.valid is None else region.valid
        return ImageArray(pixels=region.pixels, valid=valid, box=pitch.level0(on_grid), pitch=pitch)

    def close(self) -> None:
        """Close the image's files and drop its caches."""
        self._image.close()

    def _pitch(self, level: int | None, pixel_size: str | float | Fraction | None) -> Pitch:
        info = self.info
        if pixel_size is None:
            if level is None:
                return LEVEL0
            if not 0 <= level < len(info.levels):
                raise UsageError(
                    f"the image has {len(info.levels)} levels, numbered from 0",
                    value=f"level {level}",
                    file=info.path,
                    advice=f"Choose a level from 0 to {len(info.levels) - 1}",
                )
            return info.levels[level].downsample
        if level is not None:
            raise UsageError(
                "a level and a pixel size each say at which size of a pixel to read",
                value=f"level={level} and pixel_size={pixel_size!r}",
                advice="Give level or pixel_size, not both",
            )
        if info.resolution is None:
            raise SourceError(
                "reading at a pixel size needs the physical size of the image's pixels, which the file does not give",
                value=f"pixel_size={pixel_size!r}",
                file=info.path,
                advice="Read at a level",
            )
        side, unit = _um(pixel_size, info.resolution.unit), UM_OF[info.resolution.unit]
        pitch = Pitch(x=side / (info.resolution.x * unit), y=side / (info.resolution.y * unit))
        # A pixel that reaches far beyond the image would be a mean over countless reflections of it.
        largest = max(pitch.x, pitch.y)
        if largest > max(info.size.width, info.size.height):
            shown = f"{float(largest):,.0f}" if largest < MOST_SHOWN else f"over {MOST_SHOWN:,}"
            raise UsageError(
                "a pixel may not be larger than the image",
                value=f"pixel_size={pixel_size!r}, {shown} pixels of {info.size}",
                file=info.path,
                advice="Check the unit of pixel_size, as in 0.5um",
            )
        return pitch

    def _bands(self, bands: str | Sequence[int | str] | None) -> tuple[int, ...] | None:
        if bands is None:
            return None
        names = self.info.bands
        found = []
        for word in parse_bands(bands) if isinstance(bands, str) else as_bands(list(bands)):
            if word in names:
                found.append(names.index(word))
            elif word.isascii() and word.isdigit() and 1 <= int(word) <= len(names):
                found.append(int(word) - 1)
            else:
                raise UsageError(
                    "the image has no such band",
                    value=repr(word),
                    file=self.info.path,
                    advice=f"Choose from its bands, numbered from 1: {', '.join(names)}",
                )
        return tuple(found)


def open_arrays(source: str | Path, *, series: str | int | None = None, alpha: Alpha | None = None) -> OpenImage:
    """Open an image to read boxes of it as NumPy arrays.

    Args:
        source: A file, the folder of a Zarr image, or the URL of either. A file that cannot be read by region is
            decoded once, into the folder for temporary files.
        series: Number (the first is 0) or name of the image, where the file holds several. None is the largest.
        alpha: Role of a band that is flagged as alpha: `mask` (no data where it is 0) or `band`. None is a mask.

    Raises:
        SourceError: It is missing, no image, damaged, or needs more than half of the free disk to be decoded.
    """
    cache = CacheBudget.temporary()
    return OpenImage(open_image(source, cache=cache, series=series, alpha=alpha))


def _box(box: Box | str) -> Box:
    if isinstance(box, Box):
        return box
    found = parse_box(box) if isinstance(box, str) else None
    if found is None:
        raise UsageError("a box is a Box or x,y,width,height", value=repr(box), advice="Write '1000,2000,512,512'")
    return found


def _um(pixel_size: str | float | Fraction, unit: str) -> Fraction:
    """Return a pixel size in micrometres; numbers are in the image's unit."""
    if isinstance(pixel_size, str):
        found = parse_scales(pixel_size)
        if (
            isinstance(found, PhysicalScales)
            and len(found.sizes) == 1
            and found.sizes[0].width == found.sizes[0].height
        ):
            return found.sizes[0].width
    elif not isinstance(pixel_size, bool) and 0 < pixel_size < 10**9:
        # The shortest decimal of a float is what the user wrote: 0.1 is one tenth, and not the nearest binary fraction.
        number = Fraction(str(pixel_size)) if isinstance(pixel_size, float) else Fraction(pixel_size)
        return number * UM_OF[unit]
    raise UsageError(
        "a pixel size is a positive length",
        value=repr(pixel_size),
        advice="Write '0.5um', '2m', or a number in the image's unit",
    )
