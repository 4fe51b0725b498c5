"""Temperatures, which make probabilities agree with how often a network is right (Guo et al., ICML 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.errors import SourceError
from magnet_cli.train.canvases import strips

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.train.canvases import Field, Truth

LOWEST, HIGHEST = 0.25, 4.0
"""Range in which a temperature is searched."""
MOST_PIXELS = 1 << 20
"""Most pixels of one fit; more would not change it, as neighbours agree."""
DIGITS = 4
"""The digits of a temperature, as bundle.json writes it and as everything fitted after it sees it."""
STEPS = 40
"""Golden sections: the last interval is shorter than 1e-7 in log T."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A temperature, and how well its probabilities fit."""

    temperature: float
    before: float
    """Negative log likelihood at temperature 1, in nats a pixel, each pixel weighing the same."""
    after: float
    """The same at `temperature`."""
    pixels: int
    """The number of labelled pixels of the fit."""

    def describe(self, *, applied: bool = True) -> dict[str, float]:
        """Return the fields as JSON values.

        The temperature is missing where it is not applied; `at_bound` says that the search ended at a bound.
        """
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
    """Return the probabilities at another temperature.

    Args:
        logs: Logits, or the logarithms of their softmax: a softmax ignores what is added to all classes alike.
            `(classes, rows, columns)`, float16 or float32.
        temperature: 1 gives the softmax itself.

    Returns:
        The same shape, float32.
    """
    return (logs.float() / temperature).softmax(dim=0)


def fit_temperature(logs: Tensor, labels: Tensor) -> Fit:
    """Return the temperature of least negative log likelihood, unweighted.

    It is convex in 1 / T, so it has no second minimum in log T either, and golden sections there find the one.

    Args:
        logs: `(n, classes)` logits or log-probabilities.
        labels: The true classes, `(n,)` int64.

    Raises:
        SourceError: There is no pixel.
    """
    if not len(labels):
        raise SourceError("a temperature needs labelled pixels", value=0, advice="Hold out scenes with labels")
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
    """Return the mean negative log likelihood of labels, in nats; arguments as `fit_temperature` takes them."""
    scaled = logs / temperature
    return float((scaled.logsumexp(dim=1) - scaled.gather(1, labels[:, None])[:, 0]).double().mean())


def labelled_pixels(fields: Sequence[Field], truths: Sequence[Truth], *, ignore: int) -> tuple[Tensor, Tensor]:
    """Return the labelled pixels of fields, at most about `MOST_PIXELS`, drawn evenly; the same ones at every call.

    Args:
        fields: Log-probabilities of scenes.
        truths: Their labels, on the same grids.
        ignore: The label of pixels without a class.

    Returns:
        `(n, classes)` float32 and `(n,)` int64.
    """
    known = [int(truth.counts.sum() - truth.counts[ignore]) for truth in truths]
    share = min(1.0, MOST_PIXELS / max(1, sum(known)))
    rng = np.random.default_rng(0)
    taken = [np.sort(rng.choice(count, round(share * count), replace=False)) for count in known]
    parts = [
        part
        for field, truth, numbers in zip(fields, truths, taken, strict=True)
        for part in sampled_logits(field, truth, numbers=numbers, ignore=ignore)
    ]
    empty = (torch.empty((0, fields[0].shape[0])), torch.empty(0, dtype=torch.int64))
    logs, labels = zip(empty, *parts, strict=True)
    return torch.cat(logs), torch.cat(labels)


def sampled_logits(
    field: Field, truth: Truth, *, numbers: NDArray[np.int64], ignore: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the labelled pixels of a field by their numbers, which rise and count labelled pixels row by row.

    It is read strip by strip.
    """
    seen = 0
    for box in strips(truth.size, classes=field.shape[0]):
        labels = truth.read(box).ravel()
        known = np.flatnonzero(labels != ignore)
        first, last = np.searchsorted(numbers, (seen, seen + len(known)))
        index = known[numbers[first:last] - seen]
        seen += len(known)
        if len(index):
            logs = field.read(box).flatten(1)[:, torch.from_numpy(index)].T.float()
            yield logs, torch.from_numpy(labels[index].astype(np.int64))
