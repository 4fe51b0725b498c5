"""The images of a TIFF: which pages are their level 0, which may be reduced levels, and which are masks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Pitch, Size
from magnet_cli.images.contents import Content, choose, largest, others
from magnet_cli.images.failures import check_pixels
from magnet_cli.images.levels import placements
from magnet_cli.images.ome import OmeError, is_ome, parse_ome
from magnet_cli.images.ome_files import OmeFiles, page_of
from magnet_cli.images.protocol import Level
from magnet_cli.images.tiff_description import aperio_kind, description, is_slide, qpi_kind
from magnet_cli.images.truncation import MAX_PAGES, refuse_truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tifffile import TiffFile, TiffPage, TiffPages

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.ome import Ome, OmeImage

REDUCED, MASK, MACRO = 1, 4, 8
"""Bits of NewSubfileType; scanners mark the overview of a whole glass slide by the last."""

PAGE_NAME = 285


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Pages that may be a reduced level of an image, one page or one a band."""

    pages: tuple[TiffPage, ...]
    stated: bool
    """Whether the file states that the pages are a level; otherwise their content decides."""

    @property
    def size(self) -> Size:
        """Size of the page in stored pixels."""
        return page_size(self.pages[0])

    @property
    def tile(self) -> Size | None:
        """Size of the stored tiles; None where the page has strips."""
        page = self.pages[0]
        return Size(width=page.tilewidth, height=page.tilelength) if page.is_tiled else None


@dataclass(frozen=True, kw_only=True)
class TiffImage:
    """One image of a TIFF."""

    pages: tuple[TiffPage, ...]
    """Pages of level 0: one page, or one a band."""
    candidates: tuple[Candidate, ...] = ()
    """Pages that may be reduced levels of the image, largest first."""
    masks: Mapping[Size, TiffPage] = field(default_factory=dict)
    """Pages that are non-zero where data is, by their size."""
    number: int = 0
    """Number of the image's first page in the page chain of the file."""
    ome: OmeImage | None = None
    siblings: Mapping[TiffFile, Blob] = field(default_factory=dict)
    """Other files that hold pages of the image, by their tables."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TiffContents:
    """The images of a TIFF; opening one reads its page tables."""

    contents: tuple[Content, ...]
    default: int
    """Position of the image that is read where the user chooses none."""
    build: Callable[[int], TiffImage]
    shown: tuple[TiffPage, ...] = ()
    """Page of each image where these form one chain; a level of one image may then be another image of the list."""

    def image(self, series: str | int | None, path: str) -> tuple[int, TiffImage]:
        """Return the image that is asked for, and its position.

        Raises:
            SourceError: There is no such image, or a part of it is missing.
        """
        index = choose(self.contents, series, default=self.default, path=path)
        return index, self.build(index)

    def notes(self, index: int, used: Sequence[TiffPage]) -> tuple[str, ...]:
        """Return the note on the images that are not read, without those that are levels of the one that is."""
        hidden = [position for position, page in enumerate(self.shown) if any(page is one for one in used)]
        return others(self.contents, index, hidden=hidden)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A level of an image, with the pages that hold it."""

    size: Size
    """Size of the level in pixels; the pages may be padded beyond it."""
    downsample: Pitch
    pages: tuple[TiffPage, ...]
    """Pages of the level: one page, or one a band."""
    mask: TiffPage | None = None
    """Page that is non-zero where the level holds data; None where there is none."""

    @property
    def level(self) -> Level:
        """Size and downsample of the layer."""
        return Level(size=self.size, downsample=self.downsample)


def full_layer(image: TiffImage) -> Layer:
    """Return the layer of level 0."""
    size = page_size(image.pages[0])
    return Layer(size=size, downsample=LEVEL0, pages=image.pages, mask=image.masks.get(size))


def find_contents(file: TiffFile, path: str) -> TiffContents:
    """Find the images that a TIFF holds.

    Args:
        file: The opened file.
        path: Path of the file for error messages, and to find the other pieces of a multi-file OME-TIFF.

    Raises:
        SourceError: The file holds no picture, or one of an absurd size; or it is a piece of a multi-file OME-TIFF
            whose description is not there; or it is truncated.
    """
    first = next(first_pages(file.pages), None)
    if first is None:
        refuse_truncated(file, path)
        raise SourceError("the TIFF file holds no readable page", file=path, advice="Copy or export the file again")
    check_size(first, path)
    fault = refuse_truncated(file, path)
    found = _contents(file, first, path)
    return _noted(found, fault) if fault else found


def _contents(file: TiffFile, first: TiffPage, path: str) -> TiffContents:
    """Find the images of a file whose chain of directories is whole."""
    if file.is_qpi and first.samplesperpixel == 1 and len(file.series[0].pages) > 1:
        runs = _runs(file)
        return _one(TiffImage(pages=runs[0], candidates=tuple(map(_stated, runs[1:]))))
    if is_ome(description(first)):
        return _ome_contents(file, path)
    if file.is_imagej and file.series:
        found = _imagej(file, path)
        if found is not None:
            return _one(found)
    return _chain_contents(file)


def _one(image: TiffImage) -> TiffContents:
    content = Content(name="", size=page_size(image.pages[0]))
    return TiffContents(contents=(content,), default=0, build=lambda _: image)


def page_size(page: TiffPage) -> Size:
    """Return the size of a page in stored pixels."""
    return Size(width=page.imagewidth, height=page.imagelength)


def check_size(page: TiffPage, path: str) -> None:
    """Refuse a page without pixels, or with more than any file holds.

    Raises:
        SourceError: The size of the page is zero or absurd.
    """
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1 or page.samplesperpixel < 1 or page.imagedepth != 1:
        raise SourceError(
            "the image has no pixels, or is a volume",
            value=f"{width} x {height}",
            file=path,
            advice="Export one plane of it as a TIFF",
        )
    check_pixels(width, height, path)


def first_pages(pages: TiffPages) -> Iterator[TiffPage]:
    """Return the pages of a chain, up to `MAX_PAGES`."""
    # A damaged or hostile file may link its directories in a circle.
    for index in range(MAX_PAGES):
        try:
            page = pages[index]
        except IndexError:
            return
        yield page.aspage()


def fits(full: TiffPage, page: TiffPage) -> bool:
    """Return whether a page has the samples of another and the shape of a smaller version of it."""
    if page.imagewidth < 1 or page.imagelength < 1:
        return False
    if (page.samplesperpixel, page.dtype) != (full.samplesperpixel, full.dtype):
        return False
    candidate = Candidate(pages=(page,), stated=False)
    return bool(placements(page_size(full), candidate.size, tile=candidate.tile))


def _stated(pages: Sequence[TiffPage]) -> Candidate:
    return Candidate(pages=tuple(pages), stated=True)


def _sub_pages(pages: Sequence[TiffPage], *, stated: bool) -> list[Candidate]:
    """Return the SubIFDs of the pages of level 0, those of the same position together."""
    subs = [list(first_pages(page.pages)) if page.pages is not None else [] for page in pages]
    found = []
    for group in zip(*subs, strict=False):
        reduced = all(sub.subfiletype & REDUCED and not sub.subfiletype & (MASK | MACRO) for sub in group)
        if all(not sub.subfiletype & MASK and fits(full, sub) for full, sub in zip(pages, group, strict=True)):
            found.append(Candidate(pages=tuple(group), stated=stated or reduced))
    return found


def _sorted(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(candidates, key=lambda candidate: -candidate.size.width))


def _masks(full: TiffPage, chain: Sequence[TiffPage]) -> dict[Size, TiffPage]:
    subs = list(first_pages(full.pages)) if full.pages is not None else []
    return {page_size(page): page for page in (*subs, *chain) if page is not full and page.subfiletype & MASK}


def _runs(file: TiffFile) -> list[tuple[TiffPage, ...]]:
    """Return the levels of a QPTIFF, whose pages follow one another level by level, one page a channel."""
    return [tuple(page.aspage() for page in level.pages if page is not None) for level in file.series[0].levels]


# These are pages of one chain.


def _chain_contents(file: TiffFile) -> TiffContents:
    """Return the pages that are neither a mask nor a stated level of another: each is an image."""
    chain = list(first_pages(file.pages))
    # Aperio leaves NewSubfileType at 0 for levels and marks only label and macro picture with it, so the descriptions
    # of the pages say what they are.
    slide = is_slide(chain[0])
    chain = [page for page in chain if min(page.imagewidth, page.imagelength) > 0]
    pictures = [page for page in chain if not page.subfiletype & MASK]
    fulls = [chain[0]] if slide else [page for page in pictures if not page.subfiletype & REDUCED] or [chain[0]]
    levels = [page for page in pictures if page not in fulls and any(_is_stated(full, page, fulls) for full in fulls)]
    shown = [page for page in pictures if page not in levels] or [chain[0]]
    contents = tuple(Content(name=_page_name(page, slide=slide), size=page_size(page)) for page in shown)
    default = 0 if slide else largest(contents, [shown.index(page) for page in fulls if page in shown])
    return TiffContents(
        contents=contents,
        default=default,
        build=lambda index: _page_image(shown[index], chain, fulls),
        shown=tuple(shown),
    )


def _page_image(full: TiffPage, chain: list[TiffPage], fulls: list[TiffPage]) -> TiffImage:
    found = _sub_pages([full], stated=False)
    for page in chain:
        if page is full or page.subfiletype & MASK or not fits(full, page):
            continue
        if _is_stated(full, page, fulls):
            found.append(Candidate(pages=(page,), stated=True))
        elif _has_shape(full, page):
            found.append(Candidate(pages=(page,), stated=False))
    return TiffImage(pages=(full,), candidates=_sorted(found), masks=_masks(full, chain), number=chain.index(full))


def _is_stated(full: TiffPage, page: TiffPage, fulls: list[TiffPage]) -> bool:
    """Return whether the file says that a page is a level of another."""
    if not page.is_tiled or page.subfiletype & MACRO or not fits(full, page):
        return False
    if is_slide(full):
        return aperio_kind(page) == "level"
    if qpi_kind(full):
        return qpi_kind(page) == "ReducedResolution"
    return bool(page.subfiletype & REDUCED) and (_follows(full, page) or sum(fits(other, page) for other in fulls) == 1)


def _follows(full: TiffPage, page: TiffPage) -> bool:
    """Return whether only reduced pages and masks lie between two pages: programs write a pyramid in one run."""
    chain = full.parent.pages
    if page.index <= full.index:
        return False
    return all(chain[index].aspage().subfiletype & (REDUCED | MASK) for index in range(full.index + 1, page.index))


def _has_shape(full: TiffPage, page: TiffPage) -> bool:
    """Return whether a page that the file does not call a level may be one: reduced by its tag, or tiled as level 0 is.

    Slides have label, macro picture and thumbnail beside their levels, in strips or named.
    """
    if page.subfiletype & MACRO:
        return False
    if is_slide(full):
        return bool(page.is_tiled) and not aperio_kind(page)
    if qpi_kind(full):
        return False
    return bool(page.subfiletype & REDUCED or (page.is_tiled and full.is_tiled))


def _page_name(page: TiffPage, *, slide: bool) -> str:
    if slide:
        kind = aperio_kind(page)
        if kind not in ("", "level"):
            return kind
        return "macro" if page.subfiletype & MACRO else "label" if page.subfiletype & REDUCED else ""
    name = page.tags.valueof(PAGE_NAME, "")
    return qpi_kind(page) or (name.strip() if isinstance(name, str) else "")


# Hyperstacks of ImageJ are described in their own way.


def _imagej(file: TiffFile, path: str) -> TiffImage | None:
    """Return the channels at the first z and t; None where one page has all bands."""
    series = file.series[0]
    lengths = dict(zip(series.axes, series.shape, strict=True))
    extra = series.axes[: len(series.axes) - len(series.keyframe.axes)]
    if "C" not in extra or series.keyframe.samplesperpixel != 1:
        return None
    stride = prod(lengths[axis] for axis in extra[extra.index("C") + 1 :])
    pages = [series.pages[index * stride] for index in range(lengths["C"])]
    left = ", ".join(f"{axis}={lengths[axis]}" for axis in extra if axis != "C" and lengths[axis] > 1)
    found = [page.aspage() for page in pages if page is not None]
    if len(found) < len(pages):
        rule = "channels of the image are not in the file"
        raise SourceError(rule, value=f"{len(found)} of {len(pages)} here", file=path, advice="Export one file")
    return TiffImage(
        pages=tuple(found),
        candidates=_sorted(_sub_pages(found, stated=False)),
        notes=(f"only the first plane is read ({left})",) if left else (),
    )


# OME-TIFF.


def _ome_contents(file: TiffFile, path: str) -> TiffContents:
    files, first = OmeFiles(path), file.pages.first
    try:
        ome = files.whole(parse_ome(description(first), own=files.name))
    except OmeError as error:
        return _noted(_chain_contents(file), f"{error}: only the pages are read")
    if not ome.images:
        stale = "the OME-XML describes no image: only the pages are read"
        return _noted(_chain_contents(file), stale)
    if len(ome.images) == 1 and not ome.images[0].files and ome.images[0].size != page_size(first):
        # A program has cropped or scaled the image and copied its description, which is of other pixels now.
        stale = f"the OME-XML describes {ome.images[0].size} pixels, and the page has {page_size(first)}"
        return _noted(_chain_contents(file), f"{stale}: the description is ignored")
    contents = tuple(Content(name=image.name, size=image.size) for image in ome.images)
    return TiffContents(contents=contents, default=largest(contents), build=partial(_ome_image, ome, file, files))


def _noted(found: TiffContents, note: str) -> TiffContents:
    def build(index: int) -> TiffImage:
        image = found.build(index)
        return replace(image, notes=(*image.notes, note))

    return replace(found, build=build)


def _ome_image(ome: Ome, file: TiffFile, files: OmeFiles, index: int) -> TiffImage:
    """Return an image of an OME-TIFF: the pages of its channels, in whichever file they lie, and their SubIFDs.

    Raises:
        SourceError: A page is missing, or has not the size that the description states.
    """
    image = ome.images[index]
    try:
        pages = files.pages(image, partial(page_of, file))
        return _described_image(image, pages, file, files, alone=len(ome.images) == 1)
    except SourceError:
        for blob in files.blobs.values():
            blob.close()
        raise


def _described_image(
    image: OmeImage, pages: list[TiffPage], file: TiffFile, files: OmeFiles, *, alone: bool
) -> TiffImage:
    count = len(pages)
    if pages[0].samplesperpixel > 1 and count * pages[0].samplesperpixel > image.samples:
        # Some programs store colours interleaved, and describe them as one channel a sample.
        pages = pages[:1]
    for page in pages:
        check_size(page, files.path)
        alike = (page.dtype, page.samplesperpixel) == (pages[0].dtype, pages[0].samplesperpixel)
        if page_size(page) != image.size or not alike:
            raise SourceError(
                f"the OME-XML describes {image.size} pixels of {pages[0].dtype} and the file holds something else",
                value=f"{page_size(page)} pixels of {page.dtype}",
                file=files.path,
                advice="Export the file again, or remove its description",
            )
    found = _sub_pages(pages, stated=True)
    # Masks and reduced pages that follow in the chain are those of the only image, whose planes are few.
    chain = list(first_pages(file.pages)) if len(pages) == 1 and alone else []
    if not found:
        # Pyramids whose reduced pages follow in the chain, which the description does not mention.
        found = [
            Candidate(pages=(page,), stated=False)
            for page in chain
            if page.subfiletype & REDUCED and not page.subfiletype & (MASK | MACRO) and fits(pages[0], page)
        ]
    notes = [f"{axis}={length}" for axis, length in (("T", image.times), ("Z", image.depth)) if length > 1]
    return TiffImage(
        pages=tuple(pages),
        candidates=_sorted(found),
        masks=_masks(pages[0], chain),
        number=pages[0].index,
        ome=image,
        siblings=files.blobs,
        notes=(
            *((f"only the first plane is read ({', '.join(notes)})",) if notes else ()),
            *files.notes(image),
            *image.notes,
        ),
    )
