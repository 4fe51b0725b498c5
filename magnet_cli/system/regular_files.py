"""Regular files on this machine that are read: never a pipe, which may wait for ever, or a device without an end."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from magnet_cli.errors import MagnetError

NOT_REGULAR = "it is no regular file, but a pipe, a socket or a device"


def is_file(path: str | Path) -> bool:
    """Return whether a path leads to a regular file.

    A name that is longer than the system allows, or that it cannot look up, leads to none: `pathlib` raises there.
    """
    return os.path.isfile(path)  # noqa: PTH113 - see above


def check_regular(path: str | Path) -> None:
    """Check that a path leads to a regular file.

    Raises:
        OSError: The path leads to something else, or to nothing.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, NOT_REGULAR, str(path))


@contextmanager
def opened(path: str | Path) -> Iterator[BufferedReader]:
    """Open a regular file to read it.

    Raises:
        OSError: It is missing or no regular file, or the system denies access.
    """
    # The file is opened without waiting, because the open call of a pipe without a writer never returns.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    check_regular(path)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        # The path may lead elsewhere by now.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, NOT_REGULAR, str(path))
        yield file


@contextmanager
def reading(path: str | Path, error: type[MagnetError]) -> Iterator[None]:
    """Turn a failure to read a file inside the block into an error that names the file and the next step.

    Raises:
        MagnetError: Something in the block raised OSError. The error is of the given class.
    """
    try:
        yield
    except OSError as exc:
        raise error(
            f"cannot be read: {exc}", file=path, advice="Check that the file is there, and that this user may read it"
        ) from exc


def content(path: str | Path, *, most: int | None = None) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: Path of the file.
        most: Largest number of bytes that is read; None for any.

    Raises:
        OSError: The file cannot be opened (see `opened`), or has more bytes.
    """
    with opened(path) as file:
        data = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data


def beginning(path: str | Path, count: int) -> bytes:
    """Return the first bytes of a regular file, or all where it has fewer.

    Raises:
        OSError: The file cannot be opened (see `opened`).
    """
    with opened(path) as file:
        return file.read(count)


def text_of(path: str | Path, *, most: int) -> str:
    """Return the text of a regular file in UTF-8.

    Raises:
        OSError: The file cannot be opened (see `opened`), or has more bytes.
        UnicodeDecodeError: The file has other bytes.
    """
    return content(path, most=most).decode("utf-8")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a regular file, which is read piece by piece.

    Raises:
        OSError: The file cannot be opened (see `opened`).
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
