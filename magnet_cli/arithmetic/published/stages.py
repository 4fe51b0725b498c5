"""The published arithmetic of MagNet, with what is broken in it mended: for released weights and golden values.

The whole image is resized for every stage, so this is for images of one block. What differs from the default method,
and what was mended, is in docs/method.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from magnet_cli.arithmetic.published.image_resize import resize_uint8_bilinear
from magnet_cli.arithmetic.published.point_choice import blocky_median, certainty, choose_points, point_count
from magnet_cli.arithmetic.published.stage_settings import (
    ALL_PATCHES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PublishedSettings,
    settings_from_scales,
)
from magnet_cli.arithmetic.published.window_grid import (
    OverlapMean,
    PublishedCutOut,
    place_windows,
    resize_bilinear,
    window_shares,
)
from magnet_cli.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Box, Size

__all__ = [
    "ALL_PATCHES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PublishedNetworks",
    "PublishedSettings",
    "PublishedStage",
    "labels_published",
    "published_stages",
    "segment_published",
    "settings_from_scales",
]

_LABEL_ROWS_AT_ONCE = 64


class PublishedNetworks(Protocol):
    """The two networks; every value they give is a probability."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """Return (n, classes, h, w) float32 probabilities of patches (n, bands, h, w), normalised float32."""
        ...

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """Join the scale's own prediction and the map so far, `(n, classes, h, w)` float32 each."""
        ...


@dataclass(frozen=True, kw_only=True)
class PublishedStage:
    """The result of one stage."""

    size: Size
    """The whole image was resized to this."""
    windows: tuple[Box, ...]
    """The windows that were computed, in that order, in pixels of the stage: most uncertain first."""
    chosen: Tensor
    """(height, width) bool: the pixels that took the refined value; all of them at the first stage."""
    probabilities: Tensor
    """(classes, height, width) float32 at the stage's size; at the first stage, at the network's input size. A stage
    that refines no window hands on what it got."""


def segment_published(
    pixels: NDArray[np.uint8],
    networks: PublishedNetworks,
    *,
    settings: PublishedSettings,
    shifted: bool,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the class probabilities of an image at the finest stage's size.

    Args:
        pixels: (H, W, bands), uint8.
        networks: The networks that give the probabilities; they receive tensors on `device`.
        settings: Sizes, counts and normalisation.
        shifted: Whether cut-outs have the half-pixel shift of the published programs' cut-outs (`published`), or exact
            (`published-unshifted`).
        device: The device that computes everything after the resizing of the image.

    Returns:
        (classes, settings.finest.height, settings.finest.width), float32 on `device`.

    Raises:
        UsageError: If the image's bands are not those of the settings.
        WeightsError: If the networks give values that are not finite.
    """
    stages = published_stages(pixels, networks, settings=settings, shifted=shifted, device=device)
    *_, last = stages
    return resize_bilinear(last.probabilities, height=settings.finest.height, width=settings.finest.width)


def published_stages(
    pixels: NDArray[np.uint8],
    networks: PublishedNetworks,
    *,
    settings: PublishedSettings,
    shifted: bool,
    device: torch.device | str = "cpu",
) -> Iterator[PublishedStage]:
    """Yield each stage as it is done, coarsest first; see `segment_published`."""
    if pixels.shape[2] != len(settings.mean):
        raise UsageError(
            "the image has as many bands as there are means",
            value=f"{pixels.shape[2]} bands, {len(settings.mean)} means",
            advice="Choose the bands with --bands, or use a bundle for this image",
        )
    program = _Program(
        pixels=pixels, networks=networks, settings=settings, shifted=shifted, device=torch.device(device)
    )
    stage = program.first()
    yield stage
    for index in range(1, len(settings.stages)):
        stage = program.next(stage.probabilities, index=index)
        yield stage


@dataclass(frozen=True, kw_only=True)
class _Program:
    pixels: NDArray[np.uint8]
    networks: PublishedNetworks
    settings: PublishedSettings
    shifted: bool
    device: torch.device

    @torch.no_grad()
    def first(self) -> PublishedStage:
        size = self.settings.stages[0]
        windows = place_windows(size, crop=self.settings.crop)
        patches = self._patches(resize_uint8_bilinear(self.pixels, size=size), windows)
        probabilities = self.networks.predict(patches, self.settings.scale_of(0))[0]
        chosen = torch.ones((size.height, size.width), dtype=torch.bool, device=self.device)
        return PublishedStage(size=size, windows=windows, chosen=chosen, probabilities=_finite(probabilities))

    @torch.no_grad()
    def next(self, current: Tensor, *, index: int) -> PublishedStage:
        """Return the stage after the one that gave `current`, (classes, h, w) of any size.

        MagNet-Fast ranks the pixels of the whole stage, keeps as many as the selected windows' share of it allows, and
        then passes over those that lie in no window, without choosing others for them. So does the published program:
        it takes the highest scores of the stage and filters what it took by the map of what the windows cover. Its
        other use of that map, to clear the certainty, is the one that is turned round (D3 in docs/method.md); cleared
        outside the windows, the certainty is 0 there, as it is here because nothing was refined. The median then
        carries scores a few blocks across a window's edge both ways, and where fewer scores are positive than pixels
        are wanted the rest are ties at 0, the lowest indices first: both kinds are passed over.
        """
        count = self.settings.patches_of(index)
        size = self.settings.stages[index]
        if count == 0:
            nothing = torch.zeros((size.height, size.width), dtype=torch.bool, device=self.device)
            return PublishedStage(size=size, windows=(), chosen=nothing, probabilities=current)
        field = resize_bilinear(current, height=size.height, width=size.width)
        uncertainty = 1 - certainty(field)
        windows = place_windows(size, crop=self.settings.crop)
        order = self._most_uncertain_first(uncertainty, windows, size=size)
        kept = order if count == ALL_PATCHES else order[:count]
        joined = self._joined(field, kept, index=index)
        refined = joined.mean()
        scores = blocky_median(certainty(refined) * uncertainty, grid=self.settings.input, k=self.settings.median)
        points = point_count(self.settings.points, stage=size, selected=len(kept), windows=len(windows))
        # This order is the published one: chosen pixels outside the windows are dropped and not replaced.
        chosen = choose_points(scores, count=points) & joined.covered
        probabilities = torch.where(chosen, refined, field)
        return PublishedStage(size=size, windows=kept, chosen=chosen, probabilities=_finite(probabilities))

    def _joined(self, field: Tensor, windows: Sequence[Box], *, index: int) -> OverlapMean:
        size, scale = self.settings.stages[index], self.settings.scale_of(index)
        image = resize_uint8_bilinear(self.pixels, size=size)
        joined = OverlapMean(classes=field.shape[0], size=size, device=self.device)
        for start in range(0, len(windows), self.settings.batch):
            boxes = windows[start : start + self.settings.batch]
            own = self.networks.predict(self._patches(image, boxes), scale)
            below = self._cut_out.many(field, _regions(boxes, size))
            for patch, box in zip(self.networks.refine(own, below, scale), boxes, strict=True):
                joined.add(patch, box)
        return joined

    def _most_uncertain_first(self, uncertainty: Tensor, windows: Sequence[Box], *, size: Size) -> tuple[Box, ...]:
        """Return the windows by falling mean uncertainty, equal ones in their own order."""
        cut_outs = (self._cut_out.one(uncertainty[None], region) for region in _regions(windows, size))
        means = torch.stack([cut_out.mean() for cut_out in cut_outs])
        return tuple(windows[i] for i in means.argsort(descending=True, stable=True).tolist())

    def _patches(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> Tensor:
        """Return normalised windows of the resized image, `(n, bands, h, w)` float32, on the device."""
        crops = [resize_uint8_bilinear(image[box.slices], size=self.settings.input) for box in boxes]
        values = torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (
            torch.tensor(numbers, device=self.device)[:, None, None]
            for numbers in (self.settings.mean, self.settings.std)
        )
        return ((values - mean) / std).contiguous()

    @property
    def _cut_out(self) -> PublishedCutOut:
        return PublishedCutOut(size=self.settings.input, shifted=self.shifted)


def _regions(boxes: Sequence[Box], size: Size) -> NDArray[np.float32]:
    """Return edges `(n, 4)` in pixels, from float32 shares as published: rounding can add samples to a bin."""
    return window_shares(boxes, size=size) * np.array([size.width, size.height] * 2, np.float32)


def _finite(probabilities: Tensor) -> Tensor:
    if not bool(torch.isfinite(probabilities.sum())):
        raise WeightsError(
            "the networks gave values that are not finite numbers",
            advice="Check the weights with 'magnet weights verify', or use --precision float32",
        )
    return probabilities


@torch.no_grad()
def labels_published(probabilities: Tensor, *, size: Size) -> NDArray[np.uint8]:
    """Return the class of largest probability after bilinear resizing to another size, pixel centres aligned.

    The published programs resize the coloured result instead, which invents colours.

    Args:
        probabilities: (classes, h, w), float32; at most 255 classes.
        size: The size of the result, as a rule that of level 0.

    Returns:
        (size.height, size.width), uint8; ties go to the lowest class.
    """
    height = probabilities.shape[1]
    position = (torch.arange(size.height, dtype=torch.float64) + 0.5) * (height / size.height) - 0.5
    position = position.clamp(0, height - 1).to(probabilities.device)
    low = position.long()
    high = (low + 1).clamp(max=height - 1)
    weight = (position - low).to(probabilities.dtype)[:, None]
    labels = np.empty((size.height, size.width), np.uint8)
    # A few rows are computed at a time: probabilities of all classes at level 0 would take several times the stage's
    # memory.
    for start in range(0, size.height, _LABEL_ROWS_AT_ONCE):
        part = slice(start, start + _LABEL_ROWS_AT_ONCE)
        rows = torch.lerp(probabilities[:, low[part]], probabilities[:, high[part]], weight[part])
        rows = resize_bilinear(rows, height=rows.shape[1], width=size.width)
        labels[part] = rows.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return labels
