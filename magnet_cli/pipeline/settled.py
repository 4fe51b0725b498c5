"""Windows in which no pixel can pass a threshold on the score, found before any network looks at them.

Q is at most the uncertainty of Y', and Y' is interpolated from the canvas before. Where that canvas is of one class and
surer than the threshold asks for, so is everything between its pixels: means of certainties of one class bound the
certainty of means. The score of such a window is below the threshold whatever the networks say, so its Y' stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from magnet_cli.pipeline.labels import largest
from magnet_cli.refine.scores import uncertainty

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.refine.canvas import Canvas

SLACK = 1e-5
"""Interpolating in float32 may lower a certainty by a few units in the last place."""
ROWS = 512
"""Of the canvas, looked at in one go."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Where the canvas of the stage before leaves nothing to choose."""

    canvas: Canvas
    labels: Tensor
    """The class of each canvas pixel; `(height, width)` uint8."""
    unsure: Tensor
    """Where a canvas pixel alone may pass the threshold; `(height, width)` bool."""

    @classmethod
    def of(cls, canvas: Canvas, threshold: float) -> Settled:
        """Look at a canvas.

        Args:
            canvas: Y', before it is resampled.
            threshold: That the median of a score has to exceed.
        """
        labels = torch.empty(canvas.values.shape[1:], dtype=torch.uint8, device=canvas.values.device)
        unsure = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
        for top in range(0, len(labels), ROWS):
            values = canvas.values[:, top : top + ROWS].float()
            labels[top : top + ROWS] = largest(values)
            unsure[top : top + ROWS] = ~(uncertainty(values) <= threshold - SLACK)
        return cls(canvas=canvas, labels=labels, unsure=unsure)

    def at(self, box: Box, pitch: Pitch) -> bool:
        """Whether nothing in a box of the next stage's grid can pass the threshold.

        Args:
            box: With as many pixels around it as the median reaches.
            pitch: Of the grid.
        """
        rows, columns = (taps.reach for taps in self.canvas.taps(box, pitch))
        if bool(self.unsure[rows, columns].any()):
            return False
        labels = self.labels[rows, columns]
        return bool((labels == labels[0, 0]).all())
