"""The published arithmetic as a whole gives the published program's values, with its defects corrected."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from magnet_cli.arithmetic.published.point_choice import certainty
from magnet_cli.arithmetic.published.stages import (
    PublishedSettings,
    PublishedStage,
    labels_published,
    published_stages,
    segment_published,
)
from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from tests.golden import GOLDEN, golden_networks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Box


def square(side: int) -> Size:
    return Size(width=side, height=side)


SMALL = PublishedSettings(
    stages=(square(32), square(64), square(128)), crop=square(32), input=square(32), points=0.3, median=3
)


@dataclass(frozen=True)
class Colours:
    """Networks with a class for each band: the stronger the band, the more probable. Refining goes halfway to O."""

    sharpness: float = 6.0
    refined: list[int] = field(default_factory=list)

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        assert scale.width >= SMALL.crop.width
        return (self.sharpness * patches).softmax(dim=1)

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        assert own.shape == field.shape
        self.refined.extend([scale.width] * len(own))
        return (own + field) / 2


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    """Return a picture (128, 128, 3) of smooth blobs of each colour, busiest in the lower right quarter."""
    noise = torch.rand((1, 3, 24, 24), generator=torch.Generator().manual_seed(4))
    noise[:, :, :12] *= 0.2
    noise[:, 0, :12] += 0.7
    noise[:, :, :, :12] *= 0.2
    noise[:, 1, :, :12] += 0.7
    smooth = functional.interpolate(noise, (128, 128), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()


def run(
    pixels: NDArray[np.uint8], options: PublishedSettings, networks: Colours | None = None, *, shifted: bool = False
) -> list[PublishedStage]:
    return list(published_stages(pixels, networks or Colours(), settings=options, shifted=shifted))


def union(boxes: tuple[Box, ...], size: Size) -> NDArray[np.bool_]:
    covered = np.zeros((size.height, size.width), np.bool_)
    for box in boxes:
        covered[box.slices] = True
    return covered


class TestStages:
    def test_every_window_is_refined_most_uncertain_first(self, scene: NDArray[np.uint8]) -> None:
        networks = Colours()

        first, second, third = run(scene, SMALL, networks)

        assert [len(stage.windows) for stage in (first, second, third)] == [1, 4, 16]
        assert networks.refined == [64] * 4 + [32] * 16
        uncertainty = 1 - certainty(resized(first.probabilities, square(64)))
        means = [uncertainty[box.slices].mean().item() for box in second.windows]
        assert means == sorted(means, reverse=True)

    def test_the_share_of_points_is_chosen_and_the_rest_kept(self, scene: NDArray[np.uint8]) -> None:
        _, second, third = run(scene, SMALL)

        kept = ~third.chosen
        assert int(third.chosen.sum()) == int(0.3 * 128 * 128)
        torch.testing.assert_close(
            third.probabilities[:, kept], resized(second.probabilities, square(128))[:, kept], rtol=0, atol=0
        )

    def test_fast_refines_the_most_uncertain_windows_and_nothing_outside(self, scene: NDArray[np.uint8]) -> None:
        whole = run(scene, SMALL)
        fast = run(scene, replace(SMALL, patches=(1, 3), points=0.9))

        assert fast[1].windows == whole[1].windows[:1]
        assert len(fast[2].windows) == 3
        for stage, share in zip(fast[1:], (1 / 4, 3 / 16), strict=True):
            inside = torch.from_numpy(union(stage.windows, stage.size))
            assert not (stage.chosen & ~inside).any()
            wanted = 0.9 * share * stage.size.pixels
            assert 0.95 * wanted < int(stage.chosen.sum()) <= wanted

    def test_without_patches_the_coarse_result_stays(self, scene: NDArray[np.uint8]) -> None:
        networks = Colours()
        options = replace(SMALL, patches=0)

        stages = run(scene, options, networks)

        expected = resized(stages[0].probabilities, square(128))
        assert networks.refined == []
        torch.testing.assert_close(
            segment_published(scene, Colours(), settings=options, shifted=True), expected, rtol=0, atol=0
        )

    def test_overlapping_windows_leave_probabilities_that_sum_to_one(self, scene: NDArray[np.uint8]) -> None:
        options = replace(SMALL, stages=(square(32), Size(width=75, height=50), Size(width=101, height=99)), points=1.0)

        *_, last = run(scene, options, shifted=True)

        assert len(last.windows) == 16
        torch.testing.assert_close(last.probabilities.sum(dim=0), torch.ones(99, 101))

    def test_what_the_floored_step_leaves_out_keeps_its_value(self, scene: NDArray[np.uint8]) -> None:
        options = replace(SMALL, stages=(square(32), square(127)), points=1.0)

        first, second = run(scene, options)

        gap = 94  # windows start at 0, 31, 62 and 95
        kept = resized(first.probabilities, square(127))
        assert sorted({box.x for box in second.windows}) == [0, 31, 62, 95]
        assert torch.equal(~second.chosen, torch.from_numpy(~union(second.windows, square(127))))
        assert torch.equal(second.probabilities[:, gap], kept[:, gap])
        assert torch.equal(second.probabilities[:, :, gap], kept[:, :, gap])

    def test_one_stage_is_resized_to_its_own_size(self, scene: NDArray[np.uint8]) -> None:
        options = replace(SMALL, stages=(square(32),), input=square(24))

        found = segment_published(scene, Colours(), settings=options, shifted=False)

        assert found.shape == (3, 32, 32)

    def test_the_batch_does_not_matter(self, scene: NDArray[np.uint8]) -> None:
        one, many = (run(scene, replace(SMALL, batch=batch))[-1] for batch in (1, 5))

        assert torch.equal(one.chosen, many.chosen)
        torch.testing.assert_close(one.probabilities, many.probabilities, rtol=0, atol=1e-6)

    def test_the_shift_moves_the_result(self, scene: NDArray[np.uint8]) -> None:
        shifted, exact = (run(scene, SMALL, shifted=shifted)[-1].probabilities for shifted in (True, False))

        assert (shifted - exact).abs().max() > 0.01

    def test_values_that_are_not_finite_are_an_error(self, scene: NDArray[np.uint8]) -> None:
        with pytest.raises(WeightsError, match="not finite"):
            run(scene, SMALL, Colours(sharpness=float("nan")))

    def test_an_image_of_other_bands_is_refused(self) -> None:
        with pytest.raises(UsageError, match="4 bands, 3 means"):
            run(np.zeros((128, 128, 4), np.uint8), SMALL)


def resized(maps: Tensor, size: Size) -> Tensor:
    return functional.interpolate(maps[None], (size.height, size.width), mode="bilinear", align_corners=False)[0]


class TestLabels:
    def test_probabilities_are_resized_before_the_largest_wins(self) -> None:
        probabilities = torch.rand((5, 70, 41), generator=torch.Generator().manual_seed(1))
        size = Size(width=97, height=133)

        found = labels_published(probabilities, size=size)

        assert found.dtype == np.uint8
        agreement = (found == resized(probabilities, size).argmax(dim=0).numpy()).mean()
        assert agreement > 0.999  # near ties may round either way

    def test_the_same_size_and_ties_to_the_lowest_class(self) -> None:
        probabilities = torch.tensor([[[0.2, 0.4]], [[0.5, 0.4]], [[0.3, 0.2]]])

        assert labels_published(probabilities, size=Size(width=2, height=1)).tolist() == [[1, 0]]


@dataclass(frozen=True)
class Seeded:
    """The published networks with the weights of the golden values."""

    backbone: torch.nn.Module
    refiner: torch.nn.Module

    @torch.inference_mode()
    def predict(self, patches: Tensor, scale: Size) -> Tensor:  # noqa: ARG002 - one temperature for all
        probabilities: Tensor = self.backbone(patches).softmax(dim=1)
        return probabilities

    @torch.inference_mode()
    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:  # noqa: ARG002 - one refiner for all
        probabilities: Tensor = self.refiner(torch.cat([own, field], dim=1)).softmax(dim=1)
        return probabilities


@pytest.fixture(scope="module")
def seeded() -> Seeded:
    backbone, refiner = golden_networks()
    return Seeded(backbone=backbone, refiner=refiner)


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "expected.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415 - only this test wants it

    with Image.open(GOLDEN / "image.png") as image:
        return np.asarray(image.convert("RGB"))


def golden_settings() -> PublishedSettings:
    case = json.loads((GOLDEN / "case.json").read_text())
    stages = tuple(Size(width=width, height=height) for width, height in case["stage_sizes_wh"])
    return PublishedSettings(
        stages=stages,
        crop=square(case["window_crop_wh"][0]),
        input=square(case["network_input_wh"][0]),
        points=case["points"],
        patches=case["patches"],
        median=case["median"],
    )


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values are not beside the repository")
# `test_golden_units.py` and `test_published_oracle.py` have cut-outs without the shift in the default suite.
@pytest.mark.full
@pytest.mark.parametrize(("name", "shifted"), [("published", True), ("paper", False)])
def test_the_pipeline_gives_the_published_programs_values(
    seeded: Seeded, expected: dict[str, NDArray[Any]], photo: NDArray[np.uint8], name: str, *, shifted: bool
) -> None:
    stages = list(published_stages(photo, seeded, settings=golden_settings(), shifted=shifted))

    assert share_within(stages[0].probabilities, expected["stage1"]) >= 0.9995
    for number, stage in enumerate(stages[1:], start=2):
        windows = expected[f"{name}/windows{number}"]
        chosen = np.unpackbits(expected[f"{name}/points{number}_bits"], count=stage.size.pixels)
        assert {shares(box, stage.size) for box in stage.windows} == {tuple(window) for window in windows.tolist()}
        assert (stage.chosen.numpy().ravel() == chosen).mean() >= 0.9995
        assert share_within(stage.probabilities, expected[f"{name}/stage{number}"]) >= 0.9995
    labels = labels_published(stages[-1].probabilities, size=stages[-1].size)
    assert (labels == expected[f"{name}/argmax"]).mean() >= 0.9995


def shares(box: Box, size: Size) -> tuple[float, ...]:
    return (box.x / size.width, box.y / size.height, box.right / size.width, box.bottom / size.height)


def share_within(found: Tensor, expected: NDArray[Any]) -> float:
    """Return the share of pixels of which every probability is within 2e-3."""
    return float((np.abs(found.numpy() - expected.astype(np.float32)).max(axis=0) <= 2e-3).mean())
