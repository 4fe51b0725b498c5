"""Masks of given labels, as `segment` leaves them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.exports.destinations import default_path
from magnet_cli.exports.formats import Export, export_mask
from magnet_cli.geometry import Box, Size
from magnet_cli.images.protocol import Resolution
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import OutputPaths, finish_output
from magnet_cli.masks.spec import GroupId, MaskClass, MaskSpec
from magnet_cli.options.export import EXPORT_FORMATS, ExportFormat, ExportOptions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = (
    MaskClass(name="urban", color="#00FFFF"),
    MaskClass(name="Gebäude & Höfe", color="#ffff00"),
    MaskClass(name="water", color="#0000ff"),
)
MICRONS = Resolution(x=Fraction(1, 4), y=Fraction(1, 2), unit="um")

SIZES = [(1, 1), (64, 64), (65, 63), (300, 141), (3, 260)]
"""Width and height."""
KINDS = ("patches", "nodata", "one class")


def make_labels(width: int, height: int, kind: str = "patches") -> NDArray[np.uint8]:
    """Return labels `(height, width)`: patches of all classes and a corner that is not computed, or one value."""
    if kind != "patches":
        return np.full((height, width), {"nodata": 255, "one class": 1}[kind], dtype=np.uint8)
    rng = np.random.default_rng(width * 10_007 + height)
    coarse = rng.integers(0, len(CLASSES), (height // 7 + 1, width // 5 + 1)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((7, 5), dtype=np.uint8))[:height, :width].copy()
    labels[: height // 4, : width // 6] = 255
    return labels


def write_mask(
    path: Path,
    labels: NDArray[np.uint8],
    *,
    tile: int = 64,
    compression: str = "deflate",
    resolution: Resolution | None = MICRONS,
    geo_tags: tuple[tuple[int, int, int, object], ...] = (),
    bounds: Box | None = None,
    made_of: str = "i" * 64,
) -> Path:
    """Return a finished mask with its report; `made_of` is the fingerprint of its image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = Size(width=labels.shape[1], height=labels.shape[0])
    spec = MaskSpec(
        size=size, classes=CLASSES, tile=tile, compression=compression, resolution=resolution, geo_tags=geo_tags
    )
    paths = OutputPaths.of(path)
    described: dict[str, object] = {"bundle": "test"}
    if bounds is not None:
        described["bounds"] = [bounds.x, bounds.y, bounds.width, bounds.height]
    with Journal.open(paths.journal, header=JournalHeader(hashes={"input": made_of}, spec=spec)) as journal:
        group = GroupId(pass_index=0, index=0)
        journal.put_labels(group, box=Box.whole(size), labels=labels)
        journal.finish_group(group, counts={})
        finish_output(
            journal, paths, report={"schema": 1, "program": {"name": "magnet", "version": "0"}}, description=described
        )
    return path


def export(
    mask: Path, *formats: ExportFormat, simplify: int = 0, min_area: int = 0, overwrite: bool = False
) -> list[Export]:
    """Return every file of these formats (all where none is named), beside the mask."""
    wanted = formats or EXPORT_FORMATS
    options = ExportOptions(formats=(*wanted, "geojson"), simplify=Fraction(simplify), min_area=min_area)
    return list(export_mask(mask, [(name, default_path(mask, name)) for name in wanted], options, overwrite=overwrite))
