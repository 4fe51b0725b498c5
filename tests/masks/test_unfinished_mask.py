"""A journal that is read while another process writes it, after its run has died, and where it cannot be read."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.errors import OutputError
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.pieces import PieceFolder, piece_name
from magnet_cli.masks.records import HEAD, MAGIC, Kind, pack
from magnet_cli.masks.spec import GroupId, MaskSpec
from magnet_cli.masks.unfinished_mask import UnfinishedMask, is_unfinished
from tests.masks.support import joined

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


LONG = 60.0


def test_a_header_that_is_read_back_is_the_same_but_for_the_tags_of_its_place(work: Callable[..., Any]) -> None:
    made = work(130, 70).header
    tagged = replace(made, spec=replace(made.spec, geo_tags=((33550, 12, 3, (1.0, 1.0, 0.0)),)))
    assert JournalHeader.parse(tagged.encode(), file=Path("m.tif.journal")) == made


def test_finished_groups_are_seen_while_they_are_written(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(200, 170), tmp_path / "m.tif"
    expected = np.full_like(made.labels, 255)
    with made.run(OutputPaths.of(path).journal, stop_after=0) as journal, UnfinishedMask.open(path) as mask:
        assert is_unfinished(path)
        assert mask.refresh(LONG) == (set(), True)
        for group, box in made.groups():
            journal.put_labels(group, box=box, labels=made.labels[box.slices])
            assert mask.refresh(LONG) == (set(), True)
            np.testing.assert_array_equal(joined(mask), expected)
            journal.finish_group(group, counts={"groups": [0, len(made.groups())]})
            changed, is_whole = mask.refresh(LONG)
            assert is_whole
            assert changed == {
                (row, col)
                for row in range(box.y // 64, (box.bottom + 63) // 64)
                for col in range(box.x // 64, (box.right + 63) // 64)
            }
            expected[box.slices] = made.labels[box.slices]
            np.testing.assert_array_equal(joined(mask), expected)
            progress = mask.progress()
            assert (progress.finished, progress.groups) == ((0, group.index + 1), (0, len(made.groups())))
        found = mask.progress()
        assert found.is_ended
        assert found.problem is None
        if sys.platform == "linux":
            assert found.is_running
    if sys.platform == "linux":
        with UnfinishedMask.open(path) as mask:
            assert mask.progress().is_running is False


def test_a_record_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(150, 90), tmp_path / "m.tif"
    journal = OutputPaths.of(path).journal
    made.run(journal).close()
    whole = journal.read_bytes()
    header = HEAD.size + len(MAGIC) + len(made.header.encode())
    journal.write_bytes(whole[:header])
    with UnfinishedMask.open(path) as mask:
        # Every prefix of the file is one that a reader can meet. Zeros stand where a page has not arrived yet.
        for end in range(header, len(whole), 397):
            journal.write_bytes(whole[:end])
            assert mask.refresh(LONG)[1]
            journal.write_bytes(whole[:end] + bytes(min(50, len(whole) - end)))
            assert mask.refresh(LONG)[1]
            assert mask.progress().problem is None
        journal.write_bytes(whole)
        assert mask.refresh(LONG)[1]
        np.testing.assert_array_equal(joined(mask), made.labels)


def test_a_reader_leaves_the_file_and_its_lock_alone(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(150, 90), tmp_path / "m.tif"
    journal = OutputPaths.of(path).journal
    made.run(journal, stop_after=2).close()
    before = journal.read_bytes()
    journal.chmod(0o444)
    with UnfinishedMask.open(path) as mask:
        mask.refresh(LONG)
        mask.progress()
        assert journal.read_bytes() == before
        journal.chmod(0o644)
        with made.run(journal) as again:
            mask.refresh(LONG)
            np.testing.assert_array_equal(joined(mask), made.labels)
            again.discard()
        np.testing.assert_array_equal(joined(mask), made.labels)


def test_a_run_that_begins_anew_is_followed(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(150, 90), tmp_path / "m.tif"
    journal = OutputPaths.of(path).journal
    made.run(journal, stop_after=3).close()
    with UnfinishedMask.open(path) as mask:
        first = mask.refresh(LONG)[0]
        assert first
        with Journal.open(journal, header=made.header, resume=False) as anew:
            assert mask.refresh(LONG)[0] == first
            assert (joined(mask) == 255).all()
            made.store_all(anew)
            mask.refresh(LONG)
            np.testing.assert_array_equal(joined(mask), made.labels)
        other = replace(made.header, spec=replace(made.header.spec, classes=made.header.spec.classes[:2]))
        with (
            Journal.open(journal, header=other, resume=False),
            pytest.raises(OutputError, match="begun anew with another mask"),
        ):
            mask.refresh(LONG)


def test_reading_stops_in_time_and_goes_on(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(150, 90), tmp_path / "m.tif"
    made.run(OutputPaths.of(path).journal).close()
    with UnfinishedMask.open(path) as mask:
        assert mask.refresh(0) == (set(), False)
        assert mask.refresh(LONG)[1]
        np.testing.assert_array_equal(joined(mask), made.labels)


def test_a_damaged_record_costs_its_group_alone(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(150, 90), tmp_path / "m.tif"
    journal = OutputPaths.of(path).journal
    made.run(journal).close()
    data = bytearray(journal.read_bytes())
    at = data.index(b"mj\x03", len(data) // 2)
    data[at + HEAD.size + 30] ^= 1
    journal.write_bytes(data)
    with UnfinishedMask.open(path) as mask:
        assert mask.refresh(LONG)[1]
        found = mask.progress()
        assert found.problem is not None
        assert f"byte {at}" in found.problem
        assert found.finished == (0, len(made.groups()) - 1)
        known = joined(mask) != 255
        np.testing.assert_array_equal(joined(mask)[known], made.labels[known])


def test_pieces_of_several_parts_are_joined(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(200, 170), tmp_path / "m.tif"
    folder = PieceFolder.of(path)
    folder.begin({"hashes": {}})
    assert is_unfinished(path)
    with pytest.raises(OutputError, match="only begun"):
        UnfinishedMask.open(path)
    groups = made.groups()

    def leave(some: list[Any], header: JournalHeader) -> None:
        name = piece_name(1, some[0][0].index, some[-1][0].index)
        piece = Journal.open(folder.working(name), header=header)
        for group, box in some:
            made.store(piece, group, box)
        piece.publish(folder.path / name)

    leave(groups[:2], made.header)
    with UnfinishedMask.open(path) as mask:
        mask.refresh(LONG)
        first = joined(mask)
        assert (first != 255).any()
        leave(groups[2:], made.header)
        mask.refresh(LONG)
        np.testing.assert_array_equal(joined(mask), made.labels)
        assert mask.progress().finished == (0, len(groups))
        assert mask.progress().is_running is None
        # A piece of another run is left out, and that is reported.
        other = replace(made.header, hashes={**made.header.hashes, "options": "x" * 64})
        leave([(GroupId(pass_index=1, index=99), groups[0][1])], other)
        mask.refresh(LONG)
        problem = mask.progress().problem
        assert problem is not None
        assert "another run" in problem
        np.testing.assert_array_equal(joined(mask), made.labels)


def test_a_group_that_journal_and_piece_hold_counts_once(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(100, 90), tmp_path / "m.tif"
    folder = PieceFolder.of(path)
    folder.begin({"hashes": {}})
    (group, box), *_ = made.groups()
    with (
        made.run(OutputPaths.of(path).journal, stop_after=0) as journal,
        UnfinishedMask.open(path) as mask,
    ):
        journal.put_labels(group, box=box, labels=made.labels[box.slices])
        mask.refresh(LONG)
        with Journal.open(folder.working("p"), header=made.header) as piece:
            made.store(piece, group, box)
            piece.publish(folder.path / piece_name(1, 0, 0))
        mask.refresh(LONG)
        assert mask.progress().finished == ()
        journal.finish_group(group, counts={})
        mask.refresh(LONG)
        mask.refresh(LONG)
        assert mask.progress().finished == (0, 1)
        np.testing.assert_array_equal(joined(mask)[box.slices], made.labels[box.slices])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (MAGIC[:-1] + b"\x01", "another version"),
        (MAGIC[:-1] + b"\x09" + b"x" * 100, "another version"),
        (MAGIC, "only begun"),
        (MAGIC[:3], "only begun"),
        (b"", "only begun"),
        (bytes(40), "only begun"),
        (MAGIC + pack(Kind.HEADER, payload=b"{}")[:17], "only begun"),
        (MAGIC + b"no record of this program at all", "damaged"),
        (MAGIC + pack(Kind.END), "damaged"),
        (MAGIC + pack(Kind.HEADER, payload=b"{}"), "not one that this program reads"),
        (MAGIC + pack(Kind.HEADER, payload=b'{"schema": 9}'), "schema 9"),
        (MAGIC + pack(Kind.HEADER, payload=b"[" * 9000), "not one that this program reads"),
    ],
)
def test_journals_that_cannot_be_read_are_refused(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "m.tif"
    OutputPaths.of(path).journal.write_bytes(data)
    assert is_unfinished(path)
    with pytest.raises(OutputError, match=match):
        UnfinishedMask.open(path)


def test_a_finished_mask_is_not_unfinished(tmp_path: Path, work: Callable[..., Any]) -> None:
    made, path = work(100, 90), tmp_path / "m.tif"
    made.run(OutputPaths.of(path).journal).close()
    path.write_bytes(b"the mask")
    assert not is_unfinished(path)
    assert not is_unfinished(tmp_path / "other.tif")
    assert isinstance(made.header.spec, MaskSpec)
