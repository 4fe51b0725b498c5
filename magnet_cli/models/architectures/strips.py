"""Networks with a small receptive field, run over a patch in strips, so that memory does not grow with the patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from magnet_cli.geometry import Size

ROWS = 128
"""The rows of a strip. The paper's refiner at 508 pixels then takes a third of the memory, and no more time."""


@runtime_checkable
class Reaches(Protocol):
    """A network that keeps the size of its input and states its receptive field."""

    reach: int
    """Pixels above and below a pixel that its value depends on."""


class InStrips(nn.Module):
    """Runs a network over strips of rows and the rows around them; the result is that of the whole patch.

    Args:
        network: Maps `(n, inputs, h, w)` to `(n, outputs, h, w)`, every layer padding as at the edge of a patch.
        reach: Pixels around a pixel that its value depends on.
    """

    def __init__(self, network: nn.Module, *, reach: int) -> None:
        super().__init__()
        self.network, self.reach = network, reach

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, h, w)`."""
        height = x.shape[2]
        if height <= ROWS:
            return cast("Tensor", self.network(x))
        parts = []
        for top in range(0, height, ROWS):
            above = max(0, top - self.reach)
            part = self.network(x[:, :, above : top + ROWS + self.reach])
            parts.append(part[:, :, top - above : top - above + ROWS])
        return torch.cat(parts, dim=2)


def strip_of(network: nn.Module, size: Size) -> tuple[int, int]:
    """Return the rows and columns that a network gets at once of a patch of this size."""
    rows = min(size.height, ROWS + 2 * network.reach) if isinstance(network, Reaches) else size.height
    return rows, size.width
