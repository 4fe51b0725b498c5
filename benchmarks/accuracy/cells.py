"""Rows of results: one JSON object a line and one file a table, committed, so that no table needs a second measurement.

A row is a `Cell`, one method on one scene. The tables of docs/accuracy.md are made from these files; a command that
measures a cell again replaces its line, and a new cell becomes the last line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Counts of the pixels near a border of the truth, one number for each radius."""

    radii: tuple[float, ...]
    """Largest distances from the border, in pixels."""
    near: tuple[int, ...]
    """Number of labelled pixels within each radius."""
    right: tuple[int, ...]
    """Number of those pixels whose class is right."""


class Counted(Protocol):
    """Counts of a mask against a truth, in pixels that the truth labels."""

    @property
    def truth(self) -> tuple[int, ...]:
        """Number of pixels of each true class."""

    @property
    def mask(self) -> tuple[int, ...]:
        """Number of pixels of each predicted class."""

    @property
    def both(self) -> tuple[int, ...]:
        """Number of pixels of each class where truth and mask agree."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The score and the cost of one method on one scene with one network."""

    row: str
    """The method's name in its table."""
    scene: str
    truth: tuple[int, ...]
    """Number of labelled pixels of each true class."""
    mask: tuple[int, ...]
    """Number of labelled pixels of each predicted class."""
    both: tuple[int, ...]
    """Number of labelled pixels of each class where truth and mask agree."""
    boundary: Boundary | None = None
    windows: int | None = None
    """Number of forward passes."""
    gmac: float | None = None
    """Multiplications of all forward passes on the scene, backbone and refiner, in units of 10^9."""
    megapixels: float | None = None
    seconds: float | None = None
    backbone: str = ""
    """First 12 digits of the SHA-256 of the weights file."""
    more: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the cell that a line of a file holds."""
        lists = {key: tuple(values[key]) for key in ("truth", "mask", "both")}
        near = values.get("boundary")
        boundary = near and Boundary(**{key: tuple(numbers) for key, numbers in near.items()})
        return cls(**{**values, **lists, "boundary": boundary})

    def line(self) -> str:
        """Return the cell as a line of a file, without the fields that have no value."""
        values = asdict(self).items()
        return json.dumps({key: value for key, value in values if value not in (None, "", {})}) + "\n"


def text_of(table: str) -> str:
    """Return the text of a table's file, which is empty where nothing has been measured."""
    path = RESULTS / f"{table}.jsonl"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def lines_of(table: str) -> list[dict[str, Any]]:
    """Return all rows of a table's file as JSON objects."""
    return [json.loads(line) for line in text_of(table).splitlines()]


def load_cells(table: str) -> dict[tuple[str, str], Cell]:
    """Return all cells of a table by row and scene, in the order of the file."""
    return {(cell.row, cell.scene): cell for cell in _cells_of(text_of(table))}


@lru_cache(maxsize=4)
def _cells_of(text: str) -> tuple[Cell, ...]:
    """Return the cells of a file's text. The tables of a page ask for the same file hundreds of times."""
    return tuple(Cell.of(json.loads(line)) for line in text.splitlines())


def save_cell(table: str, cell: Cell) -> None:
    """Replace the cell of the same row and scene, or add the cell as the last line."""
    cells = load_cells(table)
    cells[cell.row, cell.scene] = cell
    path = RESULTS / f"{table}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text("".join(one.line() for one in cells.values()), encoding="utf-8")
    # A measurement takes minutes: an interruption must not cut off the rows that are already there.
    beside.replace(path)


def row_cells(table: str, row: str, scenes: Iterable[str]) -> list[Cell] | None:
    """Return the cells of a row, one for each scene, or None unless every scene has been measured."""
    cells = load_cells(table)
    found = [cells.get((row, scene)) for scene in scenes]
    complete = [cell for cell in found if cell is not None]
    return complete if len(complete) == len(found) else None


def ious(cells: Iterable[Counted]) -> NDArray[np.float64]:
    """Return the IoU of each class (0 to 1) over the counts of all cells: NaN for a class that none of them has."""
    total = np.array([[cell.truth, cell.mask, cell.both] for cell in cells], np.float64).sum(axis=0)
    union = total[0] + total[1] - total[2]
    found: NDArray[np.float64] = np.divide(total[2], union, out=np.full(union.shape, np.nan), where=union > 0)
    return found


def miou(cells: Iterable[Counted]) -> float:
    """Return the mean IoU in percent over the classes that occur, with the counts of all cells added up."""
    return float(100 * np.nanmean(ious(cells)))


def mba(cells: Iterable[Cell]) -> float | None:
    """Return the mean boundary accuracy in percent over the pixels of all cells, or None where a cell has none."""
    found = [cell.boundary for cell in cells]
    if not found or any(one is None for one in found):
        return None
    near = np.array([one.near for one in found if one is not None], np.float64).sum(axis=0)
    right = np.array([one.right for one in found if one is not None], np.float64).sum(axis=0)
    return float(100 * np.mean(right / near))


def markdown(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown. All columns but the first are aligned as numbers."""
    heads = list(header)
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines)) + "\n"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number with a fixed count of decimals. None becomes a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"
