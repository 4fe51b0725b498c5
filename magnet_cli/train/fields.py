"""Whole scenes as a network sees them at one scale, to train a refiner on."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from magnet_cli.train.data import Window, centres, cut

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import InputSpec
    from magnet_cli.train.data import Scene

CHUNK = 8
"""Windows in one forward pass."""


def canvas_size(scene: Scene, scale: Size, spec: InputSpec) -> tuple[int, int]:
    """Rows and columns of a scene's canvas at a scale: one value per patch pixel, the last maybe beyond the edge."""
    rows, columns = scene.labels.shape
    return ceil(rows * spec.size.height / scale.height), ceil(columns * spec.size.width / scale.width)


@torch.inference_mode()
def own_canvas(network: nn.Module, scene: Scene, *, classes: int, scale: Size, spec: InputSpec) -> Tensor:
    """Probabilities of a scene at one scale, from windows side by side without margin.

    Returns:
        `(classes, rows, columns)` float16.
    """
    high, wide = spec.size.height, spec.size.width
    rows, columns = canvas_size(scene, scale, spec)
    canvas = torch.zeros((classes, rows, columns), dtype=torch.float16)
    corners = [(y, x) for y in range(0, rows, high) for x in range(0, columns, wide)]
    for first in range(0, len(corners), CHUNK):
        part = corners[first : first + CHUNK]
        patches = np.stack([patch_at(scene, y // high, x // wide, scale=scale, spec=spec) for y, x in part])
        probs = network(torch.from_numpy(patches)).float().softmax(dim=1).half()
        for (y, x), one in zip(part, probs, strict=True):
            canvas[:, y : y + high, x : x + wide] = one[:, : rows - y, : columns - x]
    return canvas


def patch_at(scene: Scene, row: int, column: int, *, scale: Size, spec: InputSpec) -> NDArray[np.float32]:
    """The window of a grid of windows, as the network takes it: `(bands, h, w)`."""
    window = Window(x=column * scale.width, y=row * scale.height, width=scale.width, height=scale.height)
    pixels, _ = cut(scene, window, size=spec.size)
    low, high = spec.range
    scaled = (pixels - np.float32(low)) / np.float32(high - low)
    normal = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def label_canvas(scene: Scene, *, scale: Size, spec: InputSpec) -> NDArray[np.uint8]:
    """Labels at the centres of a canvas's pixels."""
    rows, columns = canvas_size(scene, scale, spec)
    y = centres(0, rows * scale.height / spec.size.height, count=rows).clip(max=scene.labels.shape[0] - 1)
    x = centres(0, columns * scale.width / spec.size.width, count=columns).clip(max=scene.labels.shape[1] - 1)
    return cast("NDArray[np.uint8]", scene.labels[y[:, None], x[None, :]])


def sampled(canvas: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples at continuous pixel indices (0 = centre of the first pixel), edges repeated; float32."""
    for axis, index in ((1, rows), (2, columns)):
        last = canvas.shape[axis] - 1
        place = index.clamp(0, last)
        low = place.floor().long()
        share = (place - low).reshape((-1, 1) if axis == 1 else (-1,))
        near = canvas.index_select(axis, low).float()
        far = canvas.index_select(axis, (low + 1).clamp_max(last)).float()
        canvas = near + (far - near) * share
    return canvas


def under(canvas: Tensor, *, ratio: tuple[float, float], corner: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """A part of a finer canvas's grid, sampled from a coarser canvas.

    Args:
        canvas: Coarser, `(classes, rows, columns)`.
        ratio: Finer pixels per coarser pixel, over rows and columns.
        corner: Of the part, in finer pixels.
        shape: Of the part.
    """
    rows, columns = (
        (torch.arange(start, start + count) + 0.5) / factor - 0.5
        for start, count, factor in zip(corner, shape, ratio, strict=True)
    )
    return sampled(canvas, rows=rows, columns=columns)
