"""The synthetic slide has its pixels, and masks of sections are compared on one grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from magnet_cli.images import inspect

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pyvips")
sections = pytest.importorskip("benchmarks.sections")


def test_a_slide_is_a_mirrored_pyramid_with_the_size_of_a_pixel(tmp_path: Path) -> None:
    ramp = np.add.outer(4 * np.arange(40), 2 * np.arange(60)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "section.tif", np.stack([ramp] * 3, axis=-1), photometric="rgb", tile=(32, 32))
    sections.make_slide(tmp_path / "section.tif", tmp_path / "slide.tif", 1100)
    info = inspect(tmp_path / "slide.tif")
    assert (info.size.width, info.size.height) == (1100, 1100)
    assert info.resolution is not None
    assert info.resolution.x == pytest.approx(0.2495, rel=1e-3)
    pixels = tifffile.imread(tmp_path / "slide.tif").astype(int)
    with tifffile.TiffFile(tmp_path / "slide.tif") as file:
        assert len(file.pages) > 1
    # Each copy is the mirror image of its neighbour; JPEG moves values by a few.
    assert np.abs(pixels[:, :120] - pixels[:, 239:119:-1]).mean() < 3
    assert np.abs(pixels[:80] - pixels[159:79:-1]).mean() < 3
    assert np.abs(pixels[20:60, 20:100, 0] - np.kron(ramp, np.ones((2, 2)))[20:60, 20:100]).mean() < 4


def test_raw_bands_become_labels_and_pixels_that_were_not_computed_do_not_count() -> None:
    bands = np.array([[[255, 255, 0], [0, 255, 0], [0, 0, 255], [255, 0, 0]]], np.uint8)
    labels = sections.labels_of_raw(bands)
    assert labels.tolist() == [[0, 1, 2, 0]]
    said = sections.agreement(np.array([[0, 2, 2, 255]], np.uint8), labels)
    assert said.startswith("66.67% of 3 pixels are equal")
    assert "lumen 1.000, epithelium 0.000, rest 0.500" in said


def test_a_grid_takes_the_middle_of_each_square(tmp_path: Path) -> None:
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", pixels, tile=(16, 16))
    assert np.array_equal(sections.grid(tmp_path / "mask.tif", 8)[..., 0], pixels[4::8, 4::8])
