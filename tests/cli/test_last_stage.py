"""`magnet segment --refine` works from its options to its files."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.errors import SourceError
from magnet_cli.masks.verification import verify_mask
from magnet_cli.models.bundle_writer import describe, describe_cascade, write_bundle, write_cascade_bundle
from magnet_cli.models.registry import build_backbone, build_cascade
from magnet_cli.refinement import method_loader as loading
from magnet_cli.report.legend import share_text
from magnet_cli.segmentation.image_planner import Planner
from magnet_cli.segmentation.pass_runner import PassRunner
from tests.cli.support import SIZE, expected_labels, invoke, invoke_json, one_failure, write_colours_bundle, write_image
from tests.refinement.support import Bright, use
from tests.refinement.test_squares import Same
from tests.refinement.test_squares import use as use_tool
from tests.report.browser import parse

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.plan import Plan

FAST = ("--method", "patch", "--weights", "bundle", "--device", "cpu")


class Next(Same):
    """A method that replaces each class by the next one."""

    def apply(self, probs: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.roll(super().apply(probs, image), 1, axis=0)


@pytest.fixture
def images(here: Path) -> tuple[str, str]:
    """Write two images and a bundle for them."""
    write_colours_bundle(here / "bundle")
    for seed, name in enumerate(("a.tif", "b.tif")):
        write_image(here / name, seed=seed)
    return "a.tif", "b.tif"


def labels_in(path: Path) -> NDArray[Any]:
    return np.asarray(tifffile.imread(path, key=0))


def test_every_image_gets_both_masks_and_all_that_is_shown_is_the_refined_one(
    images: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tool(monkeypatch, Next(), side=256)
    words = ("segment", *images, "-o", "out", *FAST, "--refine", "guided")
    rows = invoke_json(*words, "--html", "--overlay", "--geojson", "--roi", "0,0,120,110")["images"]
    expected = expected_labels()
    expected[:, 120:] = 255
    for name, row in zip("ab", rows, strict=True):
        mask = here / "out" / f"{name}.tif"
        assert (row["mask"], row["status"]) == (f"out/{name}.tif", "done")
        np.testing.assert_array_equal(labels_in(here / "out" / f"{name}.unrefined.tif"), expected)
        np.testing.assert_array_equal(labels_in(mask), np.where(expected == 255, 255, (expected + 1) % 3))
        assert verify_mask(mask).ok
        report = json.loads((here / "out" / f"{name}.json").read_bytes())
        assert report == row["report"]
        assert report["refined"]["path"] == f"out/{name}.unrefined.tif"
        assert report["refined"]["changed_pixels"] == 110 * 120
        assert [entry["pixels"] for entry in report["classes"]] == [110 * 20, 110 * 50, 110 * 50]
        assert (report["options"]["method"], report["options"]["refine"]["method"]) == ("patch", "guided")
        page = parse((here / "out" / f"{name}.html").read_text(encoding="utf-8"))
        said = f"Refined by guided: 13,200 pixels ({share_text(110 * 120 / SIZE[0] / SIZE[1])}) have another class than"
        assert page.one("p", id="refined").text == f"{said} in {name}.unrefined.tif."
        assert "patch, then guided" in (here / "out" / f"{name}.html").read_text(encoding="utf-8")
        assert (here / "out" / f"{name}.overlay.png").exists()
        shapes = json.loads((here / "out" / f"{name}.geojson").read_bytes())["features"]
        found = {feature["properties"]["classification"]["name"]: feature for feature in shapes}
        # What was red in the image is called green by now, and lies on the left.
        ring = np.array(found["g"]["geometry"]["coordinates"][0]).reshape(-1, 2)
        assert ring[:, 0].min() == 0
        assert ring[:, 0].max() == 50
    names = {path.name for path in (here / "out").iterdir()}
    assert not [name for name in names if "unrefined" in name and name.endswith((".html", ".png", ".geojson"))]
    again = invoke_json(*json_words(rows[0]))["images"]
    assert [row["status"] for row in again] == ["already done"]


def json_words(row: dict[str, Any]) -> list[str]:
    """Return the command of a report without the program's name."""
    return [str(word) for word in row["report"]["command"]][1:]


def test_of_two_classes_the_second_is_the_object_and_both_are_weighed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_backbone("conv", classes=2, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(20 * torch.eye(2, 3)[..., None, None] if parameter.ndim == 4 else torch.zeros(2))
    described = describe(name="two", classes=2, size=32, scales=(32,))
    write_bundle(here / "bundle", described, {"backbone.safetensors": network})
    write_image(here / "a.tif")
    use_tool(monkeypatch, Next(), side=256)
    words = ("segment", "a.tif", "-o", "m.tif", *FAST, "--refine", "guided", "--roi", "0,0,90,110")
    (row,) = invoke_json(*words)["images"]
    before, after = labels_in(here / "m.unrefined.tif"), labels_in(here / "m.tif")
    np.testing.assert_array_equal(after, np.where(before == 255, 255, 1 - before))
    assert set(np.unique(before)) == {0, 1, 255}
    assert row["report"]["refined"]["read_as"] == "binary"


def test_with_and_without_a_last_stage_are_different_masks(
    images: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tool(monkeypatch, Next())
    words = ("segment", images[0], "-o", "m.tif", *FAST)
    assert invoke(*words, "--refine", "guided").exit_code == 0
    kept = (here / "m.unrefined.tif").stat().st_mtime_ns
    result = invoke(*words)
    assert result.exit_code == 5
    assert "other" in result.stderr
    assert "refine" in result.stderr
    use_tool(monkeypatch, Same())
    monkeypatch.setattr("magnet_cli.refinement.squares.ARITHMETIC", 0)
    assert invoke(*words, "--refine", "guided").exit_code == 5
    assert invoke(*words, "--refine", "guided", "--overwrite").exit_code == 0
    np.testing.assert_array_equal(labels_in(here / "m.tif"), expected_labels())
    assert (here / "m.unrefined.tif").stat().st_mtime_ns == kept
    assert invoke(*words, "--overwrite").exit_code == 0
    assert "refined" not in json.loads((here / "m.json").read_bytes())


def test_probabilities_that_are_gone_are_named(
    images: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tool(monkeypatch, Same())
    words = ("segment", images[0], "-o", "m.tif", *FAST, "--refine", "guided")
    assert invoke(*words).exit_code == 0
    (here / "m.tif").unlink()
    (here / "m.json").unlink()
    (here / "m.unrefined.probabilities.zarr").rename(here / "elsewhere")
    result = invoke(*words)
    assert result.exit_code == 3
    assert "Delete m.unrefined.tif" in result.stderr
    assert "m.unrefined.tif: the unrefined mask is complete" in result.stderr


def test_an_interrupted_run_without_a_last_stage_is_not_deleted_by_one_with_it(
    images: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tool(monkeypatch, Next(), side=256)
    words = ("segment", images[0], "-o", "m.tif", *FAST, "--batch-size", "1")
    store, left = PassRunner.store, iter(range(1))

    def interrupted(own: PassRunner, group: GroupId, found: Any) -> dict[str, object]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return store(own, group, found)

    with monkeypatch.context() as patch:
        patch.setattr(PassRunner, "store", interrupted)
        assert invoke(*words).exit_code == 130
    finished = (here / "m.tif.journal").read_bytes()
    result = invoke(*words, "--refine", "guided")
    assert result.exit_code == 5
    assert "an interrupted run with other inputs or options left its journal here" in result.stderr
    assert (here / "m.tif.journal").read_bytes() == finished
    assert not (here / "m.unrefined.tif").exists()
    assert invoke(*words, "--refine", "guided", "--no-resume").exit_code == 0
    assert not (here / "m.tif.journal").exists()


def test_the_cascade_refines_objects_of_the_mask(
    images: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Bright())
    (row,) = invoke_json("segment", images[0], "-o", "m.tif", *FAST, "--refine", "cascadepsp")["images"]
    refined = row["report"]["refined"]
    assert (refined["bundle"]["name"], refined["objects"]["found"]) == ("stand-in", 3)
    assert row["report"]["options"]["refine"]["L"] == 128
    assert not (here / "m.unrefined.probabilities.zarr").exists()
    assert labels_in(here / "m.tif").shape == SIZE


def test_a_bundle_of_a_cascade_is_named_and_loaded(images: tuple[str, str], here: Path) -> None:
    write_cascade_bundle(
        here / "cascade", describe_cascade(name="plumbing", side=96), build_cascade("conv", options={})
    )
    words = ("segment", images[0], "-o", "m.tif", *FAST, "--refine", "cascadepsp", "--refine-weights", "cascade")
    report = invoke_json(*words)["images"][0]["report"]
    assert report["refined"]["bundle"]["name"] == "plumbing"
    assert report["command"][-4:] == ["--refine", "cascadepsp", "--refine-weights", "cascade"]
    text = invoke("plan", *(word for word in words if word not in ("-o", "m.tif", "segment"))).stdout
    assert "then plumbing: object by object" in text


def test_a_plan_says_what_the_last_stage_takes(images: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    use_tool(monkeypatch, Same())
    assert (
        "then nothing: 6 squares of 64 pixels, each with a rim of 5"
        in invoke("plan", *FAST, images[0], "--refine", "guided").stdout
    )
    (row,) = invoke_json("plan", *FAST, images[0], "--refine", "guided")["images"]
    assert (row["refine"]["squares"], row["refine"]["square"]) == (6, 64)
    assert row["refine"]["memory"]["planned"] > row["refine"]["memory"]["budget"] / 1000
    assert row["disk"]["probabilities_at_most"] > 0
    assert invoke_json("plan", *FAST, images[0])["images"][0]["refine"] is None
    result = invoke("plan", *FAST, images[0], "--refine", "guided", "--memory", "1MiB")
    assert result.exit_code == 6


def test_a_plan_does_not_pass_the_time_before_refining_off_as_all(
    images: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tool(monkeypatch, Same())
    monkeypatch.setattr(Planner, "seconds", lambda *_: 12.0)
    alone = invoke("plan", *FAST, images[0]).stdout
    assert "time: about 12 s, as 'magnet bench' measured here\n" in alone
    refined = invoke("plan", *FAST, images[0], "--refine", "guided").stdout
    assert "time: about 12 s, as 'magnet bench' measured here; refining comes on top" in refined


@pytest.mark.usefixtures("images")
def test_an_image_that_the_last_stage_refuses_does_not_stop_a_plan_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    preview = Planner.preview

    def refuses(planner: Planner, plan: Plan) -> object:
        if plan.image.path == "a.tif":
            raise SourceError("does not fit", file="a.tif")
        return preview(planner, plan)

    use_tool(monkeypatch, Same())
    monkeypatch.setattr(Planner, "preview", refuses)
    rows = invoke_json("plan", *FAST, "a.tif", "b.tif", "--refine", "guided", code=7)["images"]
    assert rows[0] == {"image": "a.tif", "error": "a.tif: does not fit", "exit_code": 3}
    assert rows[1]["refine"]["squares"] == 6


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--refine", "cascadepsp", "--refine-weights", "nowhere"), 4, "nowhere"),
        (("--refine", "guided", "--refine-weights", "x"), 2, "--refine-weights"),
        (("--refine-weights", "x"), 2, "--refine cascadepsp"),
        (("--refine", "some"), 2, "--refine"),
    ],
)
@pytest.mark.usefixtures("images")
def test_what_cannot_be_done_is_said_before_any_work(here: Path, more: tuple[str, ...], code: int, told: str) -> None:
    before = sorted(here.iterdir())
    result = invoke("segment", "a.tif", "-o", "out", *FAST, *more)
    assert result.exit_code == code
    assert told in result.stderr
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(("method", "library"), [("guided", "cv2.ximgproc"), ("crf", "pydensecrf.densecrf")])
@pytest.mark.usefixtures("images")
def test_a_missing_extra_is_named_before_any_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, method: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    before = sorted(here.iterdir())
    result = invoke("segment", "a.tif", "-o", "out", *FAST, "--refine", method)
    assert result.exit_code == 2
    assert f"pip install 'magnet-cli[{method}]'" in one_failure(result)
    assert sorted(here.iterdir()) == before


def test_names_of_masks_that_are_kept_do_not_collide(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tool(monkeypatch, Same())
    write_colours_bundle(here / "bundle")
    for name in ("a.tif", "a.unrefined.tif"):
        write_image(here / name)
    result = invoke("segment", "a.tif", "a.unrefined.tif", "-o", "out", *FAST, "--refine", "guided")
    assert result.exit_code == 2
    assert "same mask" in one_failure(result)


@pytest.mark.usefixtures("images")
def test_other_bands_than_colours_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tool(monkeypatch, Same())
    monkeypatch.setattr(loading, "classical", lambda _: Same(bands=("a", "b", "c", "d")))
    result = invoke("segment", "a.tif", "-o", "m.tif", *FAST, "--refine", "guided")
    assert result.exit_code == 2
    assert "Leave out --refine" in result.stderr


@pytest.mark.usefixtures("images")
def test_a_crf_has_nothing_to_start_from_in_a_published_mask(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The extra may be missing; nothing is asked of it.
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    before = sorted(here.iterdir())
    result = invoke("segment", "a.tif", "-o", "out", *FAST, "--refine", "crf", "--compat", "published")
    assert result.exit_code == 2
    assert "--compat paper" in result.stderr
    assert sorted(here.iterdir()) == before
