"""An image and a mask of it: whether they belong together, and how the mask is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from magnet_cli import images
from magnet_cli.errors import UsageError
from magnet_cli.masks.kept_field import FieldFile
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.targets import is_file_name
from magnet_cli.options.refine import THRESHOLD
from magnet_cli.options.shared import BandOptions
from magnet_cli.plan import inspect_bands
from magnet_cli.refinement.input_mask import InputMask, open_mask

if TYPE_CHECKING:
    from magnet_cli.images import ImageInfo
    from magnet_cli.options.refine import RefineOptions


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image, a mask of it, and where the sharper one goes."""

    image: str
    mask: str
    paths: OutputPaths
    info: ImageInfo
    """Of the image."""

    @classmethod
    def open(
        cls, image: str | Path, mask: str | Path, output: str | Path | None, *, options: BandOptions | None = None
    ) -> Self:
        """Look at both files.

        Args:
            image: A file or URL.
            mask: Likewise.
            output: The file to write, a folder, or None for `<mask's name>.refined.tif` in the current folder.
            options: Which image of the file is read, and how.

        Raises:
            UsageError: The output has a suffix in which masks are not written, or is one of the inputs.
            SourceError: One of them cannot be opened, or they differ in size or place.
        """
        paths = OutputPaths.of(output_path(image, mask, None if output is None else Path(output)))
        return cls(image=str(image), mask=str(mask), paths=paths, info=check_pair(image, mask, options=options))


def check_pair(image: str | Path, mask: str | Path, *, options: BandOptions | None = None) -> ImageInfo:
    """The image, whose mask has its size and lies where it lies.

    Raises:
        SourceError: One of them cannot be opened, or they differ in size or place.
    """
    info, found = inspect_bands(image, options or BandOptions()), images.inspect(mask)
    rule = f"a mask has the size of its image, {info.path}, which has {info.size} pixels"
    advice = "Enlarge it to that size first, as the nearest pixel for labels, bilinear for a probability"
    images.check_fits(found, info, rule=rule, advice=advice)
    return info


def output_path(image: str | Path, mask: str | Path, output: Path | None) -> Path:
    """The file that is written.

    Raises:
        UsageError: It has a suffix in which masks are not written, or is one of the inputs.
    """
    name = images.stem(mask)
    if output is None:
        found = Path(f"{name}.refined.tif")
    else:
        found = output if is_file_name(output) else output / f"{name}.tif"
    if found.resolve() in {Path(image).resolve(), Path(mask).resolve()}:
        raise UsageError("a mask may not replace an input", value=str(found), advice="Choose another -o")
    return found


def open_input_mask(path: str | Path, options: RefineOptions) -> InputMask:
    """The mask, read as the options say.

    Raises:
        SourceError, UsageError: It cannot be read so.
    """
    threshold = THRESHOLD if options.threshold is None else options.threshold
    return open_mask(
        path,
        kind=options.mask_kind,
        threshold=threshold,
        is_given=options.threshold is not None,
        objects=options.objects,
        only=options.only,
        names=() if options.evidence is None else FieldFile.open(options.evidence).classes,
    )
