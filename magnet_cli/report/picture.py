"""An image and its mask at a size for display, pixel on pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.protocol import Request
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.masks.spec import MaskClass
from magnet_cli.report.colours import ColourMapping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Image

LONGEST = 2048
"""Most pixels of a picture along its longer side."""
STRIP_VALUES = 8 << 20
"""Most values that are read at a time, so that an image of hundreds of bands takes no more memory than one of three."""
BLANK = 224
"""Grey value of pixels without data."""


@dataclass(frozen=True, kw_only=True)
class Class:
    """A class as it is shown."""

    name: str
    color: str
    area: float | None
    pixels: int
    share: float
    """The share of the pixels that have a label."""
    unit: str | None


@dataclass(frozen=True, kw_only=True)
class MaskPicture:
    """An image and its mask at the same reduced size."""

    pixels: NDArray[np.uint8]
    """`(height, width, 3)`."""
    labels: NDArray[np.uint8]
    """`(height, width)`, a class or 255."""
    pitch: int
    """Level-0 pixels along the side of one of its pixels."""
    size: Size
    """The size of level 0."""
    classes: tuple[Class, ...]

    @property
    def palette(self) -> NDArray[np.uint8]:
        """`(256, 3)`: colours by label; labels that are no class are grey."""
        palette = np.full((256, 3), BLANK, np.uint8)
        for label, entry in enumerate(self.classes):
            palette[label] = np.frombuffer(bytes.fromhex(entry.color[1:]), np.uint8)
        return palette


def read_picture(image: Image, mask: Path, report: Mapping[str, Any]) -> MaskPicture:
    """Return overviews of an image and its mask: the mask's own, of at most `LONGEST` pixels, and the image's means.

    Args:
        image: The image, opened.
        mask: The mask of that image.
        report: The mask's report.

    Raises:
        SourceError: The image cannot be decoded, or is not the mask's.
        OutputError: The mask cannot be decoded, or is not the report's.
        KeyError, TypeError, ValueError: The report says something else than this version does.
    """
    size = Size(width=int(report["input"]["size"]["width"]), height=int(report["input"]["size"]["height"]))
    if image.info.size != size:
        raise SourceError(
            f"the mask was made of an image of {size} pixels",
            value=image.info.size,
            file=image.info.path,
            advice="Name the image that the mask was made of with --image",
        )
    level = 0
    # The mask has overviews by powers of two, so the picture takes one of them as it is.
    while max(size.width, size.height) > LONGEST << level:
        level += 1
    pitch = Pitch.square(2**level)
    labels = _read_labels(mask, level)
    cover = pitch.cover(size)
    if labels.shape != (cover.height, cover.width):
        raise OutputError(
            f"the mask is not the one that its report describes: {size}",
            file=mask,
            advice="Compute the mask again with --overwrite",
        )
    return MaskPicture(
        pixels=read_pixels(image, pitch, ColourMapping.of(report)),
        labels=labels,
        pitch=2**level,
        size=size,
        classes=_classes(report["classes"]),
    )


def _read_labels(mask: Path, level: int) -> NDArray[np.uint8]:
    try:
        with MaskFile.open(mask) as file:
            if level < len(file.levels):
                return file.read(Box.whole(file.levels[level].size), level=level)
            raise OutputError(
                "the mask is not the one that its report describes",
                value=file.size,
                file=mask,
                advice="Compute the mask again with --overwrite",
            )
    except SourceError as exc:
        raise OutputError(
            exc.rule, value=exc.value, file=mask, advice="List what is damaged with magnet verify"
        ) from exc


def _classes(rows: list[Mapping[str, Any]]) -> tuple[Class, ...]:
    found = []
    for row in rows:
        entry = MaskClass(name=str(row["name"]), color=str(row["color"]))
        area, unit = row["area"], row["unit"]
        found.append(
            Class(
                name=entry.name,
                color=entry.color,
                pixels=int(row["pixels"]),
                share=float(row["share"]),
                area=None if area is None else float(area),
                unit=None if unit is None else str(unit),
            )
        )
    return tuple(found)


def read_pixels(image: Image, pitch: Pitch, mapping: ColourMapping) -> NDArray[np.uint8]:
    """Return the image at a pitch as people see it, `(height, width, 3)`; grey where there is no data.

    Memory is bounded by the picture's size: it is read in strips.

    Raises:
        SourceError: A part cannot be decoded.
    """
    info = image.info
    cover = pitch.cover(info.size)
    values = np.empty((cover.height, cover.width, len(mapping.bands)), info.dtype)
    valid = np.ones((cover.height, cover.width), np.bool_)
    # All bands count, because many formats decode all of them to give three.
    step = max(1, STRIP_VALUES // (cover.width * len(info.bands)))
    for top in range(0, cover.height, step):
        box = Box(x=0, y=top, width=cover.width, height=min(step, cover.height - top))
        region = image.read([Request(pitch=pitch, box=box, bands=mapping.bands)])[0]
        values[box.slices] = region.pixels
        if region.valid is not None:
            valid[box.slices] = region.valid
    return np.where(valid[..., None], mapping.colours(values, valid), np.uint8(BLANK)) * np.ones(3, np.uint8)
