"""The learning rate over a training."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magnet_cli.train.config import LoopConfig


def rate_at(iteration: int, config: LoopConfig) -> float:
    """Learning rate of an iteration, counted from 0: a linear rise, then a cosine to zero or steps."""
    rise = max(1, round(config.warmup * config.iterations))
    if iteration < rise:
        return config.rate * (iteration + 1) / rise
    if config.schedule == "step":
        taken = sum(iteration >= round(share * config.iterations) for share in config.steps)
        return config.rate * config.step_factor**taken
    done = (iteration - rise) / max(1, config.iterations - rise)
    return config.rate * (1 + cos(pi * min(1.0, done))) / 2
