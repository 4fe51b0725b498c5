"""Labels that somebody has drawn as polygons, alone or over a raster of labels."""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
import shapely

from magnet_cli.areas.features import read_labelled_areas
from magnet_cli.areas.polygons import Polygons
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.areas.features import LabelledArea
    from magnet_cli.geometry import Size
    from magnet_cli.images import ImageInfo
    from magnet_cli.images.labels import LabelImage


class LabelPolygons:
    """Polygons with labels, rasterised box by box. Where polygons overlap, the later one counts.

    A pixel is inside a polygon where its centre is.

    Args:
        areas: The polygons, in level-0 pixels.
        size: The size of level 0.
    """

    def __init__(self, areas: Sequence[LabelledArea], size: Size) -> None:
        self._labels = [area.label for area in areas]
        self._shapes = [Polygons(area.geometry, size) for area in areas]
        self._bounds = [area.geometry.bounds for area in areas]
        self._tree = shapely.STRtree([area.geometry for area in areas])

    def paint(self, labels: NDArray[np.uint8], box: Box) -> None:
        """Write the labels of polygons into those of a box, `(height, width)`."""
        rectangle = shapely.box(box.x, box.y, box.right, box.bottom)
        for index in sorted(self._tree.query(rectangle).tolist()):
            left, top, right, bottom = self._bounds[index]
            around = Box.between(left=floor(left), top=floor(top), right=ceil(right), bottom=ceil(bottom))
            part = around.intersection(box)
            if part.area:
                inside = self._shapes[index].mask(part, LEVEL0)
                labels[part.shifted(x=-box.x, y=-box.y).slices][inside] = self._labels[index]


class DrawnLabels:
    """The labels of a GeoJSON file, read like those of a raster.

    Args:
        path: The file.
        info: The facts about the image that the polygons lie in.
        names: The names of the classes, by label; None where they are not known.
        below: The labels over which the polygons lie. None has `outside` there.
        outside: The label of pixels in no polygon.
        identity: Returns the identity of the image as a word, or None where it is not known; for files of corrections.

    Raises:
        SourceError: The file cannot be read, belongs to another image, or a polygon has no class that is known.
    """

    def __init__(
        self,
        path: str | Path,
        info: ImageInfo,
        names: Sequence[str] | None,
        *,
        below: LabelImage | DrawnLabels | None = None,
        outside: int = NODATA,
        identity: Callable[[], str | None] | None = None,
    ) -> None:
        self.path = str(path)
        self.size = info.size
        areas, notes = read_labelled_areas(self.path, info, names, identity=identity)
        self.nodata: float | None = None if below is None else below.nodata
        self.notes: tuple[str, ...] = notes if below is None else (*below.notes, *notes)
        self._polygons = LabelPolygons(areas, info.size)
        self._below = below
        self._outside = outside

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box inside the image, `(height, width)`.

        Raises:
            SourceError: The raster below cannot be decoded.
        """
        labels = (
            np.full((box.height, box.width), self._outside, np.uint8)
            if self._below is None
            else np.array(self._below.read(box), np.uint8)
        )
        self._polygons.paint(labels, box)
        return labels
