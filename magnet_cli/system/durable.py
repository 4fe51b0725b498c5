"""What makes an output survive: flushing, renaming, locking. The one module where operating systems differ."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

ADVICE = {
    errno.ENOSPC: "Free space there, then run the same command again.",
    errno.EDQUOT: "Free space in your quota, then run the same command again.",
    errno.EFBIG: "Write to a file system or under a limit that allows larger files, then run again.",
    errno.EACCES: "Choose an output folder that you may write to.",
    errno.EPERM: "Choose an output folder that you may write to.",
    errno.EROFS: "Choose an output folder on a disk that is not read-only.",
    errno.ENOENT: "Check that the output folder exists and is still there.",
    errno.EEXIST: "Choose an output folder that is not the name of a file.",
    errno.ENOTDIR: "Choose an output folder whose path leads through folders only.",
    errno.ENAMETOOLONG: "Choose a shorter output name.",
}
"""Next steps by the operating system's error number."""

LOCK_OFFSET = 1 << 62
"""Windows locks forbid reading what they cover, so the locked byte lies beyond any real file."""

POSITION = threading.Lock()
"""Held while a descriptor's position matters: Windows has no pread."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal inside the block into an OutputError that names `path` and the next step.

    Raises:
        OutputError: Something in the block raised OSError.
    """
    try:
        yield
    except OSError as exc:
        advice = ADVICE.get(exc.errno or 0, "Check the disk, then run the same command again.")
        raise OutputError("the output cannot be written", value=exc.strerror, file=path, advice=advice) from exc


def open_for_append(path: Path) -> int:
    """A descriptor of `path` for reading and writing; the file is created where it is missing, never cut."""
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def open_for_reading(path: Path) -> int:
    """A descriptor of `path` for reading alone."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))


def lock(descriptor: int) -> bool:
    """Become the one owner of an open file until it is closed, the process killed included; False if another is."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, LOCK_OFFSET, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}:
            return False
        raise
    return True


def names(path: Path, descriptor: int) -> bool:
    """Whether `path` still leads to the open file: it may have been removed or replaced since."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes from `offset`, fewer only at the end of the file; safe beside other readers."""
    if sys.platform == "win32":
        with POSITION:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, length)
    parts: list[bytes] = []
    while length:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        if sys.platform == "win32":
            with POSITION:
                os.lseek(descriptor, offset, os.SEEK_SET)
                written = os.write(descriptor, view)
        else:
            written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def sync_data(descriptor: int) -> None:
    """Return once the file's content has reached the disk."""
    if sys.platform == "darwin":
        # On macOS fsync stops at the drive's own cache; F_FULLFSYNC goes through it.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif sys.platform == "win32":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


def sync_file(path: Path) -> None:
    """Return once the content of the file at `path` has reached the disk."""
    with path.open("rb+") as file:
        sync_data(file.fileno())


def sync_folder(path: Path) -> None:
    """Return once names made, removed or replaced in the folder have reached the disk; Windows does so by itself."""
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Return once every file below the folder has reached the disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync_file(path.__class__(folder) / name)
        sync_folder(path.__class__(folder))


def replace(source: Path, target: Path) -> None:
    """Give `source`, a file already on the disk, the name `target`, at once and durably."""
    os.replace(source, target)  # noqa: PTH105
    sync_folder(target.parent)


def replace_folder(source: Path, target: Path) -> None:
    """Give the folder `source` the name `target`; a folder that bears it already is removed."""
    if target.is_dir():
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)  # noqa: PTH105
        replace(source, target)
        shutil.rmtree(old)
    else:
        replace(source, target)


def write_whole(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: complete or as before, never in part.

    Raises:
        OutputError: The folder refuses it.
    """
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                sync_data(file.fileno())
        except OSError:
            part.unlink(missing_ok=True)
            raise
        replace(part, path)


def remove_owned(path: Path, close: Callable[[], None]) -> None:
    """Remove a locked file and let go of it: in this order, except on Windows, which keeps open files."""
    if sys.platform == "win32":
        close()
        path.unlink()
    else:
        path.unlink()
        sync_folder(path.parent)
        close()
