"""What the inputs of a command line stand for: the images they name, and the names of what is made of them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images.series import one_a_series
from magnet_cli.images.urls import is_url, url_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOUBLE_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.zarr", ".ome.zarr.zip", ".zarr.zip")
GDAL_SUFFIXES = (
    *(".vrt", ".img", ".gpkg", ".ntf", ".nitf", ".nc", ".mbtiles", ".ecw", ".sid", ".kea", ".mrf", ".ers", ".pix"),
    *(".bil", ".bip", ".bsq", ".envi", ".rst", ".sdat", ".gti"),
)
"""Endings of files that GDAL reads."""
SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".tf8", ".qptiff", ".png", ".jpg", ".jpeg", ".webp", ".zarr"),
    *(".jp2", ".j2k", ".jpx", ".jpf", *GDAL_SUFFIXES),
    *(".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".svslide", ".bif", ".dcm"),
)
OURS = (".mask.tif", ".mask.tiff", ".field.tif", ".journal", ".part")
"""Endings of files that this program writes beside images."""

ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True, kw_only=True, order=True)
class FoundImage:
    """An image that an input stands for."""

    source: str
    """Its path or address, as `open_image` takes it."""
    place: Path
    """Its name, with the subfolders below the folder that stood for it: they are kept in the output."""


def find_images(inputs: Sequence[str]) -> list[FoundImage]:
    """The images that files, folders and glob patterns stand for: sorted within each input, none twice.

    Args:
        inputs: As the user gave them. A folder is searched with its subfolders; a zarr folder is one image, and so
            is an address. Of the files of a DICOM slide one is taken, except where they are named.

    Raises:
        UsageError: A folder or a pattern holds no image.
        SourceError: A named file does not exist.
    """
    found: dict[str, FoundImage] = {}
    for text in inputs:
        for image in _expand(text):
            found.setdefault(image.source if is_url(image.source) else os.path.realpath(image.source), image)
    return list(found.values())


def stem(path: str | Path) -> str:
    """The name of a file without its one known suffix, which may be double: `slide.ome.tif` gives `slide`."""
    name = Path(path).name
    lower = name.lower()
    for suffix in (*sorted(DOUBLE_SUFFIXES, key=len, reverse=True), *SUFFIXES):
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _found(path: Path, root: Path) -> FoundImage:
    return FoundImage(source=str(path), place=path.relative_to(root))


def _expand(text: str) -> list[FoundImage]:
    if is_url(text):
        return [FoundImage(source=text, place=Path(url_name(text)))]
    path = Path(text)
    if path.is_dir() and not is_zarr(path):
        images = one_a_series(sorted(_walk(path)))
        if not images:
            raise UsageError("the folder holds no image", file=text, advice="Name a folder with images, or a file")
        return [_found(image, path) for image in images]
    if path.exists():
        return [_found(path, path.parent)]
    if not glob.has_magic(text):
        raise SourceError("there is no such file or folder", file=text, advice="Check the path")
    return _pattern(text)


def _pattern(text: str) -> list[FoundImage]:
    fixed = list(Path(text).parts)
    while fixed and glob.has_magic("/".join(fixed)):
        fixed.pop()
    root = Path(*fixed) if fixed else Path()
    images: list[FoundImage] = []
    for match in sorted(glob.glob(text, recursive=True)):  # noqa: PTH207 (the pattern may be absolute)
        path = Path(match)
        if is_image(path):
            images.append(_found(path, root))
        elif path.is_dir() and not any(is_zarr(parent) for parent in path.parents):
            images.extend(_found(image, root) for image in one_a_series(sorted(_walk(path))))
    kept = {str(path) for path in one_a_series(Path(image.source) for image in images)}
    images = [image for image in images if image.source in kept]
    if not images:
        raise UsageError("the pattern matches no image", value=text, advice="Check it, and quote it from the shell")
    return images


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if is_image(entry):
            yield entry
        elif entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)


def is_image(path: Path) -> bool:
    """Whether a path looks like an image to read, judged by its name, and not like something this program wrote."""
    lower = path.name.lower()
    if lower.endswith(OURS):
        return False
    if path.is_dir():
        return is_zarr(path)
    return path.is_file() and lower.endswith((*DOUBLE_SUFFIXES, *SUFFIXES))


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return path.is_dir() and any((path / mark).is_file() for mark in ZARR_MARKS)
