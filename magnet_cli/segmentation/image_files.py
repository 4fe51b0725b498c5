"""The files that a segmentation may write, and those that it reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.exports.destinations import default_files, map_path
from magnet_cli.images.urls import is_url
from magnet_cli.masks.bucket_output import BucketOutput
from magnet_cli.masks.our_files import mask_files
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY
from magnet_cli.models.bundle import bundle_files
from magnet_cli.options.export import EXPORT_FORMATS, ExportOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from magnet_cli.masks.targets import Target
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.system.written_files import WrittenFile


def written_files(target: Target, options: SegmentOptions) -> list[WrittenFile]:
    """Return the files that a segmentation of one image may write, without their working names."""
    kept = ((PROBABILITIES, options.probabilities), (UNCERTAINTY, options.uncertainty))
    fields = [name for name, is_kept in kept if is_kept]
    if options.refine is None:
        found = mask_files(target.mask, owner=target.image, fields=fields)
    else:
        # A last stage may keep the probabilities that it starts from, whether or not they were asked for.
        found = mask_files(target.mask, owner=target.image)
        found += mask_files(target.unrefined, owner=target.image, fields=[*fields, PROBABILITIES])
    if options.overlay or options.html:
        from magnet_cli.report.files import ViewPaths  # noqa: PLC0415 - its libraries load slowly

        found += ViewPaths.of(target.mask, overlay=options.overlay, html=options.html).files(target.image)
    if options.exports.formats:
        from magnet_cli.exports.formats import export_files  # noqa: PLC0415 - likewise

        found += export_files(default_files(target.mask, options.exports), owner=str(target.mask))
    return found


def outdated_files(target: Target, options: SegmentOptions, exports: Iterable[Path]) -> list[Path]:
    """Return files beside a new mask that were made of an earlier one, and that the run has not made again.

    Args:
        target: The image and its mask.
        options: Options of the image.
        exports: The files in other formats that the run has made of the mask.
    """
    mask, every = target.mask, ExportOptions(formats=EXPORT_FORMATS)
    current = {file.path for file in written_files(target, options) if file.kind != "export"} | set(exports)
    formats = default_files(mask, every)
    kept = [OutputPaths.of(mask).field(name) for name in (PROBABILITIES, UNCERTAINTY)]
    pictures = [mask.with_name(f"{mask.stem}{ending}") for ending in (".overlay.png", ".html")]
    beside = [path for _, path in formats] + [
        map_path(mask.with_suffix(".geojson")),
        *kept,
        *pictures,
        target.unrefined,
    ]
    if not any(path.exists() for path in beside if path not in current):
        return []
    from magnet_cli.exports.formats import export_files  # noqa: PLC0415 - its libraries load slowly
    from magnet_cli.report.files import ViewPaths  # noqa: PLC0415 - likewise

    files = mask_files(mask, owner=target.image, fields=(PROBABILITIES, UNCERTAINTY))
    files += mask_files(target.unrefined, owner=target.image)
    files += ViewPaths.of(mask, overlay=True, html=True).files(target.image)
    files += export_files(formats, owner=str(mask))
    return [
        file.path
        for file in files
        if file.path in beside and file.path not in current and file.path.exists() and file.is_ours(file.path)
    ]


def bucket_output(target: Target, options: SegmentOptions, hashes: Mapping[str, str]) -> BucketOutput | None:
    """Return the outputs of one image in a bucket; None where they stay where they are made.

    Args:
        target: The image and its mask.
        options: Options of the image.
        hashes: SHA-256 of everything that the mask depends on, by name.
    """
    if target.place is None:
        return None
    own = ("mask", "report", "journal")
    chosen = (options.exports, options.overlay, options.html, options.probabilities, options.uncertainty)
    return BucketOutput(
        place=target.place,
        mask=target.mask,
        beside=[file.path for file in written_files(target, options) if file.kind not in own],
        hashes=hashes,
        outputs=hashlib.sha256(repr(chosen).encode()).hexdigest(),
        overwrite=options.overwrite,
    )


def read_files(targets: Sequence[Target], options: SegmentOptions) -> Iterator[Path]:
    """Yield the files that segmentations of several images read."""
    yield from (Path(target.image) for target in targets if not is_url(target.image))
    yield from (path for path in (options.roi, options.mask) if isinstance(path, Path))
    for weights in (options.weights, options.refine_weights):
        yield from bundle_files(weights)
