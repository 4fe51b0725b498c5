"""Corrections of a mask as GeoJSON beside it: in the image's own CRS where a name stands for it, else in pixels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import OutputError
from magnet_cli.exports.geojson import HEAD, map_places, pixel_places
from magnet_cli.exports.polygon import Polygon
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.masks.mask_file import MaskFacts
from magnet_cli.system import durable
from magnet_cli.system.written_files import WrittenFile, refuse_foreign, refuse_long_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images import ImageInfo
    from magnet_cli.masks.spec import MaskClass

SCHEMA = 1
ENDING = ".corrections.geojson"
MASK_ENDING = ".tif"
OURS = re.compile(rb'\{"type":"FeatureCollection","magnet":\{"corrections":\d+,')
"""Every file of corrections that this program writes begins with this pattern."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A part of an image that has another class than its mask says."""

    label: int
    """The index of the class."""
    area: float
    """The area in level-0 pixels."""
    polygons: Sequence[Sequence[NDArray[Any]]]
    """The rings of each polygon, the outline first, each `(n, 2)` x, y in level-0 pixels, with equal ends. The signed
    area of outlines is positive, y counted upward as numbers, and that of holes negative."""


def corrections_path(mask: Path) -> Path:
    """Return the file of corrections: `x.corrections.geojson` of `x.tif`, `x.png.corrections.geojson` of `x.png`.

    Only the ending of this program's own masks is left out, so that no two masks share a file.
    """
    return mask.with_name(f"{mask.name.removesuffix(MASK_ENDING)}{ENDING}")


def is_corrections(path: Path) -> bool:
    """Return whether a file is one of corrections that this program wrote."""
    try:
        with path.open("rb") as file:
            return OURS.match(file.read(HEAD)) is not None
    except OSError:
        return False


def write_corrections(
    path: Path, corrections: Sequence[Correction], *, info: ImageInfo, classes: Sequence[MaskClass], identity: str
) -> bytes:
    """Make or replace a file of corrections, and return its content.

    Args:
        path: The file.
        corrections: The corrections. Where two overlap, readers take the later one.
        info: The facts about the image.
        classes: The names and colours of the classes, by label.
        identity: The identity of the image as a word.

    Raises:
        OutputError: The file cannot be written, or another program wrote the one that is there.
    """
    file = WrittenFile(path=path, kind="file of corrections", owner=info.path, is_ours=is_corrections)
    refuse_long_names([file])
    refuse_foreign([file])
    if path.is_symlink():
        raise OutputError("corrections are not written through a symbolic link", file=path, advice="Remove the link")
    content = corrections_document(corrections, info=info, classes=classes, identity=identity)
    durable.write_whole(path, content)
    return content


def corrections_document(
    corrections: Sequence[Correction], *, info: ImageInfo, classes: Sequence[MaskClass], identity: str
) -> bytes:
    """Return corrections as GeoJSON, as `write_corrections` writes it."""
    facts = MaskFacts(
        classes=tuple(classes),
        description={},
        resolution=info.resolution,
        bounds=info.bounds,
        crs=info.crs,
        geotransform=Geotransform.of({code: value for code, _, _, value in info.geo_tags}),
    )
    places = map_places(facts) or pixel_places(facts)
    features = []
    for correction in corrections:
        polygons = [
            Polygon(
                label=correction.label,
                pixels=round(correction.area),
                exterior=rings[0][:-1],
                holes=tuple(ring[:-1] for ring in rings[1:]),
            )
            for rings in correction.polygons
        ]
        coordinates = [
            [[*(points := ring.tolist()), points[0]] for ring in rings]
            for polygon in polygons
            for rings in places.polygons(polygon)
        ]
        several = len(coordinates) > 1
        features.append(
            {
                "type": "Feature",
                "properties": {**places.properties(polygons[0]), "label": correction.label},
                "geometry": {
                    "type": "MultiPolygon" if several else "Polygon",
                    "coordinates": coordinates if several else coordinates[0],
                },
            }
        )
    bounds = info.bounds
    mark = {
        "corrections": SCHEMA,
        "image": identity,
        "size": [info.size.width, info.size.height],
        # Pixels are counted from this corner. A mask of another program, with which the file is read, may lack it.
        "bounds": None if bounds is None else [bounds.x, bounds.y, bounds.width, bounds.height],
    }
    head = {"type": "FeatureCollection", "magnet": mark, **places.members()}
    lines = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in features)
    return f'{json.dumps(head, separators=(",", ":"))[:-1]},"features":[\n{lines}\n]}}\n'.encode()
