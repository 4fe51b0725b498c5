"""A raster of any size can mark the area of an image."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from magnet_cli.areas import raster
from magnet_cli.areas.raster import Raster
from magnet_cli.areas.specification import specify
from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.options.segment import SegmentOptions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

sides = st.integers(1, 40)
sizes = st.builds(lambda width, height: Size(width=width, height=height), sides, sides)


def area_of(values: NDArray[np.bool_], image: Size) -> Raster:
    height, width = values.shape
    return Raster(lambda box: values[box.slices], size=Size(width=width, height=height), image=image)


@given(stored=sizes, image=sizes, seed=st.integers(0, 99), pitch=st.fractions(Fraction(1, 2), 3, max_denominator=5))
def test_the_nearest_pixel_decides(stored: Size, image: Size, seed: int, pitch: Fraction) -> None:
    values = np.random.default_rng(seed).random((stored.height, stored.width)) < 0.2
    area, grid = area_of(values, image), Pitch.square(pitch)
    box = Box.whole(grid.cover(image))
    inside = area.mask(box, grid)
    for row in range(box.height):
        for column in range(box.width):
            across = (column + Fraction(1, 2)) * pitch * stored.width / image.width
            down = (row + Fraction(1, 2)) * pitch * stored.height / image.height
            assert inside[row, column] == values[min(int(down), stored.height - 1), min(int(across), stored.width - 1)]
    assert area.share == values.mean()


@given(stored=sizes, image=sizes, seed=st.integers(0, 99), side=st.integers(1, 9), data=st.data())
def test_nothing_that_is_inside_is_missed(stored: Size, image: Size, seed: int, side: int, data: st.DataObject) -> None:
    values = np.random.default_rng(seed).random((stored.height, stored.width)) < 0.05
    kept, raster.MOST_CELLS = raster.MOST_CELLS, side
    try:
        area = area_of(values, image)
    finally:
        raster.MOST_CELLS = kept
    x, y = data.draw(st.integers(0, image.width - 1)), data.draw(st.integers(0, image.height - 1))
    box = Box(x=x, y=y, width=data.draw(st.integers(1, image.width - x)), height=image.height - y)
    inside = area.mask(Box.whole(image), LEVEL0)[box.slices]
    assert area.touches(box) or not inside.any()
    assert area.touches(Box.whole(image)) == values.any()


def test_a_large_raster_is_read_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((90, 110)) < 0.5
    image = Size(width=55, height=45)
    whole = area_of(values, image).mask(Box.whole(image), LEVEL0)
    monkeypatch.setattr(raster, "STRIP_PIXELS", 400)
    seen: list[int] = []

    def read(box: Box) -> NDArray[np.bool_]:
        seen.append(box.area)
        return values[box.slices]

    area = Raster(read, size=Size(width=110, height=90), image=image)
    assert np.array_equal(area.mask(Box.whole(image), LEVEL0), whole)
    assert max(seen) <= 440


@pytest.mark.parametrize("factor", [2, 3, 7, 64])
@pytest.mark.parametrize("size", [(64, 255), (1000, 40_009), (2, 31), (12_345, 6789)])
def test_a_shrunken_mask_has_the_shape_of_its_image(size: tuple[int, int], factor: int, tmp_path: Path) -> None:
    image = ImageInfo(
        path="slide.tif",
        backend="tiff",
        size=Size(width=size[0], height=size[1]),
        levels=(),
        bands=("grey",),
        dtype="uint8",
    )
    for rounded in (floor, ceil):
        width, height = (max(1, rounded(side / factor)) for side in size)
        Image.fromarray(np.ones((height, width), np.uint8)).save(tmp_path / "mask.png")
        (spec,) = specify(SegmentOptions(mask=tmp_path / "mask.png", tissue="none"), image)
        assert spec.kind == "mask"
    Image.fromarray(np.ones((size[0] // 2 + 9, size[1] // 2 + 9), np.uint8)).save(tmp_path / "turned.png")
    with pytest.raises(SourceError, match="a mask has the shape of its image"):
        specify(SegmentOptions(mask=tmp_path / "turned.png", tissue="none"), image)
