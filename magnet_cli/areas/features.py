"""Polygons of a GeoJSON file, as QuPath or a GIS writes it, in pixels of level 0."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from magnet_cli.errors import SourceError
from magnet_cli.images.antimeridian import across, crosses, longest_step, parts
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.options.regions import POLYGONS
from magnet_cli.system import regular_files
from magnet_cli.system.addresses import local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from magnet_cli.images import ImageInfo
    from magnet_cli.images.antimeridian import Across

ADVICE = "Correct the file, or export the polygons again"

LARGEST_FILE = 256 << 20
"""Largest size of a file in bytes. JSON takes many times its size in memory."""
GZIP_MAGIC = b"\x1f\x8b"
MOST_MEETINGS, MEETINGS_AN_EDGE = 300_000, 20
"""Ordered pairs of edges that may meet, at most: this many, and this many more for each edge."""
MOST_COMPARISONS = 200_000_000
"""Comparisons by which a polygon that crosses itself may be mended, at most: ten seconds of them."""
PAIRS_AT_ONCE = 1_000_000
"""Pairs of edges that are looked for at once, so that few of them are in memory."""
MOST_CORNERS = 200_000
"""The areas of a page have at most this many corners, because the page draws each of them again at every move."""
EDGE_ERROR = 0.02
"""Pixels by which an edge may lie beside the curve that it becomes in the image's reference system."""
CHECKED = (0.25, 0.5, 0.75)
"""Places along an edge where that is measured, as shares of its length."""
MOST_HALVINGS = 16
MOST_ADDED = 200_000
"""The largest number of corners that are added to polygons whose edges become curves."""
LONGEST_NAME = 120
LONGEST_RULE = 400
LARGEST_SIDE = 1 << 31
"""No image has as many pixels a side."""
MOST_COMPARED = 20_000_000
"""Corners of the pairs of polygons that are compared for overlaps, at most: some ten seconds of them."""
LEAST_OVERLAP = 1.0
"""Pixels of an overlap that are reported, at least. Neighbours that share an edge overlap by rounding."""
LABELS = 255
"""Number of labels that a class can have."""
URN = re.compile(r"urn:ogc:def:crs:(\w+):[\d.]*:(\w+)$", re.IGNORECASE)
LONGITUDE_LATITUDE = "OGC:CRS84"
"""Reference system of coordinates where a file names none (RFC 7946, section 4)."""
TURN = 360
"""Degrees between two names of one meridian."""
ALONG = 65
"""Points along each edge of an image by which it is found to lie across the meridian of 180 degrees."""
FAR_BESIDE = -90
"""Polygons in pixels may go on beyond the left edge of their image, but not as far as this."""
FORM = "Give a FeatureCollection, Features, or geometries with Polygons or MultiPolygons"


@dataclass(kw_only=True)
class ReadFeatures:
    """The polygons of a file, and the reference system of their coordinates."""

    polygons: list[Any] = field(default_factory=list)
    excluded: list[Any] = field(default_factory=list)
    """Polygons of classes that QuPath ignores."""
    ignored_classes: set[str] = field(default_factory=set)
    """Names of the classes that QuPath ignores."""
    ignored: int = 0
    """Number of points and lines that are left out."""
    keeps_every_class: bool = False
    """Whether classes that QuPath ignores count as others do."""
    of_pixels: bool = False
    """Whether an object says that QuPath, or this program for QuPath, wrote it: its coordinates are pixels."""
    system: str | None = None
    """Name of the reference system of the whole file; None where it names none."""
    other_planes: int = 0
    """Number of polygons that QuPath has drawn on another plane of a stack than the first, or at another time."""


def read_geojson(path: str, info: ImageInfo) -> tuple[Any, tuple[str, ...]]:
    """Return the union of a file's polygons in level-0 pixels, and notes for the user.

    Without a `crs` the coordinates are pixels of the full resolution, counted like those of QuPath: from the corner of
    the scanned part where the slide names one. On a georeferenced image they may also be longitude and latitude (RFC
    7946), which they are if they then lie on the image. With a `crs` they are coordinates of that system, and are
    transformed to that of the image.

    Raises:
        SourceError: The file cannot be read, has no polygon, or has a reference system that PROJ cannot convert.
    """
    document = _load(path)
    found = ReadFeatures(keeps_every_class=bool(_mark(document)), system=_system_name(document))
    _collect(document, found, path)
    if not found.polygons:
        only = f" but those of {_listed(found)}, which are left out of a region" if found.excluded else ""
        raise SourceError(f"there is no polygon in the file{only}", file=path, advice=FORM)
    polygons = found.polygons + found.excluded
    notes = _left_over(found, path)
    geometry, said = _placed(polygons, document, info, path, of_pixels=found.of_pixels)
    notes += said
    refuse_tangles(geometry, path)
    notes += _mended(geometry, path)
    geometry = shapely.make_valid(geometry)
    wanted, unwanted = geometry[: len(found.polygons)], geometry[len(found.polygons) :]
    inside = shapely.union_all(wanted)
    if found.excluded:
        inside = shapely.difference(inside, shapely.union_all(unwanted))
        count = len(found.excluded)
        notes += (f"{path}: left out {count} polygon{'s'[: count > 1]} of {_listed(found)}, as QuPath does",)
        if not shapely.area(inside):
            raise SourceError(
                f"nothing of the region remains once the polygons of {_listed(found)} are left out",
                file=path,
                advice="QuPath ignores classes whose names end in *. Rename the class where it is to be computed",
            )
    return _polygons_of(inside), notes


def _placed(
    polygons: list[Any], document: Any, info: ImageInfo, path: str, *, of_pixels: bool
) -> tuple[Any, tuple[str, ...]]:
    """Return polygons of a document in level-0 pixels, as an array in the same order, and notes for the user."""
    from magnet_cli.images.crs import GEOJSON_SYSTEMS  # noqa: PLC0415 (PROJ takes long to load)

    crs, mark = _crs(document, path), _mark(document)
    if crs is None and mark and not of_pixels:
        # The program leaves out the reference system where it is longitude and latitude, and there alone.
        crs = info.crs if info.crs in GEOJSON_SYSTEMS else LONGITUDE_LATITUDE
    if crs is not None:
        return _from_crs(polygons, crs, info, path)
    if "bounds" in mark:
        return _from_corner(polygons, _marked_corner(mark, path))
    if info.crs is not None and not of_pixels:
        return _from_either(polygons, info, path)
    return _from_bounds(polygons, info)


@dataclass(frozen=True, kw_only=True)
class NamedArea:
    """A named area is a feature of a GeoJSON file that has an area."""

    name: str
    rings: tuple[tuple[tuple[float, float], ...], ...]
    """The rings of the feature's polygons, holes among them, each a sequence of corners x, y in level-0 pixels."""


def read_named_areas(path: str, info: ImageInfo) -> list[NamedArea]:
    """Return the features of a file that have an area, with their names, placed as `read_geojson` places polygons.

    The name of a feature is its property `name`, else that of its class as QuPath writes it, else its number.

    Raises:
        SourceError: The file cannot be read, has no polygon or too many corners, or has a reference system that PROJ
            cannot convert.
    """
    document = _load(path)
    several = document.get("features") if isinstance(document, dict) else document
    features = several if isinstance(several, list) else [document]
    of_pixels, names = False, []
    polygons: list[Any] = []
    for number, feature in enumerate(features, start=1):
        one = ReadFeatures(system=_system_name(document))
        _collect(feature, one, path)
        of_pixels |= one.of_pixels
        polygons += one.polygons + one.excluded
        names += [(number, _feature_name(feature, number))] * len(one.polygons + one.excluded)
    if not polygons:
        raise SourceError("there is no polygon in the file", file=path, advice=FORM)
    corners = int(shapely.get_num_coordinates(np.array(polygons)).sum())
    if corners > MOST_CORNERS:
        raise SourceError(
            f"the areas that a page draws have at most {MOST_CORNERS:,} corners",
            value=f"{corners:,}",
            file=path,
            advice="Simplify the polygons",
        )
    geometry, _ = _placed(polygons, document, info, path, of_pixels=of_pixels)
    rings: dict[tuple[int, str], list[tuple[tuple[float, float], ...]]] = {}
    for key, polygon in zip(names, geometry, strict=True):
        for ring in shapely.get_rings(polygon):
            places = shapely.get_coordinates(ring)
            rings.setdefault(key, []).append(tuple((float(x), float(y)) for x, y in places))
    return [NamedArea(name=name, rings=tuple(parts)) for (_, name), parts in rings.items()]


@dataclass(frozen=True, kw_only=True)
class LabelledArea:
    """A labelled area is a feature of a GeoJSON file that has an area and a class."""

    label: int
    """The index of the class."""
    geometry: Any
    """A valid shapely geometry of polygons, in level-0 pixels."""


def read_labelled_areas(
    path: str,
    info: ImageInfo,
    names: Sequence[str] | None,
    *,
    identity: Callable[[], str | None] | None = None,
) -> tuple[list[LabelledArea], tuple[str, ...]]:
    """Return the features of a file that have an area, with their classes, placed as `read_geojson` places polygons.

    The class of a feature is the name in its property `class`, or in `classification` as QuPath writes it. Without a
    name, or where no names are known, it is the index in its property `label`.

    Args:
        path: The file.
        info: The facts about the image that the areas lie in.
        names: The names of the classes, by label; None where they are not known.
        identity: Returns the identity of the image as a word, or None where it is not known. It is called for files of
            corrections alone, which state the identity of the image on which they were drawn.

    Returns:
        The areas in the order of the file, and notes for the user.

    Raises:
        SourceError: The file cannot be read, belongs to another image, lies wholly outside the image, or has a
            reference system that PROJ cannot convert; or a feature has no class, or an unknown one.
    """
    document = _load(path)
    mark = _mark(document)
    _check_size(mark, info, path)
    _check_image(mark, identity, path)
    several = document.get("features") if isinstance(document, dict) else document
    features = several if isinstance(several, list) else [document]
    every = ReadFeatures()
    owners: list[int] = []
    labels: list[int] = []
    for number, feature in enumerate(features, start=1):
        one = ReadFeatures(keeps_every_class=bool(mark), system=_system_name(document))
        _collect(feature, one, path)
        every.of_pixels |= one.of_pixels
        every.ignored += one.ignored
        every.other_planes += one.other_planes
        every.ignored_classes |= one.ignored_classes
        if one.polygons:
            owners += [len(labels)] * len(one.polygons)
            every.polygons += one.polygons
            labels.append(_label(feature, names, f"feature {number}", path))
    notes = _left_over(every, path)
    if every.ignored_classes:
        notes += (f"{path}: polygons of {_listed(every)} are left out, as QuPath does",)
    if not labels:
        return [], notes
    geometry, placing = _placed(every.polygons, document, info, path, of_pixels=every.of_pixels)
    refuse_tangles(geometry, path)
    notes += _mended(geometry, path)
    parts: list[list[Any]] = [[] for _ in labels]
    for owner, polygon in zip(owners, shapely.make_valid(geometry), strict=True):
        parts[owner].append(polygon)
    areas = [
        LabelledArea(label=label, geometry=_polygons_of(shapely.union_all(np.array(part))))
        for label, part in zip(labels, parts, strict=True)
    ]
    areas = [area for area in areas if not area.geometry.is_empty]
    _check_place(areas, info, path)
    # Corrections overlap on purpose, the later ones over the earlier, and exports of this program never do.
    return areas, notes + placing + (() if mark else _overlaps(areas, path))


def _left_over(found: ReadFeatures, path: str) -> tuple[str, ...]:
    """Return notes on objects that have no area, and on those that were drawn on another plane."""
    notes: tuple[str, ...] = ()
    if found.ignored:
        notes += (f"{path}: {found.ignored} points and lines are ignored: they hold no pixel",)
    if found.other_planes:
        said = f"{found.other_planes} polygons were drawn on another plane or time of the image than the first"
        notes += (f"{path}: {said}, which is the one that is read; they are taken as if they had been drawn on it",)
    return notes


def _mended(geometry: Any, path: str) -> tuple[str, ...]:
    """Return a note where polygons of an array are not valid, which have to be mended."""
    broken = int(np.count_nonzero(~shapely.is_valid(geometry)))
    return (f"{path}: {broken} polygons cross themselves and were mended",) if broken else ()


def _overlaps(areas: Sequence[LabelledArea], path: str) -> tuple[str, ...]:
    """Return a note where areas of different classes overlap; none where the comparison would take too long."""
    labels = np.array([area.label for area in areas])
    shapes = np.array([area.geometry for area in areas])
    if len(np.unique(labels)) < 2:  # noqa: PLR2004 - one class
        return ()
    one, other = shapely.STRtree(shapes).query(shapes)
    differ = (one < other) & (labels[one] != labels[other])
    one, other = one[differ], other[differ]
    corners = shapely.get_num_coordinates(shapes)
    if int((corners[one] + corners[other]).sum()) > MOST_COMPARED:
        return ()
    overlap = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    count, pixels = np.count_nonzero(overlap >= LEAST_OVERLAP), float(overlap.sum())
    if not count:
        return ()
    pairs = "2 polygons" if count == 1 else f"{count:,} pairs of polygons"
    return (f"{path}: {pairs} of different classes overlap, by {pixels:,.0f} pixels: the later one in the file counts",)


def _check_place(areas: Sequence[LabelledArea], info: ImageInfo, path: str) -> None:
    """Check that one of these areas, if there are any, covers a part of the image."""
    whole = shapely.box(0, 0, info.size.width, info.size.height)
    # The pattern holds where the interiors have a point in common: areas that touch the edge from outside have none.
    if areas and not shapely.relate_pattern([area.geometry for area in areas], whole, "T********").any():
        left, top, right, bottom = shapely.total_bounds([area.geometry for area in areas])
        raise SourceError(
            f"all polygons lie outside the image {info.path}, {info.size}",
            value=f"x from {left:.6g} to {right:.6g} and y from {top:.6g} to {bottom:.6g} pixels",
            file=path,
            advice="Name the image that they were drawn on, and check the crs of the file",
        )


def _mark(document: Any) -> Mapping[str, Any]:
    """Return what this program has written into a file of corrections about their image; empty in other files."""
    mark = document.get("magnet") if isinstance(document, dict) else None
    return mark if isinstance(mark, dict) else {}


def _marked_corner(mark: Mapping[str, Any], path: str) -> tuple[int, int] | None:
    """Return the corner from which the pixels of corrections are counted; None where it is that of the image."""
    bounds = mark["bounds"]
    if bounds is None:
        return None
    sides = bounds if isinstance(bounds, list) else []
    if len(sides) != 4 or not all(type(side) is int and 0 <= side <= LARGEST_SIDE for side in sides):  # noqa: PLR2004 - x, y, width, height
        raise SourceError(
            "the bounds of corrections are x, y, width and height in pixels",
            value=str(bounds)[:80],
            file=path,
            advice="Restore the file that magnet view has written",
        )
    return sides[0], sides[1]


def _check_image(mark: Mapping[str, Any], identity: Callable[[], str | None] | None, path: str) -> None:
    """Check that corrections were drawn on the image of this identity, as far as both are known."""
    drawn_on = mark.get("image")
    if drawn_on is None or identity is None:
        return
    if identity() not in (None, drawn_on):
        raise SourceError(
            "these corrections were drawn on another image",
            file=path,
            advice="Name that image, or move the file away",
        )


def _check_size(mark: Mapping[str, Any], info: ImageInfo, path: str) -> None:
    """Check that a file that this program has written belongs to an image of this size."""
    size = mark.get("size")
    if size is not None and size != [info.size.width, info.size.height]:
        raise SourceError(
            f"these corrections belong to an image of another size than {info.path}, {info.size}",
            value=str(size)[:80],
            file=path,
            advice="Name the image that they were drawn on",
        )


def _label(feature: Any, names: Sequence[str] | None, which: str, path: str) -> int:
    """Return the label of a feature's class."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    properties = properties if isinstance(properties, dict) else {}
    said = properties.get("classification")
    words = (properties.get("class"), said.get("name") if isinstance(said, dict) else said, _derived_class(said))
    word = next((found for found in words if isinstance(found, str) and found.strip()), None)
    label = properties.get("label")
    if names is not None and word is not None:
        if word not in names:
            raise SourceError(
                f"the class of {which} is none of {', '.join(names)}"[:LONGEST_RULE],
                value=word[:LONGEST_NAME],
                file=path,
                advice="Give the polygon one of these classes, or delete it",
            )
        return names.index(word)
    if type(label) is not int or not 0 <= label < (LABELS if names is None else len(names)):
        raise SourceError(
            f"{which} has no class that is known here",
            value=str(label if word is None else word)[:LONGEST_NAME],
            file=path,
            advice="A class is the property `class`, `classification` (QuPath) or `label`, its index",
        )
    return label


def _derived_class(said: Any) -> str | None:
    """Return the name of a class that QuPath writes as the list of the names that it was derived from, or None."""
    names = said.get("names") if isinstance(said, dict) else None
    return ": ".join(map(str, names)) if isinstance(names, list) and names else None


def _feature_name(feature: Any, number: int) -> str:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    properties = properties if isinstance(properties, dict) else {}
    said = properties.get("classification")
    words = (properties.get("name"), said.get("name") if isinstance(said, dict) else said)
    name = next((word for word in words if isinstance(word, str) and word.strip()), f"area {number}")
    return name[:LONGEST_NAME]


def _listed(found: ReadFeatures) -> str:
    return ", ".join(sorted(found.ignored_classes))


def _ignored_class(feature: Any) -> str:
    """Return the class of an annotation if QuPath leaves it out of every analysis (a name that ends in `*`), or ''."""
    properties = feature.get("properties")
    said = properties.get("classification") if isinstance(properties, dict) else None
    names = [said]
    if isinstance(said, dict):
        several = said.get("names")
        names = [said.get("name"), *(several if isinstance(several, list) else [])]
    # A derived class is written "Tumor: Ignore*".
    parts = [part.strip() for name in names if isinstance(name, str) for part in name.split(":")]
    return next((part for part in parts if part.endswith("*")), "")


def _content(file: Path) -> bytes:
    """Return the bytes of a file, decompressed where it is a gzip file.

    Raises:
        ValueError: The bytes are too many, or damaged.
    """
    data = regular_files.content(file)
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        with gzip.open(file) as packed:
            data = packed.read(LARGEST_FILE + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        message = f"its compression is damaged: {exc}"
        raise ValueError(message) from exc
    if len(data) > LARGEST_FILE:
        message = f"it has more than {LARGEST_FILE:,} bytes when it is decompressed"
        raise ValueError(message)
    return data


def _load(path: str) -> Any:
    file = local_path(path, rule=POLYGONS)
    try:
        regular_files.check_regular(file)
        if file.stat().st_size > LARGEST_FILE:
            raise SourceError(
                "a file of polygons is read whole, so it has a limit",
                value=f"{file.stat().st_size:,} bytes, at most {LARGEST_FILE:,}",
                file=path,
                advice="Simplify the polygons, or draw them into a raster with gdal_rasterize, and give that",
            )
        return json.loads(_content(file))
    except OSError as exc:
        raise SourceError(f"the file cannot be read: {exc.strerror}", file=path, advice="Check the path") from exc
    except (ValueError, RecursionError) as exc:
        raise SourceError("the file is no JSON", value=str(exc), file=path, advice=FORM) from exc


def _collect(item: Any, found: ReadFeatures, path: str) -> None:
    """Collect the polygons of a document. Recursion is avoided, because a hostile file may be nested without limit."""
    waiting = [(item, "")]
    while waiting:
        here, ignored = waiting.pop()
        if isinstance(here, list):
            waiting += [(part, ignored) for part in here]
            continue
        polygons = found.excluded if ignored else found.polygons
        kind = here.get("type") if isinstance(here, dict) else None
        if isinstance(here, dict):
            _check_system(here, found.system, path)
        if kind in ("FeatureCollection", "GeometryCollection"):
            waiting.append((here.get("features" if kind == "FeatureCollection" else "geometries") or [], ignored))
        elif kind == "Feature":
            properties = here.get("properties")
            found.of_pixels |= isinstance(properties, dict) and "objectType" in properties
            ignored = "" if found.keeps_every_class else _ignored_class(here)
            waiting += [] if here.get("geometry") is None else [(here["geometry"], ignored)]
        elif kind in ("Polygon", "MultiPolygon"):
            several = here.get("coordinates") or []
            if not isinstance(several, list):
                raise SourceError(
                    "the coordinates of polygons are lists",
                    value=str(several)[:80],
                    file=path,
                    advice=ADVICE,
                )
            made = [_polygon(rings, path) for rings in (several if kind == "MultiPolygon" else [several])]
            polygons += made
            found.other_planes += len(made) if _is_elsewhere(here.get("plane")) else 0
            found.ignored_classes |= {ignored} - {""}
        elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
            found.ignored += 1
        else:
            raise SourceError("this is no GeoJSON", value=f"type {kind!r}"[:80], file=path, advice=FORM)


def _check_system(part: Mapping[str, Any], system: str | None, path: str) -> None:
    """Check that a part of a file names no other reference system than the whole file."""
    if part.get("crs") is not None and _system_name(part) != system:
        raise SourceError(
            "a file of polygons has one reference system, which the outermost object names in its member crs",
            value=f"crs {_system_name(part)} of an object inside, and {system or 'none'} of the file"[:LONGEST_RULE],
            file=path,
            advice="Write the file again with ogr2ogr or a GIS, which name the reference system once",
        )


def _is_elsewhere(plane: Any) -> bool:
    """Return whether a plane of a stack, as QuPath writes it into a geometry, is not the first one."""
    return isinstance(plane, dict) and any(plane.get(axis) not in (None, 0, -1) for axis in ("z", "t"))


def _polygon(rings: Any, path: str) -> Any:
    try:
        outer, *holes = [np.asarray([point[:2] for point in ring], np.float64) for ring in rings]
        polygon = shapely.Polygon(outer, holes)
    except (TypeError, ValueError, OverflowError, IndexError, shapely.errors.ShapelyError) as exc:
        raise SourceError(
            "a polygon is a list of closed rings of points",
            value=str(exc),
            file=path,
            advice=ADVICE,
        ) from exc
    if not np.isfinite(shapely.get_coordinates(polygon)).all():
        raise SourceError(
            "the coordinates of a polygon are finite numbers",
            file=path,
            advice=ADVICE,
        )
    return polygon


def refuse_tangles(geometry: Any, path: str) -> None:
    """Check that edges of polygons cross each other rarely enough to be mended and joined.

    Args:
        geometry: An array of polygons.
        path: Path of the file.

    Raises:
        SourceError: The edges cross each other too often.
    """
    tangles = []
    for broken in geometry[~shapely.is_valid(geometry)]:
        edges = _edges(broken)
        # Crossings k of n edges make up to k faces out of n + 2 k edges, and mending compares each face with each edge.
        crossings = (np.sqrt(len(edges) ** 2 + 8 * MOST_COMPARISONS) - len(edges)) / 4
        tangles.append(_meet_more_often(edges, 3 * len(edges) + 2 * int(crossings)))
    if len(geometry) > 1:
        edges = _edges(geometry)
        tangles.append(_meet_more_often(edges, MOST_MEETINGS + MEETINGS_AN_EDGE * len(edges)))
    if any(tangles):
        raise SourceError(
            "the polygons cross themselves or each other so often that they cannot be mended and joined",
            value=f"{shapely.get_num_coordinates(geometry).sum():,} corners",
            file=path,
            advice="Simplify the polygons, or draw them into a raster with gdal_rasterize, and give that",
        )


def _edges(geometry: Any) -> Any:
    """Return the edges of polygons as an array of lines."""
    corners, ring = shapely.get_coordinates(shapely.get_rings(geometry), return_index=True)
    inner = ring[1:] == ring[:-1]
    return shapely.linestrings(np.stack([corners[:-1][inner], corners[1:][inner]], axis=1))


def _meet_more_often(edges: Any, limit: int) -> bool:
    """Return whether more ordered pairs of edges than a limit meet: each edge meets itself and its two neighbours.

    Some edges are compared with all others at a time, so that few pairs are in memory.
    """
    tree = shapely.STRtree(edges)
    found, start, step = 0, 0, 16
    while start < len(edges) and found <= limit:
        pairs = tree.query(edges[start : start + step], predicate="intersects").shape[1]
        found, start = found + pairs, start + step
        step = max(16, min(2 * step, PAIRS_AT_ONCE * step // max(1, pairs)))
    return found > limit


def _crs(document: Any, path: str) -> str | None:
    """Return the reference system that a file names, as a text that PROJ knows."""
    from magnet_cli.images.crs import is_crs  # noqa: PLC0415 (PROJ takes long to load)

    name = _system_name(document)
    if name is None:
        return None
    match = URN.match(name)
    text = f"{match[1].upper()}:{match[2]}" if match else name
    if not is_crs(text):
        raise SourceError(
            "the reference system of the polygons is not known",
            value=f"crs {name}"[:120],
            file=path,
            advice="Name an EPSG code, or leave crs out where the coordinates are pixels",
        )
    return text


def _system_name(item: Any) -> str | None:
    """Return the name in the member `crs` of an object, `None` as a text where that has none; None without `crs`."""
    said = item.get("crs") if isinstance(item, dict) else None
    if said is None:
        return None
    properties = said.get("properties") if isinstance(said, dict) else None
    return str(properties.get("name") if isinstance(properties, dict) else None)


def _from_crs(polygons: list[Any], crs: str, info: ImageInfo, path: str) -> tuple[Any, tuple[str, ...]]:
    from magnet_cli.images.crs import label, same_crs  # noqa: PLC0415 (as above)

    placed = Geotransform.of({code: value for code, _, _, value in info.geo_tags})
    if info.crs is None:
        raise SourceError(
            f"the polygons are in {label(crs)} and the image {info.path} has no reference system",
            file=path,
            advice="Store the CRS in the image, or give the polygons in pixels without crs",
        )
    if placed is None:
        raise SourceError(
            "the image is not placed by a scale or a matrix, so its pixels have no coordinates",
            file=info.path,
            advice="Warp it first, with gdalwarp, or give the polygons in pixels",
        )
    _refuse_wide_steps(np.array(polygons), crs, info.crs, placed, info, path)
    on_map = _on_map(polygons, crs, info.crs, placed, info, path)
    if on_map is None:
        raise SourceError(
            f"PROJ has no transformation from {label(crs)} to the CRS of the image, {label(info.crs)}",
            file=path,
            advice="Reproject the polygons to the CRS of the image, or give them in pixels without crs",
        )
    said = f"{path}: the coordinates of the polygons were transformed from {label(crs)} to {label(info.crs)}"
    found, beside = on_map
    notes = () if same_crs(crs, info.crs) else (said, *_inexact(polygons, crs, info, path))
    return found, notes + _straight(beside, path)


def _inexact(polygons: Sequence[Any], crs: str, info: ImageInfo, path: str) -> tuple[str, ...]:
    """Return a note where polygons may lie beside their places because PROJ knows no exact shift between two datums."""
    from magnet_cli.images.crs import label, stated_accuracy  # noqa: PLC0415 (PROJ takes long to load)

    if info.crs is None:
        return ()
    metres = stated_accuracy(crs, info.crs, shapely.get_coordinates(polygons[0])[:1])
    size = info.resolution
    pixel = float(min(size.x, size.y)) if size is not None and size.unit == "m" else 0.0
    if metres is not None and metres <= pixel:
        return ()
    systems = f"{label(crs)} to {label(info.crs)}"
    if metres is None:
        said = f"PROJ knows no shift between the datums of {systems}: polygons may lie hundreds of metres out of place"
    else:
        said = (
            f"PROJ states that its transformation from {systems} is exact to {metres:g} m, which is more than a pixel"
        )
    return (f"{path}: {said}; reproject the file in a GIS that has the grids of the datums, and compare",)


def _within_turn(geometry: Any, turn: float, path: str) -> tuple[Any, list[int]]:
    """Return polygons in longitude and latitude, cut where they go on beyond 180 degrees, and which each is a part of.

    Raises:
        SourceError: Such a polygon crosses itself too often to be mended and cut.
    """
    found: list[Any] = []
    owners: list[int] = []
    for index, polygon in enumerate(geometry):
        cut = []
        if crosses(shapely.get_coordinates(polygon), turn):
            refuse_tangles(np.array([polygon]), path)
            cut = [part for valid in shapely.get_parts(shapely.make_valid(polygon)) for part in parts(valid, turn)]
        found += cut or [polygon]
        owners += [index] * len(cut or [polygon])
    return np.array(found), owners


def _refuse_wide_steps(  # noqa: PLR0917
    geometry: Any, crs: str, own: str, placed: Geotransform, info: ImageInfo, path: str
) -> None:
    """Refuse polygons of which an edge goes around more than half of the earth, on an image across 180 degrees.

    A program that does not cut polygons there writes such an edge for one that crosses the meridian the short way. One
    that goes on counting beyond 180 degrees does not.

    Raises:
        SourceError: Such a polygon may lie on either side of the earth.
    """
    from magnet_cli.images.crs import turn  # noqa: PLC0415 (PROJ takes long to load)

    around = turn(crs)
    if around is None or crosses(shapely.get_coordinates(geometry), around):
        return
    steps = np.array([longest_step(polygon, around) for polygon in geometry])
    # The place of the image takes some time to find, and hardly any file has such edges.
    where = _across(crs, own, placed, info) if steps.max() > around / 2 else None
    if where is None:
        return
    _, south, _, north = shapely.bounds(geometry).T
    step = float(steps[(south < where.north) & (north > where.south)].max(initial=0))
    if step <= around / 2:
        return
    raise SourceError(
        f"an edge of a polygon goes over more than 180 degrees of longitude, and the image {info.path} lies across the "
        "meridian of 180 degrees, so that the polygon may lie on either side",
        value=f"{step * TURN / around:.6g} degrees",
        file=path,
        advice="Cut the polygons that cross that meridian (ogr2ogr -f GeoJSON -wrapdateline -datelineoffset 179.9 "
        "OUT.geojson IN.geojson), or add corners along the edges of polygons that do not cross it (ogr2ogr -f GeoJSON "
        "-segmentize 90 OUT.geojson IN.geojson)",
    )


def _across(crs: str, own: str, placed: Geotransform, info: ImageInfo) -> Across | None:
    """Return where an image lies in longitude and latitude, if the meridian of 180 degrees parts it in two.

    Args:
        crs: Reference system of the longitudes and latitudes.
        own: Reference system of the image.
        placed: Geotransform of the image, from level-0 pixels to coordinates of `own`.
        info: Facts about the image.
    """
    from magnet_cli.images.crs import converter, same_crs, turn  # noqa: PLC0415 (PROJ takes long to load)

    around = turn(crs)
    if around is None:
        return None
    there, back = np.linspace(0, 1, ALONG), np.linspace(1, 0, ALONG)
    x = np.concatenate((there, np.ones(ALONG), back, np.zeros(ALONG)))
    y = np.concatenate((np.zeros(ALONG), there, np.ones(ALONG), back))
    outline = placed.coordinates(np.column_stack((x * info.size.width, y * info.size.height)))
    if not same_crs(crs, own):
        convert = converter(own, crs)
        if convert is None:
            return None
        outline = convert(outline)
    return across(outline, around, info.size.width, info.size.height)


def _on_map(  # noqa: PLR0917
    polygons: list[Any], crs: str, own: str, placed: Geotransform, info: ImageInfo, path: str
) -> tuple[Any, float] | None:
    """Return polygons in pixels of level 0, and the pixels by which edges lie beside the curves that they become.

    The result is None where the reference system of the polygons cannot be converted to the image's.

    Args:
        polygons: Polygons in coordinates of `crs`, easting or longitude first.
        crs: Reference system of the polygons.
        own: Reference system of the image.
        placed: Geotransform of the image, from level-0 pixels to coordinates of `own`.
        info: Facts about the image.
        path: Path of the file of the polygons.

    Raises:
        SourceError: A polygon that goes on beyond 180 degrees crosses itself too often to be mended and cut there.
    """
    from magnet_cli.images.crs import converter, same_crs, turn  # noqa: PLC0415 (PROJ takes long to load)

    geometry, beside = np.array(polygons), 0.0
    owners = list(range(len(geometry)))
    around = turn(crs)
    if not same_crs(crs, own):
        if around is not None:
            geometry, owners = _within_turn(geometry, around, path)
        convert = converter(crs, own)
        if convert is None:
            return None
        near = None if turn(own) is not None else (info.size.width, info.size.height)
        geometry, beside = _bent(geometry, lambda corners: placed.pixels(convert(corners)), near=near)
        geometry = shapely.transform(geometry, convert)
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            return None
    full = turn(own)
    if full is None:
        return _together(shapely.transform(geometry, placed.pixels), owners), beside
    # An image that crosses the meridian of 180 degrees goes on counting; polygons begin again at -180.
    shifted = [
        shapely.transform(geometry, lambda xy, by=by: placed.pixels(xy + np.array((by, 0.0))))
        for by in (0, full, -full)
    ]
    hits = [_overlaps_image(each, info) for each in shifted]
    copies, copied = [], []
    for index, owner in enumerate(owners):
        # There is one in each turn around the earth.
        found = [each[index] for each, hit in zip(shifted, hits, strict=True) if hit[index]] or [shifted[0][index]]
        copies += found
        copied += [owner] * len(found)
    return _together(copies, copied), beside


def _overlaps_image(geometry: Any, info: ImageInfo) -> Any:
    """Return which polygons, in pixels of level 0, may cover a part of the image, by their bounds."""
    left, top, right, bottom = shapely.bounds(geometry).T
    found: Any = (left < info.size.width) & (right > 0) & (top < info.size.height) & (bottom > 0)
    return found


def _together(polygons: Sequence[Any], owners: Sequence[int]) -> Any:
    """Return one geometry for each owner, of all polygons that are parts of it. Owners are numbers in their order."""
    several: list[list[Any]] = [[] for _ in range(owners[-1] + 1)]
    for polygon, owner in zip(polygons, owners, strict=True):
        several[owner].append(polygon)
    return np.array([each[0] if len(each) == 1 else _one(np.array(each)) for each in several])


def _one(polygons: Any) -> Any:
    """Return one geometry of several polygons."""
    if shapely.is_valid(polygons).all():
        # Parts with a common edge make a MultiPolygon that is not valid, although no polygon crosses itself.
        return shapely.union_all(polygons)
    return shapely.multipolygons(shapely.get_parts(polygons))


def _straight(beside: float, path: str) -> tuple[str, ...]:
    """Return a note where edges lie beside the curves that they become on the image by more than is allowed."""
    if beside <= EDGE_ERROR:
        return ()
    note = (
        f"{path}: edges of the polygons lie up to {beside:,.1f} pixels beside the curves that they are on the image, "
        f"because at most {MOST_ADDED:,} corners are added; reproject the file to the CRS of the image in a GIS"
    )
    return (note,)


def _bent(geometry: Any, pixels: Callable[[Any], Any], *, near: tuple[int, int] | None) -> tuple[Any, float]:
    """Return polygons with more corners on edges that become curves on the image, and by how much they fall short.

    The second is 0 pixels, unless the polygons would need more corners than are added.

    An edge is straight in the reference system of its file. In UTM, 110 km of the parallel of 60 degrees lie up to
    400 m beside the straight line between the two ends.

    Args:
        geometry: Polygons, in coordinates of their file.
        pixels: Function from these coordinates to pixels of level 0, both `(n, 2)`.
        near: Width and height of the image, where edges that lie elsewhere are left alone; None bends all of them.
    """
    rings, owners = shapely.get_rings(geometry, return_index=True)
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    first, beside = len(corners), 0.0
    for _ in range(MOST_HALVINGS):
        placed = pixels(corners)
        start, step = placed[:-1], np.diff(placed, axis=0)
        error = np.zeros(len(step))
        low, high = np.minimum(start, placed[1:]), np.maximum(start, placed[1:])
        with np.errstate(invalid="ignore"):  # places that have no coordinates on the map are infinite
            for share in CHECKED:
                between = pixels(corners[:-1] + share * np.diff(corners, axis=0))
                error = np.maximum(error, np.abs(between - (start + share * step)).max(axis=1))
                low, high = np.minimum(low, between), np.maximum(high, between)
            bent = (ring[:-1] == ring[1:]) & (error > EDGE_ERROR) & np.isfinite(error)
            if near is not None:
                bent &= ((high >= 0) & (low <= near)).all(axis=1)
        if len(corners) - first + np.count_nonzero(bent) > MOST_ADDED:
            beside = float(error[bent].max(initial=0))
            break
        if not bent.any():
            break
        where = np.flatnonzero(bent) + 1
        corners = np.insert(corners, where, (corners[where - 1] + corners[where]) / 2, axis=0)
        ring = np.insert(ring, where, ring[where])
    if len(corners) == first:
        return geometry, beside
    found = geometry.copy()
    present = np.unique(owners)
    made = shapely.polygons(shapely.linearrings(corners, indices=ring), indices=np.searchsorted(present, owners))
    found[present] = made
    return found, beside


def _from_either(polygons: list[Any], info: ImageInfo, path: str) -> tuple[Any, tuple[str, ...]]:
    """Place polygons without a CRS: as longitude and latitude if they lie on the image so, else as pixels."""
    placed = Geotransform.of({code: value for code, _, _, value in info.geo_tags})
    geometry = np.array(polygons)
    whole = shapely.box(0, 0, info.size.width, info.size.height)
    if placed is not None and info.crs is not None and _may_be_degrees(geometry, info.crs, placed, info):
        if shapely.get_coordinates(geometry)[:, 0].min() < FAR_BESIDE:
            _refuse_wide_steps(geometry, LONGITUDE_LATITUDE, info.crs, placed, info, path)
        on_map = _on_map(polygons, LONGITUDE_LATITUDE, info.crs, placed, info, path)
        if on_map is not None and shapely.intersects(on_map[0], whole).any():
            found, beside = on_map
            note = f"{path}: coordinates are longitude and latitude, because the file names no crs (RFC 7946)"
            return found, (note, *_inexact(polygons, LONGITUDE_LATITUDE, info, path), *_straight(beside, path))
    return _from_bounds(polygons, info)


def _may_be_degrees(geometry: Any, own: str, placed: Geotransform, info: ImageInfo) -> bool:
    """Return whether coordinates without a reference system may be longitude and latitude, by their ranges.

    Longitudes lie between -180 and 180 degrees, or those of the image's corners. On an image across the meridian of 180
    degrees they may go on counting, as those of polygons do that were drawn on it, which are about as large as it.
    Pixels are numbers beyond 180, too.
    """
    from magnet_cli.images.crs import turn  # noqa: PLC0415 (PROJ takes long to load)

    west, south, east, north = shapely.bounds(geometry).T
    if south.min() < -TURN / 4 or north.max() > TURN / 4:
        return False
    least, greatest = -TURN / 2, TURN / 2
    if turn(own) == TURN:
        width, height = info.size.width, info.size.height
        corners = placed.coordinates(np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64))
        least, greatest = min(least, corners[:, 0].min()), max(greatest, corners[:, 0].max())
    beyond = (west < least) | (east > greatest)
    if not beyond.any():
        return True
    where = _across(LONGITUDE_LATITUDE, own, placed, info)
    if where is None or (east - west)[beyond].max() > TURN / 2:
        return False
    size, near = where.east - where.west, np.zeros(len(beyond), bool)
    for by in (0, -TURN):
        near |= (west >= where.west + by - size) & (east <= where.east + by + size)
    return bool(near[beyond].all())


def _from_bounds(polygons: list[Any], info: ImageInfo) -> tuple[Any, tuple[str, ...]]:
    return _from_corner(polygons, None if info.bounds is None else (info.bounds.x, info.bounds.y))


def _from_corner(polygons: list[Any], corner: tuple[int, int] | None) -> tuple[Any, tuple[str, ...]]:
    geometry = np.array(polygons)
    if corner is None:
        return geometry, ()
    note = f"polygons are counted from the corner of the scanned part, pixel {corner}, as QuPath does"
    return shapely.transform(geometry, lambda points: points + corner), (note,)


def _polygons_of(geometry: Any) -> Any:
    """Return the parts that have an area: a repaired geometry may have lines and points beside them."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon" and part.area > 0])
