"""JPEG 2000 files, by GDAL: the one library at hand that decodes a region of them, at each of their resolutions."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import tifffile
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images import tiff_geo
from magnet_cli.images.failures import naming
from magnet_cli.images.ground import ground_size
from magnet_cli.images.levels import level_table
from magnet_cli.images.limits import check_pixels
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import Found, decimal, microscope
from magnet_cli.images.store import Pixels
from magnet_cli.images.tiff_colour import COLOURS, rgb_of_ycbcr
from magnet_cli.images.urls import is_url
from magnet_cli.images.validity import both, without_nodata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.images.blob import Blob

CACHE_MIB = 64
"""What GDAL may keep of decoded blocks."""

FAILURES = (RasterioError,)
DAMAGED = "The file is damaged: copy or export it again"

RAW_MAGIC = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
SYCC = 18
"""Enumerated colour space of a colour box: YCbCr, which GDAL hands out as it is stored."""

CM_UM = 10000
FINEST_UM = 1e-3
"""A pixel smaller than a nanometre is a writer's mistake."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """How decoded components become bands."""

    bands: tuple[str, ...]
    dtype: np.dtype[Any]
    alpha: int | None
    palette: NDArray[np.uint8] | None
    """`(256, 3)`."""
    luma: bool
    """Whether decoded components are YCbCr."""

    def pixels(self, samples: NDArray[Any], nodata: float | None) -> Pixels:
        """Bands and validity of `(height, width, components)`."""
        valid: NDArray[np.bool_] | None = None
        if self.alpha is not None:
            valid = samples[:, :, self.alpha] > 0
            samples = np.delete(samples, self.alpha, axis=2)
        valid = both(None if valid is None or valid.all() else valid, without_nodata(samples, nodata))
        if self.palette is not None:
            samples = self.palette[samples[:, :, 0]]
        return Pixels(rgb_of_ycbcr(samples) if self.luma else samples, valid)


def open_jp2(blob: Blob) -> PyramidImage:
    """An image over a JPEG 2000 file or codestream.

    Args:
        blob: The file; its end is checked, then GDAL opens it anew.

    Raises:
        SourceError: It is damaged, or lies behind a URL.
    """
    path = blob.name
    if is_url(path):
        raise SourceError("JPEG 2000 files are read from a disk only", file=path, advice="Download the file")
    with naming(path, "the file is damaged or truncated", advice=DAMAGED):
        luma = read_header(blob).colour_space == SYCC
    blob.close()
    datasets: list[Any] = []
    try:
        with naming(path, "the JPEG 2000 file cannot be opened", advice=DAMAGED, also=FAILURES), _gdal():
            datasets.append(_dataset(path))
            codes = _codes(datasets[0], luma=luma)
            for index in range(_reductions(datasets[0], codes)):
                datasets.append(_dataset(path, overview_level=index))  # noqa: PERF401 (closed where one fails)
            info = _info(path, datasets, codes)
    except SourceError:
        _close(datasets)
        raise
    return PyramidImage(info, Jp2Store(info, datasets, codes), by_band=codes.palette is None)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the boxes of a file say."""

    codestream: int
    """First byte of the codestream."""
    end: int
    """The byte behind its last."""
    colour_space: int | None = None
    """Enumerated, where the file names one."""


def read_header(blob: Blob) -> Header:
    """The boxes of a file, checked: GDAL reads over damage there, and OpenJPEG decodes what there is of a codestream.

    Raises:
        ValueError: A box is longer than what holds it, or the codestream is missing or lacks its end marker.
    """
    header = _boxed(blob)
    if blob.read(max(header.codestream, header.end - 2), 2, place="the end of the codestream") != END:
        message = f"the codestream has no end marker at byte {header.end}"
        raise ValueError(message)
    return header


def _boxed(blob: Blob) -> Header:
    if blob.read(0, 4, place="the header") == RAW_MAGIC:
        return Header(codestream=0, end=blob.size)
    colour: int | None = None
    for kind, start, end in _boxes(blob, 0, blob.size):
        if kind == b"jp2h":
            colour = _colour_space(blob, start, end)
        elif kind == b"jp2c":
            return Header(codestream=start, end=end, colour_space=colour)
    message = "the file holds no codestream"
    raise ValueError(message)


def _colour_space(blob: Blob, start: int, end: int) -> int | None:
    found = [blob.read(at, 7, place="the colour box") for kind, at, _ in _boxes(blob, start, end) if kind == b"colr"]
    return next((int.from_bytes(said[3:], "big") for said in found if said[0] == 1), None)


def _boxes(blob: Blob, at: int, until: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and end of the content of each box."""
    while at + 8 <= until:
        length, kind = struct.unpack(">I4s", blob.read(at, 8, place="a box"))
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(blob.read(start, 8, place="a box"), "big"), start + 8
        end = until if length == 0 else at + length
        if end > until or end < start:
            message = f"the box at byte {at} ends at byte {end}, beyond {until}"
            raise ValueError(message)
        yield kind, start, end
        at = end


def _gdal() -> Any:
    return rasterio.Env(GDAL_CACHEMAX=CACHE_MIB)


def _dataset(path: str, **options: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="JP2OpenJPEG", **options)


def _close(datasets: Sequence[Any]) -> None:
    for dataset in datasets:
        dataset.close()


def _reductions(dataset: Any, codes: Codes) -> int:
    # A wavelet mixes whatever the numbers mean: palette entries, and pixels that hold no data, have to stay apart.
    apart = codes.palette is not None or codes.alpha is not None or dataset.nodata is not None
    return 0 if apart else len(dataset.overviews(1))


def _codes(dataset: Any, *, luma: bool) -> Codes:
    meanings = list(dataset.colorinterp)
    alpha = meanings.index(ColorInterp.alpha) if ColorInterp.alpha in meanings else None
    stored = np.dtype(dataset.dtypes[0])
    if meanings[0] is ColorInterp.palette:
        table = dataset.colormap(1)
        palette = np.array([table.get(index, (0, 0, 0))[:3] for index in range(256)], np.uint8)
        return Codes(bands=COLOURS, dtype=np.dtype(np.uint8), alpha=alpha, palette=palette, luma=False)
    count = dataset.count - (alpha is not None)
    coloured = luma or meanings[0] is ColorInterp.red or (alpha is not None and count == len(COLOURS))
    colours = COLOURS if count >= len(COLOURS) and coloured else ()
    rest = tuple(f"band{index + 1}" for index in range(len(colours), count))
    return Codes(
        bands=("grey",) if count == 1 else colours + rest,
        dtype=stored,
        alpha=alpha,
        palette=None,
        luma=luma and count == len(COLOURS) and stored == np.uint8,
    )


def _info(path: str, datasets: Sequence[Any], codes: Codes) -> ImageInfo:
    full = datasets[0]
    check_pixels(full.width, full.height, path)
    size = Size(width=full.width, height=full.height)
    resolution, notes = _resolution(full.tags())
    info = ImageInfo(
        path=path,
        backend="rasterio",
        size=size,
        levels=level_table(size, [Size(width=one.width, height=one.height) for one in datasets[1:]]),
        bands=codes.bands,
        dtype=codes.dtype.name,
        resolution=resolution,
        nodata=full.nodata,
        has_mask=codes.alpha is not None or full.nodata is not None,
        resident_bytes=CACHE_MIB << 20,
        notes=notes,
    )
    return _placed(info, full)


def _resolution(tags: Mapping[str, str]) -> Found:
    x, y = (decimal(tags.get(f"TIFFTAG_{axis}RESOLUTION")) for axis in "XY")
    per_cm = tags.get("TIFFTAG_RESOLUTIONUNIT", "").startswith("3")
    if not per_cm or x is None or y is None or max(x, y) > CM_UM / FINEST_UM:
        return None, ()
    return microscope(CM_UM / x, CM_UM / y)


def _placed(info: ImageInfo, dataset: Any) -> ImageInfo:
    """With the georeference as the tags that a TIFF would have: GDAL writes them for an image of one pixel."""
    if dataset.crs is None:
        return info
    with MemoryFile() as memory:
        options = {"width": 1, "height": 1, "count": 1, "dtype": "uint8", "nodata": info.nodata}
        with memory.open(driver="GTiff", crs=dataset.crs, transform=dataset.transform, **options) as one:
            one.write(np.zeros((1, 1, 1), np.uint8))
        with tifffile.TiffFile(BytesIO(memory.read())) as file:
            page = file.pages.first
            resolution, notes = ground_size(page, info.size)
            return replace(
                info, crs=tiff_geo.crs(page), geo_tags=tiff_geo.geo_tags(page), resolution=resolution, notes=notes
            )


def centred(samples: NDArray[Any], factor: int) -> NDArray[Any]:
    """Samples moved to the middle of the squares of level-0 pixels that they stand for.

    The wavelets of JPEG 2000 are symmetric about every `factor`-th pixel: there, and not in the middle, lie the samples
    of a reduced resolution (ITU-T T.800, annex F). Between neighbours they are taken as linear.

    Args:
        samples: `(bands, height + 1, width + 1)`.
        factor: Level-0 pixels a sample.

    Returns:
        `(bands, height, width)` in the same dtype.
    """
    part = np.float32((factor - 1) / (2 * factor))
    rows = (1 - part) * samples[:, :-1] + part * samples[:, 1:]
    both_ways = (1 - part) * rows[:, :, :-1] + part * rows[:, :, 1:]
    moved: NDArray[Any] = np.rint(both_ways).astype(samples.dtype)
    return moved


class Jp2Store:
    """Resolutions of a JPEG 2000 file.

    Args:
        info: Facts about the image.
        datasets: Opened by GDAL, one a level.
        codes: Meaning of the components.
    """

    def __init__(self, info: ImageInfo, datasets: Sequence[Any], codes: Codes) -> None:
        self._info = info
        self._datasets = tuple(datasets)
        self._codes = codes
        # A GDAL dataset belongs to one thread at a time.
        self._lock = Lock()

    def block(self, level: int) -> Size:
        """See `Store`."""
        height, width = self._datasets[level].block_shapes[0]
        return Size(width=width, height=height)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """See `Store`."""
        rule = f"box {box} of level {level} cannot be decoded"
        with naming(self._info.path, rule, advice=DAMAGED, also=FAILURES), self._lock, _gdal():
            samples = self._read(level, box)
        return self._codes.pixels(np.ascontiguousarray(np.moveaxis(samples, 0, 2)), self._info.nodata).only(bands)

    def _read(self, level: int, box: Box) -> NDArray[Any]:
        if level == 0:
            samples: NDArray[Any] = self._datasets[0].read(window=Window(box.x, box.y, box.width, box.height))
            return samples
        size = self._info.levels[level].size
        wide, high = min(box.right + 1, size.width) - box.x, min(box.bottom + 1, size.height) - box.y
        samples = self._datasets[level].read(window=Window(box.x, box.y, wide, high))
        padding = ((0, 0), (0, box.height + 1 - high), (0, box.width + 1 - wide))
        return centred(np.pad(samples, padding, mode="edge"), 2**level)

    def close(self) -> None:
        """See `Store`."""
        with self._lock:
            _close(self._datasets)
