"""Inside an area a run gives the labels of a run over everything, and outside it computes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import shapely
import tifffile
import zarr
from affine import Affine
from rasterio.control import GroundControlPoint

from magnet_cli.geometry import Box, Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.report.maps import NOTHING, Map
from tests.cli.support import invoke, invoke_json
from tests.laws.support import (
    blurry_bundle,
    coded,
    labels_in,
    magnet,
    part,
    random_labels,
    report_of,
    scene_pixels,
    template_bundle,
    write_tiled,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = Size(width=400, height=300)
NODATA = 255
CORNER = (500_000.0, 5_800_000.0)
"""The upper left corner of the georeferenced image, in metres."""


@pytest.fixture(scope="module")
def blurry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose labels depend on what lies around, in every stage."""
    return blurry_bundle(tmp_path_factory.mktemp("blurry") / "bundle", kernel=5, margin=6)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a scene with missing data, also at the border of the region."""
    return write_tiled(tmp_path_factory.mktemp("scene") / "s.tif", scene_pixels(SIZE, nodata=True), nodata=0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that gives the labels of a coded image back."""
    return template_bundle(tmp_path_factory.mktemp("template") / "bundle")


def segmented(image: Path, mask: Path, *words: str | Path) -> NDArray[np.uint8]:
    """Segment an image by the command line; its labels."""
    ended = magnet("segment", image, "-o", mask, *words)
    assert ended.code == 0, ended.said
    assert magnet("verify", mask).code == 0
    return labels_in(mask)


def stages(mask: Path) -> list[dict[str, Any]]:
    """Return the report's entry of each stage."""
    passes = part(report_of(mask), "passes")
    assert isinstance(passes, list)
    return [stage for step in passes for stage in step["stages"]]


def probabilities_of(mask: Path) -> NDArray[np.uint8]:
    """Return the probabilities `(classes, height, width)` at the last stage's resolution; 255 where there are none."""
    return np.asarray(zarr.open_array(OutputPaths.of(mask).field("probabilities"), mode="r")[:], np.uint8)


def inside_of(box: Box, size: Size = SIZE) -> NDArray[np.bool_]:
    inside = np.zeros((size.height, size.width), bool)
    inside[box.slices] = True
    return inside


def collection(*geometries: Any, **more: object) -> str:
    """Return a FeatureCollection as QuPath writes it."""
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(geometry),
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
        }
        for geometry in geometries
    ]
    return json.dumps({"type": "FeatureCollection", "features": features, **more})


MIDDLE, CORNER_PIXEL = Box(x=171, y=83, width=62, height=41), Box(x=0, y=299, width=1, height=1)
CELLS = Box(x=160, y=80, width=40, height=80)
"""Cells of the scale 64. What lies beyond their border still influences labels inside."""


@pytest.mark.parametrize(
    ("scales", "points", "box"),
    [
        ("32", "all", CORNER_PIXEL),
        # The next ones have as many stages, and the last one more.
        pytest.param("32,64,128", "all", MIDDLE, marks=pytest.mark.full),
        ("32,64,128", "q>0.02", MIDDLE),
        ("48,96,480", "q>0.02", CORNER_PIXEL),
        ("64,128", "all", CELLS),
        ("64,128", "q>0.02", CELLS),
        # The scales before have the same passes, and the thresholds above the same points.
        pytest.param("32,48,72", "all", CELLS, marks=pytest.mark.full),
        pytest.param("32,48,72", "q>0.02", MIDDLE, marks=pytest.mark.full),
        ("32,64,128,256,512", "all", MIDDLE),
    ],
)
def test_labels_inside_are_those_of_a_run_over_everything(
    scales: str, points: str, box: Box, *, blurry: Path, scene: Path, tmp_path: Path
) -> None:
    words = ("--weights", blurry, "--scales", scales, "--points", points, "--probabilities")
    whole = segmented(scene, tmp_path / "whole.tif", *words)
    part_of = segmented(scene, tmp_path / "part.tif", *words, "--roi", f"{box.x},{box.y},{box.width},{box.height}")
    inside = inside_of(box)
    assert np.array_equal(part_of[inside], whole[inside])
    assert (part_of[~inside] == NODATA).all()
    probabilities, wanted = (probabilities_of(tmp_path / name) for name in ("part.tif", "whole.tif"))
    looked_at = (probabilities != NODATA).any(axis=0)
    assert np.array_equal(probabilities[:, looked_at], wanted[:, looked_at])
    assert len(np.unique(wanted[:, looked_at])) > 20 or box.area == 1
    for found, full in zip(stages(tmp_path / "part.tif"), stages(tmp_path / "whole.tif"), strict=True):
        assert found["windows_run"] <= full["windows_run"]
        assert found["windows_run"] + sum(found["not_run"].values()) == found["windows"]
    finest = stages(tmp_path / "part.tif")[-1]
    assert 0 <= finest["windows_run"] < finest["windows"] / 4
    assert finest["not_run"]["outside"] > finest["windows"] / 2


@pytest.mark.parametrize("points", ["all", "q>0.02"])
@pytest.mark.parametrize("box", [MIDDLE, pytest.param(CELLS, marks=pytest.mark.full), CORNER_PIXEL])
def test_labels_inside_are_those_of_a_run_over_everything_where_a_limit_leaves_windows_out(
    points: str, box: Box, *, blurry: Path, scene: Path, tmp_path: Path
) -> None:
    """Each later stage is a pass, whose windows are needed where windows of the next pass are."""
    method = ("--method", "magnet-fast", "--patches", "u>0.9", "--points", points)
    words = ("--weights", blurry, "--scales", "32,64,128", "--overlap", "12", *method)
    whole = segmented(scene, tmp_path / "whole.tif", *words)
    part_of = segmented(scene, tmp_path / "part.tif", *words, "--roi", f"{box.x},{box.y},{box.width},{box.height}")
    inside = inside_of(box)
    assert np.array_equal(part_of[inside], whole[inside])
    for found, full in zip(stages(tmp_path / "part.tif"), stages(tmp_path / "whole.tif"), strict=True):
        assert found["windows_run"] <= full["windows_run"]
    assert [stage["not_run"]["unselected"] > 0 for stage in stages(tmp_path / "whole.tif")] == [False, True, True]


def test_the_mask_of_an_area_does_not_depend_on_workers_or_memory(blurry: Path, scene: Path, tmp_path: Path) -> None:
    words = ("--weights", blurry, "--scales", "32,64,128", "--points", "30%", "--roi", "50,40,200,100")
    one = segmented(scene, tmp_path / "one.tif", *words, "--num-workers", "0")
    two = segmented(scene, tmp_path / "two.tif", *words, "--num-workers", "3", "--memory", "3GiB")
    assert np.array_equal(one, two)
    assert (one[40:140, 50:250] != NODATA).any()


def test_polygons_with_a_hole(template: Path, tmp_path: Path) -> None:
    labels = random_labels(SIZE, 7)
    image = write_tiled(tmp_path / "s.tif", coded(labels))
    ring = shapely.difference(shapely.Point(150, 140).buffer(90), shapely.Point(160, 150).buffer(35))
    other = shapely.box(300.2, 20.6, 350.9, 60.4)
    file = tmp_path / "annotations.geojson"
    file.write_text(collection(ring, shapely.MultiPolygon([other, shapely.box(340, 50, 380, 90)])))
    found = segmented(image, tmp_path / "m.tif", "--weights", template, "--scales", "32", "--roi", file)
    x, y = np.meshgrid(np.arange(SIZE.width) + 0.5, np.arange(SIZE.height) + 0.5)
    geometry = shapely.union_all([ring, other, shapely.box(340, 50, 380, 90)])
    inside = shapely.contains_xy(geometry, x, y)
    assert np.array_equal(found, np.where(inside, labels, NODATA))
    areas = part(report_of(tmp_path / "m.tif"), "areas")
    assert areas == [
        {"kind": "roi", "source": str(file), "share": pytest.approx(geometry.area / SIZE.pixels, abs=1e-6)}
    ]


def from_corner() -> Affine:
    """Return the transform of pixels of half a metre, north up, from the corner."""
    return Affine(0.5, 0, CORNER[0], 0, -0.5, CORNER[1])


def write_georeferenced(path: Path, pixels: NDArray[np.uint8], transform: Affine, **more: Any) -> Path:
    height, width, bands = pixels.shape
    facts = {"width": width, "height": height, "count": bands, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", driver="GTiff", transform=transform, photometric="rgb", **facts, **more) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("point", [False, True])
def test_polygons_of_a_map(rotated: bool, point: bool, template: Path, tmp_path: Path) -> None:  # noqa: FBT001
    labels = random_labels(SIZE, 8)
    transform = Affine(0.4, -0.3, CORNER[0], -0.3, -0.4, CORNER[1]) if rotated else from_corner()
    more = {"AREA_OR_POINT": "Point"} if point else {}
    image = write_georeferenced(tmp_path / "s.tif", coded(labels), transform)
    if point:
        with rasterio.open(image, "r+") as file:
            file.update_tags(**more)
    with rasterio.open(image) as file:
        placed = file.transform
        assert file.tags()["AREA_OR_POINT"] == ("Point" if point else "Area")
    pixels = shapely.Polygon([(50.2, 30.1), (333.3, 60.7), (260.4, 250.3)], [[(200, 100), (230, 100), (215, 150)]])
    ground = shapely.transform(
        pixels, lambda points: np.array([rasterio.transform.xy(placed, y, x, offset="ul") for x, y in points])
    )
    file = tmp_path / "field.geojson"
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    file.write_text(collection(ground, crs=crs))
    found = segmented(image, tmp_path / "m.tif", "--weights", template, "--scales", "32", "--roi", file)
    x, y = np.meshgrid(np.arange(SIZE.width) + 0.5, np.arange(SIZE.height) + 0.5)
    assert np.array_equal(found, np.where(shapely.contains_xy(pixels, x, y), labels, NODATA))


def test_a_mask_of_another_size(template: Path, tmp_path: Path) -> None:
    labels = random_labels(SIZE, 9)
    image = write_tiled(tmp_path / "s.tif", coded(labels))
    small = np.random.default_rng(3).integers(0, 2, (30, 40), dtype=np.uint8) * 7
    tifffile.imwrite(tmp_path / "where.tif", small)
    found = segmented(
        image, tmp_path / "m.tif", "--weights", template, "--scales", "32,64", "--mask", tmp_path / "where.tif"
    )
    inside = np.repeat(np.repeat(small > 0, 10, axis=0), 10, axis=1)
    assert np.array_equal(found, np.where(inside, labels, NODATA))
    both = segmented(
        image,
        *(tmp_path / "both.tif", "--weights", template, "--scales", "32,64", "--mask", tmp_path / "where.tif"),
        *("--roi", "5,6,100,90"),
    )
    assert np.array_equal(both, np.where(inside & inside_of(Box(x=5, y=6, width=100, height=90)), labels, NODATA))


def around(radius: int) -> NDArray[np.bool_]:
    """Return a map that is True where a pixel lies in a disk."""
    rows, columns = np.ogrid[: SIZE.height, : SIZE.width]
    inside: NDArray[np.bool_] = np.hypot(rows - 150, columns - 120) < radius
    return inside


def slide_pixels() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw tissue on glass."""
    pixels = np.full((SIZE.height, SIZE.width, 3), 243, np.uint8)
    tissue = around(70)
    pixels[tissue] = (210, 120, 165)
    return pixels, tissue


def test_glass_is_not_computed_on_slides_unless_wanted(blurry: Path, tmp_path: Path) -> None:
    pixels, tissue = slide_pixels()
    slide = tmp_path / "slide.svs"
    text = "Aperio Image Library v11\r\n400x300 |AppMag = 20|MPP = 0.5"
    tifffile.imwrite(slide, pixels, tile=(64, 64), photometric="rgb", description=text, metadata=None)
    words = ("--weights", blurry, "--scales", "32,64,128")
    found = segmented(slide, tmp_path / "auto.tif", *words)
    whole = segmented(slide, tmp_path / "none.tif", *words, "--tissue", "none")
    assert np.array_equal(found[tissue], whole[tissue])
    assert not (whole == NODATA).any()
    near = around(80)
    assert (found[~near] == NODATA).all()
    areas = part(report_of(tmp_path / "auto.tif"), "areas")
    assert isinstance(areas, list)
    assert areas[0]["kind"] == "tissue"
    assert tissue.mean() < areas[0]["share"] < near.mean()
    assert part(report_of(tmp_path / "none.tif"), "areas") == []
    plain = write_tiled(tmp_path / "plain.tif", pixels)
    assert not (segmented(plain, tmp_path / "plain-mask.tif", *words) == NODATA).any()
    assert np.array_equal(segmented(plain, tmp_path / "otsu.tif", *words, "--tissue", "otsu"), found)


def test_probabilities_outside_are_missing(template: Path, tmp_path: Path) -> None:
    labels = random_labels(SIZE, 10)
    image = write_tiled(tmp_path / "s.tif", coded(labels))
    mask = tmp_path / "m.tif"
    words = ("--weights", template, "--scales", "32", "--probabilities", "--roi", "100,80,40,30")
    segmented(image, mask, *words)
    values = probabilities_of(mask)
    inside = inside_of(Box(x=100, y=80, width=40, height=30))
    assert np.array_equal(values[:, inside].argmax(axis=0), labels[inside])
    assert (values[:, ~inside] == NODATA).all()


def test_another_area_is_another_mask(template: Path, scene: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.geojson"
    file.write_text(collection(shapely.box(10, 10, 60, 60)))
    words = ("segment", scene, "-o", tmp_path / "m.tif", "--weights", template, "--scales", "32", "--roi")
    assert magnet(*words, file).code == 0
    assert "already done" in magnet(*words, file).said
    file.write_text(collection(shapely.box(10, 10, 60, 61)))
    assert magnet(*words, file).code == 5
    assert magnet(*words, "10,10,50,50").code == 5


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ({"type": "Topology"}, "no GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "no polygon"),
        ({"type": "Point", "coordinates": [1, 2]}, "no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, "x"]]]}, "closed rings"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1e999, 1], [2, 2], [0, 0]]]}, "finite"),
        ({"type": "Polygon", "coordinates": [[[900, 0], [909, 0], [909, 9], [900, 0]]]}, "outside the image"),
        ({**SQUARE, "crs": {"properties": {"name": "EPSG:4326"}}}, "in EPSG:4326 and the image"),
        ({**SQUARE, "crs": {"properties": {"name": "local"}}}, "crs local"),
    ],
)
def test_polygons_that_cannot_be_used(
    content: str | Mapping[str, object], said: str, template: Path, scene: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.geojson"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    ended = magnet("segment", scene, "-o", tmp_path / "m.tif", "--weights", template, "--roi", file)
    assert ended.code == 3
    assert said in ended.said
    assert "a.geojson" in ended.said
    assert not (tmp_path / "m.tif").exists()


@pytest.mark.parametrize("words", [("--roi", "1,2,3"), ("--roi", "1,2,0,5"), ("--roi", "-1,2,3,4"), ("--roi", "x.shp")])
def test_regions_that_are_none(words: tuple[str, ...], template: Path, scene: Path, tmp_path: Path) -> None:
    ended = magnet("segment", scene, "-o", tmp_path / "m.tif", "--weights", template, *words)
    assert ended.code == 2
    assert "--roi" in ended.said


def test_areas_elsewhere_are_refused(template: Path, scene: Path, tmp_path: Path) -> None:
    words = ("segment", scene, "-o", tmp_path / "m.tif", "--weights", template)
    assert magnet(*words, "--roi", "400,0,5,5").code == 3
    assert magnet(*words, "--roi", tmp_path / "missing.geojson").code == 3
    assert magnet(*words, "--mask", tmp_path / "missing.tif").code == 3
    tifffile.imwrite(tmp_path / "square.tif", np.ones((30, 30), np.uint8))
    ended = magnet(*words, "--mask", tmp_path / "square.tif")
    assert ended.code == 3
    assert "shape of its image" in ended.said


def test_polygons_of_a_map_need_a_placed_image(template: Path, tmp_path: Path) -> None:
    points = [GroundControlPoint(row, column, column * 2.0, -row * 2.0) for row, column in ((0, 0), (9, 0), (0, 9))]
    image = tmp_path / "s.tif"
    facts = {"width": 40, "height": 40, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "gcps": points}
    with rasterio.open(image, "w", driver="GTiff", photometric="rgb", **facts) as file:
        file.write(np.ones((3, 40, 40), np.uint8))
    roi = tmp_path / "a.geojson"
    roi.write_text(json.dumps({**SQUARE, "crs": {"properties": {"name": "EPSG:32633"}}}))
    ended = magnet("segment", image, "-o", tmp_path / "m.tif", "--weights", template, "--roi", roi)
    assert ended.code == 3
    assert "not placed" in ended.said


def test_the_plan_names_the_areas(template: Path, scene: Path) -> None:
    words = ("plan", scene, "--weights", template, "--scales", "32", "--roi", "390,0,50,50")
    text = invoke(*words).stdout
    assert "area: roi [390, 0, 10, 50]" in text
    assert "reaches beyond the image" in text
    (found,) = invoke_json(*words)["images"]
    assert found["areas"] == [{"kind": "roi", "source": "[390, 0, 10, 50]"}]


def test_how_sure_it_is_outside_is_not_told(template: Path, scene: Path, tmp_path: Path) -> None:
    """Windows at the border are computed whole, and their part outside does not enter the map or its mean."""
    mask, left, wide = tmp_path / "m.tif", SIZE.width // 2, 48
    words = ("--weights", template, "--scales", "32", "--overlap", "0")
    segmented(scene, mask, *words, "--roi", f"{left},0,{wide},{SIZE.height}")
    report = json.loads(OutputPaths.of(mask).report.read_text())
    found = Map.parse(report["maps"]["uncertainty"])
    known = np.flatnonzero((found.values != NOTHING).any(axis=0)) * found.pixel[0]
    assert left - found.pixel[0] < known.min() < left + found.pixel[0]
    assert left + wide - 2 * found.pixel[0] < known.max() < left + wide
