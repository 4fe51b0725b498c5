"""The georeference of an image: its tags joined with its sidecars in GDAL's order, and the tags that say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.images.crs import exact_unit, metres, spelled
from magnet_cli.images.geokey_crs import crs_of_keys, linear_unit
from magnet_cli.images.geokeys import (
    KEY_TAGS,
    MODEL_PROJECTED,
    MODEL_TYPE,
    GeoKeys,
    UnknownCrsError,
    tags_of_crs,
)
from magnet_cli.images.geotransform import PIXEL_SCALE, TIEPOINT, TRANSFORMATION, Geotransform
from magnet_cli.images.rpc import RPC, rpc_tag
from magnet_cli.images.sidecars import Sidecars, tie_points_tag

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

    from pyproj import CRS

    from magnet_cli.images.geotransform import Tag

NODATA = 42113
PLACE_TAGS = (PIXEL_SCALE, TIEPOINT, TRANSFORMATION)
NOTHING = Sidecars()


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """The place of an image on the Earth, or on another body."""

    crs: CRS | None = None
    """Horizontal reference system of its coordinates, or of its ground control points where it has no others."""
    geotransform: Geotransform | None = None
    unit: Fraction | None = None
    """Metres of the unit of projected coordinates."""
    tags: tuple[Tag, ...] = ()
    """Tags of a TIFF that state the same. They are empty where nothing is known; a mask of the image carries them."""
    nodata: float | None = None
    """Nodata value of a sidecar. It goes before that of the image."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """The text of the reference system for `ImageInfo.crs`."""
        return None if self.crs is None else spelled(self.crs)

    @property
    def is_placed(self) -> bool:
        """Whether pixels have a place: by coordinates, ground control points or rational polynomials."""
        placing = {*PLACE_TAGS, RPC}
        return self.crs is not None or self.geotransform is not None or any(tag[0] in placing for tag in self.tags)


def georeference(tags: Iterable[Tag], sidecars: Sidecars = NOTHING) -> Georeference:
    """Return the place that tags and sidecars give an image.

    GDAL's order holds: a file .aux.xml, the tags, a world file.

    Args:
        tags: The tags of a TIFF that carry its georeference; none for other formats.
        sidecars: What the files beside the image say.
    """
    own = {tag[0]: tag for tag in tags if tag[0] != NODATA}
    values = {code: tag[3] for code, tag in own.items()}
    keys = GeoKeys.of(values)
    inside = Geotransform.of(values)
    notes = list(sidecars.notes)
    odd = inside is not None and not inside.is_usable
    if odd:
        notes.append("the numbers that place the image are no numbers, infinite or zero: its place is ignored")
        inside = None
    if inside is not None and _stated_south(values):
        notes.append("the vertical scale is negative: the first row is taken as the northernmost, as GDAL does")
    placed = sidecars.geotransform or inside or sidecars.world
    crs, said = sidecars.crs, ""
    if crs is None:
        crs, said = _crs(keys)
    points = sidecars.tie_points if placed is None else ()
    if points and sidecars.points_crs is not None:
        crs, said = sidecars.points_crs, ""
    notes += [said] if said else []
    if placed is None and (points or TIEPOINT in own) and not odd:
        count = len(points or _numbers(values[TIEPOINT])) // 6
        notes.append(
            f"ground control points ({count}) place the image, so its pixels have no one size and no exact place: the "
            "points are copied to the mask (warp the image to get polygons on the map)"
        )
    if placed is not None and crs is None and not said:
        notes.append(
            "the image has a place and no CRS, so the unit of its coordinates is unknown: give the size of a pixel by "
            "--slide-mpp"
        )
    unit = metres(crs) if crs is not None else _unit(keys)
    return Georeference(
        crs=crs,
        geotransform=placed,
        unit=unit,
        tags=_tags(own, keys, sidecars, placed=placed if placed is not inside else None, points=points),
        nodata=sidecars.nodata,
        notes=tuple(notes),
    )


def _crs(keys: GeoKeys) -> tuple[CRS | None, str]:
    try:
        return crs_of_keys(keys), ""
    except UnknownCrsError as exc:
        return None, f"the CRS in the file is not understood ({exc}): its tags are copied to the mask as they are"


def _unit(keys: GeoKeys) -> Fraction | None:
    found = linear_unit(keys) if keys.shorts.get(MODEL_TYPE) == MODEL_PROJECTED else None
    return None if found is None else exact_unit(found)


def _tags(
    own: dict[int, Tag],
    keys: GeoKeys,
    sidecars: Sidecars,
    *,
    placed: Geotransform | None,
    points: tuple[float, ...],
) -> tuple[Tag, ...]:
    """Return the tags of the file, changed where a sidecar says something else.

    Args:
        own: The tags of the file by their codes.
        keys: The GeoKeys of the file.
        sidecars: What the files beside the image say.
        placed: The geotransform of a sidecar, where it places the image.
        points: The ground control points of a sidecar, where they place the image.
    """
    found = dict(own)
    # A geotransform in GDAL's sense places a pixel's corner. In a file whose raster type is PixelIsPoint, tie points
    # place its centre instead.
    shift = 0.5 if keys.places_centres else 0.0
    if placed is not None or points:
        for code in PLACE_TAGS:
            found.pop(code, None)
        new = placed.shifted(shift, shift).tags() if placed else (tie_points_tag(points, shift=-shift),)
        found |= {tag[0]: tag for tag in new}
    crs = sidecars.points_crs if points and sidecars.points_crs is not None else sidecars.crs
    if crs is not None:
        for code in KEY_TAGS:
            found.pop(code, None)
        found |= {tag[0]: tag for tag in tags_of_crs(crs, centres=keys.places_centres)}
    if sidecars.rpc:
        found[RPC] = rpc_tag(sidecars.rpc)
    return tuple(found[code] for code in sorted(found))


def _stated_south(values: dict[int, object]) -> bool:
    """Return whether by the scale, read as the standard defines it, the first row is the southernmost."""
    scale = _numbers(values.get(PIXEL_SCALE))
    return len(scale) > 1 and isinstance(scale[1], float) and scale[1] < 0


def _numbers(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()
