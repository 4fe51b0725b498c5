"""The module lists the libraries that decode images, their versions, and the codecs that their builds lack.

Builds of the libraries differ: packages of Linux distributions and of conda leave codecs out that the wheels have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tifffile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIFF_CODECS = {
    "JPEG8": "JPEG tiles of slides and mosaics",
    "JPEG2K": "JPEG 2000 tiles, as Aperio's scanners write them",
    "LZW": "LZW tiles",
    "DEFLATE": "Deflate tiles, of which masks are made",
    "ZSTD": "Zstandard tiles",
    "LZMA": "LZMA tiles",
    "PACKBITS": "PackBits strips",
    "WEBP": "WebP tiles",
    "LERC": "LERC tiles of elevation and other measurements",
    "JPEGXL": "JPEG XL tiles",
    "PNG": "labels in PNG files",
}
"""Each codec of imagecodecs decodes the named data."""
PICTURE_LOADERS = {"jpegload": "JPEG files", "pngload": "PNG files", "webpload": "WebP files"}
"""Each loader of libvips reads the named files."""
MAP_DRIVERS = {
    "JP2OpenJPEG": "JPEG 2000 files",
    "VRT": "mosaics",
    "HFA": "Erdas IMG files",
    "ENVI": "ENVI files",
    "GPKG": "GeoPackages",
    "NITF": "NITF files",
    "netCDF": "netCDF files",
    "MBTiles": "MBTiles files",
}
"""These are the most used drivers of GDAL here, each with the files that it reads."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A library that decodes images."""

    name: str
    version: str
    formats: str
    """The formats that are read with the library."""
    has: tuple[str, ...] = ()
    """The codecs that the build has, of those that this program uses."""
    lacks: tuple[str, ...] = ()
    """The data that cannot be read because the build lacks a codec."""


def tiff_decoder() -> Decoder:
    """Return the facts of tifffile and of imagecodecs, which decodes the tiles.

    Raises:
        ImportError: imagecodecs cannot be imported.
    """
    import imagecodecs  # noqa: PLC0415 - where it is damaged, the others are still reported

    has, lacks = _sorted(TIFF_CODECS, lambda name: bool(getattr(imagecodecs, name).available))
    version = f"{tifffile.__version__}, imagecodecs {imagecodecs.__version__}"
    return Decoder(name="tifffile", version=version, formats="TIFF, GeoTIFF, SVS", has=has, lacks=lacks)


def picture_decoder() -> Decoder:
    """Return the facts of libvips.

    Raises:
        ImportError, OSError: pyvips or libvips cannot be loaded.
    """
    from magnet_cli.images.libvips import pyvips  # noqa: PLC0415 - as above

    has, lacks = _sorted(PICTURE_LOADERS, lambda name: pyvips.type_find("VipsForeignLoad", name) != 0)
    version = ".".join(str(pyvips.version(part)) for part in range(3))
    return Decoder(name="libvips", version=version, formats="PNG, JPEG, WebP", has=has, lacks=lacks)


def slide_decoder() -> Decoder:
    """Return the facts of OpenSlide.

    Raises:
        ImportError, OSError: openslide-python or its library cannot be loaded.
    """
    import openslide  # noqa: PLC0415 - as above

    formats = "NDPI, MIRAX, SCN, Philips, Ventana, DICOM"
    return Decoder(name="OpenSlide", version=str(openslide.__library_version__), formats=formats)


def map_decoder() -> Decoder:
    """Return the facts of rasterio and of GDAL.

    Raises:
        ImportError: rasterio is not installed, or cannot be loaded.
    """
    import rasterio  # noqa: PLC0415 - an extra

    with rasterio.Env() as environment:
        drivers = environment.drivers()
    has, lacks = _sorted(MAP_DRIVERS, drivers.__contains__)
    version = f"{rasterio.__gdal_version__}, rasterio {rasterio.__version__}"
    return Decoder(name="GDAL", version=version, formats="JPEG 2000, VRT and other rasters", has=has, lacks=lacks)


def _sorted(known: Mapping[str, str], is_there: Callable[[str], bool]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codecs that are present, and the data that cannot be read without the others."""
    found = {name: is_there(name) for name in known}
    return (
        tuple(name for name, there in found.items() if there),
        tuple(f"{known[name]} ({name})" for name, there in found.items() if not there),
    )
