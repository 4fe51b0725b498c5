"""The commands that measure accuracy get the known scores of known networks on small scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from benchmarks.accuracy import cells, pretrained, refined, rows
from benchmarks.accuracy.cells import load_cells, miou
from benchmarks.accuracy.folds import RECIPES, backbone_config, refiner_config
from benchmarks.accuracy.grnets import MODELS, grnet_config, looked_at
from benchmarks.accuracy.grnets import ROWS as GRNET_ROWS
from benchmarks.accuracy.refined import Cascade, Part, middle, one_class
from benchmarks.accuracy.scenes import write_labels
from benchmarks.accuracy.segmented_tables import GRNET_CELLS, GRNET_PARTS, GRNET_RUNS, LABELS, PRETRAINED
from benchmarks.accuracy.yardsticks import Patching
from magnet_cli.geometry import Box, Size
from magnet_cli.models.architectures.cascade_base import BANDS
from magnet_cli.models.bundle_writer import describe, describe_cascade, write_bundle, write_cascade_bundle
from magnet_cli.models.registry import build_backbone, build_cascade

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import Bundle

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)
NAMES = refined.TILE_CLASSES
CLASSES = len(COLOURS)
HEIGHT, WIDTH = 150, 170


def colour_bundle(folder: Path, *, size: int, scales: tuple[int, ...]) -> Bundle:
    """Make a bundle that distinguishes five colours, pixel by pixel."""
    network = build_backbone("conv", classes=CLASSES, bands=3, options={})
    signs = torch.from_numpy(COLOURS > 0).float() * 2 - 1
    with torch.no_grad():
        for parameter in network.parameters():
            weights = 40 * signs[:, :, None, None]
            # A colour with more bands must not win by their number alone.
            parameter.copy_(weights if parameter.dim() > 1 else -20 * signs.clamp_min(0).sum(dim=1) + 20)
    classes = [{"name": name, "color": f"#{bytes(colour).hex()}"} for name, colour in zip(NAMES, COLOURS, strict=True)]
    description = describe(classes=classes, size=size, scales=scales)
    return write_bundle(folder, description, {"backbone.safetensors": network})


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a scene whose labels are its colours and a bundle for it, and use an empty folder of results."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    coarse = np.random.default_rng(1).integers(0, CLASSES, (10, 11)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((16, 16), np.uint8))[:HEIGHT, :WIDTH]
    (tmp_path / "dubai").mkdir()
    tifffile.imwrite(tmp_path / "dubai" / "tile6.tif", COLOURS[labels], photometric="rgb")
    write_labels(tmp_path / "dubai" / "tile6-labels.tif", labels)
    colour_bundle(tmp_path / "bundles" / "out6", size=64, scales=(64, 128))
    return tmp_path


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["command", *words])
    module.main()


def test_rows_are_measured_once_and_become_lines(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--work", str(work), "--scene", "tile6", "--row", "patch", "--row", "patch-flips", "--row", "magnet"]
    run(rows, monkeypatch, *words, "--row", "magnet-certainty")
    found = load_cells("main")
    assert [row for row, _ in found] == ["patch", "patch-flips", "magnet", "magnet-certainty"]
    assert {scene for _, scene in found} == {"tile6"}
    assert [miou([found[name, "tile6"]]) for name in ("patch", "patch-flips")] == [100, 100]
    assert all(sum(cell.truth) == HEIGHT * WIDTH for cell in found.values())
    windows = {row: cell.windows for (row, _), cell in found.items()}
    assert windows["magnet"] is not None
    assert windows["patch"] is not None
    assert windows["magnet"] > windows["patch"]
    before = {path: path.stat().st_mtime_ns for path in cells.RESULTS.iterdir()}
    run(rows, monkeypatch, *words)
    assert {path: path.stat().st_mtime_ns for path in cells.RESULTS.iterdir()} == before
    run(rows, monkeypatch, "--work", str(work), "--scene", "tile6", "--row", "patch", "--again")
    assert len(load_cells("main")) == 4


@pytest.mark.parametrize("tool", ["guided", "crf"])
def test_masks_are_scored_before_and_after(work: Path, tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"guided": "cv2.ximgproc", "crf": "pydensecrf"}[tool])
    monkeypatch.setattr(refined, "TILE_SIDE", 128)
    monkeypatch.setattr(refined, "SCALES", (128, 64))
    monkeypatch.setattr(refined, "CLASSICAL", (tool,))
    keeping = build_cascade("conv", options={})
    with torch.no_grad():
        for parameter in keeping.parameters():
            parameter.zero_()
            if parameter.dim() > 1:
                parameter[0, BANDS] = 2
    write_cascade_bundle(work / "cascade", describe_cascade(side=128), keeping)
    words = ["--work", str(work), "--part", "tile6", "--kind", "downsample"]
    run(refined, monkeypatch, *words)
    run(refined, monkeypatch, *words, "--cascade", f"building={work / 'cascade'}", "--seed", "2")
    every, alone = load_cells("refined-every"), load_cells("refined-building")
    assert [row for row, _ in every] == ["downsample-input", f"downsample-{tool}", "downsample-only-seed2"]
    assert [row for row, _ in alone] == ["downsample-input", f"downsample-{tool}", "downsample-cascade-seed2"]
    part = Part(work=work, name="tile6")
    labels, mask = tifffile.imread(part.truth), tifffile.imread(part.mask("downsample"))
    assert labels.shape == (128, 128)
    given = every["downsample-input", "tile6"]
    assert given.both == tuple(int(np.sum((labels == n) & (mask == n))) for n in range(CLASSES))
    assert 0 < sum(given.both) < labels.size, "windows of 128 pixels are shrunk"
    single = alone["downsample-input", "tile6"]
    assert single.truth == (int(np.sum(labels != 0)), int(np.sum(labels == 0)))
    assert single.both[1] == given.both[0]
    # The cascade gives every mask back, so scores after it are those before it.
    for found, row, before in ((every, "only", given), (alone, "cascade", single)):
        after = found[f"downsample-{row}-seed2", "tile6"]
        assert (after.truth, after.mask, after.both) == (before.truth, before.mask, before.both)
        assert after.backbone == Cascade(table="building", weights=str(work / "cascade")).digest


def test_one_class_alone_keeps_what_is_unknown() -> None:
    assert one_class(np.array([[0, 2, 255]], np.uint8), 2).tolist() == [[0, 1, 255]]


def test_the_middle_is_the_middle() -> None:
    assert middle(Size(width=101, height=50), 20) == Box(x=40, y=15, width=20, height=20)


@pytest.mark.parametrize("shape", [(75, 101), (40, 300), (300, 40)])
@pytest.mark.parametrize("settings", [{}, {"overlap": 0.5}, {"flips": True}, {"overlap": 0.5, "margin": 4}])
def test_plain_patching_gives_the_labels_back(tmp_path: Path, settings: dict[str, Any], shape: tuple[int, int]) -> None:
    bundle = colour_bundle(tmp_path, size=32, scales=(32,))
    labels = np.random.default_rng(6).integers(0, CLASSES, shape).astype(np.uint8)
    mask, windows = Patching(bundle=bundle, **settings).run(COLOURS[labels])
    assert np.array_equal(mask, labels)
    assert windows > 0


def test_backbones_and_refiners_leave_scenes_out(tmp_path: Path) -> None:
    outer, inner = backbone_config(("tile7",)), backbone_config(("tile4", "tile7"))
    assert outer.data.scenes == ("tile1", "tile2", "tile3", "tile4", "tile6")
    assert inner.data.scenes == ("tile1", "tile2", "tile3", "tile6")
    assert (outer.loop.iterations, inner.loop.iterations) == (3000, 1000)
    assert backbone_config(("tile4",)).loop.iterations == 2200
    curves = backbone_config(("tile4",), RECIPES["curves"])
    assert (curves.loop.iterations, curves.bundle["input"]["size"]["width"]) == (1500, 128)
    refiner = refiner_config("tile4", tmp_path)
    assert refiner.data.scenes == ("tile1", "tile2", "tile3", "tile6", "tile7-part")
    assert refiner.folds.held_out == (("tile6",), ("tile7-part",))
    assert [folder.rpartition("/")[2] for folder in refiner.folds.backbones] == ["out46", "out47"]


@pytest.mark.parametrize("name", MODELS)
def test_a_grnet_leaves_the_scene_out_and_keeps_one_backbone(name: str) -> None:
    config, plain = grnet_config(MODELS[name], "tile4"), grnet_config(MODELS["cells16"], "tile4")
    assert "tile4" not in config.data.scenes
    assert len(config.data.scenes) == 5
    assert config.network == plain.network
    assert MODELS[name].is_backbone or config.grnet.local == plain.grnet.local
    own, parts = config.loop.iterations, plain.grnet
    rounds = (plain.loop.iterations - parts.alone) // 2
    assert own in (plain.loop.iterations, parts.alone + rounds, 2 * rounds)


def test_every_row_of_a_table_can_be_measured() -> None:
    assert set(LABELS) == set(rows.ROWS)
    assert set(PRETRAINED) == set(pretrained.ROWS)
    assert {*GRNET_CELLS, *GRNET_PARTS, *GRNET_RUNS} == set(GRNET_ROWS)
    assert {row.model for row in GRNET_ROWS.values()} == set(MODELS)


def test_cells_are_counted_only_where_there_are_cells() -> None:
    stage = {"windows": 8, "windows_run": 2}
    assert looked_at({"options": {"method": "grnet"}, "passes": [{"stages": [stage]}]}) == 0.25
    assert looked_at({"options": {"method": "patch"}, "passes": [{"stages": [stage]}]}) is None
