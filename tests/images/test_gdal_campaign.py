"""TIFF files with random options, written by GDAL and tifffile, give the pixels, validity and place that GDAL reads.

Where this program differs from GDAL on purpose, `expected` does so too and gives the reason.
"""

from __future__ import annotations

import random
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images import Image, Region, Request, open_image
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.images.labels import open_labels
from tests.images.test_contract import whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

rasterio = pytest.importorskip("rasterio")
enums = pytest.importorskip("rasterio.enums")
errors = pytest.importorskip("rasterio.errors")

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NodataShadowWarning"),
]

Array = NDArray[Any]
BY_GDAL, BY_TIFFFILE = 700, 200
PREDICTED = ("LZW", "DEFLATE", "ZSTD")
LOSSY_TOLERANCE = 5
"""Mean difference allowed for JPEG in YCbCr: only GDAL's decoder stops interpolating chroma at blocks of 16 pixels."""


@dataclass(kw_only=True)
class Drawn:
    """A random file that is to be written."""

    array: Array
    """Samples `(bands, height, width)`."""
    options: dict[str, Any]
    """Options for the library that writes the file."""
    hole: tuple[slice, slice]
    """Rows and columns of the pixels without data."""
    mask: str = ""
    """Where the mask is stored: `internal`, `external`, or empty without a mask."""
    unwritten: bool = False
    """Whether the tiles of the hole are left out of the file."""
    overviews: str = ""
    tags: dict[str, Any] = field(default_factory=dict)
    orientation: int = 1
    colours: dict[int, tuple[int, int, int, int]] | None = None

    def __str__(self) -> str:
        shape = "x".join(map(str, self.array.shape))
        chosen = {"mask": self.mask, "unwritten": self.unwritten, "overviews": self.overviews, **self.options}
        said = " ".join(f"{key}={value}" for key, value in chosen.items() if value not in ("", False, None))
        return f"{shape} {self.array.dtype} {said} {self.tags or ''}{'palette' if self.colours else ''}"


def values(rng: random.Random, dtype: str, shape: tuple[int, ...], *, bits: int = 0) -> Array:
    """Return samples that are smooth enough for JPEG, differ between bands, and are never 0 or a nodata value."""
    bands, height, width = shape
    start = rng.randrange(100)
    ramp = (np.add.outer(np.arange(height) * 2, np.arange(width)) + start) % 120 + 20
    found: Array = np.stack([(ramp + 17 * band) % 140 + 20 for band in range(bands)])
    if bits:
        return np.asarray(found % (2**bits - 1) + 1, dtype)
    if np.dtype(dtype).kind == "f":
        return (found / 7).astype(dtype)
    if dtype == "int8":
        return (found // 2 - 30).astype(dtype)
    return (found * (1 if dtype == "uint8" else 97)).astype(dtype)


@dataclass(kw_only=True)
class Kind:
    """A type of samples and their compression."""

    dtype: str
    bands: int
    options: dict[str, Any] = field(default_factory=dict)


def plain(rng: random.Random) -> Kind:
    dtype = rng.choice(["uint8", "uint8", "uint16", "int16", "uint32", "int32", "float32", "float64", "int8", "uint64"])
    compress = rng.choice([None, *PREDICTED, "LZMA", "PACKBITS"])
    options: dict[str, Any] = {"compress": compress}
    if compress in PREDICTED:
        options["predictor"] = rng.choice([1, 2, 3] if dtype in ("float32", "float64") else [1, 2])
    return Kind(dtype=dtype, bands=rng.choice([1, 1, 2, 3, 3, 4, 5]), options=options)


def few_bits(rng: random.Random) -> Kind:
    kinds = [("uint8", 1), ("uint8", 2), ("uint8", 4), ("uint8", 7), ("uint16", 12), ("float32", 16)]
    dtype, bits = rng.choice(kinds)
    fax = ["CCITTFAX4", "CCITTFAX3"] if bits == 1 else []
    options = {"NBITS": bits, "compress": rng.choice([None, *PREDICTED, *fax])}
    return Kind(dtype=dtype, bands=1 if bits == 1 else rng.choice([1, 2, 4]), options=options)


def jpeg(rng: random.Random) -> Kind:
    bands, interleave = rng.choice([1, 3, 3, 4]), rng.choice(["pixel", "band"])
    options: dict[str, Any] = {"compress": "JPEG", "JPEG_QUALITY": 90, "interleave": interleave}
    if bands == 3 and interleave == "pixel":
        options["photometric"] = rng.choice(["YCBCR", "RGB"])
    return Kind(dtype="uint8", bands=bands, options=options)


def webp(rng: random.Random) -> Kind:
    options = {"compress": "WEBP", "WEBP_LOSSLESS": "YES", "interleave": "pixel", "tiled": True}
    return Kind(dtype="uint8", bands=rng.choice([3, 4]), options=options)


def lerc(rng: random.Random) -> Kind:
    dtype = rng.choice(["uint8", "uint16", "int16", "float32", "float64"])
    options = {"compress": rng.choice(["LERC", "LERC_DEFLATE", "LERC_ZSTD"])}
    return Kind(dtype=dtype, bands=rng.choice([1, 2, 3, 4, 5]), options=options)


def palette(rng: random.Random) -> Kind:
    options = {"compress": rng.choice([None, *PREDICTED, "LZMA", "PACKBITS"]), "interleave": "pixel"}
    return Kind(dtype="uint8", bands=1, options=options)


def white(rng: random.Random) -> Kind:
    options = {"compress": rng.choice([None, *PREDICTED, "PACKBITS"]), "photometric": "MINISWHITE"}
    return Kind(dtype=rng.choice(["uint8", "uint16"]), bands=1, options=options)


def alpha(rng: random.Random) -> Kind:
    bands = rng.choice([2, 4, 5])
    options = {
        "compress": rng.choice([None, *PREDICTED]),
        "alpha": rng.choice(["YES", "NO", "PREMULTIPLIED", "NON-PREMULTIPLIED"]),
        "photometric": "MINISBLACK" if bands == 2 else rng.choice(["RGB", "MINISBLACK"]),
    }
    return Kind(dtype=rng.choice(["uint8", "uint16", "float32"]), bands=bands, options=options)


KINDS = (plain, plain, plain, few_bits, jpeg, webp, lerc, palette, white, alpha)


def draw(index: int) -> Drawn:
    """Return the random file with a number. The same number always gives the same file."""
    rng = random.Random(f"gdal-{index}")  # noqa: S311 (a test is drawn)
    make = rng.choice(KINDS)
    kind = make(rng)
    height, width = rng.choice([(97, 131), (64, 64), (1, 40), (130, 75), (33, 200)])
    options = {"interleave": rng.choice(["pixel", "band"]), **kind.options}
    if "tiled" in options or rng.random() < 0.6:
        block = rng.choice([(16, 16), (32, 48), (64, 64), (128, 32)])
        options |= {"tiled": True, "blockysize": block[0], "blockxsize": block[1]}
    else:
        options |= {"tiled": False, "blockysize": rng.choice([8, 16, height] if make is jpeg else [1, 7, 8, height])}
    options |= {"ENDIANNESS": rng.choice(["LITTLE", "BIG"]), "BIGTIFF": rng.choice(["NO", "YES"])}
    hole = (slice(height // 4, height // 4 + height // 2 + 1), slice(width // 5, width // 5 + width // 2))
    array = values(rng, kind.dtype, (kind.bands, height, width), bits=options.get("NBITS", 0))
    drawn = Drawn(array=array, options=options, hole=hole)
    if make is palette:
        drawn.colours = {entry: (entry, 255 - entry, (entry * 7) % 256, 255) for entry in range(256)}
    if make is alpha or (kind.bands == 4 and make in (webp, lerc) and rng.random() < 0.5):
        array[(-1, *hole)] = 0
        if rng.random() < 0.5:
            array[-1][array[-1] > 0] = 255
    missing(rng, drawn, lacks_values=make in (jpeg, webp, alpha))
    place(rng, drawn)
    return drawn


def missing(rng: random.Random, drawn: Drawn, *, lacks_values: bool) -> None:
    """Draw how the pixels without data are marked. A nodata value is not drawn with lossy codecs or with alpha."""
    array, options = drawn.array, drawn.options
    floats = array.dtype.kind == "f"
    chosen = rng.choice(["", "nodata", "nodata", "mask", "unwritten", "nan" if floats else "nodata"])
    if lacks_values and chosen in ("nodata", "nan"):
        chosen = ""
    some = rng.choice([slice(None), slice(0, 1)])
    if chosen == "nodata":
        numbers: dict[str, list[float]] = {"f": [-9999.0, 0.0, 0.1], "i": [-9999, 0, -1], "u": [0, 1, 255]}
        nodata = rng.choice(numbers[array.dtype.kind])
        limits = None if floats else np.iinfo(array.dtype)
        if limits is not None and not limits.min <= nodata <= limits.max:
            nodata = 0
        if "NBITS" in options:
            nodata = 0
        options["nodata"] = nodata
        array[(some, *drawn.hole)] = nodata
    elif chosen == "nan":
        options["nodata"] = rng.choice([float("nan"), None, -9999.0])
        array[(some, *drawn.hole)] = np.nan
    elif chosen == "mask":
        drawn.mask = rng.choice(["internal", "internal", "external"])
        if rng.random() < 0.3 and not floats:
            options["nodata"] = int(array.max())
    elif chosen == "unwritten":
        drawn.unwritten = True
        options["SPARSE_OK"] = True
        options["nodata"] = rng.choice([None, None, 0, 3])
    if rng.random() < 0.25 and min(array.shape[1:]) > 60 and "NBITS" not in options and not drawn.unwritten:
        drawn.overviews = rng.choice(["internal", "external"])


def place(rng: random.Random, drawn: Drawn) -> None:
    """Draw where the image lies on the ground."""
    affine = rng.choice(
        [
            None,
            rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 28e5),
            rasterio.Affine(0.3, 0.4, 5e5, 0.4, -0.3, 5e6),
            rasterio.Affine(1e-4, 0, 11.5, 0, -2e-4, 48.25),
        ]
    )
    if affine is not None:
        drawn.options |= {"transform": affine, "crs": "EPSG:4326" if affine.c < 100 else "EPSG:32640"}
        drawn.tags = {"AREA_OR_POINT": rng.choice(["Area", "Point"])}


def write(path: Path, drawn: Drawn) -> None:
    """Let GDAL write the file."""
    bands, height, width = drawn.array.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": drawn.array.dtype.name}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=drawn.mask == "internal", COMPRESS_OVERVIEW="DEFLATE"):
        options = {key: value for key, value in drawn.options.items() if value is not None}
        with rasterio.open(path, "w", **profile, **options) as file:
            if drawn.colours is not None:
                file.write_colormap(1, drawn.colours)
            if drawn.tags:
                file.update_tags(**drawn.tags)
            if drawn.unwritten:
                write_around(file, drawn)
            else:
                file.write(drawn.array)
            if drawn.mask:
                seen = np.full((height, width), 255, np.uint8)
                seen[drawn.hole] = 0
                file.write_mask(seen)
        if drawn.overviews:
            with rasterio.Env(TIFF_USE_OVR=drawn.overviews == "external"), rasterio.open(path, "r+") as file:
                file.build_overviews([2, 4], enums.Resampling.nearest)


def write_around(file: Any, drawn: Drawn) -> None:
    """Write all bands outside the hole's columns and, where there are several bands, one of them inside too."""
    bands, height, width = drawn.array.shape
    left, right = drawn.hole[1].start, drawn.hole[1].stop
    for start, stop in ((0, left), (right, width)):
        window = rasterio.windows.Window(start, 0, stop - start, height)
        file.write(drawn.array[:, :, start:stop], window=window)
    if bands > 1:
        window = rasterio.windows.Window(left, 0, right - left, height)
        file.write(drawn.array[1, :, left:right], 2, window=window)


def unwritten_of(path: Path, shape: tuple[int, int, int]) -> Array:
    """Return `(bands, height, width)`, True where a sample lies in a tile or strip that the file does not hold."""
    bands, height, width = shape
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
        counts = np.asarray(page.databytecounts)
    across, down = -(-width // columns), -(-height // rows)
    planes = bands if len(counts) == bands * across * down and bands > 1 else 1
    grid = (counts == 0).reshape(planes, down, across)
    full = np.repeat(np.repeat(grid, rows, axis=1), columns, axis=2)[:, :height, :width]
    return np.broadcast_to(full, shape)


@dataclass(kw_only=True)
class Expected:
    """An image as GDAL reads it, in this program's terms."""

    pixels: Array
    """Samples `(height, width, bands)` without alpha."""
    holds: Array
    """`(height, width, bands)`, True where a band holds data."""
    opaque: Array
    """`(height, width)`, True where alpha and masks show the pixel."""
    ground: Any
    crs: Any
    tolerance: int = 0
    palette: bool = False

    def valid(self, bands: tuple[int, ...]) -> Array:
        """Return where pixels hold data: at least one band does, and none is NaN or infinite."""
        chosen = list(bands)
        found = self.holds[:, :, chosen].any(axis=2) & self.opaque
        if self.pixels.dtype.kind == "f":
            found = found & np.isfinite(self.pixels[:, :, chosen]).all(axis=2)
        return np.asarray(found)


def expected(path: Path, *, overview: int | None = None, as_labels: bool = False) -> Expected:
    """Return what GDAL reads, changed where this program differs on purpose. Comments name each such difference."""
    how = {} if overview is None else {"overview_level": overview}
    with rasterio.open(path, **how) as file:
        samples, interpretation, flags = file.read(), list(file.colorinterp), file.mask_flag_enums
        masks = np.stack([file.read_masks(band + 1) > 0 for band in range(file.count)])
        ground, crs = file.transform, file.crs
        bits = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "")
        white = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE", "") == "YES" or is_white(path)
        palette = file.colormap(1) if interpretation[0] is enums.ColorInterp.palette and bits != "1" else None
        jpeg = str(file.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "")).startswith("YCbCr")
        nodata = file.nodata
    alpha = interpretation.index(enums.ColorInterp.alpha) if enums.ColorInterp.alpha in interpretation else None
    own = [band for band in range(len(samples)) if band != alpha]
    per_dataset = enums.MaskFlags.per_dataset in flags[own[0]] and enums.MaskFlags.alpha not in flags[own[0]]
    opaque = masks[own[0]] if per_dataset else np.ones(samples.shape[1:], bool)
    holds = (
        masks[own]
        if any(enums.MaskFlags.nodata in flags[band] for band in own)
        else np.ones((len(own), *opaque.shape), bool)
    )
    if alpha is not None:
        # GDAL takes alpha for a mask in some types and counts of bands; here it is one in all.
        opaque = opaque & (samples[alpha] > 0)
    if overview is None and not as_labels and not per_dataset:
        # GDAL reads 0 where a tile was never written; here such a pixel of an image has no data.
        missing_tiles = unwritten_of(path, samples.shape)
        holds = holds & ~missing_tiles[own] if nodata is None else holds
    pixels = samples[own]
    if palette is not None and not as_labels:
        table = np.array([palette.get(entry, (0, 0, 0))[:3] for entry in range(256)], np.uint8)
        pixels, holds = np.moveaxis(table[samples[0]], 2, 0), np.repeat(holds, 3, axis=0)
    if bits == "16" and pixels.dtype == np.float32:
        pixels = pixels.astype(np.float16)
    if bits == "1" and not as_labels:
        pixels = pixels * np.uint8(255)
    if white and not as_labels:
        pixels = (255 if bits == "1" else np.iinfo(pixels.dtype).max) - pixels
    return Expected(
        pixels=np.moveaxis(pixels, 0, 2),
        holds=np.moveaxis(holds, 0, 2),
        opaque=opaque,
        ground=ground,
        crs=crs,
        tolerance=LOSSY_TOLERANCE if jpeg else 0,
        palette=palette is not None,
    )


def is_white(path: Path) -> bool:
    with tifffile.TiffFile(path) as file:
        return bool(file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE)


def check_region(region: Region, wanted: Expected, box: Box, bands: tuple[int, ...]) -> None:
    """Check the value and the validity of each pixel."""
    valid = wanted.valid(bands)[box.slices]
    np.testing.assert_array_equal(np.ones_like(valid) if region.valid is None else region.valid, valid)
    pixels = wanted.pixels[box.slices][:, :, list(bands)]
    assert region.pixels.dtype == pixels.dtype
    assert not region.pixels[~valid].any()
    if wanted.tolerance:
        difference = np.abs(region.pixels[valid].astype(float) - pixels[valid])
        assert not valid.any() or difference.mean() <= wanted.tolerance
        return
    np.testing.assert_array_equal(region.pixels[valid], pixels[valid])


def check_place(image: Image, wanted: Expected) -> None:
    """Check the ground coordinates of three points, and the reference system."""
    placed = Geotransform.of({code: value for code, _, _, value in image.info.geo_tags})
    if wanted.crs is None and wanted.ground.is_identity:
        assert placed is None
        return
    assert placed is not None
    points = np.array([(0, 0), (40, 0), (7.5, 30)])
    np.testing.assert_allclose(placed.coordinates(points), [wanted.ground @ point for point in points], rtol=1e-12)
    assert image.info.crs == wanted.crs.to_string()


def check(path: Path, rng: random.Random) -> None:
    """Compare everything that is read from one file with what GDAL reads."""
    wanted = expected(path)
    height, width, count = wanted.pixels.shape
    with open_image(path) as image:
        assert image.info.size == Size(width=width, height=height)
        assert len(image.info.bands) == count
        check_place(image, wanted)
        every = tuple(range(count))
        check_region(image.read([whole(image)])[0], wanted, Box.whole(image.info.size), every)
        x, y = rng.randrange(width), rng.randrange(height)
        box = Box(x=x, y=y, width=rng.randint(1, width - x), height=rng.randint(1, height - y))
        bands = tuple(rng.sample(every, rng.randint(1, count)))
        bands = every if wanted.palette else bands
        check_region(image.read([Request(pitch=LEVEL0, box=box, bands=bands)])[0], wanted, box, bands)
        check_levels(path, image, every)
    if count == 1 and wanted.pixels.dtype.kind in "ui":
        check_labels(path)


def check_levels(path: Path, image: Image, bands: tuple[int, ...]) -> None:
    """Check that each reduced level equals GDAL's overview of that size."""
    with rasterio.open(path) as file:
        factors = file.overviews(1)
    for level in image.info.levels[1:]:
        overview = next(
            index for index, factor in enumerate(factors) if factor == max(level.downsample.x, level.downsample.y)
        )
        wanted = expected(path, overview=overview)
        request = whole(image, level.downsample)
        if (request.box.height, request.box.width) != wanted.pixels.shape[:2]:
            continue
        check_region(image.read([request])[0], wanted, request.box, bands)


def check_labels(path: Path) -> None:
    """Check the same file read as a raster of class indices."""
    wanted = expected(path, as_labels=True)
    valid = wanted.valid((0,))
    stored = wanted.pixels[:, :, 0].astype(np.int64)
    if stored[valid].size and not 0 <= stored[valid].min() <= stored[valid].max() <= 255:
        return
    with rasterio.open(path) as file:
        is_jpeg = file.profile.get("compress") == "jpeg"
    if is_jpeg:
        with pytest.raises(SourceError, match="JPEG compression changes values"):
            open_labels(path)
        return
    with open_labels(path) as labels:
        found = labels.read(Box.whole(labels.size))
    np.testing.assert_array_equal(found, np.where(valid, stored, 255))


def draw_other(index: int) -> Drawn:
    """Return the random file with a number, with options of tifffile that GDAL cannot write."""
    rng = random.Random(f"tifffile-{index}")  # noqa: S311 (a test is drawn)
    dtype = rng.choice(["uint8", "uint8", "uint16", "int16", "float32", "float64", "int32", "bool"])
    bands = 1 if dtype == "bool" else rng.choice([1, 3, 4, 6])
    height, width = rng.choice([(97, 131), (64, 64), (40, 1), (130, 75), (33, 200)])
    hole = (slice(height // 4, height // 2 + 1), slice(width // 5, width // 2 + 1))
    array = values(rng, "uint8" if dtype == "bool" else dtype, (bands, height, width))
    drawn = Drawn(array=array % 3 > 0 if dtype == "bool" else array, options={}, hole=hole)
    order = rng.choice("<>")
    lerc_too = ["lerc"] if order == "<" and dtype in ("uint8", "uint16", "float32", "float64") else []
    compression = rng.choice([None, "lzw", "deflate", "zstd", "packbits", "lzma", *lerc_too])
    colours = ["minisblack", "miniswhite"] if dtype == "bool" else ["minisblack"] + ["rgb"] * (bands in (3, 4))
    drawn.options = {
        "byteorder": order,
        "bigtiff": rng.choice([True, False]),
        "compression": compression,
        "predictor": compression in ("lzw", "deflate", "zstd") and dtype != "bool" and rng.random() < 0.5,
        "planarconfig": None if bands == 1 else rng.choice(["contig", "separate"]),
        "photometric": rng.choice(colours),
        "metadata": None,
    }
    extra = bands - (3 if drawn.options["photometric"] == "rgb" else 1)
    if extra and rng.random() < 0.5:
        drawn.options["extrasamples"] = [rng.choice(["unspecified", "unassalpha"])] + ["unspecified"] * (extra - 1)
    if rng.random() < 0.5:
        drawn.options["tile"] = rng.choice([(16, 16), (32, 48), (64, 64)])
    else:
        drawn.options["rowsperstrip"] = rng.choice([1, 7, 8, height])
    drawn.orientation = rng.choice([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    drawn.options["extratags"] = [*nodata_tag(rng, drawn), *place_tags(rng)]
    if drawn.orientation != 1:
        drawn.options["extratags"].append((274, 3, 1, drawn.orientation, True))
    return drawn


def nodata_tag(rng: random.Random, drawn: Drawn) -> list[tuple[Any, ...]]:
    """Return the tag of a nodata value, which may be one that no pixel can have.

    For integers GDAL truncates 0.5 to 0, so that value is not drawn.
    """
    if drawn.array.dtype == np.bool_ or rng.random() < 0.5:
        return []
    text = rng.choice(["0", "7", "nan"] if drawn.array.dtype.kind == "f" else ["0", "7", "300", "1e3", "-5", "text"])
    with suppress(ValueError, OverflowError):
        drawn.array[(slice(None), *drawn.hole)] = drawn.array.dtype.type(float(text))
    return [(42113, 2, 0, text, True)]


def place_tags(rng: random.Random) -> list[tuple[Any, ...]]:
    """Return the tags of a GeoTIFF whose coordinates are of the areas or of the centres of pixels."""
    if rng.random() < 0.5:
        return []
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, rng.choice([1, 2]), 3072, 0, 1, 32640)
    tie = (0.0, 0.0, 0.0, 3e5, 28e5, 0.0)
    return [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, tie, True), (34735, 3, len(keys), keys, True)]


def turned(array: Array, orientation: int) -> Array:
    """Return `(height, width, ...)` as a viewer shows it. Tag 274 names the sides of the first row and column."""
    upright = {2: "lr", 3: "udlr", 4: "ud", 5: "t", 6: "tlr", 7: "tudlr", 8: "tud"}.get(orientation, "")
    found = array.swapaxes(0, 1) if upright.startswith("t") else array
    found = found[::-1] if "ud" in upright else found
    return found[:, ::-1] if "lr" in upright else found


@contextmanager
def noted(drawn: object) -> Iterator[None]:
    """Add the description of the random file to any exception of the block."""
    try:
        yield
    # Also what a reader should never raise is a failure of the drawn file.
    except Exception as error:
        error.add_note("".join(str(drawn).split("\n")))
        raise


@pytest.mark.parametrize("index", range(BY_TIFFFILE))
def test_a_file_of_tifffiles_is_read_as_gdal_reads_it(tmp_path: Path, index: int) -> None:
    drawn, path = draw_other(index), tmp_path / "a.tif"
    array = drawn.array if drawn.options["planarconfig"] == "separate" else np.moveaxis(drawn.array, 0, 2)
    tifffile.imwrite(path, drawn.array[0] if len(drawn.array) == 1 else array, **drawn.options)
    with noted(drawn):
        wanted = expected(path)
        # GDAL leaves pixels as they are stored; only where they have no place, this program turns them upright.
        if drawn.orientation != 1 and wanted.crs is None:
            wanted.pixels, wanted.holds = (
                turned(wanted.pixels, drawn.orientation),
                turned(wanted.holds, drawn.orientation),
            )
            wanted.opaque = turned(wanted.opaque, drawn.orientation)
        with open_image(path) as image:
            check_place(image, wanted)
            bands = tuple(range(wanted.pixels.shape[2]))
            check_region(image.read([whole(image)])[0], wanted, Box.whole(image.info.size), bands)


@pytest.mark.parametrize("index", range(BY_GDAL))
def test_a_file_of_gdals_is_read_as_gdal_reads_it(tmp_path: Path, index: int) -> None:
    drawn, path = draw(index), tmp_path / "a.tif"
    try:
        write(path, drawn)
    except errors.RasterioError as refusal:
        pytest.skip(f"GDAL does not write {drawn}: {refusal}")
    with noted(drawn):
        check(path, random.Random(index))  # noqa: S311 (a test is drawn)
