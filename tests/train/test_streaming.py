"""Scenes that are too large for memory give the same windows as in memory, with few reads and little memory."""

from __future__ import annotations

import re
import shutil
import tracemalloc
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from magnet_cli import images
from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.protocol import Region, Request
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.scene import Pyramid, write_scene
from magnet_cli.scene import Scene as Painted
from magnet_cli.system.spool import Spool, SpooledRaster
from magnet_cli.train import canvases, temperature
from magnet_cli.train import streams as streaming
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.batches import BatchSampler
from magnet_cli.train.canvases import StoredField
from magnet_cli.train.config import DataConfig, TrainConfig
from magnet_cli.train.crops import CropWindow, cut_window
from magnet_cli.train.refiner_training import train_refiner
from magnet_cli.train.scene_data import layouts_in, load_scenes
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.stores import halvings
from tests.train import fields, test_refiner
from tests.train.support import CONFIG, labels_of, make_data, pixels_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

pytestmark = pytest.mark.full

ROWS, COLUMNS = 517, 389
SMALL = Size(width=16, height=16)


@cache
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)


def halves(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the next level of a pyramid, as this program's scenes have it: an odd edge has a pixel of its own."""
    rows, columns = pixels.shape[0] % 2, pixels.shape[1] % 2
    even = np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="edge").astype(np.uint16)
    sums = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((sums + 2) // 4).astype(np.uint8)


def write_tiff(path: Path, *levels: NDArray[np.uint8], **how: Any) -> None:
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels):
            file.write(level, photometric="rgb", subfiletype=int(number > 0), metadata=None, **how)


def save(folder: Path, kind: str) -> Path:
    """Return a CSV file of one scene, stored in a way of its own."""
    folder.mkdir(exist_ok=True)
    pixels, name = picture(), "s.tif"
    half = halves(pixels)
    if kind == "png":
        name = "s.png"
        imagecodecs.imwrite(folder / name, pixels)
    elif kind == "striped":
        write_tiff(folder / name, pixels, rowsperstrip=7)
    elif kind == "tiled":
        write_tiff(folder / name, pixels, tile=(64, 48))
    elif kind == "pyramid":
        write_tiff(folder / name, pixels, half, halves(half), tile=(64, 64), compression="zlib")
    else:
        name = "s.zarr"
        zarr.create_array(str(folder / name), data=pixels, chunks=(100, 90, 3))
    tifffile.imwrite(folder / "labels.tif", pixels[..., 0] // 64, tile=(128, 128), compression="zlib")
    (folder / "scenes.csv").write_text(f"name,image,label\ns,{name},labels.tif\n")
    return folder / "scenes.csv"


@pytest.fixture(scope="module", params=["png", "striped", "tiled", "pyramid", "zarr"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LabelledScene, LabelledScene]:
    """Return one scene in memory and on disk."""
    path = save(tmp_path_factory.mktemp(request.param), request.param)
    (held,) = load_scenes(path, DataConfig())
    (streamed,) = load_scenes(path, DataConfig(memory="1B"), work=path.parent / "work")
    assert (held.held, streamed.held) == (True, False)
    return held, streamed


places = st.floats(-1500, 1500)
sides = st.floats(3, 900)


@given(x=places, y=places, width=sides, height=sides)
def test_windows_on_disk_are_those_in_memory(
    pair: tuple[LabelledScene, LabelledScene], x: float, y: float, width: float, height: float
) -> None:
    """Windows reach beyond the border, which is mirrored again and again, at every scale."""
    window = CropWindow(x=x, y=y, width=width, height=height)
    (pixels, labels), (again, same) = (cut_window(scene, window, size=SMALL) for scene in pair)
    np.testing.assert_array_equal(again, pixels)
    np.testing.assert_array_equal(same, labels)


def test_batches_are_the_same(pair: tuple[LabelledScene, LabelledScene]) -> None:
    scales = [SMALL, Size(width=64, height=64), Size(width=512, height=512)]
    mean, std = [0.5] * 3, [0.2] * 3
    samplers = [BatchSampler(scenes=[scene], size=SMALL, scales=scales, mean=mean, std=std, batch=6) for scene in pair]
    for index in range(4):
        (patches, labels), (again, same) = (sampler(index) for sampler in samplers)
        assert patches.equal(again)
        assert labels.equal(same)
    np.testing.assert_array_equal(pair[0].labels.counts, pair[1].labels.counts)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_beyond_the_border_lies_the_mirrored_scene(level: int) -> None:
    """A window over the border equals one inside a scene that was mirrored before it was halved."""
    shrink = 2**level
    pixels = np.random.default_rng(6).integers(0, 256, (1024, 1152, 3), dtype=np.uint8)
    wide = np.pad(pixels, ((128, 128), (128, 128), (0, 0)), mode="symmetric")
    scene, larger = (LabelledScene.of("s", pixels=one, labels=one[..., 0].copy()) for one in (pixels, wide))
    for x, y in ((-8, -5), (1152 // shrink - 3, 10), (4, 1024 // shrink - 9), (1152 // shrink - 6, -7)):
        window = CropWindow(x=x * shrink, y=y * shrink, width=16 * shrink, height=16 * shrink)
        inner = replace(window, x=window.x + 128, y=window.y + 128)
        (found, labels), (expected, truth) = (
            cut_window(scene, window, size=SMALL),
            cut_window(larger, inner, size=SMALL),
        )
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(labels, truth)


def test_what_is_not_stored_is_made_once(tmp_path: Path) -> None:
    expected = {"png": (0, 1, 2), "striped": (2,), "tiled": (2,), "pyramid": (), "zarr": (2,)}
    for kind, levels in expected.items():
        (layout,) = layouts_in(save(tmp_path / kind, kind), DataConfig())
        assert layout.spooled == levels, kind


def test_a_run_of_the_program_reads_the_same(pair: tuple[LabelledScene, LabelledScene]) -> None:
    request = Request(pitch=Pitch.square(1), box=Box(x=100, y=200, width=180, height=150))
    held, streamed = (scene.pixels.sample(request) for scene in pair)
    np.testing.assert_array_equal(streamed, held)
    np.testing.assert_array_equal(held, picture()[200:350, 100:280])


def test_parts_of_a_grid_are_put_together_on_disk_too(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / "town" / name).mkdir(parents=True)
    lines = np.array_split(picture(), 3, axis=0)
    for number, part in enumerate(part for line in lines for part in np.array_split(line, 2, axis=1)):
        imagecodecs.imwrite(tmp_path / "town" / "images" / f"{number}.png", part)
        imagecodecs.imwrite(tmp_path / "town" / "labels" / f"{number}.png", part[..., 0] // 64)
    config = DataConfig(scenes=("town",), grid=(3, 2), label_values={"3": 0}, memory="1B")
    (town,) = load_scenes(tmp_path, config, work=tmp_path / "work")
    np.testing.assert_array_equal(pixels_of(town), picture())
    np.testing.assert_array_equal(labels_of(town), np.array([0, 1, 2, 0])[picture()[..., 0] // 64])
    assert list((tmp_path / "work").iterdir()) == [], "nothing bears a name"


@pytest.mark.parametrize("memory", ["2GiB", "1B"])
def test_pixels_without_data_say_nothing(tmp_path: Path, memory: str) -> None:
    alpha = np.full((ROWS, COLUMNS, 1), 255, np.uint8)
    alpha[100:300, 50:90] = 0
    imagecodecs.imwrite(tmp_path / "s.png", np.concatenate((picture(), alpha), axis=2))
    labels = picture()[..., 0] // 64
    imagecodecs.imwrite(tmp_path / "labels.png", labels)
    inside = np.zeros((ROWS, COLUMNS), np.uint8)
    inside[20:] = 1
    imagecodecs.imwrite(tmp_path / "roi.png", inside)
    (tmp_path / "s.csv").write_text("image,label,roi\ns.png,labels.png,roi.png\n")
    (scene,) = load_scenes(tmp_path / "s.csv", DataConfig(memory=memory, ignore=9), work=tmp_path / "work")
    expected = np.where((alpha[..., 0] > 0) & (inside > 0), labels, 9)
    np.testing.assert_array_equal(labels_of(scene), expected)
    np.testing.assert_array_equal(scene.labels.counts, np.bincount(expected.ravel(), minlength=256))
    assert scene.pixels.bands == 3


@pytest.mark.parametrize("memory", ["2GiB", "1B"])
def test_a_mask_that_something_else_found_is_read_beside_the_labels(tmp_path: Path, memory: str) -> None:
    mask = np.random.default_rng(1).integers(0, 4, (ROWS, COLUMNS)).astype(np.uint8)
    for name, values in (("s", picture()), ("labels", picture()[..., 0] // 64), ("mask", mask)):
        imagecodecs.imwrite(tmp_path / f"{name}.png", values)
    (tmp_path / "s.csv").write_text("image,label,mask\ns.png,labels.png,mask.png\n")
    config = DataConfig(memory=memory, label_values={"3": 0})
    (scene,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work")
    assert scene.mask is not None
    np.testing.assert_array_equal(scene.mask.at(np.arange(ROWS), np.arange(COLUMNS)), mask)
    np.testing.assert_array_equal(scene.mask.counts, np.bincount(mask.ravel(), minlength=256))
    imagecodecs.imwrite(tmp_path / "mask.png", mask ^ 1)
    (other,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work")
    assert other.digest != scene.digest
    imagecodecs.imwrite(tmp_path / "mask.png", mask[1:])
    with pytest.raises(SourceError, match=r"mask\.png: the size must be that of s.* Choose the mask that was made"):
        load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work")


@pytest.mark.parametrize("memory", ["2GiB", "1B"])
def test_what_does_not_fit_is_refused_before_it_is_decoded(tmp_path: Path, memory: str) -> None:
    path, config = save(tmp_path, "tiled"), DataConfig(memory=memory)
    tifffile.imwrite(tmp_path / "labels.tif", picture()[:-1, :, 0] // 64)
    with pytest.raises(SourceError, match=r"differ in size \(got 389x517 and 389x516"):
        load_scenes(path, config)
    tifffile.imwrite(tmp_path / "labels.tif", np.full((ROWS, COLUMNS), 256, np.uint16))
    with pytest.raises(SourceError, match=r"labels\.tif: a label is a whole number from 0 to 255 \(got 256\)"):
        load_scenes(path, config)
    write_tiff(tmp_path / "s.tif", picture().astype(np.uint16))
    with pytest.raises(SourceError, match=r"8 bits a band \(got uint16\)"):
        load_scenes(path, config)
    (tmp_path / "s.tif").write_bytes(b"\x00\x00\x00\x0cjP  \r\n\x87\n")
    with pytest.raises(SourceError, match="holds no codestream"):
        load_scenes(path, config)


def test_a_disk_that_is_too_small_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "tiled")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(OutputError, match=r"of disk.*got 97\.7 KiB free.*\[data\] memory of"):
        load_scenes(path, DataConfig(memory="1B"), work=tmp_path / "work")
    bundle, data = fields.make_bundle(tmp_path / "tiny"), fields.make_data(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(OutputError, match=r"2 held-out scenes, 4,400 pixels, need up to .* of that area fits"):
        train_refiner(data, bundle, TrainConfig.parse(test_refiner.CONFIG))


def test_what_stays_zero_takes_no_disk_and_reads_as_zero(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second = (SpooledRaster(spool, Size(width=700, height=600), bands=1) for _ in range(2))
    line = np.full((1, 700, 1), 7, np.uint8)
    second.write(300, line)
    expected = np.zeros((3, 300, 1))
    expected[1] = 7
    np.testing.assert_array_equal(second.read(Box(x=250, y=299, width=300, height=3)), expected)
    assert not first.read(Box(x=0, y=0, width=700, height=600)).any()
    assert not second.read(Box(x=600, y=590, width=100, height=10)).any()


def test_few_images_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[images.Image] = []
    closed: list[str] = []
    really = images.open_image

    def shut(path: Path, close: Callable[[], None]) -> None:
        closed.append(path.name)
        close()

    def open_image(path: Path) -> images.Image:
        image = really(path)
        close = image.close
        monkeypatch.setattr(image, "close", lambda: shut(path, close))
        opened.append(image)
        return image

    paths = [tmp_path / f"{number}.tif" for number in range(5)]
    for path in paths:
        write_tiff(path, picture()[:64, :64], tile=(64, 64))
    shelf = streaming.Shelf(2 * images.inspect(paths[0]).resident_bytes)
    monkeypatch.setattr(images, "open_image", open_image)
    for path in (*paths, paths[-1], paths[0]):
        shelf.read(path, Request(pitch=Pitch.square(1), box=Box(x=0, y=0, width=8, height=8)))
    assert len(opened) == 6
    assert closed == ["0.tif", "1.tif", "2.tif", "3.tif"]


LARGE = Size(width=6144, height=4608)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV file of a painted scene of 28 megapixels, 142 MB decoded, without and with stored levels."""
    folder = tmp_path_factory.mktemp("large")
    scene = Painted(size=LARGE, seed=1)
    write_scene(folder / "levels.tif", scene, labels_path=folder / "labels.tif")
    write_scene(folder / "plain.tif", scene, pyramid=Pyramid(levels=1))
    lines = [f"{name}.tif,labels.tif" for name in ("levels", "plain")]
    (folder / "scenes.csv").write_text("\n".join(["image,label", *lines]))
    return folder / "scenes.csv"


LABELS = 5
IN_PIECES = 'memory = "1MiB"\nscenes = ["levels"]'


def config_of(name: str) -> TrainConfig:
    """Return the tiny training of five classes on windows of 64 to 4096 pixels, resampled to 64."""
    names = ", ".join(f'{{ name = "{label}", color = "#{label:06d}" }}' for label in range(LABELS))
    scales = ", ".join(f"{{ width = {side}, height = {side} }}" for side in (64, 512, 4096))
    text = re.sub("^classes = .*$", f"classes = [{names}]", CONFIG, flags=re.MULTILINE)
    text = re.sub("^scales = .*$", f"scales = [{scales}]", text, flags=re.MULTILINE)
    text = re.sub("^size = .*$", "size = { width = 64, height = 64 }", text, flags=re.MULTILINE)
    text = text.replace("colour = 0.0", f'memory = "1MiB"\nscenes = ["{name}"]')
    return TrainConfig.parse(text.replace("iterations = 40", "iterations = 6"))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Return what is read from images while windows are drawn."""
    asked: list[Request] = []
    read = streaming.Shelf.read

    def spied(shelf: streaming.Shelf, path: Path, request: Request) -> Region:
        asked.append(request)
        return read(shelf, path, request)

    monkeypatch.setattr(streaming.Shelf, "read", spied)
    return asked


@pytest.mark.parametrize("name", ["levels", "plain"])
def test_a_large_scene_trains_in_little_memory(
    tmp_path: Path, large: Path, requests: list[Request], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 4 << 20)
    config = config_of(name)
    tracemalloc.start()
    bundle = train_backbone(large, tmp_path / "tiny", config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bundle is not None
    decoded = sum(size.pixels for size in halvings(LARGE)) * 3 + LARGE.pixels
    assert peak < decoded / 2, f"{peak:,} of {decoded:,} bytes"
    windows = [one.box.area for one in requests if one.box.width < LARGE.width // 2]
    if name == "levels":
        assert len(windows) == len(requests) == 6 * 4
        assert {one.pitch.x for one in requests} > {1, 64}
    # A halving is less than twice as fine as the window asks for, whatever the window's side.
    assert max(windows) <= 129 * 129


def test_stopped_and_continued_equals_never_stopped_on_disk_too(tmp_path: Path, large: Path) -> None:
    config = config_of("levels")
    train_backbone(large, tmp_path / "whole", config)
    assert train_backbone(large, tmp_path / "parts", config, until=2) is None
    train_backbone(large, tmp_path / "parts", config)
    first, second = (load_file(tmp_path / name / "backbone.safetensors") for name in ("whole", "parts"))
    assert all(first[key].equal(second[key]) for key in first)


def test_memory_changes_neither_weights_nor_what_a_checkpoint_is_of(tmp_path: Path) -> None:
    data, text = make_data(tmp_path / "data"), CONFIG.replace("colour = 0.0", 'colour = 0.0\nmemory = "1B"')
    train_backbone(data, tmp_path / "held", TrainConfig.parse(CONFIG))
    train_backbone(data, tmp_path / "streamed", TrainConfig.parse(text))
    first, second = ((tmp_path / name / "backbone.safetensors").read_bytes() for name in ("held", "streamed"))
    assert first == second
    train_backbone(data, tmp_path / "other", TrainConfig.parse(CONFIG), until=2)
    train_backbone(
        data, tmp_path / "other", TrainConfig.parse(CONFIG.replace("[data]", '[data]\nmemory = "1GiB"')), until=3
    )
    with pytest.raises(UsageError, match=r"\[scenes\] held was true"):
        train_backbone(data, tmp_path / "other", TrainConfig.parse(text))


def test_a_refiner_learns_the_same_from_disk(tmp_path: Path) -> None:
    data, shas = fields.make_data(tmp_path / "data"), []
    for memory in ("2GiB", "1B"):
        text = test_refiner.CONFIG.replace("colour = 0.0", f'colour = 0.0\nmemory = "{memory}"')
        output = fields.make_bundle(tmp_path / f"tiny-{memory}")
        shas.append(train_refiner(data, output, TrainConfig.parse(text)).refiners[0].sha256)
        assert list((tmp_path / f"tiny-{memory}.refiner-training" / "scratch").iterdir()) == []
    assert shas[0] == shas[1]


def test_fields_of_a_large_scene_are_read_in_pieces(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps from the first field to the scores read pieces, and scratch fields of an earlier run are removed."""
    read, boxes = StoredField.read, list[Box]()

    def spied(field: StoredField, box: Box) -> Tensor:
        boxes.append(box)
        return read(field, box)

    monkeypatch.setattr(StoredField, "read", spied)
    monkeypatch.setattr(canvases, "STRIP_BYTES", 1 << 20)
    monkeypatch.setattr(temperature, "MOST_PIXELS", 5000)
    text = test_refiner.CONFIG.split("[folds]", maxsplit=1)[0].replace("colour = 0.0", IN_PIECES)
    text = text.replace('"shared"', '"conv"').replace("options = { width = 4 }", "")
    output = tmp_path / "tiny"
    network = build_backbone("conv", classes=LABELS, bands=3, options={})
    write_bundle(output, describe(size=256, scales=(1024, 2048), classes=LABELS), {"backbone.safetensors": network})
    left = tmp_path / "tiny.refiner-training" / "scratch" / "left.npy"
    left.parent.mkdir(parents=True)
    left.touch()
    bundle = train_refiner(large, output, TrainConfig.parse(text))
    finest = LARGE.pixels // 16
    assert bundle.metrics["own_scenes"]["backbone"]["1024x1024"]["pixels"] <= 5001
    assert max(box.area for box in boxes) <= 256 * 256
    assert sum(box.area for box in boxes) > 4 * finest
    assert not left.exists()
