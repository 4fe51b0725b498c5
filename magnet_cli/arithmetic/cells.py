"""Cells of maps, taken out and put together again so that gradients cost what the cells do, not a map for each cell."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from torch import Tensor

    from magnet_cli.geometry import Box

Cell = tuple[int, int]
"""An image of a batch, and a cell of it in row-major order."""


def assembled(parts: Mapping[Cell, Tensor], boxes: Sequence[Box], *, like: Tensor, count: int, side: int) -> Tensor:
    """Return maps `(count, channels, rows, columns)` with the parts in their cells and zero elsewhere.

    They are joined, not written into a map: the gradient of a write is a copy of the whole map, and there is one for
    each cell.

    Args:
        parts: `(channels, h, w)` of some cells.
        boxes: The boxes of all cells of an image, in row-major order.
        like: `(k, channels, ...)`, of their kind.
        count: The number of images.
        side: Cells a side.
    """
    images = []
    for image in range(count):
        cells = [
            parts[image, cell] if (image, cell) in parts else like.new_zeros((like.shape[1], box.height, box.width))
            for cell, box in enumerate(boxes)
        ]
        images.append(
            torch.cat([torch.cat(cells[start : start + side], dim=2) for start in range(0, len(cells), side)], dim=1)
        )
    return torch.stack(images)


def chosen_alike(chosen: Sequence[Cell], kind: Callable[[int], Hashable]) -> list[list[Cell]]:
    """Return the chosen cells, those of one kind together."""
    found: defaultdict[Hashable, list[Cell]] = defaultdict(list)
    for image, cell in chosen:
        found[kind(cell)].append((image, cell))
    return list(found.values())


def windows_of(maps: Tensor, windows: Sequence[tuple[int, Box]]) -> Tensor:
    """Cut windows of one size, `(k, channels, h, w)`, out of maps `(n, channels, rows, columns)` in one gather.

    Args:
        maps: Maps of any kind, one an image.
        windows: The map's number and the window inside it.
    """
    first = windows[0][1]
    image = torch.tensor([number for number, _ in windows])
    rows = torch.tensor([box.y for _, box in windows])[:, None] + torch.arange(first.height)
    columns = torch.tensor([box.x for _, box in windows])[:, None] + torch.arange(first.width)
    # One gather has one gradient. Slices would have one of the size of the whole map each.
    channels = torch.arange(maps.shape[1])
    index = (image[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :])
    return maps[tuple(part.to(maps.device) for part in index)]


def flagged(chosen: Sequence[Cell], boxes: Sequence[Box], *, like: Tensor) -> Tensor:
    """Return a map `(n, 1, rows, columns)` that is true in the chosen cells of maps like those given."""
    found = torch.zeros((len(like), 1, *like.shape[-2:]), dtype=torch.bool)
    for image, cell in chosen:
        found[image, :, *boxes[cell].slices] = True
    return found.to(like.device)
