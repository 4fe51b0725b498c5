"""Tiles of the image, as the program's own readers decode it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.images.protocol import Request
from magnet_cli.report.colours import CUT, RGB, ColourMapping
from magnet_cli.report.viewer.zooms import TILE, ZoomGrid, pitch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Image, ImageInfo

JPEG_QUALITY = 90
PNG_LEVEL = 1
"""Tiles are compressed at this level. A higher level takes several times as long and saves a tenth of the bytes."""


@dataclass(frozen=True, kw_only=True)
class EncodedTile:
    """An encoded tile is a picture that a browser decodes."""

    data: bytes
    media: str
    """The media type of the picture, such as `image/png`."""


class PixelTiles:
    """Tiles of an opened image. Reading is safe from several threads at once.

    Args:
        image: The image. It stays open, and its owner closes it.
        mapping: The bands that are shown, and the values that become black and white.
    """

    def __init__(self, image: Image, mapping: ColourMapping) -> None:
        self.grid = ZoomGrid(size=image.info.size)
        self._image = image
        self._mapping = mapping

    def read(self, zoom: int, column: int, row: int) -> NDArray[np.uint8] | None:
        """Return a tile, `(512, 512, 4)` red, green, blue and opacity; None where the image has no such tile.

        Raises:
            SourceError: The image cannot be decoded there.
        """
        box = self.grid.tile(zoom, column, row)
        if box is None:
            return None
        region = self._image.read([Request(pitch=pitch(zoom), box=box, bands=self._mapping.bands)])[0]
        valid = np.ones(region.pixels.shape[:2], np.bool_) if region.valid is None else region.valid
        tile = np.zeros((TILE, TILE, 4), np.uint8)
        tile[: box.height, : box.width, :3] = self._mapping.colours(region.pixels, valid)
        tile[: box.height, : box.width, 3] = np.where(valid, np.uint8(255), np.uint8(0))
        return tile

    def encoded(self, zoom: int, column: int, row: int) -> EncodedTile | None:
        """Return a tile as a picture: without loss at level 0 and where pixels are transparent, else as JPEG."""
        tile = self.read(zoom, column, row)
        if tile is None:
            return None
        if zoom and tile[..., 3].all():
            data = imagecodecs.jpeg8_encode(np.ascontiguousarray(tile[..., :3]), level=JPEG_QUALITY)
            return EncodedTile(data=bytes(data), media="image/jpeg")
        return png_tile(tile)


def png_tile(pixels: NDArray[np.uint8]) -> EncodedTile:
    """Return `(height, width, 4)` pixels as a PNG."""
    data = imagecodecs.png_encode(np.ascontiguousarray(pixels), level=PNG_LEVEL)
    return EncodedTile(data=bytes(data), media="image/png")


def choose_colours(image: Image, report: Mapping[str, Any] | None) -> ColourMapping:
    """Return the colours of an image: those of its mask's report, else red, green and blue, else the first bands.

    One span of values holds for the whole image. Spans of single tiles would differ from tile to tile.

    Args:
        image: The image.
        report: The report of a mask of this image; None without one.
    """
    mapping = _of_bands(image.info)
    if report is not None:
        # The report of another version may lack what is read; the bands by name serve as well.
        with suppress(KeyError, TypeError, ValueError):
            mapping = ColourMapping.of(report)
    if max(mapping.bands) >= len(image.info.bands) or min(mapping.bands) < 0:
        mapping = _of_bands(image.info)
    if mapping.spans is None and image.info.dtype != "uint8":
        try:
            spans = images.sample_percentiles(image, mapping.bands, CUT)
        except SourceError:
            spans = ((0.0, 1.0),) * len(mapping.bands)  # No pixel of the sample holds data.
        mapping = replace(mapping, spans=spans)
    return mapping


def _of_bands(info: ImageInfo) -> ColourMapping:
    names = [name.casefold() for name in info.bands]
    if all(name in names for name in RGB):
        return ColourMapping(bands=tuple(names.index(name) for name in RGB))
    return ColourMapping(bands=(0, 1, 2) if len(names) >= len(RGB) else (0,))
