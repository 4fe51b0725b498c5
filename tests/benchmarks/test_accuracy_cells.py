"""Scores of the accuracy tables, against direct arithmetic, and the page against the committed cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from benchmarks.accuracy import cells as module
from benchmarks.accuracy.cells import Boundary, Cell, count, ious, mba, miou
from benchmarks.accuracy.page import PAGE, filled, interval
from benchmarks.accuracy.yardsticks import Patching
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = 4


def scene(seed: int, shape: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES - 1, shape).astype(np.uint8)
    mask = np.where(rng.random(shape) < 0.7, truth, rng.integers(0, CLASSES - 1, shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.1] = 255
    return mask, truth


def cell(mask: NDArray[np.uint8], truth: NDArray[np.uint8], **more: object) -> Cell:
    return Cell(table="t", row="r", scene="s", **count(mask, truth, classes=CLASSES), **more)  # type: ignore[arg-type]


def test_pooled_scores_are_those_of_the_scenes_side_by_side() -> None:
    first, second = scene(1, (30, 40)), scene(2, (50, 20))
    mask, truth = (np.concatenate([a.ravel(), b.ravel()]) for a, b in zip(first, second, strict=True))
    known = truth != 255
    expected = [
        np.sum(known & (mask == label) & (truth == label)) / np.sum(known & ((mask == label) | (truth == label)))
        for label in range(CLASSES - 1)
    ]
    found = ious([cell(*first), cell(*second)])
    assert found[:-1] == pytest.approx(expected)
    assert np.isnan(found[-1]), "a class that no scene has is no zero"
    assert miou([cell(*first), cell(*second)]) == pytest.approx(100 * np.mean(expected))


def test_boundary_pixels_are_pooled() -> None:
    near = [
        Boundary(radii=(3.0, 5.0), near=(10, 20), right=(5, 20)),
        Boundary(radii=(3.0, 5.0), near=(30, 20), right=(30, 10)),
    ]
    made = [cell(*scene(3, (8, 8)), boundary=one) for one in near]
    assert mba(made) == pytest.approx(100 * np.mean([35 / 40, 30 / 40]))
    assert mba([*made, cell(*scene(4, (8, 8)))]) is None


def test_a_cell_survives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    made = cell(*scene(5, (9, 9)), boundary=Boundary(radii=(3.0,), near=(4,), right=(2,)), windows=7, gmac=1.5)
    made.save()
    assert Cell.load("t", "s", "r") == made
    assert Cell.load("t", "s", "other") is None


def test_the_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)


@pytest.mark.parametrize("shape", [(75, 101), (40, 300), (300, 40)])
@pytest.mark.parametrize("settings", [{}, {"overlap": 0.5}, {"flips": True}, {"overlap": 0.5, "margin": 4}])
def test_plain_patching_gives_an_identity_network_its_image_back(
    tmp_path: Path, settings: dict[str, object], shape: tuple[int, int]
) -> None:
    network = build_backbone("conv", classes=3, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(9 * torch.eye(3)[:, :, None, None] if parameter.dim() > 1 else torch.zeros(3))
    bundle = write_bundle(tmp_path, describe(classes=3), {"backbone.safetensors": network})
    labels = np.random.default_rng(6).integers(0, 3, shape).astype(np.uint8)
    pixels = np.eye(3, dtype=np.uint8)[labels] * 255
    mask, windows = Patching(bundle=bundle, **settings).run(pixels)  # type: ignore[arg-type]
    assert np.array_equal(mask, labels)
    assert windows > 0


def test_the_page_says_what_the_cells_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m benchmarks.accuracy.page"
