"""Flushing, renaming and locking of files, by which outputs survive. Only this module knows how systems differ."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.system.closing import undone_on_failure

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
    errno.ELOOP: "Remove the symbolic link of that name: working files are not written through links.",
}
"""The next step for a user by the operating system's error number."""

BUSY = "another run is writing this output"
"""The rule of the error of an output that another process writes."""
LOCK_OFFSET = 1 << 62
"""Windows locks forbid reading what they cover, so the locked byte lies beyond any real file."""

BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0)
"""Flag that refuses a symbolic link: in a folder that several people write to, another one may have put it there."""
WORKING = ".magnet.part"
"""The end of the name of a file or folder that is being written, which no other program gives to its files."""
REPLACED = ".magnet.old"
"""The end of the name of a folder that is being replaced."""
LONGEST_NAME = 255
"""Bytes of the longest name that common file systems take."""
PATIENCE = 10.0
"""Seconds for which a small file waits until another process has written the same one."""
UNLOCKABLE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}
"""Errors of file systems that have no locks."""

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


@contextmanager
def looking_at(path: Path) -> Iterator[None]:
    """Turn the refusal of access to an output into the error of an output; other errors of the system pass.

    Raises:
        OutputError: The system denies access to `path`, or to a folder above it.
    """
    try:
        yield
    except PermissionError as exc:
        advice = ADVICE[errno.EACCES]
        raise OutputError("the output cannot be reached", value=exc.strerror, file=path, advice=advice) from exc


def open_for_append(path: Path) -> int:
    """Open a file for reading and writing, and return its descriptor.

    A missing file is created, and a file that exists keeps its content.

    Raises:
        OSError: The file cannot be opened, is a symbolic link, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | UNFOLLOWED | BINARY, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "it is no regular file", str(path))
    return descriptor


def open_for_reading(path: Path) -> int:
    """Return a descriptor of `path` for reading alone."""
    return os.open(path, os.O_RDONLY | BINARY)


def append_text(path: Path, text: str) -> None:
    """Add a text to the end of a file that is created where it is missing; symbolic links are refused."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | UNFOLLOWED | BINARY, 0o666)
    with os.fdopen(descriptor, "ab") as file:
        file.write(text.encode())


def working_path(target: Path, ending: str = WORKING) -> Path:
    """Return the temporary name under which `target` is written until it is complete.

    Where that name is too long for a file system, a hash takes the place of the target's name in it.
    """
    name = f"{target.name}{ending}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:40]}{ending}"
    return target.with_name(name)


def new_file(target: Path, *, patience: float = 0.0) -> IO[bytes]:
    """Return a new, empty, locked file at `working_path(target)`, opened; what a killed run has left is removed.

    The file is created exclusively, so that no link can lead the writing elsewhere, with the permissions of the user's
    umask.

    Raises:
        OutputError: Another run is writing the same output, also after `patience` seconds.
        OSError: The file cannot be created, or something else than a file has its name.
    """
    part, until = working_path(target), time.monotonic() + patience
    while True:
        with suppress(FileExistsError):
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | UNFOLLOWED | BINARY, 0o666)
            # Another run may have taken the file for one that was left, between our creating and our locking it.
            if owned(descriptor) and names(part, descriptor):
                return _file_of(descriptor, part)
            os.close(descriptor)
            continue
        try:
            left = open_for_append(part)
        except FileNotFoundError:
            continue
        try:
            is_left = owned(left)
            if is_left and names(part, left):
                part.unlink()
        finally:
            os.close(left)
        if not is_left:
            if time.monotonic() >= until:
                raise OutputError(BUSY, file=target, advice="Wait until the other run ends, or choose another output")
            time.sleep(0.05)


def _file_of(descriptor: int, path: Path) -> IO[bytes]:
    """Return a file object with the attribute `name`, which `os.fdopen` does not set and tifffile reads."""
    return open(path, "r+b", opener=lambda *_: descriptor)


def new_folder(target: Path) -> int | None:
    """Make a new, empty, locked folder at `working_path(target)`; what a killed run has left is removed.

    Returns:
        The descriptor that holds the lock until it is closed; None on Windows, which has no locks of folders.

    Raises:
        OutputError: Another run is writing the same output.
        OSError: The folder cannot be made, or something else than a folder has its name.
    """
    part = working_path(target)
    while True:
        is_new = _make_folder(part)
        try:
            descriptor = open_folder(part)
        except FileNotFoundError:
            continue
        is_owned = descriptor is None or owned(descriptor)
        is_there = descriptor is None or (is_owned and names(part, descriptor))
        if is_new and is_there:
            return descriptor
        if is_there:
            shutil.rmtree(part)
        if descriptor is not None:
            os.close(descriptor)
        if not is_owned:
            raise OutputError(BUSY, file=target, advice="Wait until the other run ends, or choose another output")


def open_folder(path: Path) -> int | None:
    """Return a descriptor of a folder, on which a lock can be taken; None on Windows, which has no locks of folders."""
    if sys.platform == "win32":
        return None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | UNFOLLOWED | BINARY)


def _make_folder(path: Path) -> bool:
    """Make a folder; False where there is one already.

    Raises:
        OSError: The folder cannot be made, or something else than a folder has its name.
    """
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise
        return False
    return True


def owned(descriptor: int) -> bool:
    """Lock a working file, and return whether this process may write it.

    It may write the file also where the file system has no locks, so that nothing can be locked.
    """
    try:
        return lock(descriptor)
    except OSError as exc:
        if exc.errno in UNLOCKABLE:
            return True
        raise


def lock(descriptor: int) -> bool:
    """Lock an open file for this process alone, and return whether that succeeded.

    It fails while another process holds the lock. The lock ends when the file is closed or the process dies.
    """
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, LOCK_OFFSET, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            # flock and not fcntl's own locks, which a process loses as soon as it closes any other descriptor of the
            # same file.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}:
            return False
        raise
    return True


def is_locked(descriptor: int) -> bool | None:
    """Return whether a process of this machine holds `lock` on a file; None where the system does not say.

    This takes no lock itself, so that it never makes another process fail to get one.
    """
    try:
        with open("/proc/locks", encoding="ascii") as table:  # noqa: PTH123 - paths are a type here, and no import
            locks = [line.split() for line in table]
    except OSError:
        return None
    # Lines are like "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF". The device is not compared: btrfs and overlay
    # file systems number it differently here than in `stat`.
    inode = f":{os.fstat(descriptor).st_ino}"
    return any({"FLOCK", "WRITE"} <= set(words) and any(word.endswith(inode) for word in words) for words in locks)


def names(path: Path, descriptor: int) -> bool:
    """Return whether `path` still leads to the open file: it may have been removed or replaced since."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes from `offset`, fewer only at the end of the file; safe beside other readers."""
    if sys.platform == "win32":
        with POSITION:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, length)
    parts: list[bytes] = []
    while length:
        # Linux transfers at most 2 GiB in one call, and network file systems may return less.
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
        # A call may write a part only, for instance where the disk becomes full on the way; the next one then reports
        # it.
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
        # fdatasync leaves out the times of the file, which nothing depends on, but not its size.
        os.fdatasync(descriptor)


def sync_file(path: Path) -> None:
    """Return once the content of the file at `path` has reached the disk."""
    # Windows flushes only files that are open for writing.
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
    """Rename a flushed file or folder to `target`: atomically, and so that the new name survives a power cut."""
    os.replace(source, target)  # noqa: PTH105
    sync_folder(target.parent)


def replace_folder(source: Path, target: Path) -> None:
    """Rename the folder `source` to `target`, and delete the folder that had this name before.

    Where `target` is a symbolic link, the link is replaced, and the folder that it points to is kept.
    """
    # rename(2) gives no folder the name of a link.
    if target.is_symlink():
        target.unlink()
    if target.is_dir():
        # rename(2) replaces a folder only where it is empty, so the old one is moved aside first.
        old = working_path(target, REPLACED)
        if old.is_symlink():
            old.unlink()
        elif old.is_dir():
            shutil.rmtree(old)
        os.replace(target, old)  # noqa: PTH105
        replace(source, target)
        shutil.rmtree(old)
    else:
        replace(source, target)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to a file, so that at any moment the file has either its old or its new content, never a part.

    Raises:
        OutputError: The folder refuses it.
    """
    with writing(path):
        part = working_path(path)
        with new_file(path, patience=PATIENCE) as file, undone_on_failure(lambda: part.unlink(missing_ok=True)):
            file.write(data)
            file.flush()
            sync_data(file.fileno())
            replace(part, path)


def rename_owned(path: Path, target: Path, close: Callable[[], None]) -> None:
    """Rename a locked file, then close and unlock it. Windows renames no open file, so there it is closed first."""
    if sys.platform == "win32":
        close()
        replace(path, target)
    else:
        replace(path, target)
        close()


def remove_owned(path: Path, close: Callable[[], None]) -> None:
    """Delete a locked file, then close and unlock it. Windows deletes no open file, so there it is closed first."""
    if sys.platform == "win32":
        close()
        path.unlink()
    else:
        path.unlink()
        sync_folder(path.parent)
        close()
