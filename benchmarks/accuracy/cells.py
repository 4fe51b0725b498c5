"""Cells of the tables: one small JSON file each, committed, so that a table is made without measuring again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

RESULTS = Path(__file__).parents[1] / "results" / "accuracy"
REFINED = RESULTS.with_name("refined")
IGNORE = 255


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Right pixels near a border of the truth, within each radius."""

    radii: tuple[float, ...]
    near: tuple[int, ...]
    right: tuple[int, ...]


class Counted(Protocol):
    """Counts of a mask against a truth."""

    @property
    def truth(self) -> tuple[int, ...]:
        """Labelled pixels by true class."""

    @property
    def mask(self) -> tuple[int, ...]:
        """Labelled pixels by predicted class."""

    @property
    def both(self) -> tuple[int, ...]:
        """Pixels where the two agree, by class."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one method scored on one scene with one backbone."""

    table: str
    """Which table or figure it belongs to: `main`, `scales`, `points`, ..."""
    row: str
    scene: str
    truth: tuple[int, ...]
    """Labelled pixels by true class."""
    mask: tuple[int, ...]
    """Labelled pixels by predicted class."""
    both: tuple[int, ...]
    """Pixels where the two agree, by class."""
    labelled: int
    boundary: Boundary | None = None
    """Radii of 3 to 13.65 pixels."""
    windows: int | None = None
    gmac: float | None = None
    """Of all windows of the scene, backbone and refiner."""
    megapixels: float | None = None
    seconds: float | None = None
    backbone: str = ""
    """First 12 digits of the backbone file's SHA-256."""
    more: dict[str, object] = field(default_factory=dict)

    def save(self, results: Path | None = None) -> None:
        """Write it into a folder of results, numbers in one line each."""
        path = (results or RESULTS) / self.table / self.scene / f"{self.row}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(self).items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, table: str, scene: str, row: str, results: Path | None = None) -> Self | None:
        """The committed cell; None where it has not been measured."""
        path = (results or RESULTS) / table / scene / f"{row}.json"
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["boundary"] is not None:
            data["boundary"] = Boundary(**{key: tuple(value) for key, value in data["boundary"].items()})
        lists = {key: tuple(data[key]) for key in ("truth", "mask", "both")}
        return cls(**{**data, **lists})


def count(mask: NDArray[np.uint8], truth: NDArray[np.uint8], *, classes: int) -> dict[str, tuple[int, ...] | int]:
    """Counts of a mask against a truth of its shape, as `Cell` takes them; pixels of truth 255 are left out."""
    known = truth != IGNORE
    truth, mask = truth[known], mask[known]
    return {
        "truth": tuple(np.bincount(truth, minlength=classes)[:classes].tolist()),
        "mask": tuple(np.bincount(mask, minlength=256)[:classes].tolist()),
        "both": tuple(np.bincount(truth[truth == mask], minlength=classes)[:classes].tolist()),
        "labelled": int(truth.size),
    }


def ious(cells: Iterable[Counted]) -> NDArray[np.float64]:
    """IoU of each class with the counts of all cells added up; NaN for a class that none of them has."""
    total = np.array([[cell.truth, cell.mask, cell.both] for cell in cells], np.float64).sum(axis=0)
    union = total[0] + total[1] - total[2]
    found: NDArray[np.float64] = np.divide(total[2], union, out=np.full(union.shape, np.nan), where=union > 0)
    return found


def miou(cells: Iterable[Counted]) -> float:
    """Mean IoU in percent over the classes that occur, counts pooled."""
    return float(100 * np.nanmean(ious(cells)))


def mba(cells: Iterable[Cell]) -> float | None:
    """Mean boundary accuracy in percent, boundary pixels pooled; None where a cell has none."""
    found = [cell.boundary for cell in cells]
    if not found or any(one is None for one in found):
        return None
    near = np.array([one.near for one in found if one is not None], np.float64).sum(axis=0)
    right = np.array([one.right for one in found if one is not None], np.float64).sum(axis=0)
    return float(100 * np.mean(right / near))
