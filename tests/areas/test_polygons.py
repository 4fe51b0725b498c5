"""Polygons in pixels cover what shapely covers, whatever boxes the image is cut into."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import rasterio.features
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from magnet_cli.areas.polygons import Polygons
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size

SIZE = Size(width=60, height=47)
corners = st.tuples(st.floats(-10, 70, width=32), st.floats(-10, 60, width=32))
rings = st.lists(corners, min_size=3, max_size=9, unique=True)
pitches = st.builds(
    lambda x, y: Pitch(x=x, y=y), *[st.fractions(Fraction(1, 3), 5, max_denominator=7) for _ in range(2)]
)


def union(found: list[list[tuple[float, float]]]) -> shapely.Geometry:
    """Draw polygons that cross themselves, as a person may draw them, and have holes there."""
    geometry = shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in found])
    parts = [part for part in shapely.get_parts(shapely.get_parts(geometry)) if part.geom_type == "Polygon"]
    assume(parts)
    return shapely.MultiPolygon(parts)


def centres(box: Box, pitch: Pitch) -> tuple[np.ndarray, np.ndarray]:
    columns = (np.arange(box.x, box.right) + 0.5) * float(pitch.x)
    rows = (np.arange(box.y, box.bottom) + 0.5) * float(pitch.y)
    x, y = np.meshgrid(columns, rows)
    return x, y


@given(found=st.lists(rings, min_size=1, max_size=3), pitch=pitches)
def test_a_pixel_is_inside_where_its_centre_is(found: list[list[tuple[float, float]]], pitch: Pitch) -> None:
    geometry = union(found)
    box = Box.whole(pitch.cover(SIZE))
    x, y = centres(box, pitch)
    inside = Polygons(geometry, SIZE).mask(box, pitch)
    wrong = inside != shapely.contains_xy(geometry, x, y)
    # Only a centre on an edge, to the last bit, may be told either way.
    for point in zip(x[wrong], y[wrong], strict=True):
        assert shapely.distance(shapely.boundary(geometry), shapely.Point(point)) < 1e-9


@given(found=st.lists(rings, min_size=1, max_size=3), data=st.data(), pitch=pitches)
def test_a_box_is_a_part_of_the_whole(
    found: list[list[tuple[float, float]]], data: st.DataObject, pitch: Pitch
) -> None:
    area = Polygons(union(found), SIZE)
    size = pitch.cover(SIZE)
    x, y = data.draw(st.integers(0, size.width - 1)), data.draw(st.integers(0, size.height - 1))
    box = Box(x=x, y=y, width=data.draw(st.integers(1, size.width - x)), height=size.height - y)
    part = area.mask(box, pitch)
    assert np.array_equal(part, area.mask(Box.whole(size), pitch)[box.slices])
    if part.any():
        assert area.touches(pitch.level0(box))


def test_corners_on_pixel_borders_leave_no_doubt() -> None:
    geometry = shapely.Polygon([(3, 2), (40, 2), (40, 30), (3, 30)], [[(10, 10), (20, 10), (20, 25), (10, 25)]])
    area = Polygons(geometry, SIZE)
    expected = np.zeros((SIZE.height, SIZE.width), bool)
    expected[2:30, 3:40] = True
    expected[10:25, 10:20] = False
    assert np.array_equal(area.mask(Box.whole(SIZE), LEVEL0), expected)
    assert area.share == expected.mean()
    assert not area.touches(Box(x=12, y=12, width=6, height=6))
    assert not area.touches(Box(x=42, y=0, width=9, height=9))
    assert area.touches(Box(x=39, y=29, width=9, height=9))


def test_the_same_pixels_as_a_geographic_library() -> None:
    circle = shapely.Point(31.3, 22.7).buffer(17.9)
    hole = shapely.Point(28.2, 20.1).buffer(6.3)
    geometry = shapely.difference(circle, hole)
    expected = rasterio.features.rasterize([geometry], out_shape=(SIZE.height, SIZE.width)).astype(bool)
    assert np.array_equal(Polygons(geometry, SIZE).mask(Box.whole(SIZE), LEVEL0), expected)
