"""Windows of scenes: drawn at random, and cut out as the network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, log2
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from magnet_cli.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.train.scenes import LabelledScene
    from magnet_cli.train.stores import LabelStore

    Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CropWindow:
    """A rectangle of level 0, which may reach beyond the picture, where it is mirrored."""

    x: float
    y: float
    width: float
    height: float


def draw_window(scene: LabelledScene, rng: np.random.Generator, *, scales: Sequence[Size], jitter: float) -> CropWindow:
    """Return a random window near one of the scales, inside the scene where it fits, else around it."""
    scale = scales[int(rng.integers(len(scales)))]
    factor = exp(rng.uniform(-log(jitter), log(jitter)))
    height, width = scale.height * factor, scale.width * factor
    # Where the window is larger than the scene, the first limit is negative and the second one 0: the window lies
    # around it.
    y = rng.uniform(min(0, scene.size.height - height), max(0, scene.size.height - height))
    x = rng.uniform(min(0, scene.size.width - width), max(0, scene.size.width - width))
    return CropWindow(x=x, y=y, width=width, height=height)


def cut_window(scene: LabelledScene, window: CropWindow, *, size: Size) -> tuple[NDArray[np.float32], Pixels]:
    """Return a window as the network sees it.

    Pixels come from the coarsest halving of the scene that is not coarser than the window asks for, so that what is
    read does not grow with the window.

    Returns:
        Stored values `(size.height, size.width, bands)`, averaged by area, and labels taken at the pixels' centres.
    """
    sizes = scene.pixels.sizes
    ratio = min(window.width / size.width, window.height / size.height)
    # The logarithm of a power of two may come out a little below its exponent.
    level = min(max(0, int(log2(ratio) + 1e-9)) if ratio >= 1 else 0, len(sizes) - 1)
    rows = mirrored(span(window.y, window.height, shrink=2**level), size=sizes[level].height)
    columns = mirrored(span(window.x, window.width, shrink=2**level), size=sizes[level].width)
    pixels, valid = crossing(scene, level, rows, columns)
    part = torch.from_numpy(pixels).permute(2, 0, 1).float()
    target = (size.height, size.width)
    if part.shape[1:] != target:
        # Bilinear interpolation would skip pixels while it shrinks, and area means cannot enlarge.
        shrinks = part.shape[1] >= target[0] and part.shape[2] >= target[1]
        mode = "area" if shrinks else "bilinear"
        part = (
            resized(part, target=target, mode=mode)
            if valid is None
            else resized_where(part, torch.from_numpy(valid), target=target, mode=mode, filling=scene.pixels.filling)
        )
    return part.permute(1, 2, 0).numpy(), cut_labels(scene.labels, window, size=size)


def cut_labels(labels: LabelStore, window: CropWindow, *, size: Size) -> Pixels:
    """Return the labels, or a mask, at the centres of the network's pixels, `(size.height, size.width)`."""
    y = mirrored(centres(window.y, window.height, count=size.height), size=labels.size.height)
    x = mirrored(centres(window.x, window.width, count=size.width), size=labels.size.width)
    return labels.at(y, x)


def crossing(
    scene: LabelledScene, level: int, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Return the pixels of a halving where rows and columns cross, `(len(rows), len(columns), bands)`.

    The second array says which of them hold data, `(len(rows), len(columns))`; it is None where all do.
    """
    left, top = int(columns.min()), int(rows.min())
    box = Box.between(left=left, top=top, right=int(columns.max()) + 1, bottom=int(rows.max()) + 1)
    pixels, valid = scene.pixels.part(level, box)
    where = ((rows - top)[:, None], columns - left)
    return pixels[where], None if valid is None else valid[where]


def mirrored(indices: NDArray[np.intp], *, size: int) -> NDArray[np.intp]:
    """Reflect indices into `0 .. size`, with edge pixels repeated."""
    # A reflected picture repeats after twice its length.
    index = indices % (2 * size)
    mirrored_index: NDArray[np.intp] = np.minimum(index, 2 * size - 1 - index)
    return mirrored_index


def span(start: float, length: float, *, shrink: int) -> NDArray[np.intp]:
    """Return the pixels of a halving that a stretch of level 0 covers, at least one."""
    first = round(start / shrink)
    return np.arange(first, first + max(1, round(length / shrink)), dtype=np.intp)


def centres(start: float, length: float, *, count: int) -> NDArray[np.intp]:
    """Return the level-0 pixels that hold the centres of `count` patch pixels."""
    return np.floor(start + (np.arange(count) + 0.5) * length / count).astype(np.intp)


def resized_where(
    part: torch.Tensor, valid: torch.Tensor, *, target: tuple[int, int], mode: str, filling: tuple[int, ...] | None
) -> torch.Tensor:
    """Return `(bands, rows, columns)` at another size, made of pixels that hold data, as a run of the program does it.

    Args:
        part: Stored values.
        valid: `(rows, columns)`, True where they hold data.
        target: Rows and columns of the result.
        mode: Method of the resampling.
        filling: Value of each band where less than half of a pixel holds data; None for 0.
    """
    held = valid[None].float()
    weight = resized(held, target=target, mode=mode)
    mean = resized(part * held, target=target, mode=mode) / weight.clamp(min=torch.finfo().tiny)
    missing = torch.zeros(len(part)) if filling is None else torch.tensor(filling, dtype=torch.float32)
    return torch.where(2 * weight >= 1, mean, missing[:, None, None])


def resized(part: torch.Tensor, *, target: tuple[int, int], mode: str) -> torch.Tensor:
    """Return `(bands, rows, columns)` at another size."""
    return functional.interpolate(part[None], size=target, mode=mode)[0]
