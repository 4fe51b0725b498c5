"""Masks of parts of scenes as the program makes them, with their probabilities, made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile
import torch
import zarr
from torch.nn import functional

from benchmarks.accuracy.scenes import write_labels
from magnet_cli import SegmentOptions, segment

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.accuracy.parts import Part
    from magnet_cli.options.segment import Method

KINDS: dict[str, Method] = {"bilinear": "downsample", "bicubic": "downsample", "patch": "patch", "magnet": "magnet"}
"""The kinds of masks, and the methods that make them; the first two are one result, enlarged in two ways."""
STEPS = 254
"""A stored probability v stands for v / STEPS."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A mask of one kind."""

    part: Part
    kind: str

    @property
    def mask(self) -> Path:
        """Class indices."""
        return self.part.folder / "masks" / f"{self.kind}.tif"

    @property
    def segmented(self) -> Path:
        """What the program writes; its probabilities lie beside it."""
        return self.part.folder / "masks" / f"segment-{KINDS[self.kind]}.tif"

    @property
    def evidence(self) -> Path:
        """The probabilities that the program has kept with it."""
        return self.segmented.with_suffix(".probabilities.zarr")

    def named(self) -> Path:
        """The mask with the names of its classes, as the program writes them."""
        path = self.mask.with_name(f"{self.kind}-named.tif")
        if not path.exists():
            write_labels(path, self.labels(), classes=self.part.classes)
        return path

    def prepare(self) -> None:
        """Make it, unless it has been made."""
        if self.mask.exists():
            return
        options = SegmentOptions(
            weights=self.part.weights, scales=self.part.scales, method=KINDS[self.kind], probabilities=True
        )
        result = segment([self.part.image], self.segmented, options)[0]
        if result.error is not None:
            raise result.error
        bicubic = self.kind == "bicubic"
        write_labels(self.mask, most_probable(self.probs()) if bicubic else tifffile.imread(self.segmented))

    def labels(self) -> NDArray[np.uint8]:
        """`(rows, columns)`."""
        labels: NDArray[np.uint8] = tifffile.imread(self.mask)
        return labels

    def probs(self) -> NDArray[np.float32]:
        """`(classes, rows, columns)`, summing to 1."""
        stored = zarr.open_array(self.evidence, mode="r")
        values = np.asarray(stored[:]).astype(np.float32) / np.float32(STEPS)
        mode: Literal["bicubic", "bilinear"] = "bicubic" if self.kind == "bicubic" else "bilinear"
        grid: Any = stored.attrs["pitch"]
        return enlarged(values, pitch=int(grid["x"]), side=self.part.side, mode=mode)


def enlarged(
    values: NDArray[np.float32], *, pitch: int, side: int, mode: Literal["bicubic", "bilinear"]
) -> NDArray[np.float32]:
    """Probabilities of a grid at full size, pixel centres aligned: `(classes, side, side)`, summing to 1."""
    grid = torch.from_numpy(values)[None]
    larger = grid if pitch == 1 else functional.interpolate(grid, scale_factor=pitch, mode=mode, align_corners=False)
    found = larger[0, :, :side, :side].clamp(0, 1)
    whole: NDArray[np.float32] = (found / found.sum(dim=0, keepdim=True)).numpy()
    return whole


def most_probable(probs: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The class of each pixel."""
    labels: NDArray[np.uint8] = probs.argmax(axis=0).astype(np.uint8)
    return labels
