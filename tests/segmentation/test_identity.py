"""Laws 3 and 4 hold for a whole run: an identity network gives the image's labels back."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magnet_cli.geometry import LEVEL0, Pitch, Size
from magnet_cli.images.protocol import Level, Resolution
from magnet_cli.options.rules import ALL
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import SegmentOptions
from tests.segmentation.support import ArrayImage, CodedNetworks, coded, count, facts, run, sides

ONE_AND_A_HALF = Pitch.square(Fraction(3, 2))
FIFTH = Resolution(x=Fraction("0.2"), y=Fraction("0.2"), unit="um")


def labels_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (height, width), dtype=np.uint8)


@given(
    width=st.integers(1, 180),
    height=st.integers(1, 180),
    scales=st.sampled_from([(32,), (64, 32), (128, 64, 32), (256, 128, 64, 32), (512, 256, 128, 64, 32), (96, 48, 32)]),
    median=st.sampled_from([1, 3]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_labels_come_back_exactly_where_scale_equals_input(
    width: int, height: int, scales: tuple[int, ...], median: int
) -> None:
    labels = labels_of(height, width)
    options = SegmentOptions(scales=sides(*scales), points=ALL, median=median, num_workers=0)
    outcome = run(ArrayImage(coded(labels)), facts(5, input_side=32), options)
    np.testing.assert_array_equal(outcome.labels, labels)
    assert (outcome.sink.touched == 1).all()


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"mpp": Fraction("0.3")}, {"resolution": FIFTH}),
        ({"gsd": Fraction("0.3")}, {"resolution": replace(FIFTH, unit="m")}),
        ({"mag": Fraction(20)}, {"objective": Fraction(30)}),
        ({"mag": Fraction(20), "slide_mpp": Fraction(1, 3)}, {}),
        ({"level": 1}, {}),
        ({"scales": parse_scales("9.6um,19.2um,38.4um")}, {"resolution": FIFTH}),
    ],
    ids=lambda value: next(iter(value), ""),
)
@pytest.mark.parametrize("size", [(165, 270), (100, 31), (2, 1)])
def test_labels_come_back_exactly_at_a_pitch_that_is_no_whole_number(
    size: tuple[int, int], options: dict[str, Any], changed: dict[str, Any]
) -> None:
    """Three pixels of level 0 are two of the working grid: a drift of a sixth of a pixel would show at the far end."""
    height, width = size
    labels = np.kron(labels_of(-(-height // 3), -(-width // 3)), np.ones((3, 3), np.uint8))[:height, :width]
    image = ArrayImage(coded(labels))
    levels = tuple(Level(size=pitch.cover(image.info.size), downsample=pitch) for pitch in (LEVEL0, ONE_AND_A_HALF))
    image.info = replace(image.info, levels=levels, **changed)
    usual: dict[str, Any] = {"scales": sides(128, 64, 32), "points": ALL, "num_workers": 0}
    outcome = run(image, facts(5, input_side=32), SegmentOptions(**{**usual, **options}))
    assert outcome.plan.stages[-1].pitch == ONE_AND_A_HALF
    np.testing.assert_array_equal(outcome.labels, labels)
    assert (outcome.sink.touched == 1).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_labels(workers: int) -> None:
    labels = labels_of(150, 170)
    options = SegmentOptions(scales=sides(128, 64, 32), num_workers=workers)
    outcome = run(ArrayImage(coded(labels)), facts(5, input_side=32), options)
    np.testing.assert_array_equal(outcome.labels, labels)


def test_pixels_without_data_have_no_label_and_are_not_computed() -> None:
    labels = labels_of(200, 200)
    valid = np.zeros((200, 200), np.bool_)
    valid[:60, :50] = True
    networks = CodedNetworks(5)
    options = SegmentOptions(scales=sides(64, 32), num_workers=0)
    outcome = run(ArrayImage(coded(labels), valid=valid), facts(5, input_side=32), options, networks)
    np.testing.assert_array_equal(outcome.labels, np.where(valid, labels, 255))
    windows = sum(outcome.plan.windows(step, stage) for step in outcome.plan.passes for stage in step.stages)
    assert sum(networks.batches) < windows / 3


@pytest.mark.parametrize("scales", [(96,), (192, 96)])
def test_slivers_of_data_that_no_window_looked_at_have_no_label(scales: tuple[int, ...]) -> None:
    labels = labels_of(96, 96 * 3) % 4 + 1
    valid = np.zeros(labels.shape, np.bool_)
    valid[:, :50] = True
    valid[:, 240] = True
    options = SegmentOptions(scales=sides(*scales), points=ALL, overlap=0 if len(scales) == 1 else None, num_workers=0)
    outcome = run(ArrayImage(coded(labels), valid=valid), facts(5, input_side=32), options)
    assert (outcome.labels[:, :50] < 5).all()
    assert (outcome.labels[~valid] == 255).all()
    assert (outcome.labels[:, 240] == 255).all()


def ramp(size: Size, slope: float, offset: float, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a grey ramp from label 0 to label 1, and the signed distance of pixel centres from the class border."""
    rows, columns = np.mgrid[: size.height, : size.width]
    distance = (columns + 0.5 - offset) * np.cos(angle) + (rows + 0.5 - size.height / 2) * np.sin(angle)
    grey = np.clip(20 + slope * 40 * distance, 0, 40)
    return np.repeat(grey[..., None], 3, axis=2), distance, grey


class RampNetworks(CodedNetworks):
    """Networks of two classes whose probability is the grey value, so that the border lies where the ramp has it."""

    def predict(self, patches: torch.Tensor, scale: Size) -> torch.Tensor:
        del scale
        second = (patches[:, :1] * 255 / 40).clamp(0, 1)
        return torch.cat([1 - second, second], dim=1)


@pytest.mark.parametrize("scales", [(50,), (111, 37), (160, 80, 40), (640, 320, 160, 80, 40), (29,), (333, 50)])
@pytest.mark.parametrize("slope", [0.003, 0.01])
def test_the_class_border_of_a_soft_ramp_moves_less_than_a_tenth_of_a_pixel(
    scales: tuple[int, ...], slope: float
) -> None:
    size = Size(width=331, height=257)
    grey, distance, _ = ramp(size, slope, offset=163.37, angle=0.4)
    image = ArrayImage(np.zeros((size.height, size.width, 3), np.uint8))
    image._pixels = grey
    image.exact = True
    options = SegmentOptions(scales=sides(*scales), points=ALL, median=1, num_workers=0)
    outcome = run(image, facts(2, input_side=32), options, RampNetworks(2))
    wrong = (outcome.labels == 1) != (distance > 0)
    assert np.abs(distance[wrong]).max(initial=0) < 0.1


@pytest.mark.parametrize("method", ["patch", "downsample"])
def test_single_stage_methods_use_one_scale(method: str) -> None:
    labels = labels_of(100, 90)
    options = SegmentOptions(scales=sides(64, 32), method=method, num_workers=0)
    outcome = run(ArrayImage(coded(labels)), facts(5, input_side=32), options)
    assert len(outcome.plan.stages) == 1
    if method == "patch":
        np.testing.assert_array_equal(outcome.labels, labels)


def test_fast_looks_at_the_most_uncertain_windows_only() -> None:
    labels = np.zeros((128, 128), np.uint8)
    labels[70:90, 70:90] = np.random.default_rng(0).integers(0, 5, (20, 20))
    networks = CodedNetworks(5)
    options = SegmentOptions(
        scales=sides(128, 32), method="magnet-fast", patches=count(1), overlap=0, median=3, num_workers=0
    )
    outcome = run(ArrayImage(coded(labels)), facts(5, input_side=32), options, networks)
    assert sum(networks.batches) == 2
    np.testing.assert_array_equal(outcome.labels[64:96, 64:96], labels[64:96, 64:96])
