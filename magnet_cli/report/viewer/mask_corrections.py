"""The corrections of a mask that the page shows and changes, in a GeoJSON file beside the mask."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

from magnet_cli import images
from magnet_cli.areas.drawn_shapes import area_of, joined, polygon_shape, rings_of, stroke_shape
from magnet_cli.areas.features import MOST_CORNERS, LabelledArea, read_labelled_areas
from magnet_cli.errors import OutputError, SourceError
from magnet_cli.exports.corrections import Correction, corrections_path, is_corrections, write_corrections
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.masks.spec import MaskClass

ADVICE = "Reload the page, and draw it again"

FULL = "Undo what you drew last, and go on in a GIS or in QuPath, which read the file of the corrections"

MOST_CORRECTIONS = 10_000
MOST_POINTS = 50_000
"""A single shape has at most this many corners."""
LARGEST_PLACE = 1e9
"""Coordinates beyond this number of pixels are refused."""
FOREIGN = "another program has written a file of this name, which is not replaced"


class ChangedElsewhereError(OutputError):
    """The file of corrections has changed since the page read it."""


class MaskCorrections:
    """The corrections of one mask. Its methods are safe to call from several threads.

    Args:
        mask: The file of the mask, which may not exist yet.
        info: The facts about the image.
        classes: The names and colours of the classes, by label.
    """

    def __init__(self, mask: Path, info: images.ImageInfo, classes: Sequence[MaskClass]) -> None:
        self.path = corrections_path(mask)
        self._info = info
        self._classes = tuple(classes)
        self._identity: str | None = None
        self._lock = threading.Lock()

    def read(self) -> dict[str, object]:
        """Return the corrections as JSON values: the name and revision of the file, and the rings of each correction.

        Raises:
            SourceError: The file cannot be read, is of another program, or belongs to another image.
        """
        with self._lock:
            data = self._content()
            areas = self._areas(data)
            return self._described(areas, data)

    def write(self, request: Any) -> dict[str, object]:
        """Replace the corrections, and return them as `read` does.

        Args:
            request: JSON values: `revision`, that of the file when the page read it, and `corrections`, each with
                `label` and either `polygons` (rings of each polygon) or `line` and `width` (a stroke of the brush).

        Raises:
            SourceError: The request has another form, a class is unknown, or a shape lies outside the image.
            ChangedElsewhereError: The file has changed since.
            OutputError: The file cannot be written.
        """
        revision, areas = self._parsed(request)
        with self._lock:
            data = self._content()
            if _revision(data) != revision:
                raise ChangedElsewhereError(
                    "the corrections have changed since this page read them, and what you drew last is not saved",
                    file=self.path,
                    advice=ADVICE,
                )
            found = [
                Correction(label=area.label, area=area_of(area.geometry), polygons=rings_of(area.geometry))
                for area in areas
            ]
            written = write_corrections(
                self.path, found, info=self._info, classes=self._classes, identity=self._image()
            )
            return self._described(areas, written)

    def _content(self) -> bytes | None:
        """Return the content of the file; None where there is none.

        Raises:
            SourceError: It cannot be read, or another program has written it.
        """
        if not self.path.exists():
            return None
        if not is_corrections(self.path):
            raise SourceError(FOREIGN, file=self.path, advice="Move it away, then reload the page")
        try:
            return regular_files.content(self.path)
        except (OSError, ValueError) as exc:
            raise SourceError(
                "the corrections cannot be read", value=exc, file=self.path, advice="Correct the file, or move it away"
            ) from exc

    def _areas(self, data: bytes | None) -> list[LabelledArea]:
        if data is None:
            return []
        names = [entry.name for entry in self._classes]
        areas, _ = read_labelled_areas(str(self.path), self._info, names, identity=self._image)
        return areas

    def _image(self) -> str:
        if self._identity is None:
            self._identity = str(images.ImageIdentity.of(self._info))
        return self._identity

    def _described(self, areas: Sequence[LabelledArea], data: bytes | None) -> dict[str, object]:
        return {
            "file": self.path.name,
            "revision": _revision(data),
            "corrections": [
                {
                    "label": area.label,
                    "area": round(area_of(area.geometry)),
                    # Coordinates of a map come back a little beside the corners that were drawn.
                    "polygons": [[ring.round(2).tolist() for ring in rings] for rings in rings_of(area.geometry)],
                }
                for area in areas
            ],
        }

    def _parsed(self, request: Any) -> tuple[str, list[LabelledArea]]:
        revision = request.get("revision") if isinstance(request, dict) else None
        listed = request.get("corrections") if isinstance(request, dict) else None
        if not isinstance(revision, str) or not isinstance(listed, list):
            raise SourceError("a request has a revision and a list of corrections", advice=ADVICE)
        if len(listed) > MOST_CORRECTIONS:
            raise SourceError(
                f"the page writes at most {MOST_CORRECTIONS:,} corrections",
                value=f"{len(listed):,}",
                advice=FULL,
            )
        areas = [self._area(entry, f"correction {number}") for number, entry in enumerate(listed, start=1)]
        corners = sum(len(ring) for area in areas for rings in rings_of(area.geometry) for ring in rings)
        if corners > MOST_CORNERS:
            raise SourceError(
                f"corrections have at most {MOST_CORNERS:,} corners in all",
                value=f"{corners:,}",
                advice=FULL,
            )
        return revision, areas

    def _area(self, entry: Any, name: str) -> LabelledArea:
        if not isinstance(entry, dict):
            raise SourceError("a correction is an object", file=name, advice=ADVICE)
        label = entry.get("label")
        if type(label) is not int or not 0 <= label < len(self._classes):
            raise SourceError(
                f"the label of a correction is one of 0 to {len(self._classes) - 1}",
                value=repr(label)[:80],
                file=name,
                advice=ADVICE,
            )
        size = self._info.size
        if "line" in entry:
            width: Any = entry.get("width")
            if not _is_number(width):
                raise SourceError(
                    "the width of a brush is a number",
                    value=repr(width)[:80],
                    file=name,
                    advice=ADVICE,
                )
            return LabelledArea(
                label=label, geometry=stroke_shape(_points(entry["line"], name), width, size, name=name)
            )
        polygons = entry.get("polygons")
        if not isinstance(polygons, list) or not polygons or not all(isinstance(rings, list) for rings in polygons):
            raise SourceError(
                "a correction has polygons, or the line and width of a brush",
                file=name,
                advice=ADVICE,
            )
        shapes = [polygon_shape([_points(ring, name) for ring in rings], size, name=name) for rings in polygons]
        return LabelledArea(label=label, geometry=joined(shapes))


def _points(listed: Any, name: str) -> list[tuple[float, float]]:
    """Return places of a request.

    Raises:
        SourceError: They are no places.
    """
    if not isinstance(listed, list):
        raise SourceError("a shape is a list of places", file=name, advice=ADVICE)
    if len(listed) > MOST_POINTS:
        raise SourceError(
            f"a shape has at most {MOST_POINTS:,} places",
            value=f"{len(listed):,}",
            file=name,
            advice="Undo it, and draw it in several parts",
        )
    for place in listed:
        if not isinstance(place, list) or len(place) != 2 or not all(map(_is_number, place)):  # noqa: PLR2004 - x, y
            raise SourceError(
                "a place is two numbers, x and y in pixels",
                value=repr(place)[:80],
                file=name,
                advice=ADVICE,
            )
    return [(float(x), float(y)) for x, y in listed]


def _is_number(value: Any) -> bool:
    # The comparison is also false for NaN, and for whole numbers that no float can hold.
    return type(value) in (int, float) and -LARGEST_PLACE <= value <= LARGEST_PLACE


def _revision(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()
