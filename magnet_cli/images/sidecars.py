"""Files beside an image that belong to it, as GDAL finds them: its place, a mask of its pixels, its overviews."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from magnet_cli.images.channels import BandNames
from magnet_cli.images.geotransform import DOUBLE, TIEPOINT, TIEPOINT_VALUES, Geotransform
from magnet_cli.images.rpc import finite_number, rpc_values, values_of_assignments, values_of_lines
from magnet_cli.images.sidecar_folder import folder_of
from magnet_cli.images.urls import is_url, last_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyproj import CRS

    from magnet_cli.images.geotransform import Tag
    from magnet_cli.images.sidecar_folder import SidecarFolder

WORLD_LINES = 6
NUMBERED = re.compile(r"(band|layer)[ _]?\d+", re.IGNORECASE)
"""Descriptions that programs store for bands without one; they say no more than the band's number."""
RPC_TEXTS = ("_RPC.TXT", "_rpc.txt", "_RPC.txt")
RPC_TABLES = ("RPB", "rpb")


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """Facts about an image from the files beside it."""

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
    names: BandNames = field(default_factory=BandNames)
    """Names that the file .aux.xml gives to bands."""
    scales: tuple[float, ...] = ()
    """Factors of stored values by the file .aux.xml, where it states any."""
    offsets: tuple[float, ...] = ()
    """Numbers that are added to the products, where it states any."""
    mask: str | None = None
    """Path or URL of a raster `.msk`, whose pixels say which pixels of the image hold data."""
    overviews: str | None = None
    """Path or URL of a file `.ovr`, which holds reduced levels."""
    notes: tuple[str, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Whether one of the sidecars states where the image lies."""
        return bool(self.crs or self.geotransform or self.world or self.tie_points or self.rpc)

    def digest_text(self) -> str:
        """Return the place and the nodata value as a text to be hashed; it leaves out statistics that GDAL stores.

        Names of bands are left out, because GDAL repeats those of the image when it stores statistics.
        """
        systems = [crs and crs.to_wkt() for crs in (self.crs, self.points_crs)]
        values = (systems, self.geotransform, self.world, self.tie_points, self.rpc, self.nodata)
        return repr(values) if any((*systems, *values[1:])) else ""


def find_sidecars(path: str | Path, *, world: Iterable[str], placed: bool = False) -> Sidecars:
    """Find the sidecars of an image, on a disk or behind a URL.

    Args:
        path: Path or URL of the image.
        world: Endings that its world file may have, without the dot, such as `tfw`.
        placed: Whether the image itself says where it lies. Behind a URL, where each file costs a request, neither a
            world file nor rational polynomials are then looked for.
    """
    remote = is_url(str(path))
    names, notes = _Names.of(str(path), () if placed and remote else tuple(world)), list[str]()
    folder = folder_of(str(path), names.all(rpc=not placed), notes)
    found_world = _world(folder, names, notes)
    found = _Pam.read(folder, names, notes)
    rpc = _rpc_files(folder, names, notes) or (found.rpc if found else ())
    unplaced = found_world is None and (found is None or found.geotransform is None)
    if unplaced and not remote and (table := folder.first(names.beside("tab"))):
        notes.append(f"{table} (MapInfo) beside the image is not read: store the place in the file itself")
    return Sidecars(
        crs=found.crs if found else None,
        geotransform=found.geotransform if found else None,
        world=found_world,
        tie_points=found.tie_points if found else (),
        points_crs=found.points_crs if found else None,
        rpc=rpc,
        nodata=found.nodata if found else None,
        names=found.names if found else BandNames(),
        scales=found.scales if found else (),
        offsets=found.offsets if found else (),
        mask=_place(folder, names.appended("msk")),
        overviews=_place(folder, names.appended("ovr")),
        notes=tuple(notes),
    )


def sidecar_files(path: Path, *, world: Iterable[str]) -> list[Path]:
    """Return the files beside an image on a disk from which its place is read."""
    names, folder = _Names.of(str(path), tuple(world)), folder_of(str(path), (), [])
    groups = [*(names.beside(ending) for ending in names.world), names.appended("aux.xml"), names.rpc()]
    return [Path(folder.place(name)) for group in groups if (name := folder.first(group)) is not None]


def file_beside(path: str, ending: str) -> str | None:
    """Return the path or URL of a file whose name is that of another and an ending; None without such a file.

    Args:
        path: Path or URL of the other file.
        ending: Ending with its dot, such as `.ovr`.
    """
    name = f"{last_part(path)}{ending}"
    return _place(folder_of(path, (name,), []), (name,))


def unread_projection(path: str | Path) -> str | None:
    """Return a note on a `.prj` file, which GDAL does not read for images; None where there is none."""
    if is_url(str(path)):
        return None
    found = folder_of(str(path), (), []).first(_Names.of(str(path), ()).beside("prj"))
    if found is None:
        return None
    return f"{found} beside the image is not read, nor does GDAL read it: store the CRS in the file itself"


def world_endings(suffix: str) -> tuple[str, ...]:
    """Return the endings that GDAL tries for the world file of an image: tfw, tifw and wld for the suffix `.tif`."""
    word = suffix.lower().lstrip(".")
    # By ESRI's convention the ending is the first and the last letter of the image's, and a w.
    return (f"{word[:1]}{word[-1:]}w", f"{word}w", "wld") if word else ("wld",)


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The names that the files beside an image may have."""

    name: str
    """File name of the image; of a URL its last part, with its escapes."""
    world: tuple[str, ...]
    """Endings of a world file, without the dot."""
    remote: bool
    """Whether each name costs a request; few spellings are then tried."""

    @classmethod
    def of(cls, path: str, world: tuple[str, ...]) -> _Names:
        return cls(name=last_part(path), world=world, remote=is_url(path))

    def beside(self, ending: str) -> tuple[str, ...]:
        """Return the image's name with another ending, in lower and upper case."""
        return tuple(PurePath(self.name).with_suffix(f".{word}").name for word in self._cases(ending))

    def appended(self, ending: str) -> tuple[str, ...]:
        """Return the image's name with a second ending, in lower and upper case."""
        return tuple(f"{self.name}.{word}" for word in self._cases(ending))

    def rpc(self) -> tuple[str, ...]:
        """Return the names of files with rational polynomials."""
        stem = PurePath(self.name).stem
        texts = RPC_TEXTS[:1] if self.remote else RPC_TEXTS
        tables = RPC_TABLES[:1] if self.remote else RPC_TABLES
        return (*(f"{stem}{end}" for end in texts), *(f"{stem}.{word}" for word in tables))

    def all(self, *, rpc: bool) -> tuple[str, ...]:
        """Return all names that sidecars of the image may have."""
        worlds = [name for ending in self.world for name in self.beside(ending)]
        others = [name for ending in ("aux.xml", "msk", "ovr") for name in self.appended(ending)]
        return (*worlds, *others, *(self.rpc() if rpc else ()))

    def _cases(self, ending: str) -> tuple[str, ...]:
        return (ending,) if self.remote else (ending, ending.upper())


def _place(folder: SidecarFolder, names: Iterable[str]) -> str | None:
    """Return the path or URL of the first file that is there."""
    found = folder.first(names)
    return None if found is None else folder.place(found)


def _world(folder: SidecarFolder, names: _Names, notes: list[str]) -> Geotransform | None:
    """Read a world file: steps of x and y along a row, steps down a column, and the centre of the first pixel."""
    for ending in names.world:
        file = folder.first(names.beside(ending))
        text = None if file is None else folder.text(file, notes)
        if file is None or text is None:
            continue
        values = [finite_number(line) for line in text.split()[:WORLD_LINES]]
        a, d, b, e, x, y = (values + [None] * WORLD_LINES)[:WORLD_LINES]
        if None in (a, d, b, e, x, y) or not (a or b) or not (d or e):
            notes.append(f"{file} beside the image is no world file: it is ignored")
            continue
        # A world file names the centre of the first pixel, and a geotransform its corner.
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
    names: BandNames
    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    @classmethod
    def read(cls, folder: SidecarFolder, names: _Names, notes: list[str]) -> _Pam | None:
        file = folder.first(names.appended("aux.xml"))
        text = None if file is None else folder.text(file, notes)
        if file is None or text is None:
            return None
        root = _tree(text)
        if root is None or root.tag != "PAMDataset":
            notes.append(f"{file} beside the image is damaged, or not GDAL's: it is ignored")
            return None
        points = root.find("GCPList")
        ties = tuple(_points(points)) if points is not None else ()
        crs = _system(root.findtext("SRS"), file, notes)
        if crs is None and root.find(".//GeodataXform") is not None:
            notes.append(f"the place that ArcGIS stores in {file} is not read: store it in the file itself")
        return cls(
            crs=crs,
            geotransform=_six(root.findtext("GeoTransform"), file, notes),
            tie_points=ties,
            points_crs=_system(points.get("Projection"), file, notes) if points is not None else None,
            rpc=_pam_rpc(root),
            nodata=_pam_nodata(root, file, notes),
            names=BandNames.of(_pam_names(root)),
            scales=_pam_numbers(root, "Scale"),
            offsets=_pam_numbers(root, "Offset"),
        )


def _tree(text: str) -> ET.Element | None:
    # Entities that expand to one another can fill the memory. GDAL writes none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return ET.fromstring(text)  # noqa: S314 (entities were refused)
    except ET.ParseError:
        return None


def _system(text: str | None, file: str, notes: list[str]) -> CRS | None:
    from pyproj import CRS  # noqa: PLC0415 (few images have such a file)
    from pyproj.exceptions import CRSError  # noqa: PLC0415

    if text is None or not text.strip():
        return None
    try:
        return CRS.from_user_input(text.strip())
    except CRSError as exc:
        notes.append(f"the CRS in {file} is not understood ({str(exc).splitlines()[0][:120]}): it is ignored")
        return None


def _six(text: str | None, file: str, notes: list[str]) -> Geotransform | None:
    if text is None:
        return None
    values = [finite_number(part) for part in text.split(",")]
    if len(values) != 6 or None in values or values[1] == values[2] == 0 or values[4] == values[5] == 0:  # noqa: PLR2004
        notes.append(f"the geotransform in {file} is not understood: it is ignored")
        return None
    return Geotransform.of_gdal([value for value in values if value is not None])


def _points(points: ET.Element) -> Iterator[float]:
    for point in points.findall("GCP"):
        values = [finite_number(point.get(key, "0")) for key in ("Pixel", "Line", "X", "Y", "Z")]
        if None not in values:
            x, y, *place = values
            # A tie point of a TIFF is column, row and layer, then x, y and z.
            yield from (float(value or 0) for value in (x, y, 0, *place))


def _pam_nodata(root: ET.Element, file: str, notes: list[str]) -> float | None:
    """Return the nodata value of all bands, or None where bands differ."""
    found = [text.strip() for text in (each.findtext("NoDataValue") for each in root.findall("PAMRasterBand")) if text]
    values = set()
    for text in found:
        try:
            values.add(float(text))
        except ValueError:
            notes.append(f"the nodata value in {file} is no number: it is ignored")
    if len(values) > 1:
        notes.append(f"bands have different nodata values in {file}: they are ignored")
        return None
    return next(iter(values), None)


def _pam_names(root: ET.Element) -> Iterator[tuple[int, str, str]]:
    """Yield the position of a band's sample, the role of a text, and the text."""
    for band in root.findall("PAMRasterBand"):
        number = band.get("band", "")
        if not number.isdecimal() or int(number) < 1:
            continue
        described = band.findtext("Description") or ""
        if NUMBERED.fullmatch(described.strip()) is None:
            yield int(number) - 1, "description", described
        yield int(number) - 1, "colorinterp", band.findtext("ColorInterp") or ""


def _pam_numbers(root: ET.Element, key: str) -> tuple[float, ...]:
    found = [finite_number(band.findtext(key) or "") for band in root.findall("PAMRasterBand")]
    return tuple(value for value in found if value is not None)


def _pam_rpc(root: ET.Element) -> tuple[float, ...]:
    for domain in root.findall("Metadata"):
        if domain.get("domain") == "RPC":
            return rpc_values({item.get("key", ""): item.text or "" for item in domain.findall("MDI")}.get)
    return ()


def _rpc_files(folder: SidecarFolder, names: _Names, notes: list[str]) -> tuple[float, ...]:
    """Read `NAME_RPC.TXT` or `NAME.RPB`, which sellers of satellite images deliver."""
    table = folder.first(names.rpc())
    text = None if table is None else folder.text(table, notes)
    if table is None or text is None:
        return ()
    found = values_of_lines(text) if table.lower().endswith(".txt") else values_of_assignments(text)
    if not found:
        notes.append(f"the coefficients in {table} are not understood: they are ignored")
    return found


def tie_points_tag(values: tuple[float, ...], *, shift: float) -> Tag:
    """Return ground control points as a TIFF tag, with their pixels moved by a shift."""
    moved = tuple(
        value + shift if index % TIEPOINT_VALUES < 2 else value  # noqa: PLR2004 (column and row)
        for index, value in enumerate(values)
    )
    return TIEPOINT, DOUBLE, len(moved), moved
