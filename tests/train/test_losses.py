"""The losses equal their formulas written out pixel by pixel."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.train.config import LoopConfig
from magnet_cli.train.losses import focal, summed_loss

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = torch.tensor([0.5, 1.0, 2.5])


def example() -> tuple[Tensor, Tensor]:
    """Return logits of two patches and three classes, and labels of which some are ignored."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, 1, 2:] = labels[1, 3] = 255
    return 3 * torch.randn((2, 3, 4, 5), generator=generator), labels


def by_hand(logits: Tensor, labels: Tensor, *, gamma: float) -> float:
    total = 0.0
    for n, y, x in torch.nonzero(labels != 255).tolist():
        powers = [exp(value) for value in logits[n, :, y, x].tolist()]
        own = int(labels[n, y, x])
        p = powers[own] / sum(powers)
        total -= float(WEIGHTS[own]) * (1 - p) ** gamma * log(p)
    return total


@pytest.mark.parametrize("gamma", [0.5, 1, 2, 5])
def test_focal_is_its_formula(gamma: float) -> None:
    logits, labels = example()
    config = LoopConfig(loss="focal", focal_gamma=gamma)
    loss = summed_loss(logits, labels, WEIGHTS, config=config, ignore=255)
    assert float(loss) == pytest.approx(by_hand(logits, labels, gamma=gamma), rel=1e-5)


def test_without_gamma_it_is_cross_entropy() -> None:
    logits, labels = example()
    plain = summed_loss(logits, labels, WEIGHTS, config=LoopConfig(), ignore=255)
    torch.testing.assert_close(focal(logits, labels, WEIGHTS, gamma=0, ignore=255), plain)
    assert float(plain) == pytest.approx(by_hand(logits, labels, gamma=0), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2])
def test_pixels_that_are_right_or_ignored_pull_nowhere(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 9.0, 0.0]]).reshape(1, 3, 1, 3).requires_grad_()
    focal(logits, torch.tensor([[[0, 255, 1]]]), WEIGHTS, gamma=gamma, ignore=255).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[..., :2].abs().max() < 1e-6
    assert logits.grad[0, 1, 0, 2] < 0


def test_smoothing_gives_a_share_of_each_label_to_all_classes() -> None:
    logits, labels = example()
    config = LoopConfig(smoothing=0.3)
    total = 0.0
    for n, y, x in torch.nonzero(labels != 255).tolist():
        log_p = logits[n, :, y, x].log_softmax(dim=0).tolist()
        share = [0.3 / 3 + (0.7 if index == int(labels[n, y, x]) else 0.0) for index in range(3)]
        total -= sum(part * float(WEIGHTS[index]) * log_p[index] for index, part in enumerate(share))
    assert float(summed_loss(logits, labels, WEIGHTS, config=config, ignore=255)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_adjusted_logits_are_those_plus_the_logarithms_of_the_weights(loss: str) -> None:
    logits, labels = example()
    config = LoopConfig(loss=loss, focal_gamma=2, logit_adjustment=0.5)
    raised = logits + torch.tensor([0.5 * log(weight) for weight in WEIGHTS.tolist()]).reshape(3, 1, 1)
    expected = by_hand(raised, labels, gamma=2 if loss == "focal" else 0)
    assert float(summed_loss(logits, labels, WEIGHTS, config=config, ignore=255)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("adjustment", "power"), [(0.0, 1.0), (0.4, 0.6), (1.0, 0.0)])
def test_the_adjustment_takes_the_weights_out_of_the_probabilities(adjustment: float, power: float) -> None:
    # Pixels that look alike, and whose classes have these shares: the least loss is at p = w^power share, normed.
    shares = torch.tensor([0.6, 0.3, 0.1])
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([6, 3, 1])).reshape(1, 1, 10)
    logits = torch.zeros(3, requires_grad=True)
    config = LoopConfig(logit_adjustment=adjustment)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        everywhere = logits.reshape(1, 3, 1, 1).expand(1, 3, 1, 10)
        loss = summed_loss(everywhere, labels, WEIGHTS, config=config, ignore=255)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    expected = WEIGHTS**power * shares
    torch.testing.assert_close(logits.detach().softmax(dim=0), expected / expected.sum(), rtol=1e-3, atol=1e-4)
