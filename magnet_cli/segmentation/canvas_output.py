"""Output of a block: labels at level 0 and probabilities of its own part, both made from its last canvas."""

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
    from magnet_cli.segmentation.group_reader import BlockPixels


def labels_of(canvas: Canvas, box: Box, valid: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Resample the probabilities to level 0 and return the most probable class of each pixel of a box.

    Classes are compared after resampling: interpolated class indices would name classes that nothing predicted.

    Args:
        canvas: Probabilities that cover the box.
        box: A box of level 0.
        valid: `(box.height, box.width)`; where False the label is 255.

    Returns:
        `(box.height, box.width)` uint8. Ties go to the lowest class. Pixels that no stage computed are 255 as well,
        such as those of a window that has hardly any data.
    """
    if valid is not None and not valid.any():
        return np.full((box.height, box.width), NODATA, np.uint8)
    labels = np.empty((box.height, box.width), np.uint8)
    # Float32 probabilities of all classes exist for one square at a time, whatever the size of the block.
    for square in _squares(box, output_side(canvas.values.device.type)):
        rows, columns = square.shifted(x=-box.x, y=-box.y).slices
        labels[rows, columns] = largest(canvas.resampled(square, LEVEL0)).cpu().numpy()
    if valid is not None:
        labels[~valid] = NODATA
    return labels


def largest(probs: Tensor) -> Tensor:
    """Return the class of the largest probability. Ties go to the lowest index; 255 where every class has 0.

    On a CPU one pass over the image for each class is many times quicker than `argmax` over the first of three
    dimensions, and NumPy compares and multiplies bytes in a quarter of PyTorch's time. On a GPU the number of
    operations counts, so `largest_reduced` is used there.

    Args:
        probs: `(classes, height, width)` in [0, 1], float32 or float16.

    Returns:
        `(height, width)` uint8.
    """
    if probs.device.type != "cpu":
        return largest_reduced(probs)
    # Numbers from 0 on are in the order of their bits, and whole numbers of 16 bits are compared in a fraction of the
    # time of float16. The bits of a negative number, which rounding may leave in place of 0, are negative too.
    values = (probs.view(torch.int16) if probs.dtype == torch.float16 else probs).numpy()
    best, labels = values[0].copy(), np.zeros(values.shape[1:], np.uint8)
    mark = np.empty(labels.shape, np.bool_)
    marked = mark.view(np.uint8)
    # Only a strictly larger probability replaces a label, so that ties stay with the lowest class. A later class has a
    # larger index, so the maximum of both labels is that of the later one.
    for index, each in enumerate(values[1:], start=1):
        np.greater(each, best, out=mark)
        np.multiply(marked, np.uint8(index), out=marked)
        np.maximum(labels, marked, out=labels)
        np.maximum(best, each, out=best)
    np.less_equal(best, 0, out=mark)
    np.multiply(marked, NODATA, out=marked)
    return torch.from_numpy(np.maximum(labels, marked, out=labels))


def largest_reduced(probs: Tensor) -> Tensor:
    """Return what `largest` returns, in as many operations for any number of classes.

    Args:
        probs: `(classes, height, width)` in [0, 1].
    """
    best, labels = probs.max(dim=0)
    return labels.to(torch.uint8).masked_fill_(best <= 0, NODATA)


def _squares(box: Box, side: int) -> Iterator[Box]:
    for top in range(box.y, box.bottom, side):
        for left in range(box.x, box.right, side):
            yield Box(x=left, y=top, width=side, height=side).intersection(box)


def count_labels(labels: NDArray[np.uint8], classes: int) -> tuple[list[int], int]:
    """Return the number of pixels of each class, and the number of pixels without a label."""
    # Comparing bytes is many times quicker than `bincount`, which makes them 64-bit numbers first.
    counts = [int(np.count_nonzero(labels == label)) for label in range(classes)]
    return counts, labels.size - sum(counts)


def values_of(box: Box, pixels: BlockPixels, canvas: Canvas) -> NDArray[np.float16]:
    """Return the probabilities of a box of the last canvas of a block, NaN where a pixel has no data or is outside.

    Args:
        box: A box inside the canvas.
        pixels: The pixels that were read for the block.
        canvas: The block's canvas after the last stage of the pass.

    Returns:
        `(classes, box.height, box.width)` float16.
    """
    values: NDArray[np.float16] = canvas.view(box).cpu().numpy()
    valid = pixels.kept_valid
    if valid is not None:
        inside = box.shifted(x=-canvas.box.x, y=-canvas.box.y).slices
        values = np.where(valid[inside], values, np.float16("nan"))
    return values


def own_uncertainty(values: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return one minus the certainty of `(classes, height, width)` probabilities as `(1, height, width)` float16.

    NaN marks pixels without data and stays NaN.
    """
    # `nan_to_num` also looks for infinities, which takes three times as long.
    missing = np.isnan(values)
    unsure = uncertainty(torch.from_numpy(np.where(missing, np.float16(0), values)).float()).half().numpy()
    return np.where(missing[:1], np.float16("nan"), unsure[None])
