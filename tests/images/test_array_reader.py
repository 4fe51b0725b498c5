"""Boxes of an opened image are read as NumPy arrays, at stored levels and at given pixel sizes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile

import magnet_cli
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images.protocol import Resolution

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HEIGHT = 131, 97


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def slide(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write a slide with two levels of odd sides, whose pixels measure 0.25 um."""
    path = tmp_path / "slide.tif"
    half = pixels[: HEIGHT - 1, : WIDTH - 1].reshape(48, 2, 65, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    with tifffile.TiffWriter(path) as file:
        more: dict[str, Any] = {"photometric": "rgb", "tile": (32, 32)}
        file.write(pixels, subifds=1, resolution=(40_000, 40_000), resolutionunit="CENTIMETER", **more)
        file.write(half, subfiletype=1, **more)
    return path


def test_a_box_is_the_pixels_of_the_file(slide: Path, pixels: NDArray[np.uint8]) -> None:
    with magnet_cli.open_image(slide) as image:
        assert (image.info.size.width, image.info.size.height) == (WIDTH, HEIGHT)
        whole = image.read()
        part = image.read("10,20,30,40")
        same = image.read(Box(x=10, y=20, width=30, height=40), level=0)
    np.testing.assert_array_equal(whole.pixels, pixels)
    np.testing.assert_array_equal(part.pixels, pixels[20:60, 10:40])
    np.testing.assert_array_equal(part.pixels, same.pixels)
    assert part.valid.all()
    assert part.valid.shape == (40, 30)
    assert part.box == Box(x=10, y=20, width=30, height=40)
    assert part.pitch == Pitch.square(1)


def test_a_stored_level_is_read_as_it_is_stored(slide: Path) -> None:
    stored = tifffile.imread(slide, level=1)
    with magnet_cli.open_image(slide) as image:
        level = image.info.levels[1]
        found = image.read("20,10,41,31", level=1)
    assert level.downsample == Pitch.square(2)
    np.testing.assert_array_equal(found.pixels, stored[5:21, 10:31])  # the pixels that touch the box
    assert found.box == Box(x=20, y=10, width=42, height=32)


@pytest.mark.parametrize("size", ["1um", 1, 1.0, Fraction(1), "1000nm", "0.001mm"])
def test_a_pixel_size_is_a_mean_of_finer_pixels(slide: Path, pixels: NDArray[np.uint8], size: Any) -> None:
    with magnet_cli.open_image(slide) as image:
        found = image.read("0,0,128,96", pixel_size=size)
    expected = pixels[:96, :128].reshape(24, 4, 32, 4, 3).mean(axis=(1, 3))
    assert found.pixels.shape == expected.shape
    assert np.abs(found.pixels - expected).max() <= 1.5  # through the stored level, which is rounded
    assert found.pitch == Pitch.square(4)


def test_pixels_without_data_are_not_valid(tmp_path: Path) -> None:
    values = np.ones((20, 30), np.uint8)
    values[:, 15:] = 7
    tifffile.imwrite(tmp_path / "n.tif", values, extratags=[(42113, "s", 0, "7", True)])
    with magnet_cli.open_image(tmp_path / "n.tif") as image:
        found = image.read("10,0,10,5")
    np.testing.assert_array_equal(found.valid, np.repeat([[True, False]], 5, axis=1).repeat(5, axis=0))
    np.testing.assert_array_equal(found.pixels[..., 0], found.valid.astype(np.uint8))


def test_bands_are_chosen_by_number_or_name(slide: Path, pixels: NDArray[np.uint8]) -> None:
    with magnet_cli.open_image(slide) as image:
        for bands in ("3,1", [3, 1], ("blue", "red"), "blue, 1"):
            np.testing.assert_array_equal(image.read("0,0,9,9", bands=bands).pixels, pixels[:9, :9, [2, 0]])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ({"box": "0,0,132,10"}, ["inside the image", "[0, 0, 132, 10] of 131x97", "slide.tif"]),
        ({"box": "200,0,1,1"}, ["inside the image"]),
        ({"box": Box(x=0, y=0, width=0, height=5)}, ["has pixels"]),
        ({"box": "parts.geojson"}, ["a Box or x,y,width,height"]),
        ({"box": (0, 0, 5, 5)}, ["a Box or x,y,width,height"]),
        ({"level": 2}, ["2 levels, numbered from 0", "level 2"]),
        ({"level": -1}, ["numbered from 0"]),
        ({"level": 0, "pixel_size": 1}, ["Give level or pixel_size, not both"]),
        ({"pixel_size": 0}, ["positive length"]),
        ({"pixel_size": "64"}, ["positive length"]),
        ({"pixel_size": "1x2um"}, ["positive length"]),
        ({"pixel_size": True}, ["positive length"]),
        ({"pixel_size": "1m"}, ["larger than the image", "4,000,000 pixels of 131x97", "Check the unit"]),
        ({"bands": "4"}, ["no such band", "'4'", "red, green, blue"]),
        ({"bands": "nir"}, ["no such band", "'nir'"]),
    ],
    ids=str,
)
def test_what_cannot_be_read(slide: Path, words: dict[str, Any], parts: list[str]) -> None:
    with magnet_cli.open_image(slide) as image, pytest.raises(UsageError) as caught:
        image.read(**words)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_a_pixel_of_more_pixels_than_a_float_can_count_is_refused(slide: Path) -> None:
    tiny = Resolution(x=Fraction(1, 10**400), y=Fraction(1, 10**400), unit="um")
    with magnet_cli.open_image(slide) as image:
        facts = replace(image.info, resolution=tiny)
        with pytest.raises(UsageError, match="over 1,000,000,000,000,000 pixels of 131x97"):
            type(image)._pitch(cast("Any", SimpleNamespace(info=facts)), None, "1m")


def test_a_pixel_size_needs_an_image_that_has_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((9, 9), np.uint8))
    with magnet_cli.open_image(tmp_path / "plain.tif") as image, pytest.raises(SourceError, match="physical size"):
        image.read(pixel_size="1um")
    with pytest.raises(SourceError, match="there is no such file"):
        magnet_cli.open_image(tmp_path / "gone.tif")


def test_one_of_several_images_of_a_file_is_read(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        for name, value, side in (("large", 1, 64), ("small", 2, 48)):
            file.write(np.full((side, side), value, np.uint8), metadata={"axes": "YX", "Name": name})
    for series, value in ((None, 1), (0, 1), (1, 2), ("small", 2)):
        with magnet_cli.open_image(tmp_path / "two.ome.tif", series=series) as image:
            assert image.read("0,0,5,5").pixels.max() == value


def test_a_band_that_is_flagged_as_alpha_is_read_as_a_mask_or_as_a_band(tmp_path: Path) -> None:
    values = np.full((20, 20, 4), 9, np.uint8)
    values[:10, :, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    with magnet_cli.open_image(tmp_path / "a.tif") as image:
        found = image.read()
        assert (found.pixels.shape[2], int(found.valid.sum())) == (3, 200)
    with magnet_cli.open_image(tmp_path / "a.tif", alpha="band") as image:
        found = image.read()
        assert (found.pixels.shape[2], int(found.valid.sum())) == (4, 400)
