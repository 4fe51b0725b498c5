"""The files of a scene, and their places in it."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.evaluation.stored_values import classes_of_values
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images.labels import open_labels, open_region
from magnet_cli.images.protocol import NODATA, Request
from magnet_cli.options.regions import is_geojson
from magnet_cli.plan.bands import positions_by_name
from magnet_cli.system.closing import Closing
from magnet_cli.train.stores import filled_where
from magnet_cli.train.streams import chunks, spooled_levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images import CacheBudget, Image, ImageInfo

    Pixels = NDArray[np.uint8]
    Reader = Callable[[Box], NDArray[np.generic]]

RGB = 3
"""Number of bands that are read of an image, where no names of bands are known: the first ones."""
ONE_OF_A_NAME = "Copy the bands that you mean into a picture of their own, as gdal_translate -b 3 -b 2 -b 1 does"
"""What the user of a training can do where a picture has several bands of one name."""
WIDEST = 4
"""About the bytes that a pixel takes while labels, region and validity are read together."""


@dataclass(frozen=True, kw_only=True)
class ScenePart:
    """One picture with its label map, as a piece of a scene."""

    image: Path
    label: Path
    """A raster of class indices, or a GeoJSON file of polygons with classes, outside of which nothing is learnt."""
    info: ImageInfo
    """The info of the picture."""
    box: Box
    """The part's box in the scene."""
    positions: tuple[int, ...]
    """Positions of the bands that are read, in the order of the bundle's."""
    corrections: Path | None = None
    """A GeoJSON file of polygons whose classes count in place of those of the label map."""

    @property
    def bands(self) -> tuple[int, ...] | None:
        """The positions of the bands that are read, or None for all bands as they are stored."""
        return None if self.positions == tuple(range(len(self.info.bands))) else self.positions

    def open_labels(
        self, stack: ExitStack, *, names: Sequence[str] | None, values: Mapping[int, int], ignore: int
    ) -> Reader:
        """Return a function that reads the labels of a box of the part.

        Args:
            stack: Closes the files.
            names: The names of the classes, by label; None where they are not known.
            values: Classes that stored values mean, where they differ.
            ignore: The label of pixels without a class.

        Raises:
            SourceError: A file cannot be read, or a polygon has no class that is known.
        """
        raster = None
        if not is_geojson(self.label.name):
            own = classes_of_values(self.label, values, names=names)
            raster = stack.enter_context(open_labels(self.label, values=own))
        if raster is not None and self.corrections is None:
            return raster.read
        from magnet_cli.areas.drawn_labels import DrawnLabels  # noqa: PLC0415 - shapely is needed with polygons alone

        drawn = DrawnLabels(self.label, self.info, names, outside=ignore) if raster is None else raster
        return (
            drawn if self.corrections is None else DrawnLabels(self.corrections, self.info, names, below=drawn)
        ).read


@dataclass(frozen=True, kw_only=True)
class SceneLayout:
    """The files of a scene, their headers read and found to fit."""

    name: str
    parts: tuple[ScenePart, ...]
    size: Size
    roi: Path | None = None
    """A raster of the scene's size; nothing is learnt where its first band is zero."""
    mask: Path | None = None
    """Class indices of the scene's size that something else found in it."""
    names: tuple[str, ...] | None = None
    """The names of the classes, by label, for polygons that name theirs. None where they are not known."""
    notes: tuple[str, ...] = ()
    """Messages that a user should read about the files of polygons."""
    filling: tuple[int, ...] | None = None
    """Value that each band gets where there are no data; None for 0."""

    @property
    def bands(self) -> int:
        """The number of bands that are trained on."""
        return len(self.parts[0].positions)

    @property
    def masked(self) -> bool:
        """Whether pixels may hold no data."""
        return any(part.info.has_mask for part in self.parts)

    @property
    def maps(self) -> int:
        """Rasters of one byte a pixel beside the picture: labels, and the mask where there is one."""
        return 1 if self.mask is None else 2

    @property
    def whole(self) -> ScenePart | None:
        """The one part, where it can be read by region."""
        first = self.parts[0]
        return first if len(self.parts) == 1 and first.info.backend != "vips" else None

    @property
    def spooled(self) -> tuple[int, ...]:
        """Halvings that windows cannot be read from straight from the image, 0 for level 0."""
        return spooled_levels(self.size, None if self.whole is None else self.whole.info)

    @property
    def cache_bytes(self) -> int:
        """Disk that decoding its pictures once needs while it is read."""
        return sum(part.info.cache_bytes for part in self.parts)

    @property
    def files(self) -> list[Path]:
        """All files of the scene."""
        pairs = [path for part in self.parts for path in (part.image, part.label, part.corrections)]
        return [path for path in (*pairs, self.roi, self.mask) if path is not None]

    def states(self) -> images.InputStates:
        """Return the sizes, times and fingerprints of all files of the scene."""
        return images.InputStates.of(self.files)

    def fingerprint(self) -> str:
        """Return a hash of its pictures' files, samples of them where they are large."""
        total = hashlib.sha256()
        for part in self.parts:
            total.update(images.fingerprint(part.image).encode())
        return total.hexdigest()


def lay_out(
    name: str,
    pairs: Sequence[tuple[Path, Path]],
    *,
    grid: tuple[int, int] = (1, 1),
    roi: Path | None = None,
    mask: Path | None = None,
    corrections: Path | None = None,
    names: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
) -> SceneLayout:
    """Return the layout of adjacent pictures with their label maps, row by row.

    Args:
        name: The name of the scene.
        pairs: The picture and the label map of each part.
        grid: The rows and columns of parts.
        roi: A raster of the scene's size; nothing is learnt where its first band is zero.
        mask: Class indices of the scene's size that something else found in it.
        corrections: Polygons over the label map of a scene of one part.
        names: The names of the classes, by label, for polygons that name theirs.
        bands: The names of the bundle's bands. Images that have all of them are read in their order, and the first
            bands of others.

    Raises:
        SourceError: A file is missing, cannot be read or has other than 8 bits; a label map differs in size from its
            picture; the parts do not fit side by side.
    """
    rows, columns = grid
    if len(pairs) != rows * columns:
        raise SourceError(
            f"a grid of {rows} x {columns} parts is asked for",
            value=len(pairs),
            file=name,
            advice="Correct grid in [data], or add the missing parts",
        )
    inspected = [_inspected(image, label, corrections, names) for image, label in pairs]
    infos = [info for info, _ in inspected]
    boxes = _placed([info.size for info in infos], columns=columns, file=pairs[0][0])
    if len({len(info.bands) for info in infos}) > 1:
        raise SourceError(
            "the parts differ in their bands", file=pairs[0][0], advice="Export the parts with the same bands"
        )
    parts = tuple(
        ScenePart(
            image=image,
            label=label,
            info=info,
            box=box,
            positions=_positions(info, bands),
            corrections=corrections,
        )
        for (image, label), info, box in zip(pairs, infos, boxes, strict=True)
    )
    size = Size(width=max(box.right for box in boxes), height=max(box.bottom for box in boxes))
    for column, path, opened in (("roi", roi, open_region), ("mask", mask, open_labels)):
        if path is not None:
            with opened(path) as raster:
                if raster.size != size:
                    raise SourceError(
                        f"the size must be that of {name}, {size}",
                        value=raster.size,
                        file=path,
                        advice=f"Choose the {column} that was made for this picture",
                    )
                if len(infos) == 1:
                    images.check_place(raster.info, infos[0])
    known = None if names is None else tuple(names)
    notes = tuple(note for info, said in inspected for note in (*said, *_band_notes(info, bands)))
    return SceneLayout(name=name, parts=parts, size=size, roi=roi, mask=mask, names=known, notes=notes)


def _positions(info: ImageInfo, bands: Sequence[str] | None) -> tuple[int, ...]:
    """Return the positions of the bands that are read, as `magnet segment` reads them where names or counts agree."""
    found = None if bands is None else positions_by_name(info, bands, advice=ONE_OF_A_NAME)
    return tuple(range(min(len(info.bands), RGB if bands is None else len(bands)))) if found is None else found


def _band_notes(info: ImageInfo, bands: Sequence[str] | None) -> tuple[str, ...]:
    """Return a note on an image of which some bands are read because they are the first ones."""
    if (
        bands is None
        or len(info.bands) <= len(bands)
        or positions_by_name(info, bands, advice=ONE_OF_A_NAME) is not None
    ):
        return ()
    numbers = ",".join(map(str, range(1, len(bands) + 1)))
    text = (
        f"Images with the bands {', '.join(info.bands)} are read as {', '.join(bands)} by their first bands. "
        f"'magnet segment' reads such images the same way with --bands {numbers}."
    )
    return (text,)


def _inspected(
    image: Path, label: Path, corrections: Path | None, names: Sequence[str] | None
) -> tuple[ImageInfo, tuple[str, ...]]:
    """Return the facts about a picture, and notes on its files of polygons.

    Raises:
        SourceError: A file cannot be read, or does not fit the picture.
    """
    info = images.inspect(image)
    notes: tuple[str, ...] = ()
    if info.dtype != "uint8":
        raise SourceError(
            "training reads pictures of 8 bits a band",
            value=info.dtype,
            file=image,
            advice="Convert it, and read the same 8 bits where the bundle is used",
        )
    polygons = [path for path in (label, corrections) if path is not None and is_geojson(path.name)]
    if polygons:
        from magnet_cli.areas.drawn_labels import DrawnLabels  # noqa: PLC0415 - shapely is needed with polygons alone

        # They are read here only to refuse a wrong file before any work.
        for path in polygons:
            notes += DrawnLabels(path, info, names, identity=lambda: str(images.ImageIdentity.of(info))).notes
    if label in polygons:
        return info, notes
    with open_labels(label) as labels:
        if labels.size != info.size:
            value = f"{info.size} and {labels.size}, width x height"
            raise SourceError(
                f"picture and label map {label.name} differ in size",
                value=value,
                file=image,
                advice="Choose the label map of this picture",
            )
        images.check_place(labels.info, info)
    return info, notes


def _placed(sizes: Sequence[Size], *, columns: int, file: Path) -> list[Box]:
    """Return the boxes of parts that lie side by side in rows."""
    boxes: list[Box] = []
    for first in range(0, len(sizes), columns):
        line = sizes[first : first + columns]
        y = boxes[-1].bottom if boxes else 0
        starts = [0, *accumulate(size.width for size in line)]
        boxes += [
            Box(x=x, y=y, width=size.width, height=size.height) for x, size in zip(starts[:-1], line, strict=True)
        ]
        if len({size.height for size in line}) > 1 or boxes[-1].right != boxes[columns - 1].right:
            raise SourceError(
                "the parts do not fit side by side",
                file=file,
                advice="Correct grid in [data], or the sizes of the parts",
            )
    return boxes


def paste(box: Box, parts: Sequence[tuple[Box, Reader]]) -> NDArray[np.generic]:
    """Return what the parts have in a box of the scene, in one array of its own."""
    found: NDArray[np.generic] | None = None
    for where, read in parts:
        common = box.intersection(where)
        if common.area:
            values = read(common.shifted(x=-where.x, y=-where.y))
            if found is None:
                found = np.empty((box.height, box.width, *values.shape[2:]), values.dtype)
            found[common.shifted(x=-box.x, y=-box.y).slices] = values
    if found is None:
        message = f"{box} lies outside every part"
        raise ValueError(message)
    return found


class Pictures(Closing):
    """The opened pictures of a scene, as one; a context.

    Args:
        layout: The layout of the scene.
        cache: Disk for pictures that cannot be read by region.
    """

    def __init__(self, layout: SceneLayout, *, cache: CacheBudget) -> None:
        self._stack = ExitStack()
        self._filling = layout.filling
        with ExitStack() as stack:
            self._images = [
                (part, stack.enter_context(images.open_image(part.image, cache=cache))) for part in layout.parts
            ]
            self._stack = stack.pop_all()

    def read(self, box: Box) -> Pixels:
        """Return level 0 in a box, `(box.height, box.width, bands)`."""
        return self.part(box)[0]

    def part(self, box: Box) -> tuple[Pixels, NDArray[np.bool_] | None]:
        """Return level 0 in a box, with the filling where there are no data, and where there are some."""
        valid = np.ones((box.height, box.width), np.bool_)

        def reader(image: Image, part: ScenePart) -> Reader:
            def read(inner: Box) -> NDArray[np.generic]:
                # Reading decodes, so pixels and their validity are taken from one region.
                (region,) = image.read([Request(pitch=LEVEL0, box=inner, bands=part.bands)])
                if region.valid is not None:
                    valid[inner.shifted(x=part.box.x - box.x, y=part.box.y - box.y).slices] = region.valid
                return region.pixels

            return read

        pixels = paste(box, [(part.box, reader(image, part)) for part, image in self._images])
        known = None if valid.all() else valid
        return filled_where(pixels.astype(np.uint8, copy=False), known, self._filling), known

    def valid(self, box: Box) -> NDArray[np.bool_] | None:
        """Return `(box.height, box.width)`, True where there is data.

        The result is None where no picture says that any is missing.
        """
        if not any(image.info.has_mask for _, image in self._images):
            return None
        parts = [(part.box, _validity_of(image, part)) for part, image in self._images]
        return paste(box, parts).astype(np.bool_, copy=False)

    def close(self) -> None:
        """Close the files of all pictures."""
        self._stack.close()


def _validity_of(image: Image, part: ScenePart) -> Reader:
    def read(box: Box) -> NDArray[np.generic]:
        (region,) = image.read([Request(pitch=LEVEL0, box=box, bands=part.bands)])
        return np.ones(region.pixels.shape[:2], np.bool_) if region.valid is None else region.valid

    return read


def labels_of(
    layout: SceneLayout, pictures: Pictures, *, values: Mapping[int, int], ignore: int
) -> Iterator[tuple[Box, Pixels]]:
    """Yield the labels of a scene from its top, `(box.height, box.width)` uint8 in boxes of its width.

    Args:
        layout: The layout of the scene.
        pictures: Opened; where they have no data, nothing is learnt.
        values: Classes that stored values mean, where they differ.
        ignore: The label of pixels without a class, given outside the region of interest and where there are no data.

    Raises:
        SourceError: A label map cannot be decoded.
    """
    with ExitStack() as stack:
        maps = [
            (part.box, part.open_labels(stack, names=layout.names, values=values, ignore=ignore))
            for part in layout.parts
        ]
        region = None if layout.roi is None else stack.enter_context(open_region(layout.roi))
        for box in chunks(layout.size, pixel=WIDEST):
            labels = paste(box, maps).astype(np.uint8, copy=False)
            # No class has this index: a mask has it where nothing was computed, and readers give it where a label map
            # has no data.
            labels[labels == NODATA] = ignore
            if region is not None:
                labels[~region.read_nonzero(box)] = ignore
            # Validity costs a decoding of the picture, which parts without labels do not need.
            valid = pictures.valid(box) if (labels != ignore).any() else None
            if valid is not None:
                labels[~valid] = ignore
            yield box, labels
