"""The exhibit is what one page shows: an image, its masks, and the facts about them."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.images.urls import is_url, url_name
from magnet_cli.report.layers import heat_stops
from magnet_cli.report.maps import NOTHING, STEPS
from magnet_cli.report.viewer.label_tiles import FORMS, OUTCOMES, LabelStyle, comparison_tile, label_tile
from magnet_cli.report.viewer.mask_corrections import MaskCorrections
from magnet_cli.report.viewer.pixel_tiles import EncodedTile, PixelTiles, choose_colours, png_tile
from magnet_cli.report.viewer.shown_mask import ShownMask, open_mask
from magnet_cli.report.viewer.value_layers import KeptValues, ValueLayer, open_layers
from magnet_cli.report.viewer.zooms import TILE, ZoomGrid
from magnet_cli.system.byte_cache import ByteCache
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.masks.spec import MaskClass

CACHE_BYTES = 128 << 20
"""The cache holds at most this many bytes of encoded tiles."""
REFRESH_SECONDS = 0.5
"""What was added to unfinished masks is read for this time before a request is answered. The next one reads on."""

TilePlace = tuple[int, int, int]
"""The place of a tile is its zoom, column and row."""


@dataclass(frozen=True, kw_only=True)
class NamedRegion:
    """An area that the page lists by name."""

    name: str
    rings: tuple[tuple[tuple[float, float], ...], ...]
    """The rings of the area, holes among them, each a sequence of corners x, y in level-0 pixels."""


class Exhibit(Closing):
    """An opened image with its masks. Its methods are safe to call from several threads at once.

    Args:
        image: The image; closed together with this object.
        masks: Masks of the image, in the order in which they are offered; closed together with this object.
        name: The name of the image on the page.
        regions: Areas that the page lists by name.

    Raises:
        SourceError: What was kept beside a mask is damaged, or belongs to another image.
    """

    def __init__(
        self,
        image: images.Image,
        masks: Sequence[ShownMask],
        *,
        name: str,
        regions: Sequence[NamedRegion] = (),
    ) -> None:
        self.masks = list(masks)
        self.name = name
        self.info = image.info
        self.grid = ZoomGrid(size=image.info.size)
        self.revision = 0
        """The revision is raised when an unfinished mask was replaced by its finished file."""
        report = next((mask.report for mask in self.masks if mask.report is not None), None)
        self.regions = tuple(regions)
        self.layers: list[ValueLayer] = []
        self._owners: list[int] = []
        self._outdated: set[int] = set()
        self._probabilities: list[KeptValues | None] = []
        names = [mask.path.name for mask in self.masks]
        self.corrections = [
            MaskCorrections(mask.path, image.info, mask.classes) if mask.has_names else None for mask in self.masks
        ]
        """The corrections of each mask. None where its classes have no names, by which a file could name them."""
        self._names = [
            name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)
        ]
        self._image = image
        self._cache: ByteCache[EncodedTile] = ByteCache(CACHE_BYTES, size=lambda tile: len(tile.data))
        self._replaced: list[ShownMask] = []
        self._replacing = threading.Lock()
        for number in range(len(self.masks)):
            layers, kept = self._values_of(number)
            self.layers += layers
            self._owners += [number] * len(layers)
            self._probabilities.append(kept)
        self._pixels = PixelTiles(image, choose_colours(image, report))

    def image_tile(self, place: TilePlace) -> EncodedTile | None:
        """Return a tile of the image; None where there is none."""
        return self._kept(("image", place), lambda: self._pixels.encoded(*place))

    def mask_tile(
        self, number: int, place: TilePlace, style: LabelStyle, *, truth: int | None = None
    ) -> EncodedTile | None:
        """Return a tile of a mask, or of its comparison with another one; None where there is none.

        Args:
            number: The position of the mask among the masks of the exhibit.
            place: The zoom, column and row of the tile.
            style: Style in which labels are drawn.
            truth: Position of the mask to compare with; None shows the mask itself.
        """
        if not (0 <= number < len(self.masks) and (truth is None or 0 <= truth < len(self.masks))):
            return None

        def draw() -> EncodedTile | None:
            mask = self.masks[number]
            pixels = (
                label_tile(mask, place, style)
                if truth is None
                else comparison_tile(mask, self.masks[truth], place, style)
            )
            return None if pixels is None else png_tile(pixels)

        involved = [self.masks[number], *([] if truth is None else [self.masks[truth]])]
        if any(mask.growing for mask in involved):
            return draw()
        return self._kept(("mask", number, truth, place, style), draw)

    def is_growing(self, number: int) -> bool:
        """Return whether there is a mask at this position among the masks, and it is still being computed."""
        return 0 <= number < len(self.masks) and self.masks[number].growing is not None

    def layer_tile(self, number: int, place: TilePlace) -> EncodedTile | None:
        """Return a tile of a layer of values; None where there is none."""
        if not 0 <= number < len(self.layers):
            return None

        def draw() -> EncodedTile | None:
            pixels = self.layers[number].tile(self.grid, place)
            return None if pixels is None else png_tile(pixels)

        return draw() if self.is_growing_layer(number) else self._kept(("layer", number, place), draw)

    def is_growing_layer(self, number: int) -> bool:
        """Return whether there is a layer of this number, and its values are those of an unfinished mask."""
        return 0 <= number < len(self.layers) and self.layers[number].is_growing

    def at(self, x: int, y: int) -> dict[str, object] | None:
        """Return the labels and values of a level-0 pixel, as JSON values; None outside the image."""
        if not (0 <= x < self.info.size.width and 0 <= y < self.info.size.height):
            return None
        place = Box(x=x, y=y, width=1, height=1)
        return {
            "labels": [mask.label(x, y) for mask in self.masks],
            "previews": [mask.preview(x, y) for mask in self.masks],
            "probabilities": [None if kept is None else _shares(kept.read(place, 0)) for kept in self._probabilities],
        }

    def changes(self, since: Sequence[int]) -> dict[str, object]:
        """Read what was added to unfinished masks, and return what has changed as JSON values.

        Args:
            since: The version of each mask that the page shows. Squares that have changed later are listed.
        """
        versions = [*since, *([0] * len(self.masks))]
        with self._replacing:
            found = {number: self._refreshed(number, versions[number]) for number in range(len(self.masks))}
        growing = {str(number): facts for number, facts in found.items() if facts is not None}
        return {"revision": self.revision, "masks": growing}

    def _refreshed(self, number: int, since: int) -> dict[str, object] | None:
        """Return what has changed of an unfinished mask; None where it is finished."""
        mask = self.masks[number]
        if mask.growing is None:
            return None
        problem, is_whole = None, False
        try:
            # The mask gets its name before its journal goes, so that one of them is there at any time.
            if mask.path.is_file():
                self._replace(number)
                return None
            is_whole = mask.growing.refresh(REFRESH_SECONDS)
        except SourceError as error:
            problem = f"{error}."
        progress, damage = mask.growing.progress()
        return {
            "version": mask.growing.version,
            "whole": is_whole,
            "finished": progress.finished,
            "groups": progress.groups,
            "ended": progress.is_ended,
            "running": progress.is_running,
            "age": max(0.0, time.time() - progress.changed_at),
            "problem": problem or damage,
            "changed": mask.growing.changed(since),
            "previews": [step.scale for step in mask.growing.preview.passes],
        }

    def _replace(self, number: int) -> None:
        """Show the finished file of a mask in place of the unfinished one."""
        old = self.masks[number]
        new = open_mask(old.path, self._image)
        # Requests that have begun still read the old one, so it is closed with the exhibit.
        self._replaced.append(old)
        self.masks[number] = new
        layers, self._probabilities[number] = self._values_of(number)
        # Layers keep their numbers, because the browser keeps tiles by them. Those of the unfinished mask are offered
        # no longer.
        self._outdated |= {each for each, owner in enumerate(self._owners) if owner == number}
        self._owners += [number] * len(layers)
        self.layers += layers
        self.revision += 1

    def _values_of(self, number: int) -> tuple[list[ValueLayer], KeptValues | None]:
        several = sum(mask.is_own for mask in self.masks) > 1
        return open_layers(self.masks[number], self._image, prefix=f"{self._names[number]}: " if several else "")

    def describe(self) -> dict[str, object]:
        """Return the facts that the page needs, as JSON values."""
        size, padded, resolution = self.info.size, self.grid.padded, self.info.resolution
        place = Geotransform.of({code: value for code, _, _, value in self.info.geo_tags})
        return {
            "name": self.name,
            "revision": self.revision,
            "size": {"width": size.width, "height": size.height},
            "padded": {"width": padded.width, "height": padded.height},
            "tile": TILE,
            "coarsest": self.grid.coarsest,
            "resolution": None
            if resolution is None
            else {"x": float(resolution.x), "y": float(resolution.y), "unit": resolution.unit},
            "crs": None if self.info.crs is None else images.system_label(self.info.crs),
            "geotransform": None if place is None else {"matrix": place.matrix, "origin": place.origin},
            "forms": list(FORMS),
            "outcomes": [{"name": name, "color": color} for name, color in OUTCOMES],
            "layers": [
                {
                    "name": layer.name,
                    "coarsest": layer.coarsest,
                    "cell": layer.cell,
                    "heat": layer.is_heat,
                    "growing": owner if layer.is_growing else None,
                    "outdated": number in self._outdated,
                }
                for number, (layer, owner) in enumerate(zip(self.layers, self._owners, strict=True))
            ],
            "heat": [color for _, color in heat_stops()] if any(layer.is_heat for layer in self.layers) else [],
            "regions": [{"name": region.name, "rings": region.rings} for region in self.regions],
            "masks": [
                {
                    "name": shown,
                    "coarsest": mask.coarsest,
                    "own": mask.is_own,
                    "corrections": None if drawn is None else drawn.path.name,
                    "version": None if mask.growing is None else mask.growing.version,
                    "classes": [{"name": entry.name, "color": entry.color} for entry in mask.classes],
                }
                for mask, shown, drawn in zip(self.masks, self._names, self.corrections, strict=True)
            ],
        }

    def close(self) -> None:
        """Close the image and its masks."""
        with ExitStack() as stack:
            stack.callback(self._image.close)
            for mask in (*self.masks, *self._replaced):
                stack.callback(mask.close)

    def _kept(self, key: Hashable, draw: Callable[[], EncodedTile | None]) -> EncodedTile | None:
        found = self._cache.get(key, lambda: draw() or NO_TILE)
        return None if found is NO_TILE else found


def _shares(values: NDArray[np.uint8]) -> list[float] | None:
    """Return the probability of each class, 0 to 1; None where none was computed."""
    stored = values[:, 0, 0]
    return None if (stored == NOTHING).any() else [float(value) / STEPS for value in stored]


NO_TILE = EncodedTile(data=b"", media="")
"""This tile stands in the cache for a tile that does not exist."""


def open_exhibit(
    image: str,
    masks: Sequence[Path],
    *,
    series: str | None = None,
    find_regions: Callable[[images.ImageInfo], Sequence[NamedRegion]] | None = None,
) -> Exhibit:
    """Open an image and its masks for the page.

    Args:
        image: Path or URL of the image.
        masks: Masks of this program, or rasters of class indices with the image's size.
        series: Number or name of the image, where the file holds several; None is the largest.
        find_regions: Returns areas of the image that the page lists by name, from the facts about the image.

    Raises:
        SourceError: A file cannot be read, or a mask belongs to another image.
    """
    with ExitStack() as stack:
        cache = images.CacheBudget.temporary()
        opened = stack.enter_context(images.open_image(image, cache=cache, series=series))
        shown: list[ShownMask] = []
        # Masks of this program name their classes. Those names and colours serve rasters that have none.
        for path in masks:
            shown.append(stack.enter_context(open_mask(path, opened, classes=_first_classes(shown))))
        regions = () if find_regions is None else find_regions(opened.info)
        exhibit = Exhibit(opened, shown, name=url_name(image) if is_url(image) else Path(image).name, regions=regions)
        stack.pop_all()
        return exhibit


def _first_classes(shown: Sequence[ShownMask]) -> tuple[MaskClass, ...]:
    return next((mask.classes for mask in shown if mask.is_own), ())
