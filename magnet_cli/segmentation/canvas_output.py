"""From the last canvas to what goes to disk: labels at level 0, and quantised probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.plan import output_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.plan.windows import Pass
    from magnet_cli.segmentation.group_reader import BlockPixels


def labels_of(canvas: Canvas, box: Box, valid: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """The class of every level-0 pixel of a box: probabilities resampled, then the largest, ties to the lowest index.

    Args:
        canvas: Covers the box.
        box: At level 0.
        valid: `(box.height, box.width)`; where False the label is 255.

    Returns:
        `(box.height, box.width)` uint8; 255 also where no stage looked, because nearly all of a window lacks data.
    """
    if valid is not None and not valid.any():
        return np.full((box.height, box.width), NODATA, np.uint8)
    labels = np.empty((box.height, box.width), np.uint8)
    for square in _squares(box, output_side(canvas.values.device.type)):
        rows, columns = square.shifted(x=-box.x, y=-box.y).slices
        labels[rows, columns] = largest(canvas.sample(square, LEVEL0)).cpu().numpy()
    if valid is not None:
        labels[~valid] = NODATA
    return labels


def largest(probs: Tensor) -> Tensor:
    """The class of the largest probability, ties to the lowest index; 255 where no class has any.

    One pass a class: on a CPU that is many times quicker than `argmax` over the first of three dimensions. Bytes are
    compared as numbers, because `masked_fill_` looks at each by itself. On a GPU it is one operation that counts.

    Args:
        probs: `(classes, height, width)`.

    Returns:
        `(height, width)` uint8.
    """
    if probs.device.type != "cpu":
        return largest_reduced(probs)
    labels = torch.zeros(probs.shape[1:], dtype=torch.uint8, device=probs.device)
    best = probs[0].clone()
    for index in range(1, len(probs)):
        larger = (probs[index] > best).view(torch.uint8).mul_(index)
        torch.maximum(labels, larger, out=labels)
        torch.maximum(best, probs[index], out=best)
    return torch.maximum(labels, (best <= 0).view(torch.uint8).mul_(NODATA))


def largest_reduced(probs: Tensor) -> Tensor:
    """`largest` in few operations, whatever the number of classes.

    Args:
        probs: As for `largest`.
    """
    best, labels = probs.max(dim=0)
    return labels.to(torch.uint8).masked_fill_(best <= 0, NODATA)


def _squares(box: Box, side: int) -> Iterator[Box]:
    for top in range(box.y, box.bottom, side):
        for left in range(box.x, box.right, side):
            yield Box(x=left, y=top, width=side, height=side).intersection(box)


def count_labels(labels: NDArray[np.uint8], classes: int) -> tuple[list[int], int]:
    """Pixels by class, and pixels without a label."""
    # Comparing bytes is many times quicker than `bincount`, which makes them 64-bit numbers first.
    counts = [int(np.count_nonzero(labels == label)) for label in range(classes)]
    return counts, labels.size - sum(counts)


def own_values(step: Pass, pixels: BlockPixels, canvas: Canvas, *, masked: bool) -> tuple[Box, NDArray[np.float16]]:
    """Return the values of a block's own pixels on the canvas of the last stage of a pass.

    Args:
        step: The pass.
        pixels: What was read of the block.
        canvas: The block's canvas after the last stage of the pass.
        masked: Whether pixels without data or outside the area become NaN.

    Returns:
        Their box on the canvas grid, and `(classes, height, width)` float16.
    """
    own = step.own(pixels.block, step.stages[-1])
    values = canvas.view(own).cpu().numpy()
    valid = pixels.kept_valid
    if masked and valid is not None:
        inside = own.shifted(x=-canvas.box.x, y=-canvas.box.y).slices
        values = np.where(valid[inside], values, np.float16("nan"))
    return own, values


def own_uncertainty(values: NDArray[np.float16]) -> NDArray[np.float16]:
    """One minus the certainty of `(classes, height, width)` probabilities; `(1, height, width)`, NaN stays NaN."""
    unsure = uncertainty(torch.from_numpy(np.nan_to_num(values)).float()).half().numpy()
    return np.where(np.isnan(values[:1]), np.float16("nan"), unsure[None])
