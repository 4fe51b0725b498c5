"""Train the recipe of `aerial` without two scenes, with three seeds, and score its methods on those scenes.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.pretrained --work WORK

WORK/bundles/lite0-seed1, -seed2 and -seed3 are trained on five scenes; tiles 5 and 7 are held out. Each row, a method
of one of the networks on one scene, becomes a line of benchmarks/results/main.jsonl. Every training goes on where it
was interrupted; a finished one, and a row that was measured with the same weights, are not repeated.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.accuracy.folds import WEIGHTS, replaced
from benchmarks.accuracy.rows import Place, Row, measured
from benchmarks.accuracy.segmented_tables import PRETRAINED, PRETRAINED_HELD_OUT, SEEDS, pretrained_row
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig

ROWS = {
    "downsample": Row(options={"method": "downsample"}),
    "patch": Row(options={"method": "patch"}),
    "magnet-fast": Row(options={"method": "magnet-fast"}),
    "magnet": Row(options={"merge": "mean"}),
    "geometric": Row(options={"merge": "geometric"}),
    "geometric-2048-512-256": Row(options={"merge": "geometric", "scales": "2048,512,256"}),
    "geometric-1728-432": Row(options={"merge": "geometric", "scales": "1728,432"}),
    "geometric-2048-416": Row(options={"merge": "geometric", "scales": "2048,416"}),
}
TRAINING = ("tile1", "tile2", "tile3", "tile4", "tile6")
CONFIG = WEIGHTS / "aerial" / "train.toml"


@dataclass(frozen=True, kw_only=True)
class HeldOutPlace(Place):
    """The files of a held-out scene, and a bundle that was trained without it."""

    seed: int

    @property
    def bundle(self) -> Path:
        """Return the folder of the bundle of this seed."""
        return self.work / "bundles" / f"lite0-seed{self.seed}"


def config_of(seed: int) -> TrainConfig:
    """Return the configuration of `aerial` without the held-out scenes."""
    text = replaced(CONFIG.read_text(encoding="utf-8"), "scenes", str(list(TRAINING)).replace("'", '"'))
    return TrainConfig.parse(replaced(text, "seed", str(seed)), folder=CONFIG.parent)


def main() -> None:
    """Train what is missing, and measure what has not been measured with these weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--seed", action="append", type=int, choices=SEEDS)
    parser.add_argument("--scene", action="append", choices=PRETRAINED_HELD_OUT)
    parser.add_argument("--row", action="append", choices=PRETRAINED)
    args = parser.parse_args()
    for seed in args.seed or SEEDS:
        folder = args.work / "bundles" / f"lite0-seed{seed}"
        if not (folder / DESCRIPTION).exists():
            train_backbone(args.work / "dubai" / "scenes.csv", folder, config_of(seed), progress=print)
        for scene in args.scene or PRETRAINED_HELD_OUT:
            place = HeldOutPlace(work=args.work, name=scene, seed=seed)
            for method in args.row or PRETRAINED:
                name = pretrained_row(seed, method)
                place.keep(name, partial(measured, place, name, ROWS[method]))


if __name__ == "__main__":
    main()
