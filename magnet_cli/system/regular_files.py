"""Files on this machine that are read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Return whether a path leads to a regular file.

    A name that is longer than the system allows, or that it cannot look up, leads to none: `pathlib` raises there.
    """
    return os.path.isfile(path)  # noqa: PTH113 - see above
