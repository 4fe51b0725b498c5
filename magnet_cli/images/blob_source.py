"""The choice of how the bytes of an input are read: from a file, or from behind a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.images.blob import FileBlob
from magnet_cli.images.failures import needing
from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from magnet_cli.images.blob import Blob


def open_blob(source: str) -> Blob:
    """Open the bytes of a file or of a URL.

    Raises:
        SourceError: The file cannot be opened, or a URL cannot be read in parts.
    """
    if is_url(source):
        with needing("remote", source):
            from magnet_cli.images.remote import RemoteBlob  # noqa: PLC0415 (an extra)
        return RemoteBlob(source)
    return FileBlob(source)
