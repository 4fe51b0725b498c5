"""Scenes and windows of them are read and drawn as configured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli import images
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images import CacheBudget, Region, Request
from magnet_cli.images.reader import PyramidImage
from magnet_cli.refinement.image_view import ImageView
from magnet_cli.train.batches import BatchSampler, recoloured, without_borders
from magnet_cli.train.config import DataConfig
from magnet_cli.train.crops import CropWindow, cut_window, draw_window
from magnet_cli.train.scene_data import layouts_in, load_scenes, split_scenes
from magnet_cli.train.scene_files import Pictures
from magnet_cli.train.scenes import LabelledScene
from tests.train.support import labels_of, pixels_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def picture(rows: int, columns: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def scene(rows: int = 40, columns: int = 56) -> LabelledScene:
    pixels = picture(rows, columns)
    return LabelledScene.of("s", pixels=pixels, labels=pixels[..., 0] // 64)


def save_parts(folder: Path, whole: NDArray[np.uint8], *, rows: int, columns: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    lines = np.array_split(whole, rows, axis=0)
    parts = [part for line in lines for part in np.array_split(line, columns, axis=1)]
    for index, part in enumerate(parts, start=1):
        imagecodecs.imwrite(folder / "images" / f"p_{index:03d}.png", part)
        imagecodecs.imwrite(folder / "labels" / f"p_{index:03d}.png", part[..., 0] // 64)


def test_parts_of_a_grid_become_one_scene(tmp_path: Path) -> None:
    whole = picture(31, 47)
    save_parts(tmp_path / "town", whole, rows=3, columns=2)
    (found,) = load_scenes(tmp_path, DataConfig(scenes=("town",), grid=(3, 2)))
    assert found.name == "town"
    np.testing.assert_array_equal(pixels_of(found), whole)
    np.testing.assert_array_equal(labels_of(found), whole[..., 0] // 64)


def test_a_grid_needs_folders_of_crops(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=2)
    with pytest.raises(UsageError, match=r"grid describes crops in the folders.*got grid = \[1, 2\], no scenes"):
        load_scenes(tmp_path, DataConfig(grid=(1, 2)))
    table = listing(tmp_path, "image,label\nimages/p_002.png,labels/p_002.png\n")
    with pytest.raises(UsageError, match="a CSV file"):
        load_scenes(table, DataConfig(scenes=("p_002",), grid=(1, 2)))


def test_each_picture_is_a_scene_without_a_grid(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=2)
    assert [pixels_of(found).shape for found in load_scenes(tmp_path, DataConfig())] == [(20, 10, 3)] * 2


def test_a_list_of_pairs(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=2)
    table = tmp_path / "pairs.csv"
    table.write_text("image,label\nimages/p_002.png,labels/p_002.png\n")
    (found,) = load_scenes(table, DataConfig())
    assert found.name == "p_002"
    table.write_text("name,image,label\ntown,images/p_001.png,labels/p_001.png\n")
    assert [found.name for found in load_scenes(table, DataConfig())] == ["town"]
    with pytest.raises(SourceError, match=r"none\.csv: the list cannot be read \(got No such file.*Check the path"):
        load_scenes(tmp_path / "none.csv", DataConfig())
    with pytest.raises(UsageError, match=r"subfolders of a folder.*images = 'pictures', labels = 'labels'"):
        load_scenes(tmp_path / "none.csv", DataConfig(images="pictures"))
    (tmp_path / "latin.csv").write_bytes("image,label\nB\u00e4ume.png,x.png".encode("latin-1"))
    with pytest.raises(SourceError, match=r"latin\.csv: cannot be read as a CSV file: .*in UTF-8"):
        load_scenes(tmp_path / "latin.csv", DataConfig())
    table.write_text("picture\nx\n")
    with pytest.raises(SourceError, match="image and label"):
        load_scenes(table, DataConfig())


def listing(folder: Path, text: str) -> Path:
    """Return a CSV file beside pictures `p_001` to `p_004`, of 10 x 10 pixels each."""
    if not (folder / "images").exists():
        save_parts(folder, picture(20, 20), rows=2, columns=2)
    (folder / "scenes.csv").write_text(text, encoding="utf-8")
    return folder / "scenes.csv"


def test_scenes_of_a_list_are_chosen_by_name_and_the_others_left_alone(tmp_path: Path) -> None:
    names = ["north", "south", "east"]
    lines = [f"{name},images/p_00{number}.png,labels/p_00{number}.png" for number, name in enumerate(names, start=1)]
    table = listing(tmp_path, "\n".join(["\ufeffname,image,label", *lines, "west,missing.png,missing.png"]))
    config = DataConfig(scenes=("east", "north"), validation=("north",))
    found = load_scenes(table, config)
    assert [one.name for one in found] == ["east", "north"]
    np.testing.assert_array_equal(pixels_of(found[1]), picture(20, 20)[:10, :10])
    training, validation = split_scenes(found, config)
    assert ([one.name for one in training], [one.name for one in validation]) == (["east"], ["north"])
    with pytest.raises(UsageError, match=r"got up.*Choose from north, south, east, west"):
        load_scenes(table, DataConfig(scenes=("east", "up")))


def test_scenes_to_validate_on_are_known_and_leave_something() -> None:
    with pytest.raises(UsageError, match=r"got t.*Choose from s"):
        split_scenes([scene()], DataConfig(validation=("t",)))
    with pytest.raises(UsageError, match="leaves nothing"):
        split_scenes([scene()], DataConfig(validation=("s",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,image,label\na,images/p_001.png,labels/p_001.png\na,images/p_002.png,labels/p_002.png",
            "own name.*got a, 2 times",
        ),
        ("image,label\nimages/p_001.png,labels/p_001.png\nsub/p_001.png,labels/p_002.png", "own name.*got p_001, 2"),
        ("image,label\nimages/p_001.png", "line 2 has nothing in the column label"),
        ("image,label\n,labels/p_001.png", "line 2 has nothing in the column image"),
        ("image,label,rois\nimages/p_001.png,labels/p_001.png,", "almost like the column roi.*got 'rois'.*Name it roi"),
        ("image,label,correction\nimages/p_001.png,labels/p_001.png,", "almost like the column corrections"),
        ("image,label,Label\nimages/p_001.png,labels/p_001.png,x", "a column occurs twice .got label"),
        ("image,label\nimages/p_001.png,labels/p_001.png,roi.png", "line 2 has more values than the first line"),
    ],
)
def test_a_list_that_is_not_clear_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_scenes(listing(tmp_path, text), DataConfig())


def test_columns_may_have_capitals_and_others_are_left_alone(tmp_path: Path) -> None:
    text = "Image,LABEL,labels,image_id,\nimages/p_001.png,labels/p_001.png,7,8,"
    (found,) = load_scenes(listing(tmp_path, text), DataConfig())
    assert found.name == "p_001"


@pytest.mark.parametrize("column", ["roi", "mask"])
def test_a_raster_of_another_place_is_refused(tmp_path: Path, column: str) -> None:
    values = np.ones((20, 20), np.uint8)
    for name, left in (("image", 500_000.0), ("label", 500_000.0), ("roi", 500_007.0), ("mask", 500_007.0)):
        place = rasterio.Affine(1, 0, left, 0, -1, 4_000_000.0)
        shape = {"width": 20, "height": 20, "count": 1, "dtype": "uint8", "crs": "EPSG:32633", "transform": place}
        with rasterio.open(tmp_path / f"{name}.tif", "w", driver="GTiff", **shape) as file:
            file.write(values, 1)
    (tmp_path / "s.csv").write_text(f"image,label,{column}\nimage.tif,label.tif,{column}.tif\n")
    with pytest.raises(SourceError, match=rf"{column}\.tif: by its georeference this does not lie where .*image\.tif"):
        load_scenes(tmp_path / "s.csv", DataConfig())


@pytest.mark.parametrize("memory", ["2GiB", "1B"])
def test_nodata_and_255_are_unlabelled_whatever_else_is(tmp_path: Path, memory: str) -> None:
    """A mask of this program has 255 where nothing was computed, and a label map may have a nodata value."""
    stored = np.random.default_rng(3).choice(np.array([0, 1, 2, 9, 255], np.uint8), (20, 20))
    imagecodecs.imwrite(tmp_path / "s.png", picture(20, 20))
    place = rasterio.Affine(1, 0, 7, 0, -1, 9)
    shape = {"width": 20, "height": 20, "count": 1, "dtype": "uint8", "nodata": 2, "transform": place}
    with rasterio.open(tmp_path / "l.tif", "w", driver="GTiff", **shape) as file:
        file.write(stored, 1)
    (tmp_path / "s.csv").write_text("image,label\ns.png,l.tif\n")
    (found,) = load_scenes(tmp_path / "s.csv", DataConfig(ignore=9, memory=memory), work=tmp_path / "work")
    np.testing.assert_array_equal(labels_of(found), np.where(np.isin(stored, (2, 255)), 9, stored))


def test_stored_values_become_classes_then_the_region_is_cut_out(tmp_path: Path) -> None:
    table = listing(tmp_path, "image,label,roi\nimages/p_001.png,labels/mask.png,roi.png")
    stored = np.random.default_rng(3).choice(np.array([0, 7, 255], np.uint8), (10, 10))
    region = np.zeros((10, 10, 3), np.uint8)
    region[2:, :6, 0] = 255
    region[..., 1] = 255
    imagecodecs.imwrite(tmp_path / "labels" / "mask.png", stored)
    imagecodecs.imwrite(tmp_path / "roi.png", region)
    (found,) = load_scenes(table, DataConfig(label_values={"255": 1}, ignore=9))
    expected = np.full((10, 10), 9)
    expected[2:, :6] = np.choose(np.searchsorted([0, 7, 255], stored[2:, :6]), [0, 7, 1])
    np.testing.assert_array_equal(labels_of(found), expected)
    imagecodecs.imwrite(tmp_path / "roi.png", region[1:])
    with pytest.raises(SourceError, match=r"roi\.png: the size must be that of p_001.* Choose the roi that was made"):
        load_scenes(table, DataConfig())


def test_stored_values_of_a_folder_become_classes(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=1)
    (plain,) = load_scenes(tmp_path, DataConfig())
    (found,) = load_scenes(tmp_path, DataConfig(label_values={"3": 0, "0": 3}))
    np.testing.assert_array_equal(labels_of(found), np.array([3, 1, 2, 0])[labels_of(plain)])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="images and labels"):
        load_scenes(tmp_path, DataConfig())
    save_parts(tmp_path, picture(20, 20), rows=2, columns=2)
    with pytest.raises(SourceError, match="2 x 3 parts"):
        load_scenes(tmp_path.parent, DataConfig(scenes=(tmp_path.name,), grid=(2, 3)))
    (tmp_path / "labels" / "p_003.png").unlink()
    with pytest.raises(SourceError, match=r"p_003\.png: this picture has no label map"):
        load_scenes(tmp_path, DataConfig())


def test_what_lies_beside_pictures_is_left_alone_and_grey_has_one_band(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20)[..., :1].repeat(3, axis=2), rows=1, columns=1)
    imagecodecs.imwrite(tmp_path / "images" / "p_001.png", picture(20, 20)[..., 0].copy())
    for folder, name in (("images", ".DS_Store"), ("images", "p_001.tfw"), ("labels", "p_001.png.aux.xml")):
        (tmp_path / folder / name).touch()
    (tmp_path / "labels" / "p_001.txt").touch()
    (found,) = load_scenes(tmp_path, DataConfig())
    np.testing.assert_array_equal(pixels_of(found), picture(20, 20)[..., :1])


def test_parts_of_one_name_in_two_folders_are_two_scenes(tmp_path: Path) -> None:
    for town in ("north", "south"):
        save_parts(tmp_path / town, picture(20, 20), rows=1, columns=1)
    found = load_scenes(tmp_path, DataConfig(scenes=("north", "south")))
    assert [scene.name for scene in found] == ["north/p_001", "south/p_001"]


def test_two_label_maps_of_one_picture_are_refused(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=1)
    imagecodecs.imwrite(tmp_path / "labels" / "p_001.tif", np.zeros((20, 20), np.uint8))
    with pytest.raises(SourceError, match=r"p_001\.png: this picture has several label maps.*p_001\.png, p_001\.tif"):
        load_scenes(tmp_path, DataConfig())


def test_pixels_and_their_validity_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate((picture(20, 30), np.full((20, 30, 1), 255, np.uint8)), axis=2)
    whole[5:9, 3:20, 3] = 0
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, part in (("a", whole[:, :10]), ("b", whole[:, 10:])):
        imagecodecs.imwrite(tmp_path / "images" / f"{name}.png", np.ascontiguousarray(part))
        imagecodecs.imwrite(tmp_path / "labels" / f"{name}.png", np.zeros(part.shape[:2], np.uint8))
    asked: list[Box] = []
    read = PyramidImage.read

    def counted(image: PyramidImage, requests: Sequence[Request]) -> list[Region]:
        asked.extend(request.box for request in requests)
        return read(image, requests)

    config = DataConfig(scenes=(".",), grid=(1, 2))
    (layout,) = layouts_in(tmp_path, config)
    monkeypatch.setattr(PyramidImage, "read", counted)
    with Pictures(layout, cache=CacheBudget(folder=tmp_path, max_bytes=1 << 30)) as pictures:
        pixels, valid = pictures.part(Box(x=4, y=2, width=20, height=10))
    assert asked == [Box(x=4, y=2, width=6, height=10), Box(x=0, y=2, width=14, height=10)]
    present = whole[2:12, 4:24, 3] > 0
    assert valid is not None
    np.testing.assert_array_equal(valid, present)
    np.testing.assert_array_equal(pixels[present], whole[2:12, 4:24, :3][present])


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=1)
    imagecodecs.imwrite(tmp_path / "images" / "p_001.webp", picture(20, 20))
    with pytest.raises(SourceError, match=r"one name.*got p_001"):
        load_scenes(tmp_path, DataConfig())


def test_a_window_of_whole_pixels_is_the_picture() -> None:
    one = scene()
    pixels, labels = cut_window(one, CropWindow(x=8, y=4, width=16, height=16), size=Size(width=16, height=16))
    np.testing.assert_array_equal(pixels, pixels_of(one)[4:20, 8:24])
    np.testing.assert_array_equal(labels, labels_of(one)[4:20, 8:24])


def test_a_larger_window_is_averaged_by_area() -> None:
    one = LabelledScene.of("s", pixels=picture(256, 256), labels=np.zeros((256, 256), np.uint8))
    pixels, _ = cut_window(one, CropWindow(x=0, y=64, width=128, height=128), size=Size(width=32, height=32))
    expected = pixels_of(one)[64:192, :128].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(pixels - expected).max() <= 1.0


def test_beyond_the_edge_the_picture_is_mirrored() -> None:
    one = scene(8, 8)
    pixels, labels = cut_window(one, CropWindow(x=-3, y=-11, width=16, height=16), size=Size(width=16, height=16))
    tall = np.pad(pixels_of(one), ((11, 0), (3, 5), (0, 0)), mode="symmetric")[:16]
    np.testing.assert_array_equal(pixels, tall)
    np.testing.assert_array_equal(labels, tall[..., 0] // 64)


def test_drawn_windows_stay_inside_where_they_fit() -> None:
    rng = np.random.default_rng(0)
    one = scene(100, 80)
    for _ in range(200):
        window = draw_window(one, rng, scales=[Size(width=20, height=20), Size(width=160, height=160)], jitter=1.4)
        low, high = min(0, 80 - window.width), max(0, 80 - window.width)
        assert low <= window.x <= high
        assert 20 / 1.41 <= window.width <= 160 * 1.41


def sampler(*, seed: int) -> BatchSampler:
    size = Size(width=16, height=16)
    return BatchSampler(scenes=[scene()], size=size, scales=[size], mean=[0.5] * 3, std=[0.5] * 3, batch=3, seed=seed)


def test_a_batch_is_a_function_of_seed_and_index() -> None:
    first, again, other = sampler(seed=1)(7), sampler(seed=1)(7), sampler(seed=2)(7)
    assert first[0].shape == (3, 3, 16, 16)
    assert first[0].equal(again[0])
    assert first[1].equal(again[1])
    assert not first[0].equal(other[0])


def test_turns_keep_labels_on_their_pixels() -> None:
    one = scene()
    size = Size(width=16, height=16)
    plain = BatchSampler(
        scenes=[one], size=size, scales=[size], mean=[0.0] * 3, std=[1 / 255] * 3, jitter=1.0, colour=0, batch=8
    )
    patches, labels = plain(0)
    assert (patches[:, 0].round() // 64).long().equal(labels)


def test_no_strength_changes_no_colour() -> None:
    pixels = picture(5, 6).astype(np.float32) / np.float32(255)
    np.testing.assert_allclose(recoloured(pixels, np.random.default_rng(0), strength=0), pixels, atol=1e-5)
    assert np.abs(recoloured(pixels, np.random.default_rng(0), strength=1) - pixels).max() > 0.01


def test_windows_that_are_drawn_for_a_class_give_rare_classes_their_share() -> None:
    labels = np.zeros((256, 256), np.uint8)
    labels[190:222, 40:72] = 1
    labels[:8, :8] = 255
    one = LabelledScene.of("one", pixels=np.zeros((256, 256, 3), np.uint8), labels=labels)
    size = Size(width=32, height=32)

    def share(rare: float) -> float:
        sampler = BatchSampler(
            scenes=[one], size=size, scales=[size], mean=[0.0] * 3, std=[1.0] * 3, colour=0, rare=rare, batch=64
        )
        return float((sampler(0)[1] == 1).float().mean())

    assert share(0.0) < 0.03
    assert share(1.0) > 2.5 * share(0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), width=st.integers(1, 3))
def test_labels_near_another_class_are_ignored(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.choice([0, 1, 2, 255], (4, 5)), np.ones((5, 4))).astype(np.uint8)
    found = without_borders(labels, width=width, ignore=255)
    for y, x in np.ndindex(labels.shape):
        around = labels[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        classes = set(around.ravel().tolist()) - {255}
        assert found[y, x] == (255 if len(classes) > 1 else labels[y, x])


def test_a_scene_that_changes_while_it_is_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_parts(tmp_path, picture(20, 20), rows=1, columns=1)
    label = tmp_path / "labels" / "p_001.png"

    def meddling(_: object) -> None:
        label.write_bytes(label.read_bytes() + b"more")

    monkeypatch.setattr("magnet_cli.train.scene_data.read_mask", meddling)
    with pytest.raises(SourceError, match="changed while it was read") as caught:
        load_scenes(tmp_path, DataConfig())
    assert caught.value.file == str(label)


def test_a_picture_with_two_bands_of_a_name_is_refused_with_what_a_training_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "s.tif", np.ones((20, 20, 4), np.uint8), photometric="rgb", extrasamples=[0])
    read = images.inspect
    named = ("red", "green", "blue", "red")
    monkeypatch.setattr(images, "inspect", lambda *args, **how: replace(read(*args, **how), bands=named))
    imagecodecs.imwrite(tmp_path / "l.png", np.ones((20, 20), np.uint8))
    (tmp_path / "s.csv").write_text("image,label\ns.tif,l.png\n")
    with pytest.raises(SourceError, match="the image has 2 bands of that name") as caught:
        load_scenes(tmp_path / "s.csv", DataConfig(), bands=("red", "green", "blue"))
    assert "--bands" not in str(caught.value)  # `magnet train` has no such option
    assert "gdal_translate -b" in str(caught.value)
    assert caught.value.file == str(tmp_path / "s.tif")


def without_data_at_the_top(folder: Path) -> NDArray[np.uint8]:
    """Write `s.csv` with a scene whose first seven rows have no data, and return its pixels."""
    pixels = picture(20, 20)
    pixels[:7] = 3
    tags = [(42113, 2, 0, "3", True)]
    tifffile.imwrite(folder / "s.tif", pixels, photometric="rgb", tile=(16, 16), extratags=tags)
    imagecodecs.imwrite(folder / "l.png", np.ones((20, 20), np.uint8))
    (folder / "s.csv").write_text("image,label\ns.tif,l.png\n")
    return pixels


@pytest.mark.parametrize("memory", ["4GiB", "1B"])
def test_pixels_without_data_are_the_mean_as_in_a_run(tmp_path: Path, memory: str) -> None:
    pixels = without_data_at_the_top(tmp_path)
    config, mean = DataConfig(ignore=9, memory=memory), (0.5, 0.25, 0.1)
    (found,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work", mean=mean)
    pixels[:7] = (128, 64, 26)
    np.testing.assert_array_equal(pixels_of(found), pixels)
    assert (labels_of(found)[:7] == 9).all()


@pytest.mark.parametrize("memory", ["4GiB", "1B"])
@pytest.mark.parametrize("name", ["s.tif", "s.png"])
@pytest.mark.parametrize("mean", [(0.5, 0.25, 0.1), None])
def test_windows_are_averaged_from_data_alone_as_in_a_run(
    tmp_path: Path, memory: str, name: str, mean: tuple[float, ...] | None
) -> None:
    pixels = np.full((300, 310, 3), 200, np.uint8)
    holding = np.ones((300, 310), np.bool_)
    holding[:77] = holding[:, 131:145] = holding[201:, 90:] = False
    holding[150:160:2] = False
    pixels[~holding] = 3
    if name == "s.tif":
        tags = [(42113, 2, 0, "3", True)]
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", tile=(64, 64), extratags=tags)
    else:
        imagecodecs.imwrite(tmp_path / name, np.dstack([pixels, holding * np.uint8(255)]))
    imagecodecs.imwrite(tmp_path / "l.png", np.ones((300, 310), np.uint8))
    (tmp_path / "s.csv").write_text(f"image,label\n{name},l.png\n")
    config = DataConfig(memory=memory)
    (scene,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work", mean=mean)
    missing = (0, 0, 0) if mean is None else (128, 64, 26)
    for side in (20, 33, 64, 100, 150, 290):
        for corner in (-11, 0, 3, 60.5):
            window = CropWindow(x=corner, y=corner, width=side, height=side)
            found = cut_window(scene, window, size=Size(width=32, height=32))[0].reshape(-1, 3)
            is_data = np.isclose(found, 200, atol=1e-3).all(axis=1)
            assert (is_data | np.isclose(found, missing, atol=1e-3).all(axis=1)).all()
    with images.open_image(tmp_path / name) as image:
        for pitch in (1, 2, 3, 8):
            box = Box.whole(Pitch.square(pitch).cover(image.info.size))
            region = image.read([Request(pitch=Pitch.square(pitch), box=box)])[0]
            run = region.pixels.copy()
            if region.valid is not None:
                run[~region.valid] = missing
            np.testing.assert_array_equal(scene.pixels.sample(Request(pitch=Pitch.square(pitch), box=box)), run)


@pytest.mark.parametrize("memory", ["4GiB", "1B"])
def test_a_halving_of_data_beside_none_is_that_of_a_run(tmp_path: Path, memory: str) -> None:
    pixels = picture(160, 200)
    pixels[:61, 50:] = pixels[90:101] = 3
    tags = [(42113, 2, 0, "3", True)]
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="rgb", tile=(64, 64), extratags=tags)
    imagecodecs.imwrite(tmp_path / "l.png", np.ones((160, 200), np.uint8))
    (tmp_path / "s.csv").write_text("image,label\ns.tif,l.png\n")
    config = DataConfig(memory=memory)
    (scene,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work", mean=(0.5, 0.25, 0.1))
    box = Box.whole(scene.pixels.sizes[1])
    found, valid = scene.pixels.part(1, box)
    with images.open_image(tmp_path / "s.tif") as image:
        region = image.read([Request(pitch=Pitch.square(2), box=box)])[0]
    assert region.valid is not None
    np.testing.assert_array_equal(valid, region.valid)
    np.testing.assert_array_equal(found[region.valid], region.pixels[region.valid])
    assert (found[~region.valid] == (128, 64, 26)).all()


def test_a_cascade_gets_the_values_of_its_runs_where_there_are_no_data(tmp_path: Path) -> None:
    without_data_at_the_top(tmp_path)
    (scene,) = load_scenes(tmp_path / "s.csv", DataConfig(), bands=("red", "green", "blue"))
    with images.open_image(tmp_path / "s.tif") as image:
        span = (0.0, 255.0)
        view = ImageView(
            info=image.info,
            names=("red", "green", "blue"),
            bands=(0, 1, 2),
            spans=(span, span, span),
            value_range=span,
            source="bundle",
        )
        seen, _ = view.read(image, Box.whole(image.info.size), pitch=1)
    np.testing.assert_array_equal(pixels_of(scene), seen)
