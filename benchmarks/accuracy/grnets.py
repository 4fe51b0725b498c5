"""Measure GRNets: the paper's Table 1 (how many cells) and Table 2 (which of the parts).

    python -m benchmarks.accuracy.grnets --work WORK --scene tile7

The scenes in WORK are made by benchmarks.accuracy.scenes. Each network is trained without the scene (grnet.toml) into
WORK/bundles, and each way of running it is measured through `magnet_cli.segment`. A training goes on where it was
interrupted, and a finished one is not repeated. Each row becomes a line of benchmarks/results/grnet.jsonl.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy.cells import Cell, load_cells, save_cell
from benchmarks.accuracy.folds import HELD_OUT, TILES, named, replaced, without
from benchmarks.accuracy.rows import Place, megapixels, run_report, scored, windows_run
from magnet_cli import SegmentOptions
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.networks import load_networks
from magnet_cli.options.rules import ALL
from magnet_cli.options.segment import OF_GRNETS
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.grnet_training import train_grnet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magnet_cli.models.bundle import Bundle

CONFIG = Path(__file__).with_name("grnet.toml")
TABLE = "grnet"
CELLS = 4
"""Number of cells along each side of an image, as in the configuration."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A training, given by its changes of the configuration."""

    changes: Mapping[str, str] = field(default_factory=dict)
    is_backbone: bool = False
    """Whether only a backbone is trained, without selector and local branch."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way of running a model."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `SegmentOptions`."""


MODELS = {
    "cells4": Model(changes={"cells": "2"}),
    "cells16": Model(),
    "cells64": Model(changes={"cells": "8"}),
    "literal": Model(changes={"fusion": '"literal"'}),
    "every": Model(changes={"variant": '"all"', "iterations": "900"}),
    "global": Model(changes={"iterations": "900"}, is_backbone=True),
    "local": Model(
        changes={"scales": "[{ width = 128, height = 128 }]", "iterations": "600", "batch": "16"}, is_backbone=True
    ),
}
"""Trainings by name. Each part gets as many iterations as in a GRNet.

The global branch has 900, and the local one 300 of four images. The selected half of the cells of those images is as
many windows as 600 iterations of 16.
"""

GRNET = {"method": "grnet"}
ROWS = {
    "cells4": Row(model="cells4", options=GRNET),
    "cells16": Row(model="cells16", options=GRNET),
    "cells64": Row(model="cells64", options=GRNET),
    "literal": Row(model="literal", options=GRNET),
    "local-only": Row(model="local", options={"method": "patch"}),
    "global-only": Row(model="global", options={"method": "downsample"}),
    "every": Row(model="every", options={**GRNET, "patches": ALL}),
    "cells16-every": Row(model="cells16", options={**GRNET, "patches": ALL}),
    "cells16-global": Row(model="cells16", options={"method": "downsample"}),
    "cells16-local": Row(model="cells16", options={"method": "grnet-local"}),
}


def grnet_config(model: Model, scene: str) -> TrainConfig:
    """Return the configuration grnet.toml with a model's changes, without a scene."""
    text = replaced(
        CONFIG.read_text(encoding="utf-8"), "scenes", str([t for t in TILES if t != scene]).replace("'", '"')
    )
    for key, value in model.changes.items():
        text = replaced(text, key, value)
    # Keys that have no effect are refused.
    if model.is_backbone:
        text = re.sub(r"^\[grnet\]\n.*?(?=^\[)", "", text, flags=re.MULTILINE | re.DOTALL)
    elif "variant" in model.changes:
        text = without(text, "selecting")
    return TrainConfig.parse(text)


@dataclass(frozen=True, kw_only=True)
class GRNetPlace(Place):
    """The files of a scene, and the bundle of a model that was trained without it."""

    model: str
    """One of `MODELS`."""

    @property
    def bundle(self) -> Path:
        """The folder of the bundle."""
        return self.work / "bundles" / f"{named((self.name,))}-grnet-{self.model}"

    def train(self) -> None:
        """Train the bundle, or finish a training that was interrupted."""
        train = train_backbone if MODELS[self.model].is_backbone else train_grnet
        train(
            self.work / "dubai" / "scenes.csv", self.bundle, grnet_config(MODELS[self.model], self.name), progress=print
        )


def counted(look: Any) -> float:
    """Return the multiplications of a call, in units of 10^9."""
    with FlopCounterMode(display=False) as counter:
        look()
    return float(counter.get_total_flops() / 2e9)


def macs(bundle: Bundle) -> tuple[float, float, float]:
    """Return the GMAC of the global branch, of the selector (0 without one), and of local branch with fusion."""
    networks = load_networks(bundle, device="cpu", precision="float32")
    size = bundle.input.size
    patch = torch.zeros((1, len(bundle.input.bands), size.height, size.width))
    first = counted(lambda: networks.predict(patch, bundle.scales[0]))
    if bundle.local is None:
        return first, 0.0, 0.0
    scores = torch.zeros((1, len(bundle.classes), size.height, size.width))
    selector = counted(lambda: networks.selected(patch)) if bundle.selector is not None else 0.0
    local = counted(lambda: networks.cell_scores(patch, scores.softmax(dim=1)))
    part = scores if networks.fusion == "detail" else scores[..., : size.height // CELLS, : size.width // CELLS]
    return first, selector, local + counted(lambda: networks.aggregate(part, part))


def cost(bundle: Bundle, report: Mapping[str, Any]) -> float:
    """Return the GMAC of a run from its report."""
    first, selector, local = macs(bundle)
    windows, method = windows_run(report), report["options"]["method"]
    if method == "grnet-local":
        return sum(windows) * local
    asked = selector if method == "grnet" and report["options"]["patches"] != "all" else 0.0
    return windows[0] * (first + asked) + sum(windows[1:]) * local


def looked_at(report: Mapping[str, Any]) -> float | None:
    """Return the share of the cells that were computed, or None where the method has no cells."""
    method, last = report["options"]["method"], report["passes"][-1]["stages"][-1]
    return round(last["windows_run"] / last["windows"], 4) if method in OF_GRNETS else None


def measured(place: Place, name: str, options: Mapping[str, Any]) -> Cell:
    """Measure one row on one scene.

    Args:
        place: The files of the scene, and the bundle.
        name: The name of the row.
        options: Arguments of `SegmentOptions`.
    """
    mask = place.mask(f"grnet-{name}")
    report = run_report(place.image, mask, SegmentOptions(weights=str(place.bundle), overwrite=True, **options))
    windows = windows_run(report)
    return Cell(
        row=name,
        scene=place.name,
        **scored(mask, place.truth),
        windows=sum(windows),
        gmac=round(cost(load_bundle(str(place.bundle)), report), 3),
        megapixels=megapixels(report),
        backbone=place.weights,
        more={"windows_by_stage": windows, "looked_at": looked_at(report)},
    )


def main() -> None:
    """Measure the rows that have not been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--scene", action="append", choices=HELD_OUT)
    parser.add_argument("--row", action="append", choices=list(ROWS))
    args = parser.parse_args()
    for scene in args.scene or ("tile7",):
        for name in args.row or ROWS:
            if (name, scene) not in load_cells(TABLE):
                place = GRNetPlace(work=args.work, name=scene, model=ROWS[name].model)
                if not (place.bundle / DESCRIPTION).exists():
                    place.train()
                save_cell(TABLE, measured(place, name, ROWS[name].options))
                print(scene, name, flush=True)


if __name__ == "__main__":
    main()
