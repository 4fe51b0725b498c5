"""Label rasters, one class index a pixel, read by region: a palette is for the eye and is left alone.

`magnet_cli.images` reads pictures and so turns palettes into colours; here the stored indices are wanted.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.backends import HEAD_BYTES, JPEG_2000_MAGIC, TIFF_MAGIC, is_other, open_other
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.failures import reporting_bugs
from magnet_cli.images.jpeg import JPEG_HEAD_BYTES
from magnet_cli.images.labels_png import PALETTE, PNG_MAGIC, png_header, write_grey_copy
from magnet_cli.images.protocol import NODATA
from magnet_cli.images.tiff_colour import alpha_note
from magnet_cli.images.urls import file_name, is_url
from magnet_cli.system.closing import Closing
from magnet_cli.system.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size

LARGEST_LABEL = 255
BILEVEL_STEP = 255
"""Value that readers of pictures give a bilevel sample that is not 0."""
PIECE = 1 << 20
"""Bytes of a file that are copied at a time."""
JPEG_MAGIC = b"\xff\xd8\xff"
LOSSY_ADVICE = (
    "Save the labels as PNG or TIFF without lossy compression, from their source: what it has changed cannot be undone"
)


@dataclass(frozen=True, kw_only=True)
class OpenedLabels:
    """An image whose first band holds indices."""

    image: images.Image
    step: int = 1
    """Factor between a stored index and the value that the image returns."""
    classes: tuple[tuple[str, str], ...] | None = None
    """Name and colour of each class where the file states them; else None."""
    indexed: bool = False
    """Whether the file has a palette, so that its samples can only be indices."""
    bounds: Box | None = None
    """The scanned part of the slide that a mask of this program was made of, from whose corner QuPath counts pixels."""
    lossy: str | None = None
    """Name of the compression, where it has put other values beside the borders of labels; else None."""
    largest: int | None = None
    """Value from which the decoder counts down, because 0 means white; else None."""
    notes: tuple[str, ...] = ()
    """Messages that a user should read about planes and pages that are not read."""


class LabelImage(Closing):
    """An opened label raster; it is closed with `close`, or by use as a context.

    Args:
        path: Path as the user gave it.
        opened: Opened image of the raster, with its classes.
        values: Labels by the stored values that they replace; other values are labels themselves.
        resources: Stack of open files, closed with the raster.
    """

    def __init__(self, path: str, opened: OpenedLabels, *, values: Mapping[int, int], resources: ExitStack) -> None:
        self.path = path
        self.classes = opened.classes
        self.indexed = opened.indexed
        self.lossy = opened.lossy
        self.partial = opened.notes
        """Notes on planes and pages of the file that are not read."""
        self._bounds = opened.bounds
        self._image = opened.image
        self._step = opened.step
        self._largest = opened.largest
        self._resources = resources
        self._table = np.arange(LARGEST_LABEL + 1, dtype=np.uint8)
        for stored, label in values.items():
            self._table[stored] = label

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the classes where the file states them; else None."""
        return None if self.classes is None else tuple(name for name, _ in self.classes)

    @property
    def info(self) -> images.ImageInfo:
        """Facts about the file, known without decoding a pixel."""
        info = replace(self._image.info, path=self.path)
        return info if self._bounds is None else replace(info, bounds=self._bounds)

    @property
    def size(self) -> Size:
        """Size of the raster in pixels."""
        return self._image.info.size

    @property
    def bands(self) -> int:
        """Number of bands in the file; labels are read from the first."""
        return len(self._image.info.bands)

    @property
    def dtype(self) -> str:
        """NumPy name of the stored dtype."""
        return self._image.info.dtype

    @property
    def nodata(self) -> float | None:
        """The value that marks a missing pixel."""
        return self._image.info.nodata

    @property
    def resident_bytes(self) -> int:
        """Largest memory that the raster keeps between reads, in bytes."""
        return self._image.info.resident_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages that a user should read about the file."""
        nodata, found = self._image.info.nodata, [f"{self.path}: {note}" for note in self.partial]
        if nodata is not None and nodata != NODATA:
            found.append(f"{self.path}: pixels of its nodata value {nodata:g} count as {NODATA}")
        if self._image.info.alpha == "mask":
            found.append(f"{self.path}: pixels that it marks as transparent count as {NODATA}")
        return tuple(found)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Read the labels of a box inside the raster.

        Returns:
            `(height, width)` uint8; 255 where the file has no data.

        Raises:
            SourceError: The box cannot be decoded, or holds a value that is no label.
        """
        values, valid = self._first_band(box)
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        if values.dtype != np.uint8:
            _check_range(values, path=self.path)
        # Decoders widen samples of fewer than eight bits to 0..255; the division gives the stored index back.
        labels: NDArray[np.uint8] = self._table[values.astype(np.uint8) // np.uint8(self._step)]
        if valid is not None:
            labels[~valid] = NODATA
        return labels

    def read_nonzero(self, box: Box) -> NDArray[np.bool_]:
        """Return `(height, width)`, True where the first band has data other than zero."""
        values, valid = self._first_band(box)
        inside: NDArray[np.bool_] = values != 0
        return inside if valid is None else inside & valid

    def read_stored(self, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the stored values of the first band, `(height, width)`, and which of them are data.

        The result is None where all are.

        Raises:
            SourceError: The values cannot be decoded.
        """
        values, valid = self._first_band(box)
        return (values if self._step == 1 else values // values.dtype.type(self._step)), valid

    def close(self) -> None:
        """Close the files and free the disk that was used."""
        self._resources.close()

    def _first_band(self, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        try:
            region = self._image.read([images.Request(pitch=LEVEL0, box=box)])[0]
        except SourceError as error:
            raise _renamed(error, self.path) from error
        values = region.pixels[:, :, 0]
        return (values if self._largest is None else values.dtype.type(self._largest) - values), region.valid


def open_labels(source: str | Path, *, values: Mapping[int, int] | None = None) -> LabelImage:
    """Return a raster of class indices; those of a palette TIFF or PNG are read as they are stored.

    Samples of fewer than eight bits count from 0: a bilevel file holds the labels 0 and 1.

    Args:
        source: Any file that `magnet_cli.images` reads, of one band.
        values: Label to be given for a stored value, where it differs. A value that is named here is a label also where
            the file calls it its nodata value.

    Raises:
        SourceError: It is missing, damaged, has several bands, values that are no whole numbers, or lossy compression.
    """
    found = _open(source, values or {})
    info = found._image.info  # noqa: SLF001 - its own module
    if len(info.bands) != 1 or np.dtype(info.dtype).kind not in "biu":
        found.close()
        raise SourceError(
            "a label raster has one band of whole numbers, the class indices",
            value=f"{len(info.bands)} bands of {info.dtype}",
            file=found.path,
            advice="Turn colours or probabilities into class indices first",
        )
    if found.lossy is not None:
        found.close()
        raise SourceError(
            f"{found.lossy} compression changes values near the borders of classes, so a {found.lossy} file holds no "
            "exact labels",
            file=found.path,
            advice=LOSSY_ADVICE,
        )
    return found


def open_region(source: str | Path) -> LabelImage:
    """Return a raster of any kind for `read_nonzero`. Its first band marks what is inside.

    Raises:
        SourceError: It is missing or damaged, or has lossy compression.
    """
    found = open_stored(source)
    if found.lossy is not None:
        found.close()
        raise SourceError(
            f"{found.lossy} compression leaves values other than 0 beside an area, so a {found.lossy} file marks no "
            "exact area",
            file=found.path,
            advice="Save the area as PNG or TIFF without lossy compression; of this file take the values above 127",
        )
    return found


def open_stored(source: str | Path) -> LabelImage:
    """Return a raster of any kind for `read_stored`.

    Raises:
        SourceError: It is missing or damaged.
    """
    return _open(source, {})


def _open(source: str | Path, values: Mapping[int, int]) -> LabelImage:
    text = str(source)
    with reporting_bugs(text), ExitStack() as stack:
        opened = _opened(text, stack, values)
        stack.enter_context(opened.image)
        return LabelImage(text, opened, values=values, resources=stack.pop_all())


def _opened(text: str, stack: ExitStack, values: Mapping[int, int]) -> OpenedLabels:
    cache = images.CacheBudget.temporary()
    head = _head(text)
    if head.startswith(TIFF_MAGIC):
        from magnet_cli.images.labels_tiff import open_tiff_labels  # noqa: PLC0415 - tifffile loads slowly

        found = open_tiff_labels(text, labels=values)
        if found is not None:
            return OpenedLabels(
                image=found.image,
                step=found.step,
                classes=found.classes,
                indexed=found.indexed,
                bounds=found.bounds,
                lossy=found.lossy,
                notes=found.notes,
            )
        from magnet_cli.images.labels_tiff import decoded_tiff  # noqa: PLC0415 - as above

        how = decoded_tiff(text)
        image = images.open_image(text, cache=cache)
        return OpenedLabels(image=image, step=how.step, largest=how.largest, lossy=how.lossy)
    if head.startswith(PNG_MAGIC):
        header = png_header(head, text)
        if header.has_indices:
            near = _fetched(text, stack) if is_url(text) else text
            grey = stack.enter_context(scratch_folder("labels")) / "indices.png"
            try:
                write_grey_copy(near, grey)
                image = images.open_image(grey, cache=cache)
            except SourceError as error:
                raise _renamed(error, text) from error
            return OpenedLabels(image=image, step=header.step, indexed=header.colour == PALETTE)
    if is_other(head) and not is_url(text):
        image = open_other(text, head, indices=True, labels=values)
        from magnet_cli.images.gdal_image import is_indexed, lossy_raster  # noqa: PLC0415 - an extra

        # Transparent pixels have a note of labels. A band of that name is of no use to them.
        alpha = {alpha_note(number, "mask") for number in range(1, len(image.info.bands) + 2)}
        notes = tuple(note for note in image.info.notes if note not in alpha)
        return OpenedLabels(image=image, indexed=is_indexed(text), lossy=lossy_raster(text), notes=notes)
    image = images.open_image(text, cache=cache)
    return OpenedLabels(
        image=image,
        step=BILEVEL_STEP if image.info.bilevel else 1,
        lossy=_lossy_picture(text, head),
        notes=image.info.notes if image.info.backend == "zarr" else (),
    )


def _lossy_picture(text: str, head: bytes) -> str | None:
    """Return the name of the compression of a picture, by its first bytes, where it has changed values; else None."""
    if head.startswith(JPEG_MAGIC):
        from magnet_cli.images.lossy_codecs import lossy_jpeg  # noqa: PLC0415 - seldom needed

        with closing(open_blob(text)) as blob:
            return lossy_jpeg(blob.read(0, min(JPEG_HEAD_BYTES, blob.size), place="the beginning"))
    if head.startswith(JPEG_2000_MAGIC):
        from magnet_cli.images.gdal_image import lossy_raster  # noqa: PLC0415 - an extra

        return lossy_raster(text)
    if head[8:12] == b"WEBP":
        from magnet_cli.images.lossy_codecs import lossy_webp  # noqa: PLC0415 - seldom needed

        with closing(open_blob(text)) as blob:
            return lossy_webp(blob.read(0, blob.size, place="the picture"))
    return None


def _fetched(url: str, stack: ExitStack) -> str:
    """Return the path of a copy of a file behind a URL, which has no tiles that could be fetched alone."""
    copy = stack.enter_context(scratch_folder("labels")) / (file_name(url) or "labels")
    with closing(open_blob(url)) as blob, copy.open("wb") as file:
        for start in range(0, blob.size, PIECE):
            file.write(blob.read(start, min(PIECE, blob.size - start), place=f"byte {start} and what follows"))
    return str(copy)


def _head(text: str) -> bytes:
    if is_url(text):
        return _remote_head(text)
    path = Path(text)
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as exc:
        raise SourceError(
            f"the file cannot be read: {exc}",
            file=text,
            advice="Check that the file is there, and that this user may read it; save it again as PNG or TIFF",
        ) from exc


def _remote_head(url: str) -> bytes:
    """Return the first bytes behind a URL; empty where it is no file, of which its reader says what it is."""
    try:
        with closing(open_blob(url)) as blob:
            return blob.read(0, min(HEAD_BYTES, blob.size), place="the beginning")
    except SourceError:
        return b""


def _renamed(error: SourceError, path: str) -> SourceError:
    return SourceError(error.rule, value=error.value, file=path, advice=error.advice)


def _check_range(values: NDArray[Any], *, path: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > LARGEST_LABEL:
        raise SourceError(
            f"a label is a whole number from 0 to {LARGEST_LABEL}",
            value=low if low < 0 else high,
            file=path,
            advice="Export it again as a TIFF of whole numbers with labels from 0 to 255",
        )
