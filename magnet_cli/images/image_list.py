"""Images that a CSV file lists for `magnet segment`, each with what is known of it alone."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images.urls import is_url, url_name
from magnet_cli.options.forms import parse_decimal
from magnet_cli.options.regions import parse_roi
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction

    from magnet_cli.geometry import Box

COLUMNS = ("path", "mpp", "roi", "mask", "name")
LIST_SUFFIX = ".csv"
ADVICE = "Name them in the first line, with commas between them"
LARGEST_MPP = 10**6
"""The limit of `--slide-mpp`, whose error would not name the line."""


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """A line of a list."""

    source: str
    """Path or URL of the image."""
    place: Path
    """Path of the image below the folder of the list, or the name that its outputs get."""
    slide_mpp: Fraction | None = None
    """Size of a level-0 pixel, in um, or in m on maps. None where the file says it."""
    roi: Box | Path | None = None
    """Region that is segmented."""
    mask: Path | str | None = None
    """Path or URL of a raster that is not zero where the image is segmented."""

    @property
    def options(self) -> dict[str, object]:
        """Return the options of `segment` that hold for this image alone, by name."""
        given = {"slide_mpp": self.slide_mpp, "roi": self.roi, "mask": self.mask}
        return {name: value for name, value in given.items() if value is not None}


def is_list(text: str) -> bool:
    """Return whether an input is the name of a list."""
    return not is_url(text) and text.lower().endswith(LIST_SUFFIX)


def read_image_list(path: Path) -> list[ListedImage]:
    """Read a CSV file with the column `path` and optionally `mpp`, `roi`, `mask` and `name`.

    Paths are relative to the file's own folder.

    Raises:
        SourceError: The file cannot be read or lists nothing, a column is unknown or missing, or a value is wrong. The
            message says which line.
    """
    found = [_listed(row, line, path) for line, row in _rows(path)]
    if not found:
        raise SourceError(
            "the list names no image", file=path, advice="Give it a line for each image, below the names of its columns"
        )
    return found


def _rows(path: Path) -> list[tuple[int, Mapping[str, str]]]:
    """Return the lines that are not empty with their numbers, the header being line 1."""
    try:
        with regular_files.opened(path) as file:
            # Spreadsheets begin a CSV file of UTF-8 with a byte order mark, which would become part of the first
            # column's name; and the csv module itself has to see the ends of lines, as a quoted value may hold some.
            text = io.TextIOWrapper(file, newline="", encoding="utf-8-sig")
            reader = csv.reader(text, skipinitialspace=True, strict=True)
            names = [name.strip().lower() for name in next(reader, [])]
            _check_columns(names, path)
            rows: list[tuple[int, Mapping[str, str]]] = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(names):
                    raise SourceError(
                        f"line {reader.line_num} has {len(cells)} values, and the first line {len(names)} columns",
                        file=path,
                        advice="Put values that hold commas, such as a region, between quotation marks",
                    )
                rows.append((reader.line_num, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SourceError(
            f"the list cannot be read as a CSV file: {exc}", file=path, advice="Save the list again as CSV in UTF-8"
        ) from exc


def _check_columns(names: list[str], path: Path) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise SourceError(
            f"a list of images has the columns {', '.join(COLUMNS)}",
            value=", ".join(repr(name) for name in unknown),
            file=path,
            advice="Leave other columns out, or rename them",
        )
    if "path" not in names or len(set(names)) < len(names):
        raise SourceError(
            "a list of images has a column path, and no column twice",
            value=", ".join(names) or "an empty file",
            file=path,
            advice=ADVICE,
        )


def _listed(row: Mapping[str, str], line: int, path: Path) -> ListedImage:
    text = row["path"]
    if not text:
        raise SourceError(
            f"line {line} has nothing in the column path", file=path, advice="Fill the column in, or delete the line"
        )
    try:
        mpp = parse_decimal(row["mpp"], "mpp") if row.get("mpp") else None
        roi = parse_roi(row["roi"]) if row.get("roi") else None
    except UsageError as error:
        raise SourceError(f"line {line}: {error.rule}", value=error.value, file=path, advice=error.advice) from error
    if mpp is not None and not 0 < mpp < LARGEST_MPP:
        raise SourceError(
            f"line {line}: mpp is positive, and less than {LARGEST_MPP:,}",
            value=row["mpp"],
            file=path,
            advice="Write the micrometres of a pixel, such as 0.5, or leave the field empty",
        )
    source = text if is_url(text) else str(path.parent / text)
    roi = path.parent / roi if isinstance(roi, Path) else roi
    named = row.get("mask", "")
    mask: Path | str | None = named if is_url(named) else path.parent / named if named else None
    for what, place in (("image", None if is_url(text) else Path(source)), ("roi", roi), ("mask", mask)):
        if isinstance(place, Path) and not place.exists():
            raise SourceError(
                f"the {what} of line {line} does not exist",
                value=place,
                file=path,
                advice="Correct the path, which is relative to the folder of the list",
            )
    return ListedImage(
        source=source, place=_place(text, row.get("name", ""), line, path), slide_mpp=mpp, roi=roi, mask=mask
    )


def _place(text: str, name: str, line: int, path: Path) -> Path:
    """Return the path of an image's outputs below the output folder, with any suffix."""
    # A list that was made on Windows separates folders by backslashes.
    inside = PurePosixPath(name.replace("\\", "/"))
    if name:
        if inside.is_absolute() or ".." in inside.parts or not inside.name:
            raise SourceError(
                f"the name in line {line} is a name, or a path below the output folder",
                value=repr(name),
                file=path,
                advice="Write a name like case12 or site3/case12",
            )
        return Path(inside)
    if is_url(text):
        return Path(url_name(text))
    given = Path(text)
    return given if not given.is_absolute() and ".." not in given.parts else Path(given.name)
