"""An image and its mask: a check that they belong together, and the opening of the mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from magnet_cli import images
from magnet_cli.images.urls import is_url
from magnet_cli.masks.kept_field import FieldFile
from magnet_cli.masks.our_files import mask_files
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.targets import is_file_name
from magnet_cli.models.bundle import bundle_files
from magnet_cli.options.refine import THRESHOLD, RefineOptions
from magnet_cli.options.shared import BandOptions
from magnet_cli.plan import inspect_bands
from magnet_cli.refinement.input_mask import InputMask, open_mask
from magnet_cli.system.written_files import refuse_collisions, refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.images import ImageInfo


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image, its mask, and the files that are written."""

    image: str
    mask: str
    paths: OutputPaths
    info: ImageInfo
    """The facts of the image."""

    @classmethod
    def open(
        cls, image: str | Path, mask: str | Path, output: str | Path | None, *, options: RefineOptions | None = None
    ) -> Self:
        """Read the facts of both files, and choose the output.

        Args:
            image: A file or URL.
            mask: A file or URL.
            output: The file to write, a folder, or None for `<mask's name>.refined.tif` in the current folder.
            options: Options for reading, among them which image of the file is read.

        Raises:
            UsageError: Masks are not written in files of the output's suffix, or an output is one of the inputs.
            OutputError: A file of another program is in the way of an output.
            SourceError: A file cannot be opened, or the two differ in size or place.
        """
        paths = OutputPaths.of(output_path(mask, None if output is None else Path(output)))
        options = options or RefineOptions()
        files = mask_files(paths.mask, owner=str(image))
        # Names are checked before the files are opened, because that takes no time.
        refuse_collisions(files, read_files(image, mask, options))
        refuse_unwritable(files)
        return cls(image=str(image), mask=str(mask), paths=paths, info=check_pair(image, mask, options=options))


def read_files(image: str | Path, mask: str | Path, options: RefineOptions) -> Iterator[Path]:
    """Yield the files that a refinement reads."""
    yield from (Path(path) for path in (image, mask) if not is_url(str(path)))
    if options.evidence is not None:
        yield options.evidence
    yield from bundle_files(options.weights)


def check_pair(image: str | Path, mask: str | Path, *, options: BandOptions | None = None) -> ImageInfo:
    """Check that a mask has the size and the place of its image, and return the facts of the image.

    Raises:
        SourceError: A file cannot be opened, or the two differ in size or place.
    """
    info, found = inspect_bands(image, options or BandOptions()), images.inspect(mask)
    rule = f"a mask has the size of its image, {info.path}, which has {info.size} pixels"
    advice = "Enlarge it to that size first: nearest neighbour for labels, bilinear for a probability"
    images.check_fits(found, info, rule=rule, advice=advice)
    return info


def output_path(mask: str | Path, output: Path | None) -> Path:
    """Return the path of the output.

    Raises:
        UsageError: Masks are not written in files of its suffix, or it is one of the inputs.
    """
    name = images.stem(mask)
    if output is None:
        found = Path(f"{name}.refined.tif")
    else:
        found = output if is_file_name(output) else output / f"{name}.tif"
    return found


def open_input_mask(path: str | Path, options: RefineOptions) -> InputMask:
    """Open a mask with the interpretation that the options ask for.

    Raises:
        SourceError, UsageError: The values of the mask do not fit that interpretation.
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
