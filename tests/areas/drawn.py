"""GeoJSON files of polygons with classes, in pixels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def square(left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    """Return a rectangle as a geometry."""
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def annotation(name: str, geometry: dict[str, Any]) -> dict[str, Any]:
    """Return a feature with a class, as QuPath writes it."""
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write_drawn(path: Path, *features: dict[str, Any], **members: Any) -> Path:
    """Write a collection of features."""
    document = {"type": "FeatureCollection", "features": list(features), **members}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
