"""A hash of an input that tells whether it changed, without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from magnet_cli.images.failures import naming

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL_BYTES = 16 << 20
"""A file up to this size is hashed whole."""

HEAD_BYTES = 1 << 20
SAMPLES = 64
SAMPLE_BYTES = 16 << 10
ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
COMPANION_FOLDERS = (".mrxs",)
"""Suffixes of slides whose pixels lie in a folder of the same name."""


def fingerprint(path: str | Path) -> str:
    """A SHA-256 (hexadecimal) over the size of an input and its bytes, or samples of them where it is large.

    Args:
        path: A file, or the folder of a zarr image.

    Raises:
        SourceError: It cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    with naming(path, "the input cannot be read", advice="Check that it exists and that you may read it"):
        for file in _files(path):
            size = file.stat().st_size
            digest.update(
                f"{file.relative_to(path.parent).as_posix()}\0{size}\0".encode()
                if file != path
                else f"{size}\0".encode()
            )
            with file.open("rb") as stream:
                _hash(digest, stream, size)
    return digest.hexdigest()


def _hash(digest: hashlib._Hash, stream: BinaryIO, size: int) -> None:
    if size <= SMALL_BYTES:
        digest.update(stream.read())
        return
    # Tag tables lie at either end of a TIFF; the tiles are sampled evenly between.
    digest.update(stream.read(HEAD_BYTES))
    for index in range(SAMPLES):
        stream.seek(index * (size - SAMPLE_BYTES) // (SAMPLES - 1))
        digest.update(stream.read(SAMPLE_BYTES))
    stream.seek(size - HEAD_BYTES)
    digest.update(stream.read(HEAD_BYTES))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return _sampled(sorted(file for file in path.rglob("*") if file.is_file()))
    companion = path.with_suffix("")
    if path.suffix.lower() in COMPANION_FOLDERS and companion.is_dir():
        return [path, *_sampled(sorted(file for file in companion.rglob("*") if file.is_file()))]
    return [path]


def _sampled(files: Sequence[Path]) -> list[Path]:
    metadata = [file for file in files if file.name in ZARR_METADATA]
    chunks = [file for file in files if file.name not in ZARR_METADATA]
    step = max(1, len(chunks) // SAMPLES)
    return [*metadata, *chunks[::step]]
