"""Label rasters in TIFF files: stored samples of one band, by region, whatever the palette says."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import tiff_geo
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.external import CompletedStore, StoredLevel, open_external_mask
from magnet_cli.images.failures import naming
from magnet_cli.images.lerc import LERC
from magnet_cli.images.levels import level_table
from magnet_cli.images.lossy_codecs import is_told_by_header, lossy_codec
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.sidecars import find_sidecars, world_endings
from magnet_cli.images.store import OrientedStore, Store, oriented
from magnet_cli.images.tiff import stored_orientation
from magnet_cli.images.tiff_colour import MINISBLACK, MINISWHITE, Colour, understood
from magnet_cli.images.tiff_pages import Layer, find_contents, full_layer
from magnet_cli.images.tiff_store import CHUNK_BYTES, TILE_CACHE_BYTES, TiffStore, chunk_bytes
from magnet_cli.images.truncation import refuse_missing_tiles
from magnet_cli.images.urls import file_name
from magnet_cli.images.validity import BITS, storable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tifffile import TiffPage

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.contents import Content
    from magnet_cli.images.georeference import Georeference
    from magnet_cli.images.sidecars import Sidecars

COLOUR = re.compile("#[0-9a-fA-F]{6}")
"""A colour of a class as a mask of this program names it."""
BOX_SIDES = 4
HEADER_BYTES = 1 << 16
"""Most bytes of a tile that are read to find out how it is compressed."""
BILEVEL_STEP = 255
"""Value that the readers give a bilevel sample that is not 0."""


@dataclass(frozen=True, kw_only=True)
class TiffLabels:
    """An image whose one band holds the stored samples."""

    image: PyramidImage
    step: int
    """Factor between a stored sample and the value that the image returns."""
    classes: tuple[tuple[str, str], ...] | None
    """Name and colour of each class, as this program writes them into masks."""
    indexed: bool
    """Whether the page has a palette."""
    bounds: Box | None = None
    """The scanned part of the slide that a mask of this program was made of, as the mask states it."""
    lossy: str | None = None
    """Name of the compression, where it has changed values; else None."""
    notes: tuple[str, ...] = ()
    """Messages that a user should read about planes and pages that are not read."""


@dataclass(frozen=True, kw_only=True)
class DecodedTiff:
    """A page that is decoded as a whole, and how to get its stored samples back from what its decoder returns."""

    lossy: str | None
    """Name of the compression, where it has changed values; else None."""
    step: int = 1
    """Factor between a stored sample and the value that the decoder returns."""
    largest: int | None = None
    """Value from which the decoder counts down, because 0 means white; else None."""


def open_tiff_labels(path: str, *, labels: Collection[int] = ()) -> TiffLabels | None:
    """Open level 0 of a TIFF as stored samples; None where it has no single band that can be read by region.

    A tile that was never written holds the file's nodata value, or 0, as GDAL reads it.

    Args:
        path: Path or URL of the file.
        labels: Stored values that are labels, also where the file calls one of them its nodata value.

    Raises:
        SourceError: The file is damaged.
    """
    blob = open_blob(path)
    try:
        advice = "Copy or export the file again"
        with (
            naming(path, "the TIFF file cannot be understood", advice=advice),
            tifffile.TiffFile(blob.stream(), name=file_name(path), _multifile=False) as file,
        ):
            found = _opened(file, path, blob, labels)
    except SourceError:
        blob.close()
        raise
    if found is None:
        blob.close()
    return found


def _opened(file: tifffile.TiffFile, path: str, blob: Blob, labels: Collection[int]) -> TiffLabels | None:
    contents = find_contents(file, path)
    index, found = contents.image(None, path)
    layer = full_layer(found)
    page = layer.pages[0]
    refuse_missing_tiles(layer.pages, path)
    beside = find_sidecars(path, world=world_endings(PurePath(file_name(path)).suffix))
    reference = tiff_geo.page_georeference(page, beside)
    turned, _ = stored_orientation(page, reference)
    if len(layer.pages) != 1 or page.samplesperpixel != 1 or not understood(page) or not _regional(page):
        return None
    stored = np.dtype(page.dtype or np.uint8)
    bilevel = stored.kind == "b"
    dtype = np.dtype(np.uint8) if bilevel else stored.newbyteorder("=")
    info = _info(layer, path, dtype, labels, beside=beside, reference=reference, turned=turned)
    store: Store = TiffStore(
        blob,
        path,
        layers=[layer],
        colour=Colour(bands=info.bands, dtype=dtype),
        nodata=info.nodata,
        unwritten=_unwritten(page, dtype),
    )
    if beside.mask is not None:
        mask, _ = open_external_mask(beside.mask, layer.size, samples=1, bands=1)
        if mask is not None:
            store = CompletedStore(
                [StoredLevel(size=layer.size, downsample=LEVEL0, store=store, index=0)], mask, bands=1
            )
    if turned != 1:
        store = OrientedStore(store, [layer.size], turned)
    return TiffLabels(
        image=PyramidImage(info, store),
        step=BILEVEL_STEP if bilevel else 1,
        classes=classes_of(page),
        indexed=page.photometric == tifffile.PHOTOMETRIC.PALETTE,
        bounds=bounds_of(mask_description(page) or {}),
        lossy=_lossy(page, blob),
        notes=(*found.notes, *_pages_note(contents.contents, index)),
    )


def decoded_tiff(path: str) -> DecodedTiff:
    """Return how the stored samples of a TIFF file follow from what a decoder of the whole page returns.

    Raises:
        SourceError: The file is damaged, or its page has one band whose decoder returns other values than the stored
            ones in a way that cannot be undone.
    """
    advice = "Copy or export the file again"
    with (
        closing(open_blob(path)) as blob,
        naming(path, "the TIFF file cannot be understood", advice=advice),
        tifffile.TiffFile(blob.stream(), name=file_name(path), _multifile=False) as file,
    ):
        layer = full_layer(find_contents(file, path).image(None, path)[1])
        page = layer.pages[0]
        lossy = _lossy(page, blob)
        if page.samplesperpixel != 1 or page.dtype is None:
            return DecodedTiff(lossy=lossy)
        bits = int(np.ravel(page.bitspersample)[0])
        plain = page.photometric in (MINISWHITE, MINISBLACK) and (bits == 1 or bits == 8 * page.dtype.itemsize)
        inverted = page.photometric == MINISWHITE
        counts_down = inverted and page.dtype.kind in "bu"
        # Several pages are the bands of one picture, whose palettes the readers leave alone.
        if len(layer.pages) == 1 and (not plain or inverted != counts_down):
            raise SourceError(
                "labels in a palette, in part of a byte, or in an unusual type must lie in small strips or tiles",
                value=f"one strip of {chunk_bytes(page):,} bytes",
                file=path,
                advice="Convert it to a tiled TIFF",
            )
        bilevel = page.dtype.kind == "b"
        largest = (BILEVEL_STEP if bilevel else 2**bits - 1) if counts_down else None
        return DecodedTiff(lossy=lossy, step=BILEVEL_STEP if bilevel else 1, largest=largest)


def _lossy(page: TiffPage, blob: Blob) -> str | None:
    """Return the name of a page's compression where it changes values, by the first tile that is stored; else None."""
    compression = int(page.compression)
    if not is_told_by_header(compression):
        return lossy_codec(compression, b"")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count:
            # A stream of LERC that was compressed once more has to be read whole.
            most = CHUNK_BYTES if compression == LERC else HEADER_BYTES
            data = blob.read(int(offset), min(int(count), most), place="the first tile")
            return lossy_codec(compression, data)
    return None


def _pages_note(contents: Sequence[Content], index: int) -> tuple[str, ...]:
    """Return a note on other pages of the size of the one that is read, such as those of further classes."""
    alike = sum(content.size == contents[index].size for content in contents)
    if alike == 1:
        return ()
    return (f"the file holds {alike} pages of one size, and labels are read from page {index + 1} alone",)


def _regional(page: TiffPage) -> bool:
    return bool(page.is_contiguous) or chunk_bytes(page) <= CHUNK_BYTES


def nodata_of(page: TiffPage, dtype: np.dtype[np.generic]) -> float | None:
    """Return the nodata value of a page where samples of this dtype can have it."""
    return storable(tiff_geo.nodata(page), dtype)


def _unwritten(page: TiffPage, dtype: np.dtype[np.generic]) -> float | None:
    """Return the stored value of a tile that was never written; None where no bit can be the file's nodata value."""
    found = nodata_of(page, dtype) or 0
    return None if page.dtype == np.bool_ and found not in BITS else found


def _info(
    layer: Layer,
    path: str,
    dtype: np.dtype[np.generic],
    labels: Collection[int],
    *,
    beside: Sidecars,
    reference: Georeference,
    turned: int,
) -> ImageInfo:
    page = layer.pages[0]
    size = oriented(layer.size, turned)
    masked = beside.mask is not None or layer.mask is not None
    stated = nodata_of(page, dtype) if reference.nodata is None else storable(reference.nodata, dtype)
    nodata = None if masked or stated in labels else stated
    return ImageInfo(
        path=path,
        backend="tiff",
        size=size,
        levels=level_table(size, []),
        bands=("grey",),
        dtype=dtype.name,
        nodata=nodata,
        crs=reference.name,
        geo_tags=reference.tags,
        has_mask=nodata is not None or masked or dtype.kind == "f" or page.compression == LERC,
        resident_bytes=TILE_CACHE_BYTES,
    )


def classes_of(page: TiffPage) -> tuple[tuple[str, str], ...] | None:
    """Return name and colour of the classes of a mask that this program wrote; None where a page names none."""
    classes = (mask_description(page) or {}).get("classes")
    if not isinstance(classes, list) or not all(isinstance(item, dict) for item in classes):
        return None
    found = tuple((item.get("name"), str(item.get("color"))) for item in classes)
    # A description that is damaged names no class.
    named = tuple((name, color) for name, color in found if isinstance(name, str) and COLOUR.fullmatch(color))
    return named if named and len(named) == len(found) else None


def bounds_of(description: Mapping[str, object]) -> Box | None:
    """Return the scanned part of the slide that a mask of this program was made of; None where none is stated."""
    value = description.get("bounds")
    if not isinstance(value, list) or len(value) != BOX_SIDES or not all(type(each) is int for each in value):
        return None
    x, y, width, height = value
    return Box(x=x, y=y, width=width, height=height) if width >= 0 and height >= 0 else None


def mask_description(page: TiffPage) -> dict[str, object] | None:
    """Return the JSON object that a mask of this program has as its description; None where a page has none."""
    try:
        found = json.loads(page.description)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
