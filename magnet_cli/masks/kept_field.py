"""A field that a run has kept beside its mask, read back from its Zarr array."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.identity import ImageIdentity
from magnet_cli.images.protocol import NODATA, Resolution
from magnet_cli.masks.spec import LARGEST_CHUNK

if TYPE_CHECKING:
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

PROBABILITIES = ".probabilities.zarr"
"""End of the names of folders with kept probabilities."""
METADATA = "zarr.json"
UNITS = ("um", "m")
FEW = 3
"""Number of files that a message names."""
LONGEST = 64
"""Most characters of a fraction in a file. Numbers of millions of digits would take minutes to parse."""


@dataclass(frozen=True, kw_only=True)
class FieldFile:
    """A field that `write_field` has written."""

    path: Path
    bands: int
    size: Size
    """The size of its grid."""
    pitch: Pitch
    """Level-0 pixels that a pixel of the grid covers."""
    level0: Size
    """The size of level 0 of the image."""
    classes: tuple[str, ...]
    """Names of the bands."""
    array: zarr.Array[Any]
    resolution: Resolution | None = None
    """The physical size of a level-0 pixel."""
    image: ImageIdentity | None = None
    """The image that the values were computed from. None where it was not noted."""
    image_path: str | None = None
    """The path that this image had."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder of a field.

        Raises:
            SourceError: There is no such folder, or it holds something else than a field.
        """
        import zarr  # noqa: PLC0415 - it loads slowly, and few refinements have a field

        if not path.is_dir():
            raise SourceError(
                "there are no such probabilities", file=path, advice="'segment --probabilities' keeps them"
            )
        if (inside := sorted(path.glob(f"*{PROBABILITIES}"))) and not (path / METADATA).exists():
            raise SourceError(
                "this is a folder of outputs, not the probabilities of one mask",
                file=path,
                advice=f"Give one of the folders in it: {', '.join(map(str, inside[:FEW]))}",
            )
        try:
            array = zarr.open_array(path, mode="r")
            found: dict[str, Any] = dict(array.attrs)
            bands, height, width = array.shape
            pitch = Pitch(x=_fraction(found["pitch"]["x"]), y=_fraction(found["pitch"]["y"]))
            level0 = Size(width=int(found["level0"]["width"]), height=int(found["level0"]["height"]))
            classes = tuple(str(name) for name in found["classes"])
            made_of = found.get("image")
            resolution = _resolution(found.get("resolution"))
            image = None if made_of is None else _image(made_of)
            image_path = None if made_of is None else str(made_of["path"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OSError) as exc:
            raise _unreadable(path) from exc
        # Zarr reads a missing chunk as the fill value. Without this check a lost file would look like an area that was
        # not computed.
        if found.get("chunks", array.nchunks_initialized) != array.nchunks_initialized:
            raise _unreadable(path)
        # A chunk is decoded as a whole, so a hostile folder could name one of many gigabytes.
        fits = array.dtype == np.uint8 and bands == len(classes) <= NODATA
        if not fits or pitch.cover(level0) != Size(width=width, height=height) or max(array.chunks) > LARGEST_CHUNK:
            raise _unreadable(path)
        return cls(
            path=path,
            bands=bands,
            size=Size(width=width, height=height),
            pitch=pitch,
            level0=level0,
            classes=classes,
            array=array,
            resolution=resolution,
            image=image,
            image_path=image_path,
        )

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the stored values in a box of the grid, `(bands, height, width)`; see `write_field`.

        Raises:
            SourceError: The values cannot be decoded.
        """
        try:
            return np.asarray(self.array[:, *box.slices], dtype=np.uint8)
        except (ValueError, RuntimeError, OSError) as exc:
            raise _unreadable(self.path) from exc


def _fraction(text: object) -> Fraction:
    if len(str(text)) > LONGEST:
        message = f"a fraction has at most {LONGEST} signs"
        raise ValueError(message)
    return Fraction(str(text))


def _image(found: Any) -> ImageIdentity:
    series = found.get("series")
    return ImageIdentity(fingerprint=str(found["fingerprint"]), series=None if series is None else int(series))


def _resolution(found: Any) -> Resolution | None:
    if found is None:
        return None
    if found["unit"] not in UNITS:
        message = f"the unit of a resolution is one of {', '.join(UNITS)}"
        raise ValueError(message)
    return Resolution(x=_fraction(found["x"]), y=_fraction(found["y"]), unit=found["unit"])


def _unreadable(path: Path) -> SourceError:
    return SourceError(
        "this is no field that this program has written, or it is damaged",
        file=path,
        advice="Compute it again with 'segment --probabilities'",
    )
