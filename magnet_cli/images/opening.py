"""Choosing the reader of a file by its content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError
from magnet_cli.images.failures import naming

if TYPE_CHECKING:
    from magnet_cli.images.budget import CacheBudget
    from magnet_cli.images.protocol import Image, ImageInfo

HEAD_BYTES = 132
"""DICOM has its mark after 128 bytes."""

TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
ZIP_MAGIC = b"PK\x03\x04"
JPEG_2000_MAGIC = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".svslide", ".bif", ".dcm")
"""Files that openslide reads and whose content does not say so plainly."""

DIRECT_VENDORS = ("generic-tiff", "aperio")
"""Vendors whose levels are plain tiled pages: decoded directly, faster than through openslide and without its
interpolation between level pixels."""

KINDS = "TIFF, PNG, JPEG, WebP, zarr, or a slide that openslide reads"


def open_image(source: str | Path, *, cache: CacheBudget | None = None) -> Image:
    """An image, its pixels not yet decoded.

    Args:
        source: A file, or the folder of a zarr image.
        cache: Disk for a file that cannot be read by region (`ImageInfo.cache_bytes` says how much it needs).

    Raises:
        SourceError: It is missing, no image, damaged, or needs more disk than allowed.
    """
    path = Path(source)
    text = str(source)
    with naming(text, "the image cannot be opened", advice="Check that you may read it"):
        if not path.exists():
            raise SourceError("there is no such file", file=text, advice="Check the path")
        folder = path.is_dir()
        head = b"" if folder else _head(path)
    return _open_zarr(text) if folder else _open_file(text, path, head, cache)


def inspect(source: str | Path) -> ImageInfo:
    """Facts about an image, without decoding it; never refused for the disk that a decode would need.

    Args:
        source: A file, or the folder of a zarr image.

    Raises:
        SourceError: It is missing, no image, or damaged.
    """
    from magnet_cli.images.budget import CacheBudget  # noqa: PLC0415

    with open_image(source, cache=CacheBudget(folder=Path(), max_bytes=1 << 62)) as image:
        return image.info


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _open_file(text: str, path: Path, head: bytes, cache: CacheBudget | None) -> Image:
    if not head:
        raise SourceError("the file is empty", file=text, advice="Copy it again")
    is_tiff = head.startswith(TIFF_MAGIC)
    if path.suffix.lower() in SLIDE_SUFFIXES or head[128:132] == b"DICM" or is_tiff:
        from magnet_cli.images.openslide import open_slide, slide_vendor  # noqa: PLC0415

        vendor = slide_vendor(text)
        if vendor is not None and not (is_tiff and vendor in DIRECT_VENDORS):
            return open_slide(text)
    if is_tiff:
        from magnet_cli.images.tiff import open_tiff  # noqa: PLC0415

        return open_tiff(text, cache=cache)
    if head.startswith(PICTURE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        from magnet_cli.images.vips import open_picture  # noqa: PLC0415

        return open_picture(text, cache=cache)
    if head.startswith(ZIP_MAGIC):
        return _open_zarr(text)
    if head.startswith(JPEG_2000_MAGIC):
        raise SourceError(
            "JPEG 2000 files cannot be read by region",
            file=text,
            advice="Convert it to a tiled TIFF, with gdal_translate -co TILED=YES",
        )
    raise SourceError("this is no image that can be read", file=text, advice=f"Give a {KINDS}")


def _open_zarr(text: str) -> Image:
    from magnet_cli.images.zarr import open_zarr  # noqa: PLC0415

    return open_zarr(text)
