"""Scores of several images together: pooled, averaged, as a distribution, and compared image by image."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.special import stdtrit

from magnet_cli.evaluation.boundary import BoundaryCounts
from magnet_cli.evaluation.mask_scores import ClassMeans, Confusion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from magnet_cli.evaluation.mask_scores import ClassScore, Evaluation
    from magnet_cli.options.evaluate import EvaluationOptions

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Scores of single images, from 0 to 1, of those images that have one."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self:
        """Return the distribution of the values that are not None."""
        return cls(values=tuple(value for value in values if value is not None))

    @property
    def mean(self) -> float | None:
        """The mean; None where there is no value."""
        return float(np.mean(self.values)) if self.values else None

    def thresholded(self, least: float) -> float | None:
        """Return the mean with values below `least` counted as 0 (ISIC 2018 challenge, task 1)."""
        return float(np.mean([value if value >= least else 0.0 for value in self.values])) if self.values else None

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values; quartiles are interpolated between values."""
        if not self.values:
            return {"images": 0}
        low, first, median, third, high = (float(value) for value in np.quantile(self.values, [0, 0.25, 0.5, 0.75, 1]))
        marks = {"min": low, "q25": first, "median": median, "q75": third, "max": high}
        return {"images": len(self.values), "mean": self.mean, **marks}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of a difference over images, and its confidence interval."""

    images: int
    mean: float
    low: float | None
    """The interval's ends; None with fewer than two images."""
    high: float | None


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return `first` minus `second`, image by image, with Student's 95 % interval of the mean.

    Args:
        first: One value an image, at least one.
        second: The scores of the second method on the same images.
    """
    gaps = np.subtract(first, second)
    mean, count = float(gaps.mean()), len(gaps)
    if count == 1:
        return Difference(images=count, mean=mean, low=None, high=None)
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * float(gaps.std(ddof=1)) / sqrt(count)
    return Difference(images=count, mean=mean, low=mean - reach, high=mean + reach)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled(ClassMeans):
    """The counts of the pixels of several images together."""

    classes: tuple[ClassScore, ...]
    labelled: int
    right: int
    not_computed: int
    confusion: NDArray[np.int64]
    """The confusion matrix, as `Evaluation.confusion` describes it."""
    boundary: BoundaryCounts | None
    """The boundary accuracy within the fixed radii; None where it was not requested."""

    @classmethod
    def of(cls, found: Sequence[Evaluation], options: EvaluationOptions) -> Self:
        """Add up the counts of images.

        Args:
            found: Made with these options.
            options: The options that name what counts.
        """
        names = {entry.index: entry.name for one in found for entry in one.classes}
        confusion = Confusion()
        boundary = None
        for one in found:
            confusion.pool(one)
            if one.boundary is not None:
                boundary = boundary or BoundaryCounts(radii=one.boundary.radii)
                boundary.pool(one.boundary)
        labelled, right = confusion.totals(options)
        classes = confusion.scores(options, names=names)
        return cls(
            classes=classes,
            labelled=labelled,
            right=right,
            # The tables that were pooled have one column for 255 and the ignored values together.
            not_computed=sum(one.not_computed for one in found),
            confusion=confusion.table(classes, options),
            boundary=boundary,
        )

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled pixels that are right; None where there are none."""
        return self.right / self.labelled if self.labelled else None

    @property
    def mba(self) -> float | None:
        """The boundary accuracy within the fixed radii; None where the truth has no border."""
        return None if self.boundary is None else self.boundary.mba
