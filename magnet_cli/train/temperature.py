"""Temperatures: how much softer a network has to speak for its probabilities to be right (Guo et al., ICML 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

LOWEST, HIGHEST = 0.25, 4.0
"""Between which a temperature is sought."""
MOST_PIXELS = 1 << 20
"""Pixels that one fit looks at; more say no more, as neighbours agree."""
STRIP = 512
"""Rows of a canvas that are tempered at a time."""
DIGITS = 4
"""Of a temperature, as bundle.json writes it and as everything fitted after it sees it."""
STEPS = 40
"""Golden sections: the last interval is shorter than 1e-7 in log T."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A temperature and what it is worth."""

    temperature: float
    before: float
    """Negative log likelihood at temperature 1, in nats a pixel, each pixel weighing the same."""
    after: float
    """The same at `temperature`."""
    pixels: int
    """Labelled pixels that were looked at."""

    def describe(self, *, applied: bool = True) -> dict[str, float]:
        """As JSON values; without the temperature where it is not applied, with `at_bound` where the search ended."""
        if not applied:
            return {"nll": round(self.before, 5), "pixels": self.pixels}
        said: dict[str, float] = {
            "temperature": self.temperature,
            "nll": round(self.before, 5),
            "nll_tempered": round(self.after, 5),
            "pixels": self.pixels,
        }
        return {**said, "at_bound": True} if self.temperature in {LOWEST, HIGHEST} else said


def tempered(logs: Tensor, temperature: float) -> Tensor:
    """Probabilities of another temperature.

    Args:
        logs: Logits, or the logarithms of their softmax: a softmax ignores what is added to all classes alike.
            `(classes, rows, columns)`, float16 or float32.
        temperature: 1 gives the softmax itself.

    Returns:
        The same shape, float32.
    """
    return (logs.float() / temperature).softmax(dim=0)


def tempered_half(logs: Tensor, temperature: float) -> Tensor:
    """As `tempered`, in float16 and strip by strip, for whole canvases."""
    found = torch.empty(logs.shape, dtype=torch.float16)
    for top in range(0, logs.shape[1], STRIP):
        found[:, top : top + STRIP] = tempered(logs[:, top : top + STRIP], temperature)
    return found


def fit_temperature(logs: Tensor, labels: Tensor) -> Fit:
    """The temperature of least negative log likelihood, unweighted.

    It is convex in 1 / T, so it has no second minimum in log T either, and golden sections there find the one.

    Args:
        logs: `(n, classes)` logits or log-probabilities.
        labels: `(n,)` int64.

    Raises:
        SourceError: There is no pixel.
    """
    if not len(labels):
        raise SourceError("a temperature needs labelled pixels", value=0)
    logs = logs.float()
    ratio = (sqrt(5) - 1) / 2
    low, high = log(LOWEST), log(HIGHEST)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = likelihood(logs, labels, exp(left)), likelihood(logs, labels, exp(right))
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = likelihood(logs, labels, exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = likelihood(logs, labels, exp(right))
    found = round(exp((low + high) / 2), DIGITS)
    return Fit(
        temperature=found,
        before=likelihood(logs, labels, 1.0),
        after=likelihood(logs, labels, found),
        pixels=len(labels),
    )


def likelihood(logs: Tensor, labels: Tensor, temperature: float) -> float:
    """Mean negative log likelihood of labels, in nats; arguments as `fit_temperature` takes them."""
    scaled = logs / temperature
    return float((scaled.logsumexp(dim=1) - scaled.gather(1, labels[:, None])[:, 0]).double().mean())


def labelled_pixels(
    canvases: Sequence[Tensor], labels: Sequence[NDArray[np.uint8]], *, ignore: int
) -> tuple[Tensor, Tensor]:
    """Labelled pixels of canvases, at most about `MOST_PIXELS`, drawn evenly; the same ones at every call.

    Args:
        canvases: Each `(classes, rows, columns)` float16 log-probabilities.
        labels: Each `(rows, columns)`.
        ignore: The label that says nothing.

    Returns:
        `(n, classes)` float32 and `(n,)` int64.
    """
    known = [np.flatnonzero(one != ignore) for one in labels]
    share = min(1.0, MOST_PIXELS / max(1, sum(map(len, known))))
    rng = np.random.default_rng(0)
    taken = [np.sort(rng.choice(one, round(share * len(one)), replace=False)) for one in known]
    logs = [
        canvas.flatten(1)[:, torch.from_numpy(index)].T.float() for canvas, index in zip(canvases, taken, strict=True)
    ]
    truth = [torch.from_numpy(one.ravel()[index].astype(np.int64)) for one, index in zip(labels, taken, strict=True)]
    return torch.cat(logs), torch.cat(truth)
