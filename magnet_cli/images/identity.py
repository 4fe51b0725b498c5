"""The identity of an image: the fingerprint of its file, and the number of the image where the file holds several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from magnet_cli.images.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magnet_cli.images.protocol import ImageInfo


@dataclass(frozen=True, kw_only=True)
class ImageIdentity:
    """The identity of an image. Two images of one file have the same fingerprint, and often the same size."""

    fingerprint: str
    """Fingerprint of the file."""
    series: int | None = None
    """Number of the image in its file. None where the file holds one image."""

    @classmethod
    def of(cls, info: ImageInfo) -> Self:
        """Return the identity of an image.

        Raises:
            SourceError: Its file cannot be read.
        """
        return cls(fingerprint=fingerprint(info.path), series=info.series)

    @classmethod
    def noted(cls, hashes: Mapping[str, object]) -> Self | None:
        """Return the identity of the image in the hashes of a report or a journal; None where they lack it."""
        found, series = hashes.get("input"), str(hashes.get("series", ""))
        if found is None:
            return None
        return cls(fingerprint=str(found), series=int(series) if series.isdecimal() else None)

    def __str__(self) -> str:
        """Return the identity as one word."""
        return self.fingerprint if self.series is None else f"{self.fingerprint}-{self.series}"
