"""Files beside an image that belong to it, as GDAL finds them: where it lies, which pixels hold data, overviews."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from magnet_cli.images.geotransform import DOUBLE, TIEPOINT, TIEPOINT_VALUES, Geotransform
from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pyproj import CRS

    from magnet_cli.images.geotransform import Tag

LARGEST_TEXT = 32 << 20
"""Bytes of a sidecar that is read whole; GDAL keeps histograms there, which may be long."""
WORLD_LINES = 6
RPC = 50844
"""The tag RPCCoefficientTag: 92 numbers, the error's two first."""
RPC_SCALARS = (
    *("LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF"),
    *("LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"),
)
RPC_POLYNOMIALS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")
RPC_TERMS = 20
RPB_NAMES = {
    "ERR_BIAS": "errBias",
    "ERR_RAND": "errRand",
    "LINE_OFF": "lineOffset",
    "SAMP_OFF": "sampOffset",
    "LAT_OFF": "latOffset",
    "LONG_OFF": "longOffset",
    "HEIGHT_OFF": "heightOffset",
    "LINE_SCALE": "lineScale",
    "SAMP_SCALE": "sampScale",
    "LAT_SCALE": "latScale",
    "LONG_SCALE": "longScale",
    "HEIGHT_SCALE": "heightScale",
    "LINE_NUM_COEFF": "lineNumCoef",
    "LINE_DEN_COEFF": "lineDenCoef",
    "SAMP_NUM_COEFF": "sampNumCoef",
    "SAMP_DEN_COEFF": "sampDenCoef",
}
"""What the files .RPB of DigitalGlobe call the numbers."""
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """What stands beside an image."""

    crs: CRS | None = None
    """Of the file .aux.xml, which GDAL believes rather than the image."""
    geotransform: Geotransform | None = None
    """Likewise."""
    world: Geotransform | None = None
    """Of a world file, which places an image that says nothing itself."""
    tie_points: tuple[float, ...] = ()
    """Ground control points of .aux.xml, six numbers each, as in the tag ModelTiepoint."""
    points_crs: CRS | None = None
    rpc: tuple[float, ...] = ()
    """Rational polynomial coefficients, as in the tag RPCCoefficientTag."""
    nodata: float | None = None
    mask: Path | None = None
    """`.msk`: a raster whose pixels say which of the image's hold data."""
    overviews: Path | None = None
    """`.ovr`: reduced levels."""
    notes: tuple[str, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Whether one of them says where the image lies."""
        return bool(self.crs or self.geotransform or self.world or self.tie_points or self.rpc)

    def digest_text(self) -> str:
        """What the reading of pixels depends on, as a text to be hashed; statistics that GDAL stores are not in it."""
        systems = [crs and crs.to_wkt() for crs in (self.crs, self.points_crs)]
        values = (systems, self.geotransform, self.world, self.tie_points, self.rpc, self.nodata)
        return repr(values) if any((*systems, *values[1:])) else ""


def find_sidecars(path: str | Path, *, world: Iterable[str]) -> Sidecars:
    """The sidecars of an image on a disk; none of a URL, where each would cost requests.

    Args:
        path: Of the image.
        world: Endings of its world file, without the dot: `tfw` and the like.
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


def unread_projection(path: str | Path) -> str | None:
    """A note on a `.prj` file, which GDAL does not read for images; None where there is none."""
    found = None if is_url(str(path)) else _beside(Path(path), "prj")
    if found is None:
        return None
    return f"{found.name} beside the image is not read, nor does GDAL read it: store the CRS in the file itself"


def world_endings(suffix: str) -> tuple[str, ...]:
    """Endings of the world file of an image with a suffix, as GDAL tries them: `.tif` has tfw, tifw and wld."""
    word = suffix.lower().lstrip(".")
    return (f"{word[:1]}{word[-1:]}w", f"{word}w", "wld") if word else ("wld",)


def _beside(path: Path, ending: str) -> Path | None:
    """A file of the image's name with another ending, in lower or upper case."""
    return _first(path.with_suffix(f".{word}") for word in (ending, ending.upper()))


def _appended(path: Path, ending: str) -> Path | None:
    return _first(path.with_name(f"{path.name}.{word}") for word in (ending, ending.upper()))


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


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
    """Of six lines: steps of x and y along a row, those down a column, then the centre of the first pixel."""
    for ending in endings:
        file = _beside(path, ending)
        text = None if file is None else _text(file, notes)
        if file is None or text is None:
            continue
        values = [_number(line) for line in text.split()[:WORLD_LINES]]
        a, d, b, e, x, y = (values + [None] * WORLD_LINES)[:WORLD_LINES]
        if None in (a, d, b, e, x, y) or not (a or b) or not (d or e):
            notes.append(f"{file.name} beside the image is no world file: it is ignored")
            continue
        return Geotransform(matrix=((a, b), (d, e)), origin=(x, y)).shifted(-0.5, -0.5)  # type: ignore[arg-type] # none is None
    return None


def _number(text: str) -> float | None:
    try:
        found = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return found if isfinite(found) else None


@dataclass(frozen=True, kw_only=True)
class _Pam:
    """What a file .aux.xml of GDAL's Persistent Auxiliary Metadata says of an image."""

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
    values = [_number(part) for part in text.split(",")]
    if len(values) != 6 or None in values or values[1] == values[2] == 0 or values[4] == values[5] == 0:  # noqa: PLR2004
        notes.append(f"the geotransform in {file.name} is not understood: it is ignored")
        return None
    return Geotransform.of_gdal([value for value in values if value is not None])


def _points(points: ET.Element) -> Iterator[float]:
    for point in points.findall("GCP"):
        values = [_number(point.get(key, "0")) for key in ("Pixel", "Line", "X", "Y", "Z")]
        if None not in values:
            x, y, *place = values
            yield from (float(value or 0) for value in (x, y, 0, *place))


def _pam_nodata(root: ET.Element, file: Path, notes: list[str]) -> float | None:
    """The nodata value of all bands; where bands differ, none can be the image's."""
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


def rpc_values(text_of: Callable[[str], str | None]) -> tuple[float, ...]:
    """The numbers of the tag RPCCoefficientTag; none where one is missing.

    Args:
        text_of: Gives the text of an item by GDAL's name for it.
    """
    errors = [_number(text_of(key) or "-1") for key in ("ERR_BIAS", "ERR_RAND")]
    scalars = [_number((text_of(key) or "").split(" ")[0]) for key in RPC_SCALARS]
    terms = [[_number(part) for part in (text_of(key) or "").split()] for key in RPC_POLYNOMIALS]
    values = [
        *(-1.0 if value is None else value for value in errors),
        *scalars,
        *(part for row in terms for part in row),
    ]
    if None in values or any(len(row) != RPC_TERMS for row in terms):
        return ()
    return tuple(value for value in values if value is not None)


def _rpc_files(path: Path, notes: list[str]) -> tuple[float, ...]:
    """Of `NAME_RPC.TXT` or `NAME.RPB`, as sellers of satellite images deliver them."""
    text_file = _first(path.with_name(f"{path.stem}{end}") for end in ("_RPC.TXT", "_rpc.txt", "_RPC.txt"))
    table = text_file or _beside(path, "RPB") or _beside(path, "rpb")
    text = None if table is None else _text(table, notes)
    if table is None or text is None:
        return ()
    found = rpc_values((_lines(text) if text_file else _assignments(text)).get)
    if not found:
        notes.append(f"the coefficients in {table.name} are not understood: they are ignored")
    return found


def _lines(text: str) -> Mapping[str, str]:
    """Of `LINE_OFF: +002199.00 pixels`; polynomials have a line a term, `LINE_NUM_COEFF_1: ...`."""
    found: dict[str, str] = {}
    for key, value in re.findall(rf"^\s*(\w+)\s*:\s*({NUMBER})", text, re.MULTILINE):
        name = re.sub(r"_\d+$", "", key)
        found[name] = f"{found[name]} {value}" if name in found and name != key else value
    return found


def _assignments(text: str) -> Mapping[str, str]:
    """Of `lineOffset = 2199;` and `lineNumCoef = (1, 2, ...);`."""
    found = {}
    for name, word in RPB_NAMES.items():
        match = re.search(rf"\b{word}\s*=\s*\(?([^;)]*)\)?\s*;", text)
        if match:
            found[name] = " ".join(re.findall(NUMBER, match[1]))
    return found


def rpc_tag(values: tuple[float, ...]) -> Tag:
    """Coefficients as a TIFF tag."""
    return RPC, DOUBLE, len(values), values


def tie_points_tag(values: tuple[float, ...], *, shift: float) -> Tag:
    """Ground control points as a TIFF tag, their pixels moved by a shift."""
    moved = tuple(
        value + shift if index % TIEPOINT_VALUES < 2 else value  # noqa: PLR2004 (column and row)
        for index, value in enumerate(values)
    )
    return TIEPOINT, DOUBLE, len(moved), moved
