"""napari shows masks, probabilities and uncertainty as layers; it finds `read_layers` through `napari.yaml`.

napari is not imported: a reader returns tuples of data, arguments and type. The data are dask arrays, which read the
file when a view needs them; napari brings dask.
"""

from __future__ import annotations

import weakref
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import uuid4

import numpy as np

from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec
from magnet_cli.masks.kept_field import FieldFile
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.masks.our_files import is_field, is_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Resolution

    Layer: TypeAlias = tuple[list[Any], dict[str, Any], str]
    """The levels of a layer as dask arrays, finest first; the arguments of the layer; its type."""

SIDE = 2048
"""Labels are read in pieces of this side in pixels, large enough that dask has few of them for a whole slide."""
OVERVIEW = 1024
"""A field whose longest side has at most this many pixels needs no further level."""


def read_layers(path: object) -> Callable[[str], list[Layer]] | None:
    """Return the function that makes layers of a path; None for a path that this program has not written.

    Args:
        path: A path as text. napari gives a list for a stack of files, which is never a mask.
    """
    if not isinstance(path, str):
        return None
    if is_mask(Path(path)):
        return mask_layers
    return field_layers if is_field(Path(path)) else None


def mask_layers(path: str) -> list[Layer]:
    """Return a mask as one layer of labels, with the names and colours of its classes. The label 255 is transparent.

    Raises:
        SourceError: The mask is damaged.
    """
    reader = _MaskReader(MaskFile.open(Path(path)))
    facts = reader.mask.facts
    levels = [
        _lazy(_LevelRead(reader, index), size=level.size, side=SIDE, dtype=np.uint8)
        for index, level in enumerate(reader.mask.levels)
    ]
    # napari takes 0 for the background, which is transparent, unless it has a colour. None stands for all other values.
    colours: dict[int | None, list[float]] = {NODATA: [0.0] * 4, None: [0.0] * 4}
    colours |= {label: [*(value / 255 for value in each.rgb), 1.0] for label, each in enumerate(facts.classes)}
    arguments = {
        "name": Path(path).stem,
        "multiscale": True,
        "colormap": colours,
        "features": {
            "index": [*range(len(facts.classes)), NODATA],
            "class": [*(each.name for each in facts.classes), "not computed"],
        },
        **_placement(Pitch.square(1), facts.resolution),
    }
    return [(levels, arguments, "labels")]


def field_layers(path: str) -> list[Layer]:
    """Return the probabilities of each class, or the uncertainty, as layers of values in 0..1.

    NaN marks values that were not computed. Only the first layer is visible when napari opens them.

    Raises:
        SourceError: The folder is damaged.
    """
    field = FieldFile.open(Path(path))
    side = min(field.array.chunks[1:])
    stem = Path(path).name.split(".")[0]
    return [
        (
            _reduced(_lazy(_BandRead(field, band), size=field.size, side=side, dtype=np.float32), side=side),
            {
                "name": f"{stem}: {name}",
                "multiscale": True,
                "contrast_limits": (0.0, 1.0),
                "colormap": "viridis",
                "visible": band == 0,
                **_placement(field.pitch, field.resolution),
            },
            "image",
        )
        for band, name in enumerate(field.classes)
    ]


class _MaskReader:
    """Closes an opened mask when no layer refers to it any longer, because napari does not report that."""

    def __init__(self, mask: MaskFile) -> None:
        self.mask = mask
        weakref.finalize(self, mask.close)


class _Read(Protocol):
    def __call__(self, box: Box) -> NDArray[Any]:
        """Return the values of a box, `(height, width)`."""


class _LevelRead:
    """Reads the labels of one level, uint8."""

    def __init__(self, reader: _MaskReader, level: int) -> None:
        self._reader = reader
        self._level = level

    def __call__(self, box: Box) -> NDArray[np.uint8]:
        return self._reader.mask.read(box, level=self._level)


class _BandRead:
    """Reads one band of a field, float32 in 0..1, NaN where nothing was computed."""

    def __init__(self, field: FieldFile, band: int) -> None:
        self._field = field
        self._band = band

    def __call__(self, box: Box) -> NDArray[np.float32]:
        return codec.dequantise(self._field.read(box)[self._band]).astype(np.float32)


def _lazy(read: _Read, *, size: Size, side: int, dtype: type[np.generic]) -> Any:
    """Return a dask array `(height, width)` that reads squares of a side when they are needed."""
    from dask import array as da  # noqa: PLC0415 - only napari calls this, and it brings dask

    def block(block_info: dict[None, dict[str, Any]]) -> NDArray[Any]:
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return read(Box(x=left, y=top, width=right - left, height=bottom - top))

    chunks = tuple(
        (*[side] * (length // side), *[length % side] * (length % side > 0)) for length in (size.height, size.width)
    )
    # Without a name dask would make one from a hash of the opened file.
    return da.map_blocks(block, chunks=chunks, dtype=dtype, meta=np.empty((0, 0), dtype), name=f"magnet-{uuid4().hex}")


def _reduced(finest: Any, *, side: int) -> list[Any]:
    """Return the reduced levels of an array, each by a power of two: a pixel is the mean of the pixels that it covers.

    No level is stored. Each reads the finest one piece by piece, so that memory does not grow with the field.
    """
    levels, step = [finest], 2
    while max(levels[-1].shape) > OVERVIEW and step <= side:
        # A square's side is a multiple of the step, so that no pixel of a level needs two squares.
        chunks = tuple(tuple(ceil(length / step) for length in lengths) for lengths in finest.chunks)
        levels.append(finest.map_blocks(_means, step, chunks=chunks, dtype=np.float32))
        step *= 2
    return levels


def _means(values: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Return the mean of each square of `step` pixels a side that is not NaN; NaN where all are."""
    height, width = (ceil(length / step) for length in values.shape)
    padding = [(0, full * step - length) for full, length in zip((height, width), values.shape, strict=True)]
    squares = np.pad(values, padding, constant_values=np.nan).reshape(height, step, width, step)
    known = np.isfinite(squares)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float32] = np.where(known, squares, 0).sum((1, 3)) / known.sum((1, 3), dtype=np.float32)
    return means


def _placement(pitch: Pitch, resolution: Resolution | None) -> dict[str, Any]:
    """Return where napari puts the centres of an array's pixels, counted from the centre of the first of level 0.

    Args:
        pitch: Level-0 pixels that a pixel of the array covers.
        resolution: The size of a level-0 pixel. Without a resolution, places are in level-0 pixels.
    """
    y, x = (1, 1) if resolution is None else (resolution.y, resolution.x)
    return {
        "scale": (float(pitch.y * y), float(pitch.x * x)),
        "translate": (float((pitch.y - 1) / 2 * y), float((pitch.x - 1) / 2 * x)),
        **({} if resolution is None else {"units": (resolution.unit, resolution.unit)}),
    }
