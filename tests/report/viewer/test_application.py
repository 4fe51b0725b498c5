"""The page's server answers and refuses requests as it should, without a browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from starlette.testclient import TestClient

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.masks.records import MAGIC
from magnet_cli.report.viewer.application import PAGE, POLICY, make_application
from magnet_cli.report.viewer.exhibit import NamedRegion, open_exhibit
from magnet_cli.report.viewer.label_tiles import PERIOD
from magnet_cli.report.viewer.zooms import TILE
from tests.exports.support import CLASSES, write_mask
from tests.report.viewer.conftest import SIZE
from tests.report.viewer.support import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HERE = "http://127.0.0.1:8000"
COLOURS = np.array([np.frombuffer(entry.rgb, np.uint8) for entry in CLASSES])
WHOLE = [(zoom, column, row) for zoom in (0, 1, 2) for column in range(3 >> zoom or 1) for row in range(3 >> zoom or 1)]


@pytest.fixture(scope="module")
def client(image: Path, mask: Path, truth: Path) -> Iterator[TestClient]:
    """Return a client of the server for the image, a mask of this program and the truth."""
    with open_exhibit(str(image), [mask, truth]) as exhibit:
        yield TestClient(make_application(exhibit, SECRET), base_url=HERE)


def picture(client: TestClient, address: str) -> NDArray[np.uint8]:
    """Return the decoded pixels of a tile."""
    answer = client.get(f"/{SECRET}/{address}")
    assert answer.status_code == 200, answer.text
    decode = imagecodecs.png_decode if answer.headers["content-type"] == "image/png" else imagecodecs.jpeg8_decode
    pixels: NDArray[np.uint8] = decode(answer.content)
    assert pixels.shape[:2] == (TILE, TILE)
    return pixels


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_is_answered(client: TestClient, method: str) -> None:
    answer = client.request(method, f"/{SECRET}/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.",
        "10.0.0.1:8000",
        "[::1]:80",
        ":8000",
        "",
    ],
)
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    answer = client.get(f"/{SECRET}/state.json", headers={"host": host})
    assert answer.status_code == 403
    assert "an image.tif" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:8888", "localhost", "LOCALHOST:9"])
def test_a_tunnel_may_have_another_port(client: TestClient, host: str) -> None:
    assert client.get(f"/{SECRET}/state.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/state.json", "/wrong/state.json", f"/{SECRET}x/", f"/{SECRET[:-1]}/", f"//{SECRET}/"],
)
def test_addresses_without_the_secret_are_refused(client: TestClient, path: str) -> None:
    answer = client.get(HERE + path)
    assert answer.status_code == 404
    assert "magnet view" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd",
        "..%2f..%2f..%2fzooms.py",
        "%2e%2e/zooms.py",
        "/etc/passwd",
        "viewer.html",
        "openseadragon/LICENSE.txt",
        "mask/0/0/0/0/../../../../../zooms.py",
        "image/0/-1/0",
        "image/0/99/0",
        "image/9/0/0",
        "image/0/0/0.png",
        "mask/2/0/0/0",
        "mask/-1/0/0/0",
        "mask/0/0/0/0?truth=7",
        "at?x=5000&y=1",
    ],
)
def test_what_the_page_does_not_have_is_refused(client: TestClient, path: str) -> None:
    assert client.get(f"{HERE}/{SECRET}/{path}").status_code == 404


@pytest.mark.parametrize("query", ["form=circles", "hidden=a", "hidden=-1", "hidden=1,,2", "truth=x", "truth="])
def test_unknown_parameters_are_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/{SECRET}/mask/0/0/0/0?{query}").status_code == 400


@pytest.mark.parametrize("query", ["", "x=1", "x=1&y=-1", "x=1&y=1e3", "x=1&y=9999999999"])
def test_places_are_whole_numbers(client: TestClient, query: str) -> None:
    assert client.get(f"/{SECRET}/at?{query}").status_code == 400


def test_every_answer_forbids_other_hosts(client: TestClient) -> None:
    for path in [*PAGE, "state.json", "at?x=1&y=1", "image/0/0/0", "mask/0/0/0/0", "none"]:
        headers = client.get(f"/{SECRET}/{path}").headers
        assert headers["content-security-policy"] == POLICY
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
    assert "http" not in POLICY
    assert "unsafe" not in POLICY
    assert "*" not in POLICY


def test_the_pages_own_files_name_no_other_host(client: TestClient) -> None:
    for path in ("", "viewer.js", "corrections.js", "viewer.css"):
        assert not re.search(r"https?://|//[a-z]+\.", client.get(f"/{SECRET}/{path}").text)


def test_openseadragon_lies_in_the_package_with_its_licence() -> None:
    folder = Path(images.__file__).parents[1] / "report" / "viewer" / "page" / "openseadragon"
    assert "//! openseadragon 6.1.1" in (folder / "openseadragon.min.js").read_text(encoding="utf-8")[:100]
    assert "Redistribution and use" in (folder / "LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", WHOLE)
def test_tiles_of_the_image_are_what_the_reader_gives(
    client: TestClient, image: Path, place: tuple[int, int, int]
) -> None:
    zoom, column, row = place
    pitch = Pitch.square(1 << zoom)
    box = Box(x=column * TILE, y=row * TILE, width=TILE, height=TILE).intersection(Box.whole(pitch.cover(SIZE)))
    with images.open_image(image) as opened:
        expected = opened.read([images.Request(pitch=pitch, box=box)])[0].pixels
    found = picture(client, f"image/{zoom}/{column}/{row}")
    inside = found[: box.height, : box.width]
    if found.shape[2] == 4:
        np.testing.assert_array_equal(inside[..., :3], expected)
        assert (inside[..., 3] == 255).all()
        assert not found[box.height :, :, 3].any()
        assert not found[:, box.width :, 3].any()
    else:
        assert zoom > 0
        assert np.abs(inside.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("place", WHOLE)
def test_tiles_of_a_mask_are_the_labels_of_its_levels(
    client: TestClient, mask: Path, place: tuple[int, int, int]
) -> None:
    zoom, column, row = place
    with tifffile.TiffFile(mask) as tiff:
        level = tiff.pages[zoom].asarray()
    expected = level[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
    found = picture(client, f"mask/0/{zoom}/{column}/{row}")
    height, width = expected.shape
    np.testing.assert_array_equal(found[:height, :width, 3], np.where(expected == 255, 0, 255))
    known = expected != 255
    np.testing.assert_array_equal(found[:height, :width, :3][known], COLOURS[expected[known]])
    assert not found[height:, :, 3].any()


@pytest.mark.parametrize("zoom", [0, 1])
def test_a_raster_of_another_program_is_sampled_in_the_middle(client: TestClient, truth: Path, zoom: int) -> None:
    step = 1 << zoom
    stored = tifffile.imread(truth)
    expected = stored[step // 2 :: step, step // 2 :: step][:TILE, :TILE]
    found = picture(client, f"mask/1/{zoom}/0/0")
    known = expected != 255
    np.testing.assert_array_equal(found[..., 3] == 255, known)
    np.testing.assert_array_equal(found[..., :3][known], COLOURS[expected[known]])


def test_hidden_classes_are_not_drawn(client: TestClient, labels: NDArray[np.uint8]) -> None:
    found = picture(client, "mask/0/0/1/0?hidden=0")
    np.testing.assert_array_equal(found[..., 3] == 255, labels[:TILE, TILE : 2 * TILE] == 1)


def test_outlines_follow_borders_across_tiles(client: TestClient, labels: NDArray[np.uint8]) -> None:
    tiles = [
        [picture(client, f"mask/0/0/{column}/{row}?form=outline")[..., 3] == 255 for column in (0, 1)] for row in (0, 1)
    ]
    found = np.block(tiles)
    expected = np.zeros_like(found)
    for row, column in np.argwhere(np.ones((8, 8))) - 4:
        if (row == 0) != (column == 0) and abs(row + column) <= 2:
            moved = np.roll(labels, (row, column), (0, 1))
            expected |= (moved != labels)[: 2 * TILE, : 2 * TILE]
    # Rolled rows and columns come back at the other edge of the image, which is no border.
    np.testing.assert_array_equal(found[2:, 2:], expected[2:, 2:])
    assert found[400, 508:517].tolist() == [False, True, True, True, True, False, False, False, False]


def test_patterns_tell_classes_apart_without_colour(client: TestClient) -> None:
    found = picture(client, "mask/0/0/1/0?form=pattern")
    plain, lined = found[:PERIOD, :PERIOD, :3], found[400 : 400 + PERIOD, 100 : 100 + PERIOD, :3]
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(lined.reshape(-1, 3), axis=0)) == 2


def test_a_comparison_shows_right_wrong_and_missing(client: TestClient, labels: NDArray[np.uint8], truth: Path) -> None:
    its = tifffile.imread(truth)[:TILE, TILE : 2 * TILE]
    mine = labels[:TILE, TILE : 2 * TILE]
    right, wrong, missing = (0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0xF0, 0xE4, 0x42)
    found = picture(client, "mask/0/0/1/0?truth=1&hidden=0")
    for colour, place in (
        (right, (mine == 1) & (its == 1)),
        (wrong, (mine == 1) & (its == 0)),
        (missing, (mine == 0) & (its == 1)),
    ):
        np.testing.assert_array_equal((found == (*colour, 255)).all(axis=2), place)
    everything = picture(client, "mask/0/0/1/0?truth=1")
    np.testing.assert_array_equal(everything[..., 3] == 0, its == 255)
    np.testing.assert_array_equal((everything == (*wrong, 255)).all(axis=2), (mine != its) & (its != 255))


def test_the_pointer_gets_the_labels_of_one_pixel(client: TestClient) -> None:
    for x, y, expected in ((511, 301, [1, 0]), (510, 301, [0, 0]), (906, 701, [1, 1]), (1282, 1030, [None, 0])):
        assert client.get(f"/{SECRET}/at?x={x}&y={y}").json()["labels"] == expected


def test_facts_of_the_page(client: TestClient) -> None:
    state: dict[str, Any] = client.get(f"/{SECRET}/state.json").json()
    assert state["name"] == "an image.tif"
    assert state["size"] == {"width": 1283, "height": 1031}
    assert state["padded"] == {"width": 1284, "height": 1032}
    assert state["coarsest"] == 2
    assert state["resolution"] == {"x": 0.5, "y": 0.5, "unit": "m"}
    assert state["geotransform"] == {"matrix": [[0.5, 0], [0, -0.5]], "origin": [400000, 5000000]}
    assert "32633" in state["crs"]
    assert [entry["own"] for entry in state["masks"]] == [True, False]
    # A raster without names takes those of the first mask of ours.
    assert state["masks"][0]["classes"] == state["masks"][1]["classes"]
    assert state["masks"][0]["classes"][1] == {"name": "Gebäude & Höfe", "color": "#ffff00"}


def test_names_that_are_no_unicode_and_masks_of_one_name_are_shown(image: Path, mask: Path, tmp_path: Path) -> None:
    again = tmp_path / mask.name
    shutil.copy(mask, again)
    named = [NamedRegion(name="\ud800 area", rings=(((1, 1), (9, 1), (9, 9)),))]
    with open_exhibit(str(image), [mask, again], find_regions=lambda _: named) as exhibit:
        answer = TestClient(make_application(exhibit, SECRET), base_url=HERE).get(f"/{SECRET}/state.json")
    assert answer.status_code == 200
    state: dict[str, Any] = answer.json()
    assert [entry["name"] for entry in state["masks"]] == [f"{mask.name} (1)", f"{mask.name} (2)"]
    layers = [layer["name"] for layer in state["layers"]]
    assert len(set(layers)) == len(layers)


def test_masks_of_another_size_or_image_are_refused(image: Path, tmp_path: Path) -> None:
    other = write_mask(tmp_path / "other.tif", np.zeros((10, 10), np.uint8), resolution=None)
    with pytest.raises(SourceError, match="1283x1031"):
        open_exhibit(str(image), [other])
    same = write_mask(tmp_path / "same.tif", np.zeros((SIZE.height, SIZE.width), np.uint8), resolution=None)
    with pytest.raises(SourceError, match="made of another image"):
        open_exhibit(str(image), [same])
    with pytest.raises(SourceError, match="no such mask"):
        open_exhibit(str(image), [tmp_path / "none.tif"])


def test_a_mask_whose_run_has_only_begun_is_refused(image: Path, tmp_path: Path) -> None:
    (tmp_path / "m.tif.journal").write_bytes(MAGIC)
    with pytest.raises(SourceError, match="only begun"):
        open_exhibit(str(image), [tmp_path / "m.tif"])


def test_sixteen_bits_have_one_span_for_the_whole_image(tmp_path: Path) -> None:
    values = np.tile(np.linspace(1000, 9000, 1100).astype(np.uint16), (600, 1))
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="minisblack", tile=(256, 256))
    with open_exhibit(str(tmp_path / "deep.tif"), []) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        row = np.concatenate([picture(client, f"image/0/{column}/0")[0, :, 0] for column in range(3)])[:1100]
    assert (np.diff(row.astype(int)) >= 0).all()
    assert row[0] == 0
    assert row[-1] == 255
    assert 120 < row[550] < 136
