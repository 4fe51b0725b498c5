"""The published programs' inference written anew: whole maps, plain loops, OpenCV for the image.

It shares no line with `magnet_cli.arithmetic.published.stages`, so that the two can be compared. Defects that the
program corrects are corrected here too (docs/method.md, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Settings of the published programs; pairs are width and height."""

    stages: Sequence[tuple[int, int]]
    crop: tuple[int, int]
    input: tuple[int, int]
    points: float
    """Number of points above 1, a share of the points otherwise."""
    patches: int
    median: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a stage."""

    windows: list[tuple[int, int]]
    """Left and top of each window, in the order of computation."""
    chosen: NDArray[np.bool_]
    probabilities: Tensor


def windows(side: int, crop: int) -> list[int]:
    """Return the first pixels of windows along one axis; the last window is moved to the edge."""
    count = ceil(side / crop)
    step = int(crop - (count * crop - side) / max(count - 1, 1))
    return [min(k * step, side - crop) if k < count - 1 else side - crop for k in range(count)]


def roi(maps: Tensor, left: int, top: int, case: Case, *, shifted: bool) -> Tensor:
    """Return RoIAlign of one window to the input size, with as many samples a bin as the bin has pixels, rounded up."""
    (crop_w, crop_h), (width, height) = case.crop, case.input
    axes = []
    for start, extent, bins in ((left, crop_w, width), (top, crop_h, height)):
        count = ceil(extent / bins)
        within = torch.tensor([(s + 0.5) / count for s in range(count)], dtype=torch.float64)
        position = start + (torch.arange(bins, dtype=torch.float64)[:, None] + within) * (extent / bins)
        axes.append((position.flatten() - (0 if shifted else 0.5), count))
    (x, across), (y, down) = axes
    sides = (maps.shape[2] - 1, maps.shape[1] - 1)
    columns, rows = (2 * p.clamp(0, n).float() / n - 1 for p, n in zip((x, y), sides, strict=True))
    grid = torch.stack((columns[None, :].expand(len(y), -1), rows[:, None].expand(-1, len(x))), dim=2)
    sampled = functional.grid_sample(maps[None], grid[None], align_corners=True)
    return functional.avg_pool2d(sampled, (down, across))[0]


def lead(probabilities: Tensor) -> Tensor:
    """Return the largest probability minus the second largest."""
    ordered = probabilities.sort(dim=0, descending=True).values
    return ordered[0] - ordered[1]


def medians(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return medians of k x k pixels with zeros beyond the border."""
    padded = np.pad(scores, k // 2)
    views = np.lib.stride_tricks.sliding_window_view(padded, (k, k))
    found: NDArray[np.float32] = np.median(views, axis=(2, 3)).astype(np.float32)
    return found


def best(scores: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Return a mask of the pixels with the highest scores; ties go to the lowest row-major index."""
    order = np.argsort(-scores.ravel(), kind="stable")[:count]
    chosen = np.zeros(scores.size, np.bool_)
    chosen[order] = True
    return chosen.reshape(scores.shape)


def resized(maps: Tensor, width: int, height: int, mode: str = "bilinear") -> Tensor:
    """Return maps at another size, `(channels, height, width)`."""
    options: dict[str, Any] = {"align_corners": False} if mode == "bilinear" else {}
    return functional.interpolate(maps[None], size=(height, width), mode=mode, **options)[0]


def run(
    image: NDArray[np.uint8],
    case: Case,
    *,
    backbone: Callable[[Tensor], Tensor],
    refiners: Sequence[Callable[[Tensor], Tensor]],
    shifted: bool,
) -> list[Found]:
    """Compute every stage.

    Args:
        image: (H, W, 3).
        case: The settings of the run.
        backbone: (1, 3, h, w) to logits.
        refiners: Each (1, 2 * classes, h, w), own first, to logits; the published choice by stage.
        shifted: Whether the half-pixel shift is kept.
    """
    import cv2  # noqa: PLC0415 - only where the test extra is installed

    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    (crop_w, crop_h), found = case.crop, list[Found]()
    current = torch.empty(0)
    for index, (width, height) in enumerate(case.stages):
        whole = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

        def own(left: int, top: int, whole: NDArray[Any] = whole) -> Tensor:
            cut = cv2.resize(whole[top : top + crop_h, left : left + crop_w], case.input)
            patch = torch.from_numpy((cut.astype(np.float32) / 255 - mean) / std).permute(2, 0, 1)
            return backbone(patch[None]).softmax(dim=1)[0]

        if index == 0:
            current = own(0, 0)
            found.append(Found(windows=[(0, 0)], chosen=np.ones((height, width), np.bool_), probabilities=current))
            continue
        field = resized(current, width, height)
        uncertainty = 1 - lead(field)
        every = [(x, y) for x in windows(width, crop_w) for y in windows(height, crop_h)]
        means = [float(roi(uncertainty[None], x, y, case, shifted=shifted).mean()) for x, y in every]
        kept = [every[i] for i in sorted(range(len(every)), key=lambda i: -means[i])]
        kept = kept if case.patches == -1 else kept[: case.patches]
        total, times = torch.zeros_like(field), torch.zeros(height, width)
        refiner = refiners[min(len(refiners), index) - 1]
        for x, y in kept:
            pair = torch.cat((own(x, y), roi(field, x, y, case, shifted=shifted)))
            patch = resized(refiner(pair[None]).softmax(dim=1)[0], crop_w, crop_h)
            total[:, y : y + crop_h, x : x + crop_w] += patch
            times[y : y + crop_h, x : x + crop_w] += 1
        refined = total / times.clamp(min=1)
        sure = lead(refined) * (times > 0)
        small = resized((sure * uncertainty)[None], *case.input, mode="nearest")[0]
        scores = resized(torch.from_numpy(medians(small.numpy(), case.median))[None], width, height, mode="nearest")[0]
        wanted = case.points if case.points > 1 else width * height * case.points * len(kept) / len(every)
        count = int(min(wanted, width * height * len(kept) / len(every)))
        chosen = best(scores.numpy(), count) & (times > 0).numpy()
        current = torch.where(torch.from_numpy(chosen), refined, field)
        found.append(Found(windows=kept, chosen=chosen, probabilities=current))
    return found
