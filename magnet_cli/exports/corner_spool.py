"""Corners of outlines that are not complete yet, on disk: a number of eight bytes stands for each list of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.system.spool import Spool

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = struct.Struct("<Q")


class CornerSpool(Spool):
    """Lists of corners in a file without a name."""

    def put(self, points: NDArray[np.int32]) -> int:
        """Keep `(n, 2)` int32 corners, and return the number by which `get` finds them."""
        # The count stands before the corners, so that a list needs one number in memory and not two.
        return self.append(COUNT.pack(len(points)) + points.astype("<i4", copy=False).tobytes())

    def get(self, number: int) -> NDArray[np.int32]:
        """Return the corners that `put` gave this number, `(n, 2)` int32."""
        (count,) = COUNT.unpack(self.read(COUNT.size, number))
        return np.frombuffer(self.read(8 * count, number + COUNT.size), dtype="<i4").reshape(count, 2)
