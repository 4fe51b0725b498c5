"""A small image whose pixel values tell their place, and masks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from magnet_cli.geometry import Size
from magnet_cli.images import fingerprint
from tests.exports.support import write_mask
from tests.report.viewer.support import place_values

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = Size(width=1283, height=1031)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an image of 1283 x 1031 pixels with overviews; its UTM zone and pixels of 0.5 m are stated."""
    path = tmp_path_factory.mktemp("view") / "an image.tif"
    pixels = place_values(SIZE)
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 400000.0, 5000000.0, 0.0), True),
        (34735, 3, len(keys), keys, True),
    ]
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, photometric="rgb", tile=(256, 256), subifds=1, extratags=tags)
        writer.write(np.ascontiguousarray(pixels[:1030:2, :1282:2]), photometric="rgb", tile=(256, 256), subfiletype=1)
    return path


@pytest.fixture(scope="module")
def labels() -> NDArray[np.uint8]:
    """Return labels that change at odd places: 1 in a rectangle, 255 in a corner, else 0."""
    found = np.zeros((SIZE.height, SIZE.width), np.uint8)
    found[301:702, 511:907] = 1
    found[1000:, 1200:] = 255
    return found


@pytest.fixture(scope="module")
def mask(image: Path, labels: NDArray[np.uint8]) -> Path:
    """Write the labels as a mask of this program, beside the image."""
    return write_mask(image.with_name("mask.tif"), labels, resolution=None, made_of=fingerprint(image))


@pytest.fixture(scope="module")
def truth(image: Path, labels: NDArray[np.uint8]) -> Path:
    """Write the truth as a raster of another program: the rectangle is 20 pixels farther to the right."""
    moved = np.where(labels == 255, 0, labels)
    moved = np.roll(moved, 20, axis=1)
    moved[:50] = 255
    path = image.with_name("truth.tif")
    tifffile.imwrite(path, moved, photometric="minisblack", tile=(128, 128))
    return path
