"""A mask as OME-Zarr 0.5: a pyramid in `labels/classes`, with the colour and the name of each class.

The root is an image as well, of the same arrays: a labels group has to lie in an image, and viewers open roots.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.spec import parts
from magnet_cli.system.working_files import working_folder

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from magnet_cli.masks.mask_file import MaskFile

VERSION = "0.5"
CHUNK = 1024
"""Side of a chunk in pixels, which viewers load as a whole: a small view needs few of them, and little beside it."""
SHARD = 4 * CHUNK
"""Side of a shard in pixels. A shard is a file of 16 chunks. Its 16 MiB of labels are in memory while it is written."""
NAME = "classes"
UNITS = {"um": "micrometer", "m": "meter"}


def write_ome_zarr(mask: MaskFile, target: Path, *, identity: str) -> None:
    """Write the mask, one shard at a time; its overviews are the pyramid."""
    with working_folder(target) as part:
        root = zarr.create_group(part, zarr_format=3, overwrite=False)
        labels = root.create_group("labels")
        classes = labels.create_group(NAME)
        for level in range(len(mask.levels)):
            _write_level(mask, level, classes)
        classes.attrs["ome"] = {**_multiscales(mask, prefix=""), "image-label": _image_label(mask)}
        labels.attrs["ome"] = {"version": VERSION, "labels": [NAME]}
        root.attrs.update({"ome": _multiscales(mask, prefix=f"labels/{NAME}/"), "magnet": {"export": identity}})


def found_identity(path: Path) -> str | None:
    """Return the identity of an OME-Zarr that this program wrote; None for anything else."""
    try:
        found = json.loads((path / "zarr.json").read_bytes())
        identity = found["attributes"]["magnet"]["export"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return identity if isinstance(identity, str) else None


def _write_level(mask: MaskFile, level: int, group: zarr.Group) -> None:
    size = mask.levels[level].size
    array = group.create_array(
        str(level),
        shape=(size.height, size.width),
        chunks=(CHUNK, CHUNK),
        shards=(SHARD, SHARD),
        dtype=np.uint8,
        # Chunks and shards of 255 alone are not written: most of a slide is glass.
        fill_value=NODATA,
        compressors=ZstdCodec(level=3),
        dimension_names=("y", "x"),
    )
    for share in parts(Box.whole(size), SHARD):
        # A shard has one writer and is written once. Each writer of a part of it reads all of it, changes the part and
        # writes all of it again, so that of several at a time one would undo the others, without an error.
        array[share.box.slices] = mask.read(share.box, level=level)


def _multiscales(mask: MaskFile, *, prefix: str) -> dict[str, Any]:
    resolution = mask.facts.resolution
    unit = {} if resolution is None else {"unit": UNITS[resolution.unit]}
    y, x = (1.0, 1.0) if resolution is None else (float(resolution.y), float(resolution.x))
    datasets = []
    for level in range(len(mask.levels)):
        step = 2.0**level
        # Coordinates are those of pixel centres: the first one of a reduced level lies half a step further in.
        shift = (step - 1) / 2
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": [y * step, x * step]}]
        if level:
            transformations.append({"type": "translation", "translation": [y * shift, x * shift]})
        datasets.append({"path": f"{prefix}{level}", "coordinateTransformations": transformations})
    axes = [{"name": name, "type": "space", **unit} for name in ("y", "x")]
    return {"version": VERSION, "multiscales": [{"name": NAME, "type": "mode", "axes": axes, "datasets": datasets}]}


def _image_label(mask: MaskFile) -> dict[str, Any]:
    classes = list(enumerate(mask.facts.classes))
    return {
        "colors": [
            *({"label-value": label, "rgba": [*entry.rgb, 255]} for label, entry in classes),
            # Without an entry viewers give 255 a colour of their own, which would cover the image.
            {"label-value": NODATA, "rgba": [0, 0, 0, 0]},
        ],
        "properties": [
            *({"label-value": label, "name": entry.name} for label, entry in classes),
            {"label-value": NODATA, "name": "not computed"},
        ],
        "source": {"image": "../../"},
    }
