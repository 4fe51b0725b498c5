"""Sizes that no image has: a header that declares them is damaged or hostile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MAX_PIXELS = 1 << 42
"""Two million pixels a side."""


def check_pixels(width: int, height: int, file: str | Path) -> None:
    """Refuse an image without pixels, or with more than any has.

    Raises:
        SourceError: Its size is zero or absurd.
    """
    if width < 1 or height < 1:
        raise SourceError("the image has no pixels", value=f"{width} x {height}", file=file)
    if width * height > MAX_PIXELS:
        raise SourceError(
            "the header declares an absurd size", value=f"{width} x {height}", file=file, advice="The file is damaged"
        )
