"""Masks and overviews in files of their own beside an image, as GDAL writes and finds them."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.failures import naming
from magnet_cli.images.levels import downsample, is_reduction
from magnet_cli.images.sidecars import file_beside
from magnet_cli.images.store import Pixels
from magnet_cli.images.tiff_colour import Colour, colour, understood
from magnet_cli.images.tiff_pages import MASK, REDUCED, Layer, check_size, first_pages, page_size
from magnet_cli.images.tiff_store import CHUNK_BYTES, TILE_CACHE_BYTES, TiffStore, chunk_bytes
from magnet_cli.images.truncation import refuse_truncated
from magnet_cli.images.urls import file_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from tifffile import TiffPage

    from magnet_cli.geometry import Box, Pitch, Size
    from magnet_cli.images.store import Store

GDAL_METADATA = 42112
FLAGS = re.compile(r'name="INTERNAL_MASK_FLAGS_(\d+)"[^>]*>\s*(\d+)\s*<')
"""This matches GDAL's flags of a mask, which are stored by the number of the band, counted from 1."""
OF_ALL_BANDS = 2
"""Flag of a mask whose first band holds for all bands of the image."""
ADVICE = "Copy the file again, or remove it where it does not belong to the image"


@dataclass(frozen=True, kw_only=True)
class StoredLevel:
    """A level of an image, and the store that holds it."""

    size: Size
    downsample: Pitch
    """Downsample of the level: level-0 pixels that one stored pixel covers, along x and y."""
    masked: bool = False
    """Whether the file of the level holds a mask of it."""
    store: Store
    index: int
    """Number of the level in the store."""
    resident_bytes: int = 0
    """Largest memory that the store keeps between reads, in bytes, where it is another than that of the image."""


class ExternalMask:
    """A raster `.msk`, whose pixels are 0 where the image holds no data.

    Args:
        levels: Levels of the mask, finest first.
        flags: GDAL's mask flags by the number of the band, from 1; a band without flags holds data everywhere.
    """

    def __init__(self, levels: Sequence[StoredLevel], flags: Mapping[int, int]) -> None:
        self.levels = tuple(levels)
        self._flags = flags

    @property
    def resident_bytes(self) -> int:
        """Largest memory that the mask keeps between reads, in bytes."""
        return stores_bytes(self.levels)

    def valid(self, size: Size, box: Box, bands: Sequence[int]) -> NDArray[np.bool_] | None:
        """Return where at least one of some bands holds data, `(height, width)`; None where all pixels do.

        Args:
            size: Size of a level that the mask has.
            box: Box on the grid of the level.
            bands: Positions of the bands in the image, counted from 0.
        """
        if any(band + 1 not in self._flags for band in bands):
            return None
        positions = tuple(sorted({0 if self._flags[band + 1] & OF_ALL_BANDS else band for band in bands}))
        level = next(level for level in self.levels if level.size == size)
        found: NDArray[np.bool_] = (level.store.fetch(level.index, box, positions).values != 0).any(axis=2)
        return None if found.all() else found

    def close(self) -> None:
        """Close the files of the mask."""
        for level in self.levels:
            level.store.close()


class CompletedStore:
    """A store with the levels and the mask of files beside the image.

    Args:
        levels: Levels of the image and of its external overviews, finest first.
        mask: The mask that alone says which pixels hold data. It has every level. None where the stores say it.
        bands: Number of bands of the image.
    """

    def __init__(self, levels: Sequence[StoredLevel], mask: ExternalMask | None, *, bands: int) -> None:
        self._levels = tuple(levels)
        self._mask = mask
        self._bands = bands

    def block(self, level: int) -> Size:
        """Return the block size of the store that holds the level."""
        return self._levels[level].store.block(self._levels[level].index)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Return the pixels of a box of a level, with the validity that the external mask gives them."""
        stored = self._levels[level]
        pixels = stored.store.fetch(stored.index, box, bands)
        if self._mask is None:
            return pixels
        return Pixels(pixels.values, self._mask.valid(stored.size, box, bands or range(self._bands)))

    def close(self) -> None:
        """Close the stores of all levels, and the mask."""
        for level in self._levels:
            level.store.close()
        if self._mask is not None:
            self._mask.close()


def open_external_mask(path: str, size: Size, *, samples: int, bands: int) -> tuple[ExternalMask | None, str]:
    """Open a mask beside an image; it is None where the file states no band, and a note for the user says so.

    Args:
        path: Path or URL of the file `.msk`.
        size: Size of the image as it is stored.
        samples: Stored samples of a pixel of the image; a palette makes three bands of one sample.
        bands: Number of bands of the image.

    Raises:
        SourceError: The mask is damaged, or has another size than the image.
    """
    rule = "the mask beside the image cannot be understood"
    with _pages(path, rule) as pages:
        full = pages[0]
        check_size(full, path)
        if page_size(full) != size:
            raise SourceError(
                f"a mask beside an image has its size, {size}", value=page_size(full), file=path, advice=ADVICE
            )
        if not _readable(full):
            raise SourceError(rule, value=f"compression {full.compression!r}", file=path, advice=ADVICE)
        text = str(full.tags.valueof(GDAL_METADATA, ""))
        flags = {int(band): int(value) for band, value in FLAGS.findall(text)}
        if not flags:
            note = "beside the image is ignored, as GDAL does: it does not say for which bands it is"
            return None, f"{file_name(path)} {note}"
        own = [full, *(page for page in pages[1:] if _reduces(full, page))]
        levels = _levels(path, [_layer(full, page) for page in own], _plain(full))
        reduced = file_beside(path, ".ovr")
        if reduced is not None:
            with _pages(reduced, "the overviews of the mask beside the image cannot be understood") as more:
                layers = [_layer(full, page) for page in more if _reduces(full, page)]
                levels += _levels(reduced, layers, _plain(full))
    # A palette has one stored sample, whose mask holds for all three bands that are made of it.
    if samples < bands or any(flag & OF_ALL_BANDS for flag in flags.values()):
        flags = dict.fromkeys(range(1, bands + 1), OF_ALL_BANDS)
    return ExternalMask(levels, flags), ""


def open_overviews(path: str, full: TiffPage, meaning: Colour, nodata: float | None) -> tuple[list[StoredLevel], str]:
    """Open the levels of a file `.ovr`, finest first; a note for the user names what is not read.

    Args:
        path: Path or URL of the file `.ovr`.
        full: The image's page of level 0.
        meaning: Meaning of the samples of the image.
        nodata: Nodata value of the image.

    Raises:
        SourceError: The file is damaged.
    """
    with _pages(path, "the overviews beside the image cannot be understood") as pages:
        masks = {page_size(page): page for page in pages if page.subfiletype & MASK}
        levels = [page for page in pages if not page.subfiletype & MASK and _reduces(full, page)]
        refused = len(pages) - len(levels) - len(masks)
        note = f"{refused} pictures in {file_name(path)} beside the image are none of its overviews: they are not read"
        layers = [_layer(full, page, mask=masks.get(page_size(page))) for page in levels]
        if not layers:
            return [], note
        found = colour(levels[0])
        # GDAL copies samples as they are stored, also where 0 means white, and does not mark that in the copy.
        own = replace(meaning, luma=found.luma)
        return _levels(path, layers, own, nodata=nodata), note if refused else ""


def joined(
    own: Sequence[StoredLevel], more: Sequence[StoredLevel], mask: ExternalMask | None, *, masked: bool
) -> list[StoredLevel]:
    """Return levels of an image and of its overviews, finest first, each size once, and close stores that are not used.

    Args:
        own: Levels of the image.
        more: Levels of its external overviews.
        mask: Mask beside the image. Only levels that it has are kept.
        masked: Whether the image's file has a mask, so that its overviews need one.
    """
    # The image's own levels come last, so that they replace external ones of the same size.
    found = {level.size: level for level in (*(level for level in more if level.masked or not masked), *own)}
    sizes = found.keys() if mask is None else {level.size for level in mask.levels}
    levels = sorted((level for level in found.values() if level.size in sizes), key=lambda level: -level.size.width)
    kept = {id(level.store) for level in levels}
    for store in {id(level.store): level.store for level in more}.values():
        if id(store) not in kept:
            store.close()
    return levels


def stores_bytes(levels: Sequence[StoredLevel]) -> int:
    """Return the largest memory that the stores of levels keep between reads, in bytes, each store once."""
    return sum({id(level.store): level.resident_bytes for level in levels}.values())


def _plain(page: TiffPage) -> Colour:
    """Return a meaning that leaves samples as they are stored, bilevel ones as 0 and 255."""
    stored = np.dtype(page.dtype or np.uint8)
    dtype = np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")
    names = tuple(f"band{index + 1}" for index in range(page.samplesperpixel))
    return Colour(bands=names, dtype=dtype, stored_samples=page.samplesperpixel)


@contextmanager
def _pages(path: str, rule: str) -> Iterator[list[TiffPage]]:
    """Open a TIFF and give its pages, of which there is at least one.

    Raises:
        SourceError: The file is damaged, or no TIFF.
    """
    with (
        closing(open_blob(path)) as blob,
        naming(path, rule, advice=ADVICE),
        tifffile.TiffFile(blob.stream(), name=file_name(path), _multifile=False) as file,
    ):
        pages = list(first_pages(file.pages))
        if not pages:
            raise SourceError(rule, value="no page", file=path, advice=ADVICE)
        refuse_truncated(file, path)
        yield pages


def _levels(path: str, layers: Sequence[Layer], colour: Colour, *, nodata: float | None = None) -> list[StoredLevel]:
    """Open a store over layers and return its levels, finest first."""
    ordered = sorted(layers, key=lambda layer: -layer.size.width)
    if not ordered:
        return []
    # The file is opened again, because the context that listed the pages closes the one that it has opened.
    blob = open_blob(path)
    store = TiffStore(blob, path, layers=ordered, colour=colour, nodata=nodata)
    return [
        StoredLevel(
            size=layer.size,
            downsample=layer.downsample,
            store=store,
            index=index,
            masked=layer.mask is not None,
            resident_bytes=TILE_CACHE_BYTES + blob.resident_bytes,
        )
        for index, layer in enumerate(ordered)
    ]


def _layer(full: TiffPage, page: TiffPage, *, mask: TiffPage | None = None) -> Layer:
    size = page_size(page)
    return Layer(size=size, downsample=downsample(page_size(full), size), pages=(page,), mask=mask)


def _reduces(full: TiffPage, page: TiffPage) -> bool:
    return (
        bool(page.subfiletype & REDUCED)
        and page.imagewidth > 0
        and page.imagelength > 0
        and is_reduction(page_size(full), page_size(page))
        and (page.samplesperpixel, page.dtype) == (full.samplesperpixel, full.dtype)
        and _readable(page)
    )


def _readable(page: TiffPage) -> bool:
    return understood(page) and (bool(page.is_contiguous) or chunk_bytes(page) <= CHUNK_BYTES)
