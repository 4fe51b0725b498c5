"""The page that a training with held-out scenes ends with: scores, confusion, the worst places, and curves."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import torch

from magnet_cli.report.colours import RGB
from magnet_cli.report.html import render_page
from magnet_cli.train.validation import CHUNK, mean_iou

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.geometry import Size
    from magnet_cli.models.network_spec import ClassSpec
    from magnet_cli.train.precision import Arithmetic
    from magnet_cli.train.scenes import LabelledScene
    from magnet_cli.train.validation import Validator

    Pixels = NDArray[np.uint8]

EVALUATION_FILE = "evaluation.html"
WORST = 6
"""Number of windows that the page shows."""
LEAST_LABELLED = 0.5
"""Smallest share of labelled pixels of a window that is shown."""
GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True)
class WrongWindow:
    """A window with the network's prediction for it."""

    caption: str
    right: float
    """The share of its labelled pixels that have the true class, 0..1."""
    image: Pixels
    """`(rows, columns, bands)`."""
    truth: Pixels
    """`(rows, columns)`."""
    prediction: Pixels
    """`(rows, columns)`."""


@dataclass(frozen=True, kw_only=True)
class SceneConfusion:
    """The confusion matrix of one scene."""

    name: str
    by_scale: tuple[Tensor, ...]
    """`(truth, predicted)` counts, int64, for each scale of the bundle."""

    @property
    def all(self) -> Tensor:
        """The counts of all scales together."""
        return torch.stack(self.by_scale).sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """The results of a trained network on scenes that were held out."""

    scenes: tuple[SceneConfusion, ...]
    worst: tuple[WrongWindow, ...]
    """Windows of the finest scale with the most wrong labels, the worst first."""


@torch.inference_mode()
def score_held_out(network: nn.Module, validator: Validator, arithmetic: Arithmetic) -> HeldOutScores:
    """Run a network over every held-out scene at every scale.

    Args:
        network: The trained network, in eval mode.
        validator: Has the scenes and the bundle.
        arithmetic: The device and the precision.
    """
    worst: list[WrongWindow] = []
    scenes = []
    scales = validator.bundle.scales
    finest = min(scales, key=lambda scale: scale.pixels)
    for scene in validator.scenes:
        counts = []
        for scale in scales:
            total = torch.zeros((len(validator.bundle.classes),) * 2, dtype=torch.int64)
            for window in _windows(network, validator, arithmetic, scene, scale):
                total += _confusion(window, validator)
                if scale == finest and _is_shown(window, validator.ignore):
                    worst = sorted([*worst, window], key=lambda item: item.right)[:WORST]
            counts.append(total)
        scenes.append(SceneConfusion(name=scene.name, by_scale=tuple(counts)))
    return HeldOutScores(scenes=tuple(scenes), worst=tuple(worst))


def _windows(
    network: nn.Module, validator: Validator, arithmetic: Arithmetic, scene: LabelledScene, scale: Size
) -> Iterator[WrongWindow]:
    spec = validator.bundle.input
    lines, columns = ceil(scene.size.height / scale.height), ceil(scene.size.width / scale.width)
    places = list(product(range(lines), range(columns)))
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        read = [validator.window(scene, row, column, scale=scale, spec=spec) for row, column in part]
        patches = arithmetic.moved(torch.from_numpy(np.stack([patch for patch, _ in read])))
        with arithmetic.autocast():
            logits = network(patches.contiguous(memory_format=torch.channels_last)).float()
        found = logits.argmax(dim=1).cpu().numpy().astype(np.uint8)
        for (row, column), (patch, labels), prediction in zip(part, read, found, strict=True):
            known = labels != validator.ignore
            # A window without labels counts as right, so that it is never shown among the worst.
            right = float((prediction == labels)[known].mean()) if known.any() else 1.0
            yield WrongWindow(
                caption=(
                    f"{scene.name}, x {column * scale.width}, y {row * scale.height}, {scale} pixels: "
                    f"{100 * right:.1f} % of the labelled pixels are right."
                ),
                right=right,
                image=_stored(patch, validator),
                truth=labels,
                prediction=prediction,
            )


def _stored(patch: NDArray[np.float32], validator: Validator) -> Pixels:
    """Return a patch as a picture of 8 bits, `(rows, columns, bands)`."""
    spec = validator.bundle.input
    shape = (-1, 1, 1)
    scaled = patch * np.asarray(spec.std, np.float32).reshape(shape) + np.asarray(spec.mean, np.float32).reshape(shape)
    stored: Pixels = np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return stored


def _confusion(window: WrongWindow, validator: Validator) -> Tensor:
    classes = len(validator.bundle.classes)
    known = window.truth != validator.ignore
    pairs = window.truth[known].astype(np.int64) * classes + window.prediction[known]
    return torch.from_numpy(np.bincount(pairs, minlength=classes**2)).reshape(classes, classes)


def _is_shown(window: WrongWindow, ignore: int) -> bool:
    return window.right < 1 and float((window.truth != ignore).mean()) >= LEAST_LABELLED


def evaluation_page(scores: HeldOutScores, validator: Validator, *, curves: Path | None) -> str:
    """Return the page as HTML that needs no other file.

    Args:
        scores: Scores of the network on the held-out scenes.
        validator: Has the bundle.
        curves: The picture of the log, where there is one.
    """
    bundle = validator.bundle
    pooled = torch.stack([scene.all for scene in scores.scenes]).sum(dim=0)
    columns = [*(scene.all for scene in scores.scenes), pooled]
    return render_page(
        "evaluation.html",
        {},
        name=bundle.name,
        scales=[str(scale) for scale in bundle.scales],
        scenes=[
            {
                "name": scene.name,
                "by_scale": [_mean_share(counts) for counts in scene.by_scale],
                "all": _mean_share(scene.all),
            }
            for scene in scores.scenes
        ],
        classes=[
            {
                "name": item.name,
                "color": item.color,
                "shares": [_class_iou(counts, index) for counts in columns],
            }
            for index, item in enumerate(bundle.classes)
        ],
        confusion=[
            {
                "name": item.name,
                "shares": [_percent(float(value)) for value in (row / row.sum().clamp_min(1)).tolist()],
                "pixels": f"{int(row.sum()):,}",
            }
            for item, row in zip(bundle.classes, pooled, strict=True)
        ],
        worst=[_place(window, validator) for window in scores.worst],
        curves=_uri(curves.read_bytes()) if curves is not None and curves.exists() else "",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean_share(counts: Tensor) -> str:
    """Return the mean IoU of counts in percent, or `none` where no pixel is labelled."""
    return _percent(mean_iou(counts)) if counts.any() else "none"


def _class_iou(counts: Tensor, index: int) -> str:
    union = int(counts[index].sum() + counts[:, index].sum() - counts[index, index])
    return _percent(int(counts[index, index]) / union) if union else "none"


def _shown(bands: Sequence[str]) -> list[int]:
    """Return the positions of the bands that are shown as red, green and blue: by their names, else the first ones."""
    names = [band.casefold() for band in bands]
    if all(name in names for name in RGB):
        return [names.index(name) for name in RGB]
    return list(range(len(RGB))) if len(names) >= len(RGB) else [0] * len(RGB)


def _place(window: WrongWindow, validator: Validator) -> dict[str, Any]:
    classes, ignore = validator.bundle.classes, validator.ignore
    image = window.image[..., _shown(validator.bundle.input.bands)]
    pictures = {
        "image": image,
        "truth": _coloured(window.truth, classes, ignore=ignore),
        "prediction": _coloured(window.prediction, classes, ignore=ignore),
    }
    return {
        "caption": window.caption,
        "pictures": [
            {"name": name, "uri": _uri(bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels))))}
            for name, pixels in pictures.items()
        ],
    }


def _coloured(labels: Pixels, classes: Sequence[ClassSpec], *, ignore: int) -> Pixels:
    table = np.full((256, len(GREY)), GREY, np.uint8)
    for index, item in enumerate(classes):
        # A class whose index is the label to ignore was not scored, so it stays grey.
        if index != ignore:
            table[index] = tuple(bytes.fromhex(item.color.removeprefix("#")))
    return table[labels]


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
