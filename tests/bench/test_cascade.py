"""A bench of `magnet refine` counts, refuses and leaves behind what it should. Its speed is not tested."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
from skimage.measure import label

from magnet_cli.arithmetic.cascade.pyramid import local_windows
from magnet_cli.bench import patching as plain
from magnet_cli.bench.cascades import cascade_ceiling as ceilings
from magnet_cli.bench.cascades.cascade_ceiling import CascadeCeiling, alike_steps
from magnet_cli.bench.cascades.cascade_naive import CascadeNaive
from magnet_cli.bench.cascades.cascade_patching import CascadePatching
from magnet_cli.bench.cascades.cascade_program import CascadeProgram
from magnet_cli.bench.cascades.cascade_studio import CascadeStudio
from magnet_cli.bench.task import Shape
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.values import parse_value_range
from magnet_cli.refinement.effort import GLOBAL, LOCAL
from magnet_cli.system.speeds import stored_figures
from tests.bench.support import SIDE_OF_MASK as SIDE
from tests.bench.support import L, cascade_bundle, cascade_task
from tests.bench.test_contenders import Classes
from tests.cli.support import invoke, invoke_json, one_failure
from tests.laws.support import blurry_bundle
from tests.refinement.support import discs, write_grey, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.full


def test_the_program_reports_a_real_run_and_leaves_nothing(tmp_path: Path) -> None:
    given = cascade_task(tmp_path)
    program = CascadeProgram(given)

    ready = program.prepare()
    took = program.run("", None)
    again = program.run("", None)

    assert (ready.size.width, ready.size.height) == (SIDE, SIDE) if ready.size else False
    assert took.by_stage == again.by_stage
    assert 0 < took.by_stage["global"] < took.windows == sum(took.by_shape.values()) <= ready.windows
    passes: Any = took.report["passes"]
    assert took.by_stage == {
        "global": sum(step.get("wholes_run", 0) for step in passes),
        "local": sum(step.get("windows_run", 0) for step in passes),
    }
    assert {shape.width % 8 for shape in took.by_shape} == {0}
    pixels = {"global": GLOBAL, "local": LOCAL}
    looked = sum(pixels[shape.step] * shape.height * shape.width * count for shape, count in took.by_shape.items())
    assert took.full_windows == looked / (LOCAL * L * L)
    assert {"survey", "read", "refine", "write", "idle", "wall", "finish"} == set(took.parts)
    assert took.parts["survey"] > 0
    assert list(given.folder.iterdir()) == []


def test_what_a_process_answers_loads_no_library_where_it_arrives(tmp_path: Path) -> None:
    given = cascade_task(tmp_path)
    program = CascadeProgram(given)

    answers = [
        CascadeStudio(given.options).setting(),
        program.prepare(),
        program.run("", None),
        CascadePatching(given).prepare(),
    ]

    modules = {module for answer in answers for module in Classes(answer).modules}
    assert modules <= {"magnet_cli", "builtins"}


def test_drawn_masks_have_borders_everywhere(tmp_path: Path) -> None:
    given = cascade_task(tmp_path, side=1000)
    mask = tifffile.imread(str(given.mask))

    assert set(np.unique(mask)) == {0, 1}
    assert tifffile.imread(str(given.warm_mask)).shape == (L, L)
    _, objects = label(mask, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
    assert objects > 20
    windows = [mask[box.slices] for box in (window.box for window in local_windows(_size(mask), side=450))]
    assert np.mean([part.any() and not part.all() for part in windows]) > 0.95


def _size(mask: Any) -> Size:
    return Size(width=mask.shape[1], height=mask.shape[0])


def test_the_ceiling_stands_for_the_steps_that_the_program_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magnet_cli.bench.ceiling.LEAST", 0.05)
    given = cascade_task(tmp_path)
    program, ceiling = CascadeProgram(given), CascadeCeiling(given)
    program.prepare()
    ours = program.run("", None)
    ceiling.prepare()
    ran: set[tuple[int, ...]] = set()
    network = ceiling._network

    def seen(images: Tensor) -> Tensor:
        ran.add(tuple(images.shape[2:]))
        return images

    monkeypatch.setattr(type(network), "three_levels", _after(seen, type(network).three_levels))
    took = ceiling.run("", ours)

    assert took.windows == ours.windows
    assert took.parts["measured_windows"] >= len(alike_steps(ours.by_shape))
    assert took.seconds > 0
    wholes = [each.shape for each in alike_steps(ours.by_shape) if each.shape.step == "global"]
    assert ran == {(shape.height, shape.width) for shape in wholes}


def _after(before: Any, method: Any) -> Any:
    def called(self: Any, images: Tensor, *rest: Tensor) -> Any:
        return method(self, before(images), *rest)

    return called


def test_steps_are_timed_in_groups_of_about_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "MOST_SHAPES", 4)
    by_shape = {Shape(step="global", height=8 * n, width=8): 10 for n in range(1, 6)}
    by_shape |= {Shape(step="local", height=96, width=96): 1000, Shape(step="local", height=96, width=48): 1}

    found = alike_steps(by_shape)

    assert sum(each.steps for each in found) == sum(by_shape.values())
    assert [each.shape.step for each in found] == ["global", "global", "local", "local"]
    assert [each.steps for each in found] == [20, 30, 1, 1000]
    assert found[-1].shape.width == 96
    assert alike_steps({}) == []


def test_the_naive_arithmetic_takes_the_whole_image_as_one_region(tmp_path: Path) -> None:
    naive = CascadeNaive(cascade_task(tmp_path))

    ready = naive.prepare()
    took = naive.run("", None)

    assert ready.refusal is None
    assert naive._image.shape == (3, SIDE, SIDE)
    assert 1 < took.windows <= 1 + len(list(local_windows(_size(naive._mask), side=L)))
    assert set(took.parts) == {"global", "local", "rest"}
    assert sum(took.parts.values()) == pytest.approx(took.seconds, abs=0.01)


def test_what_has_no_counterpart_or_no_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cascade_task(tmp_path)
    mask = tifffile.imread(str(given.mask))
    labels = write_grey(tmp_path / "labels.tif", mask * 2 + 1)

    ready = CascadePatching(given).prepare()
    assert (ready.refusal, "a cascade sharpens a mask" in str(ready.reason)) == ("does not apply", True)
    several = replace(given, mask=str(labels), options=replace(given.options, mask_kind="labels"))
    assert CascadeNaive(several).prepare().refusal == "does not apply"
    monkeypatch.setattr(plain, "available_memory", lambda: 1000)
    ready = CascadeNaive(given).prepare()
    assert ready.refusal == "refused"
    assert ready.needs is not None
    assert ready.needs > SIDE * SIDE * 4 * 3


def test_the_bands_and_values_of_a_file_are_not_those_of_the_drawn_image(tmp_path: Path) -> None:
    given = cascade_task(tmp_path)
    stored = tifffile.imread(given.image).astype(np.uint16) * 40 + 100
    image = tmp_path / "deep.tif"
    tifffile.imwrite(image, stored[..., ::-1], photometric="rgb", tile=(64, 64))
    options = replace(given.options, bands=("3", "2", "1"), value_range=parse_value_range("100,10300"))
    given = replace(given, image=str(image), options=options)
    program, ceiling = CascadeProgram(given), CascadeCeiling(given)

    program.prepare()
    ceiling.prepare()

    seen: Any = program.run("", None).report["options"]
    assert [entry["band"] for entry in seen["bands"]] == [3, 2, 1]
    shown = ceiling._images[0]
    assert -3 < float(shown.min()) < float(shown.max()) < 3


def test_a_whole_bench(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNET_STATE", str(here / "state"))
    truth = discs((300, 280), (140, 130, 100), (30, 250, 18))
    write_image(here / "i.tif", truth)
    write_grey(here / "m.tif", truth.astype(np.uint8))
    bundle = cascade_bundle(here / "bundle")
    weights = ("--weights", bundle, "--device", "cpu")
    before = invoke_json("refine", "i.tif", "m.tif", "--dry-run", *weights)
    assert before["seconds"] is None

    words = ("--sizes", "150", "--yardsticks", "ceiling,patching", "--repeats", "2", "--html", "page.html")
    found = invoke_json("bench", "i.tif", "m.tif", *words, *weights)

    drawn, named = found["images"]
    assert (drawn["image"], drawn["size"], "mask" in drawn) == ("generated", {"width": 150, "height": 150}, False)
    assert (named["image"], named["mask"]) == ("i.tif", "m.tif")
    for row in (drawn, named):
        assert (row["method"], row["status"], row["repeats"]) == ("cascadepsp", "done", 2)
        assert row["windows"] == sum(row["windows_by_stage"].values())
        marks = row["yardsticks"]
        assert [mark["status"] for mark in marks] == ["measured", "does not apply", "does not apply"]
        assert marks[0]["windows"] == row["windows"]
        assert len(marks[0]["time_ratio"]["all"]) == 2
    assert found["quote"].startswith("plumbing, cascadepsp, on ")
    assert "of the ceiling" in found["quote"]
    page = (here / "page.html").read_text(encoding="utf-8")
    assert found["quote"] in page
    assert "survey %" in page
    assert "forward %" not in page
    assert sorted(path.name for path in here.iterdir()) == ["bundle", "i.tif", "m.tif", "page.html", "state"]

    after = invoke_json("refine", "i.tif", "m.tif", "--dry-run", *weights)
    assert len(stored_figures()) == 2
    assert after["seconds"] > 0
    assert "time: at most about" in invoke("refine", "i.tif", "m.tif", "--dry-run", *weights).stdout
    assert invoke_json("refine", "i.tif", "m.tif", "--dry-run", "--L", "80", *weights)["seconds"] is None


def test_a_class_of_several_is_measured_where_a_cascade_knows_one_kind_of_object(tmp_path: Path) -> None:
    given = cascade_task(tmp_path)
    cascade_bundle(tmp_path / "bundle", object="blob")
    labels = tifffile.imread(str(given.mask)) * np.uint8(2)
    labels[:20] = 1
    several = replace(given, mask=str(write_grey(tmp_path / "several.tif", labels)))
    with pytest.raises(UsageError, match=r"sharpens one kind of object, blob.*--object NAME"):
        CascadeProgram(several).prepare()
    several = replace(several, options=replace(given.options, objects=("2",)))
    program = CascadeProgram(several)
    assert program.prepare().windows
    assert cast("Any", program.run("", None).report)["options"]["object"] == ["2"]
    assert CascadeNaive(several).prepare().refusal is None


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["i.tif", "--weights", "bundle"], 2, "Name the mask after the image"),
        (["i.tif", "m.tif", "--weights", "blurry"], 2, "this bundle predicts classes"),
        (["i.tif", "none.tif", "--weights", "bundle"], 3, "there is no such file"),
        (["--sizes", "64", "--weights", "bundle", "--scales", "64,32"], 2, "--scales has no effect with a cascade"),
        (
            ["--sizes", "64", "--weights", "blurry", "--L", "64"],
            2,
            "--L has no effect with a bundle that predicts classes",
        ),
        (["--methods", "magnet,cascadepsp", "--weights", "bundle"], 2, "Measure cascadepsp by itself"),
        (["--methods", "cascadepsp"], 4, "has to be named"),
        (["--methods", "cascadepsp", "--weights", "blurry", "--sizes", "64"], 4, "cannot sharpen a mask"),
        (["--methods", "magnet", "--weights", "bundle", "--sizes", "64"], 4, "it predicts no classes"),
        (["--weights", "nowhere"], 4, "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(here: Path, words: list[str], code: int, told: str) -> None:
    blurry_bundle(here / "blurry")
    cascade_bundle(here / "bundle")
    write_image(here / "i.tif", discs((64, 64), (30, 30, 20)))
    write_grey(here / "m.tif", discs((64, 64), (30, 30, 20)).astype(np.uint8))
    result = invoke("bench", *words)

    assert result.exit_code == code
    assert told in one_failure(result)
