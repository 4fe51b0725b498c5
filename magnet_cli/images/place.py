"""Comparison of the georeferences of two rasters that should show one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.images.geotransform import Geotransform

if TYPE_CHECKING:
    from magnet_cli.images.protocol import ImageInfo

HALF = 0.51
"""Pixels by which corners may differ: programs disagree on whether coordinates are of a pixel's corner or centre."""
ADVICE = "Warp one onto the grid of the other; where a georeference is wrong, write it anew or leave it out"


def check_place(found: ImageInfo, image: ImageInfo) -> None:
    """Check that a raster and the image that it belongs to do not state different places.

    Args:
        found: Facts about the raster, which has the image's shape; its pixels may be larger.
        image: Facts about the image.

    Raises:
        SourceError: The rasters name different reference systems, or their corners lie apart.
    """
    if found.crs is not None and image.crs is not None and not same_system(found.crs, image.crs):
        raise SourceError(
            f"the reference system must be that of {image.path}, {system_label(image.crs)}",
            value=system_label(found.crs) if system_label(found.crs) != system_label(image.crs) else found.crs,
            file=found.path,
            advice=ADVICE,
        )
    apart = _apart(found, image)
    same_size = found.size == image.size
    # The last pixel of a smaller raster may reach beyond the image, or end before it.
    larger = max(1, image.size.width / found.size.width, image.size.height / found.size.height)
    if apart is not None and apart > (HALF if same_size else 2 * HALF * larger):
        raise SourceError(
            f"by its georeference this does not lie where {image.path} lies",
            value=f"corners {apart:.3g} of its pixels apart",
            file=found.path,
            advice=ADVICE,
        )


def same_system(one: str, other: str) -> bool:
    """Whether two reference systems, as `ImageInfo.crs` has them, are one; the whole definitions are compared."""
    from magnet_cli.images.crs import same_crs  # noqa: PLC0415 (PROJ takes long to load)

    return one == other or same_crs(one, other)


def system_label(crs: str) -> str:
    """A reference system for a message: its code, or its name."""
    from magnet_cli.images.crs import label  # noqa: PLC0415 (as above)

    return label(crs)


def _apart(found: ImageInfo, image: ImageInfo) -> float | None:
    """How far corners lie from the image's, in pixels of the image; None where either does not say where it lies."""
    here, there = (Geotransform.of({code: value for code, _, _, value in info.geo_tags}) for info in (found, image))
    if here is None or there is None or (found.crs is None) != (image.crs is None):
        return None
    mine, its = (
        np.array([(0, 0), (info.size.width, 0), (0, info.size.height), (info.size.width, info.size.height)], float)
        for info in (found, image)
    )
    return float(np.abs(there.pixels(here.coordinates(mine)) - its).max())
