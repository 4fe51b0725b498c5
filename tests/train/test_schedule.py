"""The learning rate follows its schedule over a training."""

from __future__ import annotations

import pytest

from magnet_cli.train.config import LoopConfig
from magnet_cli.train.loop import rate_at


def rates(config: LoopConfig) -> list[float]:
    return [rate_at(index, config) for index in range(config.iterations)]


def test_it_rises_and_falls_along_a_cosine() -> None:
    found = rates(LoopConfig(iterations=100, rate=1.0, warmup=0.1))
    assert found[0] == pytest.approx(0.1)
    assert max(found) == found[9] == found[10] == 1.0
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] < 0.001


def test_it_rises_and_falls_in_steps() -> None:
    found = rates(LoopConfig(iterations=20, rate=1.0, warmup=0.2, schedule="step", steps=(0.5, 0.8), step_factor=0.5))
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, *[1.0] * 6, *[0.5] * 6, *[0.25] * 4])
