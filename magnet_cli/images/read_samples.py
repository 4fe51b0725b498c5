"""An image that remembers a few of its reads, to be compared with what its file gives in the end."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from magnet_cli.images.input_states import changed
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import Image, ImageInfo, Region, Request

KEPT = 6
"""Number of reads that are remembered, at most."""


class ReadSamples(Closing):
    """An `Image` that remembers checksums of a few of its reads, evenly spread over all of them.

    Args:
        image: Image that is read; it is closed with this one.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._lock = Lock()
        self._reads = 0
        self._stride = 1
        self._kept: dict[int, tuple[tuple[Request, ...], int]] = {}

    @property
    def info(self) -> ImageInfo:
        """Facts about the image, known before a pixel is decoded."""
        return self._image.info

    def read(self, requests: Sequence[Request]) -> list[Region]:
        """Read the requests from the image.

        Raises:
            SourceError: The image could not be read.
        """
        found = self._image.read(requests)
        with self._lock:
            number, wanted = self._reads, self._reads % self._stride == 0
            self._reads += 1
        if wanted:
            checksum = _checksum(found)
            with self._lock:
                self._keep(number, tuple(requests), checksum)
        return found

    def close(self) -> None:
        """Close the image."""
        self._image.close()

    def refuse_difference(self, image: Image) -> None:
        """Read the remembered requests again from the image opened anew, and refuse other pixels.

        Raises:
            SourceError: The pixels of a request are others now, or cannot be read any more.
        """
        for requests, checksum in self._kept.values():
            if _checksum(image.read(requests)) != checksum:
                box = requests[0].box
                raise changed(image.info.path, f"the pixels in box {box} (at pitch {requests[0].pitch}) are others")

    def _keep(self, number: int, requests: tuple[Request, ...], checksum: int) -> None:
        """Remember a read; where there are too many, forget every second one."""
        if number % self._stride:
            return
        self._kept[number] = (requests, checksum)
        while len(self._kept) > KEPT:
            self._stride *= 2
            self._kept = {kept: one for kept, one in self._kept.items() if kept % self._stride == 0}


def _checksum(regions: Sequence[Region]) -> int:
    found = 0
    for region in regions:
        found = crc32(np.ascontiguousarray(region.pixels).data, found)
        if region.valid is not None:
            found = crc32(np.ascontiguousarray(region.valid).data, found)
    return found
