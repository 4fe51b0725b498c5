"""The tables of docs/accuracy.md that are made from curves."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.accuracy.curve import Curve
from benchmarks.accuracy.curves import AGREEMENT, FUNDUS, SEEDS, SHARES
from benchmarks.accuracy.folds import HELD_OUT
from benchmarks.accuracy.markdown import markdown, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
"""Of the rows."""
SPREADS = {"": "even", "tapered-": "tapered", "coarse-": "coarse first"}
"""What the same with another spread of the budget begins with, and is called."""
JUDGED = (0.1, 0.2, 0.4)
KEPT = 0.2
"""Shares of the windows at which the aims are judged."""


def scored(scene: str, selector: str, share: float) -> float | None:
    """Mean IoU in percent of a selector where that share of a scene's windows is computed; None where not measured."""
    names = [f"{selector}{seed}" for seed in SEEDS] if selector.endswith("random") else [selector]
    curves = [curve for name in names if (curve := Curve.load(scene, name)) is not None]
    return float(np.mean([curve.miou(share) for curve in curves])) if len(curves) == len(names) else None


def mean(scenes: Sequence[str], selector: str, share: float) -> float | None:
    """The mean over scenes; None unless all have been measured."""
    found = [scored(scene, selector, share) for scene in scenes]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if len(known) == len(scenes) else None


def kept(scenes: Sequence[str], selector: str, share: float) -> float | None:
    """Percent of the gain of all windows over the coarsest alone that a selector keeps."""
    found = mean(scenes, selector, share)
    if found is None:
        return None
    least, most = mean(scenes, "uncertainty", 0), mean(scenes, "uncertainty", 1)
    return None if least is None or most is None else 100 * (found - least) / (most - least)


def closed(scenes: Sequence[str], selector: str, share: float, *, spread: str = "") -> float | None:
    """Percent of the distance from uncertainty to the oracle that a selector closes, both of a spread."""
    found, least, most = (mean(scenes, name, share) for name in (selector, f"{spread}uncertainty", f"{spread}oracle"))
    if found is None or least is None or most is None:
        return None
    return 100 * (found - least) / (most - least)


def curve_table(scenes: Sequence[str], spread: str = "") -> Callable[[], str]:
    """Mean IoU by the share of windows, mean over scenes."""

    def make() -> str:
        shares = [0.0, *(float(share) for share in SHARES), 1.0]
        lines = []
        for selector, label in NAMES.items():
            row = [mean(scenes, spread + selector, share) for share in shares]
            if None not in row:
                lines.append([label, *(number(value) for value in row)])
        return markdown(["", "coarsest", *(f"{share:.0%}" for share in shares[1:])], lines)

    return make


def fold_table() -> str:
    """Each held-out tile at the share of the first aim."""
    lines = []
    for label, selector, share in (
        ("no window after the coarsest", "uncertainty", 0.0),
        *(
            (f"{spread}: {label}", f"{begin}{selector}", KEPT)
            for begin, spread in SPREADS.items()
            for selector, label in NAMES.items()
        ),
        ("every window", "uncertainty", 1.0),
    ):
        row = [scored(scene, selector, share) for scene in HELD_OUT]
        if None not in row:
            both = (mean(HELD_OUT, selector, share), kept(HELD_OUT, selector, share))
            lines.append([label, *(number(value) for value in (*row, *both))])
    return markdown(["", *HELD_OUT, "mean", "of the gain, %"], lines)


def aim_table(spreads: Sequence[str], *, against: str) -> Callable[[], str]:
    """Gain that is kept, and distance from uncertainty to the oracle that is closed.

    Args:
        spreads: Of the rows.
        against: The spread of the uncertainty and the oracle that distances are between.
    """

    def make() -> str:
        lines = []
        for spread, selector in product(spreads, NAMES):
            gains = [kept(HELD_OUT, spread + selector, share) for share in JUDGED]
            steps = [closed(HELD_OUT, spread + selector, share, spread=against) for share in JUDGED]
            if None in gains or None in steps:
                continue
            average = float(np.mean([step for step in steps if step is not None]))
            label = f"{SPREADS[spread]}: {NAMES[selector]}"
            lines.append([label, *(number(value, 0) for value in (*gains, *steps, average))])
        heads = [f"{what} at {share:.0%}" for what in ("gain kept", "distance closed") for share in JUDGED]
        return markdown(["", *heads, "distance, mean"], lines)

    return make


def agreement_table() -> str:
    """How far simulated masks and the program's are the same."""
    found = json.loads(AGREEMENT.read_text(encoding="utf-8")) if AGREEMENT.exists() else {}
    lines = [[name, number(100 * share, 3)] for name, share in found.items()]
    return markdown(["scene, budget, `--select`", "pixels alike, %"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "curves-agreement": agreement_table,
    "curves": curve_table(HELD_OUT),
    "curves-tapered": curve_table(HELD_OUT, "tapered-"),
    "curves-coarse": curve_table(HELD_OUT, "coarse-"),
    "curves-folds": fold_table,
    "curves-aims": aim_table(tuple(SPREADS), against=""),
    "curves-aims-coarse": aim_table(("coarse-",), against="coarse-"),
    "curves-fundus": curve_table(FUNDUS),
    "curves-fundus-coarse": curve_table(FUNDUS, "coarse-"),
}
