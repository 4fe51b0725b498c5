"""The page of a real run has layers of probabilities, uncertainty and windows of stages, and names its areas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from starlette.testclient import TestClient

from magnet_cli.areas.features import read_named_areas
from magnet_cli.errors import SourceError
from magnet_cli.events import Events, Step
from magnet_cli.geometry import Box
from magnet_cli.images import ImageInfo, inspect
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.report.layers import heat
from magnet_cli.report.viewer.application import make_application
from magnet_cli.report.viewer.exhibit import NamedRegion, open_exhibit
from magnet_cli.segmentation.api import segment
from tests.cli.support import invoke_json, write_image
from tests.report.viewer.support import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """Segment an image with `--probabilities`, and return the folder of the result."""
    folder = tmp_path_factory.mktemp("run")
    image = write_image(folder / "s.tif", size=(300, 150))
    invoke_json("segment", image, "--weights", bundle, "--scales", "32,64", "--probabilities", "-o", folder / "m.tif")
    return folder


def regions(info: ImageInfo) -> list[NamedRegion]:
    """Return one area, whose name contains markup."""
    del info
    return [NamedRegion(name="a <i>", rings=(((1.0, 2.0), (3.0, 2.0), (3.0, 9.0), (1.0, 2.0)),))]


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    """Return a client of the server for the run."""
    with open_exhibit(str(folder / "s.tif"), [folder / "m.tif"], find_regions=regions) as exhibit:
        yield TestClient(make_application(exhibit, SECRET), base_url="http://localhost")


@pytest.fixture(scope="module")
def stored(folder: Path) -> NDArray[np.uint8]:
    """Return the stored probabilities enlarged to level 0: `(classes, height, width)`."""
    array: Any = zarr.open_array(folder / "m.probabilities.zarr", mode="r")
    pitch = {axis: int(value) for axis, value in array.attrs["pitch"].items()}
    values: NDArray[np.uint8] = np.asarray(array).repeat(pitch["y"], axis=1).repeat(pitch["x"], axis=2)[:, :300, :150]
    return values


def layer(client: TestClient, name: str) -> NDArray[np.uint8]:
    """Return that part of a layer's only tile that lies on the image."""
    names = [entry["name"] for entry in client.get(f"/{SECRET}/state.json").json()["layers"]]
    answer = client.get(f"/{SECRET}/layer/{names.index(name)}/0/0/0")
    assert answer.status_code == 200
    pixels: NDArray[np.uint8] = imagecodecs.png_decode(answer.content)
    assert not pixels[300:, :, 3].any()
    assert not pixels[:, 150:, 3].any()
    return pixels[:300, :150]


def test_layers_of_a_run_are_offered(client: TestClient) -> None:
    state = client.get(f"/{SECRET}/state.json").json()
    names = [entry["name"] for entry in state["layers"]]
    assert names[:4] == ["Uncertainty of each pixel", *(f"Probability of {name}" for name in "rgb")]
    assert {"Windows of stage 1", "Windows of stage 2", "Mean uncertainty"} <= set(names)
    assert state["layers"][names.index("Windows of stage 2")]["cell"] is not None
    assert state["regions"] == [{"name": "a <i>", "rings": [[[1, 2], [3, 2], [3, 9], [1, 2]]]}]
    assert len(state["heat"]) == 9
    assert client.get(f"/{SECRET}/layer/99/0/0/0").status_code == 404
    assert client.get(f"/{SECRET}/layer/0/1/0/0").status_code == 404


def test_probabilities_are_those_that_were_kept(client: TestClient, stored: NDArray[np.uint8]) -> None:
    for band, name in enumerate("rgb"):
        found = layer(client, f"Probability of {name}")
        np.testing.assert_array_equal(found[..., :3], heat()[stored[band]])
    largest, second = np.sort(stored.astype(int), axis=0)[[-1, -2]]
    found = layer(client, "Uncertainty of each pixel")
    np.testing.assert_array_equal(found[..., :3], heat()[254 - (largest - second)])
    at = client.get(f"/{SECRET}/at?x=149&y=299").json()
    assert at["probabilities"] == [pytest.approx(stored[:, 299, 149] / 254)]
    assert at["labels"] == [2]


def test_windows_of_a_stage_lie_on_their_cells(client: TestClient) -> None:
    found = layer(client, "Windows of stage 1")
    # All windows of the first stage are computed, so that its colour covers the image evenly.
    assert (found == found[0, 0]).all()
    assert 0 < found[0, 0, 3] < 255


def test_values_of_another_image_are_refused(folder: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "other.tif", size=(300, 150), seed=1)
    with pytest.raises(SourceError, match="another image"):
        open_exhibit(str(tmp_path / "other.tif"), [folder / "m.tif"])
    (tmp_path / "m.tif").write_bytes((folder / "m.tif").read_bytes())
    (tmp_path / "m.probabilities.zarr").symlink_to(folder / "m.probabilities.zarr")
    with pytest.raises(SourceError, match="computed from another image"):
        open_exhibit(str(tmp_path / "other.tif"), [tmp_path / "m.tif"])


def test_areas_have_the_names_that_their_file_gives(folder: Path, tmp_path: Path) -> None:
    square = [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]], [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]]
    features = [
        {"type": "Feature", "properties": {"name": "Lake"}, "geometry": {"type": "Polygon", "coordinates": square}},
        {
            "type": "Feature",
            "properties": {"classification": {"name": "Tumor"}},
            "geometry": {"type": "MultiPolygon", "coordinates": [square, [[[20, 0], [30, 0], [30, 9], [20, 0]]]]},
        },
        {"type": "Feature", "properties": None, "geometry": {"type": "Point", "coordinates": [1, 1]}},
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": square[:1]}},
    ]
    path = tmp_path / "areas.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = read_named_areas(str(path), inspect(folder / "s.tif"))
    assert [(area.name, len(area.rings)) for area in found] == [("Lake", 2), ("Tumor", 3), ("area 4", 1)]
    assert found[0].rings[0][1] == (10, 0)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features[2:3]}))
    with pytest.raises(SourceError, match="no polygon"):
        read_named_areas(str(path), inspect(folder / "s.tif"))


def test_an_interrupted_run_shows_the_share_and_the_labels_that_it_has(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    class Stop(Events):
        def step(self, step: Step) -> None:
            if step.what.startswith("pass 1") and step.done == 2:
                raise KeyboardInterrupt

    image = write_image(tmp_path / "s.tif", size=(300, 150))
    options = SegmentOptions(weights=bundle, scales="32,64")
    with pytest.raises(KeyboardInterrupt):
        segment(image, tmp_path / "m.tif", options, events=Stop())
    with open_exhibit(str(image), [tmp_path / "m.tif"]) as exhibit:
        facts: Any = exhibit.changes([0])["masks"]
        done, total = sum(facts["0"]["finished"]), sum(facts["0"]["groups"])
        assert 2 <= done < total
        found = exhibit.masks[0].read(Box(x=0, y=0, width=150, height=300), 0)
    known = found != 255
    assert 0.05 < known.mean() < 0.95
    # The finished mask of the same image and options lies beside its own image.
    np.testing.assert_array_equal(found[known], tifffile.imread(folder / "m.tif")[known])
