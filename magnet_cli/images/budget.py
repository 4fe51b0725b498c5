"""The disk that a one-time decode may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CacheBudget:
    """Disk that images which cannot be read by region may use while they are open."""

    folder: Path
    """Made where missing; nothing stays in it."""
    max_bytes: int
