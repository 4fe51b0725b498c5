"""The tables of docs/accuracy.md on `--budget`: mean IoU against the share of windows that are computed.

A line of budget.jsonl is a curve: one way of choosing windows on one scene, with a run for each share. The curves were
measured over fields that were kept, by a simulation of the program (budget-agreement.jsonl compares the two); the page
says where that code is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.accuracy.cells import lines_of, markdown, miou, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELD_OUT = ("tile4", "tile6", "tile7")
RETINAS = ("04_dr", "04_g", "04_h")
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
"""Shares of the windows of all stages, the coarsest stage included."""
DRAWS = (1, 2, 3)
"""Seeds of the random choices, whose mean counts."""
NAMES = {
    "random": "random",
    "uncertainty": "uncertainty (top-n, `--select uncertainty`)",
    "threshold": "one threshold on uncertainty",
    "change": "change (`--select change`)",
    "both": "change x uncertainty (`--select both`)",
    "ppn-paper": "PPN, the paper's labels",
    "ppn-gain": "PPN, gain labels",
    "oracle": "oracle, pixels",
    "oracle-balanced": "oracle, classes alike",
}
"""Labels of the selectors."""
SPREADS = {"": "even", "tapered-": "tapered", "coarse-": "coarse first"}
"""Prefix of a selector's name for each way of spreading a budget over the stages, and the label of that way."""
COMPARED = 0.2
"""Share of the windows at which tiles are compared."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run over a scene, with counts of the pixels that the truth labels."""

    windows: int
    """Number of computed windows in all stages together."""
    truth: tuple[int, ...]
    """Number of pixels of each true class."""
    mask: tuple[int, ...]
    """Number of pixels of each predicted class."""
    both: tuple[int, ...]
    """Number of pixels of each class where truth and mask agree."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The runs of one selector on one scene."""

    windows: int
    """Number of windows in all stages together, computed or not."""
    runs: tuple[Run, ...]

    def miou(self, share: float) -> float:
        """Return mean IoU in percent at a share of all windows, interpolated linearly between runs."""
        points = sorted((run.windows / self.windows, miou([run])) for run in self.runs)
        shares, scores = zip(*points, strict=True)
        return float(np.interp(share, shares, scores))


@cache
def curves() -> dict[tuple[str, str], Curve]:
    """Return all curves by scene and selector."""
    found = {}
    for line in lines_of("budget"):
        runs = tuple(
            Run(
                windows=sum(point["windows"]),
                truth=tuple(line["truth"]),
                mask=tuple(point["mask"]),
                both=tuple(point["both"]),
            )
            for point in line["points"]
        )
        found[line["scene"], line["selector"]] = Curve(windows=sum(line["windows"]), runs=runs)
    return found


def scored(scene: str, selector: str, share: float) -> float | None:
    """Return mean IoU in percent at a share of a scene's windows, or None where it was not measured."""
    names = [f"{selector}{seed}" for seed in DRAWS] if selector.endswith("random") else [selector]
    known = [curve for name in names if (curve := curves().get((scene, name))) is not None]
    return float(np.mean([curve.miou(share) for curve in known])) if len(known) == len(names) else None


def mean(scenes: Sequence[str], selector: str, share: float) -> float | None:
    """Return the mean of `scored` over scenes, or None unless every scene was measured."""
    found = [scored(scene, selector, share) for scene in scenes]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if len(known) == len(scenes) else None


def kept(scenes: Sequence[str], selector: str, share: float) -> float | None:
    """Return how much of the gain of all windows over the coarsest stage a selector keeps, in percent."""
    found, least, most = (mean(scenes, *point) for point in ((selector, share), ("uncertainty", 0), ("uncertainty", 1)))
    if found is None or least is None or most is None:
        return None
    return 100 * (found - least) / (most - least)


def share_table(scenes: Sequence[str]) -> Callable[[], str]:
    """Write mean IoU by the share of windows, averaged over scenes; as with `--budget`, coarse stages come first."""

    def make() -> str:
        shares = (0.0, *SHARES, 1.0)
        lines = []
        for selector, label in NAMES.items():
            row = [mean(scenes, f"coarse-{selector}", share) for share in shares]
            if None not in row:
                lines.append([label, *map(number, row)])
        return markdown(["", "coarsest", *(f"{share:.0%}" for share in shares[1:])], lines)

    return make


def tile_table() -> str:
    """Write mean IoU of each held-out tile at one share of the windows, by selector and by spread."""
    lines = []
    for label, selector, share in (
        ("no window after the coarsest", "uncertainty", 0.0),
        *(
            (f"{spread}: {label}", f"{prefix}{selector}", COMPARED)
            for prefix, spread in SPREADS.items()
            for selector, label in NAMES.items()
        ),
        ("every window", "uncertainty", 1.0),
    ):
        row = [scored(scene, selector, share) for scene in HELD_OUT]
        if None not in row:
            both = (mean(HELD_OUT, selector, share), kept(HELD_OUT, selector, share))
            lines.append([label, *map(number, (*row, *both))])
    return markdown(["", *HELD_OUT, "mean", "of the gain, %"], lines)


def agreement_table() -> str:
    """Write on which share of the pixels the simulation and the program agree."""
    lines = [[line["run"], number(100 * line["alike"], 3)] for line in lines_of("budget-agreement")]
    return markdown(["scene, budget, `--select`", "pixels alike, %"], lines)


BUDGET_TABLES: dict[str, Callable[[], str]] = {
    "budget-agreement": agreement_table,
    "budget": share_table(HELD_OUT),
    "budget-tiles": tile_table,
    "budget-fundus": share_table(RETINAS),
}
