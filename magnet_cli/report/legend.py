"""The legend of a mask's colours, as a strip of pixels."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import imagecodecs
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from magnet_cli.system.characters import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.report.picture import Class, MaskPicture

DOTS = 100
"""Pixels per inch of a legend under a picture of `USUAL` pixels. Under a wider picture there are more."""
USUAL = 1000
EDGE = 0.08
"""Width in inches of the margin around a legend."""
LONGEST_NAME = 48
MOST = 64
"""Most classes that are listed. A longer list would be larger than the picture."""
MOST_COLUMNS = 8
INK = "#222222"


def draw_legend(picture: MaskPicture, *, width: int) -> NDArray[np.uint8]:
    """Draw the classes with their colours and shares, in as many columns as fit.

    Args:
        picture: The picture whose classes are listed.
        width: Largest width in pixels. A single column may be wider.

    Returns:
        `(height, width, 3)` on white.
    """
    rows, more = listed(picture.classes)
    handles = [Patch(facecolor=entry.color, edgecolor="#666666", linewidth=0.6) for entry in rows]
    names = [f"{_short(printable(entry.name))}  {share_text(entry.share)}" for entry in rows]
    if more:
        handles.append(Patch(facecolor="none", edgecolor="none"))
        names.append(f"and {more} classes more")
    columns, dots = min(MOST_COLUMNS, len(names)), DOTS * max(1.0, width / USUAL)
    drawn = _drawn(handles, names, columns, dots)
    # The width of a column depends on the letters of its names, which only drawing tells.
    while drawn.shape[1] > width and columns > 1:
        columns -= 1
        drawn = _drawn(handles, names, columns, dots)
    return drawn


def listed(classes: Sequence[Class]) -> tuple[list[Class], int]:
    """Return the classes of a legend, in order, and how many are left out: the rarest."""
    if len(classes) <= MOST:
        return list(classes), 0
    kept = sorted(range(len(classes)), key=lambda label: (-classes[label].pixels, label))[:MOST]
    return [classes[label] for label in sorted(kept)], len(classes) - MOST


def share_text(share: float) -> str:
    """Return a share in percent; `< 0.1 %` where it would be rounded away."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"  # noqa: PLR2004 - half of the last digit


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def _drawn(handles: Sequence[Patch], names: Sequence[str], columns: int, dots: float) -> NDArray[np.uint8]:
    figure = Figure(dpi=dots)
    legend = figure.legend(handles, names, loc="center", ncols=columns, frameon=False, fontsize=10, labelcolor=INK)
    for text in legend.get_texts():
        # A name is a name: dollars are no formula.
        text.set_parse_math(False)
    file = BytesIO()
    with warnings.catch_warnings():
        # A name may have letters that the font lacks; they become boxes.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(file, format="png", dpi=dots, bbox_inches="tight", pad_inches=EDGE)
    drawn: NDArray[np.uint8] = imagecodecs.png_decode(file.getvalue())
    return drawn[:, :, :3]
