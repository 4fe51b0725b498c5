"""Averaging a network's result over mirror images of its input (test-time augmentation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ROWS, COLUMNS = -2, -1


def mean_over_mirrors(predict: Callable[[Tensor], Tensor], patches: Tensor, *, images: int) -> Tensor:
    """Return the mean of a network's results on patches and on their mirror images, each mirrored back.

    Args:
        predict: The network: from `(n, bands, h, w)` to `(n, classes, h, w)` float32.
        patches: `(n, bands, h, w)`; h equals w where `images` is 8.
        images: 1 for the patches alone, 2 with them mirrored left to right, 4 also top to bottom, 8 also transposed.
    """
    if images == 1:
        return predict(patches)
    total: Tensor | None = None
    for transposed in (False, True)[: 1 if images < 8 else 2]:  # noqa: PLR2004 - all symmetries of a square
        for flipped in ((), (COLUMNS,), (ROWS,), (ROWS, COLUMNS))[: min(images, 4)]:
            turned = patches.transpose(ROWS, COLUMNS) if transposed else patches
            found = torch.flip(predict(torch.flip(turned, flipped)), flipped)
            found = found.transpose(ROWS, COLUMNS) if transposed else found
            total = found.contiguous() if total is None else total.add_(found)
    if total is None:
        message = f"a mean has 1, 2, 4 or 8 images, got {images}"
        raise ValueError(message)
    return total.div_(images)
