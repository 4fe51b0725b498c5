"""The shipped bundles are complete, load, and score on crops as well as when they were made."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

import magnet_cli
from magnet_cli.evaluation.mask_scores import Evaluation, evaluate
from magnet_cli.models.bundle import load_bundle, load_cascade_bundle
from magnet_cli.models.device import computes_int8
from magnet_cli.models.networks import load_networks
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.perturbation import iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = Path(__file__).parents[2] / "weights"
DATA = Path(__file__).parents[2].parent / "shared" / "data"
CLASSES = {
    "aerial": ["building", "land", "road", "vegetation", "water"],
    "fundus": ["background", "vessel"],
}
TEMPERED = ("aerial",)
"""Bundles whose temperatures were fitted out of fold; those of all others are 1."""
GAIN = 0.037
CASCADES = {"fundus-cascade": 1024, "roofs-cascade": 1024}
"""Names of the shipped cascades, and the L of each."""
SCALES = {"aerial": [256, 512, 1024, 2048], "fundus": [256, 512, 1024]}

pytestmark = [pytest.mark.full, pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no weights beside the tests")]


def test_no_bundle_is_forgotten_here() -> None:
    assert {path.parent.name for path in WEIGHTS.glob("*/bundle.json")} == {*CLASSES, *CASCADES}


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_complete_and_small(name: str) -> None:
    bundle = load_bundle(name)
    assert [item.name for item in bundle.classes] == CLASSES[name]
    assert [scale.width for scale in bundle.scales] == SCALES[name]
    assert bundle.notes == ()
    assert bundle.licence
    files = {path.name for path in bundle.folder.iterdir()}
    assert files >= {"README.md", "train.toml", bundle.backbone.file}
    assert ("train-refiner.toml" in files) == (name in TEMPERED)
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 30_000_000


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_is_complete_small_and_of_its_configuration(name: str) -> None:
    bundle = load_cascade_bundle(name)
    assert bundle.side == CASCADES[name]
    assert bundle.notes == ()
    assert bundle.licence
    assert {path.name for path in bundle.folder.iterdir()} == {
        "README.md",
        "bundle.json",
        "cascade.safetensors",
        "train.toml",
    }
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 30_000_000
    config = TrainConfig.read(bundle.folder / "train.toml")
    assert (bundle.network.architecture, bundle.network.options) == (
        config.network.architecture,
        config.network.options,
    )
    assert bundle.kind_of_object == config.bundle["object"]
    held_out = [name for name in config.data.scenes if name.startswith(("04_", "tile7"))]
    assert not held_out, "the test scenes"


def test_the_cascade_sharpens_vessels_that_were_seen_from_afar(tmp_path: Path) -> None:
    """The required gain is half of the gain on this crop with windows of 2,048 pixels, from 0.640 to 0.714."""
    if not DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    cut = slice(600, 1240), slice(900, 1540)
    pixels, labels = (read(DATA / "hrf" / path)[cut] for path in ("images/04_h.jpg", "vessels/04_h.tif"))
    tifffile.imwrite(tmp_path / "crop.tif", pixels, tile=(256, 256), photometric="rgb")
    options = magnet_cli.SegmentOptions(weights="fundus", method="downsample", scales="2048")
    magnet_cli.segment([tmp_path / "crop.tif"], tmp_path / "mask.tif", options)
    refining = magnet_cli.RefineOptions(weights="fundus-cascade", precision="bfloat16")
    magnet_cli.refine(tmp_path / "crop.tif", tmp_path / "mask.tif", tmp_path / "sharp.tif", refining)
    truth = labels > 0
    before, after = (tifffile.imread(tmp_path / f"{name}.tif") == 1 for name in ("mask", "sharp"))
    assert iou(after, truth) > iou(before, truth) + GAIN


@pytest.mark.parametrize("name", CLASSES)
def test_its_configuration_says_its_defaults(name: str) -> None:
    table = tomllib.loads((WEIGHTS / name / "train.toml").read_text(encoding="utf-8"))
    described = json.loads((WEIGHTS / name / "bundle.json").read_text(encoding="utf-8"))
    assert table["bundle"]["magnet"] == described["magnet"]


@pytest.mark.parametrize("name", CLASSES)
def test_temperatures_were_fitted_out_of_fold_at_every_scale_or_are_one(name: str) -> None:
    bundle = load_bundle(name)
    temperatures = [bundle.backbone.temperature.at(scale) for scale in bundle.scales]
    if name in TEMPERED:
        assert all(0.25 < value < 4 for value in temperatures)
        assert len(set(temperatures)) == len(temperatures)
    else:
        assert set(temperatures) == {1.0}


@pytest.mark.parametrize("name", CLASSES)
def test_every_network_loads_and_gives_probabilities(name: str) -> None:
    bundle = load_bundle(name)
    networks = load_networks(bundle, device="cpu", precision="float32")
    probs = networks.predict(torch.zeros(1, 3, 64, 64), bundle.scales[0])
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(1, 64, 64))


CROPS = [
    ("aerial", "dubai/mosaics/tile7.tif", "dubai/mosaics/tile7_label.png", (1024, 1024), 0.42),
    ("fundus", "hrf/images/04_h.jpg", "hrf/vessels/04_h.tif", (700, 1200), 0.81),
]


def crops(folder: Path, *, image: str, truth: str, crop: tuple[int, int]) -> None:
    """Write 1024 x 1024 pixels of a picture and of its labels as `crop.tif` and `truth.tif`."""
    cut = tuple(slice(start, start + 1024) for start in crop)
    pixels, labels = (read(DATA / path)[cut] for path in (image, truth))
    # Vessels are stored as 255.
    labels = np.where(labels == 255, 1, labels).astype(np.uint8) if image.startswith("hrf") else labels
    tifffile.imwrite(folder / "crop.tif", pixels, tile=(256, 256), photometric="rgb")
    tifffile.imwrite(folder / "truth.tif", labels, tile=(256, 256))


def scored(folder: Path, options: magnet_cli.SegmentOptions) -> Evaluation:
    """Segment `crop.tif` and compare the mask with `truth.tif`."""
    (result,) = magnet_cli.segment([folder / "crop.tif"], folder / "mask.tif", options)
    assert result.error is None
    return evaluate(folder / "mask.tif", folder / "truth.tif")


@pytest.mark.parametrize(("name", "image", "truth", "crop", "floor"), CROPS)
def test_the_whole_program_keeps_its_score(
    tmp_path: Path, *, name: str, image: str, truth: str, crop: tuple[int, int], floor: float
) -> None:
    """The limit is a little below the bundle's score when it was made, which leaves room for other kernels."""
    if not DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    crops(tmp_path, image=image, truth=truth, crop=crop)
    score = scored(tmp_path, magnet_cli.SegmentOptions(weights=name))
    assert score.miou is not None
    assert score.miou > floor
    assert all(entry.mask for entry in score.classes), "every class is predicted"


def test_there_are_no_vessels_around_a_retina(tmp_path: Path) -> None:
    """Scores leave out what lies outside of the field of view, so they do not show a mask that is wrong there."""
    if not DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    cut = slice(1312, 2336), slice(0, 1024)
    pixels, field = (read(DATA / "hrf" / path)[cut] for path in ("images/04_h.jpg", "fov/04_h_mask.tif"))
    tifffile.imwrite(tmp_path / "corner.tif", pixels, tile=(256, 256), photometric="rgb")
    (result,) = magnet_cli.segment(
        [tmp_path / "corner.tif"], tmp_path / "mask.tif", magnet_cli.SegmentOptions(weights="fundus")
    )
    assert result.error is None
    mask, outside = tifffile.imread(tmp_path / "mask.tif"), (field if field.ndim == 2 else field[..., 0]) == 0
    assert outside.mean() > 0.25
    assert (mask[outside] == 1).mean() < 0.01
    assert (mask[~outside] == 1).mean() > 0.03


@pytest.mark.parametrize(("name", "image", "truth", "crop", "floor"), CROPS)
def test_8_bits_keep_the_score(
    tmp_path: Path, *, name: str, image: str, truth: str, crop: tuple[int, int], floor: float
) -> None:
    if not DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    pytest.importorskip("onnxruntime")
    if not computes_int8():
        pytest.skip("the processor has no instructions for 8 bits")
    crops(tmp_path, image=image, truth=truth, crop=crop)
    score = scored(tmp_path, magnet_cli.SegmentOptions(weights=name, engine="onnxruntime", precision="int8"))
    assert score.miou is not None
    assert score.miou > floor


def read(path: Path) -> NDArray[np.uint8]:
    """Return a whole picture or label map."""
    pixels: NDArray[np.uint8] = tifffile.imread(path) if path.suffix == ".tif" else imagecodecs.imread(path)
    return pixels
