"""JPEG 2000 files, by GDAL: the one library at hand that decodes a region of them, at each of their resolutions."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from magnet_cli.errors import SourceError
from magnet_cli.images.failures import naming
from magnet_cli.images.gdal_image import (
    FAILURES,
    Codes,
    GdalStore,
    close,
    codes_of,
    environment,
    image_info,
    keeps_masks,
)
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import Found, decimal, microscope
from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.protocol import Alpha, ImageInfo

DAMAGED = "The file is damaged: copy or export it again"

RAW_MAGIC = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
SYCC = 18
"""Enumerated colour space of a colour box: YCbCr, which GDAL hands out as it is stored."""

OVERVIEW_FILES = (".ovr", ".rrd")
"""Endings of files beside an image in which GDAL keeps overviews; it reads these in place of the image's own."""
AUXILIARY = ".aux"
"""Ending of a file of ERDAS or ArcGIS, which may hold overviews, statistics, or both."""

CM_UM = 10000
FINEST_UM = 1e-3
"""A pixel smaller than a nanometre is a writer's mistake."""


def open_jp2(blob: Blob, *, alpha: Alpha = "mask") -> PyramidImage:
    """Open a JPEG 2000 file or codestream.

    Args:
        blob: The file; its end is checked, then GDAL opens it anew.
        alpha: Meaning of a band that is flagged as alpha.

    Raises:
        SourceError: It is damaged, or lies behind a URL.
    """
    path = blob.name
    if is_url(path):
        raise SourceError("JPEG 2000 files are read from a disk only", file=path, advice="Download the file")
    with naming(path, "the file is damaged or truncated", advice=DAMAGED):
        luma = read_header(blob).colour_space == SYCC
    blob.close()
    datasets: list[list[Any]] = []
    try:
        with naming(path, "the JPEG 2000 file cannot be opened", advice=DAMAGED, also=FAILURES), environment():
            datasets.append([_dataset(path)])
            codes = codes_of(path, datasets[0], luma=luma, alpha=alpha)
            for index in range(_reductions(datasets[0][0], codes)):
                datasets.append([_dataset(path, overview_level=index)])
                if not keeps_masks(datasets[0], datasets[-1]):
                    close([datasets.pop()])
                    break
            info = _info(path, datasets, codes)
            # Pixels of overviews in a file beside the image lie in the middle of what they stand for, as in other
            # formats.
            beside = any(map(_holds_overviews, datasets[0][0].files))
    except SourceError:
        close(datasets)
        raise
    store = (GdalStore if beside else Jp2Store)(info, datasets, codes)
    return PyramidImage(info, store, by_band=False)


@dataclass(frozen=True, kw_only=True)
class Header:
    """Contents of the boxes of a file."""

    codestream: int
    """Position of the codestream's first byte."""
    end: int
    """Position one past the codestream's last byte."""
    colour_space: int | None = None
    """Enumerated colour space of the file; None where it names none."""


def read_header(blob: Blob) -> Header:
    """Read and check the boxes of a file, because GDAL and OpenJPEG read over damage there.

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
    # Method 1 is an enumerated colour space; method 2 would be an ICC profile (ITU-T T.800, I.5.3.3).
    return next((int.from_bytes(said[3:], "big") for said in found if said[0] == 1), None)


def _boxes(blob: Blob, at: int, until: int) -> Iterator[tuple[bytes, int, int]]:
    """Return the kind of each box, and the first byte and end of its content."""
    while at + 8 <= until:
        length, kind = struct.unpack(">I4s", blob.read(at, 8, place="a box"))
        start = at + 8
        # A length of 1 says that the real one follows in eight bytes, and 0 that the box is the last (ITU-T T.800,
        # I.4).
        if length == 1:
            length, start = int.from_bytes(blob.read(start, 8, place="a box"), "big"), start + 8
        end = until if length == 0 else at + length
        if end > until or end < start:
            message = f"the box at byte {at} ends at byte {end}, beyond {until}"
            raise ValueError(message)
        yield kind, start, end
        at = end


def _dataset(path: str, **options: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="JP2OpenJPEG", sharing=False, **options)


def _holds_overviews(path: str) -> bool:
    """Return whether a file of an image holds overviews that take the place of the image's own resolutions."""
    name = path.lower()
    if not name.endswith(AUXILIARY):
        return name.endswith(OVERVIEW_FILES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="HFA", sharing=False) as file:
                return bool(file.overviews(1))
    except FAILURES:
        return False


def _reductions(dataset: Any, codes: Codes) -> int:
    # A wavelet mixes whatever the numbers mean: palette entries, and pixels that hold no data, have to stay apart.
    apart = codes.palette is not None or codes.alpha is not None or dataset.nodata is not None
    return 0 if apart else len(dataset.overviews(1))


def _info(path: str, datasets: Sequence[Sequence[Any]], codes: Codes) -> ImageInfo:
    info = image_info(path, datasets, codes)
    if info.geo_tags:
        return info
    resolution, notes = _resolution(datasets[0][0].tags())
    return replace(info, resolution=resolution, notes=(*info.notes, *notes))


def _resolution(tags: Mapping[str, str]) -> Found:
    x, y = (decimal(tags.get(f"TIFFTAG_{axis}RESOLUTION")) for axis in "XY")
    per_cm = tags.get("TIFFTAG_RESOLUTIONUNIT", "").startswith("3")
    if not per_cm or x is None or y is None or max(x, y) > CM_UM / FINEST_UM:
        return None, ()
    return microscope(CM_UM / x, CM_UM / y)


def centred(samples: NDArray[Any], factor: int) -> NDArray[Any]:
    """Move samples to the middle of the squares of level-0 pixels that they stand for.

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


class Jp2Store(GdalStore):
    """Resolutions of a JPEG 2000 file."""

    def _read(
        self, level: int, dataset: Any, window: Window, numbers: list[int]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if level == 0:
            return super()._read(level, dataset, window, numbers)
        x, y, width, height = window.col_off, window.row_off, window.width, window.height
        wide, high = min(x + width + 1, dataset.width) - x, min(y + height + 1, dataset.height) - y
        samples, masks = super()._read(level, dataset, Window(x, y, wide, high), numbers)
        padding = ((0, 0), (0, height + 1 - high), (0, width + 1 - wide))
        return centred(np.pad(samples, padding, mode="edge"), 2**level), masks[:, :height, :width]
