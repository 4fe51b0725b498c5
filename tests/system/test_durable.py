"""Nothing gets its name before its content has reached the disk, and nothing is written to a file without a name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from magnet_cli.errors import OutputError
from magnet_cli.importing.staging import staged
from magnet_cli.masks.output import OutputPaths, finish_output
from magnet_cli.masks.store_file import StoreFile, SyncPolicy
from magnet_cli.system import durable
from magnet_cli.system.working_files import working_file, working_folder
from magnet_cli.train.log import append_line
from tests.exports.support import export, make_labels, write_mask
from tests.masks.conftest import make_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Disk:
    """A record of what would survive a power cut: content that was flushed, and names whose folder was flushed."""

    def __init__(self) -> None:
        self.flushed: dict[tuple[int, int], int] = {}
        """Bytes of a file at its last flush, by device and inode."""
        self.named: list[Path] = []
        self.unsure: set[Path] = set()
        """Folders with names that a power cut may lose."""

    def sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self.flushed[found.st_dev, found.st_ino] = found.st_size

    def name(self, source: Path, target: Path) -> None:
        for file in [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]:
            found = file.stat()
            assert self.flushed.get((found.st_dev, found.st_ino)) == found.st_size, f"{file} becomes {target}"
        self.named.append(target)
        self.unsure.add(target.parent)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Return a record of the contents and names that the program brings to the disk."""
    found = Disk()
    replace, sync_data, sync_folder = os.replace, durable.sync_data, durable.sync_folder

    def sync(descriptor: int) -> None:
        sync_data(descriptor)
        found.sync(descriptor)

    def name(source: Path, target: Path) -> None:
        # What zarr does in a folder that has no name yet counts once that gets its own.
        if not any(parent.suffix == ".part" for parent in Path(target).parents):
            found.name(Path(source), Path(target))
        replace(source, target)

    def folder(path: Path) -> None:
        sync_folder(path)
        found.unsure.discard(path)

    monkeypatch.setattr(durable, "sync_data", sync)
    monkeypatch.setattr(durable, "sync_folder", folder)
    monkeypatch.setattr(os, "replace", name)
    yield found
    assert not found.unsure


def test_masks_and_exports_get_their_names_last(tmp_path: Path, disk: Disk) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(300, 141))
    export(mask)
    names = {path.name for path in disk.named}
    assert names > {"m.tif", "m.json", "m.cog.tif", "m.ome.tif", "m.ome.zarr", "m.geojson"}


def test_a_field_that_is_kept_gets_its_name_last(tmp_path: Path, disk: Disk) -> None:
    paths = OutputPaths.of(tmp_path / "m.tif")
    with make_work(100, 90).run(paths.journal) as journal:
        finish_output(journal, paths, report={"schema": 1}, fields=["probabilities"])
    assert disk.named[0].name == "m.probabilities.zarr"


def test_a_journal_is_flushed_before_its_mask_is_made(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "m.tif.journal"
    seen: list[bool] = []

    def assemble(*_: object, **__: object) -> None:
        found = journal.stat()
        seen.append(disk.flushed.get((found.st_dev, found.st_ino)) == found.st_size)
        raise ZeroDivisionError

    monkeypatch.setattr("magnet_cli.masks.output.assemble_mask", assemble)
    with pytest.raises(ZeroDivisionError):
        write_mask(tmp_path / "m.tif", make_labels(65, 63))
    assert seen == [True]


@pytest.fixture
def removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file whose owner removes it, once, between another's opening and locking it."""
    path, lock, times = tmp_path / "x.magnet.part", durable.lock, iter([True])

    def late(descriptor: int) -> bool:
        if next(times, False):
            path.unlink()
        return lock(descriptor)

    monkeypatch.setattr(durable, "lock", late)
    return path


def test_a_journal_that_was_removed_while_it_was_opened_is_made_anew(removed: Path) -> None:
    store = StoreFile.own(removed, sync=SyncPolicy())
    store.start(b"{}")
    assert removed.stat().st_size == store.end
    store.close()


def test_an_output_that_was_finished_while_it_was_opened_is_made_anew(removed: Path) -> None:
    target = removed.with_name("x")
    with working_file(target) as file:
        file.write(b"all of it")
    assert target.read_bytes() == b"all of it"


def test_a_symbolic_link_cannot_aim_what_is_written(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("a.magnet.part", "b.journal", "c.jsonl", "d.magnet.part"):
        (tmp_path / name).symlink_to(precious)
    writings: tuple[Callable[[], object], ...] = (
        lambda: durable.write_whole(tmp_path / "a", b"aimed"),
        lambda: StoreFile.own(tmp_path / "b.journal", sync=SyncPolicy()),
        lambda: append_line(tmp_path / "c.jsonl", {"loss": 1.0}),
        lambda: working_folder(tmp_path / "d").__enter__(),
        lambda: working_file(tmp_path / "d").__enter__(),
    )
    for write in writings:
        with pytest.raises(OutputError, match="cannot be written"):
            write()
    assert precious.read_text() == "mine"
    assert not (tmp_path / "a").exists()


def test_a_link_under_the_final_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious, target = tmp_path / "precious", tmp_path / "x"
    precious.write_text("mine")
    target.symlink_to(precious)
    durable.write_whole(target, b"new")
    assert (precious.read_text(), target.read_text()) == ("mine", "new")
    assert not target.is_symlink()


def test_a_link_to_a_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """A kept field is large, and its user may have moved it to another disk and left a link."""
    precious, target = tmp_path / "disk", tmp_path / "x.zarr"
    precious.mkdir()
    (precious / "old").write_text("mine")
    target.symlink_to(precious)
    # An earlier version left its link under this name.
    (tmp_path / "x.zarr.magnet.old").symlink_to(precious)
    for content in ("new", "newer"):
        with working_folder(target) as folder:
            (folder / "chunk").write_text(content)
        assert (target / "chunk").read_text() == content
        assert not target.is_symlink()
    assert (precious / "old").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "x.zarr"]


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_finished_files_have_the_permissions_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        durable.write_whole(tmp_path / "whole", b"")
        with working_file(tmp_path / "file"):
            pass
        with working_folder(tmp_path / "folder") as folder:
            durable.write_whole(folder / "inside", b"")
        with staged(tmp_path / "bundle") as folder:
            durable.write_whole(folder / "inside", b"")
    finally:
        os.umask(before)
    found = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    folders = {"folder", "bundle"}
    assert found == {name: (0o777 if name in folders else 0o666) & ~mask for name in found}
    assert len(found) == 6


def test_what_a_killed_run_left_is_removed_and_a_file_of_another_name_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_text("somebody's")
    (tmp_path / "x.old").mkdir()
    (tmp_path / "x.magnet.part").write_text("half of a mask")
    with working_file(tmp_path / "x") as file:
        assert file.read() == b""
    (tmp_path / "y.magnet.part").mkdir()
    (tmp_path / "y.magnet.part" / "chunk").write_text("half of a field")
    for _ in range(2):  # the second one replaces the folder of the first
        with working_folder(tmp_path / "y") as folder:
            (folder / "whole").write_text("all")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        *("x", "x.old", "x.part", "y", "y/whole"),
    ]


def test_a_name_of_the_longest_length_has_a_working_name(tmp_path: Path) -> None:
    long = tmp_path / ("ä" * 127)
    durable.write_whole(long, b"fits")
    assert long.read_bytes() == b"fits"
    assert list(tmp_path.iterdir()) == [long]
