"""Outputs under a working name until they are complete: locked, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "lock"
"""File in a working folder that says it is in use; gone before the folder gets its name."""


@contextmanager
def working_file(target: Path) -> Iterator[IO[bytes]]:
    """An empty file `<target>.part`, which becomes `target` where the block ends well and is removed where it does not.

    Raises:
        OutputError: It cannot be written, or another run is writing it.
    """
    part = target.with_name(f"{target.name}.part")
    with durable.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(_locked(part, target), "r+b") as file:
            try:
                file.truncate(0)
                yield file
                file.flush()
                durable.sync_data(file.fileno())
                durable.replace(part, target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """An empty folder `<target>.part`, which becomes `target` where the block ends well, else is removed.

    Raises:
        OutputError: It cannot be written, or another run is writing it.
    """
    part = target.with_name(f"{target.name}.part")
    with durable.writing(target):
        part.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(part / LOCK, target)
        try:
            _empty(part)
            yield part
            (part / LOCK).unlink()
            durable.sync_tree(part)
            durable.replace_folder(part, target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)


def _locked(path: Path, target: Path) -> int:
    """A descriptor of the file at `path`, which this process alone may write."""
    while True:
        descriptor = durable.open_for_append(path)
        if not durable.lock(descriptor):
            os.close(descriptor)
            raise OutputError("another run is writing this output", file=target, advice="Wait until it ends")
        # The owner before may have renamed the file between our opening and our locking it.
        if durable.names(path, descriptor):
            return descriptor
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
