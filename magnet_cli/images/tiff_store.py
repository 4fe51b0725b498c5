"""Reading boxes of TIFF pages: the tiles or strips that a box touches, decoded and pasted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.failures import naming
from magnet_cli.images.jpeg import check_jpeg, check_jpeg2000, check_webp
from magnet_cli.images.lerc import LERC, lerc_tile
from magnet_cli.images.store import Pixels
from magnet_cli.images.tiff_colour import JPEG_2000
from magnet_cli.images.validity import BITS, both, spread
from magnet_cli.system.byte_cache import ByteCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from tifffile import TiffFile, TiffPage

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.tiff_colour import Colour
    from magnet_cli.images.tiff_pages import Layer

TILE_CACHE_BYTES = 32 << 20
"""Decoded tiles that an opened image keeps, so that neighbouring windows do not decode their common tiles twice."""
CHUNK_BYTES = 64 << 20
"""Decoded size from which on a tile or strip is too large to be read by region, in bytes."""

RAW_BYTES = 1 << 20
"""A page that lies uncompressed in one piece is read by rows where its strips decode to more."""

RAW_BLOCK = Size(width=2048, height=64)
"""Size of the pieces in which such a page is read."""

JPEG_CODES = (7, 34892, 33007)
WEBP = 50001
UNREADABLE = "The file is damaged, or stored in a form that this reader does not know: copy or export it again"


def chunk_bytes(page: TiffPage) -> int:
    """Return the memory that one decoded tile or strip takes, in bytes."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    width, height = _chunk(page)
    return width * height * samples * (page.dtype.itemsize if page.dtype is not None else 1)


def _chunk(page: TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilewidth), int(page.tilelength)
    return int(page.imagewidth), min(int(page.rowsperstrip), int(page.imagelength))


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The places of the tiles or strips of a page, and how to decode them."""

    blob: Blob
    """The file that holds the tiles or strips."""
    size: Size
    chunk: Size
    planes: int
    """Samples that have tiles of their own; 1 where samples are interleaved."""
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    decode: Callable[[bytes, int], Pixels]
    """Function from the bytes of a tile or strip and its index to its samples and validity."""
    compression: int
    raw: np.dtype[Any] | None
    """Stored dtype where the page is one uncompressed run, read row by row; else None."""
    dtype: np.dtype[Any]
    """NumPy dtype of decoded samples."""
    samples: int
    level: int

    @property
    def columns(self) -> int:
        """Number of tiles in a row of tiles."""
        return -(-self.size.width // self.chunk.width)

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return -(-self.size.height // self.chunk.height)


def segments(page: TiffPage, *, path: str, level: int, blob: Blob) -> Segments:
    """Read the tables of a page's tiles or strips, so that no thread has to seek in the file later.

    Args:
        page: Page of the file, or of another file that belongs to it.
        path: Path of the file for error messages.
        level: Index of the level for error messages.
        blob: File that holds the page.

    Raises:
        SourceError: The tables hold fewer tiles or strips than the size of the page needs.
    """
    # Uncompressed pixels can be read row by row. A single strip of gigabytes would otherwise be loaded for each box.
    raw = page.is_contiguous and chunk_bytes(page) > RAW_BYTES
    size = Size(width=page.imagewidth, height=page.imagelength)
    width, height = (RAW_BLOCK.width, RAW_BLOCK.height) if raw else _chunk(page)
    separate = page.planarconfig != 1 and page.samplesperpixel > 1
    found = Segments(
        blob=blob,
        size=size,
        chunk=Size(width=max(width, 1), height=max(height, 1)),
        planes=page.samplesperpixel if separate else 1,
        offsets=np.asarray(page.dataoffsets, np.uint64),
        counts=np.asarray(page.databytecounts, np.uint64),
        decode=_decoder(page, separate=separate),
        compression=int(page.compression),
        raw=np.dtype(page.parent.byteorder + page.dtype.char) if raw and page.dtype is not None else None,
        dtype=np.dtype(page.dtype or np.uint8).newbyteorder("="),
        samples=page.samplesperpixel,
        level=level,
    )
    needed = 1 if raw else found.columns * found.rows * found.planes
    # tifffile accepts short tables. A tile beyond their end would end the run with an IndexError, which names no file.
    if min(len(found.offsets), len(found.counts)) < needed:
        raise SourceError(
            f"level {level} lacks tiles: the header is damaged",
            value=f"{min(len(found.offsets), len(found.counts))} of {needed}",
            file=path,
            advice="Copy or export the file again",
        )
    return found


def _decoder(page: TiffPage, *, separate: bool) -> Callable[[bytes, int], Pixels]:
    """Return a function from the bytes of a tile of a page to its samples."""
    if page.compression == LERC:
        width, height = _chunk(page)
        chunk, samples = Size(width=width, height=height), 1 if separate else page.samplesperpixel
        big_endian = page.parent.byteorder == ">"
        return lambda data, _: lerc_tile(data, chunk=chunk, samples=samples, is_swapped=big_endian)
    tables, header = page.jpegtables, page.jpegheader
    if separate and page.compression in JPEG_CODES:
        # tifffile asks for the colours of the whole page, and each of these streams holds one sample.
        bits = page.bitspersample

        def plane(data: bytes, _: int) -> Pixels:
            samples = imagecodecs.jpeg_decode(data, bitspersample=bits, tables=tables, header=header, outcolorspace=1)
            return Pixels(samples[:, :, None], None)

        return plane
    decode, is_bilevel = page.decode, page.dtype == np.bool_

    def tile(data: bytes, index: int) -> Pixels:
        samples: Any = decode(data, index, jpegtables=tables, jpegheader=header)[0]
        # The decoders of fax compressions give bytes for bits.
        return Pixels(samples[0].astype(np.bool_) if is_bilevel else samples[0], None)

    return tile


class TiffStore:
    """Stored levels of a TIFF, decoded tile by tile or strip by strip.

    Args:
        blob: File that holds the pages.
        path: Path of the file for error messages.
        layers: Levels, finest first.
        colour: Meaning of the samples.
        nodata: Value of missing pixels.
        unwritten: Stored value of tiles that were never written; None where they are pixels without data.
        siblings: Other files that hold pages of it, by their tables; closed with the store.
    """

    def __init__(
        self,
        blob: Blob,
        path: str,
        *,
        layers: Sequence[Layer],
        colour: Colour,
        nodata: float | None,
        unwritten: float | None = None,
        siblings: Mapping[TiffFile, Blob] | None = None,
    ) -> None:
        blobs = dict(siblings or {})
        self._blobs = (blob, *blobs.values())
        self._path = path
        self._colour = colour
        self._nodata = nodata
        self._unwritten_value = unwritten
        self._tiles: ByteCache[Pixels] = ByteCache(TILE_CACHE_BYTES, size=lambda tile: tile.nbytes)
        self._pages = [
            [segments(page, path=path, level=level, blob=blobs.get(page.parent, blob)) for page in layer.pages]
            for level, layer in enumerate(layers)
        ]
        if self._pages[0][0].dtype == np.bool_ and nodata not in BITS:
            self._nodata = None
        self._masks = [
            None if layer.mask is None else segments(layer.mask, path=path, level=level, blob=blob)
            for level, layer in enumerate(layers)
        ]

    def block(self, level: int) -> Size:
        """Return the size of a level's tiles or strips."""
        return self._pages[level][0].chunk

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Decode the tiles or strips that a box touches, and return the pixels of the box."""
        page = self._pages[level][0]
        values = np.empty((box.height, box.width, self._count(bands)), self._colour.dtype)
        valid: NDArray[np.bool_] | None = None
        for tile in touched(box, page.chunk):
            part = tile.intersection(box)
            source = part.shifted(x=-tile.x, y=-tile.y).slices
            target = part.shifted(x=-box.x, y=-box.y).slices
            pixels = self._tile(level, tile, bands)
            values[target] = pixels.values[source]
            if pixels.valid is not None:
                axes = max(pixels.valid.ndim, 0 if valid is None else valid.ndim)
                merged = spread(valid, values.shape[:axes])
                merged[target] = spread(pixels.valid[source], merged[target].shape)
                valid = merged
        return Pixels(values, both(valid, self._mask(level, box)))

    def close(self) -> None:
        """Drop the decoded tiles and close all files."""
        self.forget()
        for blob in self._blobs:
            blob.close()

    def forget(self) -> None:
        """Drop the decoded tiles, which are decoded again when they are needed."""
        self._tiles.clear()

    def holes(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> list[Box]:
        """Return the tiles of a level that a box touches and that are not stored, for at least one of the bands."""
        chunk = self._pages[level][0].chunk
        lacking = self._lacking(level, bands)
        return (
            []
            if lacking is None
            else [tile for tile in touched(box, chunk) if lacking[tile.y // chunk.height, tile.x // chunk.width]]
        )

    def _lacking(self, level: int, bands: tuple[int, ...] | None) -> NDArray[np.bool_] | None:
        """Return `(rows, columns)` of the tiles of a level, True where one of the bands is not stored.

        The result is None where all are.
        """
        some = None if bands is None else self._colour.only(bands)
        planes = [plane for page in self._pages[level] for plane in _unwritten(page)]
        if some is not None and len(planes) > 1:
            planes = [planes[position] for position in some[1]]
        found = [plane for plane in planes if plane is not None]
        return np.logical_or.reduce(found) if found else None

    def _count(self, bands: tuple[int, ...] | None) -> int:
        return len(self._colour.bands if bands is None else bands)

    def _tile(self, level: int, tile: Box, bands: tuple[int, ...] | None) -> Pixels:
        page = self._pages[level][0]
        key = (level, tile.x // page.chunk.width, tile.y // page.chunk.height, *(bands or ()))
        return self._tiles.get(key, lambda: self._bands(level, tile, bands))

    def _bands(self, level: int, tile: Box, bands: tuple[int, ...] | None) -> Pixels:
        some = None if bands is None else self._colour.only(bands)
        colour, wanted = some or (self._colour, None)
        samples = self._samples(level, tile, wanted)
        if samples is None:
            return self._missing(tile, bands)
        with naming(self._path, f"the tile at {tile} of level {level} has an unexpected layout"):
            pixels = colour.bands_of(samples, self._nodata)
        return pixels if some else pixels.only(bands)

    def _samples(self, level: int, tile: Box, wanted: list[int] | None) -> Pixels | None:
        """Return the samples of a tile, those at the positions that are wanted or all.

        The result is None where none of them is stored.
        """
        planes = [(page, plane) for page in self._pages[level] for plane in range(page.planes)]
        apart = wanted is not None and len(planes) > 1
        if wanted is not None and apart:
            planes = [planes[position] for position in wanted]
        found = [self._plane(page, plane, tile) for page, plane in planes]
        stored = next((plane for plane in found if plane is not None), None)
        if stored is None and self._unwritten_value is None:
            return None
        shape = (tile.height, tile.width) if stored is None else stored.values.shape[:2]
        whole = [self._unwritten(planes[0][0], shape) if plane is None else plane for plane in found]
        samples = joined(whole, nodata=self._nodata)
        return samples if wanted is None or apart else samples.only(tuple(wanted))

    def _unwritten(self, page: Segments, shape: tuple[int, ...]) -> Pixels:
        """Return a tile of a plane that was never written; where that is no data, its values are nodata or 0."""
        samples = page.samples if page.planes == 1 else 1
        shape = (*shape, samples)
        if self._unwritten_value is not None:
            return Pixels(np.full(shape, self._unwritten_value, page.dtype), None)
        return Pixels(np.full(shape, self._nodata or 0, page.dtype), np.zeros(shape, np.bool_))

    def _missing(self, tile: Box, bands: tuple[int, ...] | None) -> Pixels:
        shape = (tile.height, tile.width)
        # Nothing is decoded for a tile that is not stored. Its pixels hold no data.
        values = np.zeros((*shape, self._count(bands)), self._colour.dtype)
        return Pixels(values, np.zeros(shape, np.bool_))

    def _mask(self, level: int, box: Box) -> NDArray[np.bool_] | None:
        mask = self._masks[level]
        if mask is None:
            return None
        valid = np.zeros((box.height, box.width), np.bool_)
        for tile in touched(box, mask.chunk):
            # Masks have negative numbers, so that they cannot be taken for tiles of a level in the common cache.
            key = (-1 - level, tile.x, tile.y)
            part = tile.intersection(box)
            found = self._tiles.get(key, lambda tile=tile: self._mask_tile(mask, tile)).values  # type: ignore[misc]
            valid[part.shifted(x=-box.x, y=-box.y).slices] = (
                found[part.shifted(x=-tile.x, y=-tile.y).slices][:, :, 0] != 0
            )
        return valid

    def _mask_tile(self, page: Segments, tile: Box) -> Pixels:
        plane = self._plane(page, 0, tile)
        return Pixels(np.zeros((tile.height, tile.width, 1), np.uint8), None) if plane is None else plane

    def _plane(self, page: Segments, plane: int, tile: Box) -> Pixels | None:
        """Return `(height, width, samples)` of a tile, one sample where they have tiles of their own.

        The result is None if not stored.
        """
        if page.raw is not None:
            return Pixels(self._rows(page, plane, tile), None)
        column, row = tile.x // page.chunk.width, tile.y // page.chunk.height
        return self._segment(page, (plane * page.rows + row) * page.columns + column, tile)

    def _rows(self, page: Segments, plane: int, tile: Box) -> NDArray[Any]:
        raw = np.dtype(page.raw)
        samples = page.samples if page.planes == 1 else 1
        part = tile.intersection(Box.whole(page.size))
        pixel = samples * raw.itemsize
        rows = np.empty((part.height, part.width, samples), raw)
        for index, y in enumerate(range(part.y, part.bottom)):
            start = int(page.offsets[0]) + ((plane * page.size.height + y) * page.size.width + part.x) * pixel
            data = page.blob.read(start, part.width * pixel, place=f"row {y} of level {page.level}")
            rows[index] = np.frombuffer(data, raw).reshape(part.width, samples)
        return rows.astype(raw.newbyteorder("="))

    def _segment(self, page: Segments, index: int, tile: Box) -> Pixels | None:
        offset, count = int(page.offsets[index]), int(page.counts[index])
        # A tile of no bytes was never written: GDAL makes such sparse files.
        if count == 0:
            return None
        place = f"the tile at {tile} of level {page.level}"
        data = page.blob.read(offset, count, place=place)
        with naming(self._path, f"{place} cannot be decoded", advice=UNREADABLE):
            check_stream(data, page)
            return page.decode(data, index)


def joined(planes: Sequence[Pixels], *, nodata: float | None) -> Pixels:
    """Join planes of samples into one, each with its own validity.

    Args:
        planes: `(height, width, samples)` each.
        nodata: Given to samples without data. None keeps where they are in `valid`, `(height, width, samples)`.
    """
    values = planes[0].values if len(planes) == 1 else np.concatenate([plane.values for plane in planes], axis=2)
    if all(plane.valid is None for plane in planes):
        return Pixels(values, None)
    valid = np.concatenate([spread(plane.valid, plane.values.shape) for plane in planes], axis=2)
    if nodata is None:
        return Pixels(values, valid)
    return Pixels(np.where(valid, values, values.dtype.type(nodata)), None)


def check_stream(data: bytes, page: Segments) -> None:
    """Refuse a damaged tile that its decoder would turn into pixels without an error.

    Raises:
        ValueError: The tile is damaged.
    """
    if page.compression in JPEG_CODES:
        check_jpeg(data, page.chunk)
    elif page.compression in JPEG_2000:
        check_jpeg2000(data, page.chunk)
    elif page.compression == WEBP:
        check_webp(data, page.chunk)


def _unwritten(page: Segments) -> list[NDArray[np.bool_] | None]:
    """Return `(rows, columns)` of each plane of a page, True where a tile has no bytes.

    The result is None where every tile has some.
    """
    tiles = page.planes * page.rows * page.columns
    if page.raw is not None or page.counts[:tiles].all():
        return [None] * page.planes
    return list((page.counts[:tiles] == 0).reshape(page.planes, page.rows, page.columns))


def touched(box: Box, chunk: Size) -> list[Box]:
    """Return the storage tiles that a box touches, row by row."""
    return [
        Box(x=column * chunk.width, y=row * chunk.height, width=chunk.width, height=chunk.height)
        for row in range(box.y // chunk.height, -(-box.bottom // chunk.height))
        for column in range(box.x // chunk.width, -(-box.right // chunk.width))
    ]
