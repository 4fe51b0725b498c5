"""The interface of every image backend: facts about the image, and reading a box at several sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box, Pitch, Size
    from magnet_cli.images.contents import Content

NODATA = 255
"""Label of a pixel without a class: it was not computed, or a label raster does not give its class."""


Alpha = Literal["mask", "band"]
"""Role of a band that is flagged as alpha: 0 in it marks pixels without data, or it is a band like the others."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One stored resolution of an image."""

    size: Size
    """Size in stored pixels."""
    downsample: Pitch
    """Level-0 pixels that one stored pixel covers, snapped to a power of two where the stored size allows it."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The physical size of a level-0 pixel, exact."""

    x: Fraction
    y: Fraction
    unit: str
    """`um` or `m`."""
    skew: Fraction = Fraction(1)
    """Sine of the angle between rows and columns on the ground; below 1 where a georeference is sheared."""

    @property
    def area(self) -> Fraction:
        """The area of a pixel in square units: that of a parallelogram where the georeference is sheared."""
        return self.x * self.y * self.skew


COARSEST_SLIDE_UM = 10
"""Micrometres of a pixel at the full resolution of a slide, at most: an objective of 1.25 gives about 8."""


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Facts about an image that are known before a pixel is decoded."""

    path: str
    """Path or URL as the user gave it."""
    backend: str
    """The reader's name: `tiff`, `zarr`, `openslide`, `vips` (decoded once, from the beginning to the end)."""
    size: Size
    """Size of level 0 in pixels, orientation corrected."""
    levels: tuple[Level, ...]
    """Stored levels, finest first; `levels[0]` is level 0."""
    bands: tuple[str, ...]
    """Names of the bands in stored order, without alpha: `red`, `green`, `blue`, `grey`, or `band1`, `band2`, ..."""
    dtype: str
    """NumPy name of the stored values: `uint8`, `uint16`, `int16`, `float32`, ..."""
    bilevel: bool = False
    """Whether stored samples are 0 and 1, and are read as 0 and 255."""
    resolution: Resolution | None = None
    """Physical size of a level-0 pixel; None where the file does not say or says a writer's default."""
    objective: Fraction | None = None
    """Magnification of the objective that the image was taken with, where the file says."""
    nodata: float | None = None
    """The value that marks a missing pixel."""
    alpha: Alpha | None = None
    """How the band that is flagged as alpha is read; None where none is."""
    bounds: Box | None = None
    """The scanned part of level 0, where a slide states it."""
    has_mask: bool = False
    """Whether pixels may be invalid (nodata, alpha, mask, bounds); `Region.valid` is None where this is false."""
    is_slide: bool = False
    """Whether the image is a slide of a microscope, most of which may be glass."""
    crs: str | None = None
    """Reference system, such as `EPSG:32633`; None where the image is not georeferenced."""
    geo_tags: tuple[tuple[int, int, int, object], ...] = ()
    """TIFF tags (code, dtype, count, value) that carry the georeference; written to the mask unchanged."""
    series: int | None = None
    """Number of the image in its file, the first being 0; None where the file holds one."""
    contents: tuple[Content, ...] = ()
    """The images of the file; empty where it holds one."""
    cache_bytes: int = 0
    """Disk that a one-time decode needs, because the file cannot be read by region; 0 where it can."""
    resident_bytes: int = 0
    """Largest memory that the opened image keeps between reads, in bytes: decoded tiles, or a whole small picture."""
    notes: tuple[str, ...] = field(default=())
    """Messages that a user should read once: a default resolution is ignored, an orientation is applied."""

    @property
    def kind(self) -> Literal["slide", "map"] | None:
        """The subject by the file's own statements: a microscope's slide, or the ground. None where it states none.

        A pyramid whose pixels measure a few micrometres is a slide whatever wrote it; a single level may be any
        picture from a microscope or a camera.
        """
        if self.crs is not None or self.geo_tags:
            return "map"
        if self.is_slide or self.objective is not None:
            return "slide"
        size = self.resolution
        is_fine = size is not None and size.unit == "um" and max(size.x, size.y) <= COARSEST_SLIDE_UM
        return "slide" if is_fine and len(self.levels) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A box of a sampling grid to be read."""

    pitch: Pitch
    """Pitch of the grid, in level-0 pixels."""
    box: Box
    """Box on the grid; inside `[0, pitch.cover(size))`, so that only the last pixel may reach beyond the image."""
    resample: str = "area"
    """`area`: mean over what a pixel covers. `bilinear`: two taps an axis at the pixel's centre, no antialias."""
    bands: tuple[int, ...] | None = None
    """Positions of the bands that are wanted, in their order; None for all.

    Only these bands decide which pixels hold data.
    """


@dataclass(frozen=True, kw_only=True)
class Region:
    """Pixels and validity that were read for one request."""

    pixels: NDArray[Any]
    """`(height, width, bands)` in the image's dtype, the bands that were asked for; 0 where not valid."""
    valid: NDArray[np.bool_] | None
    """`(height, width)`, True where at least half of the pixel's area holds data; None where all of it does."""


class Image(Protocol):
    """An opened image. Reading is safe from several threads at once."""

    @property
    def info(self) -> ImageInfo:
        """Facts about the image, known before a pixel is decoded."""

    def read(self, requests: Sequence[Request]) -> list[Region]:
        """Decode once what the requests have in common and return one region a request, in their order.

        Raises:
            SourceError: A tile cannot be decoded; it names the file and the place.
        """

    def close(self) -> None:
        """Release files and caches; reading afterwards is an error."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
