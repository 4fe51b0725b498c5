"""The work of a whole run: how much of it each pass and the writing of the mask are expected to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from magnet_cli.run.job import Job

WRITING_A_PIXEL = 0.013
"""Work of writing a pixel of the mask with its overviews, in pixels that a network computes.

It is an estimate for the bundle `aerial` on one core, where finishing takes 4.3 s a gigapixel and a patch of 256 x 256
pixels about 0.022 s. On a GPU the writing is a larger part of a shorter run. Only the bar depends on it.
"""

PASSING_A_PIXEL = 0.13
"""Work of a pixel of a stage's canvas without its networks, in pixels that a network computes: it is read, resampled
and stored in any case, however few windows of its stage are computed.

It was measured with `aerial` on one core, over the last pass of MagNet-Fast on a scene of 16 megapixels: 0.95 s for its
pixels, beside 0.25 s for its nine windows.
"""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The parts of a run in their order. Their sizes are estimates and have any unit: they move a progress bar."""

    passes: dict[int, float]
    """The work of each pass by its number."""
    writing: float
    """The work of writing the mask."""

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return the work of a job, by the counts of its plan."""
        weights = job.work
        # A pass without work, such as one over a mask that has no objects, still takes a moment.
        passes = {step.number: max(1.0, weight) for step, weight in zip(job.passes, weights, strict=True)}
        return cls(passes=passes, writing=max(1.0, job.image.size.pixels * WRITING_A_PIXEL))

    def share(self, number: int, done: float) -> float:
        """Return the share of the whole run that is finished, 0 to 1.

        Args:
            number: The number of a pass, before which all others are finished.
            done: The finished share of this pass, 0 to 1.
        """
        before = sum(weight for other, weight in self.passes.items() if other < number)
        return (before + done * self.passes[number]) / self._total

    def share_written(self, done: float) -> float:
        """Return the share of the whole run that is finished when this share of the mask is written, 0 to 1."""
        return (self._total - (1 - done) * self.writing) / self._total

    @property
    def _total(self) -> float:
        return sum(self.passes.values()) + self.writing
