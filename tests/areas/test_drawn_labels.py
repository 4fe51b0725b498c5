"""Labels that were drawn as polygons, read like a raster, and what is refused in their files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
import tifffile

from magnet_cli.areas.drawn_labels import DrawnLabels, LabelPolygons
from magnet_cli.areas.features import LabelledArea
from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.labels import open_labels
from tests.areas.drawn import annotation, square, write_drawn
from tests.areas.test_annotations import INFO

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["land", "water", "road"]
WHOLE = Box.whole(INFO.size)


def test_the_later_of_two_polygons_counts_and_boxes_do_not_matter() -> None:
    size = Size(width=60, height=40)
    shapes = [shapely.box(5, 5, 30, 30), shapely.Point(30, 20).buffer(12), shapely.box(-10, 35.6, 70, 37.4)]
    areas = [LabelledArea(label=label, geometry=shapely.MultiPolygon([shape])) for label, shape in enumerate(shapes)]
    expected = np.full((40, 60), 9, np.uint8)
    for y in range(40):
        for x in range(60):
            for label, shape in enumerate(shapes):
                if shape.contains(shapely.Point(x + 0.5, y + 0.5)):
                    expected[y, x] = label
    polygons = LabelPolygons(areas, size)
    for side in (60, 7):
        found = np.full((40, 60), 9, np.uint8)
        for top in range(0, 40, side):
            for left in range(0, 60, side):
                box = Box(x=left, y=top, width=side, height=side).intersection(Box.whole(size))
                part = np.full((box.height, box.width), 9, np.uint8)
                polygons.paint(part, box)
                found[box.slices] = part
        np.testing.assert_array_equal(found, expected)


def test_classes_are_found_by_their_names(tmp_path: Path) -> None:
    path = write_drawn(
        tmp_path / "a.geojson",
        annotation("road", square(10, 20, 30, 40)),
        {"type": "Feature", "geometry": square(20, 20, 40, 40), "properties": {"class": "water", "label": 0}},
        {"type": "Feature", "geometry": square(500, 20, 540, 40), "properties": {"label": 0}},
        annotation("Ignore*", square(0, 0, 100, 100)),
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}},
    )
    drawn = DrawnLabels(path, INFO, NAMES, outside=77)
    expected = np.full((600, 800), 77, np.uint8)
    expected[20:40, 10:30] = 2
    expected[20:40, 20:40] = 1
    expected[20:40, 500:540] = 0
    np.testing.assert_array_equal(drawn.read(WHOLE), expected)
    assert any("1 points and lines are ignored" in note for note in drawn.notes)
    assert any("Ignore*" in note for note in drawn.notes)
    # Another order of the classes gives other labels to the same file.
    assert DrawnLabels(path, INFO, ["water", "road"]).read(WHOLE)[25, 35] == 0


def test_polygons_lie_over_a_raster(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 3, (600, 800), np.uint8)
    tifffile.imwrite(tmp_path / "l.tif", stored, photometric="minisblack")
    path = write_drawn(tmp_path / "a.geojson", annotation("road", square(100, 100, 300, 200)))
    with open_labels(tmp_path / "l.tif") as raster:
        drawn = DrawnLabels(path, INFO, NAMES, below=raster)
        found = drawn.read(WHOLE)
    assert (found[100:200, 100:300] == 2).all()
    stored[100:200, 100:300] = 2
    np.testing.assert_array_equal(found, stored)


def test_pixels_of_a_slide_are_counted_from_its_scanned_part(tmp_path: Path) -> None:
    path = write_drawn(tmp_path / "a.geojson", annotation("road", square(0, 0, 10, 10)))
    info = replace(INFO, bounds=Box(x=50, y=70, width=600, height=500))
    found = DrawnLabels(path, info, NAMES).read(WHOLE)
    assert (found[70:80, 50:60] == 2).all()
    assert (found != 255).sum() == 100


@pytest.mark.parametrize(
    ("feature", "names", "message"),
    [
        (annotation("forest", square(0, 0, 9, 9)), NAMES, r"feature 1 is none of land, water, road.*got forest"),
        ({"type": "Feature", "geometry": square(0, 0, 9, 9), "properties": {}}, NAMES, "no class that is known"),
        ({"type": "Feature", "geometry": square(0, 0, 9, 9), "properties": None}, NAMES, "no class that is known"),
        ({"type": "Feature", "geometry": square(0, 0, 9, 9), "properties": {"label": 3}}, NAMES, "no class"),
        ({"type": "Feature", "geometry": square(0, 0, 9, 9), "properties": {"label": True}}, NAMES, "no class"),
        (annotation("road", square(0, 0, 9, 9)), None, r"no class that is known.*got road"),
        (square(0, 0, 9, 9), NAMES, "no class that is known"),
    ],
)
def test_features_without_a_known_class_are_refused(
    tmp_path: Path, feature: dict[str, Any], names: list[str] | None, message: str
) -> None:
    path = write_drawn(tmp_path / "a.geojson", feature)
    with pytest.raises(SourceError, match=message):
        DrawnLabels(path, INFO, names)


def test_derived_classes_of_qupath_have_the_names_that_it_shows(tmp_path: Path) -> None:
    feature = annotation("", square(0, 0, 10, 10))
    feature["properties"] |= {"classification": {"names": ["Tumor", "Positive"]}, "label": 0}
    path = write_drawn(tmp_path / "a.geojson", feature)
    assert (DrawnLabels(path, INFO, ["Tumor", "Tumor: Positive"]).read(WHOLE)[:10, :10] == 1).all()
    with pytest.raises(SourceError, match=r"feature 1 is none of land, water, road.*got Tumor: Positive"):
        DrawnLabels(path, INFO, NAMES)


def test_a_file_of_another_image_is_refused_by_its_size(tmp_path: Path) -> None:
    path = write_drawn(tmp_path / "a.geojson", annotation("road", square(0, 0, 9, 9)), magnet={"size": [800, 601]})
    with pytest.raises(SourceError, match=r"another size than s\.tif, 800x600"):
        DrawnLabels(path, INFO, NAMES)


def test_a_file_without_polygons_labels_nothing(tmp_path: Path) -> None:
    path = write_drawn(tmp_path / "a.geojson")
    assert (DrawnLabels(path, INFO, NAMES).read(WHOLE) == 255).all()


def test_a_file_whose_polygons_all_lie_outside_the_image_is_refused(tmp_path: Path) -> None:
    outside = annotation("road", square(800, 0, 900, 50))
    path = write_drawn(tmp_path / "a.geojson", outside)
    with pytest.raises(SourceError, match=r"outside the image s\.tif.*x from 800 to 900"):
        DrawnLabels(path, INFO, NAMES)
    write_drawn(path, outside, annotation("road", square(790, 0, 900, 50)))
    assert (DrawnLabels(path, INFO, NAMES).read(WHOLE) == 2).sum() == 500


def test_overlaps_of_different_classes_are_named(tmp_path: Path) -> None:
    first, second = annotation("road", square(10, 10, 30, 30)), annotation("water", square(25, 10, 50, 30))
    path = write_drawn(tmp_path / "a.geojson", first, second, annotation("water", square(40, 10, 60, 30)))
    drawn = DrawnLabels(path, INFO, NAMES)
    assert (drawn.read(WHOLE)[10:30, 25:30] == 1).all()
    assert [note for note in drawn.notes if "overlap" in note] == [
        f"{path}: 2 polygons of different classes overlap, by 100 pixels: the later one in the file counts"
    ]
    write_drawn(
        path, first, annotation("water", square(29.9999, 10, 50, 30)), annotation("road", square(20, 10, 25, 40))
    )
    assert DrawnLabels(path, INFO, NAMES).notes == ()
    mark = {"corrections": 1, "size": [800, 600], "bounds": None}
    assert DrawnLabels(write_drawn(path, first, second, magnet=mark), INFO, NAMES).notes == ()


def test_polygons_that_cross_themselves_are_named(tmp_path: Path) -> None:
    # The middle of a line that runs round twice is a hole by the rule of odd crossings.
    ring = [[10, 10], [50, 10], [50, 50], [10, 50], [10, 20], [40, 20], [40, 60], [10, 60], [10, 10]]
    twice = annotation("road", {"type": "Polygon", "coordinates": [ring]})
    drawn = DrawnLabels(write_drawn(tmp_path / "a.geojson", twice), INFO, NAMES)
    assert any("1 polygons cross themselves and were mended" in note for note in drawn.notes)


def test_polygons_of_another_plane_are_named(tmp_path: Path) -> None:
    planes = [{"c": -1, "z": 0, "t": 0}, {"c": -1, "z": 3, "t": 0}, {"z": 0, "t": 2}]
    features = [annotation("road", {**square(10, 10, 30, 30), "plane": plane}) for plane in planes]
    drawn = DrawnLabels(write_drawn(tmp_path / "a.geojson", *features), INFO, NAMES)
    assert any("2 polygons were drawn on another plane" in note for note in drawn.notes)
    assert DrawnLabels(write_drawn(tmp_path / "a.geojson", features[0]), INFO, NAMES).notes == ()


@pytest.mark.parametrize("whole", [None, "EPSG:4326"])
def test_a_reference_system_inside_of_a_file_is_refused(tmp_path: Path, whole: str | None) -> None:
    inner = {"type": "name", "properties": {"name": "EPSG:32633"}}
    outer = {} if whole is None else {"crs": {"type": "name", "properties": {"name": whole}}}
    path = write_drawn(tmp_path / "a.geojson", annotation("road", {**square(10, 10, 30, 30), "crs": inner}), **outer)
    with pytest.raises(SourceError, match=r"one reference system.*EPSG:32633 of an object inside"):
        DrawnLabels(path, INFO, NAMES)
