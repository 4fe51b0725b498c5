"""SQLite files that are inputs, opened so that nothing is written beside them."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def opened_sqlite(path: str) -> sqlite3.Connection:
    """Open an SQLite file for reading.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    address = f"{Path(path).absolute().as_uri()}?mode=ro"
    # A reader of a file in WAL mode makes files -wal and -shm beside it, unless the file is called immutable. Where a
    # file -wal is there, it holds a part of the contents, which would then be left out.
    immutable = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{address}{immutable}", uri=True)
