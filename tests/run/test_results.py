"""Several journals of one run are read as one journal that holds all of their groups and fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskClass, MaskSpec
from magnet_cli.run.results import SeveralResults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = Size(width=90, height=40)
JOINS: tuple[tuple[str, Literal["later", "largest"]], ...] = (
    ("float16", "later"),
    ("uint8", "later"),
    ("uint8", "largest"),
)


def header() -> JournalHeader:
    fields = (
        FieldSpec(name=f"{dtype}-{join}", bands=2, size=SIZE, pitch=LEVEL0, dtype=dtype, join=join)
        for dtype, join in JOINS
    )
    spec = MaskSpec(size=SIZE, classes=(MaskClass(name="one", color="#000000"),))
    return JournalHeader(hashes={"input": "1"}, spec=spec, fields=tuple(fields))


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[list[Journal]]:
    """Open three journals of one run: one for everything, and two for a share each."""
    found = [Journal.open(tmp_path / f"{name}.journal", header=header()) for name in ("whole", "one", "other")]
    yield found
    for journal in found:
        journal.close()


def put(journal: Journal, index: int, box: Box, *, overlapping: bool) -> None:
    group, random = GroupId(pass_index=0, index=index), np.random.default_rng(index)
    for dtype, join in JOINS:
        if overlapping == (join == "largest"):
            values: NDArray[np.generic] = random.random((2, box.height, box.width), np.float32)
            values[:, 3:5, 7:9] = np.nan
            if dtype == "float16":
                values = values.astype(np.float16)
            journal.put_field(group, name=f"{dtype}-{join}", box=box, values=values)
    journal.finish_group(group, counts={"labels": [index]})


def compared(whole: Journal, shared: SeveralResults) -> None:
    for dtype, join in JOINS:
        name = f"{dtype}-{join}"
        for box in (Box.whole(SIZE), Box(x=11, y=5, width=50, height=21)):
            found, wanted = shared.read_stored_field(name, box), whole.read_stored_field(name, box)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(shared.read_field(name, box), whole.read_field(name, box))


def test_fields_of_several_journals_are_those_of_one(journals: list[Journal]) -> None:
    whole, one, other = journals
    for index in range(5):
        box = Box(x=18 * index, y=0, width=18, height=40)
        for journal in (whole, other if index % 2 else one):
            put(journal, index, box, overlapping=False)
    for index in range(5, 8):
        box = Box(x=9 * (index - 5), y=4, width=60, height=33)
        for journal in (whole, other if index % 2 else one):
            put(journal, index, box, overlapping=True)
    shared = SeveralResults(places=(one, other))
    assert dict(shared.finished(0)) == dict(whole.finished(0))
    assert list(shared.finished(0)) == list(range(8))
    assert dict(shared.finished(1)) == {}
    compared(whole, shared)


def test_a_group_that_two_have_finished_counts_once(journals: list[Journal]) -> None:
    whole, one, other = journals
    for index, places in enumerate(((whole, one, other), (whole, other), (whole, one))):
        for journal in places:
            put(journal, index, Box(x=30 * index, y=0, width=30, height=40), overlapping=False)
    shared = SeveralResults(places=(one, other))
    assert list(shared.finished(0)) == [0, 1, 2]
    compared(whole, shared)


def test_what_nobody_has_stored_is_not_known(journals: list[Journal]) -> None:
    _, one, other = journals
    put(one, 0, Box(x=0, y=0, width=30, height=40), overlapping=False)
    # A group that is begun and not finished counts for nothing.
    other.put_field(
        GroupId(pass_index=0, index=1),
        name="uint8-later",
        box=Box(x=30, y=0, width=30, height=40),
        values=np.zeros((2, 40, 30), np.uint8),
    )
    found = SeveralResults(places=(one, other)).read_field("uint8-later", Box.whole(SIZE))
    assert np.isnan(found[:, :, 30:]).all()
    assert np.isfinite(found[:, 10:, :30]).all()
