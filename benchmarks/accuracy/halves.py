"""Train on one half of the scenes and score on the other: refiners and GRNets over an encoder.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.halves --work WORK                           # all trainings, and all rows
    python -m benchmarks.accuracy.halves --work WORK --part grnet --half a     # one training, and its rows
    python -m benchmarks.accuracy.halves --work WORK --train                   # trainings alone
    python -m benchmarks.accuracy.halves --work WORK --score                   # rows of the bundles that are there

WORK/bundles/half-a is a backbone by the recipe of `aerial` that was trained on one half of the scenes, and half-b one
on the other half. A refiner of half-a is fitted to fields of the scenes of half a that half-b has made, so that it
learns from fields of unseen scenes, as those are on which it is scored. WORK/bundles/half-a-shared and half-a-paper are
half-a with a refiner, and half-a-grnet is a GRNet (grnet_lite0.toml). Each row, a method of a bundle on a scene of the
other half, becomes a line of benchmarks/results/main.jsonl. Every training goes on where it was interrupted; a finished
one, and a row that was measured with the same weights, are not repeated. One process may train beside another that
scores.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy import grnets
from benchmarks.accuracy.folds import REFINER_CONFIG, WEIGHTS, fitted_to_fields, replaced
from benchmarks.accuracy.left_out_tables import HALVES, SEEDS, left_out_row
from benchmarks.accuracy.rows import BACKBONE as BACKBONE_FILE
from benchmarks.accuracy.rows import Place, Row, digest, measured
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.grnet_training import train_grnet
from magnet_cli.train.refiner_training import train_refiner

if TYPE_CHECKING:
    from collections.abc import Mapping

SCENES = {"a": ("tile1", "tile2", "tile3", "tile5"), "b": ("tile4", "tile6", "tile7")}
"""The scenes of both halves: tile 5, most of which is water, is in one, and tile 7, the largest, in the other."""
OTHER = {"a": "b", "b": "a"}
ITERATIONS = 500
"""Iterations of a backbone: half of the scenes need fewer than the six of `aerial`, whose recipe has 800."""
PAPER_ITERATIONS = 100
"""Iterations of each of the paper's three refiners, which have 43 times the arithmetic of the shared one."""
BACKBONE, SHARED, PAPER, GRNET = "backbone", "shared", "paper", "grnet"
PARTS = (BACKBONE, SHARED, PAPER, GRNET)
"""What is trained: backbones, the refiner of weights/refiner.toml, the paper's one for each scale, and GRNets."""
SEED = SEEDS[0]
GRNET_CONFIG = Path(__file__).with_name("grnet_lite0.toml")
ROWS: dict[str, Mapping[str, Row]] = {
    BACKBONE: {
        "downsample": Row(options={"method": "downsample"}),
        "patch": Row(options={"method": "patch"}),
        "patch-416": Row(options={"method": "patch", "scales": "416"}),
        "geometric-2048-416": Row(options={"merge": "geometric", "scales": "2048,416"}),
        "magnet": Row(options={"merge": "mean"}),
        "geometric": Row(options={"merge": "geometric"}),
    },
    SHARED: {"refiner-shared": Row(options={"merge": "refiner"})},
    PAPER: {"refiner-paper": Row(options={"merge": "refiner"})},
    GRNET: {
        "grnet": Row(options={"method": "grnet"}),
        "grnet-every": Row(options={"method": "grnet", "patches": "all"}),
        "grnet-global": Row(options={"method": "downsample"}),
        "grnet-local": Row(options={"method": "grnet-local"}),
    },
}
"""Rows by what is trained for them."""


@dataclass(frozen=True, kw_only=True)
class Half(Place):
    """The files of a scene of one half, and a bundle that was trained on the other half."""

    trained_on: str
    """The half that the bundle was trained on, `a` or `b`."""
    part: str
    """One of `PARTS`."""

    @property
    def bundle(self) -> Path:
        """The folder of the bundle."""
        return bundle_of(self.work, self.trained_on, self.part)

    @property
    def weights(self) -> str:
        """The first 12 digits of the SHA-256 of the weights that were trained for the part."""
        return digest(next(iter(sorted(self.bundle.glob("refiner*.safetensors"))), self.bundle / BACKBONE_FILE))

    def measure(self) -> None:
        """Measure the rows of the part, unless they were measured with the same weights."""
        for method, row in ROWS[self.part].items():
            name = left_out_row(SEED, method, HALVES)
            if self.part == GRNET:
                self.keep(name, partial(grnets.measured, self, name, row.options))
            else:
                self.keep(name, partial(measured, self, name, row))


def bundle_of(work: Path, half: str, part: str) -> Path:
    """Return the folder of a bundle, such as `half-a` or `half-a-shared`."""
    return work / "bundles" / (f"half-{half}" if part == BACKBONE else f"half-{half}-{part}")


def config_of(work: Path, half: str, part: str) -> TrainConfig:
    """Return the configuration by which a part is trained on the scenes of a half."""
    scenes = str(list(SCENES[half])).replace("'", '"')
    if part == BACKBONE:
        path = WEIGHTS / "aerial" / "train.toml"
        text = replaced(path.read_text(encoding="utf-8"), "iterations", str(ITERATIONS))
        return TrainConfig.parse(replaced(text, "scenes", scenes), folder=path.parent)
    if part == GRNET:
        text = replaced(GRNET_CONFIG.read_text(encoding="utf-8"), "scenes", scenes)
        return TrainConfig.parse(text, folder=GRNET_CONFIG.parent)
    text = REFINER_CONFIG.read_text(encoding="utf-8")
    # The backbones keep these weights of classes out of their probabilities, and so must what refines them.
    text = replaced(text, "balance", "0.5\nlogit_adjustment = 0.5")
    if part == PAPER:
        text = replaced(replaced(text, "architecture", '"magnet"'), "options", "{ bn0 = true }")
        # Refiners of the published program never see what refiners made.
        text = replaced(replaced(text, "rounds", "0\nper_scale = true"), "iterations", str(PAPER_ITERATIONS))
    return fitted_to_fields(text, scenes=SCENES[half], folds=[(SCENES[half], bundle_of(work, OTHER[half], BACKBONE))])


def is_trained(work: Path, half: str, part: str) -> bool:
    """Return whether the training of a part has finished."""
    return (bundle_of(work, half, part) / DESCRIPTION).exists()


def train(work: Path, half: str, part: str) -> None:
    """Train a part on the scenes of a half, or finish an interrupted training. A refiner needs both backbones."""
    data, folder = work / "dubai" / "scenes.csv", bundle_of(work, half, part)
    if part == BACKBONE:
        train_backbone(data, folder, config_of(work, half, part), progress=print)
    elif part == GRNET:
        train_grnet(data, folder, config_of(work, half, part), progress=print)
    else:
        # The folder gets its name when it has its refiner, so that half a training is not taken for a whole one.
        beside = folder.with_name(f"{folder.name}.begun")
        if not (beside / DESCRIPTION).exists():
            shutil.copytree(bundle_of(work, half, BACKBONE), beside, dirs_exist_ok=True)
        train_refiner(data, beside, config_of(work, half, part), progress=print)
        beside.rename(folder)


def main() -> None:
    """Train what is missing, and measure what has not been measured with these weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--half", action="append", choices=SCENES, help="the half that is trained on")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train", action="store_true", help="train, and measure nothing")
    only.add_argument("--score", action="store_true", help="measure finished bundles, and train nothing")
    args = parser.parse_args()
    for part in args.part or PARTS:
        halves = args.half or SCENES
        for half in halves:
            if not args.score and not is_trained(args.work, half, part):
                train(args.work, half, part)
        for half in halves:
            if not args.train and is_trained(args.work, half, part):
                for scene in SCENES[OTHER[half]]:
                    Half(work=args.work, name=scene, trained_on=half, part=part).measure()


if __name__ == "__main__":
    main()
