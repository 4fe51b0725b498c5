"""The default method differs from the published arithmetic: each test is a row of a table in docs/method.md."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from magnet_cli.arithmetic.merge import FLOOR, OWN
from magnet_cli.arithmetic.points import SmoothedScore
from magnet_cli.arithmetic.published.image_resize import resize_uint8_bilinear
from magnet_cli.arithmetic.published.point_choice import choose_points, median_zero_padded
from magnet_cli.arithmetic.published.stages import PublishedSettings, published_stages, segment_published
from magnet_cli.arithmetic.published.window_grid import place_windows
from magnet_cli.arithmetic.scores import median_blur
from magnet_cli.geometry import Size
from magnet_cli.options.method_settings import BundleDefaults
from magnet_cli.options.rules import ALL, Rule, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from tests.segmentation.support import MACHINE, STEP, ArrayImage, CodedNetworks, coded, count, facts, run, sides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.options.segment import Merge
    from tests.segmentation.support import Outcome


class Recording(CodedNetworks):
    """Networks that keep their inputs. They predict the label of a coded image, and the refiner returns the field."""

    def __init__(self, classes: int, *, sharpness: float = 60.0) -> None:
        super().__init__(classes, sharpness)
        self.patches: list[Tensor] = []
        self.fields: list[Tensor] = []
        self.said: list[Tensor] = []

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        self.patches.extend(patches)
        said = super().predict(patches, scale)
        self.said.extend(said)
        return said

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        del own, scale
        self.fields.extend(field)
        return field


class Doubting(CodedNetworks):
    """Networks that predict class 0 with little certainty in the first stage, and refine to class 1 with much."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        self.batches.append(len(patches))
        del scale
        return constant(patches, (0.6, 0.4))

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        del field, scale
        return constant(own, (0.1, 0.9))


class Numbering(CodedNetworks):
    """Networks that predict the number of the window as its class: 0 in the first window, 1 in the next."""

    seen = 0

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        del scale
        probs = torch.zeros(len(patches), self.classes, *patches.shape[2:])
        for patch in probs:
            patch[self.seen] = 1
            self.seen += 1
        return probs


def constant(like: Tensor, values: Sequence[float]) -> Tensor:
    """Return the same probabilities for every pixel of `(n, ..., h, w)`."""
    return torch.tensor(values).reshape(1, -1, 1, 1).expand(len(like), -1, *like.shape[2:]).clone()


def flat(width: int, height: int) -> ArrayImage:
    return ArrayImage(np.zeros((height, width, 3), np.uint8))


def published(*stages: int, crop: int, points: float = 1.0) -> PublishedSettings:
    """Return settings with square stages in which networks see the crop as it is, without normalisation."""
    sizes = sides(*stages)
    side = Size(width=crop, height=crop)
    return PublishedSettings(
        stages=sizes, crop=side, input=side, points=points, median=1, mean=(0, 0, 0), std=(1, 1, 1)
    )


def points_chosen(outcome: Outcome, stage: int) -> list[int]:
    """Return the number of chosen points of every block, in row-major order."""
    found = []
    for _, counts in sorted(outcome.sink.groups[0].items()):
        stages = counts["stages"]
        assert isinstance(stages, dict)
        found.append(stages[str(stage)]["points"])
    return found


def test_reading_averages_areas() -> None:
    """Of one bright column in four, a quarter of the brightness remains at a quarter of the size."""
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[:, 3::4] = 4 * STEP
    options = SegmentOptions(scales=sides(128), method="patch", num_workers=0)
    outcome = run(ArrayImage(pixels), facts(3, input_side=32), options)
    assert (outcome.labels == 1).all()
    assert not resize_uint8_bilinear(pixels, size=Size(width=32, height=32)).any()


def test_aspect_is_kept() -> None:
    """A window of twice the image's height is filled by reflection; the published program stretches the image."""
    labels = np.random.default_rng(0).integers(0, 5, (64, 128), dtype=np.uint8)
    networks = Recording(5)
    options = SegmentOptions(scales=sides(128), method="patch", num_workers=0)
    run(ArrayImage(coded(labels)), facts(5, input_side=32), options, networks)
    means = avg_pool2d(torch.from_numpy(coded(labels)).permute(2, 0, 1).double(), 4)
    patch = networks.patches[0] * 255
    assert (patch[:, :16] - means).abs().max() <= 0.51
    torch.testing.assert_close(patch[:, 16:], patch[:, :16].flip(1), rtol=0, atol=0)

    stretched = Recording(5)
    list(published_stages(coded(labels), stretched, settings=published(32, crop=32), shifted=False))
    whole = resize_uint8_bilinear(coded(labels), size=Size(width=32, height=32))
    torch.testing.assert_close(stretched.patches[0] * 255, torch.from_numpy(whole).permute(2, 0, 1).float())


def ramp(side: int) -> NDArray[np.float64]:
    """Return a grey ramp over the columns, which crosses the middle between labels 0 and 1 at the image's middle."""
    grey = STEP / 2 + (np.arange(side) - side / 2 + 0.5) * 0.25
    return np.asarray(np.repeat(np.broadcast_to(grey, (side, side))[..., None], 3, axis=2))


def crossing(probs: Tensor) -> float:
    """Return the column, in pixels from the left edge, where class 1 begins to prevail in `(classes, h, w)`."""
    difference = (probs[1] - probs[0])[probs.shape[1] // 2].double().numpy()
    right = int(np.argmax(difference > 0))
    return float(right - difference[right] / (difference[right] - difference[right - 1]) + 0.5)


class Linear(Recording):
    """Networks of two classes whose probability is linear in the grey value, so that resampling moves no border."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        del scale
        second = (patches[:, :1] * 255 / STEP).clamp(0, 1)
        return torch.cat([1 - second, second], dim=1)


def test_no_half_pixel_shift() -> None:
    """The result of the first stage lies at the same place in the last one."""
    side = 128
    image = ArrayImage(np.zeros((side, side, 3), np.uint8))
    image._pixels = ramp(side)
    image.exact = True
    options = SegmentOptions(scales=sides(128, 64, 32), overlap=0, median=1, num_workers=0, probabilities=True)
    outcome = run(image, facts(2, input_side=32), options, Linear(2))
    ((_, values),) = outcome.sink.fields["probabilities"]
    assert abs(crossing(torch.from_numpy(values.astype(np.float32))) - side / 2) < 0.02

    pixels = np.floor(ramp(side) + 0.5).astype(np.uint8)
    settings = published(32, 64, 128, crop=32)
    exact, shifted = (
        crossing(segment_published(pixels, Linear(2), settings=settings, shifted=each)) for each in (False, True)
    )
    # Half a pixel of the second stage, which is two of level 0 wide, and half a pixel of the last.
    assert exact - shifted == pytest.approx(1.5, abs=0.2)


def test_field_is_resampled_from_the_canvas() -> None:
    labels = np.random.default_rng(1).integers(0, 5, (128, 128), dtype=np.uint8)
    networks = Recording(5, sharpness=5)
    options = SegmentOptions(scales=sides(128, 64, 32), overlap=0, median=1, num_workers=0)
    run(ArrayImage(coded(labels)), facts(5, input_side=32), options, networks)
    canvas = networks.said[0].half().float()
    for stage, first, across in ((2, 0, 2), (3, 4, 4)):
        canvas = interpolate(canvas[None], scale_factor=2, mode="bilinear")[0]
        for number in range(across**2):
            row, column = divmod(number, across)
            under = canvas[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            torch.testing.assert_close(networks.fields[first + number], under, rtol=0, atol=1e-6, msg=f"stage {stage}")
        canvas = canvas.half().float()


@pytest.mark.parametrize("margin", [0, 5])
def test_windows_tile_the_image_without_blending(margin: int) -> None:
    cell = 32 - 2 * margin
    columns, rows = -(-100 // cell), -(-75 // cell)
    networks = Numbering(columns * rows)
    options = SegmentOptions(scales=sides(32), method="patch", overlap=2 * margin, blend="none", num_workers=0)
    outcome = run(flat(100, 75), facts(columns * rows, input_side=32), options, networks)
    across, down = np.arange(100) // cell, np.arange(75) // cell
    np.testing.assert_array_equal(outcome.labels, down[:, None] * columns + across)
    assert (outcome.sink.touched == 1).all()
    assert networks.seen == columns * rows

    covered = np.zeros((75, 100), np.int64)
    for box in place_windows(Size(width=100, height=75), crop=Size(width=32, height=32)):
        covered[box.slices] += 1
    assert covered.max() > 1


def test_median_does_not_disfavour_the_border() -> None:
    """A score that is the same everywhere stays so in the corners."""
    score = torch.full((40, 40), 0.5)
    assert bool((median_blur(score, 11) == 0.5).all())
    assert not median_zero_padded(score, k=11)[0, 0]
    options = SegmentOptions(scales=sides(64, 32), points=parse_points("q>0.2"), median=11, overlap=0, num_workers=0)
    outcome = run(flat(64, 64), facts(2, input_side=32), options, Doubting(2))
    assert points_chosen(outcome, 2) == [64 * 64]
    assert (outcome.labels == 1).all()


class Grading(Doubting):
    """Networks whose refiner is more certain where it is brighter."""

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        del own, scale
        sure = 0.6 + 0.3 * field[:, 1:]
        return torch.cat([1 - sure, sure], dim=1)

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        del scale
        second = patches[:, :1] * 0.5
        return torch.cat([1 - second, second], dim=1)


def test_counts_are_made_in_each_block() -> None:
    """Scores are higher everywhere in the left block, and each block still gets its own count."""
    pixels = np.full((120, 240, 3), 120, np.uint8)
    pixels[:, :120] = 240
    options = SegmentOptions(
        scales=sides(128, 64), points=count(1000), median=1, overlap=4, num_workers=0, batch_size=1
    )
    outcome = run(ArrayImage(pixels), facts(2, input_side=64), options, Grading(2))
    assert points_chosen(outcome, 2) == [1000, 1000]

    scores = torch.full((120, 240), 0.1)
    scores[:, :120] = 0.2
    chosen = choose_points(scores, count=2000)
    assert int(chosen[:, :120].sum()) == 2000


def test_zero_scores_are_never_chosen() -> None:
    options = SegmentOptions(scales=sides(64, 32), points=count(500), median=1, overlap=0, num_workers=0)
    outcome = run(flat(64, 64), facts(2, input_side=32), options, CodedNetworks(2, sharpness=10000))
    assert points_chosen(outcome, 2) == [0]
    assert int(choose_points(torch.zeros(64, 64), count=500).sum()) == 500


def test_all_points_need_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*shape: int, side: int, device: torch.device) -> SmoothedScore:
        raise AssertionError(shape, side, device)

    monkeypatch.setattr(SmoothedScore, "zeros", unwanted)
    options = SegmentOptions(scales=sides(64, 32), points=ALL, median=11, num_workers=0)
    outcome = run(flat(150, 100), facts(2, input_side=32), options, Doubting(2))
    assert outcome.plan.settings.margin == 4
    assert (outcome.labels == 1).all()
    ranked = replace(options, points=parse_points("30%"))
    assert make_plan(flat(150, 100).info, facts(2, input_side=32), ranked, MACHINE).settings.margin == 12
    with pytest.raises(AssertionError):
        run(flat(150, 100), facts(2, input_side=32), ranked, Doubting(2))


def test_all_points_are_the_default() -> None:
    assert BundleDefaults.parse(scales=(), magnet={}).points == ALL
    options = SegmentOptions(scales=sides(64, 32), num_workers=0)
    model = facts(2, input_side=32)
    assert make_plan(flat(64, 64).info, model, options, MACHINE).settings.points == ALL
    share = Rule(kind="share", values=(Fraction(3, 4),))
    fitted = replace(model, defaults=replace(model.defaults, points=share))
    assert make_plan(flat(64, 64).info, fitted, options, MACHINE).settings.points == share


class Unrefined(Recording):
    """Networks without a refiner: a call of it fails."""

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        raise AssertionError(own.shape, field.shape, scale)


@pytest.mark.parametrize("how", ["mean", "certainty", "geometric"])
def test_training_free_merges(how: Merge) -> None:
    labels = np.random.default_rng(2).integers(0, 5, (64, 64), dtype=np.uint8)
    networks = Unrefined(5, sharpness=5)
    model = replace(facts(5, input_side=32), has_refiner=False)
    options = SegmentOptions(scales=sides(64, 32), merge=how, overlap=0, median=1, num_workers=0, probabilities=True)
    outcome = run(ArrayImage(coded(labels)), model, options, networks)
    field = interpolate(networks.said[0].half().float()[None], scale_factor=2, mode="bilinear")[0]
    halves = [torch.cat(networks.said[number : number + 2], dim=2) for number in (1, 3)]
    own = torch.cat(halves, dim=1)
    ordered = [probs.sort(dim=0, descending=True).values for probs in (own, field)]
    mine, theirs = (probs[0] - probs[1] if how == "certainty" else 1.0 for probs in ordered)
    expected = (own * mine + field * theirs) / (mine + theirs)
    if how == "geometric":
        product = own.clamp_min(FLOOR) ** OWN * field.clamp_min(FLOOR) ** (1 - OWN)
        expected = product / product.sum(dim=0)
    assert outcome.plan.describe()["merge"] == how
    ((_, values),) = outcome.sink.fields["probabilities"]
    np.testing.assert_allclose(values.astype(np.float32), expected.numpy(), rtol=0, atol=2**-11)
    np.testing.assert_array_equal(outcome.labels, expected.half().argmax(dim=0).numpy())


def test_canvases_are_half_precision() -> None:
    labels = np.random.default_rng(3).integers(0, 5, (32, 32), dtype=np.uint8)
    networks = Recording(5, sharpness=5)
    options = SegmentOptions(scales=sides(32), method="patch", overlap=0, num_workers=0, probabilities=True)
    outcome = run(ArrayImage(coded(labels)), facts(5, input_side=32), options, networks)
    ((_, values),) = outcome.sink.fields["probabilities"]
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, networks.said[0].half().numpy())
    assert np.abs(values.astype(np.float64) - networks.said[0].double().numpy()).max() <= 0.0005


def test_result_is_at_level_0() -> None:
    """Between classes 0 and 2 there is no class 1, which the interpolation of colours would produce."""
    labels = np.zeros((96, 96), np.uint8)
    labels[:, 48:] = 2
    networks = Recording(3)
    options = SegmentOptions(scales=sides(96), method="patch", overlap=0, num_workers=0)
    outcome = run(ArrayImage(coded(labels)), facts(3, input_side=32), options, networks)
    np.testing.assert_array_equal(outcome.labels, labels)
    coarse = networks.said[0].argmax(dim=0).float()
    assert bool((interpolate(coarse[None, None], size=(96, 96), mode="bilinear").round() == 1).any())


def test_ties_go_to_the_lowest_index() -> None:
    five = SegmentOptions(scales=sides(64, 32), points=count(5), median=1, overlap=0, num_workers=0)
    labels = run(flat(64, 64), facts(2, input_side=32), five, Doubting(2)).labels
    assert np.flatnonzero(labels).tolist() == [0, 1, 2, 3, 4]

    one_window = SegmentOptions(
        scales=sides(64, 32), method="magnet-fast", patches=count(1), median=1, overlap=0, num_workers=0
    )
    labels = run(flat(64, 64), facts(2, input_side=32), one_window, Doubting(2)).labels
    assert (labels[:31, :31] == 1).all()
    assert not labels[33:].any()
    assert not labels[:, 33:].any()

    class Undecided(CodedNetworks):
        def predict(self, patches: Tensor, scale: Size) -> Tensor:
            del scale
            return constant(patches, (0.2, 0.4, 0.4))

    patch = SegmentOptions(scales=sides(32), method="patch", num_workers=0)
    assert (run(flat(40, 40), facts(3, input_side=32), patch, Undecided(3)).labels == 1).all()
