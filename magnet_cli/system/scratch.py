"""Folders for temporary files, which later runs remove where a run was killed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "magnet-"
NAME = re.compile(rf"{PREFIX}\w+-scratch-\w+")
"""Names of such folders, which no other program makes."""


@contextmanager
def scratch_folder(purpose: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Make a new folder that its owner alone can read, and remove it when the block ends.

    The process holds a lock on the folder. Folders of this user without such a lock were left by processes that were
    killed, and are removed first.

    Args:
        purpose: A word that becomes part of the folder's name.
        parent: The folder that the new one is made in; None for the system's folder of temporary files.

    Raises:
        OutputError: The folder cannot be made.
    """
    place = _temporary() if parent is None else parent
    with durable.writing(place):
        _remove_left(place)
        folder, descriptor = _made(place, purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as exc:
        raise OutputError(
            "no folder for temporary files can be written",
            advice="Name a folder that can be written in the variable TMPDIR",
        ) from exc


def _made(place: Path, purpose: str) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-scratch-", dir=place))
        # Another run may take the folder for one that was left, between our making and our locking it.
        with suppress(FileNotFoundError):
            descriptor = durable.open_folder(folder)
            if descriptor is None or (durable.owned(descriptor) and durable.names(folder, descriptor)):
                return folder, descriptor
            os.close(descriptor)


def _remove_left(place: Path) -> None:
    """Delete the folders of killed processes. Where folders cannot be locked, none is deleted: it may be in use."""
    with os.scandir(place) as entries:
        left = [Path(entry.path) for entry in entries if NAME.fullmatch(entry.name)]
    for folder in left:
        with suppress(OSError):
            descriptor = durable.open_folder(folder)
            if descriptor is None:
                continue
            try:
                # All users share the system's folder of temporary files. A lock that cannot be had belongs to a running
                # process.
                if os.fstat(descriptor).st_uid == os.getuid() and durable.lock(descriptor):
                    shutil.rmtree(folder)
            finally:
                os.close(descriptor)
