"""Log-probabilities, in memory or on disk, and labels over the grid of a stage, read by box."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from magnet_cli.geometry import Box, Size
from magnet_cli.system.durable import open_for_append, replace, sync_file, write_at, writing
from magnet_cli.train.crops import centres
from magnet_cli.train.stores import BYTE_VALUES, histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.plan.windows import Stage
    from magnet_cli.train.stores import LabelStore

STRIP_BYTES = 16 << 20
"""About as many bytes of a canvas, as float32, are read at a time."""

Shape = tuple[int, int, int]


class Field(Protocol):
    """Log-probabilities over a grid, read by box."""

    @property
    def shape(self) -> Shape:
        """The number of classes, rows and columns."""

    def read(self, box: Box) -> Tensor:
        """Return a box inside the grid, `(classes, box.height, box.width)` float16."""


class Truth(Protocol):
    """Labels over a grid, read by box."""

    @property
    def size(self) -> Size:
        """The size of the grid."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pixels of each value, `(256,)`."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return a box inside the grid, `(box.height, box.width)`."""


class HeldField:
    """A `Field` that is held in memory.

    Args:
        values: `(classes, rows, columns)`, float16 or float32.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        classes, rows, columns = values.shape
        self.shape: Shape = (classes, rows, columns)

    def read(self, box: Box) -> Tensor:
        """Return a box of the field as a view of the stored dtype."""
        return self.values[:, *box.slices]


class HeldTruth:
    """A `Truth` that is held in memory.

    Args:
        labels: `(rows, columns)` uint8.
    """

    def __init__(self, labels: NDArray[np.uint8]) -> None:
        self.labels = labels
        self.size = Size(width=labels.shape[1], height=labels.shape[0])
        self.counts = histogram(labels)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box."""
        return self.labels[box.slices]


class StageTruth:
    """A scene's labels at the centres of a stage's canvas pixels.

    Args:
        labels: The labels of the scene.
        stage: The stage of a run over the scene.
    """

    def __init__(self, labels: LabelStore, *, stage: Stage) -> None:
        self.size = stage.extent
        self._labels = labels
        rows, columns = stage.extent.height, stage.extent.width
        self._rows = centres(0, float(rows * stage.pitch.y), count=rows).clip(max=labels.size.height - 1)
        self._columns = centres(0, float(columns * stage.pitch.x), count=columns).clip(max=labels.size.width - 1)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The number of pixels of each value, the ignored one among them, `(256,)` int64."""
        counts = np.zeros(BYTE_VALUES, np.int64)
        for box in strips(self.size):
            counts += histogram(self.read(box))
        return counts

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box."""
        rows, columns = box.slices
        return self._labels.at(self._rows[rows], self._columns[columns])


class StoredField:
    """A `Field` in a file of NumPy's format, opened for each read and write, so that many can be there.

    Args:
        path: The path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        array = np.lib.format.open_memmap(path, mode="r")
        classes, rows, columns = array.shape
        self.shape: Shape = (classes, rows, columns)
        self._offset = int(array.offset)

    @classmethod
    def made(cls, path: Path, shape: Shape) -> StoredField:
        """Return a new file, all zero; the disk is taken as it is written.

        Raises:
            OutputError: The file cannot be made.
        """
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        with writing(path), os.fdopen(open_for_append(path), "r+b") as file:
            file.truncate(0)
            # NumPy writes a file of its own format only together with its values, which do not exist yet.
            np.lib.format.write_array_header_1_0(file, header)
            # Truncating makes a sparse file, which reads as zeros and takes disk only where values are written.
            file.truncate(file.tell() + field_bytes(shape))
        return cls(path)

    def read(self, box: Box) -> Tensor:
        """Return a box of the field."""
        # The mapping goes with the array, and only the copy stays in memory.
        mapped = np.memmap(self.path, np.float16, mode="r", offset=self._offset, shape=self.shape)
        return torch.from_numpy(np.array(mapped[:, *box.slices]))

    def write(self, box: Box, values: Tensor) -> None:
        """Put `(classes, box.height, box.width)` where it belongs.

        Raises:
            OutputError: The disk is full.
        """
        _, rows, columns = self.shape
        lines = np.ascontiguousarray(values.half().numpy())
        # This does not use a mapping, in which a full disk would end the process without a message.
        with writing(self.path), self.path.open("r+b") as file:
            for band, part in enumerate(lines):
                for y, line in enumerate(part, start=box.y):
                    place = (band * rows + y) * columns + box.x
                    write_at(file.fileno(), line.tobytes(), self._offset + place * line.itemsize)

    def named(self, path: Path) -> StoredField:
        """Return the same file, complete and on the disk, under its final name.

        Raises:
            OutputError: The file cannot be renamed.
        """
        with writing(path):
            sync_file(self.path)
            replace(self.path, path)
        return StoredField(path)


class Scratch:
    """Room on disk for fields that a training makes and drops.

    Args:
        folder: The folder of the fields, made where missing. Each file is removed with the last reference to its field.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def field(self, shape: Shape) -> StoredField:
        """Create a new field.

        Raises:
            OutputError: The folder cannot be written to.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.folder, suffix=".npy")
            os.close(descriptor)
        field = StoredField.made(Path(name), shape)
        # `__del__` may run after the modules that it needs are gone, and a finalizer runs at exit at the latest.
        weakref.finalize(field, field.path.unlink, missing_ok=True)
        return field


def field_bytes(shape: Shape) -> int:
    """Return the disk that a field takes."""
    return math.prod(shape) * np.dtype(np.float16).itemsize


def strips(size: Size, *, classes: int = 1) -> Iterator[Box]:
    """Yield the rows of the whole width, from the top, `STRIP_BYTES` at most where a single row is not more."""
    rows = max(1, STRIP_BYTES // (size.width * classes * 4))
    for top in range(0, size.height, rows):
        yield Box(x=0, y=top, width=size.width, height=min(rows, size.height - top))
