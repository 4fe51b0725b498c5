"""The folder of an image, on a disk or behind a URL: which files lie beside the image, and what their texts are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError
from magnet_cli.images.failures import needing
from magnet_cli.images.urls import is_url, sibling_url
from magnet_cli.system import regular_files
from magnet_cli.system.regular_files import is_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LARGEST_TEXT = 32 << 20
"""The largest sidecar that is read whole, in bytes. GDAL keeps histograms there, which may be long."""


class SidecarFolder(ABC):
    """The folder in which an image lies."""

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of some file names that is there."""
        return next((name for name in names if self._holds(name)), None)

    def text(self, name: str, notes: list[str]) -> str | None:
        """Read a text; None where it is too long or cannot be read, which a note then says."""
        try:
            data = self._bytes(name, LARGEST_TEXT + 1)
        except (OSError, SourceError) as exc:
            reason = exc.rule if isinstance(exc, SourceError) else exc.strerror
            notes.append(f"{name} beside the image cannot be read ({reason}): it is ignored")
            return None
        if len(data) > LARGEST_TEXT:
            notes.append(f"{name} beside the image is too long to be read: it is ignored")
            return None
        # Numbers and codes are ASCII; a name in another code page must not make the file unreadable.
        return data.decode("utf-8", "replace")

    @abstractmethod
    def place(self, name: str) -> str:
        """Return the path or URL of a file in the folder."""

    @abstractmethod
    def _holds(self, name: str) -> bool:
        """Return whether there is a file of this name."""

    @abstractmethod
    def _bytes(self, name: str, most: int) -> bytes:
        """Return the bytes of a file, at most the first `most` of them."""


class LocalFolder(SidecarFolder):
    """A folder on a disk.

    Args:
        image: Path of the image.
    """

    def __init__(self, image: str) -> None:
        self._image = Path(image)

    def place(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return str(self._image.with_name(name))

    def _holds(self, name: str) -> bool:
        return is_file(self._image.with_name(name))

    def _bytes(self, name: str, most: int) -> bytes:
        with regular_files.opened(self._image.with_name(name)) as file:
            return file.read(most)


class RemoteFolder(SidecarFolder):
    """The files beside an image behind a URL, of which the server was asked for some names at once.

    Args:
        image: URL of the image.
        names: File names, with the escapes of the URL; no others are known.
        notes: Receives a note where the server does not say whether files are there.
    """

    def __init__(self, image: str, names: Sequence[str], notes: list[str]) -> None:
        with needing("remote", image):
            from magnet_cli.images import remote  # noqa: PLC0415 (an extra)
        self._image = image
        found = remote.siblings({name: sibling_url(image, name) for name in names})
        self._sizes = found.sizes
        for reason, unknown in found.failures.items():
            said = f"whether {', '.join(unknown)} lie beside the image could not be found out ({reason})"
            notes.append(f"{said}: they are not read")

    def place(self, name: str) -> str:
        """Return the URL of a file in the folder."""
        return sibling_url(self._image, name)

    def _holds(self, name: str) -> bool:
        return name in self._sizes

    def _bytes(self, name: str, most: int) -> bytes:
        from magnet_cli.images import remote  # noqa: PLC0415 (an extra)

        return remote.beginning(self.place(name), min(self._sizes[name], most))


def folder_of(image: str, names: Sequence[str], notes: list[str]) -> SidecarFolder:
    """Return the folder of an image.

    Args:
        image: Path or URL of the image.
        names: File names that are asked for where each costs a request.
        notes: Receives a note where a server does not say whether files are there.
    """
    return RemoteFolder(image, names, notes) if is_url(image) else LocalFolder(image)
