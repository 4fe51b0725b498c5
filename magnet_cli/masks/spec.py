"""The layout of a mask and of a field as plain values: sizes, classes, tiles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, ClassVar, Literal

from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.images.protocol import Resolution

COMPRESSIONS = ("deflate", "zstd")
"""Compressions of the tiles of a mask. The libvips binaries from PyPI cannot read zstd."""

TIFF_STEP = 16
"""The side of a TIFF tile is a multiple of this."""

SMALLEST_CHUNK = 16
LARGEST_CHUNK = 512

CHUNK_VALUES = 1 << 20
"""Upper bound of the values in one stored chunk of a field, so that memory does not grow with the classes."""


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class GroupId:
    """The unit of retry and of resumption: a group of blocks within a pass."""

    pass_index: int
    index: int


@dataclass(frozen=True, kw_only=True)
class MaskClass:
    """A class as a viewer shows it."""

    name: str
    color: str
    """`#rrggbb`."""

    def __post_init__(self) -> None:
        if re.fullmatch(r"#[0-9a-fA-F]{6}", self.color) is None:
            message = f"a class colour is #rrggbb, got {self.color!r} for {self.name!r}"
            raise ValueError(message)

    @property
    def rgb(self) -> bytes:
        """Red, green and blue, one byte each."""
        return bytes.fromhex(self.color[1:])


@dataclass(frozen=True, kw_only=True)
class Part:
    """The share of one tile in a larger box."""

    row: int
    col: int
    """The tile's place in its grid."""
    box: Box
    """The share, on the grid that the tiles divide."""
    inner: Box
    """The share, counted from the tile's own top-left pixel."""


def parts(box: Box, side: int) -> Iterator[Part]:
    """Yield the shares of all square tiles of `side` pixels that a box touches, row by row."""
    if not box.area:
        return
    for row in range(box.y // side, -(-box.bottom // side)):
        top = max(box.y, row * side)
        height = min(box.bottom, (row + 1) * side) - top
        for col in range(box.x // side, -(-box.right // side)):
            left = max(box.x, col * side)
            width = min(box.right, (col + 1) * side) - left
            yield Part(
                row=row,
                col=col,
                box=Box(x=left, y=top, width=width, height=height),
                inner=Box(x=left - col * side, y=top - row * side, width=width, height=height),
            )


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """A mask before its pixels: everything its file holds besides them."""

    size: Size
    """The size of level 0."""
    classes: tuple[MaskClass, ...]
    """At most 255 classes; the label of a class is its position."""
    tile: int = 512
    """Side of a stored tile, a multiple of 16."""
    compression: str = "deflate"
    resolution: Resolution | None = None
    """Physical size of a level-0 pixel."""
    geo_tags: tuple[tuple[int, int, int, object], ...] = ()
    """TIFF tags (code, dtype, count, value) copied from the image."""
    nodata: ClassVar[int] = NODATA

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= NODATA:
            message = f"a mask has 1 to {NODATA} classes, got {len(self.classes)}"
            raise ValueError(message)
        if self.tile < TIFF_STEP or self.tile % TIFF_STEP or self.tile > 1 << 14:
            message = f"a tile's side is a multiple of {TIFF_STEP} up to 16384, got {self.tile}"
            raise ValueError(message)
        if self.compression not in COMPRESSIONS:
            message = f"compression is one of {', '.join(COMPRESSIONS)}, got {self.compression!r}"
            raise ValueError(message)

    @property
    def tiles(self) -> Size:
        """Columns and rows of tiles."""
        return tiles_of(self.size, self.tile)

    def covers(self, part: Part) -> bool:
        """Return whether a share is all of its tile that lies inside the image."""
        whole = Box(x=part.col * self.tile, y=part.row * self.tile, width=self.tile, height=self.tile)
        # Tiles at the right and lower edge reach beyond the image. They count as whole if all their pixels inside are
        # there.
        return part.box == whole.intersection(Box.whole(self.size))


PROBABILITIES, UNCERTAINTY = "probabilities", "uncertainty"
"""Names of the fields that may stay beside a finished mask."""


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """Probabilities (or another quantity in 0..1) on a canvas grid, kept beside the mask."""

    name: str
    """Letters, digits and dashes: it becomes part of a file name."""
    bands: int
    """Number of values of a pixel: that of the classes, or 1."""
    size: Size
    """The size of the canvas grid."""
    pitch: Pitch
    """Level-0 pixels that one pixel of the grid covers."""
    dtype: str = "float16"
    """`float16`, or `uint8` where 0..254 stand for 0..1 and 255 for not computed."""
    join: Literal["later", "largest"] = "later"
    """Rule for a pixel with values of several groups: the later group's value counts, or the largest."""

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9-]+", self.name) is None:
            message = f"a field's name is letters, digits and dashes, got {self.name!r}"
            raise ValueError(message)
        if self.bands < 1 or self.dtype not in {"float16", "uint8"}:
            message = f"a field has at least one band of float16 or uint8, got {self.bands} of {self.dtype}"
            raise ValueError(message)
        if self.join == "largest" and self.dtype != "uint8":
            message = f"the largest value is known of uint8 fields, got {self.dtype}"
            raise ValueError(message)

    @property
    def side(self) -> int:
        """Side of a stored chunk: a power of two, 512 where the bands allow it."""
        side = LARGEST_CHUNK
        # A chunk holds all bands of its pixels, because a reader wants the probabilities of every class.
        while side > SMALLEST_CHUNK and side * side * self.bands > CHUNK_VALUES:
            side //= 2
        return side

    @property
    def chunks(self) -> Size:
        """Columns and rows of stored chunks."""
        return tiles_of(self.size, self.side)


def tiles_of(size: Size, side: int) -> Size:
    """Return the columns and rows of square tiles that cover a size."""
    return Size(width=ceil(size.width / side), height=ceil(size.height / side))
