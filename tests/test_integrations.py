"""The scripts in `integrations/` are run by the programs that they are for, where these are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
import tifffile
from rasterio.transform import Affine

from magnet_cli.geometry import Size
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.masks.our_files import is_mask
from magnet_cli.scene import Scene, write_scene

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "integrations"
SYSTEM_PYTHON = "/usr/bin/python3"
IN_QGIS = """
import json, sys
sys.path.append("/usr/share/qgis/python/plugins")
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsRasterLayer
app = QgsApplication([], False)
app.initQgis()
from processing.script import ScriptUtils
script, image, program, mask, weights = sys.argv[1:]
algorithm = ScriptUtils.loadAlgorithm("magnet_segment", script)
values = {"INPUT": QgsRasterLayer(image, "image"), "PROGRAM": program, "OUTPUT": mask, "WEIGHTS": weights}
values["OPTIONS"] = "--scales '512' --method patch"
feedback = QgsProcessingFeedback()
results, done = algorithm.run(values, QgsProcessingContext(), feedback)
layer = QgsRasterLayer(results.get("OUTPUT", ""), "mask")
box = layer.extent()
found = {"done": done, "valid": layer.isValid(), "log": feedback.textLog(), "crs": layer.crs().authid()}
found["extent"] = [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]
found["colours"] = [entry.color.name() for entry in layer.renderer().classes()] if layer.isValid() else []
print(json.dumps(found), flush=True)
"""

pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the package was installed without its repository")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a small GeoTIFF and `magnet` as an executable program."""
    plain = tmp_path / "plain.tif"
    write_scene(plain, Scene(size=Size(width=300, height=200), seed=1))
    (tmp_path / "images").mkdir()
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 4.6e6)}
    shape = {"driver": "GTiff", "width": 300, "height": 200, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    with rasterio.open(tmp_path / "images" / "town.tif", "w", **shape, **place) as target:
        target.write(tifffile.imread(plain, key=0).transpose(2, 0, 1))
    program = tmp_path / "magnet"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m magnet_cli.cli.program "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    settings = {key: os.environ[key] for key in ("PATH", "MAGNET_STATE")}
    settings |= {"HOME": str(folder), "QT_QPA_PLATFORM": "offscreen", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_qgis_segments_a_layer_and_loads_the_mask(place: Path) -> None:
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", "import qgis"], check=False).returncode:
        pytest.skip("QGIS is not installed")
    script, image, mask = SCRIPTS / "qgis" / "magnet_segment.py", place / "images" / "town.tif", place / "mask.tif"
    command = [SYSTEM_PYTHON, "-c", IN_QGIS, str(script), str(image), str(place / "magnet"), str(mask)]
    found = json.loads(run([*command, "aerial"], place).splitlines()[-1])
    assert found["done"], found["log"]
    assert found["valid"]
    assert found["crs"] == "EPSG:32633"
    assert found["extent"] == pytest.approx([5e5, 4.6e6 - 100, 5e5 + 150, 4.6e6])
    with MaskFile.open(mask) as opened:
        colours = [entry.color.lower() for entry in opened.facts.classes]
        assert found["colours"][: len(colours)] == colours
    refused = json.loads(run([*command, "no-such-bundle"], place).splitlines()[-1])
    assert not refused["done"]
    assert "no-such-bundle" in refused["log"], "the program's own message is shown"


@pytest.mark.full
def test_snakemake_makes_masks_of_a_folder(place: Path) -> None:
    if shutil.which("snakemake") is None:
        pytest.skip("Snakemake is not installed")
    (place / "images" / "town.tif.aux.xml").write_text("<PAMDataset/>")  # QGIS leaves one beside an image
    command = ["snakemake", "-s", str(SCRIPTS / "snakemake" / "Snakefile"), "-j", "1", "--config"]
    run([*command, f"magnet={place / 'magnet'}", "images=images"], place)
    assert is_mask(place / "masks" / "town.tif")
    polygons = json.loads((place / "masks" / "town.geojson").read_text(encoding="utf-8"))
    assert polygons["features"]
