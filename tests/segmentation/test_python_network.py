"""`segment` runs a network of the caller, and returns masks as arrays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

import magnet_cli
from magnet_cli import NetworkDescription, SegmentOptions
from magnet_cli.errors import MagnetError, SourceError, UsageError, WeightsError
from tests.cli.support import expected_labels, write_colours_bundle, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

COLOURS = NetworkDescription(classes=["r", "g", "b"], size=32, scales="32,64,128", version="1", name="colours")
ON_CPU = SegmentOptions(device="cpu", num_workers=0)


def brightest(patches: Tensor) -> Tensor:
    """Return logits by which the class is the brightest of red, green and blue."""
    return 20 * patches


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "s.tif")


def test_a_function_gives_the_mask_of_a_bundle_that_computes_the_same(image: Path, tmp_path: Path) -> None:
    bundle = write_colours_bundle(tmp_path / "bundle")
    (theirs,) = magnet_cli.segment(image, tmp_path / "theirs.tif", SegmentOptions(device="cpu", weights=bundle))
    (own,) = magnet_cli.segment(image, tmp_path / "own.tif", ON_CPU, network=brightest, description=COLOURS)
    assert own.error is None
    np.testing.assert_array_equal(own.array(), theirs.array())
    wrong = own.array() != expected_labels()
    assert wrong.mean() < 0.05
    report = own.report
    assert report is not None
    assert report["bundle"]["name"] == "colours"  # type: ignore[index]
    assert [entry["name"] for entry in report["classes"]] == ["r", "g", "b"]  # type: ignore[attr-defined]
    assert report["command"] == []


def test_a_run_goes_on_with_the_same_network_alone(image: Path, tmp_path: Path) -> None:
    module = torch.nn.Conv2d(3, 3, 1)
    plain = NetworkDescription(classes=3, size=32)
    (first,) = magnet_cli.segment(image, tmp_path / "m.tif", ON_CPU, network=module, description=plain)
    (again,) = magnet_cli.segment(image, tmp_path / "m.tif", ON_CPU, network=module, description=plain)
    assert (first.was_done, again.was_done) == (False, True)
    with torch.no_grad():
        module.weight.add_(1)
    (other,) = magnet_cli.segment(image, tmp_path / "m.tif", ON_CPU, network=module, description=plain)
    assert other.error is not None
    assert "other" in str(other.error)
    with pytest.raises(MagnetError):
        other.array()


def test_a_page_says_that_no_command_makes_the_mask_again(image: Path, tmp_path: Path) -> None:
    options = SegmentOptions(device="cpu", html=True)
    magnet_cli.segment(image, tmp_path / "m.tif", options, network=brightest, description=COLOURS)
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "no command line makes it again" in page
    assert "--weights aerial" not in page
    assert json.loads((tmp_path / "m.json").read_text())["command"] == []


def test_a_bundle_and_a_network_are_not_given_together(image: Path, tmp_path: Path) -> None:
    options = SegmentOptions(weights="aerial", device="cpu")
    with pytest.raises(UsageError, match="takes the place of a bundle"):
        magnet_cli.segment(image, tmp_path / "m.tif", options, network=brightest, description=COLOURS)
    assert not (tmp_path / "m.tif").exists()


def test_a_network_is_planned_as_it_is_run(image: Path, tmp_path: Path) -> None:
    (plan,) = magnet_cli.plan_segment(image, ON_CPU, network=brightest, description=COLOURS)
    (made,) = magnet_cli.segment(image, tmp_path / "m.tif", ON_CPU, network=brightest, description=COLOURS)
    assert made.report is not None
    assert [str(stage.scale) for stage in plan.stages] == ["128x128", "64x64", "32x32"]
    assert plan.batch == made.report["options"]["batch"]  # type: ignore[index]


def test_an_array_is_segmented_as_its_file_would_be(image: Path, tmp_path: Path) -> None:
    (made,) = magnet_cli.segment(image, tmp_path / "m.tif", ON_CPU, network=brightest, description=COLOURS)
    pixels = tifffile.imread(image)
    for source in (pixels, image):
        labels = magnet_cli.segment_array(source, ON_CPU, network=brightest, description=COLOURS)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, made.array())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.tif", "s.tif"]


def test_arrays_of_one_band_and_of_other_types() -> None:
    grey = np.zeros((40, 50), np.uint16)
    grey[:, 25:] = 60_000
    description = NetworkDescription(
        classes=2, size=16, bands=("grey",), range=(0, 65535), activation="sigmoid", version="1"
    )

    def bright(patches: Tensor) -> Tensor:
        return 20 * (patches - 0.5)

    expected = np.repeat([[0, 1]], 25, axis=1).repeat(40, axis=0)
    for pixels in (grey, grey[..., None]):
        labels = magnet_cli.segment_array(pixels, ON_CPU, network=bright, description=description)
        np.testing.assert_array_equal(labels, expected)
    floats = (grey / 65535).astype(np.float32)
    options = SegmentOptions(device="cpu", value_range="0,1")
    labels = magnet_cli.segment_array(floats, options, network=bright, description=description)
    np.testing.assert_array_equal(labels, expected)
    with pytest.raises(WeightsError, match="the image stores float32"):
        magnet_cli.segment_array(floats, ON_CPU, network=bright, description=description)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros(5), np.zeros((0, 4, 3)), np.zeros((3, 100, 90)), np.zeros((4, 4), complex), np.zeros((2, 2, 2, 2))],
    ids=lambda pixels: str(pixels.shape),
)
def test_arrays_that_are_no_images(pixels: Any) -> None:
    with pytest.raises(UsageError, match=r"an image is an array|bands last"):
        magnet_cli.segment_array(pixels, ON_CPU, network=brightest, description=COLOURS)


def test_a_failure_of_one_image_is_raised_where_an_array_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "note.tif").write_text("no image")
    with pytest.raises(SourceError, match=r"note\.tif"):
        magnet_cli.segment_array(tmp_path / "note.tif", ON_CPU, network=brightest, description=COLOURS)
