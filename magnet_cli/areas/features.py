"""Polygons of a GeoJSON file, as QuPath or a GIS writes it, in pixels of level 0."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from magnet_cli.errors import SourceError
from magnet_cli.images.geotransform import Geotransform

if TYPE_CHECKING:
    from magnet_cli.images import ImageInfo

LARGEST_FILE = 256 << 20
"""Bytes; JSON takes many times its size in memory."""
EPSG = re.compile(r"EPSG:(?:[\d.]*:)?(\d{1,9})$", re.IGNORECASE)
LONGITUDE_LATITUDE = re.compile(r"OGC:(?:[\d.]*:)?CRS84$", re.IGNORECASE)
FORM = "Give a FeatureCollection, Features, or geometries with Polygons or MultiPolygons"


@dataclass(kw_only=True)
class Found:
    """The polygons of a file, and the reference system of their coordinates."""

    polygons: list[Any] = field(default_factory=list)
    ignored: int = 0
    """Points and lines."""


def read_geojson(path: str, info: ImageInfo) -> tuple[Any, tuple[str, ...]]:
    """The union of a file's polygons in level-0 pixels, and what to tell the user of it.

    Without a `crs` the coordinates are pixels of the full resolution, as QuPath counts them: from the corner of the
    scanned part where the slide names one. With one they are coordinates of the image's own reference system.

    Raises:
        SourceError: It cannot be read, has no polygon, or another reference system than the image.
    """
    document = _load(path)
    found = Found()
    _collect(document, found, path)
    if not found.polygons:
        raise SourceError("there is no polygon in the file", file=path, advice=FORM)
    notes: tuple[str, ...] = ()
    if found.ignored:
        notes = (f"{path}: {found.ignored} points and lines are ignored: they hold no pixel",)
    crs = _crs(document, path)
    if crs is not None:
        geometry = _from_crs(found.polygons, crs, info, path)
    else:
        geometry, moved = _from_bounds(found.polygons, info)
        notes += moved
    broken = int(np.count_nonzero(~shapely.is_valid(geometry)))
    if broken:
        notes += (f"{path}: {broken} polygons cross themselves and were mended",)
        geometry = shapely.make_valid(geometry)
    return _polygons_of(shapely.union_all(geometry)), notes


def _load(path: str) -> Any:
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise SourceError(
                "a file of polygons is read whole, so it has a limit",
                value=f"{file.stat().st_size:,} bytes, at most {LARGEST_FILE:,}",
                file=path,
                advice="Simplify the polygons, or give them as a raster with --mask",
            )
        return json.loads(file.read_bytes())
    except OSError as exc:
        raise SourceError(f"the file cannot be read: {exc.strerror}", file=path, advice="Check the path") from exc
    except (ValueError, RecursionError) as exc:
        raise SourceError("the file is no JSON", value=str(exc), file=path, advice=FORM) from exc


def _collect(item: Any, found: Found, path: str) -> None:
    """Look through a document, however deep, without recursion: it may be anyone's."""
    waiting = [item]
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting += here
            continue
        kind = here.get("type") if isinstance(here, dict) else None
        if kind in ("FeatureCollection", "GeometryCollection"):
            waiting.append(here.get("features" if kind == "FeatureCollection" else "geometries") or [])
        elif kind == "Feature":
            waiting += [] if here.get("geometry") is None else [here["geometry"]]
        elif kind == "Polygon":
            found.polygons.append(_polygon(here.get("coordinates"), path))
        elif kind == "MultiPolygon":
            found.polygons += [_polygon(rings, path) for rings in here.get("coordinates") or []]
        elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
            found.ignored += 1
        else:
            raise SourceError("this is no GeoJSON", value=f"type {kind!r}"[:80], file=path, advice=FORM)


def _polygon(rings: Any, path: str) -> Any:
    try:
        outer, *holes = [np.asarray([point[:2] for point in ring], np.float64) for ring in rings]
        polygon = shapely.Polygon(outer, holes)
    except (TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as exc:
        raise SourceError("a polygon is a list of closed rings of points", value=str(exc), file=path) from exc
    if not np.isfinite(shapely.get_coordinates(polygon)).all():
        raise SourceError("the coordinates of a polygon are finite numbers", file=path)
    return polygon


def _crs(document: Any, path: str) -> str | None:
    said = document.get("crs") if isinstance(document, dict) else None
    if said is None:
        return None
    properties = said.get("properties") if isinstance(said, dict) else None
    name = str(properties.get("name") if isinstance(properties, dict) else None)
    if LONGITUDE_LATITUDE.search(name):
        return "EPSG:4326"
    match = EPSG.search(name)
    if match is None:
        raise SourceError(
            "the reference system of the polygons is not known",
            value=f"crs {name}"[:120],
            file=path,
            advice="Name an EPSG code, or leave crs out where the coordinates are pixels",
        )
    return f"EPSG:{match[1]}"


def _from_crs(polygons: list[Any], crs: str, info: ImageInfo, path: str) -> Any:
    if crs != info.crs:
        has = "has none" if info.crs is None else f"has {info.crs}"
        raise SourceError(
            f"the polygons are in {crs} and the image {info.path} {has}",
            file=path,
            advice="Reproject the polygons to the image's reference system, or give them in pixels without crs",
        )
    placed = Geotransform.of({code: value for code, _, _, value in info.geo_tags})
    if placed is None:
        raise SourceError(
            "the image is not placed by a scale or a matrix, so its pixels have no coordinates",
            file=info.path,
            advice="Warp it first, with gdalwarp, or give the polygons in pixels",
        )
    return shapely.transform(np.array(polygons), placed.pixels)


def _from_bounds(polygons: list[Any], info: ImageInfo) -> tuple[Any, tuple[str, ...]]:
    geometry = np.array(polygons)
    if info.bounds is None:
        return geometry, ()
    corner = (info.bounds.x, info.bounds.y)
    told = f"polygons are counted from the corner of the scanned part, pixel {corner}, as QuPath does"
    return shapely.transform(geometry, lambda points: points + corner), (told,)


def _polygons_of(geometry: Any) -> Any:
    """The parts that have an area: mending may leave lines and points beside them."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon" and part.area > 0])
