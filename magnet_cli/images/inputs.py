"""The inputs of a command line: the images that they name, and the names of the outputs made from them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images.image_list import is_list, read_image_list
from magnet_cli.images.series import one_a_series
from magnet_cli.images.urls import is_url, url_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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

UNREAD_PICTURES = (".heic", ".heif", ".avif", ".jxl", ".jxr", ".gif", ".bmp", ".psd")
"""Endings of pictures that this program does not read, and that any program for pictures can save in another format."""
UNREAD_SUFFIXES = (
    *(".czi", ".vsi", ".isyntax", ".i2syntax", ".lif", ".lof", ".nd2", ".oib", ".oif", ".oir", ".zvi", ".ims", ".mds"),
    *(".mdsx", ".kfb", ".sdpc", ".tmap", ".dyqx", ".afi", ".cws", ".eslide", ".ets", ".scan", ".mcd"),
    *(".exr", ".dng", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".h5", ".hdf5"),
    *UNREAD_PICTURES,
)
"""Endings of images that this program does not read. A message reports those that a folder holds."""

ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True, kw_only=True, order=True)
class FoundImage:
    """An image that an input stands for."""

    source: str
    """Path or URL of the image, as `open_image` takes it."""
    place: Path
    """Name of the image below the folder that was given; its subfolders are kept in the output."""
    options: Mapping[str, object] = field(default_factory=dict, compare=False)
    """Options of `segment` that a list gives for this image alone, by name."""
    is_listed: bool = field(default=False, compare=False)
    """Whether a list names the image. A list may name an image twice, with two names and regions."""

    @property
    def key(self) -> tuple[str, str]:
        """A value that is the same for two images that are one."""
        source = self.source if is_url(self.source) else os.path.realpath(self.source)
        return source, str(self.place) if self.is_listed else ""


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file of a folder or a pattern that looks like an image, and is not taken."""

    path: Path
    reason: Literal["format", "name", "output"]
    """Key of `REASONS` that says why the file is not taken."""


REASONS = {
    "format": ("in a format that is not read", "Export as OME-TIFF, with QuPath or bfconvert for example"),
    "name": ("with a name like that of a mask of this program", "Name a file to read it all the same"),
    "output": ("that this program wrote", "Name a file to read it all the same"),
}
"""Clause that names the reason in a message, and the advice, for each reason to skip files."""
MOST_NAMED = 5
"""Most files that such a message names."""


def skipped_notes(skipped: Sequence[SkippedFile]) -> list[str]:
    """Return one sentence for each reason why files were not taken, with the names of the first ones."""
    notes = []
    for reason, (what, advice) in REASONS.items():
        paths = sorted(str(each.path) for each in skipped if each.reason == reason)
        if paths:
            more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
            count = f"{len(paths)} file{'s'[: len(paths) > 1]}"
            notes.append(f"skipped {count} {what}: {', '.join(paths[:MOST_NAMED])}{more}. {advice}")
    return notes


def find_images(inputs: Sequence[str], *, skipped: list[SkippedFile] | None = None) -> list[FoundImage]:
    """Return the images that files, folders and glob patterns stand for: sorted within each input, none twice.

    Args:
        inputs: Paths, URLs, patterns and lists (`.csv`) as the user gave them. A folder is searched with its
            subfolders; a zarr folder is one image, and so is a URL. One of the files of a DICOM slide is taken, except
            where they are named.
        skipped: Takes the files of folders and patterns that look like images, and are not taken.

    Raises:
        UsageError: A folder or a pattern holds no image, or rows of lists give one output several options.
        SourceError: A named file does not exist.
    """
    found: dict[tuple[str, str], FoundImage] = {}
    noted: list[SkippedFile] = [] if skipped is None else skipped
    for text in inputs:
        for image in _expand(text, noted):
            if found.setdefault(image.key, image).options != image.options:
                raise UsageError(
                    "two rows name one image with other options, and both outputs would have one name",
                    value=str(image.place),
                    file=image.source,
                    advice="Give each row a name of its own in the column name",
                )
    return list(found.values())


def stem(path: str | Path) -> str:
    """Return the name of a file without its one known suffix, which may be double: `slide.ome.tif` gives `slide`."""
    name = Path(path).name
    lower = name.lower()
    # Longer suffixes come first: `.ome.zarr.zip` also ends in `.zarr.zip`.
    for suffix in (*sorted(DOUBLE_SUFFIXES, key=len, reverse=True), *SUFFIXES):
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _found(path: Path, root: Path) -> FoundImage:
    return FoundImage(source=str(path), place=path.relative_to(root))


def _expand(text: str, skipped: list[SkippedFile]) -> list[FoundImage]:
    if is_url(text):
        if is_bucket_folder(text):
            return _in_bucket(text)
        return [FoundImage(source=text, place=Path(url_name(text)))]
    path = Path(text)
    if path.is_dir() and not is_zarr(path):
        images = one_a_series(sorted(_walk(path, skipped)))
        if not images:
            raise _no_image("the folder holds no image", skipped, file=text)
        return [_found(image, path) for image in images]
    if path.is_file() and is_list(text):
        listed = read_image_list(path)
        return [
            FoundImage(source=each.source, place=each.place, options=each.options, is_listed=True) for each in listed
        ]
    if path.exists():
        return [_found(path, path.parent)]
    if not glob.has_magic(text):
        raise SourceError("there is no such file or folder", file=text, advice="Check the path")
    return _pattern(text, skipped)


def is_bucket_folder(url: str) -> bool:
    """Return whether a URL names a folder of a bucket, which ends with a slash, rather than one image."""
    return url.lower().startswith("s3://") and url.endswith("/") and not url.lower().endswith(".zarr/")


def _in_bucket(folder: str) -> list[FoundImage]:
    """Return the images below a folder of a bucket, sorted. A zarr folder in it is one image."""
    from magnet_cli.images.remote import files_under  # noqa: PLC0415 (an extra)

    root = f"s3://{folder.partition('://')[2]}"
    found: dict[str, FoundImage] = {}
    for url in files_under(root):
        parts = url.removeprefix(root).split("/")
        ends = [number for number, part in enumerate(parts, 1) if part.lower().endswith(".zarr")]
        parts = parts[: ends[0]] if ends else parts
        name = parts[-1].lower()
        is_taken = name.endswith((*DOUBLE_SUFFIXES, *SUFFIXES)) and not name.endswith(OURS)
        if is_taken and not any(part.startswith(".") for part in parts):
            inside = "/".join(parts)
            found.setdefault(inside, FoundImage(source=f"{root}{inside}", place=Path(*parts)))
    if not found:
        raise UsageError(
            "this folder of a bucket holds no image", file=folder, advice="Check the address, or name an image"
        )
    return list(found.values())


def _no_image(rule: str, skipped: Sequence[SkippedFile], *, file: str) -> UsageError:
    notes = skipped_notes(skipped)
    return UsageError(
        f"{rule} that can be read" if notes else rule,
        file=file,
        advice="; ".join(notes) if notes else "Name a folder with images, or a file",
    )


def _pattern(text: str, skipped: list[SkippedFile]) -> list[FoundImage]:
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
            images.extend(_found(image, root) for image in one_a_series(sorted(_walk(path, skipped))))
        else:
            _note_skipped(path, skipped)
    kept = {str(path) for path in one_a_series(Path(image.source) for image in images)}
    images = [image for image in images if image.source in kept]
    if not images and skipped:
        raise _no_image("the pattern matches no image", skipped, file=text)
    if not images:
        raise UsageError(
            "the pattern matches no image", value=text, advice="Check the pattern, and write it between quotation marks"
        )
    return images


def _note_skipped(path: Path, skipped: list[SkippedFile]) -> None:
    """Keep a file that is not taken, if it looks like an image."""
    lower = path.name.lower()
    if lower.endswith(UNREAD_SUFFIXES):
        skipped.append(SkippedFile(path=path, reason="format"))
    elif lower.endswith(OURS) and lower.endswith((*DOUBLE_SUFFIXES, *SUFFIXES)):
        skipped.append(SkippedFile(path=path, reason="name"))


def _walk(folder: Path, skipped: list[SkippedFile]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        # Hidden files are none of the user's images: macOS, for one, leaves a file ._NAME beside each file on other
        # disks.
        if entry.name.startswith("."):
            continue
        if is_image(entry):
            yield entry
        # A link to a folder above would be followed for ever.
        elif entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, skipped)
        else:
            _note_skipped(entry, skipped)


def is_image(path: Path) -> bool:
    """Return whether a path, by its name, is an image to read and nothing that this program wrote."""
    lower = path.name.lower()
    if lower.endswith(OURS):
        return False
    if path.is_dir():
        return is_zarr(path)
    return path.is_file() and lower.endswith((*DOUBLE_SUFFIXES, *SUFFIXES))


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a zarr array or group."""
    return path.is_dir() and any((path / mark).is_file() for mark in ZARR_MARKS)
