from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magnet_cli.errors import OutputError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.masks import codec
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.our_files import is_journal
from magnet_cli.masks.records import MAGIC
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskClass, MaskSpec
from tests.masks.support import joined

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any


GROUP = GroupId(pass_index=0, index=0)


@st.composite
def partitions(draw: st.DrawFn) -> tuple[Size, list[Box]]:
    """Return a size and boxes that cover it once, by cutting boxes in two again and again."""
    size = Size(width=draw(st.integers(1, 150)), height=draw(st.integers(1, 150)))
    boxes = [Box.whole(size)]
    for _ in range(draw(st.integers(0, 8))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        if draw(st.booleans()) and box.width > 1:
            at = draw(st.integers(1, box.width - 1))
            boxes += [replace(box, width=at), Box(x=box.x + at, y=box.y, width=box.width - at, height=box.height)]
        elif box.height > 1:
            at = draw(st.integers(1, box.height - 1))
            boxes += [replace(box, height=at), Box(x=box.x, y=box.y + at, width=box.width, height=box.height - at)]
        else:
            boxes.append(box)
    return size, draw(st.permutations(boxes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(partition=partitions(), seed=st.integers(0, 1000), reopen=st.booleans())
def test_any_partition_joins_to_the_labels_and_values(
    tmp_path: Path, partition: tuple[Size, list[Box]], seed: int, *, reopen: bool
) -> None:
    size, boxes = partition
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 255], dtype=np.uint8), (size.height, size.width))
    values = rng.random((2, size.height, size.width)).astype(np.float16)
    classes = (MaskClass(name="a", color="#000000"), MaskClass(name="b", color="#ffffff"))
    field = FieldSpec(name="p", bands=2, size=size, pitch=Pitch.square(1))
    header = JournalHeader(hashes={}, spec=MaskSpec(size=size, classes=classes, tile=32), fields=(field,))
    journal = Journal.open(tmp_path / "j", header=header, resume=False)
    for index, box in enumerate(boxes):
        group = GroupId(pass_index=0, index=index)
        journal.put_labels(group, box=box, labels=labels[box.slices])
        journal.put_field(group, name="p", box=box, values=values[:, *box.slices])
        journal.finish_group(group, counts={})
    if reopen:
        journal.close()
        journal = Journal.open(tmp_path / "j", header=header)
    with journal:
        assert np.array_equal(joined(journal), labels)
        x, y = (int(rng.integers(0, limit)) for limit in (size.width, size.height))
        box = Box.between(left=x, top=y, right=int(rng.integers(x, size.width)) + 1, bottom=size.height)
        assert np.array_equal(journal.read_field("p", box), values[:, *box.slices])


def test_work_of_an_unfinished_group_is_not_seen(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(100, 90)
    (group, box), *_ = made.groups()
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        journal.put_labels(group, box=box, labels=made.labels[box.slices])
        journal.put_field(group, name="probabilities", box=box, values=made.values[:, *box.slices])
        assert (joined(journal) == 255).all()
        assert np.isnan(journal.read_field("probabilities", box)).all()
        assert not journal.is_finished(group)
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        assert (joined(journal) == 255).all()
        journal.finish_group(group, counts={})
        assert (joined(journal) == 255).all(), "what a dead process left must not count for this one's group"


def test_dropped_work_does_not_count(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(70, 70)
    for reopen in (False, True):
        with Journal.open(tmp_path / "j", header=made.header, resume=reopen) as journal:
            if not reopen:
                journal.put_labels(GROUP, box=Box.whole(made.header.spec.size), labels=made.labels)
                journal.drop_group(GROUP)
                journal.finish_group(GROUP, counts={"failed": 1})
            assert journal.finished(0) == {0: {"failed": 1}}
            assert (joined(journal) == 255).all()


def test_overlaps_join_by_group_whatever_the_order_of_finishing(tmp_path: Path) -> None:
    size = Size(width=40, height=40)
    spec = MaskSpec(size=size, classes=(MaskClass(name="a", color="#000000"),) * 2, tile=32)
    results = []
    for order in ((0, 1), (1, 0)):
        with Journal.open(tmp_path / "j", header=JournalHeader(hashes={}, spec=spec), resume=False) as journal:
            for index in order:
                group = GroupId(pass_index=0, index=index)
                labels = np.full((40, 40), index, dtype=np.uint8)
                journal.put_labels(group, box=Box.whole(size), labels=labels)
                journal.finish_group(group, counts={})
            results.append(joined(journal))
    assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize(
    "puts",
    [
        [(0, 0, 0), (0, 1, 1)],
        [(0, 1, 1), (0, 0, 0)],
        [(1, 0, 1), (0, 1, 0)],
        [(0, 0, 0), (0, 0, 1)],
    ],
    ids=["group", "group finished earlier", "pass", "age"],
)
@pytest.mark.parametrize("width", [32, 20], ids=["whole tiles", "parts"])
def test_where_pieces_overlap_the_later_pass_then_group_then_piece_wins(
    tmp_path: Path, puts: list[tuple[int, int, int]], width: int
) -> None:
    size = Size(width=32, height=32)
    spec = MaskSpec(size=size, classes=(MaskClass(name="a", color="#000000"),) * 2, tile=32)
    with Journal.open(tmp_path / "j", header=JournalHeader(hashes={}, spec=spec)) as journal:
        for number, (step, index, label) in enumerate(puts):
            group = GroupId(pass_index=step, index=index)
            labels = np.full((32, width), label, dtype=np.uint8)
            journal.put_labels(group, box=Box(x=0, y=0, width=width, height=32), labels=labels)
            if all(later[:2] != (step, index) for later in puts[number + 1 :]):
                journal.finish_group(group, counts={})
        assert (joined(journal)[:, :width] == 1).all()
        stored = journal.stored_tile(0, 0)
    assert (stored is None) == (width < 32)
    assert stored is None or (codec.decode_tile(stored, side=32, compression=spec.compression) == 1).all()


def test_a_field_of_claims_keeps_the_largest_whatever_the_order(tmp_path: Path) -> None:
    size = Size(width=40, height=30)
    field = FieldSpec(name="c", bands=1, size=size, pitch=Pitch.square(1), dtype="uint8", join="largest")
    spec = MaskSpec(size=size, classes=(MaskClass(name="object", color="#ffffff"),), tile=64)
    boxes = [Box(x=0, y=0, width=30, height=20), Box(x=10, y=5, width=30, height=25), Box(x=5, y=5, width=9, height=9)]
    drawn = np.random.default_rng(2)
    values = [drawn.choice(np.array([0, 3, 254, 255], np.uint8), (1, box.height, box.width)) for box in boxes]
    expected = np.full((30, 40), -1)
    for box, value in zip(boxes, values, strict=True):
        known = np.where(value[0] == 255, -1, value[0].astype(int))
        expected[box.slices] = np.maximum(expected[box.slices], known)
    for number, order in enumerate(([0, 1, 2], [2, 1, 0])):
        header = JournalHeader(hashes={}, spec=spec, fields=(field,))
        with Journal.open(tmp_path / f"{number}.journal", header=header) as journal:
            for index in order:
                group = GroupId(pass_index=0, index=index)
                journal.put_field(group, name="c", box=boxes[index], values=values[index])
                journal.finish_group(group, counts={})
            found = journal.read_stored_field("c", Box.whole(size))[0]
            assert np.array_equal(np.where(found == 255, -1, found.astype(int)), expected)
            journal.discard()


def test_counts_come_back(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(170, 90)
    made.run(tmp_path / "j").close()
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        assert journal.finished(0) == {}
        assert journal.finished(1) == {i: {"windows": 1, "index": i} for i in range(len(made.groups()))}
        assert not journal.ended
        journal.end()
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        assert journal.ended
        assert journal.repairs == ()


def test_a_tail_torn_anywhere_keeps_every_finished_group(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(100, 90, block=60)
    journal = made.run(tmp_path / "j", stop_after=2)
    kept = (tmp_path / "j").stat().st_size
    made.store(journal, *made.groups()[2])
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    torn = tmp_path / "torn"
    step = max(1, (len(whole) - kept) // 100)
    ends = {*range(kept, len(whole), step), *range(kept, kept + 40), *range(len(whole) - 40, len(whole))}
    for end in sorted(ends):
        torn.write_bytes(whole[:end])
        with Journal.open(torn, header=made.header) as resumed:
            assert set(resumed.finished(1)) == {0, 1}
            assert resumed.repairs == ()
    made.run(torn).close()
    with Journal.open(torn, header=made.header) as resumed:
        assert np.array_equal(joined(resumed), made.labels)


def test_a_header_torn_anywhere_starts_anew(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(20, 20)
    path = tmp_path / "j"
    Journal.open(path, header=made.header).close()
    whole = path.read_bytes()
    header_end = 8 + 16 + len(made.header.encode())
    for end in {*range(30), *range(30, header_end, 29), header_end - 1}:
        path.write_bytes(whole[:end])
        with Journal.open(path, header=made.header) as journal:
            assert journal.finished(1) == {}
        assert path.read_bytes() == whole


def test_a_changed_byte_is_found_and_never_believed(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(100, 90, block=60)
    made.run(tmp_path / "j").close()
    whole = (tmp_path / "j").read_bytes()
    groups = len(made.groups())
    path = tmp_path / "bad"
    start = 8 + 16 + len(made.header.encode()) + 16
    for position in range(start, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x20]) + whole[position + 1 :])
        with Journal.open(path, header=made.header) as journal:
            assert len(journal.finished(1)) < groups
            assert len(journal.repairs) == 1
        journal = made.run(path)
        assert np.array_equal(joined(journal), made.labels)
        journal.close()


def test_a_changed_header_is_refused(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(20, 20)
    path = tmp_path / "j"
    Journal.open(path, header=made.header).close()
    whole = path.read_bytes()
    for position in {*range(30), *range(30, 8 + 16 + len(made.header.encode()), 29)}:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(OutputError, match="journal"):
            Journal.open(path, header=made.header)
    Journal.open(path, header=made.header, resume=False).close()
    assert path.read_bytes() == whole


def test_a_byte_changed_while_open_is_an_error(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(60, 60, block=64)
    with made.run(tmp_path / "j") as journal:
        with (tmp_path / "j").open("rb+") as file:
            file.seek(8 + 16 + len(made.header.encode()) + 16 + 16 + 40)
            file.write(b"\xff\xff")
        with pytest.raises(OutputError, match=r"journal is damaged.*--no-resume"):
            journal.tile(0, 0)


def test_other_inputs_or_options_are_refused_by_name(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(60, 60)
    path = tmp_path / "j"
    made.run(path).close()
    before = path.read_bytes()
    others = {
        "different options": replace(made.header, hashes={**made.header.hashes, "options": "x"}),
        "different mask": replace(made.header, spec=replace(made.header.spec, tile=32)),
        "different fields": replace(made.header, fields=()),
    }
    for words, header in others.items():
        with pytest.raises(OutputError, match=f"{words}.*--overwrite or --no-resume"):
            Journal.open(path, header=header)
    assert path.read_bytes() == before
    with Journal.open(path, header=others["different options"], overwrite=True) as journal:
        assert journal.finished(1) == {}


def test_overwrite_still_resumes_equal_work(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(60, 60)
    made.run(tmp_path / "j").close()
    with Journal.open(tmp_path / "j", header=made.header, overwrite=True) as journal:
        assert len(journal.finished(1)) == len(made.groups())


def test_a_foreign_file_is_left_alone(tmp_path: Path, work: Callable[..., Any]) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"somebody's notes")
    with pytest.raises(OutputError, match="in the way of a journal"):
        Journal.open(path, header=work(9, 9).header)
    assert path.read_bytes() == b"somebody's notes"


def test_a_second_owner_is_refused(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(60, 60)
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        with pytest.raises(OutputError, match="another run is writing this output") as caught:
            Journal.open(tmp_path / "j", header=made.header, resume=False)
        assert caught.value.exit_code == 5
        assert caught.value.advice is not None
        made.store(journal, *made.groups()[0])
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        assert len(journal.finished(1)) == 1


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from conftest import make_work
journal = make_work(100, 90).run(Path({path!r}), stop_after=2)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_owner_leaves_its_groups_and_no_lock(tmp_path: Path, work: Callable[..., Any]) -> None:
    path = tmp_path / "j"
    paths = [os.path.dirname(__file__), *sys.path]  # noqa: PTH120
    code = CHILD.format(paths=paths, path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(OutputError, match="another run"):
            Journal.open(path, header=work(100, 90).header)
        child.send_signal(signal.SIGKILL)
    with Journal.open(path, header=work(100, 90).header) as journal:
        assert set(journal.finished(1)) == {0, 1}


def test_many_threads_store_at_once(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(300, 280, block=50)
    groups = made.groups()
    with Journal.open(tmp_path / "j", header=made.header) as journal:

        def store(first: int) -> None:
            for group, box in groups[first::4]:
                made.store(journal, group, box)
                stored = journal.read_field("probabilities", box)
                assert np.array_equal(stored, made.values[:, *box.slices])

        threads = [threading.Thread(target=store, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert np.array_equal(joined(journal), made.labels)
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        assert np.array_equal(joined(journal), made.labels)
        assert journal.repairs == ()


def test_threads_that_compress_change_no_byte(tmp_path: Path, work: Callable[..., Any]) -> None:
    job = work(701, 503, tile=64, block=400)
    for threaded in (False, True):
        with Journal.open(tmp_path / f"{threaded}", header=job.header, threaded=threaded) as journal:
            job.store_all(journal)
    assert (tmp_path / "True").read_bytes() == (tmp_path / "False").read_bytes()


def test_a_full_disk_loses_nothing(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(300, 280, block=50)
    path = tmp_path / "j"
    journal = made.run(path, stop_after=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5000, hard))
    try:
        with pytest.raises(OutputError, match=f"{path}.*cannot be written"):
            made.store_all(journal)
        with pytest.raises(OutputError, match="earlier write"):
            journal.put_labels(GROUP, box=Box(x=0, y=0, width=1, height=1), labels=made.labels[:1, :1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    journal.close()
    with Journal.open(path, header=made.header) as resumed:
        assert {0, 1, 2} <= set(resumed.finished(1))
        assert resumed.repairs == ()
    with made.run(path) as resumed:
        assert np.array_equal(joined(resumed), made.labels)


def test_an_impossible_folder_is_named_with_advice(tmp_path: Path, work: Callable[..., Any]) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be written.*folder"):
        Journal.open(tmp_path / "file" / "j", header=work(9, 9).header)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named_with_advice(tmp_path: Path, work: Callable[..., Any]) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"cannot be written.*may write to"):
        Journal.open(tmp_path / "j", header=work(9, 9).header)


def test_what_is_no_label_is_refused(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(20, 20)
    box = Box(x=0, y=0, width=2, height=2)
    with Journal.open(tmp_path / "j", header=made.header) as journal:
        for labels in (np.full((2, 2), 3, dtype=np.uint8), np.zeros((2, 3), dtype=np.uint8)):
            with pytest.raises(ValueError, match="got"):
                journal.put_labels(GROUP, box=box, labels=labels)
        with pytest.raises(ValueError, match="a box fits"):
            journal.put_labels(GROUP, box=box.shifted(x=19, y=0), labels=np.zeros((2, 2), dtype=np.uint8))
        with pytest.raises(ValueError, match="3 bands, got 2"):
            journal.put_field(GROUP, name="probabilities", box=box, values=np.zeros((2, 2, 2), dtype=np.float16))


def test_memory_a_tile_is_small_and_decoded_chunks_are_bounded(tmp_path: Path) -> None:
    tiles = Size(width=60, height=50)
    size = Size(width=tiles.width * 16, height=tiles.height * 16)
    spec = MaskSpec(size=size, classes=(MaskClass(name="a", color="#000000"),), tile=16)
    field = FieldSpec(name="p", bands=1, size=size, pitch=Pitch.square(1))
    header = JournalHeader(hashes={}, spec=spec, fields=(field,))
    with Journal.open(tmp_path / "j", header=header, cache_bytes=600_000) as journal:
        journal.put_labels(GROUP, box=Box.whole(size), labels=np.zeros((size.height, size.width), dtype=np.uint8))
        values = np.ones((1, size.height, size.width), dtype=np.float16)
        journal.put_field(GROUP, name="p", box=Box.whole(size), values=values)
        journal.finish_group(GROUP, counts={})
        assert journal.index_bytes < 48 * tiles.pixels
        assert np.array_equal(journal.read_field("p", Box.whole(size)), values)
        assert 0 < journal._fields.cache.nbytes <= 600_000


def test_a_uint8_field_keeps_steps_and_gaps(tmp_path: Path) -> None:
    size = Size(width=30, height=20)
    field = FieldSpec(name="u", bands=1, size=size, pitch=Pitch.square(4), dtype="uint8")
    spec = MaskSpec(size=Size(width=120, height=80), classes=(MaskClass(name="a", color="#000000"),))
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(1, 20, 30)
    values[0, 3, 4] = np.nan
    with Journal.open(tmp_path / "j", header=JournalHeader(hashes={}, spec=spec, fields=(field,))) as journal:
        box = Box(x=0, y=0, width=30, height=10)
        journal.put_field(GROUP, name="u", box=box, values=values[:, :10])
        journal.finish_group(GROUP, counts={})
        read = journal.read_field("u", Box.whole(size))
    assert read.dtype == np.float16
    assert np.isnan(read[0, 3, 4])
    assert np.isnan(read[0, 10:]).all()
    np.testing.assert_allclose(read[0, :10], values[0, :10], atol=1 / 254)


@pytest.mark.parametrize("length", range(len(MAGIC) + 1))
def test_a_journal_of_which_a_kill_left_a_part_of_the_first_word_is_ours(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.tif.journal"
    path.write_bytes(MAGIC[:length])
    assert is_journal(path)
    spec = MaskSpec(size=Size(width=40, height=40), classes=(MaskClass(name="a", color="#000000"),), tile=32)
    with Journal.open(path, header=JournalHeader(hashes={}, spec=spec)) as journal:
        assert not journal.repairs
    path.write_bytes(MAGIC[:length] + b"a note of the user's")
    assert is_journal(path) == (length >= len(MAGIC) - 1)
