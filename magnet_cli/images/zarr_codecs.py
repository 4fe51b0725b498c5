"""Codecs of zarr chunks that check a chunk before a decoder in C sees it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import zarr
from typing_extensions import override
from zarr.codecs import BloscCodec
from zarr.registry import register_codec

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

BLOSC_HEADER = 16
"""Bytes of a Blosc chunk's header."""
STATED = slice(12, BLOSC_HEADER)
"""The bytes of the header that state the length of the chunk, the header included, in little-endian order."""


def refuse_other_length(chunk: Buffer, name: str) -> None:
    """Check that a Blosc chunk has the length that its header states.

    Blosc's decoder does not check that number: a damaged one makes it read foreign memory, and ends the process.

    Args:
        chunk: The chunk as it is stored.
        name: The path of the chunk for the message.

    Raises:
        OSError: The chunk states another length than it has.
    """
    stated = int.from_bytes(chunk[STATED].to_bytes(), "little")
    if len(chunk) < BLOSC_HEADER or stated != len(chunk):
        raise OSError(errno.EIO, f"a chunk of {len(chunk):,} bytes states that it has {stated:,}", name)


class CheckedBloscCodec(BloscCodec):
    """Blosc for arrays of zarr 3, in shards too, whose inner chunks no store sees one by one."""

    @override
    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        refuse_other_length(chunk_bytes, "a chunk in a shard")
        return await super()._decode_single(chunk_bytes, chunk_spec)

    @override
    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        refuse_other_length(chunk_bytes, "a chunk in a shard")
        return super()._decode_sync(chunk_bytes, chunk_spec)


register_codec("blosc", CheckedBloscCodec)


def checked_codecs() -> AbstractContextManager[object]:
    """Return a context in which opened arrays decode their chunks by the codecs of this module.

    Zarr chooses an array's codecs when it reads the metadata, so arrays that other code opens keep zarr's own.
    """
    name = f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"
    context: AbstractContextManager[object] = zarr.config.set({"codecs.blosc": name})
    return context
