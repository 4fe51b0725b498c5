"""Layers over the image on the page: small PNG pictures as data URIs, placed in level-0 pixels."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import imagecodecs
import matplotlib as mpl
import numpy as np

from magnet_cli.images.protocol import NODATA
from magnet_cli.report.maps import NOTHING, STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.report.maps import Map
    from magnet_cli.report.picture import MaskPicture

JPEG_QUALITY = 88
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
"""The colours of the stages, which colour-blind readers can distinguish too (Okabe and Ito); they repeat."""
TINT, VEIL = 0.16, 0.68
"""Opacity of a stage's colour over its computed windows, and of the dark over the others."""
DARK = (16, 16, 20)
NO_DATA = (255, 255, 255, 190)
HEAT = "inferno"
MOST_LINES = 128
"""Most cells along an axis whose borders are drawn. The lines of more cells would merge to grey."""
CLEAR_LINES = 20
"""Most cells along an axis whose borders are opaque. With more cells they become fainter."""


@dataclass(frozen=True, kw_only=True)
class PageLayer:
    """A picture and its size, in level-0 pixels."""

    uri: str
    width: float
    height: float
    lines: str = ""
    """Borders of cells, as an SVG path."""
    lines_opacity: float = 1.0


def photo_layer(picture: MaskPicture) -> PageLayer:
    """Return the image; JPEG, because a photograph as PNG is ten times as large."""
    data = imagecodecs.jpeg8_encode(np.ascontiguousarray(picture.pixels), level=JPEG_QUALITY)
    return _of_picture(picture, _uri(bytes(data), "jpeg"))


def mask_layer(picture: MaskPicture) -> PageLayer:
    """Return the mask's colours; nothing where nothing was computed."""
    # Where nothing was computed the image shows through.
    opaque = np.where(picture.labels == NODATA, np.uint8(0), np.uint8(255))
    return _of_picture(picture, _png(np.dstack([picture.palette[picture.labels], opaque])))


def stage_layer(found: Map, size: Size, *, color: str) -> PageLayer:
    """Return the map of a stage's windows: its colour where computed, dark where left out, white without data."""
    cells = max(size.width / found.cell[0], size.height / found.cell[1])
    opacity = min(1.0, CLEAR_LINES / cells)
    drawn = stage_colours(found, color=color)
    return replace(_of_map(found, _png(drawn)), lines=cell_lines(found.cell, size), lines_opacity=opacity)


def stage_colours(found: Map, *, color: str) -> NDArray[np.uint8]:
    """Return the colours of a stage's windows as `stage_layer` draws them, `(height, width, 4)` with opacity."""
    share = found.values[..., None] / STEPS
    tint = np.frombuffer(bytes.fromhex(color[1:]), np.uint8)
    rgb = share * tint + (1 - share) * np.array(DARK)
    alpha = 255 * (share * TINT + (1 - share) * VEIL)
    drawn: NDArray[np.uint8] = np.rint(np.concatenate([rgb, alpha], axis=2)).astype(np.uint8)
    # The values of such pixels stand for nothing, so their colour comes last and replaces the mixture.
    drawn[found.values == NOTHING] = NO_DATA
    return drawn


def heat_layer(found: Map) -> PageLayer:
    """Return a map in the colours of heat; nothing where nothing was computed."""
    return _of_map(found, _png(heat_colours(found.values)))


def heat_colours(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `(height, width, 4)` for `(height, width)` values as a map stores them; transparent without data."""
    drawn = np.empty((*values.shape, 4), np.uint8)
    drawn[..., :3] = heat()[values]
    drawn[..., 3] = np.where(values == NOTHING, 0, 255)
    return drawn


def heat() -> NDArray[np.uint8]:
    """Return `(256, 3)`: the colour of each stored value."""
    levels = np.minimum(np.arange(256) / STEPS, 1)
    colours: NDArray[np.float64] = np.asarray(mpl.colormaps[HEAT](levels))[:, :3]
    table: NDArray[np.uint8] = np.rint(colours * 255).astype(np.uint8)
    return table


def heat_stops(count: int = 9) -> list[tuple[str, str]]:
    """Return the offset and colour of a few stops between 0 and 1."""
    table = heat()
    values = [round(STEPS * index / (count - 1)) for index in range(count)]
    return [(f"{100 * value / STEPS:.1f}%", f"#{bytes(table[value]).hex()}") for value in values]


def cell_lines(cell: tuple[float, float], size: Size) -> str:
    """Return the borders between cells; none where the cells are too small to be distinguished."""
    columns, rows = size.width / cell[0], size.height / cell[1]
    if max(columns, rows) > MOST_LINES:
        return ""
    down = [f"M{index * cell[0]:.7g} 0V{size.height}" for index in range(int(columns) + 1)]
    across = [f"M0 {index * cell[1]:.7g}H{size.width}" for index in range(int(rows) + 1)]
    return "".join(down + across)


def _of_picture(picture: MaskPicture, uri: str) -> PageLayer:
    height, width = picture.labels.shape
    return PageLayer(uri=uri, width=width * picture.pitch, height=height * picture.pitch)


def _of_map(found: Map, uri: str) -> PageLayer:
    height, width = found.values.shape
    return PageLayer(uri=uri, width=width * found.pixel[0], height=height * found.pixel[1])


def _png(values: NDArray[np.uint8]) -> str:
    return _uri(bytes(imagecodecs.png_encode(np.ascontiguousarray(values))), "png")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
