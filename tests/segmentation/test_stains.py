"""The stains of a section are estimated once for the whole image, and prepared alike in every block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.errors import UsageError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.facts import model_facts
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.image_planner import plan_segment
from magnet_cli.segmentation.segment_job import options_hash
from magnet_cli.segmentation.stains import (
    CONES,
    OPPONENT,
    TISSUE_DEVIATION,
    TISSUE_MEAN,
    apply_stains,
    check_preparation,
    stain_map,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11]) / np.linalg.norm([0.07, 0.99, 0.11])
LIGHT = 230


def section(height: int = 160, width: int = 224) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a section, and the concentrations of hematoxylin and eosin, `(height, width, 2)`. On its left is glass."""
    rows, columns = np.mgrid[0:height, 0:width]
    amounts = np.stack((0.3 + 0.3 * np.sin(columns / 9), 0.3 + 0.3 * np.cos(rows / 13)), axis=2)
    amounts[:, : width // 4] = 0
    density = amounts @ np.stack((HEMATOXYLIN, EOSIN))
    return (LIGHT * 10**-density).round().astype(np.uint8), amounts


def applied(pixels: NDArray[np.uint8], kind: str = "stains") -> NDArray[np.float32]:
    values = torch.from_numpy(pixels.astype(np.float32))
    apply_stains(values, stain_map(pixels.reshape(-1, 3), kind))
    return values.numpy()


def test_stains_are_separated_into_their_concentrations() -> None:
    pixels, amounts = section()
    found = applied(pixels)
    for band, stain in ((0, 1), (1, 0)):  # Eosin comes first.
        low, high = np.percentile(amounts[..., stain], (1, 99))
        wanted = np.clip((amounts[..., stain] - low) / (high - low), 0, 1) * 255
        assert np.abs(found[..., band] - wanted).max() < 20
        assert np.abs(found[..., band] - wanted).mean() < 6
    density = -np.log10(np.clip(pixels / LIGHT, None, 1)).mean(axis=2)
    low, high = np.percentile(density, (1, 99))
    assert np.abs(found[..., 2] - np.clip((density - low) / (high - low), 0, 1) * 255).max() < 2


def test_normalised_sections_have_the_colours_of_the_reference_whatever_their_scanner() -> None:
    pixels, _ = section()
    # Another scanner has a darker lamp, and another laboratory leaves the section longer in the dyes.
    other = (215 * (pixels / LIGHT) ** 1.4).round().astype(np.uint8)
    one, two = applied(pixels, "macenko"), applied(other, "macenko")
    assert np.abs(one - two).mean() < 4 < np.abs(pixels.astype(float) - other).mean()
    assert float(one[:, :20].min()) > 230


def test_reinhard_gives_tissue_the_mean_and_deviation_of_the_reference() -> None:
    pixels, _ = section()
    tissue = np.linalg.norm(-np.log10(pixels / LIGHT), axis=2) > 0.16
    found = applied(pixels, "reinhard")
    logs = np.log(pixels.astype(float) @ CONES.T) @ OPPONENT.T
    wanted = (logs - logs[tissue].mean(axis=0)) / logs[tissue].std(axis=0) * TISSUE_DEVIATION + TISSUE_MEAN
    colours = np.exp(wanted @ np.linalg.inv(OPPONENT).T) @ np.linalg.inv(CONES).T
    assert np.abs(found - np.clip(colours, 0, 255))[tissue].mean() < 2
    assert np.abs(found[tissue].mean(axis=0) - pixels[tissue].mean(axis=0)).max() > 5


def test_what_is_no_section_with_two_stains_is_refused() -> None:
    grey = np.full((1000, 3), 230, np.uint8)
    with pytest.raises(ValueError, match="0 pixels of the overview are stained"):
        stain_map(grey, "stains")
    amounts = np.linspace(0.3, 1, 1000)[:, None]
    with pytest.raises(ValueError, match="one stain"):
        stain_map((LIGHT * 10 ** (-amounts * HEMATOXYLIN)).round().astype(np.uint8), "stains")


def bundle(folder: Path, preparation: str) -> str:
    """Write a bundle of two classes, eosin and hematoxylin: the class is the one with the higher concentration."""
    weight = torch.tensor([[8.0, 0, 0], [0, 8.0, 0]]).reshape(2, 3, 1, 1)
    made = write_bundle(
        folder / preparation,
        describe(size=64, preparation=preparation),
        {"backbone.safetensors": {"conv.weight": weight, "conv.bias": torch.zeros(2)}},
    )
    return str(made.folder)


def run(image: Path, weights: str, out: Path) -> NDArray[np.uint8]:
    options = SegmentOptions(weights=weights, tissue="none", method="patch", overlap="0")
    (done,) = segment(image, out, options)
    assert done.error is None, done.error
    mask: NDArray[np.uint8] = tifffile.imread(out)
    return mask


def test_every_block_is_prepared_with_the_values_of_the_whole_image(tmp_path: Path) -> None:
    pixels, _ = section()
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(64, 64), photometric="rgb")
    mask = run(tmp_path / "image.tif", bundle(tmp_path, "stains"), tmp_path / "mask.tif")
    prepared = applied(pixels)
    wanted = (prepared[..., 1] > prepared[..., 0]).astype(np.uint8)
    assert 0.2 < wanted.mean() < 0.8
    assert (mask == wanted).mean() > 0.9999


def test_the_values_belong_to_the_plan_and_to_its_hash(tmp_path: Path) -> None:
    pixels, _ = section()
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(64, 64), photometric="rgb")
    weights = bundle(tmp_path, "stains")
    plans = [plan_segment(tmp_path / "image.tif", SegmentOptions(weights=weights))[0] for _ in range(2)]
    found = plans[0].preparation
    assert found is not None
    # The same command, resumed, finds the same values.
    assert plans[1].preparation == found
    assert plans[0].describe()["preparation"] == found.describe()
    assert options_hash(plans[0]) == options_hash(plans[1])
    assert options_hash(replace(plans[0], preparation=replace(found, light=found.light + 1))) != options_hash(plans[0])
    facts = model_facts(load_bundle(weights))
    for wrong in ({"value_range": ((0, 1),) * 3}, {"settings": replace(plans[0].settings, compat="published")}):
        changed: Any = wrong
        with pytest.raises(UsageError, match="needs prepared stains"):
            check_preparation(replace(plans[0], **changed), facts)
    (failed,) = segment(blank(tmp_path), tmp_path / "blank-mask.tif", SegmentOptions(weights=weights))
    assert "stains of the section cannot be separated" in str(failed.error)


def blank(folder: Path) -> Path:
    tifffile.imwrite(folder / "blank.tif", np.full((96, 96, 3), 240, np.uint8), tile=(64, 64), photometric="rgb")
    return folder / "blank.tif"
