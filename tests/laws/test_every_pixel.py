"""Laws 3 and 4 hold from file to file: every pixel gets one label, and it is the image's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch
import zarr

from magnet_cli.arithmetic.canvas import CanvasTaps
from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from tests.laws.support import (
    CLASSES,
    STEP,
    coded,
    echo_refiner,
    labels_in,
    number,
    part,
    random_labels,
    segment,
    sides,
    template_bundle,
    write_tiled,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.options.segment import Merge

OWN, REFINED = 150.0, 4.0
"""Sharpness of the networks whose probabilities are compared."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_bundle(tmp_path_factory.mktemp("bundle") / "template", scales=(32, 64, 128))


SIZES = [
    Size(width=1, height=1),
    Size(width=2, height=1),
    Size(width=300, height=1),
    Size(width=1, height=211),
    Size(width=7, height=5),
    Size(width=127, height=131),
    Size(width=257, height=97),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "scales", [(32,), (128, 64, 32), (512, 256, 128, 64, 32), (150, 100, 32)], ids=lambda scales: str(len(scales))
)
def test_labels_come_back_from_file_to_file(size: Size, scales: tuple[int, ...], bundle: Path, tmp_path: Path) -> None:
    labels = random_labels(size)
    image = write_tiled(tmp_path / "s.tif", coded(labels))
    options = SegmentOptions(weights=str(bundle), scales=sides(*scales), num_workers=0)
    report = segment(image, tmp_path / "m.tif", options)
    np.testing.assert_array_equal(labels_in(tmp_path / "m.tif"), labels)
    classes = report["classes"]
    assert isinstance(classes, list)
    assert [entry["pixels"] for entry in classes] == np.bincount(labels.ravel(), minlength=CLASSES).tolist()


@pytest.mark.parametrize("margin", [2, 5, 9])
@pytest.mark.parametrize("scale", ["auto", "full"])
def test_margins_and_named_scales_change_nothing(margin: int, scale: str, bundle: Path, tmp_path: Path) -> None:
    labels = random_labels(Size(width=301, height=173), seed=margin)
    image = write_tiled(tmp_path / "s.tif", coded(labels))
    options = SegmentOptions(weights=str(bundle), scales=cast("Any", scale), overlap=2 * margin)
    report = segment(image, tmp_path / "m.tif", options)
    np.testing.assert_array_equal(labels_in(tmp_path / "m.tif"), labels)
    assert number(report, "groups", "computed") > 1


def test_pixels_without_data_get_255_and_no_other_does(bundle: Path, tmp_path: Path) -> None:
    labels = random_labels(Size(width=201, height=143))
    pixels = coded(labels) + np.uint8(1)
    pixels[50:90, :77] = 0
    image = write_tiled(tmp_path / "s.tif", pixels, nodata=0)
    report = segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(bundle)))
    labels[50:90, :77] = 255
    np.testing.assert_array_equal(labels_in(tmp_path / "m.tif"), labels)
    assert number(report, "not_computed", "pixels") == 40 * 77


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


def expected_probabilities(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what the template networks say, written down a second time: `(classes, height, width)`."""
    grey = labels * (STEP / 255)
    centres = (np.arange(CLASSES) * (STEP / 255))[:, None, None]
    own = softmax(-OWN * (grey - centres) ** 2)
    return softmax(REFINED * own)


@pytest.mark.parametrize("scales", [(32,), (128, 64, 32), (512, 256, 128, 64, 32)], ids=lambda scales: str(len(scales)))
def test_probabilities_are_the_networks_own(scales: tuple[int, ...], tmp_path: Path) -> None:
    weights = template_bundle(tmp_path / "bundle", scales=(32,), own=OWN, refined=REFINED)
    labels = random_labels(Size(width=201, height=143))
    image = write_tiled(tmp_path / "s.tif", coded(labels))
    options = SegmentOptions(weights=str(weights), scales=sides(*scales), probabilities=True, uncertainty=True)
    segment(image, tmp_path / "m.tif", options)
    expected = expected_probabilities(labels)
    if len(scales) == 1:
        grey, centres = labels * (STEP / 255), (np.arange(CLASSES) * (STEP / 255))[:, None, None]
        expected = softmax(-OWN * (grey - centres) ** 2)
    found = values_in(tmp_path / "m.tif", "probabilities")
    assert found.shape == expected.shape
    # Half a step of the file, and of the canvas.
    assert np.abs(found - expected).max() < 0.5 / 254 + 2**-11
    np.testing.assert_array_equal(found.argmax(axis=0), labels_in(tmp_path / "m.tif"))
    best = np.sort(expected, axis=0)
    unsure = values_in(tmp_path / "m.tif", "uncertainty")
    assert unsure.shape == (1, 143, 201)
    assert np.abs(unsure[0] - (1 - best[-1] + best[-2])).max() < 0.5 / 254 + 2**-9


def values_in(mask: Path, field: str) -> NDArray[np.float64]:
    """Return a field's values by its own attributes; NaN where it was not computed."""
    array = zarr.open_array(OutputPaths.of(mask).field(field), mode="r")
    stored = np.asarray(array[:])
    scale, offset = cast("float", array.attrs["scale_factor"]), cast("float", array.attrs["add_offset"])
    return np.where(stored == array.attrs["_FillValue"], np.nan, stored * scale + offset)


def test_probabilities_of_missing_pixels_are_missing(bundle: Path, tmp_path: Path) -> None:
    labels = random_labels(Size(width=101, height=83))
    pixels = coded(labels) + np.uint8(1)
    pixels[:, :31] = 0
    image = write_tiled(tmp_path / "s.tif", pixels, nodata=0)
    segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(bundle), probabilities=True))
    missing = np.isnan(values_in(tmp_path / "m.tif", "probabilities"))
    assert missing[:, :, :31].all()
    assert not missing[:, :, 31:].any()


BORDER = 163.37
"""The place where the ramp's two classes meet, in pixels of level 0 along its direction."""


def write_ramp(path: Path, size: Size, *, slope: float, mpp: float) -> NDArray[np.float64]:
    """Write a pyramid of three levels with a grey ramp, and return each pixel's signed distance from its middle."""
    rows, columns = np.mgrid[: size.height, : size.width] + 0.5
    angle = 0.4
    distance = (columns - BORDER) * np.cos(angle) + (rows - size.height / 2) * np.sin(angle)
    level = np.clip(0.5 + slope * distance, 0, 1) * 65535
    with tifffile.TiffWriter(path) as file:
        for index in range(3):
            stored = np.repeat(np.rint(level).astype(np.uint16)[..., None], 3, axis=2)
            file.write(
                stored,
                tile=(64, 64),
                photometric="rgb",
                compression="deflate",
                subfiletype=1 if index else 0,
                resolution=(1e4 / mpp / 2**index, 1e4 / mpp / 2**index),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            even = np.pad(level, [(0, level.shape[0] % 2), (0, level.shape[1] % 2)], mode="edge")
            level = even.reshape(even.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    return np.asarray(distance)


def ramp_bundle(folder: Path, *, slope_of_logits: float, resolution: float) -> Path:
    """Write a bundle of two classes that meet where the grey value is a half."""
    network = build_backbone("conv", classes=2, bands=3, options={})
    weight = torch.zeros(2, 3, 1, 1)
    weight[1, 0] = slope_of_logits
    network.load_state_dict({"conv.weight": weight, "conv.bias": torch.tensor([slope_of_logits / 2, 0.0])})
    description = describe(
        name="ramp",
        classes=2,
        size=32,
        refiners=[{}],
        input={"range": [0, 65535]},
        resolution={"value": resolution, "unit": "um"},
    )
    networks = {"backbone.safetensors": network, "refiner.safetensors": echo_refiner(sharpness=2, classes=2)}
    write_bundle(folder, description, networks, dtype=torch.float32)
    return folder


@pytest.mark.parametrize("size", [Size(width=331, height=257), Size(width=416, height=260)], ids=str)
@pytest.mark.parametrize("scales", [(32,), (64, 32), (256, 128, 64, 32), (100, 47, 29)], ids=str)
@pytest.mark.parametrize("merge", ["refiner", "mean"])
def test_the_border_of_a_ramp_stays_in_place_between_a_slide_and_another_resolution(
    merge: Merge, scales: tuple[int, ...], size: Size, tmp_path: Path
) -> None:
    """The slide has 0.5 um a pixel and the networks 0.7: no level or canvas pixel lies on level 0's grid.

    With the mean, results of coarser stages stay in the final one. Beyond the image's edge the image is continued by
    reflection, so the outermost two of their pixels are left out there.
    """
    distance = write_ramp(tmp_path / "s.tif", size, slope=0.008, mpp=0.5)
    weights = ramp_bundle(tmp_path / "bundle", slope_of_logits=2.0, resolution=0.7)
    options = SegmentOptions(weights=str(weights), scales=sides(*scales), points=parse_points("all"), merge=merge)
    report = segment(tmp_path / "s.tif", tmp_path / "m.tif", options)
    assert part(report, "options", "working_pixel") == {"width": 1.4, "height": 1.4}
    assert part(report, "input", "levels") == 3
    labels = labels_in(tmp_path / "m.tif")
    wrong = (labels == 1) != (distance > 0)
    if merge == "mean":
        edge = int(2 * 1.4 * max(scales) / 32)
        wrong[:edge], wrong[-edge:], wrong[:, :edge], wrong[:, -edge:] = False, False, False, False
    assert np.abs(distance[wrong]).max(initial=0) < 0.1
    assert 0.2 < (labels == 1).mean() < 0.8


def test_a_shift_of_a_quarter_pixel_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the check above can fail: level 0's labels are taken a quarter of a canvas pixel aside."""
    between = CanvasTaps.between

    def shifted(**named: Any) -> CanvasTaps:
        taps = between(**named)
        return replace(taps, weight=np.minimum(taps.weight + np.float32(0.25), np.float32(1)))

    distance = write_ramp(tmp_path / "s.tif", Size(width=331, height=257), slope=0.008, mpp=0.5)
    weights = ramp_bundle(tmp_path / "bundle", slope_of_logits=2.0, resolution=0.7)
    monkeypatch.setattr(CanvasTaps, "between", shifted)
    segment(tmp_path / "s.tif", tmp_path / "m.tif", SegmentOptions(weights=str(weights), scales=sides(64, 32)))
    wrong = (labels_in(tmp_path / "m.tif") == 1) != (distance > 0)
    assert np.abs(distance[wrong]).max(initial=0) > 0.15
