"""QuPath and GIS programs read the GeoJSON files."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import tifffile
from rasterio.features import rasterize
from rasterio.transform import Affine

from magnet_cli.areas.features import read_labelled_areas
from magnet_cli.geometry import Box
from magnet_cli.images import inspect
from magnet_cli.images.tiff_geo import geo_tags
from tests.exports.support import CLASSES, SIZES, export, make_labels, write_mask

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = [entry.name for entry in CLASSES]


def read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def burnt(found: dict[str, Any], shape: tuple[int, int], **more: Any) -> NDArray[np.uint8]:
    """Return the polygons as rasterio burns them."""
    shapes = [
        (feature["geometry"], NAMES.index(feature["properties"]["classification"]["name"]))
        for feature in found["features"]
    ]
    if not shapes:
        return np.full(shape, 255, dtype=np.uint8)
    burnt: NDArray[np.uint8] = rasterize(shapes, out_shape=shape, fill=255, dtype="uint8", **more)
    return burnt


def corners(path: Path) -> int:
    return sum(len(ring) for feature in read(path)["features"] for ring in feature["geometry"]["coordinates"])


def write_geotiff(path: Path, transform: Affine, crs: str, *, point: bool = False) -> tuple[Any, ...]:
    """Return the tags of a GeoTIFF that rasterio writes."""
    tags = {"AREA_OR_POINT": "Point"} if point else {}
    with rasterio.open(
        path, "w", driver="GTiff", width=90, height=70, count=1, dtype="uint8", crs=crs, transform=transform
    ) as file:
        file.write(np.ones((70, 90), dtype=np.uint8), 1)
        file.update_tags(**tags)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        assert isinstance(page, tifffile.TiffPage)
        return geo_tags(page)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_burning_the_polygons_gives_the_mask(tmp_path: Path, width: int, height: int) -> None:
    labels = make_labels(width, height)
    mask = write_mask(tmp_path / "m.tif", labels, tile=16)
    (made,) = export(mask, "geojson")
    found = read(made.path)
    assert np.array_equal(burnt(found, labels.shape), labels)
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in found["features"]]
    assert all(shape.is_valid and shape.geom_type == "Polygon" for shape in shapes)
    areas = [feature["properties"]["measurements"]["Area px^2"] for feature in found["features"]]
    assert areas == [shape.area for shape in shapes]
    assert sum(areas) == (labels != 255).sum()


def test_features_are_as_qupath_reads_them(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.tif", make_labels(100, 80))
    (made,) = export(mask, "geojson")
    found = read(made.path)
    assert found["type"] == "FeatureCollection"
    assert "crs" not in found
    ids = [feature["id"] for feature in found["features"]]
    assert len({uuid.UUID(each) for each in ids}) == len(ids)
    for feature in found["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        entry = CLASSES[NAMES.index(feature["properties"]["classification"]["name"])]
        assert feature["properties"]["classification"]["color"] == list(entry.rgb)
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            assert all(isinstance(value, int) for point in ring for value in point)
    assert not (tmp_path / "m.crs.geojson").exists()


def test_coordinates_count_from_the_scanned_part_of_a_slide(tmp_path: Path) -> None:
    labels = make_labels(100, 80)
    labels[:, :32] = labels[:17] = 255
    bounds = Box(x=32, y=17, width=60, height=50)
    mask = write_mask(tmp_path / "m.tif", labels, bounds=bounds)
    (made,) = export(mask, "geojson")
    cropped = labels[17:, 32:]
    assert np.array_equal(burnt(read(made.path), cropped.shape), cropped)


def test_small_polygons_are_left_out(tmp_path: Path) -> None:
    labels = make_labels(100, 80)
    mask = write_mask(tmp_path / "m.tif", labels)
    (everything,) = export(mask, "geojson")
    areas = [feature["properties"]["measurements"]["Area px^2"] for feature in read(everything.path)["features"]]
    (large,) = export(mask, "geojson", min_area=36, overwrite=True)
    kept = [feature["properties"]["measurements"]["Area px^2"] for feature in read(large.path)["features"]]
    assert min(areas) < 36 < max(areas)
    assert kept == [area for area in areas if area >= 36]
    before = corners(large.path)
    (simpler,) = export(mask, "geojson", min_area=36, simplify=3, overwrite=True)
    found = read(simpler.path)["features"]
    assert len(found) == len(kept)
    assert corners(simpler.path) < before
    assert all(shapely.geometry.shape(feature["geometry"]).is_valid for feature in found)


@pytest.mark.parametrize(
    ("transform", "crs", "point"),
    [
        (Affine(0.5, 0, 500_000.25, 0, -0.25, 4_600_000.5), "EPSG:32633", False),
        (Affine(0.5, 0, 500_000.25, 0, -0.5, 4_600_000.5), "EPSG:32633", True),
        (Affine(1.6, 1.2, 4e6, 1.2, -1.6, 3e6), "EPSG:3035", False),
        (Affine(1.6, 0.5, 4e6, 0.25, -1.2, 3e6), "EPSG:3035", False),
        (Affine(1e-5, 0, 13.25, 0, -1e-5, 52.5), "EPSG:4326", False),
        (Affine(0.5, 0, 2_510_000, 0, -0.5, -1_820_000), "ESRI:102022", False),
    ],
    ids=["north-up", "point", "rotated", "sheared", "degrees", "no EPSG code"],
)
def test_the_second_file_lies_where_rasterio_puts_the_image(
    tmp_path: Path, transform: Affine, crs: str, *, point: bool
) -> None:
    tags = write_geotiff(tmp_path / "g.tif", transform, crs, point=point)
    labels = make_labels(90, 70)
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None, geo_tags=tags)
    pixels, on_map = export(mask, "geojson")
    assert [made.path.name for made in (pixels, on_map)] == ["m.geojson", "m.crs.geojson"]
    assert np.array_equal(burnt(read(pixels.path), labels.shape), labels)
    found = read(on_map.path)
    with rasterio.open(tmp_path / "g.tif") as file:
        placed, named = file.transform, file.crs
    assert named == rasterio.CRS.from_string(crs)
    urn = f"urn:ogc:def:crs:{crs.replace(':', '::')}"
    assert found.get("crs", {}).get("properties", {}).get("name") == (None if crs == "EPSG:4326" else urn)
    back = ~placed
    for feature, flat in zip(found["features"], read(pixels.path)["features"], strict=True):
        shape, wanted = (shapely.geometry.shape(each["geometry"]) for each in (feature, flat))
        assert shape.is_valid
        assert shape.exterior.is_ccw
        seen = shapely.affinity.affine_transform(shape, [back.a, back.b, back.d, back.e, back.c, back.f])
        assert seen.hausdorff_distance(wanted) < 0.01
        assert feature["properties"]["class"] == flat["properties"]["classification"]["name"]
        assert NAMES[feature["properties"]["label"]] == feature["properties"]["class"]
        assert feature["properties"]["pixels"] == flat["properties"]["measurements"]["Area px^2"]
        if crs != "EPSG:4326":
            assert feature["properties"]["area_m2"] == pytest.approx(shape.area)


def test_polygons_of_a_negative_scale_lie_where_gdal_puts_the_image(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "g.tif", Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000), "EPSG:32633")
    with tifffile.TiffFile(tmp_path / "g.tif", mode="r+") as tiff:
        tiff.pages.first.aspage().tags["ModelPixelScaleTag"].overwrite((0.5, -0.5, 0.0))
    with tifffile.TiffFile(tmp_path / "g.tif") as tiff:
        tags = geo_tags(tiff.pages.first.aspage())
    mask = write_mask(tmp_path / "m.tif", make_labels(90, 70), resolution=None, geo_tags=tags)
    pixels, on_map = export(mask, "geojson")
    with rasterio.open(tmp_path / "g.tif") as file:
        assert file.transform.e == -0.5, "GDAL takes such a file as north-up"
        place = file.transform
    for feature, flat in zip(read(on_map.path)["features"], read(pixels.path)["features"], strict=True):
        shape, wanted = (shapely.geometry.shape(each["geometry"]) for each in (feature, flat))
        placed = shapely.affinity.affine_transform(wanted, [place.a, place.b, place.d, place.e, place.c, place.f])
        assert shape.hausdorff_distance(placed) < 0.005


def test_a_system_without_a_code_gets_no_second_file_and_a_note(tmp_path: Path) -> None:
    crs = "+proj=aea +lat_1=20 +lat_2=30 +lat_0=25 +lon_0=55 +datum=WGS84"
    tags = write_geotiff(tmp_path / "g.tif", Affine(0.5, 0, 9, 0, -0.5, 8), crs, point=False)
    mask = write_mask(tmp_path / "m.tif", make_labels(90, 70), resolution=None, geo_tags=tags)
    (pixels,) = export(mask, "geojson")
    assert not (tmp_path / "m.crs.geojson").exists()
    assert pixels.notes[0].startswith("m.crs.geojson is not written: GeoJSON names a CRS by its code")
    assert pixels.lines()[1:] == list(pixels.notes)
    assert pixels.describe()["notes"] == list(pixels.notes)
    with rasterio.open(mask) as copy, rasterio.open(tmp_path / "g.tif") as image:
        assert copy.crs == image.crs


def test_geopandas_reads_classes_and_crs(tmp_path: Path) -> None:
    tags = write_geotiff(tmp_path / "g.tif", Affine(0.5, 0, 5e5, 0, -0.5, 4.6e6), "EPSG:32633")
    labels = make_labels(90, 70)
    _, on_map = export(write_mask(tmp_path / "m.tif", labels, geo_tags=tags), "geojson")
    table = geopandas.read_file(on_map.path)
    assert table.crs.to_epsg() == 32633
    assert set(table["class"]) == set(NAMES)
    assert table.area.sum() == pytest.approx((labels != 255).sum() / 4)


@pytest.mark.parametrize(
    ("west", "step"),
    [(179, 0.03), (-181.2, 0.03), (100, 1.2), (0, 4.0), (-180, 4.0), (-2, 4.0), (-0.125, 4.0), (-100, 3.2)],
)
def test_polygons_in_longitude_and_latitude_are_cut_at_180_degrees(tmp_path: Path, west: float, step: float) -> None:
    place = Affine(step, 0, west, 0, -0.1, -16)
    tags = write_geotiff(tmp_path / "image.tif", place, "EPSG:4326")
    labels = make_labels(90, 70)
    mask = write_mask(tmp_path / "m.tif", labels, tile=16, geo_tags=tags)
    path = [one.path for one in export(mask, "geojson")][-1]
    found = read(path)
    assert "crs" not in found
    again = np.full(labels.shape, 255, np.uint8)
    for feature in found["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        left, _, right, _ = shape.bounds
        assert shape.is_valid
        assert -180 <= left < right <= 180
        assert shapely.orient_polygons(shape).equals_exact(shape, 0)
        for by in (-360, 0, 360):
            moved = shapely.transform(shape, lambda points, by=by: points + np.array((by, 0)))
            burnt = rasterize([moved], out_shape=labels.shape, transform=place)
            again[burnt > 0] = feature["properties"]["label"]
    np.testing.assert_array_equal(again, labels)
    crosses = west < -180 or west + 90 * step > 180
    kinds = {feature["geometry"]["type"] for feature in found["features"]}
    assert kinds == ({"Polygon", "MultiPolygon"} if crosses else {"Polygon"})
    areas, _ = read_labelled_areas(str(path), inspect(tmp_path / "image.tif"), NAMES)
    drawn = rasterize([(area.geometry, area.label) for area in areas], out_shape=labels.shape, fill=255)
    np.testing.assert_array_equal(drawn, labels)
