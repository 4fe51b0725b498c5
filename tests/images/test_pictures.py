"""PNG, JPEG and WebP files: their orientation, alpha and density, and files that are damaged."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import Region, Request, inspect, open_image

if TYPE_CHECKING:
    from pathlib import Path


def picture(mode: str = "RGB", width: int = 70, height: int = 50) -> PillowImage.Image:
    bands = len(PillowImage.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, bands)).astype(np.uint8)
    return PillowImage.fromarray(values[:, :, 0] if bands == 1 else values, mode=None)


def read(path: Path, box: Box | None = None) -> Region:
    with open_image(path) as image:
        return image.read([Request(pitch=LEVEL0, box=box or Box.whole(image.info.size))])[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_turned_back_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "turned.jpg"
    exif = PillowImage.Exif()
    exif[274] = orientation
    picture().save(path, exif=exif, quality=95)
    with PillowImage.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    region = read(path)
    assert region.pixels.shape == expected.shape
    assert abs(region.pixels - expected).mean() < 2
    box = Box(x=5, y=9, width=20, height=13)
    np.testing.assert_array_equal(read(path, box).pixels, region.pixels[box.slices])


def test_alpha_is_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "alpha.png"
    values = np.array(picture("RGBA"))
    values[:, :30, 3] = 0
    PillowImage.fromarray(values).save(path)
    region = read(path)
    assert inspect(path).bands == ("red", "green", "blue")
    assert region.valid is not None
    np.testing.assert_array_equal(region.valid, values[:, :, 3] > 0)
    np.testing.assert_array_equal(region.pixels[region.valid], values[region.valid][:, :3])


@pytest.mark.parametrize(("dpi", "expected"), [(25400, Fraction(1)), (50800, Fraction(1, 2)), (72, None), (300, None)])
def test_only_a_microscopes_density_counts(tmp_path: Path, dpi: int, expected: Fraction | None) -> None:
    path = tmp_path / "image.png"
    picture().save(path, dpi=(dpi, dpi))
    info = inspect(path)
    if expected is None:
        assert info.resolution is None
        assert any("default" in note for note in info.notes)
    else:
        assert info.resolution is not None
        assert float(info.resolution.x) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.webp"])
def test_a_truncated_picture_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    picture(width=300, height=300).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=str(path)):
        read(path)


def test_libvips_prints_nothing_of_its_own(tmp_path: Path) -> None:
    """pyvips prints warnings by Python code, and a second one ends the process. At exit libvips prints by itself."""
    path = tmp_path / "image.jpg"
    picture(width=300, height=300).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code = f"""
from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import Request, open_image
with open_image({str(path)!r}) as image:
    try:
        image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size))])
    except SourceError:
        print("refused")
import pyvips
assert pyvips._log_handler_id is None
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "image[page=1].png"
    picture().save(path)
    assert read(path).pixels.shape == (50, 70, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a.czi"])
def test_a_format_that_is_not_read_is_no_broken_image(tmp_path: Path, name: str) -> None:
    advice = "Export as OME-TIFF"
    if name.endswith(".czi"):
        (tmp_path / name).write_bytes(b"ZISRAWFILE" + bytes(200))
    else:
        picture("L").save(tmp_path / name)
        advice = "Save the picture as PNG or TIFF"
    with pytest.raises(SourceError, match=f"this format is not read. {advice}"):
        inspect(tmp_path / name)


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda grey: imagecodecs.jpeg_encode(grey, bitspersample=12), "JPEG of 12 bits a sample"),
        (imagecodecs.ljpeg_encode, "lossless JPEG of 16 bits a sample"),
        (imagecodecs.jpegls_encode, "JPEG-LS"),
    ],
)
def test_kinds_of_jpeg_that_are_not_read_are_named_when_they_are_opened(tmp_path: Path, write: Any, kind: str) -> None:
    grey = (np.arange(60 * 70).reshape(60, 70) % 4000).astype(np.uint16)
    (tmp_path / "a.jpg").write_bytes(write(grey))
    with pytest.raises(SourceError, match=rf"8 bits a sample are read.*got {kind}.*Save it as TIFF or PNG"):
        inspect(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("write", "shape"),
    [
        (imagecodecs.ljpeg_encode, (60, 70)),
        (lambda array: imagecodecs.jpeg_encode(array, lossless=True), (60, 70)),
        (lambda array: imagecodecs.jpeg_encode(array, lossless=True), (60, 70, 3)),
    ],
)
def test_lossless_jpeg_of_eight_bits_has_the_stored_values(tmp_path: Path, write: Any, shape: tuple[int, ...]) -> None:
    stored = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "a.jpg").write_bytes(write(stored))
    np.testing.assert_array_equal(read(tmp_path / "a.jpg").pixels, stored.reshape(60, 70, -1))


@pytest.mark.parametrize("name", ["a.webp", "a.gif.png"])
def test_an_animation_says_that_its_first_picture_is_read(tmp_path: Path, name: str) -> None:
    first = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    pictures = [PillowImage.fromarray(array) for array in (first, 255 - first)]
    how: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], **how)
    np.testing.assert_array_equal(read(tmp_path / name).pixels, first)
    noted = any("animation of 2 pictures" in note for note in inspect(tmp_path / name).notes)
    # libvips knows no animations of PNG, whose first picture is the whole of it for other programs too.
    assert noted == (name == "a.webp")
