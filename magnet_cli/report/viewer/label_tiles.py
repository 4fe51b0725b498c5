"""Tiles of labels in colours: filled, as outlines or with patterns, and two masks compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.report.viewer.zooms import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.report.viewer.shown_mask import ShownMask

LabelForm = Literal["fill", "outline", "pattern"]
FORMS: tuple[LabelForm, ...] = get_args(LabelForm)
LINE = 2
"""An outline has this width on each side of a border, in pixels of the tile."""
PERIOD = 16
"""The patterns repeat after this number of pixels, which divides the side of a tile, so that tiles fit together."""
DARKER = 0.45
"""The lines of a pattern have the class's colour times this factor; lines on dark colours are brightened instead."""
BRIGHT = 110
"""Least mean of a colour's channels for which the lines of its pattern are darker than the colour."""
STRIPE = 8
"""The stripes of a preview repeat after this number of pixels, which divides the side of a tile."""
FAINT = 60
"""Opacity of a preview between its stripes, of 255."""
OUTCOMES = (("right", "#0072B2"), ("wrong", "#D55E00"), ("missing", "#F0E442"))
"""A comparison has these outcomes, in colours that colour-blind readers can distinguish too (Okabe and Ito)."""
RIGHT, WRONG, MISSING, NEITHER = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class LabelStyle:
    """The style in which labels are drawn has a form and hidden labels."""

    form: LabelForm = "fill"
    hidden: frozenset[int] = frozenset()
    """These labels are not drawn."""
    has_preview: bool = False
    """Whether what coarser passes have found is drawn in stripes where a mask has no label yet."""


def label_tile(mask: ShownMask, place: tuple[int, int, int], style: LabelStyle) -> NDArray[np.uint8] | None:
    """Return a tile of a mask, `(512, 512, 4)` red, green, blue and opacity; None where there is no such tile.

    Args:
        mask: The mask.
        place: The zoom, column and row of the tile.
        style: The form in which labels are drawn, and the hidden labels.

    Raises:
        SourceError: The mask is damaged there.
    """
    found = _around(mask, place)
    if found is None:
        return None
    labels, box, around = found
    shown = np.array([label not in style.hidden and label != NODATA for label in range(256)])
    if mask.growing is None or not style.has_preview:
        return _drawn(labels, mask.palette, shown, style.form, (box, around))
    found_so_far = mask.growing.preview.read(around, place[0]).labels
    labels = np.where(labels == NODATA, found_so_far, labels)
    tile = _drawn(labels, mask.palette, shown, style.form, (box, around))
    is_preview = found[0][box.shifted(x=-around.x, y=-around.y).slices] == NODATA
    between = is_preview & ~stripes(box)
    opacity = tile[: box.height, : box.width, 3]
    opacity[between] = np.minimum(opacity[between], FAINT)
    return tile


def stripes(box: Box) -> NDArray[np.bool_]:
    """Return where the stripes of a preview are, `(height, width)`.

    Args:
        box: The box of the tile, in pixels of its zoom.
    """
    rows, columns = np.arange(box.y, box.bottom)[:, None], np.arange(box.x, box.right)[None]
    found: NDArray[np.bool_] = (rows + columns) % STRIPE < STRIPE // 2
    return found


def comparison_tile(
    mask: ShownMask, truth: ShownMask, place: tuple[int, int, int], style: LabelStyle
) -> NDArray[np.uint8] | None:
    """Return a tile that shows where a mask is right, wrong or missing, as `label_tile` does.

    Of the classes that are not hidden: a pixel is right where both have the same class; wrong where the mask has such a
    class and the truth another; and missing where the truth has such a class and the mask has none of them. Pixels
    without a label in the truth are not compared, nor those without one in a mask that is still being computed.
    """
    mine, its = _around(mask, place), _around(truth, place)
    if mine is None or its is None:
        return None
    labels, box, around = mine
    true = its[0] if mask.growing is None else np.where(labels == NODATA, np.uint8(NODATA), its[0])
    shown = np.array([label not in style.hidden and label != NODATA for label in range(256)])
    palette = np.zeros((256, 3), np.uint8)
    for index, (_, color) in enumerate(OUTCOMES):
        palette[index] = np.frombuffer(bytes.fromhex(color[1:]), np.uint8)
    drawn = np.arange(256) < NEITHER
    return _drawn(compared(labels, true, shown), palette, drawn, style.form, (box, around))


def compared(mask: NDArray[np.uint8], truth: NDArray[np.uint8], shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the outcome of each pixel: the position in `OUTCOMES`, or 3 for none.

    Args:
        mask: `(height, width)` labels.
        truth: `(height, width)` labels.
        shown: `(256,)`, True for labels that are compared.
    """
    out = np.full(mask.shape, NEITHER, np.uint8)
    known = truth != NODATA
    out[known & shown[mask] & (mask == truth)] = RIGHT
    out[known & shown[mask] & (mask != truth)] = WRONG
    out[known & shown[truth] & ~shown[mask]] = MISSING
    return out


def _around(mask: ShownMask, place: tuple[int, int, int]) -> tuple[NDArray[np.uint8], Box, Box] | None:
    """Return the labels of a tile with a rim, the box of the tile, and the box with the rim."""
    zoom, column, row = place
    box = mask.grid.tile(zoom, column, row)
    if box is None or zoom > mask.coarsest:
        return None
    # With the rim, an outline that crosses the border of two tiles continues.
    around = box.grown(LINE).intersection(Box.whole(mask.grid.cover(zoom)))
    return mask.read(around, zoom), box, around


def _drawn(
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8],
    shown: NDArray[np.bool_],
    form: LabelForm,
    boxes: tuple[Box, Box],
) -> NDArray[np.uint8]:
    box, around = boxes
    inner = box.shifted(x=-around.x, y=-around.y).slices
    own = labels[inner]
    visible = shown[own]
    colours = palette[own]
    if form == "outline":
        visible = visible & borders(labels)[inner]
    elif form == "pattern":
        lines = patterns(own, box)
        bright = palette.mean(axis=1) >= BRIGHT
        other = np.where(bright[:, None], palette * DARKER, 255 - (255 - palette.astype(float)) * DARKER)
        colours = np.where(lines[..., None], np.rint(other).astype(np.uint8)[own], colours)
    tile = np.zeros((TILE, TILE, 4), np.uint8)
    tile[: box.height, : box.width, :3] = np.where(visible[..., None], colours, np.uint8(0))
    tile[: box.height, : box.width, 3] = np.where(visible, np.uint8(255), np.uint8(0))
    return tile


def borders(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return `(height, width)`, True within `LINE` pixels, along rows and columns, of a pixel of another label."""
    found = np.zeros(labels.shape, np.bool_)
    for step in range(1, LINE + 1):
        across = labels[:, step:] != labels[:, :-step]
        down = labels[step:] != labels[:-step]
        found[:, step:] |= across
        found[:, :-step] |= across
        found[step:] |= down
        found[:-step] |= down
    return found


def patterns(labels: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """Return where the lines of the classes' patterns are, `(height, width)`.

    Eight patterns repeat by the label: plain, diagonal, other diagonal, horizontal, vertical, dots, grid, squares.

    Args:
        labels: `(height, width)` labels of the box.
        box: The box in pixels of a zoom. Patterns start at the image's corner.
    """
    half, thin = PERIOD // 2, PERIOD // 4
    y = (np.arange(box.y, box.bottom) % PERIOD)[:, None]
    x = (np.arange(box.x, box.right) % PERIOD)[None]
    flat = np.zeros((box.height, box.width), np.bool_)
    drawn = (
        flat,
        (x + y) % PERIOD < thin,
        (x - y) % PERIOD < thin,
        flat | (y < thin),
        flat | (x < thin),
        (x % half < thin) & (y % half < thin),
        (x < thin) | (y < thin),
        (x < half) ^ (y < half),
    )
    return np.choose(labels % len(drawn), drawn).astype(np.bool_)
