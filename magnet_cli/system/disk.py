"""The space that is free on a disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder lies, or will lie once it is made."""
    # `disk_usage` fails for a folder that does not exist yet.
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
