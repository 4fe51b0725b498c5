"""An export exists whole or not at all, is made once, and never replaces a file of another program."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.exports.destinations import ENDINGS, default_path, plan_exports
from magnet_cli.exports.formats import MADE, RASTERS, export_mask, refuse_export_collisions
from magnet_cli.masks.layout import read_layout
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.options.export import EXPORT_FORMATS, EXPORT_SUFFIXES, ExportFormat, ExportOptions, parse_formats
from magnet_cli.system.working_files import working_file, working_folder
from tests.exports.support import export, make_labels, write_mask
from tests.files import tree

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from magnet_cli.system import durable
from magnet_cli.exports.formats import export_mask
from magnet_cli.exports.destinations import default_path
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.options.export import EXPORT_FORMATS
from tests.exports.support import export

def dying(owner, name, after):
    original, calls = getattr(owner, name), 0
    def call(*args, **more):
        nonlocal calls
        calls += 1
        if calls > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **more)
    setattr(owner, name, call)

mask = Path(sys.argv[1])
for form in EXPORT_FORMATS:
    for owner, name, after in ((MaskFile, "stored", 5), (durable, "replace", 0)):
        child = os.fork()
        if child == 0:
            dying(owner, name, after)
            export(mask, form)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, (form, name)
        assert not default_path(mask, form).exists(), (form, name)
        assert list(mask.parent.glob("*.part")), (form, name)
"""


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return write_mask(tmp_path / "m.tif", make_labels(300, 141))


def test_every_table_has_every_format() -> None:
    tables = ({*RASTERS, "geojson"}, set(MADE), set(ENDINGS), set(EXPORT_SUFFIXES))
    assert [table for table in tables if table != set(EXPORT_FORMATS)] == []


def test_killed_in_the_middle_leaves_nothing_under_the_name_and_made_again_is_the_same(
    tmp_path: Path, mask: Path
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no SIGKILL")
    other = write_mask(tmp_path / "other" / "m.tif", make_labels(300, 141))
    export(other)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(mask)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not any(made.was_done for made in export(mask))
    assert {name: data for name, data in tree(tmp_path).items() if "other/" not in name} == tree(other.parent)


def test_what_is_there_is_not_made_again(mask: Path) -> None:
    first = export(mask)
    assert not any(made.was_done for made in first)
    before = {path: path.stat().st_mtime_ns for path in mask.parent.rglob("*")}
    again = export(mask, overwrite=True)
    assert all(made.was_done for made in again)
    assert [made.path for made in again] == [made.path for made in first]
    assert {path: path.stat().st_mtime_ns for path in mask.parent.rglob("*")} == before


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_what_was_made_of_another_mask_is_left_alone_until_overwritten(
    tmp_path: Path, mask: Path, form: ExportFormat
) -> None:
    (made,) = export(mask, form)
    write_mask(tmp_path / "new" / "m.tif", 1 - make_labels(300, 141) % 2).replace(mask)
    (tmp_path / "new" / "m.json").replace(tmp_path / "m.json")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        export(mask, form)
    assert tree(tmp_path) == before
    (again,) = export(mask, form, overwrite=True)
    assert (again.path, again.was_done) == (made.path, False)
    assert tree(tmp_path) != before
    assert export(mask, form)[0].was_done


def test_the_digest_of_a_mask_without_report_is_its_own(mask: Path) -> None:
    export(mask, "cog")
    mask.with_suffix(".json").unlink()
    assert export(mask, "cog")[0].was_done


def test_other_options_for_polygons_are_another_export(mask: Path) -> None:
    export(mask, "geojson")
    with pytest.raises(OutputError, match="exists already"):
        export(mask, "geojson", min_area=5)
    assert not export(mask, "geojson", min_area=5, overwrite=True)[0].was_done


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_a_file_of_someone_else_is_not_replaced(mask: Path, form: ExportFormat) -> None:
    path = default_path(mask, form)
    path.write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="magnet has not written it: it is not replaced"):
            export(mask, form, overwrite=overwrite)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_a_damaged_tile_ends_the_export_and_leaves_nothing(mask: Path, form: ExportFormat) -> None:
    with tifffile.TiffFile(mask) as tiff:
        start = tiff.pages.first.dataoffsets[3]
    data = bytearray(mask.read_bytes())
    data[start : start + 8] = bytes(8)
    mask.write_bytes(data if form in ("ome-zarr", "geojson") else data[: start + 3])
    before = tree(mask.parent)
    with pytest.raises(SourceError, match=r"cannot be decoded|ends too early|cannot be opened|no mask"):
        export(mask, form)
    assert tree(mask.parent) == before


def test_two_runs_cannot_write_one_output(tmp_path: Path) -> None:
    with working_file(tmp_path / "x"), pytest.raises(OutputError, match="another run"), working_file(tmp_path / "x"):
        pass
    with (
        working_folder(tmp_path / "y"),
        pytest.raises(OutputError, match="another run"),
        working_folder(tmp_path / "y"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_a_place_that_cannot_be_written_is_named(mask: Path, form: ExportFormat) -> None:
    (mask.parent / "file").write_text("no folder")
    (target,) = plan_exports([str(mask)], mask.parent / "file" / "deep", (form,))
    options = ExportOptions(formats=(form,))
    with pytest.raises(OutputError, match="cannot be written"):
        list(export_mask(mask, target.files, options))


def test_a_mask_that_states_a_larger_size_than_its_tiles_have_takes_no_memory(mask: Path) -> None:
    with tifffile.TiffFile(mask, mode="r+") as file:
        file.pages.first.tags["ImageWidth"].overwrite(0xFFFFFFFF)
    with pytest.raises(SourceError, match=r"fewer tiles than its size needs .*of [0-9]{7}"):
        MaskFile.open(mask)


@pytest.mark.parametrize("tag", [324, 325])
def test_a_mask_whose_tiles_have_no_place_is_refused(mask: Path, tag: int) -> None:
    """The tag that lists offsets or lengths has the type of bytes, which cannot hold them."""
    with tifffile.TiffFile(mask) as tiff:
        entry = tiff.pages.first.tags[tag].offset
    data = bytearray(mask.read_bytes())
    data[entry + 2 : entry + 4] = (7).to_bytes(2, "little")
    mask.write_bytes(data)
    with pytest.raises(SourceError, match="directories of the mask are damaged"):
        export(mask, "ome-tiff")


def test_a_finished_export_that_is_removed_is_missed(mask: Path) -> None:
    formats: tuple[ExportFormat, ...] = ("cog", "geojson")
    (target,) = plan_exports([str(mask)], mask.parent / "out", formats)
    exports = export_mask(mask, target.files, ExportOptions(formats=formats))
    shutil.rmtree(next(exports).path.parent)
    assert next(exports).path.is_file()
    with pytest.raises(OutputError, match="removed while others were written"):
        next(exports)


@pytest.mark.usefixtures("here")
def test_where_exports_go() -> None:
    for name in ("in/a.tif", "in/x/b.mask.tif"):
        write_mask(Path(name), make_labels(20, 20))
    export(Path("in/a.tif"), "cog", "ome-tiff")
    np.save("in/unrelated", np.zeros(1))
    found = plan_exports(["in"], Path("out"), ("cog", "geojson"))
    assert [[str(path) for _, path in target.files] for target in found] == [
        ["out/a.cog.tif", "out/a.geojson"],
        ["out/x/b.mask.cog.tif", "out/x/b.mask.geojson"],
    ]
    (one,) = plan_exports(["in/a.tif"], None, ("ome-zarr",))
    assert one.files == (("ome-zarr", Path("in/a.ome.zarr")),)
    (one,) = plan_exports(["in/a.tif"], Path("deep/y.json"), ("geojson",))
    assert one.files == (("geojson", Path("deep/y.json")),)


@pytest.mark.parametrize(
    ("masks", "output", "formats", "rule"),
    [
        (["a.tif", "b.tif"], "x.tif", ("cog",), "several masks or formats need a folder"),
        (["a.tif"], "x.tif", ("cog", "geojson"), "several masks or formats need a folder"),
        (["a.tif"], "x.tif", ("ome-tiff",), "a file of format ome-tiff ends in .ome.tif or .ome.tiff"),
        (["a.tif"], "x.png", ("cog",), "a file of format cog ends in .tif or .tiff"),
        (["a.tif"], "a.tif", ("cog",), "an export may not replace an input"),
        (["a.tif", "c/a.tif"], "out", ("cog",), "two masks would get the same export"),
        (["empty"], None, ("cog",), "the folder holds no mask with a report"),
        (["a.tif"], None, (), "an export needs a format"),
    ],
)
def test_wrong_targets(
    here: Path,
    masks: list[str],
    output: str | None,
    formats: tuple[ExportFormat, ...],
    rule: str,
) -> None:
    (here / "empty").mkdir()
    for name in ("a.tif", "b.tif", "c/a.tif"):
        write_mask(Path(name), make_labels(20, 20))
    with pytest.raises(UsageError, match=rule.replace(".", r"\.")):
        refuse_export_collisions(plan_exports(masks, None if output is None else Path(output), formats))


def test_formats_are_words(tmp_path: Path) -> None:
    assert parse_formats("GeoJSON, cog,cog") == ("cog", "geojson")
    assert parse_formats("tiff", also=("tiff",)) == ()
    for text in ("tiff", "", "cog;geojson", "png"):
        with pytest.raises(UsageError, match="--format is one or more of cog, ome-tiff, ome-zarr, geojson"):
            parse_formats(text)
    with pytest.raises(UsageError, match="are for polygons"):
        ExportOptions(formats=("cog",), simplify=Fraction(1))
    assert tmp_path.exists()


def test_what_is_no_mask(tmp_path: Path) -> None:
    labels = make_labels(40, 30)
    (tmp_path / "text.tif").write_text("no image")
    tifffile.imwrite(tmp_path / "grey.tif", labels)
    tifffile.imwrite(
        tmp_path / "palette.tif",
        labels,
        photometric="palette",
        colormap=np.zeros((3, 256), dtype=np.uint16),
        tile=(16, 16),
        compression="zlib",
    )
    for name, rule in (
        ("gone", "there is no such mask"),
        ("text", "cannot be opened as TIFF"),
        ("grey", "is no mask"),
        ("palette", "names no classes"),
    ):
        with pytest.raises(SourceError, match=rule):
            export(tmp_path / f"{name}.tif", "cog")


@pytest.mark.parametrize(("tag", "value"), [("ImageLength", 0), ("ImageWidth", 5000), ("ImageWidth", (40, 40, 40))])
def test_directories_that_contradict_themselves_are_damage(mask: Path, tag: str, value: Any) -> None:
    with tifffile.TiffFile(mask, mode="r+") as file:
        file.pages.first.tags[tag].overwrite(value)
    with pytest.raises(SourceError, match=r"directories of the mask are damaged|fewer tiles"):
        export(mask, "geojson")


def test_a_tile_that_claims_to_be_huge_takes_no_memory(mask: Path) -> None:
    with MaskFile.open(mask) as opened, pytest.raises(SourceError, match="ends too early"):
        opened.bytes_at(0, 1 << 62)


def test_directories_that_follow_each_other_in_a_circle_end(mask: Path) -> None:
    """The last directory names the first one as the next, so that the chain of pages has no end."""
    with tifffile.TiffFile(mask) as file:
        first, last = file.pages.first.offset, file.pages[len(file.pages) - 1].aspage().offset
    data = bytearray(mask.read_bytes())
    (count,) = struct.unpack_from("<Q", data, last)
    assert data[last + 8 + 20 * count :][:8] == bytes(8)
    struct.pack_into("<Q", data, last + 8 + 20 * count, first)
    mask.write_bytes(data)
    with pytest.raises(OutputError, match="their chain has no end"):
        read_layout(mask)
    with pytest.raises(SourceError, match="is no mask"):
        MaskFile.open(mask)
