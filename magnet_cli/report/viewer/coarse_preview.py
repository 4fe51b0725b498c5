"""A preview of an unfinished mask: the classes that its coarser passes found, where the last pass has no label yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.report.viewer.zooms import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.masks.unfinished_mask import CoarsePass, FieldChunk, UnfinishedMask

MOST_KEPT = 1 << 26
"""At most this many labels are kept of a pass. Of a larger field every second label is kept along both axes, or every
fourth, and so on."""
COARSEST_STEP = 16
"""The sides of all chunks are multiples of this."""


@dataclass(frozen=True, kw_only=True)
class PreviewLabels:
    """Labels of a preview, and where they come from."""

    labels: NDArray[np.uint8]
    """`(height, width)`; 255 where no pass has any."""
    origins: NDArray[np.uint8]
    """`(height, width)`, the position of the pass in `CoarsePreview.passes`; undefined where there is no label."""


class CoarsePreview:
    """Keeps the most probable class of each value of the coarser passes' fields, in memory of bounded size.

    Blocks of a pass overlap. A run joins them by weights that fall off towards their rims; here each block counts as
    much, which can differ in a few pixels beside borders of blocks.

    Args:
        mask: The mask. Its owner closes it.
    """

    def __init__(self, mask: UnfinishedMask) -> None:
        self.passes: tuple[CoarsePass, ...] = ()
        """The passes of which something is kept, finest first."""
        self._mask = mask
        self._kept: dict[int, tuple[int, NDArray[np.uint8]]] = {}

    def take(self, chunk: FieldChunk) -> Box | None:
        """Keep the labels of a chunk that was added to a field.

        Returns:
            The box of level 0 that may show other labels now; None where the chunk belongs to no coarser pass.

        Raises:
            OutputError: The journal is damaged there.
        """
        step = next((each for each in self._mask.coarse_passes() if chunk.name in each.fields), None)
        if step is None:
            return None
        kept = self._of(step)
        if kept is None:
            return None
        stride, labels = kept
        box = chunk.box.intersection(Box.whole(step.size))
        # Chunks begin at multiples of every stride, so that each value that is kept belongs to one chunk.
        rows, columns = (
            slice(box.y // stride, -(-box.bottom // stride)),
            slice(box.x // stride, -(-box.right // stride)),
        )
        labels[rows, columns] = self._labels(step, box)[::stride, ::stride]
        return step.pitch.level0(box).intersection(Box.whole(self._mask.spec.size))

    def read(self, box: Box, zoom: int) -> PreviewLabels:
        """Return the labels of a box of a zoom's pixels: those of the finest pass that has one."""
        labels = np.full((box.height, box.width), NODATA, np.uint8)
        origins = np.zeros_like(labels)
        for position, step in enumerate(self.passes):
            missing = labels == NODATA
            if not missing.any():
                break
            stride, kept = self._kept[step.number]
            height, width = kept.shape
            rows = nearest(box.y, box.height, zoom=zoom, pitch=float(step.pitch.y * stride), length=height)
            columns = nearest(box.x, box.width, zoom=zoom, pitch=float(step.pitch.x * stride), length=width)
            labels[missing] = kept[rows[:, None], columns[None]][missing]
            origins[missing] = position
        return PreviewLabels(labels=labels, origins=origins)

    def _of(self, step: CoarsePass) -> tuple[int, NDArray[np.uint8]] | None:
        """Return the stride and the kept labels of a pass; None where even the widest stride keeps too many."""
        if step.number not in self._kept:
            stride = 1
            while -(-step.size.height // stride) * -(-step.size.width // stride) > MOST_KEPT:
                stride *= 2
            if stride > COARSEST_STEP:
                return None
            shape = (-(-step.size.height // stride), -(-step.size.width // stride))
            self._kept[step.number] = stride, np.full(shape, NODATA, np.uint8)
            # Another thread may be reading the passes, so that the tuple is replaced and never changed.
            self.passes = tuple(sorted((*self.passes, step), key=lambda each: -each.number))
        return self._kept[step.number]

    def _labels(self, step: CoarsePass, box: Box) -> NDArray[np.uint8]:
        """Return the most probable class of each value in a box of a pass's grid, 255 where no block has any."""
        classes = len(self._mask.spec.classes)
        total = np.zeros((classes, box.height, box.width), np.float32)
        for name in step.fields:
            # A pass may keep another band behind its probabilities.
            values = self._mask.read_field(name, box)[:classes]
            total += np.where(np.isnan(values), np.float32(0), values)
        labels: NDArray[np.uint8] = total.argmax(axis=0).astype(np.uint8)
        labels[total.max(axis=0) <= 0] = NODATA
        return labels
