"""Curves of accuracy against the share of windows that are computed: one small JSON file each, committed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.accuracy.cells import miou

RESULTS = Path(__file__).parents[1] / "results" / "selection"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run over a scene."""

    asked: float
    """The share of all windows that was asked for, or the threshold."""
    windows: tuple[int, ...]
    """That were computed, by stage."""
    truth: tuple[int, ...]
    """Labelled pixels by true class."""
    mask: tuple[int, ...]
    """Labelled pixels by predicted class."""
    both: tuple[int, ...]
    """Pixels where the two agree, by class."""
    labelled: int

    @property
    def miou(self) -> float:
        """Mean IoU of the scene in percent."""
        return miou([self])


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one way of choosing windows comes to on one scene."""

    scene: str
    selector: str
    backbone: str
    """First digits of the SHA-256 of the backbone's file."""
    scales: tuple[int, ...]
    """Window sides, coarsest first."""
    windows: tuple[int, ...]
    """Of each stage, computed or not."""
    points: tuple[Point, ...]
    more: dict[str, object] = field(default_factory=dict)

    def share(self, point: Point) -> float:
        """Of all windows of all stages, the coarsest counted."""
        return sum(point.windows) / sum(self.windows)

    def miou(self, share: float) -> float:
        """Mean IoU in percent where that share of all windows is computed, straight between the runs beside it."""
        shares = np.array([self.share(point) for point in self.points])
        order = np.argsort(shares, kind="stable")
        scores = np.array([point.miou for point in self.points])
        return float(np.interp(share, shares[order], scores[order]))

    @property
    def path(self) -> Path:
        """Where it is committed."""
        return RESULTS / self.scene / f"{self.selector}.json"

    def save(self) -> None:
        """Write it, a point a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = asdict(self)
        points = ",\n".join(f"    {json.dumps(point)}" for point in data.pop("points"))
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()]
        text = "{\n" + ",\n".join([*lines, f'  "points": [\n{points}\n  ]']) + "\n}\n"
        self.path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, scene: str, selector: str) -> Self | None:
        """The committed curve; None where it has not been measured."""
        path = RESULTS / scene / f"{selector}.json"
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        lists = ("windows", "truth", "mask", "both")
        points = [Point(**{**point, **{key: tuple(point[key]) for key in lists}}) for point in data.pop("points")]
        return cls(**{**data, "scales": tuple(data["scales"]), "windows": tuple(data["windows"])}, points=tuple(points))
