"""An image that remembers a few of its pixels, to be compared with what its file gives in the end."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from magnet_cli.geometry import Box
from magnet_cli.images.input_states import changed
from magnet_cli.images.levels import choose_level
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import Image, ImageInfo, Region, Request

KEPT = 16
"""Largest number of spots that are remembered."""
SPOT_SIDE = 32
"""Side of a spot in stored pixels. Few spots then touch more than one stored tile."""
STRIDES = (0.7548776662, 0.5698402910)
"""Steps of the spots' places along both axes of a request's box, as shares of it: multiples of them, without their
whole parts, spread evenly over a square (the R2 sequence)."""


class ReadSamples(Closing):
    """An `Image` that remembers checksums of small spots in a few of its reads, evenly spread over all of them.

    Args:
        image: Image that is read; it is closed with this one.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._lock = Lock()
        self._reads = 0
        self._stride = 1
        self._kept: dict[int, tuple[Request, int]] = {}

    @property
    def info(self) -> ImageInfo:
        """Facts about the image, known before a pixel is decoded."""
        return self._image.info

    def read(self, requests: Sequence[Request]) -> list[Region]:
        """Read the requests from the image.

        Raises:
            SourceError: The image could not be read.
        """
        with self._lock:
            number, wanted = self._reads, self._reads % self._stride == 0
            self._reads += 1
        if wanted:
            # The spot is read before the requests: a change between the two reads then makes the spot differ in the
            # end. Decoded tiles are kept for the next read, so that most readers decode the spot's tile once.
            spot = self._spot(requests[number % len(requests)], number)
            checksum = _checksum(self._image.read([spot]))
            with self._lock:
                self._keep(number, spot, checksum)
        return self._image.read(requests)

    def close(self) -> None:
        """Close the image."""
        self._image.close()

    def refuse_difference(self, image: Image) -> None:
        """Read the remembered spots again from the image opened anew, and refuse other pixels.

        Raises:
            SourceError: The pixels of a spot are others now, or cannot be read any more.
        """
        for spot, checksum in self._kept.values():
            if _checksum(image.read([spot])) != checksum:
                raise changed(image.info.path, f"the pixels in box {spot.box} (at pitch {spot.pitch}) are others")

    def _spot(self, request: Request, number: int) -> Request:
        """Return a small part of a request, at a place that depends on the number of the read."""
        level = self.info.levels[choose_level(self.info.levels, request.pitch)].downsample
        # A pixel of the request may cover many stored pixels, whose number is what a read costs.
        width = min(request.box.width, max(1, int(SPOT_SIDE * level.x / request.pitch.x)))
        height = min(request.box.height, max(1, int(SPOT_SIDE * level.y / request.pitch.y)))
        across, down = (number * step % 1 for step in STRIDES)
        x = request.box.x + int(across * (request.box.width - width + 1))
        y = request.box.y + int(down * (request.box.height - height + 1))
        return replace(request, box=Box(x=x, y=y, width=width, height=height))

    def _keep(self, number: int, spot: Request, checksum: int) -> None:
        """Remember a spot; where there are too many, forget every second one."""
        if number % self._stride:
            return
        self._kept[number] = (spot, checksum)
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
