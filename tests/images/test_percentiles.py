"""Percentiles are taken from a sample of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import Level, open_image, percentiles, sample_percentiles
from magnet_cli.images.percentiles import MOST_PIXELS, PLACE_SIDE, PLACES, places, sampled_level

if TYPE_CHECKING:
    from pathlib import Path


def level(width: int, height: int, step: int = 1) -> Level:
    return Level(size=Size(width=width, height=height), downsample=Pitch.square(step))


def test_the_coarsest_level_of_enough_pixels_is_sampled() -> None:
    pyramid = [level(4096 >> n, 4096 >> n, 1 << n) for n in range(6)]
    assert sampled_level(pyramid).size == Size(width=512, height=512)
    assert sampled_level(pyramid[4:]).size == Size(width=256, height=256)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), bands=st.sampled_from([1, 3, 224]))
def test_places_lie_inside_apart_and_are_few(width: int, height: int, bands: int) -> None:
    size = Size(width=width, height=height)
    boxes = list(places(size, bands=bands))
    assert all(Box.whole(size).contains(box) and box.area for box in boxes)
    total = sum(box.area for box in boxes)
    if size.pixels <= MOST_PIXELS:
        assert total == size.pixels
        assert all(box.area * bands <= max(percentiles.STRIP_VALUES, width * bands) for box in boxes)
    else:
        assert total <= (PLACES * PLACE_SIDE) ** 2
        assert min(box.y for box in boxes) < height / 2 < max(box.bottom for box in boxes)
    if len(boxes) <= 64:
        assert not any(a.intersection(b).area for a in boxes for b in boxes if a is not b)


def test_percentiles_of_a_whole_small_image(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (90, 130, 4)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig", tile=(32, 32))
    with open_image(tmp_path / "x.tif") as image:
        found = sample_percentiles(image, (3, 1), (2, 98))
    assert found == tuple(tuple(np.percentile(values[:, :, band], (2, 98)).tolist()) for band in (3, 1))


def test_a_large_image_is_sampled_in_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 1, 400 * 300, dtype=np.float32).reshape(400, 300)
    ramp[:, :7] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", ramp, tile=(32, 32))
    monkeypatch.setattr(percentiles, "MOST_PIXELS", 10_000)
    monkeypatch.setattr(percentiles, "PLACE_SIDE", 8)
    read: list[int] = []
    with open_image(tmp_path / "x.tif") as image:
        original = image.read

        def counted(requests: Any) -> Any:
            read.append(sum(request.box.area for request in requests))
            return original(requests)

        monkeypatch.setattr(image, "read", counted)
        low, high = sample_percentiles(image, (0,), (10, 90))[0]
    assert sum(read) == 64 * 64
    assert (low, high) == pytest.approx((0.1, 0.9), abs=0.05)


def test_an_overview_is_sampled_where_there_is_one(tmp_path: Path) -> None:
    """The overview has other values than level 0, so that the result shows which of them was read."""
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.full((1200, 1200), 7, np.uint8), tile=(256, 256), subifds=1)
        small = np.full((600, 600), 50, np.uint8)
        small[300:] = 90
        file.write(small, tile=(256, 256), subfiletype=1)
    with open_image(tmp_path / "x.tif") as image:
        assert image.info.levels[0].downsample == LEVEL0
        assert sample_percentiles(image, (0,), (2, 98)) == ((50.0, 90.0),)
