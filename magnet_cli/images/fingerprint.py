"""A hash of an input that changes when the input changes, computed without reading all of the file."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.backends import HEAD_BYTES as MAGIC_BYTES
from magnet_cli.images.backends import JPEG_2000_MAGIC, TIFF_MAGIC, is_other, open_image
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.cache import CacheBudget
from magnet_cli.images.failures import naming
from magnet_cli.images.protocol import Request
from magnet_cli.images.sidecars import find_sidecars, sidecar_files, world_endings
from magnet_cli.images.urls import is_url, last_part, sibling_url
from magnet_cli.system import regular_files
from magnet_cli.system.regular_files import is_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from magnet_cli.images.channels import BandNames
    from magnet_cli.images.protocol import Image

SMALL_BYTES = 16 << 20
"""A file up to this size is hashed whole."""

HEAD_BYTES = 1 << 20
SAMPLES = 64
BRIEF_BYTES = 4 << 10
"""Bytes hashed at the beginning, the middle and the end of each file of a mosaic."""
SAMPLE_BYTES = 16 << 10
REMOTE_SAMPLES = 8
"""Places at which a file behind a URL is sampled; each sample costs one request."""
ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
"""Suffixes of files that may be one piece of a multi-file OME-TIFF."""
COMPANION_FOLDERS = (".mrxs",)
"""Suffixes of slides whose pixels lie in a folder of the same name."""

WITH_PIXELS = (".msk", ".MSK", ".msk.ovr", ".ovr", ".OVR")
"""Endings of the files beside an image from which pixels or their validity are read."""


@dataclass(frozen=True, kw_only=True)
class InputFiles:
    """The files from which an input on this machine is read; of those of a folder, the ones that are hashed."""

    sampled: tuple[tuple[Path, str], ...]
    """Files of which all bytes or many samples are hashed, each with its place in the folder. The place is empty for
    the input itself."""
    companions: tuple[Path, ...]
    """Files of which few bytes are hashed."""
    beside: tuple[Path, ...]
    """Files whose facts about the place of the image, its missing pixels and its bands are hashed."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Find the files of an input.

        Args:
            path: A file, or the folder of a zarr image.

        Raises:
            SourceError: The input cannot be read.
        """
        with _reading(path):
            sampled, companions = _files(path), _companions(path)
            beside = [] if path.is_dir() else sidecar_files(path, world=world_endings(path.suffix))
        return cls(sampled=tuple(sampled), companions=tuple(companions), beside=tuple(beside))

    @property
    def paths(self) -> list[Path]:
        """All files, each once."""
        return list(dict.fromkeys([*(file for file, _ in self.sampled), *self.companions, *self.beside]))


def fingerprint(path: str | Path, files: InputFiles | None = None) -> str:
    """Return a SHA-256 (hexadecimal) over the size of an input and its bytes, or samples of them where it is large.

    For a URL, over the size, what the server calls its version (ETag, else time of the last change), and few samples.

    Args:
        path: A file, the folder of a zarr image, or the URL of either.
        files: The files of the input, if they are known already.

    Raises:
        SourceError: The input cannot be read.
    """
    if is_url(str(path)):
        return _remote(str(path))
    path = Path(path)
    files = InputFiles.of(path) if files is None else files
    digest = hashlib.sha256()
    with _reading(path):
        for file, name in files.sampled:
            size = file.stat().st_size
            digest.update(f"{name}\0{size}\0".encode() if name else f"{size}\0".encode())
            with regular_files.opened(file) as stream:
                _hash(digest, stream, size)
        for file in files.companions:
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with regular_files.opened(file) as stream:
                _hash_briefly(digest, stream, size)
        if path.is_file():
            digest.update(_placement(path).encode())
    return digest.hexdigest()


def is_hashed_whole(source: str | Path, files: InputFiles | None = None) -> bool:
    """Return whether the fingerprint of an input depends on each byte of all its files.

    It does not for a mosaic and for a raster with a header file, of whose other files a few bytes alone are hashed.

    Args:
        source: The path or URL of the input.
        files: Its files, if they are known already.

    Raises:
        SourceError: The input cannot be read.
    """
    path = Path(source)
    if is_url(str(source)) or not path.is_file():
        return False
    files = InputFiles.of(path) if files is None else files
    with _reading(path):
        return not files.companions and all(file.stat().st_size <= SMALL_BYTES for file, _ in files.sampled)


def _reading(path: Path) -> AbstractContextManager[None]:
    return naming(path, "the input cannot be read", advice="Check that it exists and that you may read it")


def _placement(path: Path) -> str:
    """Return what sidecars say of the place, of missing pixels and of bands.

    The result is empty where nothing is said. Statistics are left out.
    """
    if _is_gdals(path):
        try:
            from magnet_cli.images.gdal_image import facts_text  # noqa: PLC0415 (an extra)
        except ImportError:
            return ""
        text = facts_text(path)
    else:
        beside = find_sidecars(path, world=world_endings(path.suffix))
        text = f"{beside.digest_text()}{_band_names(path, beside.names)}"
    return f"beside\0{text}" if text else ""


def _band_names(path: Path, beside: BandNames) -> str:
    """Return the names that the file .aux.xml gives to bands, where they are not those that the image gives itself.

    GDAL repeats the image's own names where it stores statistics, and these do not make it another image. JPEG 2000 has
    no names of its own; of other pictures the names are not read.
    """
    if not (beside.descriptions or beside.colours):
        return ""
    with regular_files.opened(path) as stream:
        head = stream.read(MAGIC_BYTES)
    if head.startswith(JPEG_2000_MAGIC):
        return repr((sorted(beside.descriptions.items()), sorted(beside.colours.items())))
    if not head.startswith(TIFF_MAGIC):
        return ""
    from magnet_cli.images.tiff_bands import names_from_beside  # noqa: PLC0415 (tifffile loads slowly)

    found = names_from_beside(path, beside)
    return repr(found) if found else ""


def _remote(url: str) -> str:
    """Hash a file behind a URL; a zarr image by facts and sampled pixels, as HTTP cannot list its chunks."""
    with open_image(url, cache=CacheBudget(folder=Path(), max_bytes=1 << 62)) as image:
        if image.info.backend == "zarr":
            return _of_pixels(image)
        placement = (image.info.crs, image.info.geo_tags, image.info.nodata)
    with closing(open_blob(url)) as blob:
        digest = hashlib.sha256(f"{blob.size}\0{blob.version}\0{placement}\0".encode())
        digest.update(repr(_beside_remote(url)).encode())
        count = min(blob.size, SAMPLE_BYTES)
        for index in range(REMOTE_SAMPLES):
            offset = index * (blob.size - count) // (REMOTE_SAMPLES - 1)
            digest.update(blob.read(offset, count, place=f"byte {offset} and what follows"))
    return digest.hexdigest()


def _beside_remote(url: str) -> list[tuple[str, int, str]]:
    """Return name, size and version of the files beside a URL from which pixels or their validity are read."""
    from magnet_cli.images.remote import siblings  # noqa: PLC0415 (an extra)

    endings = [ending for ending in WITH_PIXELS if ending.islower()]
    found = siblings({ending: sibling_url(url, f"{last_part(url)}{ending}") for ending in endings})
    return [(ending, size, found.versions[ending]) for ending, size in found.sizes.items()]


def _of_pixels(image: Image) -> str:
    info = image.info
    digest = hashlib.sha256(f"{info.levels}\0{info.bands}\0{info.dtype}\0".encode())
    for index in range(REMOTE_SAMPLES):
        x = index * (info.size.width - 1) // (REMOTE_SAMPLES - 1)
        y = index * (info.size.height - 1) // (REMOTE_SAMPLES - 1)
        (region,) = image.read([Request(pitch=LEVEL0, box=Box(x=x, y=y, width=1, height=1))])
        digest.update(region.pixels.tobytes())
    return digest.hexdigest()


def _hash(digest: hashlib._Hash, stream: BinaryIO, size: int) -> None:
    if size <= SMALL_BYTES:
        digest.update(stream.read())
        return
    # Tag tables lie at either end of a TIFF; the tiles are sampled evenly between.
    digest.update(stream.read(HEAD_BYTES))
    for index in range(SAMPLES):
        stream.seek(index * (size - SAMPLE_BYTES) // (SAMPLES - 1))
        digest.update(stream.read(SAMPLE_BYTES))
    stream.seek(size - HEAD_BYTES)
    digest.update(stream.read(HEAD_BYTES))


def _hash_briefly(digest: hashlib._Hash, stream: BinaryIO, size: int) -> None:
    """Hash the beginning, the middle and the end of one of many files."""
    for start in (0, max(0, size // 2), max(0, size - BRIEF_BYTES)):
        stream.seek(start)
        digest.update(stream.read(BRIEF_BYTES))


def _companions(path: Path) -> list[Path]:
    """Return the header files of a GDAL raster, and the files from which a mosaic is made."""
    if not _is_gdals(path):
        return []
    try:
        from magnet_cli.images.gdal_image import companions  # noqa: PLC0415 (an extra)
    except ImportError:
        return []
    return companions(path)


def _is_gdals(path: Path) -> bool:
    """Return whether an input is a file that no reader but GDAL knows, if any."""
    if path.is_dir():
        return False
    with regular_files.opened(path) as stream:
        return is_other(stream.read(MAGIC_BYTES))


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return the paths to hash, each with its place in the folder, so that the folder's own name does not matter."""
    if path.is_dir():
        return _inside(path)
    if path.name.lower().endswith(TIFF_SUFFIXES):
        from magnet_cli.images.ome_files import ome_set  # noqa: PLC0415 (tifffile loads slowly)

        pieces = ome_set(path)
        if pieces:
            return [(path.with_name(name), name) for name in pieces]
    # The .mrxs of a MIRAX slide holds a thumbnail; the scan lies in a folder of the same name.
    companion = path.with_suffix("")
    if path.suffix.lower() in COMPANION_FOLDERS and companion.is_dir():
        return [(path, ""), *_inside(companion)]
    beside = (path.with_name(f"{path.name}{ending}") for ending in WITH_PIXELS)
    return [(path, ""), *((file, file.name.removeprefix(path.name)) for file in beside if is_file(file))]


def _inside(folder: Path) -> list[tuple[Path, str]]:
    found = _sampled(sorted(file for file in folder.rglob("*") if file.is_file()))
    return [(file, file.relative_to(folder).as_posix()) for file in found]


def _sampled(files: Sequence[Path]) -> list[Path]:
    # A Zarr image may have millions of chunks, each a file: some are sampled. Its metadata are few and small.
    metadata = [file for file in files if file.name in ZARR_METADATA]
    chunks = [file for file in files if file.name not in ZARR_METADATA]
    step = max(1, len(chunks) // SAMPLES)
    return [*metadata, *chunks[::step]]
