"""The losses of a cascade equal the paper's formulas written out pixel by pixel."""

from __future__ import annotations

from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from magnet_cli.models.architectures.cascade_base import CascadeOutputs
from magnet_cli.train.cascade_losses import LevelObjective, both, cross_entropy, distances, gradients, magnitude

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ROWS, COLUMNS = 9, 11


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits of two windows, and labels of which some are unknown."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (2, ROWS, COLUMNS), generator=generator)
    labels[0, 1, 2:] = labels[1, 8] = 255
    return 2 * torch.randn((2, 1, ROWS, COLUMNS), generator=generator), labels


def parts(labels: Tensor) -> tuple[Tensor, Tensor]:
    return (labels == 1).float().unsqueeze(1), (labels != 255).unsqueeze(1)


def by_hand(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return cross-entropy and L1 + L2, computed pixel by pixel."""
    entropy = far = 0.0
    places = torch.nonzero(labels != 255).tolist()
    for n, y, x in places:
        p, truth = 1 / (1 + exp(-float(logits[n, 0, y, x]))), int(labels[n, y, x])
        entropy -= log(p if truth else 1 - p)
        far += abs(p - truth) + (p - truth) ** 2
    return entropy / len(places), far / len(places)


def gradient_by_hand(values: Tensor) -> NDArray[np.float64]:
    """Return a mean over 3 x 3, then the two Sobel operators, on float64."""
    means = correlate(values.double().numpy(), np.full((3, 3), 1 / 9), mode="nearest")
    operator = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4
    found: NDArray[np.float64] = np.hypot(*(correlate(means, one, mode="nearest") for one in (operator, operator.T)))
    return found


def test_each_loss_is_its_formula() -> None:
    logits, labels = example()
    truth, known = parts(labels)
    entropy, far = by_hand(logits, labels)
    assert float(cross_entropy(logits, truth, known)) == pytest.approx(entropy, rel=1e-5)
    assert float(distances(logits.sigmoid(), truth, known)) == pytest.approx(far, rel=1e-5)
    assert float(both(logits, truth, known)) == pytest.approx((entropy + far) / 2, rel=1e-5)


def test_the_gradient_is_a_mean_under_a_sobel_operator() -> None:
    logits, labels = example()
    truth, known = parts(labels)
    probs = logits.sigmoid()
    for index in range(2):
        found = magnitude(probs)[index, 0].numpy()
        np.testing.assert_allclose(found, gradient_by_hand(probs[index, 0]), atol=2e-3)
    wrong = [np.abs(gradient_by_hand(probs[n, 0]) - gradient_by_hand(truth[n, 0])) for n in range(2)]
    # Unknown are row 1 from column 2 of the first window, row 8 of the second, and what lies within two pixels of them.
    counted = np.ones((2, ROWS, COLUMNS), bool)
    counted[0, :4] = counted[1, 6:] = False
    assert float(gradients(probs, truth, known)) == pytest.approx(float(np.stack(wrong)[counted].mean()), abs=2e-3)


def test_a_step_has_a_gradient_of_one_in_all_and_a_window_edge_has_none() -> None:
    step = torch.zeros(1, 1, 12, 12)
    step[..., 6:] = 1
    found = magnitude(step)[0, 0]
    # A mean of three turns a step into a ramp of three pixels, and each side of a pixel adds half its slope, twice.
    assert float(found[5].sum()) == pytest.approx(2, abs=0.02)
    assert float(found[:, 0].max()) < 0.01
    assert float(magnitude(torch.ones(1, 1, 5, 5)).max()) < sqrt(2e-6)


def test_the_whole_is_the_papers_sum_over_strides() -> None:
    labels = example()[1]
    s8, s4, s1 = ([example(seed)[0] for seed in seeds] for seeds in ((1, 2, 3), (4, 5), (6,)))
    levels = CascadeOutputs(s8=tuple(s8), s4=tuple(s4), s1=s1[0])
    expected = sum(by_hand(logits, labels)[0] for logits in s8) / 3
    expected += sum(sum(by_hand(logits, labels)) / 2 for logits in s4) / 2
    expected += by_hand(s1[0], labels)[1]
    plain = LevelObjective(gradient=0.0).total(levels, labels)
    assert float(plain) == pytest.approx(expected, rel=1e-5)
    steep = float(gradients(s1[0].sigmoid(), *parts(labels)))
    assert float(LevelObjective(gradient=5.0).total(levels, labels) - plain) == pytest.approx(5 * steep, rel=1e-4)
    finest = LevelObjective(gradient=0.0, finest=2.0).total(levels, labels)
    assert float(finest - plain) == pytest.approx(2 * by_hand(s1[0], labels)[0], rel=1e-4)


def test_what_is_right_costs_nothing_and_where_nothing_is_known_neither() -> None:
    labels = example()[1]
    sure = torch.where(labels == 1, 40.0, -40.0).unsqueeze(1)
    levels = CascadeOutputs(s8=(sure,), s4=(sure,), s1=sure)
    assert float(LevelObjective(gradient=5.0).total(levels, labels)) == pytest.approx(0, abs=1e-6)
    assert float(LevelObjective(gradient=5.0).total(levels, torch.full_like(labels, 255))) == 0


def test_every_slope_is_finite() -> None:
    """A flat probability has a gradient of zero, whose root has no slope."""
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    LevelObjective(gradient=5.0).total(CascadeOutputs(s8=(logits,), s4=(logits,), s1=logits), example()[1][:1, :8, :8])
    total = LevelObjective(gradient=5.0).total(
        CascadeOutputs(s8=(logits,), s4=(logits,), s1=logits), torch.ones(1, 8, 8, dtype=torch.int64)
    )
    total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
