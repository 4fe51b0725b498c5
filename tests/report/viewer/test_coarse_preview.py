"""Where an unfinished mask has no label yet, its page shows what coarser passes have found, and says that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from starlette.testclient import TestClient

from magnet_cli import SegmentOptions, segment
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.spec import PROBABILITIES, FieldSpec, GroupId
from magnet_cli.masks.unfinished_mask import FieldChunk, UnfinishedMask, pass_of
from magnet_cli.report.viewer import coarse_preview, growing_labels
from magnet_cli.report.viewer.application import make_application
from magnet_cli.report.viewer.exhibit import open_exhibit
from magnet_cli.report.viewer.growing_labels import GrowingLabels
from magnet_cli.report.viewer.label_tiles import FAINT, stripes
from tests.exports.support import CLASSES
from tests.report.viewer.conftest import SIZE
from tests.report.viewer.growth import GrowingMask
from tests.report.viewer.support import SECRET, get, tile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

HERE = "http://127.0.0.1:8000"
COLOURS = np.array([np.frombuffer(entry.rgb, np.uint8) for entry in CLASSES])
EIGHT = Pitch.square(8)
GRID = EIGHT.cover(SIZE)
# Two blocks beside each other lie in two fields. They have a few columns in common.
FIELDS = (
    FieldSpec(name="pass0-00", bands=4, size=GRID, pitch=EIGHT),
    FieldSpec(name="pass0-01", bands=4, size=GRID, pitch=EIGHT),
    FieldSpec(name="pass1-00", bands=3, size=SIZE, pitch=Pitch.square(1)),
    FieldSpec(name=PROBABILITIES, bands=3, size=SIZE, pitch=Pitch.square(1), dtype="uint8"),
)
LEFT = Box(x=0, y=0, width=90, height=GRID.height)
RIGHT = Box(x=80, y=0, width=GRID.width - 80, height=GRID.height)


@pytest.fixture
def growing(image: Path, labels: NDArray[np.uint8], tmp_path: Path) -> Iterator[GrowingMask]:
    """A run of two passes, the first of which has two blocks."""
    scales = ("2048", "256")
    with GrowingMask.begin(tmp_path / "m.tif", image, labels, block=450, fields=FIELDS, scales=scales) as run:
        yield run


def values(box: Box, label: int, share: float) -> NDArray[np.float32]:
    """Return probabilities of which one class has a share, the others the rest, and another band has large values."""
    found = np.full((4, box.height, box.width), (1 - share) / 2, np.float32)
    found[label], found[3] = share, 1
    return found


def test_a_coarser_pass_is_previewed_until_labels_come(image: Path, growing: GrowingMask) -> None:
    first = values(LEFT, 2, 0.9)
    first[:, 10, 10] = np.nan
    growing.put(GroupId(pass_index=0, index=0), "pass0-00", LEFT, first)
    with open_exhibit(str(image), [growing.path]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        before = get(client, "changes.json?since=0")["masks"]["0"]
        assert before["previews"] == ["2048"]
        assert not tile(client, "0/0/0")[..., 3].any(), "who does not ask for a preview gets labels alone"
        shown = tile(client, "0/0/0?preview=1")
        hole = np.zeros((512, 512), np.bool_)
        hole[80:88, 80:88] = True
        assert not shown[hole].any()
        assert (shown[~hole, :3] == COLOURS[2]).all()
        striped = stripes(Box(x=0, y=0, width=512, height=512))
        np.testing.assert_array_equal(shown[..., 3][~hole], np.where(striped, 255, FAINT)[~hole])
        assert not tile(client, "0/1/0?preview=1")[:, 720 - 512 :, 3].any()
        assert get(client, "at?x=9&y=7")["previews"] == [{"label": 2, "scale": "2048"}]
        assert get(client, "at?x=80&y=87")["previews"] == [None]

        growing.put(GroupId(pass_index=0, index=1), "pass0-01", RIGHT, values(RIGHT, 1, 0.6))
        # Where both blocks have values, the mean of them counts: class 2 has 0.9 and 0.2, class 1 has 0.05 and 0.6.
        after = get(client, f"changes.json?since={before['version']}")["masks"]["0"]
        assert after["version"] > before["version"]
        assert [2, 1] in after["changed"]
        right = tile(client, "0/1/1?preview=1")
        assert (right[0, : 720 - 512, :3] == COLOURS[2]).all()
        assert (right[0, 720 - 512 :, :3] == COLOURS[1]).all()

        growing.compute(1)
        get(client, "changes.json")
        mixed = tile(client, "0/0/0?preview=1")
        np.testing.assert_array_equal(mixed[:450, :450, :3], COLOURS[growing.labels[:450, :450]])
        assert (mixed[:450, :450, 3] == 255).all()
        assert (mixed[450:, :, :3] == COLOURS[2]).all()
        # Zooms show the same, and the switches of classes hold for the preview as well.
        assert (tile(client, "2/0/0?preview=1")[120:250, 20:170, :3] == COLOURS[2]).all()
        assert not tile(client, "0/0/0?preview=1&hidden=2")[450:, :, 3].any()
        # A comparison leaves out what is not computed yet, with a preview or without.
        assert not tile(client, "0/0/0?preview=1&truth=0")[450:, :, 3].any()
        assert client.get(f"/{SECRET}/mask/0/0/0/0?preview=2").status_code == 400


def test_probabilities_that_are_kept_are_shown_while_they_grow(image: Path, growing: GrowingMask) -> None:
    box = growing.boxes[0]
    growing.put(GroupId(pass_index=1, index=100), PROBABILITIES, box, values(box, 1, 0.5)[:3])
    with open_exhibit(str(image), [growing.path]) as exhibit:
        client = TestClient(make_application(exhibit, SECRET), base_url=HERE)
        state = get(client, "state.json")
        names = [layer["name"] for layer in state["layers"]]
        assert names[0] == "Uncertainty of each pixel, so far"
        assert names[2] == "Probability of Gebäude & Höfe, so far"
        assert {layer["growing"] for layer in state["layers"]} == {0}
        answer = client.get(f"/{SECRET}/layer/2/0/0/0")
        assert answer.headers["cache-control"] == "no-store"
        assert "max-age" in client.get(f"/{SECRET}/layer/2/0/0/0?v=1").headers["cache-control"]
        pixels = imagecodecs.png_decode(answer.content)
        assert pixels[:450, :450, 3].all()
        assert not pixels[450:, :, 3].any()
        assert get(client, "at?x=3&y=3")["probabilities"] == [pytest.approx([0.25, 0.5, 0.25], abs=0.003)]
        second = growing.boxes[1]
        growing.put(GroupId(pass_index=1, index=101), PROBABILITIES, second, values(second, 1, 0.5)[:3])
        changed = get(client, f"changes.json?since={state['masks'][0]['version']}")["masks"]["0"]["changed"]
        assert [1, 0] in changed
        assert imagecodecs.png_decode(client.get(f"/{SECRET}/layer/2/0/1/0").content)[0, 10, 3]
        growing.finish()
        get(client, "changes.json")
        layers = get(client, "state.json")["layers"]
        assert [layer["outdated"] for layer in layers[:4]] == [True] * 4
        assert not any(layer["outdated"] for layer in layers[4:])


def test_a_field_that_is_too_large_is_kept_at_a_stride(growing: GrowingMask, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    found = rng.random((4, LEFT.height, LEFT.width)).astype(np.float32)
    growing.put(GroupId(pass_index=0, index=0), "pass0-00", LEFT, found)
    monkeypatch.setattr(coarse_preview, "MOST_KEPT", GRID.pixels // 3)
    with UnfinishedMask.open(growing.path) as mask:
        labels = GrowingLabels(mask)
        assert labels.refresh(60)
        seen = labels.preview.read(Box(x=0, y=0, width=40, height=60), 4).labels
    # A pixel of zoom 4 covers the two values that share one label.
    np.testing.assert_array_equal(seen, found[:3].astype(np.float16).argmax(axis=0)[::2, ::2][:60, :40])


def test_the_time_for_waiting_chunks_grows_with_their_number(
    growing: GrowingMask, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300
    boxes = [Box(x=8 * number, y=0, width=8, height=8) for number in range(count)]
    chunks = {
        FieldChunk(name=name, box=box, level0=box) for box in boxes for name in (PROBABILITIES, "pass0-00", "pass0-01")
    }
    asked: list[str] = []
    taken: list[tuple[int | None, Box]] = []

    def counted(name: str) -> int | None:
        asked.append(name)
        return pass_of(name)

    monkeypatch.setattr(growing_labels, "pass_of", counted)
    with UnfinishedMask.open(growing.path) as mask:
        labels = GrowingLabels(mask)
        assert labels.refresh(60)
        asked.clear()
        monkeypatch.setattr(mask, "changed_chunks", lambda: chunks)
        monkeypatch.setattr(labels.preview, "take", lambda chunk: taken.append((pass_of(chunk.name), chunk.box)))
        assert labels.refresh(60)
    assert len(asked) == 3 * count
    # The fields of a pass are read together.
    assert len(taken) == len(set(taken)) == 2 * count


class StoppedError(Exception):
    """Ends a run as a lost machine would."""


def test_a_real_run_is_previewed_by_its_coarser_passes(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    finish = Journal.finish_group

    def finish_group(journal: Journal, group: GroupId, **more: Any) -> None:
        if group.pass_index:
            raise StoppedError
        finish(journal, group, **more)

    monkeypatch.setattr(Journal, "finish_group", finish_group)
    options: Any = SegmentOptions(weights=str(bundle), scales="32,64,128,256,512", merge="mean", tissue="none")
    with pytest.raises(StoppedError):
        segment(image, tmp_path / "m.tif", options)
    with UnfinishedMask.open(tmp_path / "m.tif") as mask:
        labels = GrowingLabels(mask)
        assert labels.refresh(60)
        (step,) = labels.preview.passes
        assert step.scale == "512"
        assert step.pitch == Pitch.square(16)
        whole = Size(width=SIZE.width // 16, height=SIZE.height // 16)
        seen = labels.preview.read(Box(x=0, y=0, width=whole.width, height=whole.height), 4).labels
        assert (seen < len(mask.spec.classes)).all()
        # Inside a block its own field is the only one that has values.
        own = mask.read_field(step.fields[0], Box(x=4, y=4, width=10, height=10))
        np.testing.assert_array_equal(seen[4:14, 4:14], own[: len(mask.spec.classes)].argmax(axis=0))
