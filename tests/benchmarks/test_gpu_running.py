"""Runs of the GPU check that are bounded end at their bound, and are not failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.gpu.running import Watch, draw, run_once
from magnet_cli import SegmentOptions
from magnet_cli.errors import MagnetError
from magnet_cli.events import Events
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.segmentation.segment_model import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.segmentation.segment_model import Model


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> SegmentOptions:
    folder = tmp_path_factory.mktemp("bundle")
    network = build_backbone("conv", classes=2, bands=3, options={})
    write_bundle(folder, describe(classes=2, size=64, scales=(64,)), {"backbone.safetensors": network})
    return SegmentOptions(weights=str(folder), method="patch", device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def model(options: SegmentOptions) -> Model:
    return load_model(options, Events())


@pytest.mark.parametrize("bound", [Watch(groups=1), Watch(seconds=0.0)], ids=["groups", "seconds"])
def test_a_run_ends_at_its_bound(tmp_path: Path, model: Model, options: SegmentOptions, bound: Watch) -> None:
    image = draw(tmp_path / "image.tif", 3000)
    assert run_once(image, tmp_path / "mask.tif", model, options, bound) is None
    assert len(bound.done) > 0
    assert bound.done[-1][1] < bound.total


def test_a_run_without_a_bound_has_a_report_and_a_failure_is_raised(
    tmp_path: Path, model: Model, options: SegmentOptions
) -> None:
    image = draw(tmp_path / "image.tif", 300)
    assert run_once(image, tmp_path / "mask.tif", model, options)["classes"]
    with pytest.raises(MagnetError, match=r"none\.tif"):
        run_once(tmp_path / "none.tif", tmp_path / "other.tif", model, options)
