"""The disk that a one-time decode may use."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from magnet_cli.errors import SourceError
from magnet_cli.images.failures import naming
from magnet_cli.system.spool import Spool, SpooledRaster, raster_bytes

if TYPE_CHECKING:
    import numpy as np

    from magnet_cli.geometry import Size

MEMORY_BYTES = 64 << 20
"""A decoded image up to this size is held in memory instead."""


@dataclass(frozen=True, kw_only=True)
class CacheBudget:
    """Disk that images which cannot be read by region may use while they are open."""

    folder: Path
    """Folder for decoded images, made where it is missing; nothing stays in it."""
    max_bytes: int
    SHARE: ClassVar[float] = 0.5
    """Share of the free disk space that `within` allows."""

    @classmethod
    def within(cls, folder: Path) -> Self:
        """Return half of the free space of the disk that a folder is on, or will be on."""
        # The folder may not exist yet. Its nearest ancestor that does is on the same disk.
        there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.is_dir())
        return cls(folder=there, max_bytes=int(shutil.disk_usage(there).free * cls.SHARE))

    @classmethod
    def temporary(cls) -> Self | None:
        """Return the budget in the system's folder for temporary files.

        None where no such folder can be written, as in a container whose file system is read-only. Images that are read
        by region need none.
        """
        try:
            folder = tempfile.gettempdir()
        except FileNotFoundError:
            return None
        return cls.within(Path(folder))


def cache_bytes(size: Size, *, bands: int, dtype: np.dtype[Any]) -> int:
    """Return the disk that a decoded image of this size takes; 0 where it is held in memory instead."""
    return raster_bytes(size, bands=bands, dtype=dtype) if size.pixels * bands * dtype.itemsize > MEMORY_BYTES else 0


def check_budget(file: str, needed: int, cache: CacheBudget | None) -> None:
    """Refuse a one-time decode that does not fit its budget.

    Raises:
        SourceError: The decode needs disk, and none or too little is allowed.
    """
    if needed == 0 or (cache is not None and needed <= cache.max_bytes):
        return
    allowed = "none is allowed" if cache is None else f"{cache.max_bytes:,} are allowed"
    raise SourceError(
        f"this file cannot be read by region: decoding it once needs {needed:,} bytes of disk",
        value=allowed,
        file=file,
        advice="Allow that much work space, or convert the file to a tiled TIFF",
    )


def decoded_raster(folder: Path, size: Size, *, bands: int, dtype: np.dtype[Any]) -> SpooledRaster:
    """Return the room on disk for a decoded image, in a folder that is made where it is missing.

    Raises:
        SourceError: The folder cannot be written; so do the methods of the raster.
    """
    rule, advice = "the decoded image cannot be kept here", "Free disk, or name another folder"
    refusal = partial(naming, folder, rule, advice=advice)
    with refusal():
        folder.mkdir(parents=True, exist_ok=True)
    return SpooledRaster(Spool(folder, refusal=refusal), size, bands=bands, dtype=dtype)
