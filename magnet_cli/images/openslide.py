"""Whole slides of scanner vendors, by OpenSlide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openslide

from magnet_cli.geometry import Box, Size
from magnet_cli.images.failures import check_pixels, naming
from magnet_cli.images.levels import level_table
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import Found, microscope, objective, stated
from magnet_cli.images.store import Pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FAILURES = (openslide.OpenSlideError,)
BLOCK = Size(width=512, height=512)
SLIDE_CACHE_BYTES = 64 << 20
PLANES = ("dicom.NumberOfOpticalPaths", "dicom.TotalPixelMatrixFocalPlanes")
BOUNDS = ("openslide.bounds-x", "openslide.bounds-y", "openslide.bounds-width", "openslide.bounds-height")


def slide_vendor(path: str) -> str | None:
    """Return the vendor whose format OpenSlide recognises in a file, or None."""
    with naming(path, "the file cannot be examined", also=FAILURES):
        vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def open_slide(path: str) -> PyramidImage:
    """Open a whole slide.

    Raises:
        SourceError: OpenSlide cannot read it.
    """
    advice = "Copy or export the file again, with the files beside it"
    with naming(path, "the slide cannot be opened", advice=advice, also=FAILURES):
        slide = openslide.OpenSlide(path)
        slide.set_cache(openslide.OpenSlideCache(SLIDE_CACHE_BYTES))
        info = _info(path, slide)
    return PyramidImage(info, SlideStore(path, slide, info))


def _info(path: str, slide: openslide.OpenSlide) -> ImageInfo:
    width, height = slide.dimensions
    check_pixels(width, height, path)
    size = Size(width=width, height=height)
    resolution, notes = _resolution(slide.properties)
    notes += left_planes(*(_count(slide.properties.get(name)) for name in PLANES))
    reduced = [Size(width=max(1, w), height=max(1, h)) for w, h in slide.level_dimensions[1:]]
    return ImageInfo(
        path=path,
        backend="openslide",
        size=size,
        levels=level_table(size, reduced),
        bands=("red", "green", "blue"),
        dtype="uint8",
        resolution=resolution,
        objective=objective(slide.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        bounds=_bounds(slide.properties, size),
        has_mask=True,
        is_slide=True,
        resident_bytes=SLIDE_CACHE_BYTES,
        notes=notes,
    )


def _resolution(properties: Mapping[str, str]) -> Found:
    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    found, notes = stated(*map(properties.get, names), unit="um")
    return (None, notes) if found is None else microscope(found.x, found.y)


def left_planes(paths: int, focal: int) -> tuple[str, ...]:
    """Return a note where a DICOM slide has several optical paths, such as channels, or focal planes.

    Args:
        paths: Number of optical paths.
        focal: Number of focal planes.
    """
    counts = [(paths, "optical paths"), (focal, "focal planes")]
    left = [f"{count} {kind}" for count, kind in counts if count > 1]
    return (f"the slide has {' and '.join(left)}: the first of each is read",) if left else ()


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 1


def _bounds(properties: Mapping[str, str], size: Size) -> Box | None:
    try:
        x, y, width, height = (int(properties[name]) for name in BOUNDS)
    except (KeyError, ValueError):
        return None
    box = Box.between(left=x, top=y, right=x + width, bottom=y + height).intersection(Box.whole(size))
    return box if box.area and box != Box.whole(size) else None


class SlideStore:
    """Levels of a slide; pixels that the scanner never saw are transparent, so not valid.

    Args:
        path: Path of the file for error messages.
        slide: The opened OpenSlide handle.
        info: Facts about the slide.
    """

    def __init__(self, path: str, slide: openslide.OpenSlide, info: ImageInfo) -> None:
        self._path = path
        self._slide = slide
        self._info = info

    def block(self, level: int) -> Size:  # noqa: ARG002 (OpenSlide does not always say)
        """Return a fixed block size, as OpenSlide does not always state the tile size."""
        return BLOCK

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Decode a box of a level; transparent pixels and those outside the slide's bounds are not valid."""
        where = self._level0(level, box)
        rule, advice = f"box {box} of level {level} cannot be decoded", "The slide is damaged: copy it again"
        with naming(self._path, rule, advice=advice, also=FAILURES):
            picture = self._slide.read_region(where, level, (box.width, box.height))
            pixels: NDArray[Any] = np.asarray(picture)
        alpha = pixels[:, :, 3] > 0
        if self._info.bounds is not None:
            alpha &= self._inside(level, box)
        return Pixels(pixels[:, :, :3], None if alpha.all() else alpha).only(bands)

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()

    def _inside(self, level: int, box: Box) -> NDArray[np.bool_]:
        bounds, step = self._info.bounds or Box.whole(self._info.size), self._info.levels[level].downsample
        columns = (np.arange(box.x, box.right) + 0.5) * float(step.x)
        rows = (np.arange(box.y, box.bottom) + 0.5) * float(step.y)
        inside_x = (columns >= bounds.x) & (columns < bounds.right)
        inside_y = (rows >= bounds.y) & (rows < bounds.bottom)
        return inside_y[:, None] & inside_x[None, :]

    def _level0(self, level: int, box: Box) -> tuple[int, int]:
        # OpenSlide places a box by whole level-0 pixels, divides by its own downsample and interpolates what falls
        # between level pixels: the nearest whole pixel leaves at most half a level-0 pixel of shift.
        factor = self._slide.level_downsamples[level]
        return round(box.x * factor), round(box.y * factor)
