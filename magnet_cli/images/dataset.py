"""Labelled images that a CSV file lists."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, cast

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.system import regular_files
from magnet_cli.system.addresses import is_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COLUMNS = ("name", "image", "label", "roi", "mask", "corrections")
NEEDED = ("image", "label")
FILES = ("image", "label", "roi", "mask", "corrections")
LIKENESS = 0.8
"""Columns whose names are at least so similar, from 0 to 1 (`difflib`), are taken for misspelt."""
UNFIT = frozenset('/\\:*?"<>|\0')
"""Characters that a file name may not contain on some system. Files are named after samples."""


@dataclass(frozen=True, kw_only=True)
class DatasetSample:
    """An image, its true classes, and where they count."""

    name: str
    """Name of the sample, unique and fit for a file name."""
    image: Path
    label: Path
    """A raster of class indices, or a GeoJSON file of polygons with classes, outside of which nothing is labelled."""
    roi: Path | None = None
    """A raster of the image's size; only pixels where its first band is not zero count."""
    mask: Path | None = None
    """Class indices that something else found in the image."""
    corrections: Path | None = None
    """A GeoJSON file of polygons whose classes count in place of those of the label."""


def read_dataset(path: Path, names: Sequence[str] = ()) -> tuple[DatasetSample, ...]:
    """Read the samples of a CSV file.

    It has the columns `image` and `label`, and optionally `name`, `roi`, `mask` and `corrections`, in capital or small
    letters.

    Paths are relative to the file's own folder; other columns are left alone, unless their names look misspelt. The
    name is the image's without suffix where it is not given.

    Args:
        path: The CSV file.
        names: Names of the wanted samples in the wanted order, so that one file serves many splits; all samples where
            no name is given. The files of other samples may be missing.

    Raises:
        SourceError: The file cannot be read or lists nothing, a column or a value is missing, a name is used twice or
            cannot be that of a file, or a file is missing; the message says which line.
        UsageError: There is no sample of a name.
    """
    samples = {line: _sample(row, line, path) for line, row in _rows(path)}
    if not samples:
        raise SourceError(
            "lists no image", file=path, advice="Give it a line for each image, below the names of its columns"
        )
    # Files are named after samples, and Windows and macOS take names that differ in capital letters for one.
    name, times = Counter(sample.name.casefold() for sample in samples.values()).most_common(1)[0]
    if times > 1:
        raise SourceError(
            "each image needs its own name", value=f"{name}, {times} times", file=path, advice="Add a column name"
        )
    known = {sample.name: line for line, sample in samples.items()}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            "does not list every name", value=", ".join(unknown), file=path, advice=f"Choose from {', '.join(known)}"
        )
    wanted = [known[name] for name in names] or list(samples)
    for line in wanted:
        _check(samples[line], line, path)
    return tuple(samples[line] for line in wanted)


def _rows(path: Path) -> list[tuple[int, Mapping[str, str]]]:
    """Return the lines that are not empty with their numbers, the header being line 1."""
    try:
        with regular_files.opened(path) as file:
            # Spreadsheet programs begin a CSV file in UTF-8 with a byte order mark, which would become part of the
            # first name.
            text = io.TextIOWrapper(file, newline="", encoding="utf-8-sig")
            reader = csv.DictReader(text, skipinitialspace=True)
            found = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = found
            missing = [name for name in NEEDED if name not in found]
            if missing:
                rule = f"needs the columns {' and '.join(NEEDED)}, and may have name, roi, mask and corrections"
                advice = "Name them in the first line, with commas between them"
                raise SourceError(rule, value=", ".join(found) or "an empty file", file=path, advice=advice)
            _refuse_doubtful(found, path)
            rows: list[tuple[int, Mapping[str, str]]] = []
            for row in reader:
                # The values that have no column are listed under the key None.
                if any(value.strip() for value in cast("Sequence[str]", row.get(None, ()))):
                    raise SourceError(
                        f"line {reader.line_num} has more values than the first line has columns",
                        file=path,
                        advice="Put values that hold commas, such as some paths, between quotation marks",
                    )
                if any(row.values()):
                    rows.append((reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS}))
            return rows
    except OSError as exc:
        raise SourceError(
            "the list cannot be read", value=exc.strerror or exc, file=path, advice="Check the path"
        ) from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise SourceError(
            f"cannot be read as a CSV file: {exc}", file=path, advice="Save it as CSV with commas, in UTF-8"
        ) from exc


def _refuse_doubtful(found: Sequence[str], path: Path) -> None:
    """Refuse a column that occurs twice, and one whose name is almost that of an optional column that is not there.

    Raises:
        SourceError: There is such a column. It would be left out, and pixels would count that should not.
    """
    twice = [name for name in COLUMNS if found.count(name) > 1]
    if twice:
        raise SourceError("a column occurs twice", value=twice[0], file=path, advice="Leave one of the two out")
    absent = [name for name in COLUMNS if name not in found]
    for name in found:
        near = [] if name in COLUMNS else get_close_matches(name, absent, 1, cutoff=LIKENESS)
        if near:
            raise SourceError(
                f"a column is named almost like the column {near[0]}, and would be left out",
                value=repr(name),
                file=path,
                advice=f"Name it {near[0]}, or give a column for something else another name",
            )


def _sample(row: Mapping[str, str], line: int, path: Path) -> DatasetSample:
    empty = [name for name in NEEDED if not row[name]]
    if empty:
        raise SourceError(
            f"line {line} has nothing in the column {empty[0]}",
            file=path,
            advice="Fill the column in, or delete the line",
        )
    for name in FILES:
        if is_address(row[name]):
            raise SourceError(
                f"the {name} of line {line} is an address, and a list of labelled images names files",
                value=row[name],
                file=path,
                advice="Download the file, and write its path, which is relative to the folder of the list",
            )
    places = {name: path.parent / row[name] for name in FILES if row[name]}
    name = row["name"] or places["image"].stem
    if UNFIT & set(name) or name.strip(".") != name:
        raise SourceError(
            f"the name in line {line} cannot be the name of a file",
            value=repr(name),
            file=path,
            advice="Give the row another name",
        )
    return DatasetSample(
        name=name,
        image=places["image"],
        label=places["label"],
        roi=places.get("roi"),
        mask=places.get("mask"),
        corrections=places.get("corrections"),
    )


def _check(sample: DatasetSample, line: int, path: Path) -> None:
    for name in FILES:
        place = getattr(sample, name)
        if place is not None and not place.exists():
            raise SourceError(
                f"the {name} of line {line} {'are' if name == 'corrections' else 'is'} missing",
                value=place,
                file=path,
                advice="Correct the path, which is relative to the folder of the CSV file",
            )
