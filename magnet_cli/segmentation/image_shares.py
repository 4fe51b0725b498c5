"""The shares of images in the work of a run, by which its progress is measured before the images are planned."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Sequence


class ImageShares:
    """The share of each image in the work of a run, by the sizes of their files, and which images are finished.

    Pixels are known once an image is opened, which for all images of a run would take minutes. Bytes are known at once,
    and where most of a slide is glass they tell more of the work than its pixels do.

    Args:
        images: Paths and addresses. Those whose size is not known at once (addresses, folders) count as the mean image.
    """

    def __init__(self, images: Sequence[str]) -> None:
        weights = image_weights(images)
        total = sum(weights)
        self._shares = [weight / total for weight in weights]
        self._is_finished = [False] * len(images)
        self._next = 0
        self.finished = 0.0
        """The share of the images that are finished, 0 to 1."""

    def finish(self, number: int) -> None:
        """Count an image as finished. A second call for the same image changes nothing."""
        if self._is_finished[number]:
            return
        self._is_finished[number] = True
        self.finished = min(1.0, self.finished + self._shares[number])
        while self._next < len(self._shares) and self._is_finished[self._next]:
            self._next += 1

    @property
    def following(self) -> float:
        """The share of the first image that is not finished; 0 where all are."""
        return self._shares[self._next] if self._next < len(self._shares) else 0.0


def image_weights(images: Sequence[str]) -> list[float]:
    """Return the sizes of images' files in bytes. One whose size is not known at once counts as the mean of the others.

    Args:
        images: Paths and addresses.
    """
    sizes = [_bytes(image) for image in images]
    known = [size for size in sizes if size]
    mean = fmean(known) if known else 1.0
    return [size or mean for size in sizes]


def _bytes(image: str) -> int | None:
    """Return the size of an image's file; None where the image is an address or a folder, or cannot be asked for."""
    if is_url(image):
        return None
    path = Path(image)
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None
