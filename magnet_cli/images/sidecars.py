"""Files beside an image that belong to it, as GDAL finds them: its place, a mask of its pixels, its overviews."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from magnet_cli.images.geotransform import DOUBLE, TIEPOINT, TIEPOINT_VALUES, Geotransform
from magnet_cli.images.rpc import finite_number, rpc_values, values_of_assignments, values_of_lines
from magnet_cli.images.urls import is_url
from magnet_cli.system.regular_files import is_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyproj import CRS

    from magnet_cli.images.geotransform import Tag

LARGEST_TEXT = 32 << 20
"""The largest sidecar that is read whole, in bytes. GDAL keeps histograms there, which may be long."""
WORLD_LINES = 6


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """What the files beside an image say of it."""

    crs: CRS | None = None
    """Reference system of the file .aux.xml. GDAL prefers it to that of the image."""
    geotransform: Geotransform | None = None
    """Geotransform of the file .aux.xml. GDAL prefers it to that of the image."""
    world: Geotransform | None = None
    """Geotransform of a world file. It places an image that has no other place."""
    tie_points: tuple[float, ...] = ()
    """Ground control points of the file .aux.xml, six numbers each, as in the tag ModelTiepoint."""
    points_crs: CRS | None = None
    rpc: tuple[float, ...] = ()
    """Rational polynomial coefficients, as in the tag RPCCoefficientTag."""
    nodata: float | None = None
    mask: Path | None = None
    """A raster `.msk`, whose pixels say which pixels of the image hold data."""
    overviews: Path | None = None
    """A file `.ovr`, which holds reduced levels."""
    notes: tuple[str, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Whether one of them says where the image lies."""
        return bool(self.crs or self.geotransform or self.world or self.tie_points or self.rpc)

    def digest_text(self) -> str:
        """Return what a run depends on as a text to be hashed; it leaves out statistics that GDAL stores."""
        systems = [crs and crs.to_wkt() for crs in (self.crs, self.points_crs)]
        values = (systems, self.geotransform, self.world, self.tie_points, self.rpc, self.nodata)
        return repr(values) if any((*systems, *values[1:])) else ""


def find_sidecars(path: str | Path, *, world: Iterable[str]) -> Sidecars:
    """Find the sidecars of an image on a disk. A URL has none, because each would cost requests.

    Args:
        path: Path of the image.
        world: Endings that its world file may have, without the dot, such as `tfw`.
    """
    if is_url(str(path)):
        return Sidecars()
    path = Path(path)
    notes: list[str] = []
    placed = _world(path, world, notes)
    found = _Pam.read(path, notes)
    rpc = _rpc_files(path, notes) or (found.rpc if found else ())
    if placed is None and (found is None or found.geotransform is None) and (table := _beside(path, "tab")):
        notes.append(f"{table.name} (MapInfo) beside the image is not read: store the place in the file itself")
    return Sidecars(
        crs=found.crs if found else None,
        geotransform=found.geotransform if found else None,
        world=placed,
        tie_points=found.tie_points if found else (),
        points_crs=found.points_crs if found else None,
        rpc=rpc,
        nodata=found.nodata if found else None,
        mask=_appended(path, "msk"),
        overviews=_appended(path, "ovr"),
        notes=tuple(notes),
    )


def sidecar_files(path: Path, *, world: Iterable[str]) -> list[Path]:
    """Return the files beside an image from which its place is read."""
    found = [*(_beside(path, ending) for ending in world), _appended(path, "aux.xml"), _rpc_file(path)]
    return [file for file in found if file is not None]


def unread_projection(path: str | Path) -> str | None:
    """Return a note on a `.prj` file, which GDAL does not read for images; None where there is none."""
    found = None if is_url(str(path)) else _beside(Path(path), "prj")
    if found is None:
        return None
    return f"{found.name} beside the image is not read, nor does GDAL read it: store the CRS in the file itself"


def world_endings(suffix: str) -> tuple[str, ...]:
    """Return the endings that GDAL tries for the world file of an image: tfw, tifw and wld for the suffix `.tif`."""
    word = suffix.lower().lstrip(".")
    return (f"{word[:1]}{word[-1:]}w", f"{word}w", "wld") if word else ("wld",)


def _beside(path: Path, ending: str) -> Path | None:
    """Return the file that has the image's name with another ending, in lower or upper case."""
    return _first(path.with_suffix(f".{word}") for word in (ending, ending.upper()))


def _appended(path: Path, ending: str) -> Path | None:
    return _first(path.with_name(f"{path.name}.{word}") for word in (ending, ending.upper()))


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if is_file(path)), None)


def _text(path: Path, notes: list[str]) -> str | None:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            notes.append(f"{path.name} beside the image is too long to be read: it is ignored")
            return None
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as exc:
        notes.append(f"{path.name} beside the image cannot be read ({exc.strerror}): it is ignored")
        return None


def _world(path: Path, endings: Iterable[str], notes: list[str]) -> Geotransform | None:
    """Read a world file: steps of x and y along a row, steps down a column, and the centre of the first pixel."""
    for ending in endings:
        file = _beside(path, ending)
        text = None if file is None else _text(file, notes)
        if file is None or text is None:
            continue
        values = [finite_number(line) for line in text.split()[:WORLD_LINES]]
        a, d, b, e, x, y = (values + [None] * WORLD_LINES)[:WORLD_LINES]
        if None in (a, d, b, e, x, y) or not (a or b) or not (d or e):
            notes.append(f"{file.name} beside the image is no world file: it is ignored")
            continue
        return Geotransform(matrix=((a, b), (d, e)), origin=(x, y)).shifted(-0.5, -0.5)  # type: ignore[arg-type] # none is None
    return None


@dataclass(frozen=True, kw_only=True)
class _Pam:
    """Contents of an image's file .aux.xml, GDAL's Persistent Auxiliary Metadata."""

    crs: CRS | None
    geotransform: Geotransform | None
    tie_points: tuple[float, ...]
    points_crs: CRS | None
    rpc: tuple[float, ...]
    nodata: float | None

    @classmethod
    def read(cls, path: Path, notes: list[str]) -> _Pam | None:
        file = _appended(path, "aux.xml")
        text = None if file is None else _text(file, notes)
        if file is None or text is None:
            return None
        root = _tree(text)
        if root is None or root.tag != "PAMDataset":
            notes.append(f"{file.name} beside the image is damaged, or not GDAL's: it is ignored")
            return None
        points = root.find("GCPList")
        ties = tuple(_points(points)) if points is not None else ()
        crs = _system(root.findtext("SRS"), file, notes)
        if crs is None and root.find(".//GeodataXform") is not None:
            notes.append(f"the place that ArcGIS stores in {file.name} is not read: store it in the file itself")
        return cls(
            crs=crs,
            geotransform=_six(root.findtext("GeoTransform"), file, notes),
            tie_points=ties,
            points_crs=_system(points.get("Projection"), file, notes) if points is not None else None,
            rpc=_pam_rpc(root),
            nodata=_pam_nodata(root, file, notes),
        )


def _tree(text: str) -> ET.Element | None:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return ET.fromstring(text)  # noqa: S314 (entities were refused)
    except ET.ParseError:
        return None


def _system(text: str | None, file: Path, notes: list[str]) -> CRS | None:
    from pyproj import CRS  # noqa: PLC0415 (few images have such a file)
    from pyproj.exceptions import CRSError  # noqa: PLC0415

    if text is None or not text.strip():
        return None
    try:
        return CRS.from_user_input(text.strip())
    except CRSError as exc:
        notes.append(f"the CRS in {file.name} is not understood ({str(exc).splitlines()[0][:120]}): it is ignored")
        return None


def _six(text: str | None, file: Path, notes: list[str]) -> Geotransform | None:
    if text is None:
        return None
    values = [finite_number(part) for part in text.split(",")]
    if len(values) != 6 or None in values or values[1] == values[2] == 0 or values[4] == values[5] == 0:  # noqa: PLR2004
        notes.append(f"the geotransform in {file.name} is not understood: it is ignored")
        return None
    return Geotransform.of_gdal([value for value in values if value is not None])


def _points(points: ET.Element) -> Iterator[float]:
    for point in points.findall("GCP"):
        values = [finite_number(point.get(key, "0")) for key in ("Pixel", "Line", "X", "Y", "Z")]
        if None not in values:
            x, y, *place = values
            yield from (float(value or 0) for value in (x, y, 0, *place))


def _pam_nodata(root: ET.Element, file: Path, notes: list[str]) -> float | None:
    """Return the nodata value of all bands, or None where bands differ."""
    found = [text.strip() for text in (each.findtext("NoDataValue") for each in root.findall("PAMRasterBand")) if text]
    values = set()
    for text in found:
        try:
            values.add(float(text))
        except ValueError:
            notes.append(f"the nodata value in {file.name} is no number: it is ignored")
    if len(values) > 1:
        notes.append(f"bands have different nodata values in {file.name}: they are ignored")
        return None
    return next(iter(values), None)


def _pam_rpc(root: ET.Element) -> tuple[float, ...]:
    for domain in root.findall("Metadata"):
        if domain.get("domain") == "RPC":
            return rpc_values({item.get("key", ""): item.text or "" for item in domain.findall("MDI")}.get)
    return ()


def _rpc_files(path: Path, notes: list[str]) -> tuple[float, ...]:
    """Read `NAME_RPC.TXT` or `NAME.RPB`, which sellers of satellite images deliver."""
    table = _rpc_file(path)
    text = None if table is None else _text(table, notes)
    if table is None or text is None:
        return ()
    found = values_of_lines(text) if table.suffix.lower() == ".txt" else values_of_assignments(text)
    if not found:
        notes.append(f"the coefficients in {table.name} are not understood: they are ignored")
    return found


def _rpc_file(path: Path) -> Path | None:
    text_file = _first(path.with_name(f"{path.stem}{end}") for end in ("_RPC.TXT", "_rpc.txt", "_RPC.txt"))
    return text_file or _beside(path, "RPB") or _beside(path, "rpb")


def tie_points_tag(values: tuple[float, ...], *, shift: float) -> Tag:
    """Return ground control points as a TIFF tag, with their pixels moved by a shift."""
    moved = tuple(
        value + shift if index % TIEPOINT_VALUES < 2 else value  # noqa: PLR2004 (column and row)
        for index, value in enumerate(values)
    )
    return TIEPOINT, DOUBLE, len(moved), moved
