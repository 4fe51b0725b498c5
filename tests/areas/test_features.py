"""Polygons of GeoJSON on georeferenced images have the right coordinates, and cover the right pixels."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
import tifffile

from magnet_cli.areas import features, specify
from magnet_cli.areas.features import read_geojson
from magnet_cli.areas.polygons import Polygons
from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images import inspect
from magnet_cli.options.segment import SegmentOptions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images import ImageInfo

HEIGHT, WIDTH = 120, 160
STEP = 1e-5
PLACES = {
    "degrees": ("EPSG:4326", rasterio.Affine(STEP, 0, 12.3, 0, -STEP, 41.9)),
    "utm": ("EPSG:32633", rasterio.Affine(0.5, 0, 300_000, 0, -0.5, 4_640_000)),
    "south up": ("EPSG:32633", rasterio.Affine(0.5, 0, 300_000, 0, 0.5, 4_640_000)),
    "rotated": ("EPSG:32633", rasterio.Affine(0.4, 0.2, 300_000, 0.2, -0.4, 4_640_000)),
    "africa": ("ESRI:102022", rasterio.Affine(0.5, 0, 2_510_000, 0, -0.5, -1_820_000)),
    "own": ("+proj=aea +lat_1=20 +lat_2=30 +lat_0=25 +lon_0=55 +datum=WGS84", rasterio.Affine(2, 0, 9, 0, -2, 8)),
}
NEGATIVE = "negative scale"
"""The tags of "utm" with a negative ScaleY in the file. GDAL takes such a file as north-up."""
CORNERS = np.array([(20.31, 30.17), (90.42, 25.73), (100.19, 80.61), (30.87, 70.23)])
"""Corners of the polygon, in pixels."""


@pytest.fixture(params=[*PLACES, NEGATIVE])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    crs, transform = PLACES["utm" if request.param == NEGATIVE else request.param]
    facts = {"height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8", "crs": crs, "transform": transform}
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", photometric="rgb", **facts) as file:
        file.write(np.ones((3, HEIGHT, WIDTH), np.uint8))
    if request.param == NEGATIVE:
        with tifffile.TiffFile(tmp_path / "s.tif", mode="r+") as tiff:
            tiff.pages.first.aspage().tags["ModelPixelScaleTag"].overwrite((0.5, -0.5, 0.0))
    return tmp_path / "s.tif"


def on_map(path: Path) -> geopandas.GeoSeries:
    with rasterio.open(path) as file:
        points = [file.transform @ tuple(corner) for corner in CORNERS]
        return geopandas.GeoSeries([shapely.Polygon(points)], crs=file.crs.to_wkt())


def plain(path: Path, geometry: Any, **members: Any) -> Path:
    feature = {
        "type": "Feature",
        "properties": members.pop("properties", {}),
        "geometry": shapely.geometry.mapping(geometry),
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature], **members}))
    return path


def covered(roi: Path, image_path: Path) -> NDArray[np.bool_]:
    info = inspect(image_path)
    geometry, _ = read_geojson(str(roi), info)
    specify(SegmentOptions(roi=roi), info)
    return Polygons(geometry, info.size).mask(Box.whole(info.size), LEVEL0)


def inside_of(polygon: shapely.Geometry) -> NDArray[np.bool_]:
    """Return the pixels of the image whose centres lie in a polygon in pixels."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.asarray(shapely.contains_xy(polygon, x, y), bool)


def wanted(path: Path, geometry: geopandas.GeoSeries) -> NDArray[np.bool_]:
    """Return the pixels in a polygon that GeoPandas has turned into the image's system."""
    with rasterio.open(path) as file:
        turned = geometry.to_crs(file.crs.to_wkt())[0]
        inverse = ~file.transform
    return inside_of(shapely.transform(turned, lambda xy: np.array([inverse @ tuple(point) for point in xy])))


def close(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Return whether two masks are one, but for centres on an edge that rounding puts on either side."""
    return bool((one != other).sum() <= 3 and one.sum() > 2500)


@pytest.mark.parametrize("system", ["own", "EPSG:4326", "EPSG:3857", "EPSG:3035", "ESRI:54009"])
def test_polygons_of_any_system(image: Path, system: str, tmp_path: Path) -> None:
    geometry = on_map(image)
    if system != "own":
        geometry = geometry.to_crs(system)
    if system == "own" and geometry.crs.to_epsg() is None:
        roi = plain(tmp_path / "a.geojson", geometry[0], crs={"properties": {"name": geometry.crs.to_wkt()}})
    else:
        geometry.to_file(tmp_path / "a.geojson", driver="GeoJSON")
        roi = tmp_path / "a.geojson"
    assert close(covered(roi, image), wanted(image, on_map(image)))


def test_edges_that_get_too_few_corners_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = rasterio.Affine(700, 0, 500_000 - 350 * WIDTH, 0, -700, 6_670_000 + 350 * HEIGHT)
    facts = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8", "crs": "EPSG:32633", "transform": placed}
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", **facts) as file:
        file.write(np.ones((1, HEIGHT, WIDTH), np.uint8))
    roi = plain(tmp_path / "roi.geojson", shapely.box(14.6, 60.05, 15.6, 60.2))
    assert "beside the curves" not in " ".join(read_geojson(str(roi), inspect(tmp_path / "s.tif"))[1])
    monkeypatch.setattr(features, "MOST_ADDED", 3)
    _, notes = read_geojson(str(roi), inspect(tmp_path / "s.tif"))
    assert "pixels beside the curves that they are on the image, because at most 3 corners are added" in notes[-1]


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3413", "EPSG:3857"])
def test_edges_are_straight_in_the_system_of_the_file(crs: str, tmp_path: Path) -> None:
    """The longitude and latitude of each pixel's centre say whether it lies in the box, whose edges are curves here."""
    x, y = (found[0] for found in rasterio.warp.transform("EPSG:4326", crs, [15.5], [60.2]))
    placed = rasterio.Affine(700, 0, x - 700 * WIDTH / 2, 0, -700, y + 700 * HEIGHT / 2)
    facts = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8", "crs": crs, "transform": placed}
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", **facts) as file:
        file.write(np.ones((1, HEIGHT, WIDTH), np.uint8))
    hole = shapely.box(15.4, 60.1, 15.9, 60.3)
    box = shapely.box(14.91, 60.01, 16.83, 60.37).difference(hole)
    far = shapely.box(-60, 10, -50, 20)
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    places = rasterio.warp.transform(crs, "EPSG:4326", *(placed @ (columns.ravel(), rows.ravel())))
    inside = shapely.contains_xy(box, *map(np.asarray, places)).reshape(HEIGHT, WIDTH)
    found = covered(plain(tmp_path / "roi.geojson", shapely.MultiPolygon([far, box])), tmp_path / "s.tif")
    assert inside.sum() > 1000
    assert np.count_nonzero(found != inside) < 0.002 * inside.sum()


def test_longitude_and_latitude_without_a_name(image: Path, tmp_path: Path) -> None:
    """geojson.io writes files like this, in the coordinates of RFC 7946."""
    roi = plain(tmp_path / "a.geojson", on_map(image).to_crs("EPSG:4326")[0])
    assert close(covered(roi, image), wanted(image, on_map(image)))
    _, notes = read_geojson(str(roi), inspect(image))
    assert "longitude and latitude" in notes[0]


@pytest.mark.parametrize("properties", [{}, {"objectType": "annotation"}])
def test_pixels_without_a_name(image: Path, properties: dict[str, str], tmp_path: Path) -> None:
    roi = plain(tmp_path / "a.geojson", shapely.Polygon(CORNERS), properties=properties)
    assert close(covered(roi, image), inside_of(shapely.Polygon(CORNERS)))


def test_what_qupath_wrote_is_pixels_wherever_it_lies(tmp_path: Path) -> None:
    facts = {"height": 180, "width": 360, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", transform=rasterio.Affine(1, 0, -180, 0, -1, 90), **facts
    ) as file:
        file.write(np.ones((1, 180, 360), np.uint8))
    square = shapely.box(10, 20, 30, 40)
    for properties, rows, columns in (({"objectType": "annotation"}, (20, 40), (10, 30)), ({}, (50, 70), (190, 210))):
        inside = covered(plain(tmp_path / "a.geojson", square, properties=properties), tmp_path / "s.tif")
        expected = np.zeros((180, 360), bool)
        expected[slice(*rows), slice(*columns)] = True
        assert np.array_equal(inside, expected)


def test_images_across_the_meridian_of_180_degrees(tmp_path: Path) -> None:
    facts = {"height": 100, "width": 200, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", transform=rasterio.Affine(0.01, 0, 179, 0, -0.01, -16), **facts
    ) as file:
        file.write(np.ones((1, 100, 200), np.uint8))
    halves = shapely.MultiPolygon([shapely.box(179.5, -16.5, 180, -16.2), shapely.box(-180, -16.5, -179.6, -16.2)])
    inside = covered(plain(tmp_path / "a.geojson", halves), tmp_path / "s.tif")
    expected = np.zeros((100, 200), bool)
    expected[20:50, 50:140] = True
    assert np.array_equal(inside, expected)
    # Polygons that were exported from a mask of the image go on counting, as its pixels do.
    counted_on = shapely.MultiPolygon(
        [shapely.box(179.5, -16.5, 180.2, -16.2), shapely.box(180.2, -16.5, 180.4, -16.2)]
    )
    assert np.array_equal(covered(plain(tmp_path / "b.geojson", counted_on), tmp_path / "s.tif"), expected)


def across(path: Path, crs: str, place: rasterio.Affine, *, height: int = 100, width: int = 200) -> Path:
    facts = {"height": height, "width": width, "count": 1, "dtype": "uint8", "crs": crs, "transform": place}
    with rasterio.open(path, "w", driver="GTiff", **facts) as file:
        file.write(np.ones((1, height, width), np.uint8))
    return path


def drawn(
    shape: shapely.Geometry, crs: str, place: rasterio.Affine, out_shape: tuple[int, int], step: float
) -> NDArray[np.bool_]:
    """Return the pixels in which GDAL draws a polygon in longitude and latitude, in each turn around the earth."""
    found = np.zeros(out_shape, bool)
    for part in shapely.get_parts(shape):
        for by in (0,) if crs != "EPSG:4326" else (-360, 0, 360):
            moved = shapely.transform(part, lambda points, by=by: points + np.array((by, 0)))
            series = geopandas.GeoSeries([shapely.segmentize(moved, step)], crs="EPSG:4326").to_crs(crs)
            found |= rasterio.features.rasterize(series, out_shape=out_shape, transform=place) > 0
    return found


HALVES = shapely.MultiPolygon([shapely.box(179.7, -16.6, 180, -16.2), shapely.box(-180, -16.6, -179.6, -16.2)])
COUNTED_ON = shapely.box(179.7, -16.6, 180.4, -16.2)
COUNTED_BACK = shapely.box(-180.3, -16.6, -179.6, -16.2)
ACROSS = {
    "degrees": ("EPSG:4326", rasterio.Affine(0.01, 0, 179, 0, -0.01, -16)),
    "degrees from the west": ("EPSG:4326", rasterio.Affine(0.01, 0, -181, 0, -0.01, -16)),
    "world": ("EPSG:4326", rasterio.Affine(0.1, 0, -180, 0, -0.1, -12)),
    "from 0 to 360": ("EPSG:4326", rasterio.Affine(0.1, 0, 0, 0, -0.1, -12)),
    "utm": ("EPSG:32760", rasterio.Affine(1000, 0, 750_000, 0, -1000, 8_220_000)),
    "pacific": ("EPSG:3832", rasterio.Affine(1000, 0, 3_230_000, 0, -1000, -1_760_000)),
    "mercator": ("EPSG:3857", rasterio.Affine(11_131.949, 0, -20_037_508.3, 0, -5000, -1_700_000)),
}
WORLDS = ("world", "from 0 to 360", "mercator")


@pytest.mark.parametrize("shape", [HALVES, COUNTED_ON, COUNTED_BACK], ids=["halves", "counted on", "counted back"])
@pytest.mark.parametrize("name", ACROSS)
@pytest.mark.parametrize("named", [True, False])
def test_polygons_across_the_meridian_of_180_degrees_lie_where_gdal_puts_their_halves(
    tmp_path: Path, name: str, shape: shapely.Geometry, *, named: bool
) -> None:
    crs, place = ACROSS[name]
    width = 3600 if name in WORLDS else 200
    path = across(tmp_path / "s.tif", crs, place, width=width)
    if not named and (
        (shape is not HALVES and name in ("world", "mercator")) or (shape is COUNTED_BACK and name in WORLDS)
    ):
        pytest.skip("without a system such numbers are pixels on an image that the meridian does not part in two")
    members = {"crs": {"type": "name", "properties": {"name": "EPSG:4326"}}} if named else {}
    inside = covered(plain(tmp_path / "a.geojson", shape, **members), path)
    expected = drawn(HALVES, crs, place, (100, width), step=0.001)
    # At the ends of a turn PROJ may put one half of the meridian of 180 degrees on either side.
    assert np.count_nonzero(inside != expected) <= (0 if crs == "EPSG:4326" else 2)
    assert expected.any()


JUMP = shapely.box(-179.6, -16.6, 179.7, -16.2)
"""The corners of the halves, as programs write them that do not cut polygons."""


NAMED = {"crs": {"type": "name", "properties": {"name": "EPSG:4326"}}}


@pytest.mark.parametrize("members", [{}, NAMED], ids=["no crs", "crs"])
@pytest.mark.parametrize("name", ["degrees", "degrees from the west", "utm", "pacific"])
def test_an_edge_around_the_earth_is_refused_on_an_image_across_the_meridian(
    tmp_path: Path, name: str, members: dict[str, Any]
) -> None:
    path = across(tmp_path / "s.tif", *ACROSS[name])
    with pytest.raises(SourceError, match=r"over more than 180 degrees of longitude.*got 359\.3.*-wrapdateline"):
        read_geojson(str(plain(tmp_path / "a.geojson", JUMP, **members)), inspect(path))
    # Where it lies, however it is read, is not on the image.
    elsewhere = shapely.transform(JUMP, lambda points: points + np.array((0, 40)))
    info = inspect(path)
    geometry, _ = read_geojson(str(plain(tmp_path / "b.geojson", elsewhere, **NAMED)), info)
    assert not Polygons(geometry, info.size).mask(Box.whole(info.size), LEVEL0).any()


@pytest.mark.parametrize("members", [{}, NAMED], ids=["no crs", "crs"])
@pytest.mark.parametrize("name", WORLDS)
def test_an_edge_around_the_earth_is_what_it_says_on_a_map_of_the_world(
    tmp_path: Path, name: str, members: dict[str, Any]
) -> None:
    crs, place = ACROSS[name]
    path = across(tmp_path / "s.tif", crs, place, width=3600)
    inside = covered(plain(tmp_path / "a.geojson", JUMP, **members), path)
    expected = drawn(JUMP, crs, place, inside.shape, step=1)
    assert expected.any()
    assert np.array_equal(inside, expected)


MERCATOR_EDGE = 20037508.343
FAR = {
    "degrees": ("EPSG:4326", rasterio.Affine(0.02, 0, 178, 0, -0.02, 54), 200, 200),
    "utm": ("EPSG:32660", rasterio.Affine(1000, 0, 650_000, 0, -1000, 5_500_000), 300, 200),
    "antarctic": ("EPSG:3031", rasterio.Affine(25_000, 0, -3_300_000, 0, -25_000, 3_300_000), 264, 264),
    "arctic": ("EPSG:3413", rasterio.Affine(25_000, 0, -3_300_000, 0, -25_000, 3_300_000), 264, 264),
    "from 0 to 360": ("EPSG:4326", rasterio.Affine(1, 0, 0, 0, -1, 90), 360, 180),
    "grid": ("EPSG:4326", rasterio.Affine(1, 0, -180.5, 0, -1, 90.5), 361, 181),
    "rounded step": ("EPSG:4326", rasterio.Affine(0.166667, 0, -180, 0, -0.166667, 90), 2160, 1080),
    "mercator": (
        "EPSG:3857",
        rasterio.Affine(MERCATOR_EDGE / 180, 0, -MERCATOR_EDGE, 0, -MERCATOR_EDGE / 180, MERCATOR_EDGE),
        360,
        360,
    ),
}
"""Images over many degrees, or across 180 degrees: reference system, geotransform, width and height."""


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("degrees", (100, 20, 199, 80)),
        ("degrees", (10, 10, 195, 80)),
        ("utm", (120, 20, 250, 80)),
        ("utm", (10, 10, 250, 80)),
        ("utm", (10, 10, 181, 80)),
        ("utm", (120, 20, 181, 80)),
        ("utm", (-5, 10, 178, 80)),
        ("antarctic", (10, 10, 250, 80)),
        ("antarctic", (10, 10, 220, 80)),
    ],
)
def test_pixels_on_an_image_across_the_meridian_of_180_degrees_stay_pixels(
    tmp_path: Path, name: str, box: tuple[int, int, int, int]
) -> None:
    crs, place, width, height = FAR[name]
    path = across(tmp_path / "s.tif", crs, place, width=width, height=height)
    expected = np.zeros((height, width), bool)
    expected[box[1] : box[3], max(0, box[0]) : box[2]] = True
    assert np.array_equal(covered(plain(tmp_path / "a.geojson", shapely.box(*box)), path), expected)


@pytest.mark.parametrize("members", [{}, NAMED], ids=["no crs", "crs"])
@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("antarctic", (-180, -90, 180, -60)),
        ("arctic", (-180, 60, 180, 90)),
        ("from 0 to 360", (0, -60, 360, 60)),
        ("from 0 to 360", (10, -60, 350, 60)),
        ("from 0 to 360", (-180, -60, 180, 60)),
        ("grid", (-120.2, -60.2, 99.8, 59.8)),
        ("rounded step", (-120, -60, 100, 60)),
        ("mercator", (-120, -60, 100, 60)),
        ("degrees", (-180, -90, 180, 90)),
        ("degrees", (-180, 0, 180, 90)),
    ],
)
def test_regions_with_edges_around_the_earth_lie_where_gdal_puts_them(
    tmp_path: Path, name: str, box: tuple[float, float, float, float], members: dict[str, Any]
) -> None:
    crs, place, width, height = FAR[name]
    path = across(tmp_path / "s.tif", crs, place, width=width, height=height)
    inside = covered(plain(tmp_path / "a.geojson", shapely.box(*box), **members), path)
    expected = drawn(shapely.box(*box), crs, place, inside.shape, step=0.1)
    assert expected.any()
    assert np.array_equal(inside, expected)


@pytest.mark.parametrize("box", [(100.3, -80.2, 249.9, -65.3), (10, 10, 250, 80)])
def test_polygons_that_go_on_beyond_180_degrees_lie_where_they_do_around_a_pole(
    tmp_path: Path, box: tuple[float, float, float, float]
) -> None:
    crs, place, width, height = FAR["antarctic"]
    path = across(tmp_path / "s.tif", crs, place, width=width, height=height)
    roi = plain(tmp_path / "a.geojson", shapely.box(*box), **NAMED)
    info = inspect(path)
    geometry, notes = read_geojson(str(roi), info)
    inside = Polygons(geometry, info.size).mask(Box.whole(info.size), LEVEL0)
    rows, columns = np.nonzero(inside != drawn(shapely.box(*box), crs, place, inside.shape, step=0.1))
    # The border is a curve, and its edges may lie beside it.
    beside = shapely.distance(geometry.boundary, shapely.points(columns + 0.5, rows + 0.5))
    assert (beside <= features.EDGE_ERROR).all()
    assert inside.any() == (box[1] < -60)
    assert not any("cross themselves" in note for note in notes)


@pytest.mark.skipif(shutil.which("ogr2ogr") is None, reason="ogr2ogr is not installed")
@pytest.mark.parametrize("ends", [(-100, 100), (-179.6, 179.7)])
def test_ogr2ogr_makes_either_of_the_two_polygons_that_an_edge_around_the_earth_may_mean(
    tmp_path: Path, ends: tuple[float, float]
) -> None:
    crs, place = "EPSG:4326", rasterio.Affine(0.5, 0, 95, 0, -0.5, 5)
    path = across(tmp_path / "s.tif", crs, place, width=300, height=20)
    first, last = ends
    plain(tmp_path / "IN.geojson", shapely.box(first, -2, last, 2), **NAMED)
    with pytest.raises(SourceError) as refused:
        read_geojson(str(tmp_path / "IN.geojson"), inspect(path))
    commands = re.findall(r"\((ogr2ogr [^)]*)\)", str(refused.value))
    short = [shapely.box(last, -2, 180, 2), shapely.box(-180, -2, first, 2)]
    for command, wanted in zip(commands, (short, [shapely.box(first, -2, last, 2)]), strict=True):
        made = tmp_path / "OUT.geojson"
        made.unlink(missing_ok=True)
        subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
        expected = drawn(shapely.MultiPolygon(wanted), crs, place, (20, 300), step=1)
        assert expected.any()
        assert np.array_equal(covered(made, path), expected)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (shapely.box(10.6, 20.6, 11.4, 21.4), "cover no pixel"),
        (shapely.box(10.6, 0, 11.4, HEIGHT), "cover no pixel"),
        (shapely.Polygon([(0, 0), (WIDTH, HEIGHT), (WIDTH, HEIGHT - 0.1)]), "cover no pixel"),
        (shapely.box(1000, 1000, 1010, 1010), "lie outside"),
    ],
)
def test_an_area_without_a_pixel_is_refused(shape: shapely.Geometry, said: str, tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "s.tif",
        "w",
        driver="GTiff",
        height=HEIGHT,
        width=WIDTH,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6),
    ) as file:
        file.write(np.ones((1, HEIGHT, WIDTH), np.uint8))
    roi = plain(tmp_path / "a.geojson", shape, properties={"objectType": "annotation"})
    with pytest.raises(SourceError, match=said):
        specify(SegmentOptions(roi=roi), inspect(tmp_path / "s.tif"))


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:EPSG::999999", "here", None])
def test_systems_that_nobody_knows(image: Path, name: str | None, tmp_path: Path) -> None:
    roi = plain(tmp_path / "a.geojson", shapely.Polygon(CORNERS), crs={"type": "name", "properties": {"name": name}})
    with pytest.raises(SourceError, match="is not known"):
        read_geojson(str(roi), inspect(image))


def test_no_way_leads_from_another_planet(image: Path, tmp_path: Path) -> None:
    roi = plain(tmp_path / "a.geojson", shapely.box(1, 2, 3, 4), crs={"properties": {"name": "ESRI:104905"}})
    with pytest.raises(SourceError, match=r"no transformation from ESRI:104905|outside"):
        specify(SegmentOptions(roi=roi), inspect(image))


@pytest.mark.parametrize(
    ("crs", "image_crs", "step", "said"),
    [
        ("EPSG:4326", "EPSG:32633", 0.5, None),
        ("EPSG:4258", "EPSG:32633", 2, None),
        ("EPSG:4258", "EPSG:32633", 0.25, "is exact to 1 m, which is more than a pixel"),
        ("EPSG:4326", "+proj=tmerc +lon_0=15 +ellps=bessel", 0.25, "knows no shift between the datums"),
        (None, "+proj=tmerc +lon_0=15 +ellps=bessel", 0.25, "knows no shift between the datums"),
    ],
)
def test_inexact_transformations_are_named(
    crs: str | None, image_crs: str, step: float, said: str | None, tmp_path: Path
) -> None:
    place = rasterio.Affine(step, 0, 400_000 if "EPSG" in image_crs else 0, 0, -step, 5_000_000)
    facts = {"height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8", "crs": image_crs, "transform": place}
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", **facts) as file:
        file.write(np.ones((1, HEIGHT, WIDTH), np.uint8))
    inside = geopandas.GeoSeries([shapely.box(*(place @ (10, 90)), *(place @ (60, 20)))], crs=image_crs).to_crs(
        "EPSG:4326"
    )
    members = {} if crs is None else {"crs": {"type": "name", "properties": {"name": crs}}}
    roi = plain(tmp_path / "r.geojson", inside.iloc[0], **members)
    _, notes = read_geojson(str(roi), inspect(tmp_path / "s.tif"))
    found = [note for note in notes if "PROJ" in note]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_whether_polygons_cover_a_pixel() -> None:
    """The expected result is read from the pixels themselves, for slivers, specks and shapes with holes."""
    size = Size(width=23, height=17)
    random = np.random.default_rng(3)
    seen = set()
    for _ in range(400):
        centre, reach = random.random(2) * (26, 20) - 1, random.choice([0.3, 0.8, 3])
        shape = shapely.convex_hull(shapely.MultiPoint(centre + reach * random.normal(size=(5, 2))))
        area = Polygons(shapely.MultiPolygon([shape]), size)
        found = area.covers_pixels()
        assert found == area.mask(Box.whole(size), LEVEL0).any()
        seen.add(found)
    assert seen == {True, False}


@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon"])
@pytest.mark.parametrize("coordinates", [0.5, True, "x", {"a": 1}, [0.5], [[0.5]]])
def test_coordinates_that_are_no_lists_are_refused(
    kind: str, coordinates: object, unplaced: ImageInfo, tmp_path: Path
) -> None:
    (tmp_path / "r.geojson").write_text(json.dumps({"type": kind, "coordinates": coordinates}))
    with pytest.raises(SourceError, match=r"coordinates of polygons are lists|closed rings of points"):
        read_geojson(str(tmp_path / "r.geojson"), unplaced)


@pytest.fixture
def unplaced(tmp_path: Path) -> ImageInfo:
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((HEIGHT, WIDTH, 3), np.uint8), photometric="rgb")
    return inspect(tmp_path / "s.tif")


def test_polygons_that_qgis_drew_on_an_image_without_a_place(unplaced: ImageInfo, tmp_path: Path) -> None:
    roi = plain(tmp_path / "roi.geojson", shapely.box(10, -60, 90, -20))
    with pytest.raises(SourceError, match="QGIS draws an image without a georeference below y = 0"):
        specify(SegmentOptions(roi=roi), unplaced)


def test_polygons_that_cross_too_often_are_refused(unplaced: ImageInfo, tmp_path: Path) -> None:
    """Mending them takes minutes and gigabytes: 1,000 edges that cross each other have half a million crossings."""
    random = np.random.default_rng(0)
    lattice = np.arange(60_000)
    for corners in (random.random((1000, 2)), np.stack([lattice % 977 / 13, lattice % 991 / 15], axis=1)):
        roi = plain(tmp_path / "tangle.geojson", shapely.Polygon(corners))
        with pytest.raises(SourceError, match="cross themselves or each other so often"):
            read_geojson(str(roi), unplaced)
    triangles = shapely.MultiPolygon([shapely.Polygon(corners) for corners in random.random((2000, 3, 2))])
    with pytest.raises(SourceError, match="cross themselves or each other so often"):
        read_geojson(str(plain(tmp_path / "many.geojson", triangles)), unplaced)


def test_large_polygons_and_those_that_cross_now_and_then_are_read(unplaced: ImageInfo, tmp_path: Path) -> None:
    angle = np.arange(20_000) * (2 * np.pi / 20_000)
    wavy = (30 + 5 * np.sin(1000 * angle))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 40
    shape = shapely.Polygon(wavy)
    found, notes = read_geojson(str(plain(tmp_path / "wavy.geojson", shape)), unplaced)
    assert found.area == pytest.approx(shape.area)
    assert not any("mended" in note for note in notes)
    wavy[::2000] = wavy[5::2000]
    _, notes = read_geojson(str(plain(tmp_path / "wavy.geojson", shapely.Polygon(wavy))), unplaced)
    assert any("mended" in note for note in notes)
