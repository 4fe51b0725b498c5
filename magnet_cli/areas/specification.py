"""Descriptions of areas, made from the options before a pixel is read, and the areas opened from them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from magnet_cli.areas.area import Both, percent
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box
from magnet_cli.images import check_place, fingerprint, inspect
from magnet_cli.options.regions import spell_roi
from magnet_cli.plan import AreaSpec
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path
    from typing import Any

    from magnet_cli.areas.area import Area
    from magnet_cli.areas.polygons import Polygons
    from magnet_cli.geometry import Size
    from magnet_cli.images import Image, ImageInfo
    from magnet_cli.options.segment import SegmentOptions

ASPECT_TOLERANCE = 0.01
"""Relative difference of the axes' scales beyond which a mask was made for another image."""
COLOURS = ("red", "green", "blue")
TISSUE_METHOD = "glass-3"
"""Name of the arithmetic that finds tissue, raised when it changes: a mask made by another one is another mask."""


def specify(options: SegmentOptions, info: ImageInfo) -> tuple[AreaSpec, ...]:
    """Describe the areas that the options name, checked against an image; none of its pixels is decoded.

    Raises:
        SourceError: A file cannot be read, or lies elsewhere than the image.
        UsageError: Tissue is asked for on an image without colours.
    """
    found = []
    if options.roi is not None:
        found.append(specify_roi(options.roi, info))
    if options.mask is not None:
        found.append(_mask_spec(options.mask, info))
    if _wants_tissue(options, info):
        from magnet_cli.areas.tissue import tissue_bytes  # noqa: PLC0415 - as below

        spec = AreaSpec(kind="tissue", source="by colour", digest=TISSUE_METHOD, resident_bytes=tissue_bytes(info.size))
        found.append(spec)
    return tuple(found)


def specify_roi(roi: Box | Path, info: ImageInfo) -> AreaSpec:
    """Describe a region of interest, checked against an image; none of its pixels is decoded.

    Args:
        roi: A box in level-0 pixels, or a GeoJSON file.
        info: Facts about the image.

    Raises:
        SourceError: The file cannot be read, or the region lies outside the image.
    """
    return _box_spec(roi, info) if isinstance(roi, Box) else _file_spec(roi, info)


def open_roi(spec: AreaSpec, info: ImageInfo) -> Polygons:
    """Open the region of interest that `specify_roi` describes.

    Raises:
        SourceError: Its file cannot be read.
    """
    from magnet_cli.areas.polygons import Polygons  # noqa: PLC0415 - shapely is needed with --roi alone

    geometry = _rectangle(spec.box) if spec.box is not None else _geometry(spec.source, info)[0]
    return Polygons(geometry, info.size)


@dataclass(frozen=True, kw_only=True)
class OpenedAreas:
    """The opened areas of a plan."""

    area: Area | None
    """Intersection of the plan's areas; None where the plan has none."""
    shares: tuple[float, ...] = ()
    """Share of the image that each area covers, 0 to 1, in the order of the plan's areas."""
    notes: tuple[str, ...] = ()
    """A note for the user on each area: how much of the image it covers, and what tissue detection left out."""


def open_area(plan_areas: tuple[AreaSpec, ...], image: Image, resources: ExitStack) -> OpenedAreas:
    """Open the areas of a plan.

    Args:
        plan_areas: Descriptions of the areas, as `specify` returns them.
        image: Image in which tissue is detected.
        resources: Stack that closes the files of the areas.

    Raises:
        SourceError: A file cannot be read.
    """
    areas = [_opened(spec, image, resources) for spec in plan_areas]
    if not areas:
        return OpenedAreas(area=None)
    return OpenedAreas(
        area=areas[0] if len(areas) == 1 else Both(areas=areas),
        shares=tuple(area.share for area in areas),
        notes=tuple(_coverage(spec, area) for spec, area in zip(plan_areas, areas, strict=True)),
    )


def _coverage(spec: AreaSpec, area: Any) -> str:
    """Return the sentences that tell a user how much of the image an area covers."""
    name = "Tissue" if spec.kind == "tissue" else f"--{spec.kind}"
    sentences = [f"{name} covers {percent(area.share)} of the image; the rest is skipped."]
    if area.share == 1:
        sentences = [f"{name} covers the whole image."]
    if spec.kind == "tissue":
        advice = [] if area.share == 1 else ["Use --tissue none to segment all of it."]
        sentences += [*advice, area.explained]
    return " ".join(sentences)


def _opened(spec: AreaSpec, image: Image, resources: ExitStack) -> Any:
    if spec.kind == "roi":
        return open_roi(spec, image.info)
    if spec.kind == "mask":
        return _open_mask(spec.source, image.info.size, resources)
    from magnet_cli.areas.tissue import find_tissue  # noqa: PLC0415 - as above

    return find_tissue(image)


def _box_spec(box: Box, info: ImageInfo) -> AreaSpec:
    inside = box.intersection(Box.whole(info.size))
    if not inside.area:
        raise SourceError(
            f"the region lies outside the image, which has {info.size} pixels",
            value=f"--roi {spell_roi(box)}",
            file=info.path,
            advice="Give --roi X,Y,WIDTH,HEIGHT in pixels of the full resolution, counted from the upper left corner",
        )
    notes = (
        () if inside == box else (f"--roi {spell_roi(box)} reaches beyond the image: only {spell_roi(inside)} is used",)
    )
    return AreaSpec(kind="roi", source=str(inside), digest=str(inside), box=inside, notes=notes)


def _file_spec(path: Path, info: ImageInfo) -> AreaSpec:
    _, notes = _geometry(str(path), info)
    return AreaSpec(kind="roi", source=str(path), digest=regular_files.sha256_of(path), notes=notes)


def _geometry(path: str, info: ImageInfo) -> tuple[Any, tuple[str, ...]]:
    """Return the polygons of a file, which lie on the image at least in part."""
    import shapely  # noqa: PLC0415 - as above

    from magnet_cli.areas.features import read_geojson  # noqa: PLC0415 - as above
    from magnet_cli.areas.polygons import Polygons  # noqa: PLC0415 - as above

    geometry, notes = read_geojson(path, info)
    if not Polygons(geometry, info.size).covers_pixels():
        near = shapely.intersects(geometry, shapely.box(0, 0, info.size.width, info.size.height))
        where = "cover no pixel of" if near else "lie outside"
        bounds = shapely.bounds(geometry)
        extent = ", ".join(f"{value:g}" for value in bounds)
        advice = (
            "Give coordinates in pixels of the full resolution, or in the system that the file names in crs; on a "
            "georeferenced image they may be longitude and latitude"
        )
        if info.crs is None and -info.size.height <= bounds[1] and bounds[3] <= 0:
            advice = "QGIS draws an image without a georeference below y = 0: change the sign of all y"
        raise SourceError(
            f"the polygons {where} the image {info.path}, which has {info.size} pixels",
            value=f"an extent of {extent} pixels",
            file=path,
            advice=advice,
        )
    return geometry, notes


def _rectangle(box: Box) -> Any:
    import shapely  # noqa: PLC0415 - as above

    return shapely.box(box.x, box.y, box.right, box.bottom)


def _mask_spec(path: Path | str, info: ImageInfo) -> AreaSpec:
    found = inspect(path)
    if not _has_shape(found.size, info.size):
        raise SourceError(
            f"a mask has the shape of its image, {info.path}, which has {info.size} pixels",
            value=f"{found.size}",
            file=path,
            advice="Give the mask that was made for this image, at any size",
        )
    check_place(found, info)
    return AreaSpec(
        kind="mask",
        source=str(path),
        digest=fingerprint(path),
        resident_bytes=found.resident_bytes,
        notes=tuple(f"{path}: {note}" for note in found.notes),
    )


def _has_shape(found: Size, image: Size) -> bool:
    """Return whether a raster has the shape of an image: nearly its ratio of sides, or what shrinking it rounds to."""
    across, down = found.width / image.width, found.height / image.height
    if abs(across - down) <= ASPECT_TOLERANCE * max(across, down):
        return True
    # A mask of few pixels cannot have the very ratio: each side may be rounded up or down by less than a pixel.
    sides = ((image.width, found.width), (image.height, found.height))
    coarsest = min(whole / (stored - 1) if stored > 1 else inf for whole, stored in sides)
    return max(whole / (stored + 1) for whole, stored in sides) < coarsest


def _open_mask(path: str, image: Size, resources: ExitStack) -> Any:
    from magnet_cli.areas.raster import Raster  # noqa: PLC0415 - as above
    from magnet_cli.images.labels import open_region  # noqa: PLC0415 - as above

    opened = resources.enter_context(open_region(path))
    found = Raster(opened.read_nonzero, size=opened.size, image=image)
    if not found.share:
        raise SourceError(
            "the mask covers no pixel: all of it is 0 or has no data",
            file=path,
            advice="Give a mask whose pixels are not 0 where the image is to be segmented",
        )
    return found


def _wants_tissue(options: SegmentOptions, info: ImageInfo) -> bool:
    colours = info.dtype == "uint8" and all(name in info.bands for name in COLOURS)
    if options.tissue == "otsu" and not colours:
        raise UsageError(
            "--tissue otsu finds tissue by its colour, so it needs bands red, green and blue in uint8",
            value=f"{', '.join(info.bands[:4])} in {info.dtype}",
            advice="Leave --tissue out, or name the area with --roi or --mask",
        )
    return colours and (options.tissue == "otsu" or (options.tissue == "auto" and info.kind == "slide"))
