"""An image and a mask of it: whether they belong together, and how the mask is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.errors import SourceError
from magnet_cli.objects.mask import InputMask, open_mask
from magnet_cli.refining.options import THRESHOLD

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.images import ImageInfo
    from magnet_cli.refining.options import RefineOptions


def check_pair(image: str | Path, mask: str | Path) -> ImageInfo:
    """The image, whose mask has its size and lies where it lies.

    Raises:
        SourceError: One of them cannot be opened, or they differ in size or place.
    """
    info, found = images.inspect(image), images.inspect(mask)
    if info.size != found.size:
        raise SourceError(
            f"a mask has the size of its image, {info.path}, which has {info.size} pixels",
            value=found.size,
            file=found.path,
            advice="Enlarge it to that size first, as the nearest pixel for labels, bilinear for a probability",
        )
    images.check_place(found, info)
    return info


def open_input_mask(path: str | Path, options: RefineOptions) -> InputMask:
    """The mask, read as the options say.

    Raises:
        SourceError, UsageError: It cannot be read so.
    """
    threshold = THRESHOLD if options.threshold is None else options.threshold
    return open_mask(path, kind=options.mask_kind, threshold=threshold, is_given=options.threshold is not None)
