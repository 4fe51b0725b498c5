from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import OutputError
from magnet_cli.masks.output import OutputPaths, finish_output
from magnet_cli.masks.report_file import canonical, read_report, write_report
from magnet_cli.masks.verification import Damage, verify_mask
from tests.files import pages_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def paths(tmp_path: Path, work: Callable[..., Any]) -> OutputPaths:
    paths = OutputPaths.of(tmp_path / "m.tif")
    finish_output(work(333, 257).run(paths.journal), paths, report={"schema": 1})
    return paths


def flip(path: Path, position: int) -> None:
    with path.open("rb+") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x04]))


def test_an_untouched_mask_is_whole(paths: OutputPaths) -> None:
    result = verify_mask(paths.mask)
    assert result.ok
    assert result.damage == ()
    assert (result.pages, result.tiles) == (4, 6 * 5 + 3 * 3 + 2 * 2 + 1)
    assert result.bytes == paths.mask.stat().st_size


def test_one_flipped_byte_in_any_tile_names_the_tile(paths: OutputPaths) -> None:
    with tifffile.TiffFile(paths.mask) as tiff:
        pages = [(page.dataoffsets, page.databytecounts, -(-page.imagewidth // 64)) for page in pages_of(tiff)]
    for number, (offsets, lengths, columns) in enumerate(pages):
        for index, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
            for position in {offset, offset + length // 2, offset + length - 1}:
                flip(paths.mask, position)
                result = verify_mask(paths.mask)
                flip(paths.mask, position)
                assert result.damage == (Damage(part="tile", page=number, row=index // columns, col=index % columns),)
    assert verify_mask(paths.mask).ok


def test_one_flipped_byte_elsewhere_names_palette_or_directory(paths: OutputPaths) -> None:
    with tifffile.TiffFile(paths.mask) as tiff:
        pages = [(page.tags[320].valueoffset, page.dataoffsets[0]) for page in pages_of(tiff)]
        ends = [page.dataoffsets[-1] + page.databytecounts[-1] for page in pages_of(tiff)]
    start = 0
    for number, ((palette, first), end) in enumerate(zip(pages, ends, strict=True)):
        for position in {*range(start, first, 61), start, first - 1, palette, palette + 1535}:
            flip(paths.mask, position)
            part = "palette" if palette <= position < palette + 1536 else "directory"
            assert verify_mask(paths.mask).damage == (Damage(part=part, page=number),)
            flip(paths.mask, position)
        start = end


def test_a_longer_or_shorter_file_is_damaged(paths: OutputPaths) -> None:
    data = paths.mask.read_bytes()
    paths.mask.write_bytes(data + b"\0")
    assert verify_mask(paths.mask).damage == (Damage(part="file"),)
    paths.mask.write_bytes(data[:-1])
    damage = verify_mask(paths.mask).damage
    assert damage == (Damage(part="tile", page=3, row=0, col=0), Damage(part="file"))
    assert str(damage[0]) == "tile, page 3, row 0, col 0"
    paths.mask.write_bytes(b"")
    assert verify_mask(paths.mask).damaged == 44 + 4 + 4 + 1


def test_any_changed_byte_of_the_report_is_found(paths: OutputPaths) -> None:
    data = paths.report.read_bytes()
    for position in range(0, len(data), 7):
        flip(paths.report, position)
        with pytest.raises(OutputError, match="report"):
            verify_mask(paths.mask)
        flip(paths.report, position)
    for changed in (data + b"\n", data[:-1], data.replace(b"  ", b" ", 1), b"[1]\n", b"[" * 100_000):
        paths.report.write_bytes(changed)
        with pytest.raises(OutputError, match="report"):
            verify_mask(paths.mask)


def test_a_report_of_something_else_is_refused(paths: OutputPaths) -> None:
    write_report(paths.report, {"schema": 1})
    with pytest.raises(OutputError, match="does not describe a mask"):
        verify_mask(paths.mask)
    paths.report.unlink()
    with pytest.raises(OutputError, match="report cannot be read"):
        verify_mask(paths.mask)


def test_a_report_of_a_mask_without_columns_is_refused(paths: OutputPaths) -> None:
    flip(paths.mask, paths.mask.stat().st_size - 1)
    report: dict[str, Any] = read_report(paths.report)
    report["mask"]["pages"][-1]["columns"] = 0
    write_report(paths.report, report)
    with pytest.raises(OutputError, match="the report does not describe a mask"):
        verify_mask(paths.mask)


def test_the_report_may_lie_elsewhere(paths: OutputPaths, tmp_path: Path) -> None:
    shutil.move(paths.report, tmp_path / "elsewhere.json")
    assert verify_mask(paths.mask, tmp_path / "elsewhere.json").ok


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES))
def test_the_spelling_of_a_report_is_that_of_json(report: dict[str, Any]) -> None:
    expected = json.dumps(report, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    assert canonical(report).decode() == expected


@pytest.mark.parametrize("value", [float("nan"), [1, {"y": float("inf")}], {"y": -float("inf")}])
def test_numbers_that_are_not_finite_have_no_spelling(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"x": value})


def test_reports_have_one_spelling(tmp_path: Path) -> None:
    write_report(tmp_path / "a", {"b": 1.5, "a": ["é", None]})
    write_report(tmp_path / "b", {"digest": "old", "a": ["é", None], "b": 1.5})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_report(tmp_path / "a")["b"] == 1.5
