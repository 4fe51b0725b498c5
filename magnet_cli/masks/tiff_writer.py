"""The mask as a TIFF: tiled, paletted, with overviews as a chain of pages, the same bytes for the same labels."""

from __future__ import annotations

import json
from contextlib import ExitStack
from fractions import Fraction
from itertools import product
from typing import IO, TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
import tifffile

from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec
from magnet_cli.masks.compression import by_threads
from magnet_cli.masks.overview import HalvedTiles, halved, level_sizes
from magnet_cli.masks.spec import MaskSpec, tiles_of
from magnet_cli.system import durable
from magnet_cli.system.characters import xml_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.masks.journal import Journal

ASCII = 2
"""TIFF's number for text."""
GDAL_METADATA = 42112
GDAL_NODATA = 42113
CODES = {"deflate": 8, "zstd": 50000}
"""TIFF's number of a compression; tifffile's own word `deflate` means the outdated 32946."""
LARGEST = (1 << 32) - 1
"""The largest of a TIFF rational's two numbers."""


def ignore_progress(done: int, total: int) -> None:
    """Drop progress for which the caller gave no function."""
    del done, total


def assemble_mask(
    journal: Journal,
    file: IO[bytes],
    *,
    folder: Path,
    description: Mapping[str, object],
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> None:
    """Write the mask of a journal to a file and flush it to the disk; memory does not grow with the image.

    Tiles that one group stored whole are copied as they are. Overviews take the commonest label of 2 x 2 pixels, ties
    to the lowest label, 255 only where all four are 255.

    Args:
        journal: The journal of a run whose groups are all finished; what is missing becomes 255.
        file: An empty file that can be read, written and searched.
        folder: Folder of the nameless files that hold overviews until they are written.
        description: JSON values for the ImageDescription tag, beside the classes. Nothing that differs between two runs
            of the same work (dates, seconds, paths) belongs here: equal work gives equal bytes.
        on_progress: Called for each row of tiles with the number of tiles up to its end, and that of all tiles.

    Raises:
        OutputError: The journal is damaged or the disk refuses the file.
    """
    spec = journal.spec
    sizes = level_sizes(spec.size, tile=spec.tile)
    total, done = sum(tiles_of(size, spec.tile).pixels for size in sizes), 0
    with ExitStack() as spools:
        # BigTIFF always, because the size is not known before the tiles are compressed. OME and shaped metadata are
        # off: they would take over the ImageDescription, and an OME header has a UUID that differs between equal runs.
        with tifffile.TiffWriter(file, bigtiff=True, byteorder="<", ome=False, shaped=False) as writer:
            below: HalvedTiles | None = None
            for level, size in enumerate(sizes):
                above = None
                if level + 1 < len(sizes):
                    above = spools.enter_context(HalvedTiles(folder, size=size, tile=spec.tile))
                tiles = _page_tiles(journal, size=size, below=below, above=above)
                counted = _counted(tiles, tiles_of(size, spec.tile), done=done, total=total, on_progress=on_progress)
                _write_page(writer, spec=spec, level=level, size=size, tiles=counted, description=description)
                done += tiles_of(size, spec.tile).pixels
                below = above
        file.flush()
        # The rename that follows must not reach the disk before the content.
        durable.sync_data(file.fileno())


def _counted(
    tiles: Iterator[bytes], grid: Size, *, done: int, total: int, on_progress: Callable[[int, int], None]
) -> Iterator[bytes]:
    """Yield the tiles of a page, and report progress with the last one of each row."""
    for number, tile in enumerate(tiles, start=1):
        # Before the tile: the writer takes no more than it needs, and would not come back after the last one.
        if number % grid.width == 0:
            on_progress(done + number, total)
        yield tile


def _page_tiles(
    journal: Journal, *, size: Size, below: HalvedTiles | None, above: HalvedTiles | None
) -> Iterator[bytes]:
    """Yield the stored tiles of a page, row by row; each is halved into `above` on its way."""
    spec = journal.spec
    grid = tiles_of(size, spec.tile)

    def made(cell: tuple[int, int]) -> tuple[bytes, bytes | None]:
        # Tiles that one group stored whole are copied as they are: most of a mask is never compressed twice.
        data = journal.stored_tile(*cell) if below is None else None
        labels: NDArray[np.uint8] | None = None
        if data is None:
            labels = journal.tile(*cell) if below is None else below.joined(*cell)
            data = codec.encode_tile(labels, compression=spec.compression)
        if above is None:
            return data, None
        if labels is None:
            labels = codec.decode_tile(data, side=spec.tile, compression=spec.compression)
        return data, halved(labels)

    rows, columns = range(grid.height), range(grid.width)
    packed = by_threads(made, product(rows, columns))
    for cell, (data, half) in zip(product(rows, columns), packed, strict=True):
        if above is not None and half is not None:
            above.put(*cell, half)
        yield data


def _write_page(
    writer: tifffile.TiffWriter,
    *,
    spec: MaskSpec,
    level: int,
    size: Size,
    tiles: Iterator[bytes],
    description: Mapping[str, object],
) -> None:
    resolution = _resolution(spec, level=level)
    writer.write(
        tiles,
        shape=(size.height, size.width),
        dtype=np.uint8,
        tile=(spec.tile, spec.tile),
        photometric="palette",
        colormap=_palette(spec),
        # tifffile writes what the iterator yields as it is, because the tiles are bytes: they were compressed before.
        compression=CODES[spec.compression],
        # 1 marks a page of reduced resolution, which GDAL takes for an overview.
        subfiletype=1 if level else 0,
        resolution=resolution,
        resolutionunit="CENTIMETER" if resolution else None,
        description=None if level else _description(spec, description),
        software=False,
        metadata=None,
        extratags=_tags(spec, level=level),
    )


def _palette(spec: MaskSpec) -> NDArray[np.uint16]:
    """Return `(3, 256)` uint16; labels that are no class are black."""
    palette = np.zeros((3, 256), dtype=np.uint16)
    for label, entry in enumerate(spec.classes):
        # TIFF palettes have 16 bits a channel: 257 maps 255 to 65535.
        palette[:, label] = np.frombuffer(entry.rgb, dtype=np.uint8).astype(np.uint16) * 257
    return palette


def _description(spec: MaskSpec, extra: Mapping[str, object]) -> str:
    classes = [{"name": entry.name, "color": entry.color} for entry in spec.classes]
    return json.dumps({**extra, "classes": classes, "nodata": NODATA}, sort_keys=True)


def _tags(spec: MaskSpec, *, level: int) -> list[tuple[int, int, int, object, bool]]:
    nodata = (GDAL_NODATA, ASCII, 4, str(NODATA), False)
    if level:
        return [nodata]
    # The image may have these tags of its own, about its pixels. Those of the mask replace them.
    own = {GDAL_METADATA, GDAL_NODATA}
    copied = [(*tag, False) for tag in spec.geo_tags if tag[0] not in own]
    # GDAL resolves entities twice: once as XML and once more in each value.
    items = "".join(
        f'<Item name="CLASS_{label}" sample="0">{escape(escape(xml_text(entry.name)))}</Item>\n'
        for label, entry in enumerate(spec.classes)
    )
    names = f"<GDALMetadata>\n{items}</GDALMetadata>\n".encode() + b"\0"
    # TIFF wants the tags of a directory in rising order.
    return sorted([nodata, (GDAL_METADATA, ASCII, len(names), names, False), *copied], key=lambda tag: tag[0])


def _resolution(spec: MaskSpec, *, level: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the pixels a centimetre of a page, across and down, as TIFF rationals.

    None where they are unknown, or beyond what TIFF can say: above 2**32, as of pixels of two picometres, and below
    its inverse.
    """
    if spec.resolution is None:
        return None
    # TIFF knows inches and centimetres alone, so pixels of the ground are given a centimetre too.
    per_cm = Fraction(10_000) if spec.resolution.unit == "um" else Fraction(1, 100)
    found = _rational(per_cm / spec.resolution.x / 2**level), _rational(per_cm / spec.resolution.y / 2**level)
    return found if all(0 < number <= LARGEST for pair in found for number in pair) else None


def _rational(value: Fraction) -> tuple[int, int]:
    """Return the nearest fraction whose two numbers a TIFF rational holds."""
    near = value.limit_denominator(max(1, min(LARGEST, int(LARGEST / value))))
    return near.numerator, near.denominator
