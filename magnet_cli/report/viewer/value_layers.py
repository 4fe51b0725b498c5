"""Layers of values lie over an image: those that a run has kept beside its mask, and the maps of its report."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.masks.kept_field import FieldFile
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY
from magnet_cli.report.layers import COLOURS, heat_colours, stage_colours
from magnet_cli.report.maps import NOTHING, STEPS, Map
from magnet_cli.report.viewer.zooms import TILE, ZoomGrid, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.geometry import Box, Pitch, Size
    from magnet_cli.masks.spec import FieldSpec
    from magnet_cli.masks.unfinished_mask import UnfinishedMask
    from magnet_cli.report.viewer.shown_mask import ShownMask

SO_FAR = ", so far"
"""End of the names of layers whose mask is still being computed."""
MOST_VALUES = 1 << 26
"""Most stored values that are read for one tile. Larger areas appear at a closer zoom."""


@dataclass(frozen=True, kw_only=True)
class ValueLayer:
    """A value layer is a map of values that the page can draw over the image."""

    name: str
    coarsest: int
    """The coarsest zoom at which the layer can be shown."""
    draw: Callable[[Box, int], NDArray[np.uint8]]
    """The function returns `(height, width, 4)` red, green, blue and opacity of a box of a zoom's pixels."""
    cell: tuple[float, float] | None = None
    """The width and height in level-0 pixels of the part that belongs to a window alone; None without windows."""
    is_heat: bool = False
    """Whether the colours are those of `heat`."""
    is_growing: bool = False
    """Whether the values are those of a mask that is still being computed."""

    def tile(self, grid: ZoomGrid, place: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        """Return a tile of the layer, `(512, 512, 4)`; None where there is no such tile."""
        zoom, column, row = place
        box = grid.tile(zoom, column, row)
        if box is None or zoom > self.coarsest:
            return None
        tile = np.zeros((TILE, TILE, 4), np.uint8)
        tile[: box.height, : box.width] = self.draw(box, zoom)
        return tile


class StoredValues(Protocol):
    """Values that a run keeps beside its mask: finished, or those of the groups that are finished so far."""

    @property
    def bands(self) -> int:
        """The number of values of a pixel."""

    @property
    def size(self) -> Size:
        """The size of the grid of the values."""

    @property
    def pitch(self) -> Pitch:
        """Level-0 pixels that a value covers."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the bands."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the values in a box of the grid, `(bands, height, width)`; v stands for v / 254, 255 for none."""


@dataclass(frozen=True, kw_only=True)
class GrowingValues:
    """The values of an unfinished mask's groups that are finished so far, read from its journal."""

    mask: UnfinishedMask
    field: FieldSpec
    classes: tuple[str, ...]

    @property
    def bands(self) -> int:
        """The number of values of a pixel."""
        return self.field.bands

    @property
    def size(self) -> Size:
        """The size of the grid of the values."""
        return self.field.size

    @property
    def pitch(self) -> Pitch:
        """Level-0 pixels that a value covers."""
        return self.field.pitch

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the values in a box of the grid, `(bands, height, width)`; v stands for v / 254, 255 for none.

        Raises:
            OutputError: The journal is damaged there.
        """
        return self.mask.read_stored_field(self.field.name, box).astype(np.uint8)


class KeptValues:
    """Reads probabilities or uncertainty that a run has kept beside its mask, at the zooms of the page.

    Args:
        field: The values.
        grid: The zooms of the image.
    """

    def __init__(self, field: StoredValues, grid: ZoomGrid) -> None:
        self.classes = field.classes
        self._field = field
        self._pitch = float(field.pitch.x), float(field.pitch.y)
        self.coarsest = 0
        while self.coarsest < grid.coarsest and self._values(self.coarsest + 1) <= MOST_VALUES:
            self.coarsest += 1

    @classmethod
    def beside(cls, mask: Path, name: str, image: images.Image) -> Self | None:
        """Open the values beside a mask; return None where none were kept.

        Raises:
            SourceError: The values are damaged, or belong to another image.
        """
        path = OutputPaths.of(mask).field(name)
        if not path.is_dir():
            return None
        field = FieldFile.open(path)
        if field.level0 != image.info.size or field.image not in (None, images.ImageIdentity.of(image.info)):
            raise SourceError(
                "these values were computed from another image", file=path, advice="Name the image that they belong to"
            )
        return cls(field, ZoomGrid(size=image.info.size))

    def read(self, box: Box, zoom: int) -> NDArray[np.uint8]:
        """Return the value under the centre of each pixel, `(bands, height, width)`.

        A value v stands for v / 254, and 255 for no value.

        Raises:
            SourceError: The values are damaged there.
        """
        across, down = self._pitch
        rows = nearest(box.y, box.height, zoom=zoom, pitch=down, length=self._field.size.height)
        columns = nearest(box.x, box.width, zoom=zoom, pitch=across, length=self._field.size.width)
        read = type(box).between(
            left=int(columns[0]), top=int(rows[0]), right=int(columns[-1]) + 1, bottom=int(rows[-1]) + 1
        )
        values = self._field.read(read)
        return values[:, (rows - read.y)[:, None], (columns - read.x)[None]]

    def _values(self, zoom: int) -> float:
        across, down = self._pitch
        return self._field.bands * (TILE << zoom) ** 2 / (across * down)


def growing_values(mask: UnfinishedMask, name: str, grid: ZoomGrid) -> KeptValues | None:
    """Return the values that an unfinished mask keeps under a name; None where it keeps none."""
    field = mask.kept_field(name)
    if field is None or field.dtype != "uint8":
        return None
    names = tuple(entry.name for entry in mask.spec.classes) if field.bands > 1 else (name,)
    return KeptValues(GrowingValues(mask=mask, field=field, classes=names), grid)


def uncertainty(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return one minus the difference of the two largest probabilities, 254 for 1, 255 without a value.

    Args:
        values: `(classes, height, width)` probabilities in the same form. One band is the uncertainty itself.
    """
    if len(values) == 1:
        only: NDArray[np.uint8] = values[0]
        return only
    known = np.where(values == NOTHING, 0, values)
    second, first = np.partition(known, -2, axis=0)[-2:]
    unsure: NDArray[np.uint8] = np.where((values == NOTHING).all(axis=0), NOTHING, STEPS - (first - second)).astype(
        np.uint8
    )
    return unsure


def kept_layers(kept: KeptValues, *, prefix: str, is_growing: bool = False) -> Iterator[ValueLayer]:
    """Yield the layers of kept values: the uncertainty, and the probability of each class."""
    end = SO_FAR if is_growing else ""

    def layer(name: str, pick: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> ValueLayer:
        def draw(box: Box, zoom: int) -> NDArray[np.uint8]:
            return heat_colours(pick(kept.read(box, zoom)))

        name = f"{prefix}{name}{end}"
        return ValueLayer(name=name, coarsest=kept.coarsest, draw=draw, is_heat=True, is_growing=is_growing)

    yield layer("Uncertainty of each pixel", uncertainty)
    if len(kept.classes) > 1:
        for band, name in enumerate(kept.classes):
            yield layer(f"Probability of {name}", itemgetter(band))


def report_layers(mask: ShownMask, *, prefix: str) -> list[ValueLayer]:
    """Return the maps of a mask's report: the windows of each stage, what stages changed, and the uncertainty."""
    found: list[ValueLayer] = []
    # Reports of refined masks and of other versions have no such maps.
    with suppress(KeyError, TypeError, ValueError, zlib.error):
        maps: dict[str, Any] = (mask.report or {})["maps"]
        for index, section in enumerate(maps["stages"]):
            read = Map.parse(section)
            colours = stage_colours(read, color=COLOURS[index % len(COLOURS)])
            name = f"{prefix}Windows of stage {int(section['stage'])}"
            found.append(_map_layer(name, read, colours, mask.grid))
        for section in maps["changes"]:
            read = Map.parse(section)
            name = f"{prefix}Share of pixels that stage {int(section['stage'])} changed"
            found.append(_map_layer(name, read, heat_colours(read.values), mask.grid, is_heat=True))
        if maps["uncertainty"] is not None:
            read = Map.parse(maps["uncertainty"])
            found.append(
                _map_layer(f"{prefix}Mean uncertainty", read, heat_colours(read.values), mask.grid, is_heat=True)
            )
    return found


def _map_layer(
    name: str, read: Map, colours: NDArray[np.uint8], grid: ZoomGrid, *, is_heat: bool = False
) -> ValueLayer:
    height, width = read.values.shape

    def draw(box: Box, zoom: int) -> NDArray[np.uint8]:
        rows = nearest(box.y, box.height, zoom=zoom, pitch=read.pixel[1], length=height)
        columns = nearest(box.x, box.width, zoom=zoom, pitch=read.pixel[0], length=width)
        return colours[rows[:, None], columns[None]]

    return ValueLayer(
        name=name, coarsest=grid.coarsest, draw=draw, cell=None if is_heat else read.cell, is_heat=is_heat
    )


def open_layers(mask: ShownMask, image: images.Image, *, prefix: str) -> tuple[list[ValueLayer], KeptValues | None]:
    """Return the layers of a mask, and its probabilities where they were kept.

    Args:
        mask: The mask.
        image: The image that it belongs to.
        prefix: Beginning of the layers' names.

    Raises:
        SourceError: What lies beside the mask is damaged, or belongs to another image.
    """
    if not mask.is_own:
        return [], None
    if mask.growing is not None:
        grid = ZoomGrid(size=image.info.size)
        so_far = growing_values(mask.growing.mask, PROBABILITIES, grid)
        found = so_far or growing_values(mask.growing.mask, UNCERTAINTY, grid)
        return ([] if found is None else list(kept_layers(found, prefix=prefix, is_growing=True))), so_far
    probabilities = KeptValues.beside(mask.path, PROBABILITIES, image)
    kept = probabilities or KeptValues.beside(mask.path, UNCERTAINTY, image)
    layers = [] if kept is None else list(kept_layers(kept, prefix=prefix))
    return [*layers, *report_layers(mask, prefix=prefix)], probabilities
