from __future__ import annotations

import errno
import os
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.kept_field import FieldFile
from magnet_cli.masks.output import OutputPaths, OutputState, finish_output, output_state
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskClass, MaskSpec
from magnet_cli.masks.verification import verify_mask
from magnet_cli.masks.zarr_writer import write_field
from magnet_cli.system import durable
from tests.files import tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

zarr: Any = import_module("zarr")
"""The library zarr without its types, which allow any JSON."""


class Killed(BaseException):
    """An exception that stands for the end of the process at a given step."""


def finish(made: Any, paths: OutputPaths) -> None:
    with made.run(paths.journal) as journal:
        finish_output(journal, paths, report={"schema": 1}, fields=["probabilities"])


STEPS = ["sync_data", "sync_tree", "sync_folder", "replace", "replace_folder", "write_whole", "remove_owned"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_of_finishing_and_resumed_gives_the_same_files(
    tmp_path: Path, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool
) -> None:
    made = work(150, 90)
    finish(made, OutputPaths.of(tmp_path / "a" / "m.tif"))
    wanted = tree(tmp_path / "a")
    original = getattr(durable, step)
    for nth in range(100):
        paths = OutputPaths.of(tmp_path / f"b{nth}" / "m.tif")
        calls = 0

        def killing(*args: object, nth: int = nth) -> None:
            nonlocal calls
            calls += 1
            if calls == nth + 1 and not after:
                raise Killed
            original(*args)
            if calls == nth + 1:
                raise Killed

        monkeypatch.setattr(durable, step, killing)
        try:
            finish(made, paths)
        except Killed:
            killed = True
        else:
            killed = False
        monkeypatch.setattr(durable, step, original)
        if output_state(paths, hashes=made.header.hashes) is OutputState.OPEN:
            finish(made, paths)
        assert tree(paths.mask.parent) == wanted
        assert output_state(paths, hashes=made.header.hashes) is OutputState.DONE
        if not killed:
            break
    assert nth > 0, "the step was never reached"


def test_a_finished_output_is_done_and_others_are_refused(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(150, 90)
    paths = OutputPaths.of(tmp_path / "m.tif")
    hashes = made.header.hashes
    assert output_state(paths, hashes=hashes) is OutputState.OPEN
    finish(made, paths)
    assert output_state(paths, hashes=hashes) is OutputState.DONE
    assert output_state(paths, hashes=hashes, overwrite=True) is OutputState.DONE
    other = {**hashes, "bundle": "x"}
    with pytest.raises(OutputError, match=r"exists already: .*other bundle.*--overwrite"):
        output_state(paths, hashes=other)
    assert output_state(paths, hashes=other, overwrite=True) is OutputState.OPEN


def test_an_output_without_its_own_report_is_refused(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(150, 90)
    paths = OutputPaths.of(tmp_path / "m.tif")
    paths.mask.write_bytes(b"precious")
    for words, data in (("no report", None), ("report is damaged", b"{}\n")):
        if data is not None:
            paths.report.write_bytes(data)
        with pytest.raises(OutputError, match=words):
            output_state(paths, hashes=made.header.hashes)
    assert paths.mask.read_bytes() == b"precious"
    paths.mask.unlink()
    paths.report.unlink()
    finish(made, paths)
    paths.mask.write_bytes(b"something else")
    with pytest.raises(OutputError, match="not the file that its report describes"):
        output_state(paths, hashes=made.header.hashes)


def test_overwriting_replaces_mask_report_and_fields_alone(tmp_path: Path, work: Callable[..., Any]) -> None:
    paths = OutputPaths.of(tmp_path / "m.tif")
    finish(work(150, 90), paths)
    (tmp_path / "other.txt").write_text("stays")
    made = work(151, 90)
    made = replace(made, header=replace(made.header, hashes={"input": "new"}))
    assert output_state(paths, hashes=made.header.hashes, overwrite=True) is OutputState.OPEN
    finish(made, paths)
    assert verify_mask(paths.mask).ok
    assert (tmp_path / "other.txt").read_text() == "stays"
    assert not paths.journal.exists()
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.old"))


def test_zarr_holds_quantised_values_and_says_what_they_are(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(700, 530, block=300)
    paths = OutputPaths.of(tmp_path / "m.tif")
    (last, _) = made.groups()[-1]
    with made.run(paths.journal, stop_after=last.index) as journal:
        finish_output(journal, paths, report={"schema": 1}, fields=["probabilities"])
    array = zarr.open_array(paths.field("probabilities"), mode="r")
    assert array.metadata.zarr_format == 3
    assert array.shape == (3, 530, 700)
    assert array.attrs["classes"] == ["urban", "Gebäude & Höfe", "water"]
    assert array.attrs["pitch"] == {"x": "1", "y": "1"}
    stored = array[:]
    _, box = made.groups()[-1]
    missing = np.zeros((530, 700), dtype=bool)
    missing[box.slices] = True
    assert ((stored == array.attrs["_FillValue"]) == missing).all()
    values = stored * array.attrs["scale_factor"] + array.attrs["add_offset"]
    assert np.abs(values - made.values)[:, ~missing].max() <= 0.5 / 254 + 1e-6


def test_a_refused_mask_keeps_the_journal_and_leaves_no_part(
    tmp_path: Path, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(150, 90)
    paths = OutputPaths.of(tmp_path / "m.tif")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with made.run(paths.journal) as journal, monkeypatch.context() as patch:
        journal.end()
        patch.setattr(journal, "end", lambda: None)
        patch.setattr(durable, "sync_data", full)
        with pytest.raises(OutputError, match=r"No space left.*Free space"):
            finish_output(journal, paths, report={})
        assert [file.name for file in tmp_path.iterdir()] == ["m.tif.journal"]
    with Journal.open(paths.journal, header=made.header) as journal:
        assert len(journal.finished(1)) == len(made.groups())


def test_a_field_that_fails_leaves_no_part(
    tmp_path: Path, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "sync_tree", full)
    with pytest.raises(OutputError, match="No space left"):
        finish(work(150, 90), OutputPaths.of(tmp_path / "m.tif"))
    assert [file.name for file in tmp_path.iterdir()] == ["m.tif.journal"]


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "page.html"
    path.write_bytes(b"before")
    monkeypatch.setattr(durable, "sync_data", full)
    with pytest.raises(OutputError, match=r"page.html: .*No space left on device"):
        durable.write_whole(path, b"after")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == b"before"


def test_kept_probabilities_are_few_files_of_many_chunks(tmp_path: Path) -> None:
    """A shard holds 4 x 4 chunks, is written once, and takes bounded memory; one that is lost is noticed."""
    side = 64
    size = Size(width=8 * side + 5, height=side + 1)
    entry = FieldSpec(name="probabilities", bands=200, size=size, pitch=Pitch.square(2), dtype="uint8")
    assert entry.side == side
    assert (4 * side) ** 2 * entry.bands <= 16 << 20
    values = np.random.default_rng(1).integers(0, 255, (entry.bands, entry.size.height, entry.size.width), np.uint8)
    values[:, : 4 * side, 4 * side : 8 * side] = 255  # nothing was computed in this shard
    values[:, :side, :side] = 255
    classes = tuple(MaskClass(name=f"c{number}", color="#000000") for number in range(entry.bands))
    level0 = Size(width=2 * entry.size.width, height=2 * entry.size.height)
    header = JournalHeader(hashes={}, spec=MaskSpec(size=level0, classes=classes, tile=64), fields=(entry,))
    target = tmp_path / "p.zarr"
    with Journal.open(tmp_path / "j", header=header) as journal:
        group = GroupId(pass_index=0, index=0)
        journal.put_field(group, name=entry.name, box=Box.whole(entry.size), values=values)
        journal.finish_group(group, counts={})
        write_field(journal, entry.name, target)
    field = FieldFile.open(target)
    assert (field.array.chunks[1:], field.array.shards) == ((side, side), (entry.bands, 4 * side, 4 * side))
    files = [file for file in target.rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert len(files) == 2
    assert np.array_equal(field.read(Box.whole(entry.size)), values)
    box = Box(x=side - 3, y=2, width=4 * side, height=side)
    assert np.array_equal(field.read(box), values[:, *box.slices])
    files[0].unlink()
    with pytest.raises(SourceError, match="or it is damaged"):
        FieldFile.open(target)
