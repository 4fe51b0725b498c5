"""Corners of outlines that are not complete yet, on disk: a number of eight bytes stands for each list of them."""

from __future__ import annotations

import struct
import tempfile
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

COUNT = struct.Struct("<Q")


class PointSpool:
    """An append-only file without a name in the output's folder; it is gone when the program ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._end = 0
        self._at_end = True

    def put(self, points: NDArray[np.int32]) -> int:
        """Keep `(n, 2)` int32 corners; the number that `get` takes."""
        start = self._end
        if not self._at_end:
            self._file.seek(start)
            self._at_end = True
        data = points.astype("<i4", copy=False).tobytes()
        self._file.write(COUNT.pack(len(points)))
        self._file.write(data)
        self._end += COUNT.size + len(data)
        return start

    def get(self, number: int) -> NDArray[np.int32]:
        """The corners that `put` gave this number, `(n, 2)` int32."""
        self._file.seek(number)
        self._at_end = False
        (count,) = COUNT.unpack(self._file.read(COUNT.size))
        return np.frombuffer(self._file.read(8 * count), dtype="<i4").reshape(count, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
