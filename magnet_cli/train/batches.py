"""Training batches: random windows, turned and recoloured; batch k is a function of the seed and k alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi, sin, sqrt
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy.ndimage import maximum_filter, minimum_filter

from magnet_cli.geometry import Size
from magnet_cli.train.crops import cut_labels, cut_window, draw_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.train.crops import CropWindow
    from magnet_cli.train.scenes import LabelledScene

T = TypeVar("T")

RGB = 3
CANDIDATES = 8
"""Windows among which the one with the most of a class is taken."""
COARSE = Size(width=16, height=16)
"""Size at which a window's labels are sampled to estimate the share of a class."""

LOOK_AHEAD = 4
"""Batches made in advance."""


def hue_matrix(angle: float) -> NDArray[np.float64]:
    """Return the rotation of RGB about the grey axis."""
    axis = np.full(RGB, 1 / sqrt(RGB))
    # Rodrigues' formula for the rotation about a unit vector.
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return cos(angle) * np.eye(RGB) + sin(angle) * cross + (1 - cos(angle)) * np.outer(axis, axis)


def recoloured(pixels: NDArray[np.float32], rng: np.random.Generator, *, strength: float) -> NDArray[np.float32]:
    """Apply random gamma, hue, saturation, contrast, brightness, cast and noise to `(rows, columns, bands)` in 0..1."""
    # Factors are drawn as logarithms, so that doubling is as likely as halving.
    gamma = np.exp(rng.uniform(-0.35, 0.35) * strength)
    pixels = np.power(np.clip(pixels, 0, 1), np.float32(gamma))
    bands = pixels.shape[-1]
    gain = np.exp(rng.uniform(-0.25, 0.25) * strength + rng.uniform(-0.12, 0.12, bands) * strength)
    contrast = np.exp(rng.uniform(-0.35, 0.35) * strength)
    mean = pixels.mean(axis=(0, 1))
    matrix = np.diag(gain * contrast)
    if bands == RGB:
        saturation = np.exp(rng.uniform(-0.6, 0.5) * strength)
        grey = np.full((RGB, RGB), 1 / RGB)
        mix = saturation * np.eye(RGB) + (1 - saturation) * grey
        matrix = hue_matrix(rng.uniform(-0.12, 0.12) * pi * strength) @ mix @ matrix
    # Contrast is changed about the patch's own mean: about black it would change brightness as well.
    offset = matrix @ (mean / contrast - mean)
    pixels = pixels @ matrix.T.astype(np.float32) + offset.astype(np.float32)
    sigma = max(0.0, rng.uniform(-0.02, 0.03)) * strength
    if sigma:
        pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(pixels, 0, 1)


@dataclass(frozen=True, kw_only=True)
class TrainingSample:
    """A window as a network sees it."""

    pixels: NDArray[np.float32]
    """`(rows, columns, bands)`, normalised."""
    labels: NDArray[np.uint8]
    """Labels of the window, `(rows, columns)`."""
    mask: NDArray[np.uint8] | None
    """The scene's own mask there, `(rows, columns)`; None where it has none."""


@dataclass(frozen=True, kw_only=True)
class BatchSampler:
    """Draws batches of windows from scenes."""

    scenes: Sequence[LabelledScene]
    size: Size
    scales: Sequence[Size]
    mean: Sequence[float]
    std: Sequence[float]
    span: tuple[float, float] = (0, 255)
    """Stored values that map to 0 and 1."""
    jitter: float = 1.4
    colour: float = 1.0
    rare: float = 0.0
    """Share of the windows that are drawn for a class; see `DataConfig.rare`."""
    border: int = 0
    """Pixels on either side of a border between two classes whose labels become `ignore`."""
    ignore: int = 255
    batch: int = 8
    seed: int = 0

    def __call__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return batch `index`: patches `(n, bands, h, w)` normalised float32, labels `(n, h, w)` int64."""
        # Each window has a generator of its own, so that a training that goes on from a checkpoint draws what it would
        # have drawn.
        samples = [self.sample(np.random.default_rng((self.seed, index, item))) for item in range(self.batch)]
        patches = np.stack([sample.pixels for sample in samples]).transpose(0, 3, 1, 2)
        labels = np.stack([sample.labels for sample in samples])
        return torch.from_numpy(np.ascontiguousarray(patches)), torch.from_numpy(labels.astype(np.int64))

    def sample(self, rng: np.random.Generator) -> TrainingSample:
        """Return one window, normalised and recoloured, mirrored, and turned by 90 degrees where it is square."""
        scene, window = self.place(rng)
        pixels, labels = cut_window(scene, window, size=self.size)
        if self.border:
            labels = without_borders(labels, width=self.border, ignore=self.ignore)
        # A quarter turn would exchange the sides of a window that is not a square.
        turns = int(rng.integers(4)) if self.size.width == self.size.height else 2 * int(rng.integers(2))
        step = -1 if rng.integers(2) else 1
        pixels, labels = np.rot90(pixels, turns)[:, ::step], np.rot90(labels, turns)[:, ::step]
        mask = None
        if scene.mask is not None:
            mask = np.rot90(cut_labels(scene.mask, window, size=self.size), turns)[:, ::step]
        low, high = self.span
        scaled = (pixels - np.float32(low)) / np.float32(high - low)
        if self.colour:
            scaled = recoloured(scaled, rng, strength=self.colour)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return TrainingSample(pixels=(scaled - mean) / std, labels=labels, mask=mask)

    def place(self, rng: np.random.Generator) -> tuple[LabelledScene, CropWindow]:
        """Return where the next window lies: anywhere, or where there is much of a class."""
        if not self.rare or rng.random() >= self.rare:
            return self._anywhere(rng)
        wanted = int(rng.choice(self._present))
        places = [self._anywhere(rng) for _ in range(CANDIDATES)]
        # A few labels of each window are enough to compare them, and cost much less than its pixels.
        shares = [np.mean(cut_labels(scene.labels, window, size=COARSE) == wanted) for scene, window in places]
        return places[int(np.argmax(shares))]

    def _anywhere(self, rng: np.random.Generator) -> tuple[LabelledScene, CropWindow]:
        # By area nearly all windows would come from the largest scene, and by number small scenes would be drawn too
        # often.
        weight = np.sqrt([scene.size.pixels for scene in self.scenes])
        scene = self.scenes[rng.choice(len(self.scenes), p=weight / weight.sum())]
        return scene, draw_window(scene, rng, scales=self.scales, jitter=self.jitter)

    @cached_property
    def _present(self) -> NDArray[np.intp]:
        """The labels that the scenes have, without the ignored one."""
        counts = np.sum([scene.labels.counts for scene in self.scenes], axis=0)
        return np.flatnonzero((counts > 0) & (np.arange(counts.size) != self.ignore))


def without_borders(labels: NDArray[np.uint8], *, width: int, ignore: int) -> NDArray[np.uint8]:
    """Return labels in which pixels near another class are ignored.

    Args:
        labels: `(rows, columns)`.
        width: Pixels on either side of a border.
        ignore: The label of pixels without a class. A border with such pixels does not count.

    Returns:
        The labels, `(rows, columns)`.
    """
    known = labels != ignore
    side = 2 * width + 1
    # The ignored label must win neither the maximum nor the minimum.
    highest = maximum_filter(np.where(known, labels, 0), size=side, mode="nearest")
    lowest = minimum_filter(np.where(known, labels, 255), size=side, mode="nearest")
    return np.where(highest > lowest, np.uint8(ignore), labels)


def ahead(make: Callable[[int], T], indices: range) -> Iterator[T]:
    """Yield `make(i)` for each index in order, made by a thread a few indices in advance."""
    # NumPy and the decoders release the interpreter's lock, so this thread works while the network computes.
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(make, index) for index in indices[:LOOK_AHEAD]]
        for index in indices:
            result = pending.pop(0).result()
            if index + LOOK_AHEAD in indices:
                pending.append(pool.submit(make, index + LOOK_AHEAD))
            yield result
