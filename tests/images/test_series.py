"""Of a file with several images one is read, notes name the others, and an image may lie in several files."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import Request, Resolution, inspect, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.images import ImageInfo

Array = NDArray[Any]
OVERVIEW, SCAN, OTHER = Size(width=60, height=40), Size(width=300, height=200), Size(width=150, height=100)


def picture(size: Size, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(1, 250, (size.height, size.width, 3)).astype(np.uint8)


def square(value: str | int) -> Resolution:
    return Resolution(x=Fraction(value), y=Fraction(value), unit="um")


def pixels(path: Path, *, series: str | int | None = None, pitch: int = 1) -> Array:
    with open_image(path, series=series) as image:
        grid = Pitch.square(pitch)
        found: Array = image.read([Request(pitch=grid, box=Box.whole(grid.cover(image.info.size)))])[0].pixels
    return found


def named(name: str, um: float | None = None, unit: str = "µm") -> dict[str, Any]:
    found: dict[str, Any] = {"axes": "YXS", "Name": name}
    if um is not None:
        found |= {"PhysicalSizeX": um, "PhysicalSizeXUnit": unit, "PhysicalSizeY": um, "PhysicalSizeYUnit": unit}
    return found


def comment(path: Path) -> str:
    return str(tifffile.tiffcomment(path))


def ome(path: Path, *images: tuple[Array, dict[str, Any], int]) -> Path:
    """Write an OME-TIFF of several images, each with its metadata and the number of its reduced levels."""
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        for array, metadata, levels in images:
            writer.write(array, metadata=metadata, subifds=levels, **options)
            for level in range(1, levels + 1):
                writer.write(array[:: 2**level, :: 2**level], subfiletype=1, **options)
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return ome(
        tmp_path / "a.ome.tif",
        (picture(OVERVIEW), named("overview", 2.0), 0),
        (picture(SCAN, 1), named("scan", 0.25), 2),
        (picture(OTHER, 2), named("second scan", 0.0005, "mm"), 1),
    )


def test_of_an_ome_file_the_largest_image_is_read_with_its_own_attributes(two: Path) -> None:
    info = inspect(two)
    assert (info.size, info.series, info.resolution) == (SCAN, 1, square("0.25"))
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    assert [content.name for content in info.contents] == ["overview", "scan", "second scan"]
    assert [content.size for content in info.contents] == [OVERVIEW, SCAN, OTHER]
    (note,) = info.notes
    assert "image 1 scan (300x200) is read; the others are 0 overview (60x40), 2 second scan (150x100)" in note
    np.testing.assert_array_equal(pixels(two), picture(SCAN, 1))
    np.testing.assert_array_equal(pixels(two, pitch=2), picture(SCAN, 1)[::2, ::2])


@pytest.mark.parametrize("series", [0, "0", "overview", "OVERVIEW"])
def test_an_image_is_chosen_by_number_or_name(two: Path, series: str | int) -> None:
    info = inspect(two, series=series)
    assert (info.size, info.series, info.resolution) == (OVERVIEW, 0, square(2))
    np.testing.assert_array_equal(pixels(two, series=series), picture(OVERVIEW))
    third = inspect(two, series="second scan")
    assert (third.series, third.resolution, len(third.levels)) == (2, square("0.5"), 2)


@pytest.mark.parametrize("series", ["3", "-1", "macro", ""])
def test_an_image_that_is_not_there_is_refused_with_those_that_are(two: Path, series: str) -> None:
    with pytest.raises(SourceError, match=r"holds no such image; it holds 0 overview \(60x40\), 1 scan") as caught:
        inspect(two, series=series)
    assert caught.value.file == str(two)


def test_a_file_of_one_image_has_no_other(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", (picture(SCAN), named("scan", 0.5), 1))
    for series in (None, 0, "0", "scan"):
        info = inspect(path, series=series)
        assert (info.series, info.contents, info.notes) == (None, (), ())
    with pytest.raises(SourceError, match="no such image"):
        inspect(path, series=1)


def test_a_size_of_another_image_is_not_taken(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", (picture(SCAN), named("scan"), 1), (picture(OVERVIEW), named("label", 25.0), 0))
    assert inspect(path).resolution is None
    path = ome(
        tmp_path / "b.ome.tif", (picture(SCAN), named("", 0.25, ""), 0), (picture(OVERVIEW), named("", 0.002, "mm"), 0)
    )
    text = comment(path).replace(' PhysicalSizeXUnit=""', "").replace(' PhysicalSizeYUnit=""', "")
    tifffile.tiffcomment(path, text.encode())
    assert inspect(path).resolution == square("0.25")
    assert inspect(path, series=1).resolution == square(2)


def test_another_image_of_half_the_size_is_no_level(tmp_path: Path) -> None:
    half = np.full((OTHER.height, OTHER.width, 3), 240, np.uint8)
    half[:, 75:] = 60
    path = ome(tmp_path / "a.ome.tif", (picture(SCAN), named("scene 1"), 0), (half, named("scene 2"), 0))
    assert len(inspect(path).levels) == 1
    same = ome(tmp_path / "b.ome.tif", (picture(SCAN), named("1"), 0), (picture(SCAN)[::2, ::2], named("2"), 0))
    assert len(inspect(same).levels) == 1


def test_pages_of_a_plain_file_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(OVERVIEW), photometric="rgb", metadata=None, extratags=[(285, 2, 0, "preview", True)])
        writer.write(picture(SCAN, 1), photometric="rgb", metadata=None, tile=(64, 64))
    assert inspect(path).size == SCAN
    assert inspect(path, series="preview").size == OVERVIEW
    np.testing.assert_array_equal(pixels(path, series=0), picture(OVERVIEW))


def test_a_page_that_needs_a_colour_conversion_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(SCAN), photometric="rgb", metadata=None, tile=(64, 64))
        writer.write(np.zeros((40, 60, 4), np.uint8), photometric="separated", metadata=None)
    assert inspect(path).size == SCAN
    info = inspect(path, series=1)
    assert (info.size, info.backend, info.bands) == (OVERVIEW, "vips", ("red", "green", "blue"))
    assert pixels(path, series=1).min() > 240


def test_the_pictures_of_a_slide_can_be_chosen_by_name(tmp_path: Path) -> None:
    path, text = tmp_path / "a.svs", "Aperio Image Library v12\r\n"
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
        writer.write(picture(SCAN), tile=(64, 64), description=f"{text}300x200|AppMag = 40|MPP = 0.25", **options)
        writer.write(picture(OTHER), description=f"{text}300x200 -> 150x100 - |AppMag = 40", **options)
        writer.write(picture(OVERVIEW), subfiletype=1, description=f"{text}label 60x40", **options)
        writer.write(picture(Size(width=400, height=300)), subfiletype=9, description=f"{text}macro 400x300", **options)
    info = inspect(path)
    assert (info.size, info.series, len(info.levels)) == (SCAN, 0, 1)
    assert [content.name for content in info.contents] == ["", "thumbnail", "label", "macro"]
    assert inspect(path, series="macro").size == Size(width=400, height=300)


def test_other_readers_hold_one_image(tmp_path: Path) -> None:
    import pyvips  # noqa: PLC0415 (this test alone needs it)

    path = tmp_path / "a.png"
    pyvips.Image.new_from_array(picture(OVERVIEW)).pngsave(str(path))
    assert inspect(path, series=0).size == OVERVIEW
    with pytest.raises(SourceError, match="no such image"):
        inspect(path, series=1)


def pieces(count: int) -> list[str]:
    return [f"scan_{index}.ome.tif" for index in range(count)]


def uuid(index: int) -> str:
    return f"urn:uuid:00000000-0000-4000-8000-00000000000{index}"


def xml(own: int, planes: str, *, channels: int = 1, depth: int = 1) -> str:
    described = "".join(
        f'<Channel ID="Channel:0:{index}" Name="c{index}" SamplesPerPixel="1"/>' for index in range(channels)
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="{uuid(own)}"><Image ID="Image:0" Name="scan"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="300" SizeY="200" SizeC="{channels}" SizeZ="{depth}" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        f"{described}{planes}</Pixels></Image></OME>"
    )


def data(index: int, name: str, *, channel: int = 0, z: int = 0) -> str:
    return (
        f'<TiffData IFD="0" FirstC="{channel}" FirstZ="{z}" FirstT="0" PlaneCount="1">'
        f'<UUID FileName="{name}">{uuid(index)}</UUID></TiffData>'
    )


def piece(path: Path, plane: Array, text: str) -> None:
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(plane, description=text.encode(), subifds=1, **options)
        writer.write(plane[::2, ::2], subfiletype=1, **options)


def channel_files(folder: Path) -> list[Path]:
    names, array = pieces(3), picture(SCAN)
    planes = "".join(data(index, name, channel=index) for index, name in enumerate(names))
    for index, name in enumerate(names):
        piece(folder / name, array[:, :, index], xml(index, planes, channels=3))
    return [folder / name for name in names]


def test_an_image_in_several_files_is_read_by_any_of_them(tmp_path: Path) -> None:
    for path in channel_files(tmp_path):
        info = inspect(path)
        assert (info.bands, info.resolution, len(info.levels)) == (("c0", "c1", "c2"), square("0.5"), 2)
        assert any("one of 3 pieces of a multi-file OME-TIFF" in note for note in info.notes)
        np.testing.assert_array_equal(pixels(path), picture(SCAN))
        np.testing.assert_array_equal(pixels(path, pitch=2), picture(SCAN)[::2, ::2])


def test_a_piece_whose_partners_are_missing_says_so(tmp_path: Path) -> None:
    paths = channel_files(tmp_path)
    paths[0].unlink()
    with pytest.raises(
        SourceError, match="one piece of a multi-file OME-TIFF, and channel 0 lies in another file"
    ) as caught:
        inspect(paths[1])
    assert "'scan_0.ome.tif', which is not beside it" in str(caught.value)


def test_a_renamed_piece_is_known_by_its_identity(tmp_path: Path) -> None:
    paths = channel_files(tmp_path)
    paths[1].rename(tmp_path / "other.ome.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "other.ome.tif"), picture(SCAN))


def test_pieces_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paths = channel_files(tmp_path)
    text = comment(paths[1]).replace("scan_0.ome.tif", "../scan_0.ome.tif")
    piece(tmp_path / "in" / "scan_1.ome.tif", picture(SCAN)[:, :, 1], text)
    with pytest.raises(SourceError, match="not beside it"):
        inspect(tmp_path / "in" / "scan_1.ome.tif")


def test_the_first_plane_may_lie_in_another_file(tmp_path: Path) -> None:
    names = pieces(2)
    planes = "".join(data(index, name, z=index) for index, name in enumerate(names))
    for index, name in enumerate(names):
        piece(tmp_path / name, picture(SCAN, index)[:, :, 0], xml(index, planes, depth=2))
    for name in names:
        np.testing.assert_array_equal(pixels(tmp_path / name), picture(SCAN)[:, :, :1])
        assert any("only the first plane is read (Z=2)" in note for note in inspect(tmp_path / name).notes)


def test_the_description_may_lie_in_a_companion_file(tmp_path: Path) -> None:
    names = pieces(2)
    planes = "".join(data(index, name, channel=index) for index, name in enumerate(names))
    (tmp_path / "scan.companion.ome").write_text(xml(9, planes, channels=2), encoding="utf-8")
    for index, name in enumerate(names):
        reference = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid(index)}"><BinaryOnly MetadataFile="scan.companion.ome" UUID="{uuid(9)}"/></OME>'
        )
        piece(tmp_path / name, picture(SCAN)[:, :, index], reference)
    for name in names:
        np.testing.assert_array_equal(pixels(tmp_path / name), picture(SCAN)[:, :, :2])
        assert inspect(tmp_path / name).resolution == square("0.5")
    (tmp_path / "scan.companion.ome").unlink()
    with pytest.raises(SourceError, match="the description of this piece"):
        inspect(tmp_path / names[0])


def test_a_description_of_other_pixels_is_ignored_and_reported(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", (picture(SCAN), named("scan", 0.5), 0))
    text = comment(path)
    tifffile.imwrite(path, picture(OTHER), photometric="rgb", description=text.encode(), metadata=None)
    info: ImageInfo = inspect(path)
    assert (info.size, info.resolution) == (OTHER, None)
    assert info.notes == ("the OME-XML describes 300x200 pixels, and the page has 150x100: the description is ignored",)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('SizeX="300"', 'SizeX="many"'),
        lambda text: text.replace('SizeC="3"', 'SizeC="-3"'),
        lambda text: text.replace("XYCZT", "XYC"),
        lambda text: text.replace("<Pixels", "<Dots").replace("</Pixels", "</Dots"),
    ],
)
def test_a_damaged_description_is_reported(tmp_path: Path, change: Any) -> None:
    path = ome(tmp_path / "a.ome.tif", (picture(SCAN), named("scan", 0.5), 0))
    text = comment(path).replace("XYCZT", "XYCZT")
    tifffile.imwrite(path, picture(SCAN), photometric="rgb", description=change(text).encode(), metadata=None)
    info = inspect(path)
    assert info.size == SCAN
    assert any("the OME-XML" in note for note in info.notes)


def test_a_channel_that_the_description_does_not_place_is_refused(tmp_path: Path) -> None:
    planes = data(0, "scan_0.ome.tif", channel=0)
    piece(tmp_path / "scan_0.ome.tif", picture(SCAN)[:, :, 0], xml(0, planes, channels=2))
    with pytest.raises(SourceError, match="does not say where a channel is stored"):
        inspect(tmp_path / "scan_0.ome.tif")
