"""DICOM slides that OpenSlide does not decode, 16-bit and JPEG-LS ones, by wsidicom."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import wsidicom
from pydicom.errors import InvalidDicomError
from wsidicom import errors
from wsidicom.instance.dataset import TileType
from wsidicom.instance.tile_index.sparse_tile_index import SparseTileIndex

from magnet_cli.geometry import Size
from magnet_cli.images.failures import check_pixels, naming
from magnet_cli.images.levels import level_table
from magnet_cli.images.openslide import left_planes
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import stated
from magnet_cli.images.series import series_uid
from magnet_cli.images.store import Pixels
from magnet_cli.images.tiff_colour import COLOURS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box

FAILURES: tuple[type[Exception], ...] = (
    InvalidDicomError,
    errors.WsiDicomError,
    errors.WsiDicomFileError,
    errors.WsiDicomMatchError,
    errors.WsiDicomNoResolutionError,
    errors.WsiDicomNotFoundError,
    errors.WsiDicomNotSupportedError,
    errors.WsiDicomOutOfBoundsError,
    errors.WsiDicomStrictRequirementError,
    errors.WsiDicomUidDuplicateError,
)
DAMAGED = "The slide is damaged: copy or export it again"


def open_dicom(path: str) -> PyramidImage:
    """Open a DICOM slide.

    Args:
        path: File of any of the slide's levels; the files of the other levels are searched in its folder.

    Raises:
        SourceError: wsidicom cannot read it.
    """
    with naming(path, "the slide cannot be opened", advice=DAMAGED, also=FAILURES):
        slide = wsidicom.WsiDicom.open(_series(Path(path)))
        info = _info(path, slide)
    return PyramidImage(info, DicomStore(info, slide))


def _series(path: Path) -> list[Path]:
    uid = series_uid(path)
    beside = [file for file in sorted(path.parent.iterdir()) if file != path and uid and series_uid(file) == uid]
    return [path, *beside]


def _info(path: str, slide: Any) -> ImageInfo:
    full, *reduced = slide.pyramid
    check_pixels(full.size.width, full.size.height, path)
    size = Size(width=full.size.width, height=full.size.height)
    count = full.datasets[0].samples_per_pixel
    resolution, notes = stated(full.mpp.width, full.mpp.height, unit="um")
    notes += left_planes(len(full.optical_paths), len(full.focal_planes))
    return ImageInfo(
        path=path,
        backend="wsidicom",
        size=size,
        levels=level_table(size, [Size(width=level.size.width, height=level.size.height) for level in reduced]),
        bands=COLOURS if count == len(COLOURS) else ("grey",),
        dtype="uint8" if full.datasets[0].bits <= 8 else "uint16",  # noqa: PLR2004 (bits)
        resolution=resolution,
        has_mask=any(_missing_tiles(level) is not None for level in slide.pyramid),
        notes=notes,
    )


def _missing_tiles(level: Any) -> NDArray[np.bool_] | None:
    """Return `(rows, columns)`, True for tiles of a level that are not stored; None where all are."""
    instance = level.default_instance
    if level.datasets[0].tile_type != TileType.SPARSE:
        return None
    planes = SparseTileIndex(instance.datasets).planes
    missing: NDArray[np.bool_] = planes[instance.default_z, instance.default_path].plane.T < 0
    return missing if missing.any() else None


class DicomStore:
    """Levels of a DICOM slide.

    Args:
        info: Facts about the slide.
        slide: The opened `wsidicom.WsiDicom`.
    """

    def __init__(self, info: ImageInfo, slide: Any) -> None:
        self._info = info
        self._slide = slide
        self._levels = [(level.level, level.tile_size) for level in slide.pyramid]
        self._missing = [_missing_tiles(level) for level in slide.pyramid]
        self._lock = Lock()

    def block(self, level: int) -> Size:
        """Return the tile size of a level."""
        tile = self._levels[level][1]
        return Size(width=tile.width, height=tile.height)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Decode a box of a level; pixels of tiles that are not stored are not valid."""
        rule, where = f"box {box} of level {level} cannot be decoded", self._levels[level][0]
        # The files of a slide have one position each, so threads read them in turn.
        with naming(self._info.path, rule, advice=DAMAGED, also=FAILURES), self._lock:
            read = self._slide.read_region((box.x, box.y), where, (box.width, box.height), as_array=True)
            pixels: NDArray[Any] = np.asarray(read).reshape(box.height, box.width, len(self._info.bands))
        return Pixels(pixels.astype(self._info.dtype, copy=False), self._valid(level, box)).only(bands)

    def _valid(self, level: int, box: Box) -> NDArray[np.bool_] | None:
        missing, tile = self._missing[level], self.block(level)
        if missing is None:
            return None
        rows, columns = np.arange(box.y, box.bottom) // tile.height, np.arange(box.x, box.right) // tile.width
        valid: NDArray[np.bool_] = ~missing[np.ix_(rows, columns)]
        return None if valid.all() else valid

    def close(self) -> None:
        """Close the slide's files."""
        self._slide.close()
