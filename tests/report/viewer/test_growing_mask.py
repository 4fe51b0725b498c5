"""The page of a mask that is still being computed: what it shows, what it fetches again, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from starlette.testclient import TestClient

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.records import MAGIC
from magnet_cli.masks.unfinished_mask import UnfinishedMask
from magnet_cli.report.viewer import growing_labels
from magnet_cli.report.viewer.application import make_application
from magnet_cli.report.viewer.exhibit import open_exhibit
from magnet_cli.report.viewer.growing_labels import GrowingLabels
from magnet_cli.report.viewer.zooms import ZoomGrid
from tests.exports.support import CLASSES, make_labels
from tests.masks.conftest import make_work
from tests.report.viewer.conftest import SIZE
from tests.report.viewer.growth import GrowingMask
from tests.report.viewer.support import SECRET, get, tile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HERE = "http://127.0.0.1:8000"
COLOURS = np.array([np.frombuffer(entry.rgb, np.uint8) for entry in CLASSES])


@pytest.fixture
def growing(image: Path, labels: NDArray[np.uint8], tmp_path: Path) -> Iterator[GrowingMask]:
    """A run of three by three groups whose cells are no tiles."""
    with GrowingMask.begin(tmp_path / "m.tif", image, labels, block=450) as run:
        yield run


def test_finished_groups_appear_and_the_finished_mask_takes_over(image: Path, growing: GrowingMask) -> None:
    growing.compute(1)
    with open_exhibit(str(image), [growing.path]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        state = get(client, "state.json")
        version = state["masks"][0]["version"]
        assert state["masks"][0]["classes"][1]["name"] == "Gebäude & Höfe"
        first = tile(client, "0/0/0")
        assert (first[:450, :450, 3] == 255).all()
        assert not first[450:, :, 3].any()
        assert not first[:, 450:, 3].any()
        found = get(client, f"changes.json?since={version}")
        assert found["masks"]["0"]["changed"] == []
        assert (found["masks"]["0"]["finished"], found["masks"]["0"]["groups"]) == ([1], [9])
        assert get(client, "at?x=449&y=449")["labels"] == [0]
        assert get(client, "at?x=450&y=449")["labels"] == [None]

        growing.compute(1)
        # Columns 450 to 899 lie in the first two columns of tiles.
        facts = get(client, f"changes.json?since={version}")["masks"]["0"]
        assert sorted(facts["changed"]) == [[0, 0], [1, 0]]
        assert facts["version"] > version
        assert facts["whole"]
        assert facts["problem"] is None
        assert 0 <= facts["age"] < 60
        second = tile(client, "0/1/0")
        np.testing.assert_array_equal(second[:450, : 900 - 512, :3], COLOURS[growing.labels[:450, 512:900]])
        assert not second[450:, :, 3].any()
        assert get(client, "at?x=600&y=400")["labels"] == [1]
        assert get(client, f"changes.json?since={facts['version']}")["masks"]["0"]["changed"] == []
        # A second page that has just been opened sees every change.
        assert len(get(client, "changes.json")["masks"]["0"]["changed"]) == 2

        growing.compute(9)
        assert get(client, "changes.json")["masks"]["0"]["ended"] is True
        before = {place: tile(client, place) for place in ("0/0/0", "1/0/0", "1/1/1", "2/0/0")}
        growing.finish()
        found = get(client, "changes.json?since=1")
        assert found == {"revision": state["revision"] + 1, "masks": {}}
        after = get(client, "state.json")
        assert after["revision"] == found["revision"]
        assert after["masks"][0]["version"] is None
        for place, pixels in before.items():
            np.testing.assert_array_equal(tile(client, place), pixels, err_msg=place)
        assert get(client, "at?x=600&y=400")["labels"] == [1]


def test_browsers_keep_tiles_of_a_growing_mask_by_their_version_alone(image: Path, growing: GrowingMask) -> None:
    growing.compute(1)
    with open_exhibit(str(image), [growing.path]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)

        def kept(query: str) -> str:
            return str(client.get(f"/{SECRET}/mask/0/0/0/0{query}").headers["cache-control"])

        assert [kept(query) for query in ("", "?v0=", "?v1=3", "?v0=3&truth=0")] == [
            *["no-store"] * 3,
            "private, max-age=3600",
        ]
        growing.compute(9)
        growing.finish()
        get(client, "changes.json")
        assert kept("") == "private, max-age=3600"


def test_a_version_is_raised_after_its_squares_can_be_read(
    growing: GrowingMask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread that reads the version meanwhile is given the squares when it asks for later changes."""
    growing.compute(1)
    with UnfinishedMask.open(growing.path) as mask:
        labels, taken, read = GrowingLabels(mask), mask.tile, []
        monkeypatch.setattr(labels, "_kept", np.zeros((1 << 12, 1 << 12), np.uint8))

        def tile(row: int, col: int) -> NDArray[np.uint8]:
            read.append(labels.version)
            return taken(row, col)

        monkeypatch.setattr(mask, "tile", tile)
        assert labels.refresh(60)
        assert read == [0]
        assert labels.version == 1
        assert labels.changed(0) == [(0, 0)]
        assert labels.changed(1) == []


def test_rows_that_are_read_over_time_follow_each_other(growing: GrowingMask, monkeypatch: pytest.MonkeyPatch) -> None:
    growing.compute(9)
    taken: list[tuple[int, int]] = []
    with UnfinishedMask.open(growing.path) as mask:
        labels = GrowingLabels(mask)
        monkeypatch.setattr(labels, "_take", lambda row, column, _: taken.append((row, column)))
        assert labels.refresh(60)
    assert len(taken) > 4
    assert taken == sorted(taken)


def test_every_zoom_shows_what_the_finished_mask_will_show(
    image: Path, labels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a smaller limit, zooms from 1 on are made of labels that are kept, as from 4 on in a large image.
    monkeypatch.setattr(growing_labels, "SMALL", 1)
    noise = np.random.default_rng(5).choice(np.array([0, 1, 2, 255], np.uint8), labels.shape)
    mixed = np.where(make_labels(SIZE.width, SIZE.height) == 2, noise, labels).astype(np.uint8)
    with GrowingMask.begin(tmp_path / "m.tif", image, mixed, block=450) as run:
        run.compute(len(run.boxes))
        with open_exhibit(str(image), [run.path]) as exhibit:
            before = {
                (zoom, column, row): exhibit.masks[0].read(box, zoom)
                for zoom in range(3)
                for column in range(3)
                for row in range(3)
                if (box := exhibit.grid.tile(zoom, column, row)) is not None
            }
        run.finish()
    with open_exhibit(str(image), [run.path]) as exhibit:
        assert exhibit.masks[0].growing is None
        for (zoom, column, row), found in before.items():
            box = exhibit.grid.tile(zoom, column, row)
            assert box is not None
            np.testing.assert_array_equal(found, exhibit.masks[0].read(box, zoom), err_msg=f"{zoom} {column} {row}")


def test_zooms_that_are_kept_and_zooms_that_are_read_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = make_work(300, 170, tile=16, block=100), tmp_path / "m.tif"
    made.run(OutputPaths.of(path).journal).close()
    box, found = Box(x=1, y=0, width=9, height=6), []
    for small in (1, 2, 4):
        monkeypatch.setattr(growing_labels, "SMALL", small)
        # A grid of small tiles has coarse zooms in a small image.
        monkeypatch.setattr(ZoomGrid, "coarsest", 6)
        with UnfinishedMask.open(path) as mask:
            labels = GrowingLabels(mask)
            assert labels.refresh(60)
            found.append(labels.read(box, 4))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len(np.unique(found[0])) > 1


def test_masks_that_are_too_large_to_keep_appear_from_a_closer_zoom_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = make_work(300, 170), tmp_path / "m.tif"
    made.run(OutputPaths.of(path).journal).close()
    monkeypatch.setattr(ZoomGrid, "coarsest", 6)
    monkeypatch.setattr(growing_labels, "MOST_KEPT", 100)
    with UnfinishedMask.open(path) as mask:
        labels = GrowingLabels(mask)
        assert labels.refresh(60)
        assert labels.coarsest == growing_labels.SMALL - 1
        assert (labels.read(Box(x=0, y=0, width=300, height=170), 0) == made.labels).all()


def test_a_run_that_died_is_shown_with_what_it_left(image: Path, growing: GrowingMask, truth: Path) -> None:
    growing.compute(5)
    growing.close()
    with open_exhibit(str(image), [growing.path, truth]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        facts = get(client, "changes.json?since=1,0")["masks"]
        assert list(facts) == ["0"]
        assert facts["0"]["running"] in (False, None)
        assert facts["0"]["finished"] == [5]
        # Compared with the truth, only what was computed has an outcome.
        assert (tile(client, "0/1/0?truth=1")[60:450, :, 3] == 255).all()
        assert not tile(client, "0/2/1?truth=1")[..., 3].any()
        # Where the user deletes what was left, the page keeps what it has read.
        OutputPaths.of(growing.path).journal.unlink()
        assert get(client, "changes.json?since=1,0")["masks"]["0"]["finished"] == [5]
        assert (tile(client, "0/0/0")[:450, :450, 3] == 255).all()


def test_a_run_that_begins_another_mask_is_reported(image: Path, growing: GrowingMask, tmp_path: Path) -> None:
    growing.compute(5)
    with open_exhibit(str(image), [growing.path]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        growing.journal.discard()
        other = np.zeros((SIZE.height, SIZE.width), np.uint8)
        with GrowingMask.begin(tmp_path / "m.tif", image, other, block=450, tile=64):
            facts = get(client, "changes.json?since=1")["masks"]["0"]
        assert "begun anew with another mask" in facts["problem"]


def test_what_cannot_be_shown_of_a_journal_is_refused(image: Path, growing: GrowingMask, tmp_path: Path) -> None:
    (tmp_path / "old.tif.journal").write_bytes(MAGIC[:-1] + b"\x01")
    with pytest.raises(SourceError, match="another version of magnet"):
        open_exhibit(str(image), [tmp_path / "old.tif"])
    small = make_labels(64, 64)
    with (
        GrowingMask.begin(tmp_path / "small.tif", image, small, block=64),
        pytest.raises(SourceError, match="1283x1031"),
    ):
        open_exhibit(str(image), [tmp_path / "small.tif"])
    other = tmp_path / "other.tif"
    other.write_bytes(image.read_bytes()[:-1] + b"x")
    with pytest.raises(SourceError, match="of another image"):
        open_exhibit(str(other), [growing.path])


@pytest.mark.parametrize("query", ["since=a", "since=-1", "since=1,,2", "since=" + ",".join(["1"] * 300)])
def test_versions_are_whole_numbers(image: Path, query: str) -> None:
    with open_exhibit(str(image), []) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        assert client.get(f"/{SECRET}/changes.json?{query}").status_code == 400
        assert client.get(f"/{SECRET}/changes.json").json() == {"revision": 0, "masks": {}}
