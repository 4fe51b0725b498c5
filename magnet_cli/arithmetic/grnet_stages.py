"""GRNet (Wu and others, AAAI 2020) on tensors: cells of an image are selected, refined from near, and fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch.nn import functional

from magnet_cli.arithmetic.cells import assembled, chosen_alike, flagged, windows_of
from magnet_cli.geometry import Box, Size, grid_cells

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.arithmetic.cells import Cell


def mean_scores(scores: Tensor, boxes: Tensor, *, size: Size) -> Tensor:
    """Return the mean of a coarse map over boxes of the patch that it was made of.

    A place counts by its share in the box.

    Args:
        scores: `(n, h', w')` float32, one value a place, which tile the patch.
        boxes: `(n, k, 4)` float32: left, top, right and bottom in pixels of the patch, with an area.
        size: The size of the patch.

    Returns:
        `(n, k)` float32.
    """
    left, top, right, bottom = boxes.unbind(dim=2)
    rows = _shares(top, bottom, count=scores.shape[1], length=size.height)
    columns = _shares(left, right, count=scores.shape[2], length=size.width)
    return torch.einsum("nkh,nhw,nkw->nk", rows, scores, columns)


def _shares(start: Tensor, end: Tensor, *, count: int, length: int) -> Tensor:
    """Return how much of `[start, end)`, `(n, k)`, lies in each of `count` equal parts of a length: `(n, k, count)`."""
    edges = torch.arange(count + 1, dtype=torch.float32, device=start.device) * (length / count)
    overlap = torch.minimum(end[..., None], edges[1:]) - torch.maximum(start[..., None], edges[:-1])
    return overlap.clamp_min(0) / (end - start)[..., None]


Variant = Literal["selected", "all", "local-only", "global-only"]
"""The networks of the paper's table 2: GRNet itself, EnhanceNet, LocalNet, GlobalNet."""
Fusion = Literal["literal", "detail"]
Patches = Callable[[Sequence["Cell"]], "Tensor"]
"""Gives cells of the images, one or more, as the refinement branch takes them: `(k, bands, h, w)`, normalised."""

SELECTED = 0.5
"""Probability from which on a cell is selected ("Patch Proposal Network")."""
REACH = 2
"""Pixels that an aggregated one depends on, each way: two 3 x 3 convolutions and a 1 x 1."""


class LocalNetwork(Protocol):
    """A GRNet's refinement branch and aggregation layer."""

    def __call__(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        """Return F^R, `(n, classes, h, w)`, of `(n, bands, h, w)` and `(n, classes, h, w)`.

        Without the latter no saliency is added.
        """

    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        """Map F^E and F^G, `(n, classes, h, w)` each, to fused scores of the same shape."""


class Parts(Protocol):
    """The three networks of a GRNet."""

    @property
    def backbone(self) -> Callable[[Tensor], Tensor]:
        """The global branch: `(n, bands, h, w)`, normalised, to F^G, logits `(n, classes, h, w)`."""

    @property
    def selector(self) -> Callable[[Tensor], Tensor]:
        """The patch proposal network: `(n, bands, h, w)`, normalised, to logits of cells, `(n, side * side)`."""

    @property
    def local(self) -> LocalNetwork:
        """The refinement branch and the aggregation layer, which see the selected cells."""


@dataclass(frozen=True, kw_only=True)
class CellLayout:
    """The cells into which an image is cut, and the size at which scores are fused."""

    side: int
    """Cells a side."""
    patch: Size
    """The size of a cell as the refinement branch sees it."""
    fused: Size
    """The size of the map of scores: that of F^G, or that of `side` x `side` patches."""

    @classmethod
    def of(cls, fusion: Fusion, *, side: int, overview: Size, patch: Size) -> CellLayout:
        """Return the layout: `literal` fuses at the resolution of F^G, as the paper does, `detail` at the cells'."""
        detailed = Size(width=side * patch.width, height=side * patch.height)
        return cls(side=side, patch=patch, fused=overview if fusion == "literal" else detailed)


@dataclass(frozen=True, kw_only=True, eq=False)
class CellScores:
    """The scores of an image after some of its cells were refined."""

    refined: Tensor
    """F^R, `(k, classes, patch.height, patch.width)` logits of the k cells."""
    scores: Tensor
    """`(n, classes, fused.height, fused.width)` logits: aggregated in those cells, F^G elsewhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The result of a GRNet for one or more images."""

    scores: Tensor
    """`(n, classes, fused.height, fused.width)` logits."""
    chosen: tuple[Cell, ...]
    """The cells that were refined."""


def flags_of(logits: Tensor) -> Tensor:
    """Return which cells are selected: p = sigmoid(logit) >= 0.5 ("Patch Proposal Network"); none is ranked.

    Args:
        logits: G - P of each cell, `(n, cells)`; a cell is taken exactly where its score P is not above the image's G.

    Returns:
        The flag map, `(n, cells)` bool.
    """
    return logits.sigmoid() >= SELECTED


def chosen_cells(flags: Tensor) -> tuple[Cell, ...]:
    """Return the cells that flags `(n, cells)` select, image by image in row-major order."""
    return tuple((image, cell) for image, cell in flags.nonzero().tolist())


def selector_labels(
    scores: Tensor, labels: Tensor, *, side: int, ignore: int, minimum: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return a selector's labels: 1 for cells whose mean IoU is below the image's (equation 1, "Training PPN").

    The mean goes over the classes that prediction or label have in the area, pixels without a label left out.

    Args:
        scores: F^G, `(n, classes, h, w)`.
        labels: `(n, h, w)` int64.
        side: Cells a side.
        ignore: The label of pixels without a class.
        minimum: Share of an area that a class must have in prediction and label together, to count there: a few pixels
            of a class that is missed would make a cell as bad as one where half of it is missed. The paper has none.

    Returns:
        Labels `(n, side * side)` float32, and which cells count: those without a labelled pixel do not.
    """
    classes, boxes = scores.shape[1], grid_cells(size_of(labels), side=side)
    # One confusion matrix a cell; the whole image's is their sum, so that both follow from one pass.
    counts = torch.stack(
        [
            confusion(predicted[box.slices], truth[box.slices], classes=classes, ignore=ignore)
            for predicted, truth in zip(scores.argmax(dim=1), labels, strict=True)
            for box in boxes
        ]
    ).reshape(len(labels), len(boxes), classes, classes)
    whole, own = (mean_iou(part, minimum=minimum) for part in (counts.sum(dim=1, keepdim=True), counts))
    return (own < whole).float(), ~own.isnan()


def confusion(predicted: Tensor, truth: Tensor, *, classes: int, ignore: int) -> Tensor:
    """Return the labelled pixels by (truth, prediction), `(classes, classes)` int64."""
    known = truth != ignore
    pairs = truth[known] * classes + predicted[known]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def mean_iou(counts: Tensor, *, minimum: float = 0.0) -> Tensor:
    """Return the mean IoU of counts `(..., truth, prediction)` over the classes that either has, or NaN without any.

    Args:
        counts: The number of labelled pixels.
        minimum: Least share of those pixels that a class must have in truth and prediction together, or it does not
            count.
    """
    both = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(dim=-1) + counts.sum(dim=-2) - both
    counted = union >= minimum * counts.sum(dim=(-2, -1)).unsqueeze(-1)
    # A class that neither prediction nor label has is 0 / 0 and does not count. float64 holds pixel counts of any image
    # exactly.
    return (both.double() / union).where(counted, torch.nan).nanmean(dim=-1)


def magnified(scores: Tensor, chosen: Sequence[Cell], *, side: int, size: Size) -> Tensor:
    """Return the cells of a resized map, bilinear ("Feature Extraction and Refinement": F_i^G at the size of P_i).

    Args:
        scores: `(n, channels, h, w)`.
        chosen: Which cells, one or more.
        side: Cells a side.
        size: The size of each cell afterwards.

    Returns:
        `(k, channels, size.height, size.width)`.
    """
    boxes = grid_cells(size_of(scores), side=side)
    parts: dict[Cell, Tensor] = {}
    for cells in chosen_alike(chosen, lambda cell: boxes[cell].size):
        # Cells are resized by themselves, not out of the enlarged map: the paper cuts first, so nothing leaks in from
        # neighbours.
        near = resized(windows_of(scores, [(image, boxes[cell]) for image, cell in cells]), size)
        parts.update(zip(cells, near.unbind(), strict=True))
    return torch.stack([parts[cell] for cell in chosen])


def pasted(refined: Tensor, chosen: Sequence[Cell], *, side: int, count: int, size: Size) -> Tensor:
    """Return F^E: F^R in the chosen cells, zero elsewhere ("Feature Fusion").

    Args:
        refined: F^R, `(k, channels, h, w)`; each is resized to its cell, bilinear.
        chosen: The cells that the scores belong to.
        side: Cells a side.
        count: The number of images.
        size: The size of the map.

    Returns:
        `(count, channels, size.height, size.width)`.
    """
    boxes = grid_cells(size, side=side)
    mine = dict(zip(chosen, refined.unbind(), strict=True))
    parts: dict[Cell, Tensor] = {}
    for cells in chosen_alike(chosen, lambda cell: boxes[cell].size):
        near = resized(torch.stack([mine[cell] for cell in cells]), boxes[cells[0][1]].size)
        parts.update(zip(cells, near.unbind(), strict=True))
    return assembled(parts, boxes, like=refined, count=count, side=side)


def fused(
    refined: Tensor, scores: Tensor, chosen: Sequence[Cell], *, side: int, aggregate: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the aggregated scores in the chosen cells; F^G, unchanged, in the others ("Feature Fusion").

    Each cell is aggregated with the pixels around it that it depends on, so that what it gets is what aggregating the
    whole map would give, at a cell's price.

    Args:
        refined: F^E, `(n, classes, h, w)`.
        scores: F^G, the same shape.
        chosen: The cells that are taken.
        side: Cells a side.
        aggregate: The aggregation layer.
    """
    size = size_of(scores)
    boxes = grid_cells(size, side=side)
    seen = [box.grown(REACH).intersection(Box.whole(size)) for box in boxes]
    parts: dict[Cell, Tensor] = {}
    for cells in chosen_alike(
        chosen, lambda cell: (seen[cell].size, boxes[cell].shifted(x=-seen[cell].x, y=-seen[cell].y))
    ):
        windows = [(image, seen[cell]) for image, cell in cells]
        near = aggregate(windows_of(refined, windows), windows_of(scores, windows))
        first = cells[0][1]
        inner = boxes[first].shifted(x=-seen[first].x, y=-seen[first].y)
        parts.update(zip(cells, near[..., *inner.slices].unbind(), strict=True))
    if not parts:
        return scores
    closer = assembled(parts, boxes, like=scores, count=len(scores), side=side)
    return torch.where(flagged(chosen, boxes, like=scores), closer, scores)


def refine_cells(
    local: LocalNetwork,
    scores: Tensor,
    patches: Patches,
    chosen: Sequence[Cell],
    layout: CellLayout,
) -> CellScores:
    """Refine and fuse the chosen cells of images ("Feature Extraction and Refinement", "Feature Fusion").

    Args:
        local: Refinement branch and aggregation layer.
        scores: F^G, logits `(n, classes, h, w)`.
        patches: Function that returns the patches of chosen cells, of the layout's size.
        chosen: The cells that are taken.
        layout: How images are cut.
    """
    under = resized(scores, layout.fused)
    if not chosen:
        empty = scores.new_zeros((0, scores.shape[1], layout.patch.height, layout.patch.width))
        return CellScores(refined=empty, scores=under)
    known = magnified(scores, chosen, side=layout.side, size=layout.patch).softmax(dim=1)
    refined = local(patches(chosen), known)
    found = pasted(refined, chosen, side=layout.side, count=len(scores), size=layout.fused)
    return CellScores(refined=refined, scores=fused(found, under, chosen, side=layout.side, aggregate=local.aggregate))


def refine_cells_alone(
    local: LocalNetwork,
    patches: Patches,
    chosen: Sequence[Cell],
    layout: CellLayout,
    *,
    count: int,
) -> CellScores:
    """Return the paper's LocalNet ("Effect of our method"): every cell by itself, no saliency, no fusion."""
    refined = local(patches(chosen), None)
    found = pasted(refined, chosen, side=layout.side, count=count, size=layout.fused)
    return CellScores(refined=refined, scores=found)


def segmented(parts: Parts, overview: Tensor, patches: Patches, *, layout: CellLayout, variant: Variant) -> Outcome:
    """Return the scores of whole images, in one of the paper's variants.

    Args:
        parts: The networks. A variant calls only those that it needs.
        overview: I_g, the images made small, `(n, bands, h, w)`, normalised.
        patches: Function that returns the patches of cells, of the layout's size. It is called once at most.
        layout: How images are cut.
        variant: `selected`: GRNet; `all`: every cell (EnhanceNet); `local-only`: see `refine_cells_alone`;
            `global-only`: F^G alone (GlobalNet).
    """
    count, every = len(overview), all_cells(len(overview), side=layout.side)
    if variant == "local-only":
        closer = refine_cells_alone(parts.local, patches, every, layout, count=count)
        return Outcome(scores=closer.scores, chosen=every)
    chosen: tuple[Cell, ...] = ()
    if variant == "all":
        chosen = every
    elif variant == "selected":
        chosen = chosen_cells(flags_of(parts.selector(overview)))
    closer = refine_cells(parts.local, parts.backbone(overview), patches, chosen, layout)
    return Outcome(scores=closer.scores, chosen=chosen)


def all_cells(count: int, *, side: int) -> tuple[Cell, ...]:
    """Return every cell of as many images."""
    return tuple(product(range(count), range(side * side)))


def cut_out(images: Tensor, chosen: Sequence[Cell], *, side: int) -> Tensor:
    """Return the patches P_i of images whose cells are all of one size, `(k, bands, h, w)`.

    Args:
        images: `(n, bands, side * h, side * w)`.
        chosen: Which cells, one or more.
        side: Cells a side.
    """
    boxes = grid_cells(size_of(images), side=side)
    return torch.stack([images[image, :, *boxes[cell].slices] for image, cell in chosen])


def resized(maps: Tensor, size: Size) -> Tensor:
    """Return `(n, channels, h, w)` at a size, bilinear with pixel centres aligned.

    Maps that have the size already are returned as they are.
    """
    if size_of(maps) == size:
        return maps
    return functional.interpolate(maps, size=(size.height, size.width), mode="bilinear", align_corners=False)


def size_of(maps: Tensor) -> Size:
    """Return the size of the last two axes, rows and columns."""
    return Size(width=maps.shape[-1], height=maps.shape[-2])
