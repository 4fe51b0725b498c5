"""Samples for training and scoring a cascade: windows of scenes, each with an object and a wrong mask of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.errors import SourceError
from magnet_cli.evaluation.boundary import BoundaryCounts, add_block, boundary_radii
from magnet_cli.geometry import Box, Size
from magnet_cli.train.cascade_losses import BANDS, UNKNOWN, cross_entropy
from magnet_cli.train.perturbation import iou
from magnet_cli.train.validation import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.train.batches import BatchSampler, TrainingSample
    from magnet_cli.train.binary_objects import BinaryObjects, Drawn
    from magnet_cli.train.perturbation import Perturbation
    from magnet_cli.train.precision import Arithmetic
    from magnet_cli.train.spoilage import Spoiling

    Mask = NDArray[np.bool_]

TRIES = 200
"""The most windows that are drawn until one has an object."""


@dataclass(frozen=True, kw_only=True)
class MaskSampler:
    """Draws batches: batch k is a function of the seed and k alone."""

    windows: BatchSampler
    objects: BinaryObjects
    perturbation: Perturbation
    spoiling: Spoiling
    masks: float = 0.0
    """Probability that the wrong mask is the scene's own, where it has one and the object is in it."""

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the images with masks `(n, 4, h, w)` float32, the mask -1 to 1.

        The labels `(n, h, w)` int64 are 1 in the object.

        Raises:
            SourceError: The scenes have no object that fits.
        """
        windows = self.windows
        pairs = [self.sample(np.random.default_rng((windows.seed, index, item))) for item in range(windows.batch)]
        return torch.stack([inputs for inputs, _ in pairs]), torch.stack([labels for _, labels in pairs])

    def sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return one window, turned, mirrored and recoloured, with a wrong mask of an object in it."""
        for _ in range(TRIES):
            found = self.windows.sample(rng)
            drawn = self.objects.drawn(found.labels, rng)
            if drawn is not None:
                # The network takes masks from -1 to 1, as the published one does.
                wrong = self.spoiling(self.wrong(found, drawn, rng), rng) * 2 - 1
                known = np.where(found.labels == self.objects.ignore, UNKNOWN, drawn.inside).astype(np.int64)
                inputs = np.concatenate((found.pixels.transpose(2, 0, 1), wrong[None]))
                return torch.from_numpy(inputs), torch.from_numpy(known)
        names = ", ".join(scene.name for scene in self.windows.scenes)
        raise SourceError(
            f"{TRIES} windows have no object of {self.objects.smallest} pixels with as many around it",
            value=names,
            advice="Lower [cascade] smallest, or change [cascade] scales",
        )

    def wrong(self, found: TrainingSample, drawn: Drawn, rng: np.random.Generator) -> Mask:
        """Return a mask of an object that is to be sharpened, `(rows, columns)`, never empty."""
        if found.mask is not None and rng.random() < self.masks:
            mask = drawn.in_mask(found.mask)
            if mask.any():
                return mask
        return self.perturbation(drawn.inside, rng)


@dataclass(frozen=True, kw_only=True)
class MaskValidator:
    """Scores a cascade on wrong masks of held-out objects, the same ones each time."""

    sampler: MaskSampler
    windows: int
    """The number of windows."""

    @torch.inference_mode()
    def __call__(self, network: nn.Module, arithmetic: Arithmetic) -> Score:
        """Return IoU and boundary accuracy before and after refinement by a network in eval mode; see `MaskTally`."""
        tally = MaskTally()
        for index in range(-(-self.windows // self.sampler.windows.batch)):
            inputs, labels = self.sampler(index)
            # The last batch may draw more windows than are left.
            inputs, labels = inputs[: self.windows - len(tally.after)], labels[: self.windows - len(tally.after)]
            with arithmetic.autocast():
                placed = arithmetic.moved(inputs).contiguous(memory_format=torch.channels_last)
                logits = network(placed[:, :BANDS], placed[:, BANDS:]).s1
            tally.add(inputs[:, BANDS], logits.float().cpu()[:, 0], labels)
        return tally.score


class MaskTally:
    """The scores of masks of objects before and after refining.

    IoU and cross-entropy are means over objects, boundary accuracy, within fixed radii, one over pixels.
    """

    def __init__(self) -> None:
        radii = boundary_radii(Size(width=1, height=1), "fixed")
        self.before: list[float] = []
        self.after: list[float] = []
        self.losses: list[float] = []
        self.near = BoundaryCounts(radii=radii), BoundaryCounts(radii=radii)

    def add(self, masks: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of objects, each tensor `(n, h, w)`: masks and logits above 0 inside, labels as trained on."""
        for mask, logit, label in zip(masks, logits, labels, strict=True):
            known, truth = (label != UNKNOWN).numpy(), (label == 1).numpy()
            self.before.append(self.count((mask > 0).numpy() & known, truth, known, self.near[0]))
            self.after.append(self.count((logit > 0).numpy() & known, truth, known, self.near[1]))
            shape = (1, 1, *logit.shape)
            loss = cross_entropy(logit.view(shape), (label == 1).float().view(shape), (label != UNKNOWN).view(shape))
            self.losses.append(float(loss))

    def count(self, mask: Mask, truth: Mask, known: Mask, near: BoundaryCounts) -> float:
        """Count the pixels of one mask near the border, and return its IoU."""
        inner = Box.whole(Size(width=mask.shape[1], height=mask.shape[0]))
        add_block([near], truth.astype(np.uint8), labelled=known, inner=inner, right=mask == truth, counted=known)
        return iou(mask, truth)

    @property
    def score(self) -> Score:
        """The scores, from 0 to 1. The boundary accuracy is 0 where no object has a border."""
        before, after = (counts.mba or 0.0 for counts in self.near)
        others = {"iou_before": float(np.mean(self.before)), "mba_before": before, "mba": after}
        return Score(miou=float(np.mean(self.after)), cross_entropy=float(np.mean(self.losses)), others=others)
