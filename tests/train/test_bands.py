"""A training reads pictures as runs of its bundle do - bands, values, sizes of pixels - or refuses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.engines.quantised_graph import refuse_quantising
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.array import segment_array
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import DataConfig, TrainConfig
from magnet_cli.train.refiner_training import train_refiner
from magnet_cli.train.scene_data import load_scenes
from magnet_cli.train.selector_training import train_selector
from magnet_cli.train.stores import halved
from tests.train.fields import make_bundle
from tests.train.grnet import SELECTOR
from tests.train.support import CONFIG, make_data, pixels_of, validating
from tests.train.test_refiner import CONFIG as REFINER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def named(path: Path, values: NDArray[np.uint8], names: Sequence[str] = ()) -> None:
    """Write a tiled GeoTIFF whose bands have these names."""
    rows, columns, bands = values.shape
    place = rasterio.Affine(1, 0, 7, 0, -1, 9)
    shape = {"width": columns, "height": rows, "count": bands, "dtype": "uint8", "transform": place}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "photometric": "minisblack"}
    with rasterio.open(path, "w", driver="GTiff", **tiles, **shape) as file:
        file.write(values.transpose(2, 0, 1))
        file.descriptions = tuple(names) if names else file.descriptions


@pytest.mark.parametrize("memory", ["2GiB", "1B"])
@pytest.mark.parametrize(
    ("names", "bands", "expected"),
    [
        (("blue", "green", "red", "nir"), ("red", "green", "blue"), (2, 1, 0)),
        (("Blue", "green", "red", "nir"), ("nir", "red", "green", "blue"), (3, 2, 1, 0)),
        (("coastal", "green", "red", "nir"), ("red", "green", "blue"), (0, 1, 2)),
        (("blue", "green", "red", "nir"), None, (0, 1, 2)),
    ],
)
def test_bands_are_found_by_name_as_segment_finds_them(
    tmp_path: Path, *, memory: str, names: tuple[str, ...], bands: tuple[str, ...] | None, expected: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (150, 170, 4), dtype=np.uint8)
    named(tmp_path / "s.tif", values, names)
    tifffile.imwrite(tmp_path / "l.tif", values[..., 0] // 64)
    (tmp_path / "s.csv").write_text("image,label\ns.tif,l.tif\n")
    notes: list[str] = []
    config = DataConfig(memory=memory)
    (scene,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "w", bands=bands, message=notes.append)
    assert scene.pixels.bands == len(expected)
    np.testing.assert_array_equal(pixels_of(scene), values[..., expected])
    np.testing.assert_array_equal(scene.pixels.read(1, Box.whole(scene.pixels.sizes[1])), halved(values[..., expected]))
    first = "coastal, green, red, nir are read as red, green, blue by their first bands"
    assert [first in note for note in notes] == ([True] if names[0] == "coastal" else [])


def test_a_bundle_knows_colours_whatever_the_order_of_bands_was(tmp_path: Path) -> None:
    """The pictures of the training have blue first, and those that are segmented have red first."""
    data = make_data(tmp_path / "data")
    for path in sorted((data / "images").iterdir()):
        label = imagecodecs.imread(data / "labels" / path.name)
        red = np.where(label == 1, 200, 60).astype(np.uint8)
        pixels = np.stack((255 - red, np.full_like(red, 99), red), axis=2)
        named(path.with_suffix(".tif"), pixels, ("blue", "green", "red"))
        path.unlink()
    assert train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG)) is not None
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 60, 195
    pixels[:, 16:, 0], pixels[:, 16:, 2] = 200, 55
    options = SegmentOptions(weights=str(tmp_path / "tiny"), device="cpu", scales="16")
    np.testing.assert_array_equal(segment_array(pixels, options)[16], np.repeat([0, 1], 16))


@pytest.mark.parametrize("span", ["[0, 1]", "[0, 10000]", "[-1, 255]"])
def test_a_range_of_other_pictures_than_those_of_8_bits_is_refused(tmp_path: Path, span: str) -> None:
    text = CONFIG.replace("range = [0, 255]", f"range = {span}")
    with pytest.raises(UsageError, match=r"stored as uint8, which 'magnet segment' would refuse.*range = \[0, 255\]"):
        train_backbone(tmp_path / "data", tmp_path / "tiny", TrainConfig.parse(text))


@pytest.mark.parametrize(
    ("side", "unit", "is_refused"), [(0.5, "m", False), (0.51, "m", False), (0.3, "m", True), (0.5, "um", True)]
)
def test_pixels_of_another_size_than_the_bundles_are_refused(
    tmp_path: Path, *, side: float, unit: str, is_refused: bool
) -> None:
    """A run would read such pictures at the bundle's size, and a training reads them as they are."""
    data = make_data(tmp_path / "data")
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    for path in sorted((data / "images").iterdir()):
        shape = {"width": 40, "height": 48, "count": 3, "dtype": "uint8", "transform": place, "crs": "EPSG:32633"}
        with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", **shape) as file:
            file.write(imagecodecs.imread(path).transpose(2, 0, 1))
        path.unlink()
    text = CONFIG.replace("[bundle]", f'[bundle]\nresolution = {{ value = {side}, unit = "{unit}" }}')
    config = TrainConfig.parse(text)
    if is_refused:
        with pytest.raises(SourceError, match=r"a\.tif: a training reads pictures as they.*got 0.5 x 0.5 m a pixel"):
            train_backbone(data, tmp_path / "tiny", config)
    else:
        assert train_backbone(data, tmp_path / "tiny", config, until=1) is None


def test_prepared_colours_are_refused(tmp_path: Path) -> None:
    """Runs would separate stains before the network, which a training does not do."""
    text = CONFIG.replace("[bundle]", '[bundle]\npreparation = "macenko"')
    with pytest.raises(UsageError, match=r"reads colours as they are stored.*got preparation = 'macenko'"):
        train_backbone(tmp_path / "data", tmp_path / "tiny", TrainConfig.parse(text))
    folder = make_bundle(tmp_path / "bundle", preparation="reinhard")
    with pytest.raises(UsageError, match="reads colours as they are stored"):
        train_refiner(tmp_path / "data", folder, TrainConfig.parse(REFINER))
    with pytest.raises(UsageError, match="reads colours as they are stored"):
        train_selector(tmp_path / "data", folder, TrainConfig.parse(SELECTOR))
    with pytest.raises(UsageError, match="are found on colours as they are stored"):
        refuse_quantising(load_bundle(str(folder)))


def test_a_bundle_of_four_bands_is_trained_and_validated(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    for path in sorted((data / "images").iterdir()):
        pixels = imagecodecs.imread(path)
        named(path.with_suffix(".tif"), pixels[..., [0, 1, 2, 0]], ("nir", "red", "green", "blue"))
        path.unlink()
    text = validating(CONFIG.replace("iterations = 40", "iterations = 2"))
    text = text.replace('bands = ["red", "green", "blue"]', 'bands = ["red", "green", "blue", "nir"]')
    text = text.replace("[0.5, 0.5, 0.5]", "[0.5, 0.5, 0.5, 0.5]").replace("[0.25, 0.25, 0.25]", "[0.2, 0.2, 0.2, 0.2]")
    bundle = train_backbone(data, tmp_path / "tiny", TrainConfig.parse(text))
    assert bundle is not None
    assert bundle.input.bands == ("red", "green", "blue", "nir")
    assert (tmp_path / "tiny.training" / "evaluation.html").is_file()
