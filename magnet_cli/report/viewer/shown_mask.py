"""Masks as the page shows them: labels at any zoom, from a mask of this program or from any raster of class indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from magnet_cli import images
from magnet_cli.errors import OutputError, SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.labels import LabelImage, open_labels
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.masks.our_files import is_mask
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import is_report, read_report
from magnet_cli.masks.spec import MaskClass
from magnet_cli.masks.unfinished_mask import UnfinishedMask, is_unfinished
from magnet_cli.report.layers import COLOURS
from magnet_cli.report.viewer.growing_labels import GrowingLabels
from magnet_cli.report.viewer.zooms import TILE, ZoomGrid
from magnet_cli.system.closing import Closing, undone_on_failure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MOST_READ = 1 << 26
"""Most level-0 pixels that are decoded for one tile of a raster without overviews. Larger areas appear at a
closer zoom."""
STRIP = 512
"""This many rows of level 0 are read at a time."""
SAMPLES = 8
"""Labels are sampled at this many places along each side of a raster, to find the labels that it uses."""
SAMPLE_SIDE = 128
OTHER_IMAGE = "Name the image that the mask was made of"
FIRST_SECONDS = 1.0
"""The journal of an unfinished mask is read for this time before the page opens, and further while it is open."""


class LabelReader(Protocol):
    """A label reader reads the labels of a mask at the zooms of the page."""

    coarsest: int
    """The coarsest zoom that can be read."""

    def read(self, box: Box, zoom: int) -> NDArray[np.uint8]:
        """Return the labels of a box of a zoom's pixels, `(height, width)`, 255 where there is none."""

    def close(self) -> None:
        """Close the file of the mask."""


class OwnLabels:
    """Reads the labels of a mask that this program has written. Its overviews hold the commonest label."""

    def __init__(self, file: MaskFile) -> None:
        self.coarsest = ZoomGrid(size=file.size).coarsest
        self._file = file

    def read(self, box: Box, zoom: int) -> NDArray[np.uint8]:
        """Return the labels of a box of a zoom's pixels, `(height, width)`, 255 where there is none."""
        level = min(zoom, len(self._file.levels) - 1)
        return _strided(
            lambda part: self._file.read(part, level=level), box, zoom - level, self._file.levels[level].size
        )

    def close(self) -> None:
        """Close the file of the mask."""
        self._file.close()


class RasterLabels:
    """Reads the labels of another raster. Coarser zooms are sampled: means of class indices would be other classes."""

    def __init__(self, raster: LabelImage) -> None:
        self.coarsest = 0
        whole = ZoomGrid(size=raster.size).coarsest
        while self.coarsest < whole and (TILE << (self.coarsest + 1)) ** 2 <= MOST_READ:
            self.coarsest += 1
        self._raster = raster

    def read(self, box: Box, zoom: int) -> NDArray[np.uint8]:
        """Return the labels of a box of a zoom's pixels, `(height, width)`, 255 where there is none."""
        return _strided(self._raster.read, box, zoom, self._raster.size)

    def close(self) -> None:
        """Close the file of the mask."""
        self._raster.close()


def _strided(read: Any, box: Box, zoom: int, size: Size) -> NDArray[np.uint8]:
    """Return the label in the middle of each pixel of a zoom, read in strips of the level below it."""
    if zoom == 0:
        return cast("NDArray[np.uint8]", read(box))
    step = 1 << zoom
    rows = np.minimum((np.arange(box.y, box.bottom) * step) + step // 2, size.height - 1)
    columns = np.minimum((np.arange(box.x, box.right) * step) + step // 2, size.width - 1)
    out = np.empty((box.height, box.width), np.uint8)
    left, right = int(columns[0]), int(columns[-1]) + 1
    for top in range(int(rows[0]) // STRIP * STRIP, int(rows[-1]) + 1, STRIP):
        inside = (rows >= top) & (rows < top + STRIP)
        if inside.any():
            first, last = int(rows[inside][0]), int(rows[inside][-1])
            strip = read(Box.between(left=left, top=first, right=right, bottom=last + 1))
            out[inside] = strip[np.ix_(rows[inside] - first, columns - left)]
    return out


class ShownMask(Closing):
    """A shown mask is a mask of the image on the page, with its colours and its report.

    Args:
        path: The file of the mask.
        reader: The reader of the mask's labels.
        size: The size of level 0 in pixels.
        classes: The names and colours of the classes, by label.
        report: The report beside the mask; None without one.
        is_own: Whether this program wrote the mask.
        has_names: Whether the names of the classes are known, and not made up.
    """

    def __init__(
        self,
        path: Path,
        reader: LabelReader,
        *,
        size: Size,
        classes: tuple[MaskClass, ...],
        report: dict[str, Any] | None,
        is_own: bool,
        has_names: bool = True,
    ) -> None:
        self.path = path
        self.grid = ZoomGrid(size=size)
        self.classes = classes
        self.report = report
        self.is_own = is_own
        self.has_names = has_names
        self.growing = reader if isinstance(reader, GrowingLabels) else None
        """The labels of a mask that is not finished; None of a finished one."""
        self._reader = reader

    @property
    def coarsest(self) -> int:
        """Return the coarsest zoom at which the mask can be shown."""
        return self._reader.coarsest

    @property
    def palette(self) -> NDArray[np.uint8]:
        """Return the colours by label, `(256, 3)`. Labels that are no class have the colours of `made_classes`."""
        palette = np.array([np.frombuffer(entry.rgb, np.uint8) for entry in made_classes(256)])
        for label, entry in enumerate(self.classes):
            palette[label] = np.frombuffer(entry.rgb, np.uint8)
        return palette

    def read(self, box: Box, zoom: int) -> NDArray[np.uint8]:
        """Return the labels of a box of a zoom's pixels, `(height, width)`; 255 where there is none.

        Raises:
            SourceError: The mask is damaged there.
        """
        return self._reader.read(box, zoom)

    def label(self, x: int, y: int) -> int | None:
        """Return the label of a level-0 pixel; None where it has none."""
        found = int(self.read(Box(x=x, y=y, width=1, height=1), 0)[0, 0])
        return None if found == NODATA else found

    def preview(self, x: int, y: int) -> dict[str, object] | None:
        """Return the label that a coarser pass has found for a level-0 pixel, and its scale; None where none has."""
        if self.growing is None:
            return None
        found = self.growing.preview.read(Box(x=x, y=y, width=1, height=1), 0)
        label = int(found.labels[0, 0])
        if label == NODATA:
            return None
        return {"label": label, "scale": self.growing.preview.passes[int(found.origins[0, 0])].scale}

    def close(self) -> None:
        """Close the file of the mask."""
        self._reader.close()


def open_mask(path: Path, image: images.Image, *, classes: Sequence[MaskClass] = ()) -> ShownMask:
    """Open a mask of this program, or any raster of class indices of the image's size.

    Args:
        path: The file of the mask.
        image: The image that the mask belongs to.
        classes: Names and colours of the classes where the file has none; empty makes both.

    Raises:
        SourceError: The file is missing, damaged, no mask, or belongs to another image; or nothing can be read yet of a
            mask that is being computed.
    """
    if is_unfinished(path):
        return _open_unfinished(path, image)
    if not path.is_file():
        raise SourceError("there is no such mask", file=path, advice="Check the path")
    images.check_fits(
        images.inspect(path),
        image.info,
        rule=f"a mask has the size of its image, which is {image.info.size}",
        advice=OTHER_IMAGE,
    )
    return _open_own(path, image) if is_mask(path) else _open_raster(path, classes)


def _open_own(path: Path, image: images.Image) -> ShownMask:
    report = _report_of(path)
    if report is not None:
        hashes = report.get("hashes")
        made_of = images.ImageIdentity.noted(hashes) if isinstance(hashes, dict) else None
        if made_of not in (None, images.ImageIdentity.of(image.info)):
            raise SourceError("the mask was made of another image", file=path, advice=OTHER_IMAGE)
    file = MaskFile.open(path)
    with undone_on_failure(file.close):
        return ShownMask(path, OwnLabels(file), size=file.size, classes=file.facts.classes, report=report, is_own=True)


def _open_unfinished(path: Path, image: images.Image) -> ShownMask:
    try:
        mask = UnfinishedMask.open(path)
    except OutputError as error:
        raise SourceError(error.rule, value=error.value, file=error.file, advice=error.advice) from error
    with undone_on_failure(mask.close):
        spec, made_of = mask.spec, images.ImageIdentity.noted(mask.header.hashes)
        if spec.size != image.info.size:
            raise SourceError(
                f"a mask has the size of its image, which is {image.info.size}",
                value=spec.size,
                file=path,
                advice=OTHER_IMAGE,
            )
        if made_of not in (None, images.ImageIdentity.of(image.info)):
            raise SourceError("the mask is being made of another image", file=path, advice=OTHER_IMAGE)
        labels = GrowingLabels(mask)
        labels.refresh(FIRST_SECONDS)
        return ShownMask(path, labels, size=spec.size, classes=spec.classes, report=None, is_own=True)


def _report_of(path: Path) -> dict[str, Any] | None:
    beside = OutputPaths.of(path).report
    try:
        return read_report(beside) if is_report(beside) else None
    except OutputError as error:
        raise SourceError(error.rule, value=error.value, file=beside, advice=error.advice) from error


def _open_raster(path: Path, classes: Sequence[MaskClass]) -> ShownMask:
    raster = open_labels(path)
    with undone_on_failure(raster.close):
        known = tuple(MaskClass(name=name, color=color) for name, color in raster.classes or ()) or tuple(classes)
        found = known or made_classes(_largest_label(raster) + 1)
        return ShownMask(
            path,
            RasterLabels(raster),
            size=raster.size,
            classes=found,
            report=None,
            is_own=False,
            has_names=bool(known),
        )


def _largest_label(raster: LabelImage) -> int:
    """Return the largest label of a sample, 0 without any."""
    largest = 0
    width, height = raster.size.width, raster.size.height
    for row in range(SAMPLES):
        for column in range(SAMPLES):
            place = Box(
                x=column * width // SAMPLES, y=row * height // SAMPLES, width=SAMPLE_SIDE, height=SAMPLE_SIDE
            ).intersection(Box.whole(raster.size))
            if place.area:
                labels = raster.read(place)
                largest = max(largest, int(labels[labels != NODATA].max(initial=0)))
    return largest


def made_classes(count: int) -> tuple[MaskClass, ...]:
    """Return names and colours for labels that have none."""
    return tuple(MaskClass(name=f"class {label}", color=COLOURS[label % len(COLOURS)]) for label in range(count))
