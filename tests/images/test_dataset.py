"""CSV files of labelled images are read, and the error on a wrong line names that line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magnet_cli.errors import SourceError
from magnet_cli.images.dataset import DatasetSample, read_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif", "a.png", "b.png", "field.png"):
        (tmp_path / "in" / name).touch()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_mask_that_something_else_found_may_be_listed(folder: Path) -> None:
    (sample,) = read_dataset(write(folder, "image,label,mask\nin/a.tif,in/a.png,in/b.png\n"))
    assert sample.mask == folder / "in" / "b.png"


def test_paths_are_relative_to_the_file_and_other_columns_are_left_alone(folder: Path) -> None:
    absolute = folder / "in" / "b.png"
    text = f"\ufeffnote, image ,label,roi,name\nx,in/a.tif,in/a.png,,first\n\n,in/b.tif, {absolute},in/field.png,\n"
    inner = folder / "in"
    assert read_dataset(write(folder, text)) == (
        DatasetSample(name="first", image=inner / "a.tif", label=inner / "a.png"),
        DatasetSample(name="b", image=inner / "b.tif", label=absolute, roi=inner / "field.png"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns image and label.*an empty file"),
        ("image,truth\n", r"data.csv: needs the columns image and label.*got image, truth"),
        ("image;label\n", r"got image;label\). Name them in the first line, with commas between them"),
        ("image,label\n", "lists no image. Give it a line for each image"),
        ("image,label\nin/a.tif,\n", "line 2 has nothing in the column label"),
        ("image,label\nin/a.tif,in/a.png\nin/c.tif,in/a.png\n", r"data.csv: the image of line 3 .*in/c.tif.* relative"),
        ("image,label,roi\nin/a.tif,in/a.png,no.png\n", "the roi of line 2 is missing.*no.png"),
        ("image,label,mask\nin/a.tif,in/a.png,no.png\n", "the mask of line 2 is missing.*no.png"),
        ("image,label\nin/a.tif,in/a.png\nin/a.tif,in/b.png\n", "its own name.*a, 2 times"),
        ("name,image,label\n../x,in/a.tif,in/a.png\n", "name in line 2 cannot be the name of a file"),
        ("name,image,label\n..,in/a.tif,in/a.png\n", "name in line 2 cannot be the name of a file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_dataset(write(folder, text))


def test_a_file_that_is_no_csv(folder: Path) -> None:
    (folder / "data.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(SourceError, match=r"data.csv: cannot be read"):
        read_dataset(folder / "data.csv")
    with pytest.raises(SourceError, match=r"no.csv: the list cannot be read"):
        read_dataset(folder / "no.csv")
