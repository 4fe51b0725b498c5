"""QGIS and Bio-Formats read masks as they should, where these programs are installed.

QGIS is found as Debian's `python3-qgis`. For Bio-Formats there must be a `java`, and `BIOFORMATS_JAR` names the jar.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import rasterio
import tifffile
from ome_types.model import UnitsLength
from rasterio.transform import Affine

from magnet_cli.images.tiff_geo import geo_tags
from tests.exports.support import CLASSES, export, make_labels, write_mask

LABELS = make_labels(300, 141)
RASTERS = ("m.tif", "m.cog.tif", "m.ome.tif")
COLOURS = [entry.color.lower() for entry in CLASSES]
SYSTEM_PYTHON = "/usr/bin/python3"
IN_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsRasterLayer, QgsVectorLayer
app = QgsApplication([], False)
app.initQgis()
found = {}
for path in sys.argv[1:]:
    if path.endswith("json"):
        layer = QgsVectorLayer(path, "mask", "ogr")
        flat = "class" in layer.fields().names()
        shapes = [
            (each.geometry(), each["class"] if flat else each["classification"]["name"]) for each in layer.getFeatures()
        ]
        areas = {}
        for shape, name in shapes:
            areas[name] = areas.get(name, 0) + shape.area()
        found[path] = {"valid": all(shape.isGeosValid() for shape, _ in shapes), "areas": areas}
    else:
        layer = QgsRasterLayer(path, "mask")
        size, source = (layer.width(), layer.height()), layer.dataProvider()
        block = source.block(1, layer.extent(), *size)
        found[path] = {
            "size": size,
            "labels": list(bytes(block.data())),
            "nodata": source.sourceNoDataValue(1),
            "colours": [entry.color.name() for entry in layer.renderer().classes()],
        }
    box = layer.extent()
    found[path]["extent"] = [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]
    found[path]["crs"] = layer.crs().authid()
print(json.dumps(found), flush=True)
os._exit(0)  # taking QGIS down in order ends in a segmentation fault now and then
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a georeferenced mask and everything that is exported of it."""
    folder = tmp_path_factory.mktemp("viewers")
    with rasterio.open(
        folder / "g.tif", "w", driver="GTiff", width=300, height=141, count=1, dtype="uint8", crs="EPSG:32633",
        transform=Affine(0.5, 0, 5e5, 0, -0.5, 4.6e6),
    ) as file:  # fmt: skip
        file.write(np.ones((141, 300), dtype=np.uint8), 1)
    with tifffile.TiffFile(folder / "g.tif") as tiff:
        page = tiff.pages.first
        assert isinstance(page, tifffile.TiffPage)
        tags = geo_tags(page)
    export(write_mask(folder / "m.tif", LABELS, geo_tags=tags))
    return folder


@pytest.fixture(scope="module")
def qgis(made: Path) -> dict[str, Any]:
    """Return what QGIS makes of each file."""
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", "import qgis"], check=False).returncode:
        pytest.skip("QGIS is not installed")
    command = [SYSTEM_PYTHON, "-c", IN_QGIS, *RASTERS, "m.geojson", "m.crs.geojson"]
    settings = {"PATH": os.environ["PATH"], "HOME": str(made), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(command, cwd=made, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["m.tif", "m.cog.tif"])
def test_qgis_places_a_mask_and_shows_its_classes(qgis: dict[str, Any], name: str) -> None:
    layer = qgis[name]
    assert (layer["crs"], layer["nodata"]) == ("EPSG:32633", 255)
    assert layer["extent"] == pytest.approx([5e5, 4.6e6 - 70.5, 5e5 + 150, 4.6e6], abs=0.05)
    assert layer["colours"][: len(COLOURS)] == COLOURS


@pytest.mark.parametrize("name", RASTERS)
def test_qgis_reads_the_class_indices(qgis: dict[str, Any], name: str) -> None:
    np.testing.assert_array_equal(np.reshape(qgis[name]["labels"], LABELS.shape), LABELS)


def test_qgis_reads_the_polygons(qgis: dict[str, Any]) -> None:
    pixels = {entry.name: int(np.count_nonzero(number == LABELS)) for number, entry in enumerate(CLASSES)}
    assert qgis["m.geojson"]["valid"]
    assert qgis["m.geojson"]["areas"] == pytest.approx(pixels)
    on_map = qgis["m.crs.geojson"]
    assert on_map["crs"] == "EPSG:32633"
    assert on_map["areas"] == pytest.approx({name: count / 4 for name, count in pixels.items()}, rel=1e-4)


def bioformats(tool: str, *words: str, folder: Path) -> str:
    """Return what a tool of Bio-Formats prints."""
    jar = os.environ.get("BIOFORMATS_JAR", "")
    if not Path(jar).is_file() or shutil.which("java") is None:
        pytest.skip("there is no java, or BIOFORMATS_JAR names no file")
    command = ["java", "-cp", jar, f"loci.formats.tools.{tool}", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
@pytest.mark.parametrize("name", RASTERS)
def test_bioformats_reads_the_class_indices(made: Path, tmp_path: Path, name: str) -> None:
    bioformats("ImageConverter", "-series", "0", name, str(tmp_path / "out.tif"), folder=made)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), LABELS)


@pytest.mark.full
def test_bioformats_reads_sizes_and_levels_of_an_ome_tiff(made: Path) -> None:
    words = ("-nopix", "-no-upgrade", "-noflat", "m.ome.tif")
    told = bioformats("ImageInfo", *words, folder=made)
    with tifffile.TiffFile(made / "m.tif") as tiff:
        assert f"Resolutions = {len(tiff.pages)}" in told
    xml = bioformats("ImageInfo", *words[:-1], "-omexml-only", "m.ome.tif", folder=made)
    pixels = ome_types.from_xml(xml).images[0].pixels
    assert (pixels.size_x, pixels.size_y) == (300, 141)
    assert (pixels.physical_size_x, pixels.physical_size_y, pixels.physical_size_x_unit) == (
        0.5,
        0.5,
        UnitsLength.METER,
    )
