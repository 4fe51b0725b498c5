"""Lists of images in a CSV file: every column, relative paths, and errors that name the line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box
from magnet_cli.images import find_images
from magnet_cli.images.image_list import read_image_list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.tif", "sub/b.tif", "area.geojson", "mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def listed(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text)
    return path


def test_every_column_holds_for_its_image_alone(folder: Path) -> None:
    path = listed(
        folder,
        'path,mpp,roi,mask,name\na.tif,0.25,"1,2,30,40",,first\nsub/b.tif,,area.geojson,mask.png,\n\na.tif,,,,again/x\n',
    )
    one, two, three = find_images([str(path)])
    assert one.options == {"slide_mpp": Fraction(1, 4), "roi": Box(x=1, y=2, width=30, height=40)}
    assert two.options == {"roi": folder / "area.geojson", "mask": folder / "mask.png"}
    assert three.options == {}
    assert [Path(each.source) for each in (one, two, three)] == [
        folder / "a.tif",
        folder / "sub/b.tif",
        folder / "a.tif",
    ]
    assert [each.place.as_posix() for each in (one, two, three)] == ["first", "sub/b.tif", "again/x"]


def test_addresses_and_absolute_paths_are_taken_as_they_are(folder: Path) -> None:
    path = listed(folder, f"path\nhttps://h.org/x%201.tif\n{folder / 'a.tif'}\n../{folder.name}/a.tif\n")
    found = read_image_list(path)
    assert [each.source for each in found][:2] == ["https://h.org/x%201.tif", str(folder / "a.tif")]
    assert [str(each.place) for each in found] == ["x 1.tif", "a.tif", "a.tif"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has a column path"),
        ("path\n", "names no image"),
        ("path,colour\na.tif,red\n", "'colour'"),
        ("image\na.tif\n", "'image'"),
        ("path,path\na.tif,a.tif\n", "no column twice"),
        ("path,mpp\na.tif\n", "line 2 has 1 values"),
        ("path,roi\na.tif,1,2,3,4\n", "between quotation marks"),
        ("path,mpp\na.tif,wide\n", "line 2: mpp"),
        ("path,mpp\na.tif,0\n", "line 2: mpp is positive"),
        ("path,mpp\na.tif,1000000\n", "line 2: mpp is positive, and less than"),
        ('path,roi\na.tif,"1,2,0,4"\n', "line 2"),
        ("path,name\na.tif,../out\n", "line 2"),
        ("path,name\na.tif,/out\n", "line 2"),
        ("path,mask\na.tif,gone.png\n", "the mask of line 2 does not exist"),
        ("path\n\ngone.tif\n", "the image of line 3 does not exist"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(folder: Path, text: str, said: str) -> None:
    path = listed(folder, text)
    with pytest.raises(SourceError) as caught:
        read_image_list(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
