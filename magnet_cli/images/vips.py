"""Pictures that libvips decodes from their beginning to their end: PNG, JPEG, WebP, and odd TIFFs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import PurePath
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images.blob import FileBlob
from magnet_cli.images.cache import cache_bytes, check_budget, decoded_raster
from magnet_cli.images.failures import check_pixels, naming
from magnet_cli.images.ground import ground_size
from magnet_cli.images.jpeg import JPEG_HEAD_BYTES, unread_kind
from magnet_cli.images.levels import level_table
from magnet_cli.images.libvips import pyvips
from magnet_cli.images.protocol import ImageInfo, Resolution
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import microscope
from magnet_cli.images.store import TRANSPOSED, MemoryStore, OrientedStore, Pixels, Store, oriented
from magnet_cli.images.urls import file_name, is_url
from magnet_cli.images.validity import both, storable, without_nodata
from magnet_cli.system.spool import TILE, SpooledRaster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.cache import CacheBudget
    from magnet_cli.images.protocol import Alpha

DTYPES = {
    "uchar": "uint8",
    "char": "int8",
    "ushort": "uint16",
    "short": "int16",
    "uint": "uint32",
    "int": "int32",
    "float": "float32",
    "double": "float64",
}
"""NumPy names of libvips' pixel formats."""

CONVERTED = ("cmyk", "lab", "labs", "labq", "lch", "xyz", "yxy", "scrgb", "hsv")
"""Colour spaces of libvips that are converted to sRGB."""

RGB = ("srgb", "rgb", "rgb16")
COLOURS = ("red", "green", "blue")
WITH_WORLD_FILE = (".png", ".jpg", ".jpeg")
"""Suffixes of pictures that GDAL places by a world file."""
JPEG_MAGIC = b"\xff\xd8\xff"
LOADERS = ("png", "jpeg", "webp", "tiff")
DAMAGED = "The file is damaged: copy or export it again"

FAILURES = (pyvips.Error,)

STRIP_BYTES = 16 << 20
MIN_ROWS = 8
"""Rows decoded at a time, a divisor of the tile height: as many as take `STRIP_BYTES`, at least these."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Facts that the header of a picture states."""

    blob: Blob
    """The file; closed with the store over the picture."""
    size: Size
    """Size as it is stored, before the orientation is corrected."""
    bands: int
    """Number of bands without alpha."""
    transparent: int | None
    """Position of the alpha channel among the decoded bands, where it marks the pixels that hold data; else None."""
    dtype: np.dtype[Any]
    rgb: bool
    orientation: int
    resolution: Resolution | None
    notes: tuple[str, ...]
    page: int = 0
    """Number of the page of a TIFF."""
    alpha_is_band: bool = False
    """Whether a band is an alpha channel by the picture's format."""
    as_stored: bool = False
    """Whether the samples keep their values whatever colours libvips takes them for."""
    strip_bytes: int = 0
    """Memory that one strip of a TIFF takes while it is decoded, where that is known and checked; else 0."""

    @property
    def decoded(self) -> int:
        """Number of bands that libvips decodes."""
        return self.bands + (self.transparent is not None)

    @property
    def path(self) -> str:
        """Path of the file for error messages."""
        return self.blob.name

    @property
    def whole_notes(self) -> tuple[str, ...]:
        """Notes about a picture behind a URL: formats without tiles are fetched from beginning to end."""
        if not is_url(self.path):
            return ()
        return (f"this file has no tiles that could be fetched alone: all of its {self.blob.size:,} bytes are",)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands without alpha."""
        if self.bands == 1:
            return ("grey",)
        colours = COLOURS if self.rgb else ()
        return colours + tuple(f"band{index + 1}" for index in range(len(colours), self.bands))

    @property
    def cache_bytes(self) -> int:
        """Disk that decoding the picture once needs, in bytes."""
        return cache_bytes(self.size, bands=self.decoded, dtype=self.dtype)

    @property
    def resident_bytes(self) -> int:
        """Memory that the picture keeps while it is open, in bytes."""
        held = 0 if self.cache_bytes else self.size.pixels * self.decoded * self.dtype.itemsize
        return held + self.strip_bytes + self.blob.resident_bytes


def open_picture(blob: Blob, *, cache: CacheBudget | None, alpha: Alpha = "mask") -> PyramidImage:
    """Open a PNG, JPEG, WebP or other picture.

    Args:
        blob: The file; closed with the image.
        cache: Disk space for decoding the picture once.
        alpha: Meaning of an alpha channel.

    Raises:
        SourceError: The picture is damaged, or needs more disk than allowed.
    """
    from magnet_cli.images.georeference import georeference  # noqa: PLC0415 (PROJ, where there is a place to be read)
    from magnet_cli.images.sidecars import find_sidecars, unread_projection, world_endings  # noqa: PLC0415

    picture = read_header(blob, alpha)
    suffix = PurePath(file_name(blob.name)).suffix.lower()
    beside = find_sidecars(blob.name, world=world_endings(suffix) if suffix in WITH_WORLD_FILE else ())
    if not beside.is_placed and beside.nodata is None and beside.mask is None and not beside.notes:
        return PyramidImage(picture_info(picture), decoded_store(picture, cache=cache, nodata=None))
    reference = georeference((), beside)
    nodata = None if beside.mask is not None else storable(reference.nodata, picture.dtype)
    if reference.is_placed and picture.orientation != 1:
        # A georeference belongs to the pixels as they are stored: turned, the mask would lie elsewhere on the map.
        said = f"the orientation tag ({picture.orientation}) is ignored, as GDAL does: the georeference belongs to the"
        others = (note for note in picture.notes if "orientation tag" not in note)
        picture = replace(picture, orientation=1, notes=(f"{said} stored pixels", *others))
    info = picture_info(picture)
    found, notes = ground_size(reference, info.size)
    if reference.crs is None and (note := unread_projection(blob.name)):
        notes += (note,)
    info = replace(
        info,
        crs=reference.name,
        geo_tags=reference.tags,
        resolution=found if reference.is_placed else info.resolution,
        nodata=nodata,
        has_mask=info.has_mask or nodata is not None,
        notes=info.notes + reference.notes + notes,
    )
    store = decoded_store(replace(picture, orientation=1), cache=cache, nodata=nodata)
    return finished(info, store, mask=beside.mask, stored=picture.size, orientation=picture.orientation)


def finished(info: ImageInfo, store: Store, *, mask: str | None, stored: Size, orientation: int) -> PyramidImage:
    """Return an image over a decoded store, with its external mask applied and its orientation corrected.

    Args:
        info: Facts about the image, orientation corrected.
        store: Store of the picture as it lies in the file; closed where this function fails.
        mask: Path or URL of a file `.msk` beside the image; None where there is none.
        stored: The size of the picture as it is stored.
        orientation: Orientation by tag 274, 1 to 8.

    Raises:
        SourceError: The mask is damaged, or has another size than the image.
    """
    if mask is not None:
        from magnet_cli.images.external import CompletedStore, StoredLevel, open_external_mask  # noqa: PLC0415

        bands = len(info.bands)
        try:
            found, note = open_external_mask(mask, stored, samples=bands, bands=bands)
        except SourceError:
            store.close()
            raise
        if found is not None:
            level = StoredLevel(size=stored, downsample=LEVEL0, store=store, index=0)
            store = CompletedStore([level], found, bands=bands)
            info = replace(info, has_mask=True, resident_bytes=info.resident_bytes + found.resident_bytes)
        info = replace(info, notes=info.notes + ((note,) if note else ()))
    if orientation != 1:
        store = OrientedStore(store, [stored], orientation)
    return PyramidImage(info, store)


def picture_info(picture: Picture) -> ImageInfo:
    """Return the facts about a picture, orientation corrected."""
    size = oriented(picture.size, picture.orientation)
    return ImageInfo(
        path=picture.path,
        backend="vips",
        size=size,
        levels=level_table(size, []),
        bands=picture.band_names,
        dtype=picture.dtype.name,
        resolution=picture.resolution,
        alpha="mask" if picture.transparent is not None else "band" if picture.alpha_is_band else None,
        has_mask=picture.transparent is not None or picture.dtype.kind == "f",
        cache_bytes=picture.cache_bytes,
        resident_bytes=picture.resident_bytes,
        notes=(*picture.notes, *picture.whole_notes),
    )


def read_header(blob: Blob, alpha: Alpha = "mask", *, page: int = 0, as_stored: bool = False) -> Picture:
    """Read the header of a picture; no pixel is decoded.

    Args:
        blob: File that holds the picture.
        alpha: Meaning of an alpha channel.
        page: Number of the page of a TIFF.
        as_stored: Whether the samples keep their values whatever colours libvips takes them for.

    Raises:
        SourceError: libvips cannot read it, or its size is absurd.
    """
    path = blob.name
    _refuse_unread_jpeg(blob)
    with naming(path, "the picture cannot be opened", advice=DAMAGED, also=FAILURES):
        feed = Feed(blob)
    with feed.decoding("the picture cannot be opened"):
        image = _load(feed, page=page, as_stored=as_stored)
        notes: tuple[str, ...] = ()
        interpretation = str(image.interpretation)
        dtype = np.dtype(DTYPES[str(image.format)])
        flagged = bool(image.hasalpha())
        transparent = flagged and alpha == "mask"
        orientation = int(image.get("orientation")) if image.get_typeof("orientation") else 1
        moves = not str(image.get("vips-loader")).startswith("tiff") and image.get_typeof("n-pages")
        frames = int(image.get("n-pages")) if moves else 1
    check_pixels(image.width, image.height, path)
    if frames > 1:
        notes += (f"the file is an animation of {frames} pictures, and the first one is read",)
    if orientation not in range(2, 9):
        orientation = 1
    else:
        notes += (f"the orientation tag ({orientation}) was applied",)
    # libvips gives pixels a millimetre, whatever unit the file has.
    x, y = (Fraction(1000) / Fraction(repr(float(value))) if value > 0 else None for value in (image.xres, image.yres))
    resolution, said = microscope(x, y)
    if resolution is not None and orientation in TRANSPOSED:
        resolution = Resolution(x=resolution.y, y=resolution.x, unit=resolution.unit)
    return Picture(
        blob=blob,
        page=page,
        size=Size(width=image.width, height=image.height),
        bands=image.bands - transparent,
        transparent=image.bands - 1 if transparent else None,
        alpha_is_band=flagged and not transparent,
        as_stored=as_stored,
        dtype=dtype,
        rgb=interpretation in RGB and image.bands - transparent >= 3,  # noqa: PLR2004 (colours)
        orientation=orientation,
        resolution=resolution,
        notes=notes + said,
    )


def _refuse_unread_jpeg(blob: Blob) -> None:
    """Refuse kinds of JPEG that libvips would call damaged, some of them not before it decodes them.

    Raises:
        SourceError: The file is one of them.
    """
    head = blob.read(0, min(JPEG_HEAD_BYTES, blob.size), place="the beginning")
    kind = unread_kind(head) if head.startswith(JPEG_MAGIC) else None
    if kind is not None:
        raise SourceError(
            "of JPEG files those of 8 bits a sample are read",
            value=kind,
            file=blob.name,
            advice="Save it as TIFF or PNG, with the program that wrote it",
        )


def decoded_store(picture: Picture, *, cache: CacheBudget | None, nodata: float | None) -> Store:
    """Return a store over a picture that is decoded at its first read.

    Raises:
        SourceError: The picture needs more disk than allowed.
    """
    check_budget(picture.path, picture.cache_bytes, cache)
    store = DecodedStore(picture, cache=cache, nodata=storable(nodata, picture.dtype))
    return store if picture.orientation == 1 else OrientedStore(store, [picture.size], picture.orientation)


class DecodedStore:
    """A picture decoded once, at the first read, to memory where it is small and to a tile file where it is not.

    Args:
        picture: Header of the picture.
        cache: Disk space that the store may use, already checked; None decodes to memory.
        nodata: Value of missing pixels.
    """

    def __init__(self, picture: Picture, *, cache: CacheBudget | None, nodata: float | None) -> None:
        self._picture = picture
        self._cache = cache
        self._nodata = nodata
        self._lock = Lock()
        self._decoded: MemoryStore | SpooledRaster | None = None

    def block(self, level: int) -> Size:  # noqa: ARG002 (there is one level)
        """Return the tile size of the decoded picture."""
        return Size(width=TILE, height=TILE)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Return the pixels of a box; the first call decodes the whole picture."""
        with self._lock:
            if self._decoded is None:
                # Only the first thread decodes; the others wait for it instead of decoding the whole picture as well.
                self._decoded = self._decode()
        decoded = self._decoded
        values = decoded.fetch(level, box).values if isinstance(decoded, MemoryStore) else decoded.read(box)
        valid = None
        transparent = self._picture.transparent
        if transparent is not None:
            present = values[:, :, transparent] > 0
            valid = None if present.all() else present
            values = np.delete(values, transparent, axis=2)
        return Pixels(values, both(valid, without_nodata(values, self._nodata))).only(bands)

    def close(self) -> None:
        """Drop the decoded picture and close its file."""
        with self._lock:
            if self._decoded is not None:
                self._decoded.close()
        self._picture.blob.close()

    def _decode(self) -> MemoryStore | SpooledRaster:
        picture = self._picture
        bands = picture.decoded
        if picture.cache_bytes == 0 or self._cache is None:
            values = np.empty((picture.size.height, picture.size.width, bands), picture.dtype)
            for y, rows in self._rows():
                values[y : y + len(rows)] = rows
            return MemoryStore(values)
        file = decoded_raster(self._cache.folder, picture.size, bands=bands, dtype=picture.dtype)
        try:
            for y, rows in self._rows():
                file.write(y, rows)
        except SourceError:
            file.close()
            raise
        return file

    def _rows(self) -> Iterator[tuple[int, NDArray[Any]]]:
        picture = self._picture
        width, height, dtype = picture.size.width, picture.size.height, picture.dtype
        bands = picture.decoded
        step = TILE
        # Halves of the tile height are divisors of it, so that no strip of rows crosses a tile of the spool.
        while step > MIN_ROWS and step * width * bands * dtype.itemsize > STRIP_BYTES:
            step //= 2
        with naming(picture.path, "the picture cannot be opened", advice=DAMAGED, also=FAILURES):
            # Pixels in sequential access are handed out once, so a second pass opens the file anew.
            feed = Feed(picture.blob)
        with feed.decoding("the picture cannot be decoded"):
            region = pyvips.Region.new(_loaded(feed, picture))
        for y in range(0, height, step):
            count = min(step, height - y)
            with feed.decoding(f"the picture cannot be decoded at rows {y} to {y + count}"):
                data = region.fetch(0, y, width, count)
                rows = np.frombuffer(data, dtype).reshape(count, width, bands)
            yield y, rows


def _loaded(feed: Feed, picture: Picture) -> Any:
    return _load(feed, page=picture.page, unlimited=picture.strip_bytes > 0, as_stored=picture.as_stored)


def _load(feed: Feed, *, page: int = 0, unlimited: bool = False, as_stored: bool = False) -> Any:
    # libtiff lets a strip take 50 MiB at most, unless told otherwise; whoever does has checked its size.
    options: dict[str, Any] = {"unlimited": True} if unlimited else {}
    options |= {"page": page} if page else {}
    # Without fail_on="warning" libvips 8.18 hands back black pixels for damaged or unsupported tiles.
    # Sequential access lets libvips decode line by line; without it the whole picture would be decoded into memory or a
    # file.
    image = pyvips.Image.new_from_source(feed.source, "", access="sequential", fail_on="warning", **options)
    loader = str(image.get("vips-loader"))
    if not loader.startswith(LOADERS):
        message = f"{loader} is not a format read here"
        raise ValueError(message)
    return image if as_stored or str(image.interpretation) not in CONVERTED else image.colourspace("srgb")


class Feed:
    """The source from which libvips reads: the file, or bytes behind a URL or that stand for those of a file.

    Args:
        blob: File that libvips decodes.
    """

    def __init__(self, blob: Blob) -> None:
        self._name = blob.name
        self._failure: SourceError | None = None
        if isinstance(blob, FileBlob):
            self.source = pyvips.Source.new_from_file(blob.name)
            return
        self._stream = blob.stream()
        self.source = pyvips.SourceCustom()
        self.source.on_read(self._read)
        self.source.on_seek(self._stream.seek)

    @contextmanager
    def decoding(self, rule: str) -> Iterator[None]:
        """Name the file where the block fails, as `naming` does; a failure of the network comes before libvips' error.

        Raises:
            SourceError: The block failed.
        """
        try:
            with naming(self._name, rule, advice=DAMAGED, also=FAILURES):
                yield
        except SourceError:
            if self._failure is not None:
                raise self._failure from None
            raise

    def _read(self, count: int) -> bytes:
        # An exception does not get through libvips: it would be printed, and taken for the end of the file.
        try:
            return self._stream.read(count)
        except SourceError as error:
            self._failure = error
            return b""
