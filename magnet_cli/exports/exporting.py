"""Exporting finished masks from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.exports.making import Export, export_mask
from magnet_cli.exports.targets import plan_exports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.options import ExportOptions


def export(
    masks: Sequence[str | Path],
    options: ExportOptions,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> list[Export]:
    """Write finished masks in other formats, without computing them again.

    Args:
        masks: Masks that `segment` has written, or folders of them.
        options: The formats, at least one, and how polygons are written.
        output: A file (one mask and one format), a folder, or None for the masks' own folders.
        overwrite: Whether files of another mask or other options may be replaced.

    Returns:
        Every file, those that were there already too.

    Raises:
        UsageError: Nothing to do, or outputs that cannot all be.
        SourceError: A mask is missing, damaged, or none.
        OutputError: A file is in the way, or cannot be written.
    """
    targets = plan_exports([str(mask) for mask in masks], None if output is None else Path(output), options.formats)
    return [made for target in targets for made in export_mask(target.mask, target.files, options, overwrite=overwrite)]
