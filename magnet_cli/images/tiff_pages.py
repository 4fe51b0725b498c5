"""Which pages of a TIFF are the levels of its image, and which are masks of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Size
from magnet_cli.images.levels import axis_downsample, is_reduction
from magnet_cli.images.limits import check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tifffile import TiffFile, TiffPage, TiffPages

MAX_PAGES = 4096
"""Pages looked at; a damaged chain may never end."""

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The pages of one level."""

    size: Size
    pages: tuple[TiffPage, ...]
    """One page, or one a band."""
    mask: TiffPage | None = None
    """Non-zero where data is."""


def find_layers(file: TiffFile, path: str) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The levels of a TIFF, finest first, and what to tell the user about pages left out.

    Raises:
        SourceError: The file holds no picture, or one of an absurd size.
    """
    chain = list(first_pages(file.pages))
    if not chain:
        raise SourceError("the TIFF file holds no readable page", file=path, advice="Copy or export the file again")
    page = chain[0]
    check_size(page, path)
    if file.is_qpi and page.samplesperpixel == 1 and len(file.series[0].pages) > 1:
        return _runs(file), ()
    bands, left = channel_pages(file, path)
    if bands:
        first = Layer(size=page_size(page), pages=tuple(bands))
        return (first, *_channel_levels(first)), left
    others = [*(first_pages(page.pages) if page.pages is not None else ()), *chain[1:]]
    masks = {page_size(other): other for other in others if other.subfiletype & MASK}
    reduced = [other for other in others if not other.subfiletype & MASK and is_level(page, other)]
    reduced.sort(key=lambda other: -other.imagewidth)
    return _with_masks([page, *reduced], masks), _notes(page, chain, reduced)


def page_size(page: TiffPage) -> Size:
    """Stored pixels of a page that `check_size` accepted."""
    return Size(width=page.imagewidth, height=page.imagelength)


def check_size(page: TiffPage, path: str) -> None:
    """Refuse a page without pixels, or with more than any file holds.

    Raises:
        SourceError: Its size is zero or absurd.
    """
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1 or page.samplesperpixel < 1 or page.imagedepth != 1:
        raise SourceError("the image has no pixels, or is a volume", value=f"{width} x {height}", file=path)
    check_pixels(width, height, path)


def first_pages(pages: TiffPages) -> Iterator[TiffPage]:
    """The pages of a chain, up to `MAX_PAGES`."""
    for index in range(MAX_PAGES):
        try:
            page = pages[index]
        except IndexError:
            return
        yield page.aspage()


def is_level(full: TiffPage, page: TiffPage) -> bool:
    """Whether a page is a smaller version of the full one: marked as such, or tiled and smaller by a power of two."""
    if page.imagewidth < 1 or page.imagelength < 1 or not is_reduction(page_size(full), page_size(page)):
        return False
    if (page.samplesperpixel, page.dtype) != (full.samplesperpixel, full.dtype):
        return False
    if page.subfiletype & REDUCED:
        return True
    ratio = axis_downsample(full.imagewidth, page.imagewidth)
    return bool(page.is_tiled and full.is_tiled and ratio.denominator == 1)


def channel_pages(file: TiffFile, path: str) -> tuple[list[TiffPage], tuple[str, ...]]:
    """The pages of the channels of an OME or ImageJ file at its first z and t, and what is left out.

    Empty where one page has all bands.

    Raises:
        SourceError: A channel lies in another file.
    """
    if not (file.is_ome or file.is_imagej) or not file.series:
        return [], ()
    series = file.series[0]
    lengths = dict(zip(series.axes, series.shape, strict=True))
    extra = series.axes[: len(series.axes) - len(series.keyframe.axes)]
    if "C" not in extra or series.keyframe.samplesperpixel != 1:
        return [], ()
    stride = prod(lengths[axis] for axis in extra[extra.index("C") + 1 :])
    pages = [series.pages[index * stride] for index in range(lengths["C"])]
    left = ", ".join(f"{axis}={lengths[axis]}" for axis in extra if axis != "C" and lengths[axis] > 1)
    notes = (f"only the first plane is read ({left})",) if left else ()
    found = [page.aspage() for page in pages if page is not None]
    if len(found) < len(pages):
        rule = "channels of the image lie in other files"
        raise SourceError(rule, value=f"{len(found)} of {len(pages)} here", file=path, advice="Export one file")
    return found, notes


def _runs(file: TiffFile) -> tuple[Layer, ...]:
    """Of a QPTIFF: its levels follow one another, each a run of one page a channel."""
    runs = [[page.aspage() for page in level.pages if page is not None] for level in file.series[0].levels]
    return tuple(Layer(size=page_size(run[0]), pages=tuple(run)) for run in runs)


def _channel_levels(first: Layer) -> Iterator[Layer]:
    subs = [list(first_pages(page.pages)) if page.pages is not None else [] for page in first.pages]
    for pages in zip(*subs, strict=False):
        if all(is_level(first.pages[0], page) for page in pages):
            yield Layer(size=page_size(pages[0]), pages=pages)


def _with_masks(pages: list[TiffPage], masks: dict[Size, TiffPage]) -> tuple[Layer, ...]:
    layers = [Layer(size=page_size(page), pages=(page,), mask=masks.get(page_size(page))) for page in pages]
    if layers[0].mask is not None:
        layers = [layer for layer in layers if layer.mask is not None]
    unique: list[Layer] = []
    for layer in layers:
        if all(layer.size != other.size for other in unique):
            unique.append(layer)
    return tuple(unique)


def _notes(page: TiffPage, chain: list[TiffPage], reduced: list[TiffPage]) -> tuple[str, ...]:
    used = {id(page), *(id(other) for other in reduced)}
    unused = sum(1 for other in chain if id(other) not in used and not other.subfiletype & MASK)
    return (f"other pictures in the file are not read: {unused}",) if unused else ()
