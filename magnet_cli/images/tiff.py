"""TIFF and BigTIFF: tags by tifffile, tiles and strips read and decoded one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Pitch
from magnet_cli.images import tiff_geo
from magnet_cli.images.blob import ChangedBlob
from magnet_cli.images.channels import scale_note
from magnet_cli.images.external import (
    CompletedStore,
    ExternalMask,
    StoredLevel,
    joined,
    open_external_mask,
    open_overviews,
    stores_bytes,
)
from magnet_cli.images.failures import naming
from magnet_cli.images.ground import ground_size
from magnet_cli.images.holes import FilledStore
from magnet_cli.images.lerc import LERC
from magnet_cli.images.levels import level_table
from magnet_cli.images.protocol import ImageInfo, Level, Resolution
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.resolution import Found, microscope, not_positive
from magnet_cli.images.sidecars import Sidecars, find_sidecars, unread_projection, world_endings
from magnet_cli.images.store import TRANSPOSED, OrientedStore, Store, oriented
from magnet_cli.images.tiff_bands import named_bands, refuse_other_colours
from magnet_cli.images.tiff_colour import (
    ASSOCIATED_ALPHA,
    JPEG_LIKE,
    OLD_JPEG,
    PALETTE,
    TOGETHER,
    UNASSOCIATED_ALPHA,
    YCBCR,
    Colour,
    alpha_note,
    alpha_sample,
    chroma_fault,
    colour,
    has_palette_and_alpha,
    has_whole_chroma,
    palette_fault,
    understood,
)
from magnet_cli.images.tiff_description import (
    band_scales,
    channel_names,
    described_objective,
    described_resolution,
    is_slide,
)
from magnet_cli.images.tiff_levels import find_layers
from magnet_cli.images.tiff_pages import Layer, find_contents, full_layer
from magnet_cli.images.tiff_store import CHUNK_BYTES, TILE_CACHE_BYTES, TiffStore, chunk_bytes
from magnet_cli.images.truncation import refuse_missing_tiles
from magnet_cli.images.urls import file_name, is_url
from magnet_cli.images.validity import storable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tifffile import TiffPage

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.cache import CacheBudget
    from magnet_cli.images.georeference import Georeference
    from magnet_cli.images.protocol import Alpha
    from magnet_cli.images.tiff_pages import Candidate, TiffContents, TiffImage
    from magnet_cli.images.vips import Picture

ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION = 274, 296, 282, 283
GPS = 34853
"""Code of the tag that points to EXIF's directory of coordinates."""
COMPLEX = (5, 6)
"""Values of the tag SampleFormat: complex whole and real numbers."""
LARGEST_STRIP = 1 << 30
"""Largest compressed strip that is decoded, in bytes: all of it has to be in memory."""
USUAL_STRIP = 32 << 20
"""Largest strip that libvips decodes within its own limits, in bytes."""
CONVERTED = (0, 1, 2, 3, 5, 8, 32844, 32845, 34892)
"""Photometric interpretations that libvips converts, or hands out as they are stored where that is their meaning:
grey, RGB, palettes, CMYK, L*a*b*, LogL, LogLuv, and the linear RGB of cameras."""
UNREAD = {4: "a transparency mask", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array"}
"""Photometric interpretations that libvips hands out as they are stored, as if they were grey or RGB."""
EXTRA = {0: "unspecified", 1: "associated alpha", 2: "unassociated alpha"}
"""Meanings of samples beside those of the colours, in words."""
EXTRA_SAMPLES = 338
"""Code of the tag that holds these meanings."""
PLAIN = (1, 2)
"""Photometric interpretations whose samples libvips hands out as they are stored."""

UNIT_UM = {2: 25400, 3: 10000}
"""Micrometres of the tag's inch and centimetre."""


@dataclass(frozen=True, kw_only=True)
class TiffFacts:
    """Facts about the image that the tags of the file state."""

    image: TiffImage
    layers: tuple[Layer, ...]
    """Levels that are read by region; level 0 alone where it is not."""
    colour: Colour | None
    """Meaning of the samples; None where they need a colour conversion."""
    orientation: int
    regional: bool
    """Whether the image can be decoded in pieces."""
    alpha: Alpha | None
    """How the band that is flagged as alpha is read; None where none is."""
    notes: tuple[str, ...]
    beside: Sidecars
    """Facts from the files beside the TIFF."""
    reference: Georeference
    """Georeference of the image, from its tags and sidecars."""

    @property
    def nodata(self) -> float | None:
        """The stored value of missing pixels, unless a mask marks the missing pixels: the mask has priority."""
        if self.beside.mask is not None or self.layers[0].mask is not None:
            return None
        return tiff_geo.nodata(self.layers[0].pages[0]) if self.reference.nodata is None else self.reference.nodata

    def tiles(self, blob: Blob, layers: Sequence[Layer], *, nodata: float | None) -> TiffStore:
        """Return the stored tiles of some layers."""
        found = self.colour or Colour(bands=(), dtype=np.dtype(np.uint8))
        siblings = self.image.siblings
        return TiffStore(blob, blob.name, layers=layers, colour=found, nodata=nodata, siblings=siblings)

    def store(self, blob: Blob, layers: Sequence[Layer], *, nodata: float | None) -> Store:
        """Return a store of the layers' pixels; missing tiles of reduced levels are made from the finer ones."""
        tiles = self.tiles(blob, layers, nodata=nodata)
        found = self.colour
        if found is None or not any(0 in page.databytecounts for layer in layers[1:] for page in layer.pages):
            return tiles
        return FilledStore(tiles, [layer.level for layer in layers], dtype=found.dtype, bands=len(found.bands))


def open_tiff(
    blob: Blob, *, cache: CacheBudget | None, series: str | int | None = None, alpha: Alpha = "mask"
) -> PyramidImage:
    """Open an image of a TIFF file.

    Args:
        blob: The file; closed with the image, or where this fails.
        cache: Disk for a one-time decode, where the file cannot be read by region.
        series: Number or name of the image that is read, where the file holds several; None for the largest.
        alpha: Meaning of a band that is flagged as alpha.

    Raises:
        SourceError: It is damaged, unsupported, or needs more disk than allowed.
    """
    try:
        advice = "Copy or export the file again"
        with (
            naming(blob.name, "the TIFF file cannot be understood", advice=advice),
            # With `_multifile` tifffile would open other files by names that this one states.
            tifffile.TiffFile(blob.stream(), name=file_name(blob.name), _multifile=False) as file,
        ):
            return _open(file, blob, cache, series, alpha)
    except SourceError:
        blob.close()
        raise


def _open(
    file: tifffile.TiffFile, blob: Blob, cache: CacheBudget | None, series: str | int | None, alpha: Alpha
) -> PyramidImage:
    # This comes first: tifffile decodes the tiles of these slides too, but without their vendors' arithmetic of colours
    # and places.
    refuse_remote_slide(file, blob)
    contents = find_contents(file, blob.name)
    index, image = contents.image(series, blob.name)
    try:
        return _open_image(contents, index, _facts(image, blob, alpha), blob, cache)
    except SourceError:
        for sibling in image.siblings.values():
            sibling.close()
        raise
    finally:
        for other in image.siblings:
            other.close()


def _open_image(
    contents: TiffContents, index: int, facts: TiffFacts, blob: Blob, cache: CacheBudget | None
) -> PyramidImage:
    used = [page for layer in facts.layers for page in layer.pages]
    masks = [layer.mask for layer in facts.layers if layer.mask is not None]
    # A file that ends too early is refused when it is opened: hours later its last rows would fail.
    refuse_missing_tiles([*used, *masks], blob.name)
    facts = replace(facts, notes=(*contents.notes(index, used), *facts.notes))
    if facts.colour is None or not facts.regional:
        found = _decode_once(facts, blob, cache)
    else:
        found = _by_region(facts, facts.colour, blob)
    return found.holding(contents.contents, index)


def _by_region(facts: TiffFacts, colour: Colour, blob: Blob) -> PyramidImage:
    """Open an image whose tiles or strips are decoded one by one."""
    info = _info(facts, colour, blob)
    own = facts.store(blob, facts.layers, nodata=info.nodata)
    levels, mask, notes = _beside(facts, colour, own, info.nodata)
    store: Store = own
    if mask is not None or len(levels) > len(facts.layers):
        store = CompletedStore(levels, mask, bands=len(info.bands))
    # Levels are turned after they are completed, because masks and overviews beside the file lie on the stored pixels.
    if facts.orientation != 1:
        store = OrientedStore(store, [level.size for level in levels], facts.orientation)
    info = replace(
        info,
        levels=tuple(_level(level, facts.orientation) for level in levels),
        has_mask=info.has_mask or mask is not None,
        resident_bytes=info.resident_bytes + _more_memory(levels, mask),
        notes=info.notes + notes,
    )
    return PyramidImage(info, store, by_band=colour.palette is None)


def _beside(
    facts: TiffFacts, colour: Colour, own: Store, nodata: float | None
) -> tuple[list[StoredLevel], ExternalMask | None, tuple[str, ...]]:
    """Return the levels of the file and its overviews, its external mask, and notes for the user."""
    levels = [
        StoredLevel(size=layer.size, downsample=layer.downsample, store=own, index=index)
        for index, layer in enumerate(facts.layers)
    ]
    full, notes, mask = facts.layers[0], [], None
    more: list[StoredLevel] = []
    if facts.beside.mask is not None:
        mask, note = open_external_mask(
            facts.beside.mask, full.size, samples=colour.stored_samples, bands=len(colour.bands)
        )
        notes.append(note)
    if facts.beside.overviews is not None and len(full.pages) == 1:
        try:
            more, note = open_overviews(facts.beside.overviews, full.pages[0], colour, nodata)
        except SourceError:
            if mask is not None:
                mask.close()
            raise
        notes.append(note)
    masked = full.mask is not None and mask is None
    return joined(levels, more, mask, masked=masked), mask, tuple(note for note in notes if note)


def _more_memory(levels: Sequence[StoredLevel], mask: ExternalMask | None) -> int:
    """Return the largest memory that files beside the image keep between reads, in bytes."""
    return stores_bytes(levels) + (mask.resident_bytes if mask else 0)


SLIDE_KINDS = ("philips", "scn", "bif", "ndpi")
"""Kinds of TIFF whose tiles need their vendor's arithmetic: OpenSlide has it, for files on this machine."""


def refuse_remote_slide(file: tifffile.TiffFile, blob: Blob) -> None:
    """Refuse a slide that needs OpenSlide and lies behind a URL.

    Raises:
        SourceError: The file is such a slide.
    """
    kind = next((kind for kind in SLIDE_KINDS if getattr(file, f"is_{kind}")), None)
    if kind is not None and is_url(blob.name):
        raise SourceError(
            "slides of this vendor are read by OpenSlide, from a disk only",
            value=kind,
            file=blob.name,
            advice="Download the slide",
        )


def _facts(image: TiffImage, blob: Blob, alpha: Alpha) -> TiffFacts:
    page, full = image.pages[0], full_layer(image)
    if page.sampleformat in COMPLEX:
        raise SourceError(
            "complex numbers are not read as an image",
            value=f"{page.bitspersample} bits a sample",
            file=blob.name,
            advice="Write their amplitude as a TIFF of floats",
        )
    if len(image.pages) > 1 and page.samplesperpixel > 1:
        raise SourceError(
            "channels that have several samples a pixel each are not read",
            value=f"{len(image.pages)} channels of {page.samplesperpixel} samples",
            file=blob.name,
            advice="Export one channel, or all channels as grey",
        )
    fault = palette_fault(page)
    if fault is not None:
        raise SourceError(
            "a palette has as many numbers for red as for green and for blue",
            value=fault,
            file=blob.name,
            advice="The file is damaged: export it again",
        )
    clear = understood(page)
    regional = clear and _regional(image.pages)
    placed = is_url(blob.name) and tiff_geo.page_georeference(page).geotransform is not None
    beside = find_sidecars(blob.name, world=world_endings(PurePath(file_name(blob.name)).suffix), placed=placed)
    if clear and len(image.pages) == 1:
        refuse_other_colours(page, beside.names, blob.name)
    reference = tiff_geo.page_georeference(page, beside)
    orientation, said = stored_orientation(page, reference)
    if reference.crs is None and (note := unread_projection(blob.name)):
        said += (note,)
    scales, offsets = band_scales(page)
    said += scale_note((*scales, *beside.scales), (*offsets, *beside.offsets))
    facts = TiffFacts(
        image=image,
        layers=(full,),
        colour=_colour(image, alpha, beside) if clear else None,
        alpha=alpha if alpha_sample(page) is not None else None,
        orientation=orientation,
        regional=regional,
        notes=(*image.notes, *said, *reference.notes),
        beside=beside,
        reference=reference,
    )
    if facts.colour is None or not regional:
        return facts
    layers, others = find_layers(
        image,
        facts.colour,
        partial(_usable, facts.colour, alpha),
        lambda layers: facts.tiles(blob, layers, nodata=None),
    )
    return replace(facts, layers=layers, notes=(*facts.notes, *others))


def stored_orientation(page: TiffPage, reference: Georeference) -> tuple[int, tuple[str, ...]]:
    """Return how pixels have to be turned, 1 to 8 as in tag 274, and what to tell the user about it.

    A georeference belongs to the pixels as they are stored, so an image with one is not turned; nor does GDAL turn it.
    """
    found = int(page.tags.valueof(ORIENTATION, 1))
    if found not in range(1, 9):
        return 1, (f"an orientation of {found} has no meaning: ignored",)
    if found != 1 and reference.is_placed:
        return 1, (
            f"the orientation tag ({found}) is ignored, as GDAL does: the georeference belongs to the stored pixels",
        )
    return found, () if found == 1 else (f"the orientation tag ({found}) was applied",)


def _usable(full: Colour, alpha: Alpha, candidate: Candidate) -> bool:
    """Return whether pages can be read by region and hold samples of the same meaning as level 0."""
    if any(palette_fault(page) for page in candidate.pages):
        return False
    if not all(map(understood, candidate.pages)) or not _regional(candidate.pages):
        return False
    found = colour(candidate.pages[0], len(candidate.pages), alpha=alpha)
    # A palette of its own gives a reduced level other colours, so its pixels cannot stand for those of level 0.
    palettes = [None if one.palette is None else one.palette.tobytes() for one in (full, found)]
    same = ("dtype", "alpha", "inverted", "luma", "stored_samples")
    return palettes[0] == palettes[1] and all(getattr(full, name) == getattr(found, name) for name in same)


def _colour(image: TiffImage, alpha: Alpha, beside: Sidecars) -> Colour:
    pages = image.pages
    found = colour(pages[0], len(pages), alpha=alpha)
    if len(pages) > 1:
        described = () if image.ome is None else image.ome.channel_names
        return replace(found, bands=channel_names(pages, described) or found.bands)
    return replace(found, bands=named_bands(pages[0], found, beside.names))


def _regional(pages: Sequence[TiffPage]) -> bool:
    return all(understood(page) and (page.is_contiguous or chunk_bytes(page) <= CHUNK_BYTES) for page in pages)


def _info(facts: TiffFacts, colour: Colour, blob: Blob) -> ImageInfo:
    page = facts.layers[0].pages[0]
    size = oriented(facts.layers[0].size, facts.orientation)
    nodata = storable(facts.nodata, colour.dtype)
    masks = nodata is not None or colour.dtype.kind == "f" or colour.alpha is not None
    info = ImageInfo(
        path=blob.name,
        backend="tiff",
        size=size,
        levels=level_table(size, []),
        bands=colour.bands,
        dtype=colour.dtype.name,
        bilevel=np.dtype(page.dtype or np.uint8).kind == "b" and colour.palette is None,
        nodata=nodata,
        alpha=facts.alpha,
        has_mask=masks or _sparse(facts.layers),
        is_slide=is_slide(page),
        crs=facts.reference.name,
        geo_tags=facts.reference.tags,
        resident_bytes=TILE_CACHE_BYTES + blob.resident_bytes,
        notes=(*facts.notes, *colour.notes),
    )
    return _with_resolution(info, facts)


def _level(stored: StoredLevel, orientation: int) -> Level:
    """Return a level, turned as the image is."""
    step = stored.downsample
    turned = Pitch(x=step.y, y=step.x) if orientation in TRANSPOSED else step
    return Level(size=oriented(stored.size, orientation), downsample=turned)


def _sparse(layers: Sequence[Layer]) -> bool:
    """Return whether pixels may lack data: by a mask page, by their codec, or by a missing tile of level 0."""
    if any(layer.mask is not None or layer.pages[0].compression == LERC for layer in layers):
        return True
    return any(0 in page.databytecounts for page in layers[0].pages)


def _with_resolution(info: ImageInfo, facts: TiffFacts) -> ImageInfo:
    page, ome = facts.image.pages[0], facts.image.ome
    found, notes = ground_size(facts.reference, info.size)
    if found is None and not notes and not facts.reference.is_placed:
        found, notes = (
            (ome.resolution, ()) if ome is not None and (ome.resolution or ome.notes) else _tag_resolution(page)
        )
    if found is not None and facts.orientation in TRANSPOSED:
        # Tags describe the stored pixels, and turning by 90 degrees exchanges their sides.
        found = Resolution(x=found.y, y=found.x, unit=found.unit)
    power = described_objective(page) if ome is None else ome.objective
    return replace(info, resolution=found, objective=power, notes=info.notes + notes)


def _tag_resolution(page: TiffPage) -> Found:
    described = described_resolution(page)
    if described != (None, ()) or _is_of_the_ground(page):
        return described
    unit = UNIT_UM.get(int(page.tags.valueof(RESOLUTION_UNIT, 2)))
    said = [page.tags.valueof(code, None) for code in (X_RESOLUTION, Y_RESOLUTION)]
    if unit is None or not all(isinstance(value, tuple) and len(value) == 2 for value in said):  # noqa: PLR2004 (a rational)
        return None, ()
    if any(part < 1 for value in said for part in value):
        # Programs write 0 or 1/0 where they do not know the density. It is no size of a pixel.
        return None, (not_positive(*("/".join(map(str, value)) for value in said)),)
    x, y = (Fraction(*value) for value in said)
    return microscope(unit / x, unit / y)


def _is_of_the_ground(page: TiffPage) -> bool:
    """Return whether tags describe a map or an aerial photograph, whose density is that of a print."""
    return GPS in page.tags or any(code != tiff_geo.NODATA for code, *_ in tiff_geo.geo_tags(page))


def _refuse_colours(page: TiffPage, path: str) -> None:
    """Refuse colours that libvips would hand out as they are stored, as if they were red, green and blue.

    Raises:
        SourceError: The page has such colours.
    """
    kind = int(page.photometric)
    advice = "Convert the image to RGB or grey"
    if kind == PALETTE and page.samplesperpixel > 1:
        if has_palette_and_alpha(page):
            return
        rule = "beside a palette's indices of 8 bits, one sample of unassociated alpha is read, stored pixel by pixel"
        extra = ", ".join(EXTRA.get(int(sample), f"kind {int(sample)}") for sample in page.extrasamples)
        apart = "" if page.planarconfig == TOGETHER else ", stored apart"
        value = (
            f"{page.samplesperpixel} samples of {page.bitspersample} bits{apart}, further ones: {extra or 'unnamed'}"
        )
    elif kind == YCBCR and page.compression not in JPEG_LIKE and has_whole_chroma(page):
        # libvips converts chroma that is subsampled, and no other.
        rule = "YCbCr without JPEG is read as three samples of 8 bits in JFIF's coefficients and the whole range"
        value = chroma_fault(page) or "a strip or tile that is too large to be read by region"
    elif kind in (*CONVERTED, YCBCR):
        return
    else:
        rule = "this kind of colours is not read"
        named = f"photometric interpretation {kind}"
        value = f"{UNREAD[kind]}, {named}" if kind in UNREAD else named
    raise SourceError(rule, value=value, file=path, advice=advice)


def _picture(facts: TiffFacts, blob: Blob) -> Picture:
    """Return the facts about a picture that libvips decodes, with the meaning that the tags give to its samples.

    libvips takes each sample beside the colours for alpha, and floats of red, green and blue for linear light. It
    divides colours by associated alpha, which loses values, so it is told that alpha is unassociated.

    Raises:
        SourceError: libvips cannot read the picture.
    """
    from magnet_cli.images.vips import read_header  # noqa: PLC0415 (pyvips is seldom needed)

    page = facts.layers[0].pages[0]
    plain = page.photometric in PLAIN
    header = read_header(_undivided(page, blob), "band", page=facts.image.number, as_stored=plain)
    picture = replace(header, notes=())  # the tags say more of orientation and density
    flagged = alpha_sample(page)
    if page.photometric == YCBCR and picture.bands == page.samplesperpixel + 1:
        # libtiff decodes YCbCr without JPEG to red, green, blue and an alpha that the file does not have.
        return replace(picture, bands=page.samplesperpixel, transparent=page.samplesperpixel, alpha_is_band=False)
    if flagged is None or facts.alpha is None:
        return replace(picture, alpha_is_band=False)
    # Colours come first, however many they become, and as many samples follow alpha as in the file.
    place = picture.bands - (page.samplesperpixel - flagged)
    picture = replace(picture, notes=(alpha_note(place + 1, facts.alpha),), alpha_is_band=True)
    if facts.alpha == "band":
        return picture
    return replace(picture, bands=picture.bands - 1, transparent=place, alpha_is_band=False)


def _undivided(page: TiffPage, blob: Blob) -> Blob:
    """Return a TIFF whose associated alpha is called unassociated, so that no decoder divides colours by it."""
    tag = page.tags.get(EXTRA_SAMPLES)
    if tag is None or ASSOCIATED_ALPHA not in page.extrasamples:
        return blob
    kinds = np.ravel(tag.value)
    width = tag.valuebytecount // kinds.size
    kinds = np.where(kinds == ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA, kinds).astype(f"{page.parent.byteorder}u{width}")
    return ChangedBlob(blob, offset=tag.valueoffset, data=kinds.tobytes())


def _decode_once(facts: TiffFacts, blob: Blob, cache: CacheBudget | None) -> PyramidImage:
    from magnet_cli.images.vips import decoded_store, finished, picture_info  # noqa: PLC0415 (pyvips is seldom needed)

    layer, path = facts.layers[0], blob.name
    if layer.pages[0].compression == OLD_JPEG:
        rule, advice = "old-style JPEG compression is not read", "Convert it to a tiled TIFF with another compression"
        raise SourceError(rule, value="compression 6", file=path, advice=advice)
    _refuse_colours(layer.pages[0], path)
    if len(layer.pages) > 1:
        rule = "channels on pages of their own must be readable by region"
        raise SourceError(rule, value=f"{len(layer.pages)} pages", file=path, advice="Convert it to a tiled TIFF")
    if layer.mask is not None:
        raise SourceError(
            "an image with a mask page must be readable by region", file=path, advice="Convert it to a tiled TIFF"
        )
    strip = chunk_bytes(layer.pages[0])
    if strip > LARGEST_STRIP:
        raise SourceError(
            f"one strip holds {strip:,} bytes, and to decode it all of them have to be in memory",
            value=f"at most {LARGEST_STRIP:,} are taken",
            file=path,
            advice="Convert it to a tiled TIFF",
        )
    picture = replace(_picture(facts, blob), orientation=1, strip_bytes=strip if strip > USUAL_STRIP else 0)
    nodata = storable(facts.nodata, picture.dtype)
    if nodata is not None and layer.pages[0].photometric not in PLAIN:
        raise SourceError(
            "nodata in converted colours needs an image that can be read by region",
            value=nodata,
            file=path,
            advice="Convert it to a tiled TIFF",
        )
    notes = (*facts.notes, *picture.notes, *picture.whole_notes)
    if facts.beside.overviews is not None:
        notes += (
            f"{file_name(facts.beside.overviews)} beside the image is not read: the image is decoded once instead",
        )
    plain = picture_info(picture)
    size = oriented(picture.size, facts.orientation)
    info = replace(
        plain,
        size=size,
        levels=level_table(size, []),
        bands=plain.bands if facts.colour is None else facts.colour.bands,
        crs=facts.reference.name,
        geo_tags=facts.reference.tags,
        nodata=nodata,
        has_mask=plain.has_mask or nodata is not None,
        notes=notes,
    )
    return finished(
        _with_resolution(info, facts),
        decoded_store(picture, cache=cache, nodata=nodata),
        mask=facts.beside.mask,
        stored=picture.size,
        orientation=facts.orientation,
    )
