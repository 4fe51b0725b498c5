"""The scores of a network on held-out scenes while it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice, product
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from magnet_cli.errors import SourceError
from magnet_cli.train.crops import CropWindow, centres, cut_window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle, InputSpec
    from magnet_cli.train.precision import Arithmetic
    from magnet_cli.train.scenes import LabelledScene

CHUNK = 8
"""Windows in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The scores of a network on held-out scenes, pooled over their pixels at all scales."""

    miou: float
    """Mean IoU, 0..1, over the classes that the labels or the network have."""
    cross_entropy: float
    """Mean over labelled pixels with the natural logarithm; classes are not weighted."""
    others: dict[str, float] = field(default_factory=dict)
    """Further scores, by the name that the log gives them after `validation_`."""


@dataclass(frozen=True, kw_only=True)
class BestScore:
    """The best of the validations so far."""

    score: Score
    iteration: int
    since: int
    """Validations after it, none of them better."""
    weights: dict[str, Tensor]
    """The averaged network's state, in host memory."""

    def state(self) -> dict[str, Any]:
        """Return the best score in the form of a checkpoint."""
        return {**vars(self), "score": vars(self.score)}

    @classmethod
    def restored(cls, state: dict[str, Any] | None) -> BestScore | None:
        """Return the best score of a checkpoint, which has none before the first validation."""
        return None if state is None else cls(**{**state, "score": Score(**state["score"])})


def better(best: BestScore | None, score: Score, network: nn.Module, *, iteration: int) -> BestScore:
    """Return the best after one validation more; an equal mean IoU is no improvement."""
    if best is not None and score.miou <= best.score.miou:
        return BestScore(score=best.score, iteration=best.iteration, since=best.since + 1, weights=best.weights)
    weights = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    return BestScore(score=score, iteration=iteration, since=0, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Validator:
    """Scores a network on whole scenes at every scale of a bundle; windows lie side by side and are not changed."""

    scenes: Sequence[LabelledScene]
    bundle: Bundle
    ignore: int

    @torch.inference_mode()
    def __call__(self, network: nn.Module, arithmetic: Arithmetic) -> Score:
        """Return the score of a network in eval mode.

        Raises:
            SourceError: The scenes have no labelled pixel.
        """
        classes = len(self.bundle.classes)
        confusion, loss = torch.zeros((classes, classes), dtype=torch.int64), 0.0
        windows = self.windows()
        while chunk := list(islice(windows, CHUNK)):
            patches = torch.from_numpy(np.stack([patch for patch, _ in chunk]))
            labels = arithmetic.moved(torch.from_numpy(np.stack([label for _, label in chunk]).astype(np.int64)))
            with arithmetic.autocast():
                logits = network(arithmetic.moved(patches).contiguous(memory_format=torch.channels_last)).float()
            labelled = labels != self.ignore
            loss += float(functional.cross_entropy(logits, labels, ignore_index=self.ignore, reduction="sum"))
            pairs = labels[labelled] * classes + logits.argmax(dim=1)[labelled]
            confusion += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu()
        if not confusion.any():
            raise SourceError(
                "the held-out scenes have no labelled pixel", value=self.names, advice="Hold out scenes with labels"
            )
        return Score(miou=mean_iou(confusion), cross_entropy=loss / int(confusion.sum()))

    @property
    def names(self) -> str:
        """The names of the scenes."""
        return ", ".join(scene.name for scene in self.scenes)

    def windows(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """Yield patches `(bands, h, w)` for the network, and labels `(h, w)`, ignored beyond a scene's edge."""
        spec = self.bundle.input
        for scene, scale in product(self.scenes, self.bundle.scales):
            lines, columns = ceil(scene.size.height / scale.height), ceil(scene.size.width / scale.width)
            for row, column in product(range(lines), range(columns)):
                yield self.window(scene, row, column, scale=scale, spec=spec)

    def window(
        self, scene: LabelledScene, row: int, column: int, *, scale: Size, spec: InputSpec
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return one window by its place in the grid of windows."""
        window = CropWindow(x=column * scale.width, y=row * scale.height, width=scale.width, height=scale.height)
        pixels, labels = cut_window(scene, window, size=spec.size)
        inside = np.ix_(
            centres(window.y, window.height, count=spec.size.height) < scene.size.height,
            centres(window.x, window.width, count=spec.size.width) < scene.size.width,
        )
        # Beyond the edge of a scene a window is mirrored. Labels there would count twice.
        known = np.full_like(labels, self.ignore)
        known[inside] = labels[inside]
        low, high = spec.range
        scaled = (pixels - np.float32(low)) / np.float32(high - low)
        normal = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)), known


def mean_iou(confusion: Tensor) -> float:
    """Return the mean IoU of counts `(truth, predicted)`, over the classes that either has."""
    both = confusion.diagonal()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    return float((both[union > 0].double() / union[union > 0]).mean())
