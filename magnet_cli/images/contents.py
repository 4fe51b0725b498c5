"""The images that one file holds, and which of them is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magnet_cli.geometry import Size

MOST_LISTED = 8
"""Images of a file that a message names."""

BESIDE_A_SCAN = {
    *("label", "macro", "thumbnail"),
    *("Label", "Overview", "Thumbnail"),
    *("label image", "macro image"),
}
"""Names that Aperio, PerkinElmer and Bio-Formats give to the pictures that scanners store beside a scan."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """One of the images of a file."""

    name: str
    """Name that the file gives the image; empty where it gives none."""
    size: Size | None
    """Stored size of the image's level 0; None where it is only known once the image is opened."""


def choose(contents: Sequence[Content], series: str | int | None, *, default: int, path: str) -> int:
    """Return the position of the image that is read.

    Args:
        contents: The images of the file.
        series: Image that the user asks for: a position, the first being 0, or a name; None for the default.
        default: Position of the image that is read where nothing is asked for.
        path: Path of the file for error messages.

    Raises:
        SourceError: There is no such image, or several of the name.
    """
    if series is None:
        return default
    word = str(series).strip()
    if word.isdecimal() and int(word) < len(contents):
        return int(word)
    found = positions_of(word, [content.name for content in contents])
    if len(found) == 1:
        return found[0]
    rule = "holds no such image" if not found else f"holds {len(found)} images of that name"
    raise SourceError(
        f"the file {rule}; it holds {listed(range(len(contents)), contents)}",
        value=f"--series {word}",
        file=path,
        advice="Choose an image by its number, the first being 0, or by its name",
    )


def positions_of(word: str, names: Sequence[str]) -> list[int]:
    """Return the positions of a name; where no name is the same, of those that differ in capital letters alone."""
    found = [index for index, name in enumerate(names) if name == word]
    return found or [index for index, name in enumerate(names) if name.casefold() == word.casefold()]


def largest(contents: Sequence[Content], among: Iterable[int] | None = None) -> int:
    """Return the position of the image with most pixels, the first of several."""
    positions = list(range(len(contents)) if among is None else among)
    return max(positions, key=lambda index: (_pixels(contents[index]), -index))


def others(contents: Sequence[Content], chosen: int, *, hidden: Iterable[int] = ()) -> tuple[str, ...]:
    """Return a note that names the images that are not read; empty where all are read.

    The label, macro picture and thumbnail that scanners put beside a scan need none.

    Args:
        contents: The images of the file.
        chosen: Position of the one that is read.
        hidden: Positions of those that need no mention.
    """
    left = [index for index in range(len(contents)) if index != chosen and index not in set(hidden)]
    if all(contents[index].name in BESIDE_A_SCAN for index in left):
        return ()
    read = f"the file holds {len(left) + 1} images and image {listed([chosen], contents)} is read"
    verb = "the other is" if len(left) == 1 else "the others are"
    return (f"{read}; {verb} {listed(left, contents)} (choose with --series)",)


def listed(positions: Iterable[int], contents: Sequence[Content]) -> str:
    """Return the images by number, name and size: `0 overview (375x250), 1 scan (3000x2000)`."""
    positions = list(positions)
    shown = [_shown(index, contents[index]) for index in positions[:MOST_LISTED]]
    more = len(positions) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _shown(index: int, content: Content) -> str:
    name = f" {content.name}" if content.name not in ("", str(index)) else ""
    return f"{index}{name}" + ("" if content.size is None else f" ({content.size})")


def _pixels(content: Content) -> int:
    return 0 if content.size is None else content.size.pixels
