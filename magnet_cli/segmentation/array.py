"""Segmenting a small image into an array, for programs that need no files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from magnet_cli.errors import UsageError
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from magnet_cli.system.scratch import scratch_folder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.events import Events
    from magnet_cli.models.python_network import NetworkDescription, PatchFunction

TILE = 256
"""Side in pixels of the tiles of an array's file."""
RGB = 3
FEW = 16
"""Rows up to which an array whose last axis is longer is taken for one with its bands first."""
KINDS = "uif"
"""Kinds of NumPy types that images store: whole numbers and floating-point numbers."""


def segment_array(
    image: str | Path | NDArray[Any],
    options: SegmentOptions | None = None,
    *,
    network: PatchFunction | None = None,
    description: NetworkDescription | None = None,
    events: Events | None = None,
) -> NDArray[np.uint8]:
    """Segment one image and return the whole mask; no file stays.

    An array goes through a temporary file, so that its mask is the one that `segment` would write of such a file.

    Args:
        image: A file, a URL, or an array `(height, width, bands)` or `(height, width)` of stored values. Three bands of
            an array are red, green and blue.
        options: Options of `segment`. `slide_mpp` gives the pixel size of an array. Options that write files beside the
            mask are ignored.
        network: A callable that takes the place of a bundle, as in `segment`.
        description: Classes, patch size and normalisation of `network`.
        events: Receives messages and progress.

    Returns:
        `(height, width)` uint8: class indices, 255 where nothing was computed.

    Raises:
        MagnetError: The image cannot be segmented.
    """
    plain = replace(
        options or SegmentOptions(),
        overlay=False,
        html=False,
        probabilities=False,
        uncertainty=False,
        exports=ExportOptions(),
    )
    # The files that the options above would write are deleted together with this folder.
    with scratch_folder("array") as folder:
        source = _written(image, folder / "image.tif") if isinstance(image, np.ndarray) else image
        results = segment(source, folder / "mask.tif", plain, network=network, description=description, events=events)
        labels: NDArray[np.uint8] = results[0].array()
    return labels


def _written(pixels: NDArray[Any], path: Path) -> Path:
    """Write an array as a tiled TIFF and return its path."""
    if pixels.dtype.kind not in KINDS:
        raise UsageError(
            "an image is an array of whole numbers or floating-point numbers",
            value=pixels.dtype,
            advice="Convert it, as array.astype('uint8') does",
        )
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise UsageError(
            "an image is an array (height, width) or (height, width, bands) of numbers",
            value=f"{pixels.shape} of {pixels.dtype}",
            advice="Move the bands to the end, as numpy.moveaxis(array, 0, -1) does",
        )
    if pixels.ndim == 3 and pixels.shape[0] <= FEW < pixels.shape[2]:  # noqa: PLR2004 - with bands
        raise UsageError(
            "an array has its bands last",
            value=pixels.shape,
            advice="Move the bands to the end, as numpy.moveaxis(array, 0, -1) does",
        )
    bands = pixels.shape[2] if pixels.ndim == 3 else 1  # noqa: PLR2004 - with bands
    # tifffile takes the last axis of an array for its width, and the first for pages, unless planarconfig is given.
    tifffile.imwrite(
        path,
        pixels if bands > 1 else pixels.reshape(pixels.shape[:2]),
        photometric="rgb" if bands == RGB else "minisblack",
        planarconfig="contig" if bands > 1 else None,
        tile=(TILE, TILE),
    )
    return path
