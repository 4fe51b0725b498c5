"""Refusal of damaged files: decoders' errors turned into `SourceError`, and sizes that no image has."""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.errors import MagnetError, ReaderBugError, SourceError, foreseen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# What tifffile, imagecodecs and zarr raise on damaged or hostile files, seen over a collection of fuzzed ones: their
# decoders index, divide and unpack whatever the file says.
FOREIGN = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    ImportError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


MESSAGE_LENGTH = 300
"""Characters kept of a library's message."""


@contextmanager
def naming(
    file: str | Path, rule: str, *, advice: str | None = None, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Name the file and what was being done where a decoder fails in the block.

    Args:
        file: Path of the image.
        rule: Description of what failed, for example `the tile at column 3, row 4 of level 0 cannot be decoded`.
        advice: Next step for the user.
        also: More exception types of the library that is used in the block.

    Raises:
        SourceError: The block raised an error of a decoder.
        UsageError: The name of the file is longer than the system allows.
    """
    expected: tuple[type[Exception], ...] = (*FOREIGN, *also)
    try:
        yield
    except expected as error:
        # A name that stands in the file itself is no word of the command line, but damage of the file.
        given = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and str(error.filename) == str(file)
        known = foreseen(error) if given else None
        if known is not None:
            raise known from error
        # rasterio's errors say that GDAL's, from which they are raised, have the details.
        described = (*([] if error.__cause__ is None else [error.__cause__]), error)
        lines = dict.fromkeys(line.strip() for each in described for line in str(each).splitlines())
        reason = "; ".join(line for line in lines if line)[:MESSAGE_LENGTH]
        detail = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise SourceError(rule, value=detail, file=file, advice=advice) from error


@contextmanager
def reporting_bugs(file: str | Path) -> Iterator[None]:
    """Turn an unforeseen exception of the block into the failure of the one file that was read.

    A shortage of memory is no bug, and passes. A name that is too long and a file that the system denies access to
    become the failures that they stand for.

    Args:
        file: Path or URL of the image.

    Raises:
        MagnetError: The block raised an error of the system that stands for a failure.
        ReaderBugError: The block raised something that is no failure of this program's.
    """
    try:
        yield
    except (MagnetError, MemoryError):
        raise
    # A library that decodes a file may raise anything; each of its bugs is the failure of that file alone.
    except Exception as error:
        known = foreseen(error)
        if known is not None:
            raise known from error
        raise ReaderBugError.of(error, file=file) from error


@contextmanager
def needing(extra: str, file: str | Path) -> Iterator[None]:
    """Turn an `ImportError` of the block into an error that names the extra to install.

    Args:
        extra: Extra of this package that installs what is missing.
        file: The image that cannot be read without it.

    Raises:
        SourceError: An import failed.
    """
    try:
        yield
    except ImportError as error:
        raise SourceError(
            "reading this needs packages that are not installed",
            value=f"no {error.name}",
            file=file,
            advice=f"Install what is missing: pip install 'magnet-cli[{extra}]'",
        ) from error


MAX_PIXELS = 1 << 42
"""Largest number of pixels of an image: two million a side."""


def check_pixels(width: int, height: int, file: str | Path) -> None:
    """Refuse an image without pixels, or with more than any has.

    Raises:
        SourceError: The size of the image is zero or absurd.
    """
    if width < 1 or height < 1:
        raise SourceError(
            "the image has no pixels", value=f"{width} x {height}", file=file, advice="Export the image again"
        )
    if width * height > MAX_PIXELS:
        raise SourceError(
            "the header declares an absurd size",
            value=f"{width} x {height}",
            file=file,
            advice="Copy or export the file again",
        )
