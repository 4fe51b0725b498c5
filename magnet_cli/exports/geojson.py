"""Polygons of a mask as GeoJSON, written one by one: in pixels, which QuPath reads, or in the image's own CRS."""

from __future__ import annotations

import json
import re
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely

from magnet_cli.exports.polygon import simplified
from magnet_cli.exports.sweep import Sweep
from magnet_cli.images.antimeridian import crosses, parts, snapped
from magnet_cli.images.crs import GEOJSON_SYSTEMS, has_code, label
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.exports.polygon import Polygon
    from magnet_cli.geometry import Box
    from magnet_cli.images.geotransform import Geotransform
    from magnet_cli.images.protocol import Resolution
    from magnet_cli.masks.mask_file import MaskFacts, MaskFile
    from magnet_cli.masks.spec import MaskClass

TURN = 360.0
"""Degrees of longitude around the earth."""
HEAD = 4096
"""Number of bytes at the beginning of a file that hold its identity."""


class Places(Protocol):
    """The coordinates of polygons in a file, and the properties beside them."""

    def polygons(self, polygon: Polygon) -> Iterable[Sequence[NDArray[Any]]]:
        """Return the polygons that a polygon becomes, as rings in the file's coordinates, exteriors counterclockwise.

        There are several where it crosses the meridian of 180 degrees. No ring repeats its first corner.
        """

    def properties(self, polygon: Polygon) -> dict[str, object]:
        """Return the properties of a polygon's feature."""

    def members(self) -> dict[str, object]:
        """Return the members of the collection besides its features."""


@dataclass(frozen=True, kw_only=True)
class PixelPlaces:
    """Level-0 pixels from the top-left corner of the slide's scanned part, where QuPath crops to it."""

    classes: Sequence[MaskClass]
    bounds: Box | None

    def polygons(self, polygon: Polygon) -> Iterable[Sequence[NDArray[Any]]]:
        """Return the polygon in pixels."""
        return ([self._points(ring) for ring in polygon.rings],)

    def _points(self, ring: NDArray[Any]) -> NDArray[Any]:
        return ring if self.bounds is None else ring - np.array((self.bounds.x, self.bounds.y), dtype=ring.dtype)

    def properties(self, polygon: Polygon) -> dict[str, object]:
        """Return the properties that QuPath's importer knows."""
        entry = self.classes[polygon.label]
        return {
            "objectType": "annotation",
            "classification": {"name": entry.name, "color": list(entry.rgb)},
            "measurements": {"Area px^2": polygon.pixels},
        }

    def members(self) -> dict[str, object]:
        """Return no further members."""
        return {}


@dataclass(frozen=True, kw_only=True)
class MapPlaces:
    """Coordinates of the image's own reference system, which the file names."""

    classes: Sequence[MaskClass]
    geotransform: Geotransform
    crs: str
    resolution: Resolution | None

    def polygons(self, polygon: Polygon) -> Iterable[Sequence[NDArray[Any]]]:
        """Return the polygon in the reference system.

        Where the file names none, its longitudes end at 180 degrees, and a polygon that goes on is cut there.
        """
        rings = [self._points(ring) for ring in polygon.rings]
        if self.crs not in GEOJSON_SYSTEMS:
            return (rings,)
        rings = [snapped(ring, TURN) for ring in rings]
        if not crosses(rings[0], TURN):
            return (rings,)
        cut = parts(shapely.Polygon(rings[0], rings[1:]), TURN)
        return [
            [shapely.get_coordinates(ring)[:-1] for ring in shapely.get_rings(part)]
            for part in shapely.orient_polygons(list(cut))
        ]

    def _points(self, ring: NDArray[Any]) -> NDArray[Any]:
        placed = self.geotransform.coordinates(ring)
        # A geotransform with y upward mirrors the image, and with it the direction of rings: RFC 7946 wants exteriors
        # counterclockwise.
        return placed[::-1] if self.geotransform.mirrors else placed

    def properties(self, polygon: Polygon) -> dict[str, object]:
        """Return a flat table for attribute tables, with the area in m2 where the CRS is in metres."""
        entry = self.classes[polygon.label]
        found: dict[str, object] = {"class": entry.name, "label": polygon.label, "color": entry.color}
        found["pixels"] = polygon.pixels
        if self.resolution is not None:
            found["area_m2"] = float(polygon.pixels * self.resolution.area)
        return found

    def members(self) -> dict[str, object]:
        """Return the `crs` of GeoJSON 2008, which GDAL, QGIS and GeoPandas read; RFC 7946 allows only WGS 84."""
        if self.crs in GEOJSON_SYSTEMS:
            return {}
        authority, _, code = self.crs.partition(":")
        return {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{authority}::{code}"}}}


def pixel_places(facts: MaskFacts) -> PixelPlaces:
    """Return coordinates in pixels."""
    return PixelPlaces(classes=facts.classes, bounds=facts.bounds)


def map_places(facts: MaskFacts) -> MapPlaces | None:
    """Return the places in the mask's CRS; None where it has none that a name stands for."""
    if facts.geotransform is None or facts.crs is None or not has_code(facts.crs):
        return None
    ground = facts.resolution if facts.resolution and facts.resolution.unit == "m" else None
    return MapPlaces(classes=facts.classes, geotransform=facts.geotransform, crs=facts.crs, resolution=ground)


def why_no_map(facts: MaskFacts) -> str | None:
    """Return why a mask on a map gets no polygons in its CRS; None where it gets them or lies on no map."""
    if facts.crs is None or map_places(facts) is not None:
        return None
    if facts.geotransform is None:
        return "the mask is placed by points and not by a geotransform"
    return f"GeoJSON names a CRS by its code, and that of the mask has none: {label(facts.crs)}"


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """One file to be written."""

    target: Path
    places: Places
    identity: str


def write_polygons(mask: MaskFile, outputs: Sequence[FeatureFile], *, simplify: float = 0, min_area: int = 0) -> int:
    """Write the polygons of a mask to one or two files in one sweep over it, and return their number.

    Args:
        mask: The mask, opened.
        outputs: The files to make or replace.
        simplify: Distance in pixels within which a corner may be left out, from the line without it. 0 keeps all.
        min_area: Polygons of fewer pixels are left out.

    Raises:
        OutputError: A file cannot be written.
        SourceError: The mask is damaged.
    """
    with ExitStack() as stack:
        writers = [_FeatureWriter(stack.enter_context(working_file(each.target)), each) for each in outputs]
        folder = outputs[0].target.parent
        number = 0
        for polygon in Sweep(mask.read, size=mask.size, side=mask.tile, folder=folder).polygons():
            # The area is that of the pixels, before simplification.
            if polygon.pixels < min_area or polygon.label >= len(mask.facts.classes):
                continue
            shape = simplified(polygon, tolerance=simplify) if simplify else polygon
            for writer in writers:
                writer.feature(number, shape)
            number += 1
        for writer in writers:
            writer.end()
        return number


def found_identity(path: Path) -> str | None:
    """Return the identity of a GeoJSON file that this program wrote; None for any other."""
    try:
        with path.open("rb") as file:
            found = re.match(rb'\{"type":"FeatureCollection","magnet":\{"export":"([0-9a-f]{64})"\}', file.read(HEAD))
    except OSError:
        return None
    return None if found is None else found[1].decode()


class _FeatureWriter:
    """Writes a collection feature by feature and each feature ring by ring."""

    def __init__(self, file: IO[bytes], output: FeatureFile) -> None:
        self._file = file
        self._output = output
        self._namespace = uuid.uuid5(uuid.NAMESPACE_OID, output.identity)
        members = {"type": "FeatureCollection", "magnet": {"export": output.identity}, **output.places.members()}
        self._write(_compact(members)[:-1] + ',"features":[')

    def feature(self, number: int, polygon: Polygon) -> None:
        # QuPath takes ids that are UUIDs; equal work gives equal ones.
        head = {
            "type": "Feature",
            "id": str(uuid.uuid5(self._namespace, str(number))),
            "properties": self._output.places.properties(polygon),
        }
        polygons = list(self._output.places.polygons(polygon))
        several = len(polygons) > 1
        kind = "MultiPolygon" if several else "Polygon"
        self._write(f'{"," if number else ""}\n{_compact(head)[:-1]},"geometry":{{"type":"{kind}","coordinates":[')
        for part, rings in enumerate(polygons):
            self._write(("," if part else "") + ("[" if several else ""))
            for position, ring in enumerate(rings):
                points = ring.tolist()
                # RFC 7946 closes each ring with its first point.
                self._write(("," if position else "") + _compact([*points, points[0]]))
            self._write("]" if several else "")
        self._write("]}}")

    def end(self) -> None:
        self._write("\n]}\n")

    def _write(self, text: str) -> None:
        self._file.write(text.encode())


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
