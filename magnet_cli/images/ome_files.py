"""The files of a multi-file OME-TIFF, which lie in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.images.blob import FileBlob
from magnet_cli.images.failures import FOREIGN, naming
from magnet_cli.images.ome import Ome, OmeError, is_ome, parse_ome
from magnet_cli.images.tiff_description import description
from magnet_cli.images.urls import file_name, is_url
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tifffile import TiffFile, TiffPage

    from magnet_cli.images.blob import Blob
    from magnet_cli.images.ome import OmeImage

LARGEST_COMPANION = 256 << 20
"""Bytes of a file of OME-XML that are read into memory."""
TIFF_SUFFIXES = (".tif", ".tiff", ".tf2", ".tf8", ".btf")
ADVICE = "Put the files of the image into one folder, under their own names, or export it as one file"


class OmeFiles:
    """Opens the files that hold the planes of an image.

    Args:
        path: Path of the file that is read; the others are searched in its folder.
    """

    def __init__(self, path: str) -> None:
        self.name = Path(file_name(path)).name
        """File name of the file that is read, without its folder."""
        self.blobs: dict[TiffFile, Blob] = {}
        """The other files that were opened. The reader of the pixels closes them."""
        self.path = path
        """Path of the file that is read."""
        self._opened: dict[str, TiffFile] = {}

    def whole(self, ome: Ome) -> Ome:
        """Return the full description, read from the file that holds it.

        Raises:
            SourceError: The file that holds the description is missing.
            OmeError: The XML of that file is damaged.
        """
        if ome.elsewhere is None:
            return ome
        rule = "the description of this piece of a multi-file OME-TIFF lies in another file"
        file = self._beside(ome.elsewhere, rule)
        with naming(file, "the description cannot be read"):
            if file.suffix.lower() in TIFF_SUFFIXES:
                # Without `_multifile=False` tifffile opens the other files itself, by names that the file states.
                with tifffile.TiffFile(file, _multifile=False) as opened:
                    text = description(opened.pages.first)
            else:
                with regular_files.opened(file) as stream:
                    text = stream.read(LARGEST_COMPANION).decode("utf-8", "replace")
        if not is_ome(text):
            message = f"{file.name} holds no OME-XML"
            raise OmeError(message)
        found = parse_ome(text, own=self.name, identity=ome.identity)
        if found.elsewhere is not None:
            message = f"{file.name} refers to yet another file"
            raise OmeError(message)
        return found

    def pages(self, image: OmeImage, own: Callable[[int], TiffPage | None]) -> list[TiffPage]:
        """Return the pages of the channels at the first z and t.

        Args:
            image: Image from the OME-XML description.
            own: Function that returns a page of the file that is read, by its number; None where there is no such page.

        Raises:
            SourceError: A page is missing.
        """
        found = []
        for channel, plane in enumerate(image.planes):
            if plane is None:
                raise SourceError(
                    "the OME-XML does not say where a channel is stored",
                    value=f"channel {channel} of {len(image.planes)}",
                    file=self.path,
                    advice=ADVICE,
                )
            if plane.file is None:
                page = own(plane.directory)
            else:
                rule = f"this is one piece of a multi-file OME-TIFF, and channel {channel} lies in another file"
                page = self._page(self._beside(plane.file, rule), plane.directory)
            if page is None:
                raise SourceError(
                    "the OME-XML names a page that the file does not hold",
                    value=f"directory {plane.directory}",
                    file=self.path if plane.file is None else plane.file,
                    advice=ADVICE,
                )
            found.append(page)
        return found

    def notes(self, image: OmeImage) -> tuple[str, ...]:
        """Return notes for the user about a file that is one piece of a set."""
        if not image.files:
            return ()
        if not self._opened:
            return ()
        count, others = len({*image.files, self.name}), ", ".join(sorted(self._opened))
        return (f"the file is one of {count} pieces of a multi-file OME-TIFF and is read together with {others}",)

    def _beside(self, name: str, rule: str) -> Path:
        """Return the path of a file in the folder of the one that is read.

        Raises:
            SourceError: The file is missing, or the folder is behind a URL.
        """
        if is_url(self.path):
            raise SourceError(
                rule, value=name, file=self.path, advice="Download the files of the image into one folder"
            )
        # A description may state any path. Only files in the same folder are opened.
        found = Path(self.path).with_name(name) if name and Path(name).name == name else None
        if found is None or not found.is_file():
            raise SourceError(rule, value=f"{name[:200]!r}, which is not beside it", file=self.path, advice=ADVICE)
        return found

    def _page(self, path: Path, number: int) -> TiffPage | None:
        """Return a page of another file of the set."""
        advice = "Copy or export the file again"
        with naming(path, "the TIFF file cannot be understood", advice=advice):
            return page_of(self._sibling(path), number)

    def _sibling(self, path: Path) -> TiffFile:
        if path.name not in self._opened:
            blob = FileBlob(str(path))
            try:
                with naming(path, "the TIFF file cannot be understood", advice="Copy or export the file again"):
                    file = tifffile.TiffFile(blob.stream(), name=path.name, _multifile=False)
            except SourceError:
                blob.close()
                raise
            self._opened[path.name], self.blobs[file] = file, blob
        return self._opened[path.name]


def page_of(file: TiffFile, number: int) -> TiffPage | None:
    """Return a page of a file by its number; None where the file has no such page."""
    try:
        return file.pages[number].aspage()
    except IndexError:
        return None


def ome_set(path: Path) -> tuple[str, ...]:
    """Return the names of the files that belong to one OME-TIFF with this one, sorted.

    The result is empty where the file is whole, or no OME-TIFF.

    Only files that are there, in the same folder, count; the one that holds the description is among them.
    """
    names = {path.name}
    try:
        with regular_files.opened(path) as stream, tifffile.TiffFile(stream, name=path.name, _multifile=False) as file:
            text = description(file.pages.first)
            if is_ome(text):
                own = parse_ome(text, own=path.name)
                names |= {own.elsewhere or path.name}
                names |= {name for image in OmeFiles(str(path)).whole(own).images for name in image.files}
    except (*FOREIGN, SourceError):
        return ()  # the reader that opens the file names what is wrong with it
    beside = sorted(name for name in names if name == Path(name).name and path.with_name(name).is_file())
    return tuple(beside) if len(beside) > 1 else ()
