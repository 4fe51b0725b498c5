"""Polygons are exact and valid, one for each connected area, whatever the tiles. Memory does not grow with height."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label as connected

from magnet_cli.exports.polygon import simplified
from magnet_cli.exports.sweep import Sweep
from magnet_cli.geometry import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.exports.polygon import Polygon

FOLDER = Path(gettempdir())
small = st.integers(1, 13)


def sweep_of(labels: NDArray[np.uint8], side: int) -> Sweep:
    size = Size(width=labels.shape[1], height=labels.shape[0])
    return Sweep(lambda box: labels[box.slices], size=size, side=side, folder=FOLDER)


def shape_of(polygon: Polygon) -> Any:
    return shapely.Polygon(polygon.exterior, polygon.holes)


def painted(polygons: list[Polygon], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the labels of the polygons at the pixels' centres, each pixel covered once."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    out = np.full(shape, 255, dtype=np.uint8)
    for polygon in polygons:
        inside = shapely.contains_xy(shape_of(polygon), columns + 0.5, rows + 0.5)
        assert (out[inside] == 255).all()
        out[inside] = polygon.label
    return out


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    shape = draw(small), draw(small)
    values = draw(st.sampled_from([[0, 1], [0, 1, 255], [0, 1, 2, 254]]))
    return draw(arrays(np.uint8, shape, elements=st.sampled_from(values)))


TOUCHING = np.array(
    [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0]], dtype=np.uint8
)
"""A mask whose holes touch each other, and the outside, at corners."""


@given(labels=masks(), side=st.integers(1, 8))
@example(labels=TOUCHING, side=1)
@example(labels=TOUCHING, side=3)
@example(labels=np.full((1, 1), 255, dtype=np.uint8), side=1)
def test_polygons_are_the_connected_areas(labels: NDArray[np.uint8], side: int) -> None:
    polygons = list(sweep_of(labels, side).polygons())
    shapes = [shape_of(polygon) for polygon in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert all(shape.exterior.is_ccw and not any(hole.is_ccw for hole in shape.interiors) for shape in shapes)
    assert [shape.area for shape in shapes] == [polygon.pixels for polygon in polygons]
    assert len(polygons) == connected(labels, background=255, connectivity=1, return_num=True)[1]  # type: ignore[no-untyped-call]
    assert np.array_equal(painted(polygons, labels.shape), labels)


@given(labels=masks(), side=st.integers(1, 8))
def test_tiles_do_not_show_in_the_polygons(labels: NDArray[np.uint8], side: int) -> None:
    whole, tiled = (
        {shape_of(polygon).normalize().wkb for polygon in sweep_of(labels, each).polygons()} for each in (64, side)
    )
    assert whole == tiled


@given(labels=masks(), tolerance=st.sampled_from([0.5, 1, 2, 30]))
def test_simplified_polygons_stay_valid_and_near(labels: NDArray[np.uint8], tolerance: float) -> None:
    for polygon in sweep_of(labels, 4).polygons():
        before, after = shape_of(polygon), shape_of(simplified(polygon, tolerance=tolerance))
        assert after.is_valid
        assert after.exterior.is_ccw
        assert shapely.get_num_coordinates(after) <= shapely.get_num_coordinates(before)
        # GEOS measures from the line without the corner; at the start of a ring, twice.
        assert before.hausdorff_distance(after) <= 2 * tolerance


def test_a_spiral_through_every_tile_is_one_polygon() -> None:
    labels = np.zeros((61, 61), dtype=np.uint8)
    rings = np.minimum.reduce([*np.mgrid[:61, :61], 60 - np.mgrid[:61, :61][0], 60 - np.mgrid[:61, :61][1]])
    labels[rings % 4 < 2] = 1
    for inner in range(2, 30, 4):
        labels[30, inner : inner + 2] = 1
    polygons = list(sweep_of(labels, 7).polygons())
    assert [polygon.pixels for polygon in polygons if polygon.label == 1] == [int((labels == 1).sum())]
    assert all(shape_of(polygon).is_valid for polygon in polygons)


@pytest.mark.parametrize("background", [0, 255])
def test_what_is_held_does_not_grow_with_the_height(background: int) -> None:
    # Rings on a background that, as a class, is one polygon from the first row to the last.
    cell = np.full((16, 16), background, dtype=np.uint8)
    cell[3:13, 3:13] = 1
    cell[6:10, 6:10] = 2
    peaks, ends, components = [], [], []
    for rows in (20, 160):
        labels = np.tile(cell, (rows, 6))
        sweep = sweep_of(labels, 24)
        tracemalloc.start()
        count = 0
        for polygon in sweep.polygons():
            count += 1
            if polygon.label == 0:
                tracemalloc.reset_peak()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        ends.append(sweep.most_ends)
        components.append(sweep.most_components)
        assert count == rows * 6 * 2 + (background == 0)
    assert ends[0] == ends[1]
    assert components[0] == components[1]
    if background == 255:
        assert peaks[1] < 1.2 * peaks[0]
