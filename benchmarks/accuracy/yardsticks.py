"""Other ways to segment a large image: patches that overlap, or whose mirror images are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.models.networks import Networks, load_networks
from magnet_cli.segmentation.computer import Normalisation

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.models.bundle import Bundle

BATCH = 4
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Dimensions of `(n, bands, h, w)` that are mirrored."""


@dataclass(frozen=True, kw_only=True)
class Patching:
    """Plain patching: patches have the network's input size, and probabilities are added up where they overlap.

    The picture is continued by reflection.
    """

    bundle: Bundle
    margin: int = 0
    """Rim of each patch that is not used, in pixels."""
    overlap: float = 0.0
    """Share of a patch's side, margin left out, that the next patch covers too."""
    flips: bool = False
    """Whether each patch counts as the mean over its four mirror images."""

    def run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """Return labels `(rows, columns)` of a picture `(rows, columns, bands)`, and the number of forward passes."""
        networks = load_networks(self.bundle, device="cpu", precision="float32")
        side = self.bundle.input.size.width
        kept = side - 2 * self.margin
        step = round(kept * (1 - self.overlap))
        rows, columns = pixels.shape[:2]
        lead = kept - step
        high, wide = (ceil((length + lead) / step) * step + kept for length in (rows, columns))
        before = self.margin + lead
        after = (high - rows + self.margin, wide - columns + self.margin)
        padded = np.pad(pixels, [(before, after[0]), (before, after[1]), (0, 0)], mode="symmetric")
        total = torch.zeros((len(self.bundle.classes), high + lead, wide + lead))
        corners = [(y, x) for y in range(0, rows + lead, step) for x in range(0, columns + lead, step)]
        for part in _batched(corners):
            patches = np.stack([padded[y : y + side, x : x + side] for y, x in part])
            for (y, x), probs in zip(part, self._probs(networks, torch.from_numpy(patches)), strict=True):
                total[:, y : y + kept, x : x + kept] += probs
        mask = total[:, lead : lead + rows, lead : lead + columns].argmax(dim=0).to(torch.uint8).numpy()
        return mask, len(corners) * (len(FLIPS) if self.flips else 1)

    def _probs(self, networks: Networks, patches: Tensor) -> Tensor:
        """Return the probabilities of patches without their margin, `(n, classes, kept, kept)`."""
        spec = self.bundle.input
        spans = (spec.range,) * len(spec.bands)
        normal = Normalisation(spans=spans, mean=tuple(spec.mean), std=tuple(spec.std)).apply(patches)
        flips = FLIPS if self.flips else FLIPS[:1]
        looks = [networks.predict(normal.flip(dims), spec.size).flip(dims) for dims in flips]
        probs = torch.stack(looks).mean(dim=0)
        end = spec.size.width - self.margin
        return probs[:, :, self.margin : end, self.margin : end]


def _batched(corners: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [corners[start : start + BATCH] for start in range(0, len(corners), BATCH)]
