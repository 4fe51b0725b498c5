"""The place of each input's mask: it is decided, and collisions are refused, before any work."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images.inputs import SkippedFile, find_images, skipped_notes, stem
from magnet_cli.images.urls import is_url
from magnet_cli.masks.our_files import is_field, is_mask, is_truth
from magnet_cli.masks.report_file import is_report
from magnet_cli.options.export import EXPORT_SUFFIXES
from magnet_cli.system import durable
from magnet_cli.system.addresses import local_path
from magnet_cli.system.own_pictures import is_own_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from magnet_cli.images.inputs import FoundImage
    from magnet_cli.masks.bucket_folder import BucketFolder
    from magnet_cli.options.segment import SegmentOptions

OUR_EXPORT = re.compile(rb'"export": ?"[0-9a-f]{64}"|magnet/export')
EXPORT_HEAD = 1 << 16
"""Bytes at the beginning of an export in which it is marked as one."""
MASK_SUFFIXES = (".tif", ".tiff")
ON_DISK = "this command takes masks that lie on a disk"
"""Rule of the message where the address of a mask is given to a command that uses other files beside it."""
OVERLAY = ".overlay"
"""The end of the name of a mask's picture, before its suffix."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One image and its mask."""

    image: str
    mask: Path
    own: Mapping[str, object] = field(default_factory=dict)
    """Options of `segment` that hold for this image alone, by name."""
    place: BucketFolder | None = None
    """The bucket to which the finished mask is written. None leaves it where it is made."""

    @property
    def shown(self) -> str:
        """Return the path of the mask, or its address where it is written to a bucket."""
        return str(self.mask) if self.place is None else self.place.address(self.mask)

    def options(self, options: SegmentOptions) -> SegmentOptions:
        """Return the options of a run with those of this image in place of them."""
        given: Mapping[str, Any] = self.own
        return replace(options, **given) if given else options

    @property
    def unrefined(self) -> Path:
        """The path of the mask that a last stage refines: `x.tif` has `x.unrefined.tif`."""
        return self.mask.with_name(f"{self.mask.stem}.unrefined{self.mask.suffix}")


def _silent(note: str) -> None:
    del note


def input_images(inputs: Sequence[str], on_note: Callable[[str], None] = _silent) -> list[FoundImage]:
    """Return the images that inputs stand for, without what earlier runs wrote, unless an input names it.

    Args:
        inputs: Files, folders, glob patterns or addresses.
        on_note: Receives a sentence about files that look like images and are skipped.

    Raises:
        UsageError: There is no image.
        SourceError: A named file is missing.
    """
    named, skipped = {Path(text) for text in inputs}, list[SkippedFile]()
    found = find_images(inputs, skipped=skipped)
    images: list[FoundImage] = []
    for image in found:
        if Path(image.source) in named or not _is_earlier(image):
            images.append(image)
        else:
            skipped.append(SkippedFile(path=Path(image.source), reason="output"))
    if not images:
        raise UsageError(
            "the inputs hold only masks that this program has written",
            value=" ".join(inputs),
            advice="Name the images, or a folder that holds some",
        )
    for note in skipped_notes(skipped):
        on_note(note)
    return images


def in_order(targets: Iterable[Target]) -> list[Target]:
    """Return targets in the order in which parts deal them, also where the inputs were named in another order."""
    return sorted(targets, key=lambda target: (target.image, str(target.mask)))


def plan_targets(
    inputs: Sequence[str], output: Path | None, *, on_note: Callable[[str], None] = _silent
) -> list[Target]:
    """Return the mask of every input. What earlier runs wrote is left out, unless an input names it.

    Args:
        inputs: Files, folders, glob patterns or addresses.
        output: A mask's file name (one image only), a folder, or None for `<name>.mask.tif` in the current folder.
        on_note: Receives a sentence about files that look like images and are skipped.

    Raises:
        UsageError: Nothing to do, or an unknown suffix.
        SourceError: A named file is missing.
    """
    images = input_images(inputs, on_note)
    if output is None or not is_file_name(output):
        targets = [Target(image=image.source, mask=mask_path(image, output), own=image.options) for image in images]
    elif len(images) == 1:
        targets = [Target(image=images[0].source, mask=output, own=images[0].options)]
    else:
        raise UsageError(
            "several images need a folder for their masks",
            value=f"{len(images)} images and -o {output}",
            advice="Give -o a folder",
        )
    return targets


def _is_earlier(image: FoundImage) -> bool:
    return not is_url(image.source) and is_earlier_output(Path(image.source))


def is_earlier_output(image: Path) -> bool:
    """Return whether an earlier run wrote a file or a folder: a mask, a field, an export, a truth, a picture or a plot.

    All of them are known by what they say of themselves, also after they were renamed or moved. A TIFF that does not
    say it, such as a damaged mask, and an overlay that another program has saved again are known by the report beside
    them. Images in the folder of their masks have such a report beside them as well.
    """
    if image.name.lower().endswith(tuple(EXPORT_SUFFIXES.values())):
        return _is_export(image / "zarr.json" if image.is_dir() else image)
    if image.is_dir():
        return is_field(image)
    if image.suffix.lower() in MASK_SUFFIXES:
        return (
            is_mask(image) or is_truth(image) or (is_report(image.with_suffix(".json")) and not _has_mask_beside(image))
        )
    if image.suffix.lower() == ".png" and is_own_picture(image):
        return True
    return image.stem.endswith(OVERLAY) and is_report(image.with_name(f"{image.stem.removesuffix(OVERLAY)}.json"))


def _has_mask_beside(image: Path) -> bool:
    """Return whether `x.tiff` lies beside the mask `x.tif`, or the other way round: the report is then of that mask."""
    others = {image.with_suffix(suffix) for suffix in MASK_SUFFIXES} - {image}
    return any(is_mask(other) for other in others)


def _is_export(file: Path) -> bool:
    try:
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            return OUR_EXPORT.search(opened.read(EXPORT_HEAD)) is not None
    except OSError:  # whatever opens the file as an image says why it cannot be read
        return False


def named_masks(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the masks that are named, whatever they are, and the masks in the folders that are named.

    Raises:
        UsageError: A folder holds no mask that has a report beside it, or an address is named.
    """
    for path in (local_path(each, rule=ON_DISK) for each in paths):
        yield from (mask for mask, _ in masks_under(path)) if path.is_dir() else (path,)


def masks_under(given: str | Path) -> list[tuple[Path, Path]]:
    """Return the masks that a path stands for, each with the folder below which its subfolders are kept.

    A file stands for itself, and a folder for all masks in it and below it that have a report beside them.

    Raises:
        SourceError: The path does not exist.
        UsageError: The folder holds no such mask, or an address is given.
    """
    path = local_path(given, rule=ON_DISK)
    if not path.is_dir():
        if not path.exists():
            raise SourceError("there is no such mask", file=path, advice="Check the path")
        return [(path, path.parent)]
    named = (entry for entry in sorted(path.rglob("*")) if entry.suffix.lower() in MASK_SUFFIXES and entry.is_file())
    masks = [entry for entry in named if entry.with_suffix(".json").is_file() and is_earlier_output(entry)]
    if not masks:
        raise UsageError("the folder holds no mask with a report", value=path, advice="Name the masks themselves")
    return [(mask, path) for mask in masks]


def is_file_name(output: Path) -> bool:
    """Return whether `-o` names a file rather than a folder.

    Raises:
        UsageError: The name has a suffix that no mask can have.
        OutputError: The system denies access to its folder.
    """
    suffix = output.suffix.lower()
    with durable.looking_at(output):
        is_folder = output.is_dir()
    if is_folder or not suffix:
        return False
    if suffix not in MASK_SUFFIXES:
        raise UsageError(
            f"a mask is written as {' or '.join(MASK_SUFFIXES)}",
            value=f"-o {output}",
            advice="Give -o a name that ends in .tif, or a folder; a folder with a dot in its name has to exist",
        )
    return True


def mask_path(image: FoundImage, folder: Path | None) -> Path:
    """Return the mask of an image: `<folder>/<subfolders>/<name>.tif`, or `<name>.mask.tif` in the current folder."""
    if folder is None:
        return Path(f"{stem(image.place)}.mask.tif")
    return folder / image.place.parent / f"{stem(image.place)}.tif"
