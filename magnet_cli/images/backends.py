"""The choice of the reader of a file by its content."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import SourceError
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.contents import Content, choose
from magnet_cli.images.failures import naming, needing, reporting_bugs
from magnet_cli.images.inputs import GDAL_SUFFIXES, REASONS, UNREAD_PICTURES, UNREAD_SUFFIXES, ZARR_MARKS
from magnet_cli.images.urls import file_name, is_url, url_name
from magnet_cli.images.vector_files import refuse_vectors
from magnet_cli.system.closing import undone_on_failure

if TYPE_CHECKING:
    from magnet_cli.images.blob import Blob
    from magnet_cli.images.cache import CacheBudget
    from magnet_cli.images.protocol import Alpha, Image, ImageInfo

HEAD_BYTES = 132
"""First bytes of a file that are read to recognise its format; DICOM has its mark after 128 bytes."""

TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
ZIP_MAGIC = b"PK\x03\x04"
JPEG_2000_MAGIC = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".svslide", ".bif", ".dcm")
"""Suffixes of files that OpenSlide reads and that cannot be recognised by their content."""

DIRECT_VENDORS = ("generic-tiff", "aperio")
"""Vendors whose levels are plain tiled pages: decoded directly, faster than through openslide and without its
interpolation between level pixels."""

DICOM = "dicom"
"""Name that OpenSlide gives that vendor."""

GDAL_MAGIC = (b"<VRTDataset", b"EHFA_HEADER_TAG", b"NITF", b"NSIF", b"PCIDSK")
"""First bytes of files that GDAL can read; a message names the package to install for them."""

KINDS = (
    "TIFF, PNG, JPEG, WebP, JPEG 2000, zarr, a slide that openslide reads, or with the extra gdal a raster of GDAL's"
)


def open_image(
    source: str | Path,
    *,
    cache: CacheBudget | None = None,
    series: str | int | None = None,
    alpha: Alpha | None = None,
) -> Image:
    """Open an image; no pixel is decoded.

    Args:
        source: A file, the folder of a zarr image, or the URL of either.
        cache: Disk for a file that cannot be read by region (`ImageInfo.cache_bytes` says how much it needs).
        series: Number (the first is 0) or name of the image that is read, where the file holds several; None for the
            largest.
        alpha: Meaning of a band that is flagged as alpha; None for a mask.

    Raises:
        SourceError: It is missing, no image, damaged, or needs more disk than allowed; or it holds no such series.
    """
    text = str(source)
    with reporting_bugs(text):
        if _is_zarr_url(text) if is_url(text) else _is_folder(text):
            return _open_zarr(text, series)
        blob = open_blob(text)
        with undone_on_failure(blob.close):
            return _open_file(blob, cache, series, alpha or "mask")


def reopen(info: ImageInfo, *, cache: CacheBudget | None = None) -> Image:
    """Open an image again in the way in which it was opened before.

    Raises:
        SourceError: The file cannot be opened, for the reasons that `open_image` names.
    """
    return open_image(info.path, cache=cache, series=info.series, alpha=info.alpha)


def inspect(source: str | Path, *, series: str | int | None = None, alpha: Alpha | None = None) -> ImageInfo:
    """Return the facts about an image without decoding it, whatever disk a decode would need.

    Args:
        source: A file, the folder of a zarr image, or the URL of either.
        series: Number or name of the image, as for `open_image`.
        alpha: Meaning of a band that is flagged as alpha; None for a mask.

    Raises:
        SourceError: It is missing, no image, or damaged; or it holds no such series.
    """
    with examine(source, series=series, alpha=alpha) as image:
        return image.info


def examine(source: str | Path, *, series: str | int | None = None, alpha: Alpha | None = None) -> Image:
    """Open an image for its facts, whatever disk a decode would need. `inspect` describes arguments and errors.

    Pixels are read only of an image that can be read by region (`ImageInfo.cache_bytes` is 0).
    """
    from magnet_cli.images.cache import CacheBudget  # noqa: PLC0415

    # Nothing is decoded for the facts, so a budget without a limit reserves no disk.
    return open_image(source, cache=CacheBudget(folder=Path(), max_bytes=1 << 62), series=series, alpha=alpha)


def _is_folder(text: str) -> bool:
    path = Path(text)
    with naming(text, "the image cannot be opened", advice="Check that you may read it"):
        if not path.exists():
            raise SourceError("there is no such file", file=text, advice="Check the path")
        return path.is_dir()


def _is_zarr_url(url: str) -> bool:
    suffix = PurePath(url_name(url)).suffix.lower()
    if suffix:
        return suffix == ".zarr"
    with needing("remote", url):
        from magnet_cli.images.remote import holds_any  # noqa: PLC0415 (an extra)
    return holds_any(url, ZARR_MARKS)


def _open_file(blob: Blob, cache: CacheBudget | None, series: str | int | None, alpha: Alpha) -> Image:
    if blob.size == 0:
        raise SourceError("the file is empty", file=blob.name, advice="Copy it again")
    head = blob.read(0, min(HEAD_BYTES, blob.size), place="the beginning")
    is_tiff = head.startswith(TIFF_MAGIC)
    # Slides come first: many scanners write TIFFs that a plain TIFF reader opens too, with other colours or other
    # places.
    slide = _slide(blob, head, is_tiff=is_tiff)
    if slide is not None:
        return _only(slide, series)
    if is_tiff:
        from magnet_cli.images.tiff import open_tiff  # noqa: PLC0415

        return open_tiff(blob, cache=cache, series=series, alpha=alpha)
    if head.startswith(PICTURE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        from magnet_cli.images.vips import open_picture  # noqa: PLC0415

        return _only(open_picture(blob, cache=cache, alpha=alpha), series)
    if head.startswith(JPEG_2000_MAGIC):
        with needing("gdal", blob.name):
            from magnet_cli.images.jp2 import open_jp2  # noqa: PLC0415
        return _only(open_jp2(blob, alpha=alpha), series)
    # Among ZIP archives only those of Zarr hold an image that is read here.
    if head.startswith(ZIP_MAGIC):
        blob.close()
        return _open_zarr(blob.name, series)
    blob.close()
    image = open_other(blob.name, head, alpha=alpha, series=series)
    return image if image.info.contents else _only(image, series)


def is_other(head: bytes) -> bool:
    """Return whether a file, by its first bytes, has no reader but GDAL, if any."""
    own = (*TIFF_MAGIC, *PICTURE_MAGIC, *JPEG_2000_MAGIC, ZIP_MAGIC, b"RIFF")
    return bool(head) and not head.startswith(own) and head[128:132] != b"DICM"


def open_other(path: str, head: bytes = b"", **how: Any) -> Image:
    """Open a file that no reader but GDAL may know.

    Args:
        path: Path or URL of the file.
        head: First bytes of the file.
        how: Keyword arguments of `open_gdal`.

    Raises:
        SourceError: GDAL does not know it either, or is not installed.
    """
    refuse_vectors(path, head)
    rule, advice = "this file is not an image that can be read", f"Give a {KINDS}"
    if path.lower().endswith(UNREAD_SUFFIXES):
        rule, advice = "this format is not read", REASONS["format"][1]
    if path.lower().endswith(UNREAD_PICTURES):
        advice = "Save the picture as PNG or TIFF"
    unknown = SourceError(rule, file=path, advice=advice)
    if is_url(path):
        raise unknown
    known = head.startswith(GDAL_MAGIC) or path.lower().endswith(GDAL_SUFFIXES)
    try:
        from magnet_cli.images.gdal_image import open_gdal, recognized  # noqa: PLC0415 (an extra)
    except ImportError as error:
        if not known:
            raise unknown from error
        with needing("gdal", path):
            raise
    if not known and not recognized(path):
        raise unknown
    return open_gdal(path, **how)


def _only(image: Image, series: str | int | None) -> Image:
    """Return an image of a format whose files hold one.

    Raises:
        SourceError: The user asks for another image.
    """
    try:
        choose([Content(name="", size=image.info.size)], series, default=0, path=image.info.path)
    except SourceError:
        image.close()
        raise
    return image


def _slide(blob: Blob, head: bytes, *, is_tiff: bool) -> Image | None:
    """Return the image, where OpenSlide is the one to read it."""
    named = PurePath(file_name(blob.name)).suffix.lower() in SLIDE_SUFFIXES
    if not (named or is_tiff or head[128:132] == b"DICM"):
        return None
    if is_url(blob.name):
        # Which TIFF needs OpenSlide is told from its tags, by the TIFF reader.
        if is_tiff:
            return None
        rule, advice = "slides of this kind are read by OpenSlide, from a disk only", "Download the slide"
        raise SourceError(rule, file=blob.name, advice=advice)
    from magnet_cli.images.openslide import open_slide, slide_vendor  # noqa: PLC0415

    vendor = slide_vendor(blob.name)
    if vendor is None or (is_tiff and vendor in DIRECT_VENDORS):
        return None
    blob.close()
    return _open_dicom(blob.name) if vendor == DICOM else open_slide(blob.name)


def _open_dicom(path: str) -> Image:
    """Open a DICOM slide with OpenSlide, which is faster, or with wsidicom where OpenSlide refuses the file."""
    from magnet_cli.images.openslide import open_slide  # noqa: PLC0415

    try:
        return open_slide(path)
    except SourceError as refusal:
        try:
            from magnet_cli.images.dicom import open_dicom  # noqa: PLC0415 (an extra)
        except ImportError:
            advice = "Copy it again; if it has 16 bits or is JPEG-LS, pip install 'magnet-cli[dicom]'"
            raise SourceError(refusal.rule, value=refusal.value, file=path, advice=advice) from refusal
    return open_dicom(path)


def _open_zarr(text: str, series: str | int | None) -> Image:
    from magnet_cli.images.zarr_image import open_zarr  # noqa: PLC0415

    return open_zarr(text, series=series)
