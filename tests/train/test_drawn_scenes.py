"""Scenes whose labels were drawn as polygons, alone or over a label map."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.images import fingerprint
from magnet_cli.train.config import DataConfig
from magnet_cli.train.scene_data import load_scenes
from tests.areas.drawn import annotation, square, write_drawn
from tests.train.support import labels_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = ("land", "water", "road")


@pytest.fixture
def stored(tmp_path: Path) -> NDArray[np.uint8]:
    """Write a picture and its label map, and return the map; 7 stands for class 1 in it."""
    rng = np.random.default_rng(2)
    labels = rng.choice(np.array([0, 7, 255], np.uint8), (40, 56))
    imagecodecs.imwrite(tmp_path / "a.png", rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    imagecodecs.imwrite(tmp_path / "labels.png", labels)
    write_drawn(
        tmp_path / "c.geojson", annotation("road", square(5, 6, 25, 30)), annotation("water", square(20, 20, 40, 38))
    )
    return labels


@pytest.mark.parametrize("memory", ["1GiB", "1B"])
def test_corrections_lie_over_the_label_map(tmp_path: Path, stored: NDArray[np.uint8], memory: str) -> None:
    (tmp_path / "s.csv").write_text("image,label,corrections\na.png,labels.png,c.geojson\n", encoding="utf-8")
    config = DataConfig(label_values={"7": 1}, memory=memory)
    (scene,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work", names=NAMES)
    expected = np.where(stored == 7, 1, stored)
    expected[6:30, 5:25] = 2
    expected[20:38, 20:40] = 1
    np.testing.assert_array_equal(labels_of(scene), expected)
    assert any(state.source.endswith("c.geojson") for state in scene.inputs.states)


@pytest.mark.parametrize("memory", ["1GiB", "1B"])
def test_polygons_alone_teach_where_they_are(tmp_path: Path, stored: NDArray[np.uint8], memory: str) -> None:
    del stored
    (tmp_path / "s.csv").write_text("image,label\na.png,c.geojson\n", encoding="utf-8")
    config = DataConfig(ignore=9, memory=memory)
    (scene,) = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work", names=NAMES)
    expected = np.full((40, 56), 9)
    expected[6:30, 5:25] = 2
    expected[20:38, 20:40] = 1
    np.testing.assert_array_equal(labels_of(scene), expected)


@pytest.mark.parametrize("named", [NAMES, ("dry", "wet", "road")])
def test_a_mask_of_this_program_has_classes_and_no_stored_values(
    tmp_path: Path, stored: NDArray[np.uint8], named: tuple[str, ...]
) -> None:
    """Masks of other classes have values, too, but 255 is never one of them: nothing was computed there."""
    classes = [{"name": name, "color": "#112233"} for name in named]
    mask = np.where(stored == 7, 1, stored).astype(np.uint8)
    text = json.dumps({"classes": classes, "nodata": 255})
    tifffile.imwrite(tmp_path / "mask.tif", mask, description=text, metadata=None, photometric="minisblack")
    (tmp_path / "s.csv").write_text("name,image,label\none,a.png,labels.png\ntwo,a.png,mask.tif\n", encoding="utf-8")
    config = DataConfig(label_values={"7": 1, "1": 2, "255": 2})
    one, two = load_scenes(tmp_path / "s.csv", config, work=tmp_path / "work", names=NAMES)
    np.testing.assert_array_equal(labels_of(one), np.where(stored == 7, 1, np.where(stored == 255, 2, stored)))
    np.testing.assert_array_equal(labels_of(two), mask if named == NAMES else np.where(mask == 1, 2, mask))


def test_files_that_do_not_fit_are_refused_before_the_training(tmp_path: Path, stored: NDArray[np.uint8]) -> None:
    del stored
    (tmp_path / "s.csv").write_text("image,label,corrections\na.png,labels.png,c.geojson\n", encoding="utf-8")
    with pytest.raises(SourceError, match="got road"):
        load_scenes(tmp_path / "s.csv", DataConfig(), names=("land", "water"))
    (tmp_path / "c.geojson").unlink()
    with pytest.raises(SourceError, match="the corrections of line 2 are missing"):
        load_scenes(tmp_path / "s.csv", DataConfig(), names=NAMES)


@pytest.mark.parametrize("row", ["b.png,labels.png,c.geojson", "b.png,c.geojson,"])
def test_corrections_of_another_picture_of_this_size_teach_nothing(
    tmp_path: Path, stored: NDArray[np.uint8], row: str
) -> None:
    other = np.full((*stored.shape, 3), 9, np.uint8)
    imagecodecs.imwrite(tmp_path / "b.png", other)
    mark = {"corrections": 1, "image": fingerprint(tmp_path / "a.png"), "size": [56, 40], "bounds": None}
    write_drawn(tmp_path / "c.geojson", annotation("road", square(5, 6, 25, 30)), magnet=mark)
    for line in (row, row.replace("b.png", "a.png")):
        (tmp_path / "s.csv").write_text(f"image,label,corrections\n{line}\n", encoding="utf-8")
        if line is row:
            with pytest.raises(SourceError, match="drawn on another image"):
                load_scenes(tmp_path / "s.csv", DataConfig(), names=NAMES)
        else:
            assert len(load_scenes(tmp_path / "s.csv", DataConfig(label_values={"7": 1}), names=NAMES)) == 1


def test_notes_on_polygons_reach_the_user_once(tmp_path: Path, stored: NDArray[np.uint8]) -> None:
    del stored
    write_drawn(
        tmp_path / "c.geojson", annotation("road", square(5, 6, 25, 30)), annotation("Ignore*", square(0, 0, 9, 9))
    )
    (tmp_path / "s.csv").write_text("image,label,name\na.png,c.geojson,a\na.png,c.geojson,b\n", encoding="utf-8")
    notes: list[str] = []
    load_scenes(tmp_path / "s.csv", DataConfig(), names=NAMES, message=notes.append)
    assert notes == [f"{tmp_path / 'c.geojson'}: polygons of Ignore* are left out, as QuPath does"]
