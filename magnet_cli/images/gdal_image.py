"""Rasters that GDAL reads: mosaics (VRT), and formats of geographic programs that have no reader of their own here."""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.channels import channel_bands, scale_note
from magnet_cli.images.contents import Content, choose, largest, others
from magnet_cli.images.failures import check_pixels, naming
from magnet_cli.images.gdal_length import refuse_short_raster
from magnet_cli.images.georeference import georeference
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.images.ground import ground_size
from magnet_cli.images.levels import level_table
from magnet_cli.images.lossy_codecs import lossy_tile
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.rpc import finite_number, rpc_values
from magnet_cli.images.sidecars import Sidecars, find_sidecars
from magnet_cli.images.sqlite_files import opened_sqlite
from magnet_cli.images.store import Pixels
from magnet_cli.images.tiff_colour import COLOURS, Colour, alpha_note
from magnet_cli.images.validity import storable
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Alpha

CACHE_MIB = 64
"""Memory in MiB that GDAL may use for decoded blocks."""
OPEN_FILES = 64
"""Files of a mosaic that GDAL keeps open."""
BYTES_OF_XML = 13
"""Memory that GDAL takes for a byte of a mosaic's description: 12.1 with 10,000 files, 11.0 with 100,000."""

FAILURES = (RasterioError,)
DAMAGED = "The file is damaged, lacks a file that belongs to it, or needs a driver that this GDAL was built without"

DRIVERS = (
    *("VRT", "GTI", "HFA", "ENVI", "EHdr", "GenBin", "GPKG", "NITF", "netCDF", "HDF5", "HDF5Image", "BAG", "MBTiles"),
    *("ECW", "JP2ECW", "MrSID", "KEA", "PCIDSK", "ERS", "MRF", "AAIGrid", "AIG", "RST", "RRASTER", "SAGA", "RMF"),
    *("ILWIS", "DTED", "SRTMHGT", "USGSDEM", "GRIB", "BSB", "GSAG", "GSBG", "GS7BG", "NWT_GRD", "ISIS3", "VICAR"),
)
"""GDAL drivers that may open a file: those for rasters in files, and none that reads from a network."""
SOURCE = re.compile(rb"<Source(?:Filename|Dataset)\b([^>]*)>([^<]*)<", re.IGNORECASE)
"""The attributes and the name of a file in the description of a mosaic."""
OTHER_COLOURS = ("hue", "saturation", "lightness", "cyan", "magenta", "Y", "Cb", "Cr")
"""What GDAL calls bands of other colours than red, green and blue. Yellow is also a band of satellites."""
JPEG_NAMES = {"Y": ColorInterp.red, "Cb": ColorInterp.green, "Cr": ColorInterp.blue}
"""What the bands of JPEG data hold that GDAL calls by the names of the compressed components: libjpeg converts them."""
PAM = ".aux.xml"
"""End of the names of files in which GDAL stores what it knows of a raster, statistics among it."""
WITHOUT_PIXELS = (PAM, ".stx")
"""Ends of the names of files with statistics and metadata alone."""
BESIDE = (".ovr", ".msk", ".aux", ".rrd", ".aux.xml")
"""Ends of the names of files with overviews, a mask or statistics, whose values are not those of the raster."""
TILE_TABLES = {
    "GPKG": "SELECT table_name FROM gpkg_contents WHERE data_type = 'tiles'",
    "MBTiles": "SELECT 'tiles'",
}
"""Queries for the tables that hold the tiles of a map, as pictures, by the driver of its file."""
TABLE = re.compile("GPKG:(.*):([^:]*)")
"""GDAL's name of one of several tables of a GeoPackage, with its file and the table."""
MOST_TILES = 4096
"""Tiles of such a table whose first bytes are looked at."""
SMALLEST = 1e-9
MOST_NAMED = 5
"""Largest number of bands that a message names."""
MARKS = (101, 90)
"""Values of samples before they are read, which every type can hold."""
RELATIVE = re.compile(rb"relativeToVRT\s*=\s*[\"']1")
REMOTE = (
    b"/vsicurl",
    b"/vsis3",
    b"/vsigs",
    b"/vsiaz",
    b"/vsiadls",
    b"/vsioss",
    b"/vsiswift",
    b"http:",
    b"https:",
    b"&lt;",
)
"""Parts of a name of a file on a network, or of a name that is a description itself."""
LONGEST_NAME = 8192
XML_PIECE = 1 << 20
HEAD_BYTES = 256
"""Number of bytes at a file's start in which the description of a mosaic begins."""


def environment() -> Any:
    """Return a GDAL environment with bounded memory, which runs no code of a file and fetches nothing."""
    return rasterio.Env(
        GDAL_CACHEMAX=CACHE_MIB,
        GDAL_MAX_DATASET_POOL_SIZE=OPEN_FILES,
        GDAL_MAX_DATASET_POOL_RAM_USAGE=f"{CACHE_MIB}MB",
        # A VRT may hold Python code, which GDAL runs if this is on.
        GDAL_VRT_ENABLE_PYTHON="NO",
        GDAL_PAM_ENABLED=True,
        # No file name ends in this, so GDAL fetches nothing from a network, whatever a VRT names.
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS="none",
    )


@dataclass(frozen=True, kw_only=True)
class Codes(Colour):
    """Rules by which samples that GDAL decodes become bands."""

    read_alpha: Alpha | None = None
    """How the band that is flagged as alpha is read; None where none is."""


def open_gdal(
    path: str,
    *,
    series: str | int | None = None,
    indices: bool = False,
    labels: Collection[int] = (),
    alpha: Alpha = "mask",
) -> PyramidImage:
    """Open a raster that GDAL reads.

    Args:
        path: Path of the file.
        series: Number or name of the raster that is read, where the file holds several; None for the largest.
        indices: Whether a palette image is read as its stored indices, not as colours.
        labels: Stored values that are data, also where the file calls one of them its nodata value.
        alpha: Meaning of a band that is flagged as alpha.

    Raises:
        SourceError: The file is damaged or no raster, or holds no raster of that number or name.
    """
    datasets: list[list[Any]] = [[]]  # filled one by one, so that all are closed where one cannot be opened
    try:
        with environment(), naming(path, "the file cannot be opened", advice=DAMAGED, also=FAILURES):
            missing = _missing_sources(path)
            found = _open_parts(path, datasets[0], series)
            for part in datasets[0]:
                refuse_short_raster(path, part)
            codes = codes_of(path, datasets[0], indices=indices, alpha=alpha)
            for index in range(_reductions(datasets[0], codes)):
                datasets.append([_dataset(name, overview_level=index) for name in found.names])
                # With such an overview pixels without data would become black pixels of a class.
                if not keeps_masks(datasets[0], datasets[-1]):
                    close([datasets.pop()])
                    break
            info = image_info(path, datasets, codes)
            info = replace(info, notes=(*missing, *others(found.contents, found.index), *info.notes))
            _forget_failures(datasets[0], found.names)
    except SourceError:
        close(datasets)
        raise
    image = PyramidImage(info, GdalStore(info, datasets, codes, labels=labels), by_band=False)
    return image.holding(found.contents, found.index)


def keeps_masks(full: Sequence[Any], reduced: Sequence[Any]) -> bool:
    """Return whether overviews say in the same way as the full datasets which pixels hold data.

    An overview that was built before the mask, or beside one without overviews of its own, says that all of them do.
    """
    return all(
        one.mask_flag_enums == other.mask_flag_enums and one.nodatavals == other.nodatavals
        for one, other in zip(full, reduced, strict=True)
    )


def _forget_failures(parts: list[Any], names: Sequence[str]) -> None:
    """Open mosaics anew after they were asked for overviews.

    That opens a file. Where it is missing in a mosaic inside a mosaic, GDAL fails once and reads zeros afterwards.
    """
    for index, name in enumerate(names):
        if parts[index].driver == "VRT":
            parts[index].close()
            parts[index] = _dataset(name)


def recognized(path: str) -> bool:
    """Return whether a driver takes a file for one of its own."""
    try:
        with environment(), _dataset(path):
            return True
    except RasterioError:
        return False


def is_indexed(path: str) -> bool:
    """Return whether the first band of a raster has a palette.

    Raises:
        SourceError: The raster cannot be opened.
    """
    parts: list[Any] = []
    try:
        with environment(), naming(path, "the file cannot be opened", advice=DAMAGED, also=FAILURES):
            _open_parts(path, parts)
            return bool(parts[0].colorinterp[0] is ColorInterp.palette)
    finally:
        close([parts])


def lossy_raster(path: str) -> str | None:
    """Return the name of a raster's compression where it has changed values; else None.

    Of a mosaic the first files are asked, as many as may be open at a time; of a file with several rasters, the one
    that `open_gdal` reads.
    """
    try:
        with environment(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, sharing=False) as whole:
                if not whole.count:
                    return _lossy_part(path)
                parts = _mosaic_files(whole, path)[:OPEN_FILES]
                found = _lossy_compression(whole)
            for part in parts if found is None else ():
                with suppress(RasterioError), rasterio.open(part, sharing=False) as one:
                    found = found or _lossy_compression(one)
    except RasterioError:
        return None
    return found


def _lossy_part(path: str) -> str | None:
    parts: list[Any] = []
    try:
        _open_parts(path, parts)
        return next(filter(None, map(_lossy_compression, parts)), None)
    finally:
        close([parts])


def _mosaic_files(dataset: Any, path: str) -> list[str]:
    """Return the files that hold the values of a mosaic; none of other rasters."""
    if dataset.driver != "VRT":
        return []
    return [file for file in dataset.files if file != path and not file.lower().endswith(BESIDE)]


def _lossy_compression(dataset: Any) -> str | None:
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    if dataset.count:  # a file that holds several rasters has no bands of its own
        structure = {**dataset.tags(1, ns="IMAGE_STRUCTURE"), **structure}
    codec = str(structure.get("COMPRESSION", ""))
    # A mosaic may name "YCbCr JPEG". MBTiles name the format of their tiles as the ending of a file.
    if "JPEG" in codec.split() or (dataset.driver == "MBTiles" and dataset.tags().get("format") in ("jpg", "jpeg")):
        return "JPEG"
    if dataset.driver in TILE_TABLES:
        return _lossy_tiles(dataset.name, TILE_TABLES[dataset.driver])
    if codec.startswith("LERC"):
        stated = structure.get("MAX_Z_ERROR", structure.get("LERC_PREC", "0"))
        # Within an error of less than 1 whole numbers stay what they are.
        limit = 0 if dataset.dtypes[0].startswith("float") else 1 - SMALLEST
        return "lossy LERC" if (finite_number(stated) or 0) > limit else None
    codec = "JPEG 2000" if dataset.driver.startswith("JP2") else codec.replace("JPEG2000", "JPEG 2000")
    # GDAL says so of formats that know both kinds.
    return f"lossy {codec}".strip() if structure.get("COMPRESSION_REVERSIBILITY") == "LOSSY" else None


def _lossy_tiles(path: str, tables: str) -> str | None:
    """Return the name of the compression of one of the first tiles of an SQLite file, where it has changed values.

    Args:
        path: Path of the file; or the name that GDAL gives to one of several tables, which alone is then asked.
        tables: Query for the names of the tables.
    """
    part = TABLE.fullmatch(path)
    try:
        with closing(opened_sqlite(part[1] if part else path)) as base:
            for (table,) in base.execute(tables).fetchall():
                if part and str(table) != part[2]:
                    continue
                name = str(table).replace('"', '""')
                heads = f'SELECT substr(tile_data, 1, {HEAD_BYTES}) FROM "{name}" LIMIT {MOST_TILES}'  # noqa: S608 - a quoted name
                for (data,) in base.execute(heads):
                    # SQLite's columns take values of any type.
                    found = lossy_tile(data) if isinstance(data, bytes) else None
                    if found is not None:
                        return found
    except sqlite3.Error:
        return None
    return None


def companions(path: Path) -> list[Path]:
    """Return the files that belong to a raster beside the one that is named: headers, and those of a mosaic.

    Files of statistics and metadata are left out, because `facts_text` says what they state. There are none where GDAL
    does not know the file.
    """
    try:
        with environment(), _dataset(str(path)) as dataset:
            found = {Path(name) for name in dataset.files if not name.lower().endswith(WITHOUT_PIXELS)}
    except RasterioError:
        return []
    return sorted(file for file in found if file != path and regular_files.is_file(file))


def facts_text(path: Path) -> str:
    """Return what files `.aux.xml` say of the place, the bands and the missing pixels of a raster, to be hashed.

    GDAL opens the raster with and without them, and only facts that differ are in the text: neither statistics that
    GDAL stores there nor facts that it repeats make another image. The text is empty without such a file, so that no
    hash depends on how a version of GDAL spells what the raster itself states, and where GDAL does not know the file.
    """
    try:
        with environment(), _dataset(str(path)) as whole:
            beside = [file for file in whole.files if file.lower().endswith(PAM)]
        if not beside:
            return ""
        with environment():
            read = _facts(path)
        with environment(), rasterio.Env(GDAL_PAM_ENABLED=False):
            own = _facts(path)
    except RasterioError:
        return ""
    found = [
        (part, name, value)
        for part, facts in enumerate(read)
        for name, value in facts.items()
        if part >= len(own) or own[part][name] != value
    ]
    # A mosaic may take the missing pixels of its files for its own.
    sources = {file[: -len(PAM)] for file in beside} - {str(path)}
    said = [(Path(source).name, find_sidecars(source, world=()).digest_text()) for source in sorted(sources)]
    placed = [(name, text) for name, text in said if text]
    return repr((found, placed)) if found or placed else ""


def _facts(path: Path) -> list[dict[str, object]]:
    """Return the facts of a raster, followed by those of the rasters in it where it has no bands of its own."""
    with _dataset(str(path)) as whole:
        found = [_facts_of(whole)]
        names = [] if whole.count else list(whole.subdatasets)[:OPEN_FILES]
    for name in names:
        with _dataset(name) as part:
            found.append(_facts_of(part))
    return found


def _facts_of(dataset: Any) -> dict[str, object]:
    points, crs = dataset.gcps
    colours: list[object] = []
    if dataset.colorinterp[:1] == (ColorInterp.palette,):
        with suppress(ValueError):  # a band may be called a palette and have none
            colours = sorted(dataset.colormap(1).items())
    return {
        "crs": dataset.crs and dataset.crs.to_wkt(),
        "transform": tuple(dataset.transform),
        "points": [(p.col, p.row, p.x, p.y, p.z) for p in points],
        "crs of points": crs and crs.to_wkt(),
        "rpc": sorted(dataset.tags(ns="RPC").items()),
        "dtypes": dataset.dtypes,
        "nodata": tuple(map(repr, dataset.nodatavals)),  # NaN is not equal to itself
        "colours": [each.name for each in dataset.colorinterp],
        "palette": colours,
        "names": _descriptions(dataset),
        "masks": [sorted(flag.name for flag in flags) for flags in dataset.mask_flag_enums],
        "scales": dataset.scales,
        "offsets": dataset.offsets,
    }


def _missing_sources(path: str) -> tuple[str, ...]:
    """Return a note on the files of a mosaic that are not there; reading where one of them lies is an error.

    Raises:
        SourceError: A file lies on a network, from which GDAL would fetch it.
    """
    waiting, known, missing = [path], {path}, list[str]()
    while waiting:
        for name in _sources_of(waiting.pop(), path):
            if name in known:
                continue
            known.add(name)
            if not os.path.exists(name):  # noqa: PTH110 - pathlib raises where a name is too long
                missing.append(name)
            elif name.lower().endswith(".vrt"):
                waiting.append(name)
    if not missing:
        return ()
    count = f"{len(missing)} of the {len(known) - 1} files of the mosaic are not there, the first is {missing[0]}"
    return (f"{count}: where they lie the mosaic cannot be read",)


def _sources_of(path: str, outer: str) -> Iterator[str]:
    """Return the paths of the files from which a mosaic is made; none for other files, or for parts of files.

    Args:
        path: Path of the mosaic.
        outer: Path of the mosaic that the user named, for the error message.

    Raises:
        SourceError: A file lies on a network.
    """
    folder = Path(path).resolve().parent
    with regular_files.opened(Path(path)) as file:
        if not file.read(HEAD_BYTES).lstrip().startswith(b"<VRTDataset"):
            return
        file.seek(0)
        before = b""
        while piece := file.read(XML_PIECE):
            for attributes, source in SOURCE.findall(before + piece):
                if any(mark in source.lower() for mark in REMOTE):
                    raise SourceError(
                        "the files of a mosaic are read from a disk only",
                        value=source[:100].decode(errors="replace"),
                        file=outer,
                        advice="Download the files, or build the mosaic of files on this machine",
                    )
                name = unescape(source.decode("utf-8", "surrogateescape")).strip()
                # A colon divides a driver from a file and a part of it, such as NETCDF:a.nc:band1.
                if name and not name.startswith("/vsi") and ":" not in name:
                    yield str(folder / name) if RELATIVE.search(attributes) else name
            # A name may lie across two pieces, so the end of one is searched again with the next.
            before = piece[-LONGEST_NAME:]


def _dataset(path: str, **options: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # `rasterio.open` takes a single driver.
        return DatasetReader(path, driver=list(DRIVERS), sharing=False, **options)


@dataclass(frozen=True, kw_only=True)
class RasterParts:
    """The datasets from which a raster is read."""

    names: list[str]
    """Names of the datasets, as GDAL opens them."""
    contents: tuple[Content, ...] = ()
    """The rasters of the file; empty where it holds one."""
    index: int = 0
    """Position of the raster that is read."""


def _open_parts(path: str, parts: list[Any], series: str | int | None = None) -> RasterParts:
    """Open what a raster is read from: its file, or the variables of it that are the bands of one raster.

    Args:
        path: Path of the file.
        parts: List to which the opened datasets are added.
        series: Number or name of the raster, where the file holds several.
    """
    whole = _dataset(path)
    parts.append(whole)
    # Containers such as netCDF and HDF5 have no bands of their own, only subdatasets.
    if whole.count:
        return RasterParts(names=[path])
    names = list(whole.subdatasets)
    if not names:
        raise SourceError("the file holds no raster", file=path, advice="Name a file with pixels")
    whole.close()
    parts[:] = map(_dataset, names)
    kinds = [(part.shape, part.count, part.dtypes[:1], part.transform, part.crs) for part in parts]
    if all(kind == kinds[0] and part.count == 1 for kind, part in zip(kinds, parts, strict=True)):
        return RasterParts(names=names)
    contents = tuple(
        Content(name=name.rsplit(":", 1)[-1].strip('/"'), size=Size(width=part.width, height=part.height))
        for name, part in zip(names, parts, strict=True)
    )
    index = choose(contents, series, default=largest(contents), path=path)
    for part in [part for position, part in enumerate(parts) if position != index]:
        part.close()
    parts[:] = [parts[index]]
    return RasterParts(names=[names[index]], contents=contents, index=index)


def _reductions(datasets: Sequence[Any], codes: Codes) -> int:
    """Return how many overviews all datasets have, from the first on, that are smaller versions of the raster."""
    # Overviews of a palette image hold indices that were averaged or picked, neither of which is an average of colours.
    if codes.palette is not None:
        return 0
    full = Size(width=datasets[0].width, height=datasets[0].height)
    for index in range(min(len(dataset.overviews(1)) for dataset in datasets)):
        factor = datasets[0].overviews(1)[index]
        if factor < 2 or max(full.width, full.height) < factor:  # noqa: PLR2004 (no reduction)
            return index
    return min(len(dataset.overviews(1)) for dataset in datasets)


def codes_of(
    path: str, datasets: Sequence[Any], *, indices: bool = False, luma: bool = False, alpha: Alpha = "mask"
) -> Codes:
    """Return the meaning of the bands of datasets that make one raster.

    Raises:
        SourceError: The datasets hold complex numbers.
    """
    dtypes = [np.dtype(name if name != "complex_int16" else "complex64") for each in datasets for name in each.dtypes]
    dtype = np.result_type(*dtypes)
    if dtype.kind == "c":
        raise SourceError("complex numbers are not read as an image", file=path, advice="Write their amplitude")
    meanings = [meaning for each in datasets for meaning in _meanings(each)]
    if not indices and not luma:
        _refuse_colours(path, [meaning.name for meaning in meanings])
    flagged = meanings.index(ColorInterp.alpha) if ColorInterp.alpha in meanings else None
    transparent = None if alpha == "band" else flagged
    said: dict[str, Any] = {"alpha": transparent}
    if flagged is not None:
        said |= {"read_alpha": alpha, "notes": (alpha_note(flagged + 1, alpha),)}
    if meanings[0] is ColorInterp.palette and not indices:
        return Codes(bands=COLOURS, dtype=np.dtype(np.uint8), palette=_palette(datasets[0]), **said)
    samples = [sample for sample in range(len(meanings)) if sample != transparent]
    described = [name for each in datasets for name in _descriptions(each)]
    names = [_band_name(position, meanings[sample], described[sample]) for position, sample in enumerate(samples)]
    names = list(channel_bands(names))
    if len(samples) >= len(COLOURS) and (luma or flagged == len(COLOURS)):
        names[: len(COLOURS)] = COLOURS
    if len(names) == 1 and names[0] == "band1":
        names = ["grey"]
    return Codes(
        bands=tuple(names),
        dtype=dtype,
        **said,
        luma=luma and len(samples) == len(COLOURS) and dtype == np.uint8,
    )


def _meanings(dataset: Any) -> list[ColorInterp]:
    """Return the colours of a dataset's bands after decoding: NITF names those of its JPEG data before."""
    is_jpeg = dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION") == "JPEG"
    return [JPEG_NAMES.get(meaning.name, meaning) if is_jpeg else meaning for meaning in dataset.colorinterp]


def _refuse_colours(path: str, meanings: Sequence[str]) -> None:
    """Refuse bands that would be taken for red, green and blue by their count, and those that would be lost.

    Raises:
        SourceError: The file says that they are other colours, or its first band has a palette and is not the only one.
    """
    value = ", ".join(meanings[:MOST_NAMED])
    if any(name in OTHER_COLOURS for name in meanings):
        raise SourceError(
            "bands of these colours are not read",
            value=value,
            file=path,
            advice="Convert the colours to red, green and blue; gdal_translate would copy the bands unchanged",
        )
    # A palette of a later band leaves all bands what they are.
    if meanings[0] == "palette" and any(name not in ("palette", "alpha") for name in meanings):
        raise SourceError(
            "a first band with a palette is read as colours, so that the bands beside it would be lost",
            value=value,
            file=path,
            advice="Write the bands that you need alone, with gdal_translate: -b 1 -expand rgb for the colours, "
            "or -b 2 and so on",
        )


def _descriptions(dataset: Any) -> list[str]:
    """Return what a dataset calls its bands, in small letters.

    Where a file has several datasets, the name is that of the variable.
    """
    return [
        (name or dataset.tags(index + 1).get("NETCDF_VARNAME", "")) for index, name in enumerate(dataset.descriptions)
    ]


def _band_name(position: int, meaning: ColorInterp, described: str) -> str:
    if meaning.name in COLOURS:
        return str(meaning.name)
    return described.strip().lower() or f"band{position + 1}"


def _palette(dataset: Any) -> NDArray[np.uint8]:
    table = dataset.colormap(1)
    entries = max(table) + 1
    return np.array([table.get(index, (0, 0, 0))[:3] for index in range(entries)], np.uint8)


def image_info(path: str, datasets: Sequence[Sequence[Any]], codes: Codes) -> ImageInfo:
    """Collect the facts about a raster.

    Args:
        path: Path of the file.
        datasets: Datasets that together hold the bands, for each level, finest first.
        codes: Meaning of the bands of these datasets.
    """
    full = datasets[0][0]
    check_pixels(full.width, full.height, path)
    size = Size(width=full.width, height=full.height)
    nodata = {value for each in datasets[0] for value in each.nodatavals}
    # Bands with different nodata values have no common one. GDAL's masks by band say what is missing then.
    only = nodata.pop() if len(nodata) == 1 else None
    masked = codes.alpha is not None or codes.dtype.kind == "f" or not all(map(_all_valid, datasets[0]))
    xml = Path(path).stat().st_size if full.driver == "VRT" else 0
    scales, offsets = (
        [value for each in datasets[0] for value in getattr(each, name)] for name in ("scales", "offsets")
    )
    info = ImageInfo(
        path=path,
        backend="rasterio",
        size=size,
        levels=level_table(size, [Size(width=level[0].width, height=level[0].height) for level in datasets[1:]]),
        bands=codes.bands,
        dtype=codes.dtype.name,
        nodata=storable(only, codes.dtype),
        alpha=codes.read_alpha,
        has_mask=masked,
        notes=(*codes.notes, *scale_note(scales, offsets)),
        resident_bytes=(CACHE_MIB << 20) + xml * BYTES_OF_XML * len(datasets),
    )
    return placed(info, full)


def _all_valid(dataset: Any) -> bool:
    return all(MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)


def placed(info: ImageInfo, dataset: Any) -> ImageInfo:
    """Add the georeference that GDAL gives a dataset, as the tags that a TIFF would have."""
    reference = georeference((), _place(dataset))
    if not reference.is_placed:
        return info
    resolution, notes = ground_size(reference, info.size)
    return replace(
        info,
        crs=reference.name,
        geo_tags=reference.tags,
        resolution=resolution,
        notes=(*info.notes, *reference.notes, *notes),
    )


def _place(dataset: Any) -> Sidecars:
    points, crs = dataset.gcps
    transform = None if dataset.transform.is_identity else Geotransform.of_gdal(dataset.transform.to_gdal())
    return Sidecars(
        crs=_system(dataset.crs),
        geotransform=transform,
        tie_points=tuple(float(value) for p in points for value in (p.col, p.row, 0, p.x, p.y, p.z or 0)),
        points_crs=_system(crs),
        rpc=rpc_values(dataset.tags(ns="RPC").get),
    )


def _system(crs: Any) -> CRS | None:
    return None if crs is None else CRS.from_wkt(crs.to_wkt(version="WKT2_2019"))


class GdalStore:
    """Levels of a raster that GDAL reads.

    Args:
        info: Facts about the image.
        datasets: Datasets that together hold the bands, for each level, finest first.
        codes: Meaning of the bands of these datasets.
        labels: Stored values that are data, also where a dataset calls one of them its nodata value.
    """

    def __init__(
        self, info: ImageInfo, datasets: Sequence[Sequence[Any]], codes: Codes, *, labels: Collection[int] = ()
    ) -> None:
        self._info = info
        self._datasets = datasets
        self._codes = codes
        self._labels = labels
        # A GDAL dataset belongs to one thread at a time.
        self._lock = Lock()
        self._failure: SourceError | None = None
        """Error of a read that failed.

        Nothing is read afterwards: where GDAL fails once, it may return zeros the next time.
        """

    def block(self, level: int) -> Size:
        """Return the block size of the first dataset of a level."""
        height, width = self._datasets[level][0].block_shapes[0]
        return Size(width=width, height=height)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Decode a box of a level from the datasets that hold the bands."""
        rule = f"box {box} of level {level} cannot be decoded"
        window = Window(box.x, box.y, box.width, box.height)
        codes, wanted = self._wanted(bands)
        with self._lock, environment():
            if self._failure is not None:
                raise self._failure
            try:
                with naming(self._info.path, rule, advice=DAMAGED, also=FAILURES):
                    found = [self._read(level, dataset, window, some) for dataset, some in self._chosen(level, wanted)]
            except SourceError as error:
                self._failure = error
                raise
        samples = np.concatenate([values for values, _ in found]) if len(found) > 1 else found[0][0]
        masks = np.concatenate([mask for _, mask in found])
        valid = None if masks.all() else np.moveaxis(masks, 0, 2)
        pixels = codes.bands_of(Pixels(np.ascontiguousarray(np.moveaxis(samples, 0, 2)), valid), None)
        return pixels if codes is not self._codes else pixels.only(bands)

    def close(self) -> None:
        """Close all datasets."""
        with self._lock:
            close(self._datasets)

    def _wanted(self, bands: tuple[int, ...] | None) -> tuple[Codes, list[int]]:
        """Return what to read for some bands: positions of samples, and what these mean."""
        codes = self._codes
        every = list(range(len(codes.bands) + (codes.alpha is not None)))
        if codes.palette is not None:
            return codes, [0] if codes.alpha is None else [0, codes.alpha]
        if bands is None or codes.luma:
            return codes, every
        samples = [band + (codes.alpha is not None and band >= codes.alpha) for band in bands]
        found = replace(codes, bands=tuple(codes.bands[band] for band in bands))
        if codes.alpha is None:
            return found, samples
        return replace(found, alpha=len(samples)), [*samples, codes.alpha]

    def _chosen(self, level: int, samples: list[int]) -> Iterator[tuple[Any, list[int]]]:
        """Yield the datasets that hold some samples, each with its own numbers of them, in the samples' order."""
        parts = self._datasets[level]
        if len(parts) == 1:
            yield parts[0], [sample + 1 for sample in samples]
            return
        owners = []
        for part in parts:
            owners.extend([(part, number + 1) for number in range(part.count)])
        for sample in samples:
            dataset, number = owners[sample]
            yield dataset, [number]

    def _read(
        self,
        level: int,  # noqa: ARG002 (of the samples of JPEG 2000 the place depends on it)
        dataset: Any,
        window: Window,
        numbers: list[int],
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the samples and validity of some bands, `(bands, height, width)`; alpha is left to `Codes`."""
        stored = self._codes.dtype if self._codes.palette is None else np.dtype(dataset.dtypes[0])
        samples = _samples(dataset, numbers, window, stored)
        masks = np.ones(samples.shape, np.bool_)
        for index, number in enumerate(numbers):
            flags = dataset.mask_flag_enums[number - 1]
            if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
                continue
            # In a raster of labels a class may have the value that the file calls nodata.
            if MaskFlags.nodata in flags and dataset.nodatavals[number - 1] in self._labels:
                continue
            masks[index] = dataset.read_masks(number, window=window) > 0
        return samples, masks


def _samples(dataset: Any, numbers: list[int], window: Window, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read samples, `(bands, height, width)`, and make sure that GDAL has written each.

    After a mosaic inside a mosaic was read, GDAL 3.10 does not report a file of a mosaic that cannot be opened, and
    leaves the samples as they lie in memory. So they are marked beforehand, and read again with another mark where a
    sample has the value of the first.

    Raises:
        RasterioError: GDAL failed, with or without a report.
    """
    if dataset.driver != "VRT":
        found: NDArray[Any] = dataset.read(numbers, window=window, out_dtype=dtype)
        return found
    shape = (len(numbers), window.height, window.width)
    samples = dataset.read(numbers, window=window, out=np.full(shape, MARKS[0], dtype))
    doubtful = samples == MARKS[0]
    if doubtful.any():
        again = dataset.read(numbers, window=window, out=np.full(shape, MARKS[1], dtype))
        if (again[doubtful] == MARKS[1]).any():
            message = "a file of the mosaic is missing or cannot be opened"
            raise RasterioError(message)
    marked: NDArray[Any] = samples
    return marked


def close(datasets: Sequence[Sequence[Any]]) -> None:
    """Close all datasets of all levels."""
    for level in datasets:
        for dataset in level:
            dataset.close()
