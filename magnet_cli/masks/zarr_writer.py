"""A field as a Zarr array of format 3: probabilities or uncertainty beside the mask, quantised to one byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec
from magnet_cli.masks.spec import FieldSpec, MaskSpec, parts
from magnet_cli.system.working_files import working_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zarr.core.common import JSON

    from magnet_cli.masks.journal import Journal


SHARD = 4
"""Chunks along a side of a shard. A shard is a file of 16 chunks, whose values take 16 MiB while it is written."""


def write_field(journal: Journal, name: str, target: Path, *, attributes: Mapping[str, JSON] | None = None) -> None:
    """Write a field of the journal as the Zarr array `target`, `(bands, height, width)` uint8, one shard at a time.

    A stored v stands for v * scale_factor + add_offset, 255 for not computed. The folder appears by rename; one of that
    name is replaced.

    Args:
        journal: The journal of a run whose groups are all finished.
        name: The name of the field.
        target: The folder, by custom `<mask name>.<field>.zarr`.
        attributes: JSON values to add to the array's own.

    Raises:
        OutputError: The journal is damaged or the disk refuses the folder.
    """
    entry = journal.field(name)
    side = SHARD * entry.side
    with working_folder(target) as part:
        array = zarr.create_array(
            store=part,
            shape=(entry.bands, entry.size.height, entry.size.width),
            chunks=(entry.bands, entry.side, entry.side),
            shards=(entry.bands, side, side),
            dtype=np.uint8,
            fill_value=NODATA,
            compressors=ZstdCodec(level=3),
            dimension_names=("class", "y", "x"),
            attributes={**(attributes or {}), **_attributes(entry, journal.spec)},
        )
        # A shard has one writer and is written once, as those of an OME-Zarr are.
        for share in parts(Box.whole(entry.size), side):
            values = journal.read_stored_field(name, share.box)
            stored = values if values.dtype == np.uint8 else codec.quantise(values.astype(np.float32))
            array[:, *share.box.slices] = stored
        # Shards of the fill value alone are not written, so that one which is lost would look like one of them.
        array.attrs["chunks"] = array.nchunks_initialized


def _attributes(entry: FieldSpec, spec: MaskSpec) -> dict[str, JSON]:
    """Return what a reader needs to place and name the values.

    Pixel sizes are exact fractions of level-0 pixels as text.
    """
    resolution: JSON = None
    if spec.resolution is not None:
        resolution = {"x": str(spec.resolution.x), "y": str(spec.resolution.y), "unit": spec.resolution.unit}
    return {
        "scale_factor": 1 / codec.STEPS,
        "add_offset": 0.0,
        "_FillValue": NODATA,
        "classes": [each.name for each in spec.classes] if entry.bands == len(spec.classes) else [entry.name],
        "pitch": {"x": str(entry.pitch.x), "y": str(entry.pitch.y)},
        "level0": {"width": spec.size.width, "height": spec.size.height},
        "resolution": resolution,
    }
