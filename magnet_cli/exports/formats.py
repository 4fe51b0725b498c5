"""Other formats of finished masks: their files, whether these exist already, and how they are made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from magnet_cli.errors import OutputError
from magnet_cli.exports import cog, geojson
from magnet_cli.exports import ome_tiff as ometiff
from magnet_cli.exports import ome_zarr as omezarr
from magnet_cli.exports.destinations import default_files, map_path, names_path, plan_exports
from magnet_cli.masks.mask_file import MaskFile
from magnet_cli.masks.output import OutputPaths
from magnet_cli.options.export import ExportOptions
from magnet_cli.system.written_files import WrittenFile, refuse_collisions, refuse_foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from magnet_cli.exports.destinations import ExportTarget
    from magnet_cli.options.export import ExportFormat


MADE: Mapping[str, int] = {"cog": 1, "ome-tiff": 1, "ome-zarr": 2, "geojson": 1}
"""Number of each format, which is raised when a version gives another file for the same mask and options. It is part of
the identity of a file, so that a file of an older version is not taken for one of this version."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """One format of a mask."""

    mask: Path
    format: ExportFormat
    path: Path
    was_done: bool = False
    """Whether the file already existed, made from the same mask with the same options."""
    notes: tuple[str, ...] = ()
    """Messages for the user about the file."""

    def describe(self, shown: str | None = None) -> dict[str, object]:
        """Return the fields as JSON values.

        Args:
            shown: The address of the file, where it was written to a bucket. None takes its path.
        """
        status = "already done" if self.was_done else "done"
        return {"format": self.format, "path": shown or str(self.path), "status": status, "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """Return the message that the file is done, followed by its notes."""
        return [f"{self.path}: {'already done' if self.was_done else 'done'}", *self.notes]


class _RasterWriter(Protocol):
    def __call__(self, mask: MaskFile, target: Path, *, identity: str) -> None:
        """Write a mask in the format.

        Args:
            mask: The mask, opened.
            target: The file or folder to make or replace.
            identity: The identity that the format's `found` returns for the file.

        Raises:
            OutputError: The file cannot be written.
            SourceError: The mask is damaged.
        """


@dataclass(frozen=True, kw_only=True)
class _Raster:
    """A format that copies every pixel."""

    write: _RasterWriter
    found: Callable[[Path], str | None]
    """Returns the identity of a file; None where this program did not write it."""


RASTERS: dict[ExportFormat, _Raster] = {
    "cog": _Raster(write=cog.write_cog, found=cog.found_identity),
    "ome-tiff": _Raster(write=ometiff.write_ome_tiff, found=ometiff.found_identity),
    "ome-zarr": _Raster(write=omezarr.write_ome_zarr, found=omezarr.found_identity),
}


def export_files(files: Iterable[tuple[ExportFormat, Path]], *, owner: str) -> list[WrittenFile]:
    """Return the files that exports of the mask `owner` may write."""
    found = []
    for name, path in files:
        is_ours = partial(_is_ours, name)
        paths = [path, *([map_path(path)] if name == "geojson" else [])]
        found += [WrittenFile(path=each, kind="export", owner=owner, is_ours=is_ours) for each in paths]
        if name == "cog":
            # GDAL and QGIS add to this file what they find out about the raster that it belongs to.
            belongs = partial(_belongs, path)
            found.append(WrittenFile(path=names_path(path), kind="export", owner=owner, is_ours=belongs))
    return found


def _is_ours(name: ExportFormat, path: Path) -> bool:
    found = geojson.found_identity if name == "geojson" else RASTERS[name].found
    return found(path) is not None


def _belongs(raster: Path, names: Path) -> bool:
    return _is_ours("cog", raster) or cog.has_names(names)


def export_mask(
    mask: Path, targets: Iterable[tuple[ExportFormat, Path]], options: ExportOptions, *, overwrite: bool = False
) -> Iterator[Export]:
    """Write a finished mask in other formats, one after another. Files that exist already stay as they are.

    Args:
        mask: A mask that `segment` has written.
        targets: Formats, and where each goes.
        options: Options for polygons. The formats in it are ignored.
        overwrite: Whether files of another mask or other options may be replaced.

    Raises:
        SourceError: The mask is missing, damaged, or none.
        OutputError: A file is in the way, or cannot be written; it is as before, or missing, never in part. A finished
            file was removed while others were written.
    """
    targets, finished = list(targets), []
    refuse_foreign(export_files(targets, owner=str(mask)))
    with MaskFile.open(mask) as opened:
        digest = opened.digest()
        for name, path in targets:
            identity = _identity(name, digest, options)
            if name == "geojson":
                made = _polygons(opened, path, identity=identity, options=options, overwrite=overwrite)
            else:
                made = {path: _raster(opened, path, RASTERS[name], identity=identity, overwrite=overwrite)}
            for file, was_done in made.items():
                notes = _without_map(opened, path) if name == "geojson" and file == path else ()
                finished.append(file)
                yield Export(mask=mask, format=name, path=file, was_done=was_done, notes=notes)
    for file in finished:
        # Writing the next file makes the folder again, so that nothing fails where somebody removes it in between.
        if not file.exists():
            raise OutputError(
                "this export was finished, and removed while others were written", file=file, advice="Export it again"
            )


def export_beside(mask: Path, options: ExportOptions, *, overwrite: bool = False) -> Iterator[Export]:
    """Write a finished mask in the formats of some options, each under its usual name beside the mask.

    Args:
        mask: A mask that `segment` has written.
        options: The formats, and how polygons are written.
        overwrite: Whether files of another mask or other options may be replaced.

    Raises:
        SourceError, OutputError: As `export_mask` raises them.
    """
    return export_mask(mask, default_files(mask, options), options, overwrite=overwrite)


def _raster(mask: MaskFile, path: Path, raster: _Raster, *, identity: str, overwrite: bool) -> bool:
    """Make a raster unless it exists already, and return whether it did."""
    if _is_done(path, identity, raster.found, overwrite=overwrite):
        return True
    raster.write(mask, path, identity=identity)
    return False


def _polygons(
    mask: MaskFile, path: Path, *, identity: str, options: ExportOptions, overwrite: bool
) -> dict[Path, bool]:
    """Make one or two files of polygons, and return for each whether it existed already."""
    outputs = [geojson.FeatureFile(target=path, places=geojson.pixel_places(mask.facts), identity=identity)]
    on_map = geojson.map_places(mask.facts)
    if on_map is not None:
        outputs.append(geojson.FeatureFile(target=map_path(path), places=on_map, identity=identity))
    done = {
        each.target: _is_done(each.target, identity, geojson.found_identity, overwrite=overwrite) for each in outputs
    }
    # Both files come from one sweep, which is the costly part.
    wanted = [each for each in outputs if not done[each.target]]
    if wanted:
        geojson.write_polygons(mask, wanted, simplify=float(options.simplify), min_area=options.min_area)
    return done


def _without_map(mask: MaskFile, path: Path) -> tuple[str, ...]:
    """Return a note where a mask lies on a map and no polygons in its coordinates can be written."""
    why = geojson.why_no_map(mask.facts)
    return () if why is None else (f"{map_path(path).name} is not written: {why}",)


def _is_done(path: Path, identity: str, found: Callable[[Path], str | None], *, overwrite: bool) -> bool:
    """Return whether a file exists already, of the same content.

    Raises:
        OutputError: Something else is there, and overwriting was not asked for.
    """
    if not path.exists():
        return False
    if found(path) == identity:
        return True
    if overwrite:
        return False
    raise OutputError(
        "the output exists already: it was not made of this mask with these options",
        file=path,
        advice="Choose another output, or pass --overwrite.",
    )


def _identity(name: ExportFormat, digest: str, options: ExportOptions) -> str:
    """Return the SHA-256 of everything on which the content of an export depends."""
    values: dict[str, object] = {"made": MADE[name], "format": name, "mask": digest}
    if name == "geojson":
        values |= {"simplify": str(options.simplify), "min_area": options.min_area}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def refuse_export_collisions(targets: Sequence[ExportTarget]) -> None:
    """Refuse exports whose files are those of others, or of the masks of which they are made.

    Raises:
        UsageError: Two files are the same.
    """
    refuse_collisions(
        (file for target in targets for file in export_files(target.files, owner=str(target.mask))),
        (path for target in targets for path in (target.mask, OutputPaths.of(target.mask).report)),
    )


def export(
    masks: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
) -> list[Export]:
    """Write finished masks in other formats, without computing them again.

    Args:
        masks: Masks that `segment` has written, or folders of them; one, or several.
        output: A file (one mask and one format), a folder, or None for the masks' own folders.
        options: The formats, at least one, and how polygons are written.
        overwrite: Whether files of another mask or other options may be replaced.

    Returns:
        Every file, those that were there already too.

    Raises:
        UsageError: Nothing to do, or outputs that cannot all be.
        SourceError: A mask is missing, damaged, or none.
        OutputError: A file is in the way, or cannot be written.
    """
    options = options or ExportOptions()
    named = [masks] if isinstance(masks, str | Path) else masks
    targets = plan_exports([str(mask) for mask in named], None if output is None else Path(output), options.formats)
    refuse_export_collisions(targets)
    return [made for target in targets for made in export_mask(target.mask, target.files, options, overwrite=overwrite)]
