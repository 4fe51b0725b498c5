"""Annotations that QuPath writes are read as a region."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
import shapely

from magnet_cli.areas.features import read_geojson
from magnet_cli.errors import SourceError
from magnet_cli.geometry import Pitch, Size
from magnet_cli.images.protocol import ImageInfo, Level
from magnet_cli.options.regions import parse_roi

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(width=800, height=600)
INFO = ImageInfo(
    path="s.tif",
    backend="tiff",
    size=SIZE,
    levels=(Level(size=SIZE, downsample=Pitch.square(1)),),
    bands=("red", "green", "blue"),
    dtype="uint8",
)


def square(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Return a closed ring."""
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def annotation(ring: list[list[float]], classification: object) -> dict[str, Any]:
    """Return a feature as QuPath writes it."""
    properties = {"objectType": "annotation", "classification": classification, "isLocked": True}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


TUMOUR = annotation(square(100, 100, 500, 500), {"name": "Tumor", "color": [200, 0, 0]})
IGNORED = square(350, 350, 450, 450)


def read(path: Path, document: object) -> tuple[float, tuple[str, ...]]:
    """Return the area of a file's polygons, and the notes on it."""
    path.write_text(json.dumps(document))
    geometry, notes = read_geojson(str(path), INFO)
    return float(shapely.area(geometry)), notes


@pytest.mark.parametrize(
    "classification",
    [
        {"name": "Ignore*", "color": [180, 180, 180]},
        {"names": ["Tumor", "Necrosis*"]},
        {"name": "Tumor: Ignore*"},
        "Ignore*",
    ],
)
def test_classes_that_qupath_ignores_are_left_out_and_named(classification: object, tmp_path: Path) -> None:
    for place, features in enumerate(([TUMOUR, annotation(IGNORED, classification)],) * 2):
        document = features if place else {"type": "FeatureCollection", "features": features[::-1]}
        area, notes = read(tmp_path / "a.geojson", document)
        assert area == 400 * 400 - 100 * 100
        assert len(notes) == 1
        assert "left out 1 polygon of " in notes[0]
        assert "*" in notes[0]


@pytest.mark.parametrize("classification", [None, {"name": "Tumor"}, {"name": None}, {"names": None}, {}, 7, "a*b"])
def test_other_classes_are_looked_at(classification: object, tmp_path: Path) -> None:
    area, notes = read(tmp_path / "a.geojson", [TUMOUR, annotation(square(600, 0, 700, 100), classification)])
    assert area == 400 * 400 + 100 * 100
    assert notes == ()


def test_a_region_of_ignored_classes_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"but those of Ignore\*"):
        read(tmp_path / "a.geojson", [annotation(IGNORED, {"name": "Ignore*"})])
    with pytest.raises(SourceError, match="nothing of the region remains"):
        read(tmp_path / "a.geojson", [annotation(IGNORED, {"name": "Ignore*"}), annotation(IGNORED, None)])


def test_packed_annotations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps([TUMOUR]).encode()))
    assert parse_roi(str(path)) == path
    geometry, _ = read_geojson(str(path), INFO)
    assert shapely.area(geometry) == 400 * 400
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="compression is damaged"):
        read_geojson(str(path), INFO)
