"""Outputs under a working name until they are complete: locked, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from magnet_cli.system import durable
from magnet_cli.system.closing import undone_on_failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def working_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file under a working name. It becomes `target` where the block ends well, and is removed otherwise.

    Raises:
        OutputError: The file cannot be written, or another run is writing it.
    """
    with durable.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = durable.working_path(target)
        with durable.new_file(target) as file, undone_on_failure(lambda: part.unlink(missing_ok=True)):
            yield file
            file.flush()
            # The content has to be on the disk before the name is: after a power cut the name might else lead to an
            # empty file.
            durable.sync_data(file.fileno())
            durable.replace(part, target)


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Make a new folder under a working name. It becomes `target` where the block ends well, and is removed otherwise.

    Raises:
        OutputError: The folder cannot be written, or another run is writing it.
    """
    with durable.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part, descriptor = durable.working_path(target), durable.new_folder(target)
        try:
            with undone_on_failure(lambda: shutil.rmtree(part, ignore_errors=True)):
                yield part
                durable.sync_tree(part)
                durable.replace_folder(part, target)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def publish(own: Path, target: Path) -> None:
    """Rename a complete file to `target`, or delete it where another process has made that file meanwhile.

    The file of the other process is not replaced, because processes may have opened it: two such files hold the same
    records at different offsets.
    """
    try:
        os.link(own, target)
    except FileExistsError:
        pass
    except OSError:
        # Some file systems have no hard links. Between these two lines another process may publish the same piece.
        if not target.exists():
            durable.replace(own, target)
            return
    own.unlink()
    durable.sync_folder(target.parent)
