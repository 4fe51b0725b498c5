"""The disk that a one-time decode may use."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

DECODE_SHARE = 0.5
"""Share of the free disk space that images may take which have to be decoded once."""


@dataclass(frozen=True, kw_only=True)
class CacheBudget:
    """Disk that images which cannot be read by region may use while they are open."""

    folder: Path
    """Made where missing; nothing stays in it."""
    max_bytes: int

    @classmethod
    def within(cls, folder: Path) -> Self:
        """Allow half of the free space of the disk that a folder is on, or will be on."""
        there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.is_dir())
        return cls(folder=there, max_bytes=int(shutil.disk_usage(there).free * DECODE_SHARE))
