"""Small masks, their journals, and groups of boxes that fill them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.protocol import Resolution
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskClass, MaskSpec, parts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = (
    MaskClass(name="urban", color="#00FFFF"),
    MaskClass(name="Gebäude & Höfe", color="#ffff00"),
    MaskClass(name="water", color="#0000ff"),
)
HASHES = {"input": "i" * 64, "bundle": "b" * 64, "options": "o" * 64}


@dataclass(frozen=True, kw_only=True)
class Work:
    """Labels, their header, and the blocks in which they are stored."""

    header: JournalHeader
    labels: NDArray[np.uint8]
    values: NDArray[np.float16]
    block: int

    def groups(self) -> list[tuple[GroupId, Box]]:
        """Return one group a block, with its box at level 0."""
        shares = parts(Box.whole(self.header.spec.size), self.block)
        return [(GroupId(pass_index=1, index=index), share.box) for index, share in enumerate(shares)]

    def store(self, journal: Journal, group: GroupId, box: Box) -> None:
        """Compute and finish one group."""
        journal.put_labels(group, box=box, labels=self.labels[box.slices])
        journal.put_field(group, name="probabilities", box=box, values=self.values[:, *box.slices])
        journal.finish_group(group, counts={"windows": 1, "index": group.index})

    def store_all(self, journal: Journal) -> None:
        """Compute and finish what a journal lacks."""
        for group, box in self.groups():
            if not journal.is_finished(group):
                self.store(journal, group, box)

    def run(self, path: Path, *, stop_after: int | None = None) -> Journal:
        """Return an open journal with the groups it lacked, or the first few of them, finished."""
        journal = Journal.open(path, header=self.header)
        todo = [(group, box) for group, box in self.groups() if not journal.is_finished(group)]
        for group, box in todo[:stop_after]:
            self.store(journal, group, box)
        return journal


def make_work(width: int, height: int, *, tile: int = 64, block: int = 80, compression: str = "deflate") -> Work:
    rng = np.random.default_rng(width * 10_007 + height)
    size = Size(width=width, height=height)
    coarse = rng.integers(0, len(CLASSES), (height // 7 + 1, width // 5 + 1)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((7, 5), dtype=np.uint8))[:height, :width]
    labels[: height // 4, : width // 6] = 255
    spec = MaskSpec(
        size=size,
        classes=CLASSES,
        tile=tile,
        compression=compression,
        resolution=Resolution(x=Fraction(1, 4), y=Fraction(1, 2), unit="um"),
    )
    field = FieldSpec(name="probabilities", bands=3, size=size, pitch=Pitch.square(1))
    values = rng.random((3, height, width)).astype(np.float16)
    return Work(
        header=JournalHeader(hashes=HASHES, spec=spec, fields=(field,)), labels=labels, values=values, block=block
    )


@pytest.fixture
def work() -> Callable[..., Work]:
    """Return a function that makes a Work of a width and a height."""
    return make_work
