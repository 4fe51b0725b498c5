"""The masks of an export and the file of each format, decided before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.images.inputs import is_zarr
from magnet_cli.masks.targets import masks_under
from magnet_cli.options.export import EXPORT_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.options.export import ExportFormat, ExportOptions

ENDINGS: dict[ExportFormat, tuple[str, ...]] = {
    "cog": (".tif", ".tiff"),
    "ome-tiff": (".ome.tif", ".ome.tiff"),
    "ome-zarr": (".zarr",),
    "geojson": (".geojson", ".json"),
}
"""Suffixes of `-o` where it names a file of a format."""
MAP_SUFFIX = ".crs.geojson"
"""The suffix of the second file that polygons of a georeferenced mask get."""


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """One mask, and a file for each format."""

    mask: Path
    files: tuple[tuple[ExportFormat, Path], ...]


def plan_exports(masks: Sequence[str], output: Path | None, formats: Sequence[ExportFormat]) -> list[ExportTarget]:
    """Plan the files of the exports of every mask.

    Args:
        masks: Masks, or folders that are searched for masks with a report beside them.
        output: A file (one mask and one format only), a folder, or None for the mask's own folder.
        formats: The formats, at least one.

    Raises:
        UsageError: Nothing to do, or an unknown suffix.
        SourceError: A named mask is missing.
    """
    if not formats:
        raise UsageError("an export needs a format", advice=f"Give --format one or more of {', '.join(ENDINGS)}")
    # Masks are compared by resolved paths, so that one which is named and also lies in a named folder is exported once.
    found = {mask.resolve(): (mask, root) for text in masks for mask, root in masks_under(text)}
    if output is not None and _is_file_name(output):
        targets = [_single([mask for mask, _ in found.values()], output, formats)]
    else:
        targets = [
            ExportTarget(mask=mask, files=tuple((name, _place(mask, root, output, name)) for name in formats))
            for mask, root in found.values()
        ]
    return targets


def default_path(mask: Path, format_: ExportFormat, folder: Path | None = None) -> Path:
    """Return the path of an export of `x.tif`: `x.cog.tif`, `x.ome.tif`, `x.ome.zarr` or `x.geojson`."""
    return (folder or mask.parent) / f"{mask.stem}{EXPORT_SUFFIXES[format_]}"


def map_path(path: Path) -> Path:
    """Return the second file of polygons: `x.geojson` has `x.crs.geojson`."""
    return path.with_name(f"{path.stem}{MAP_SUFFIX}")


def names_path(path: Path) -> Path:
    """Return the file with the names of the classes, where GDAL looks for it: `x.cog.tif.aux.xml`."""
    return path.with_name(f"{path.name}.aux.xml")


def default_files(mask: Path, options: ExportOptions) -> list[tuple[ExportFormat, Path]]:
    """Return the formats of some options, and the file beside the mask that each goes to."""
    return [(name, default_path(mask, name)) for name in options.formats]


def _is_file_name(output: Path) -> bool:
    return not (output.is_dir() and not is_zarr(output)) and bool(output.suffix)


def _single(masks: Sequence[Path], output: Path, formats: Sequence[ExportFormat]) -> ExportTarget:
    if len(masks) > 1 or len(formats) > 1:
        raise UsageError(
            "several masks or formats need a folder",
            value=f"{len(masks)} masks, {len(formats)} formats and -o {output}",
            advice="Give -o a folder; one with a dot in its name has to exist",
        )
    (name,) = formats
    if not output.name.lower().endswith(ENDINGS[name]):
        raise UsageError(
            f"a file of format {name} ends in {' or '.join(ENDINGS[name])}",
            value=f"-o {output}",
            advice=f"Give -o a name that ends in {' or '.join(ENDINGS[name])}, or a folder; a folder with a dot in its "
            "name has to exist",
        )
    return ExportTarget(mask=masks[0], files=((name, output),))


def _place(mask: Path, root: Path, output: Path | None, name: ExportFormat) -> Path:
    folder = None if output is None else output / mask.parent.relative_to(root)
    return default_path(mask, name, folder)
