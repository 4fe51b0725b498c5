"""CascadePSP's Table 1: which outputs and which losses a cascade needs, for masks of buildings.

    python -m benchmarks.accuracy.structure --work WORK --masks MASKS.csv

MASKS.csv is what `weights/roofs-cascade/train.toml` was trained on. Every row is a training of its own, of the same
network from the same seed on the same batches, for the buildings of all tiles but tile 7; it goes on where it was
interrupted. Scored are the middle 2048 x 2048 pixels of tile 7, mask by downsample, one look at each square of 512
pixels. A cell is one file in benchmarks/results/refined/structure.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import nn

from benchmarks.accuracy.cells import REFINED, Cell
from benchmarks.accuracy.folds import replaced
from benchmarks.accuracy.inputs import Input
from benchmarks.accuracy.judge import Judge, save_cell
from benchmarks.accuracy.parts import Part, only
from magnet_cli.geometry import Box, Size
from magnet_cli.models.architectures.cascade_base import Cascade, CascadeOutputs
from magnet_cli.models.registry import build_cascade
from magnet_cli.train.cascade_losses import UNKNOWN, LevelObjective, cross_entropy, distances, gradients, mean
from magnet_cli.train.cascade_training import CascadeRecipe, described, understood
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.loop import Files, Trainer, seeded
from magnet_cli.train.scene_data import load_scenes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

CONFIG = Path(__file__).parents[2] / "weights" / "roofs-cascade" / "train.toml"
CHANGES = {"iterations": "400", "warmup": "0.1"}
TABLE = "structure"
SQUARE = 512
BUILDING = 0

Strides = Literal["1", "8-1", "8-4-1"]
Kind = Literal["ce", "distances", "both", "levels", "levels-ce"]


class Outputs(nn.Module):
    """A cascade with some of its outputs ("With OS1 only", "With OS8 & OS1 only").

    Args:
        cascade: All of it.
        strides: The outputs; each is a pass.
    """

    def __init__(self, cascade: Cascade, strides: Strides) -> None:
        super().__init__()
        self.cascade, self.strides = cascade, strides

    def forward(self, images: Tensor, masks: Tensor) -> CascadeOutputs:
        """See `Cascade`; a stride that is left out has no outputs."""
        if self.strides == "8-4-1":
            return cast("CascadeOutputs", self.cascade(images, masks))
        if self.strides == "1":
            return CascadeOutputs(s8=(), s4=(), s1=self.cascade.last(images, masks, masks, masks)[-1])
        s8 = self.cascade.first(images, masks, masks, masks)
        last8, _, s1 = self.cascade.last(images, masks, s8.tanh(), s8.tanh())
        return CascadeOutputs(s8=(s8, last8), s4=(), s1=s1)


@dataclass(frozen=True, kw_only=True)
class Losses(LevelObjective):
    """`levels`: the paper's, by stride; `levels-ce` with cross-entropy at stride 1 too; or one kind for all strides."""

    kind: Kind = "levels"

    def total(self, levels: CascadeOutputs, labels: Tensor) -> Tensor:
        """See `LevelObjective`."""
        if self.kind.startswith("levels") and levels.s8 and levels.s4:
            return super().total(levels, labels)
        truth, known = (labels == 1).float().unsqueeze(1), (labels != UNKNOWN).unsqueeze(1)

        def loss(logits: Tensor, *, finest: bool) -> Tensor:
            apart = cross_entropy(logits, truth, known)
            near = distances(logits.sigmoid(), truth, known)
            if self.kind == "ce":
                return apart
            if self.kind == "distances":
                return near
            if self.kind == "both":
                return (apart + near) / 2
            edges = self.gradient * gradients(logits.sigmoid(), truth, known) if finest else 0.0
            return near + edges + self.finest * apart if finest else apart

        found = [mean([loss(one.float(), finest=False) for one in some]) for some in (levels.s8, levels.s4) if some]
        return torch.stack([*found, loss(levels.s1.float(), finest=True)]).sum()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training."""

    strides: Strides = "8-4-1"
    kind: Kind = "levels"


ROWS: Mapping[str, Row] = {
    "os1": Row(strides="1"),
    "os8-os1": Row(strides="8-1"),
    "paper": Row(),
    "ce": Row(kind="ce"),
    "distances": Row(kind="distances"),
    "both": Row(kind="both"),
    "bundle": Row(kind="levels-ce"),
}


def trained(row: str, *, work: Path, masks: Path) -> nn.Module:
    """The network of a row."""
    text = CONFIG.read_text(encoding="utf-8")
    for key, value in CHANGES.items():
        text = replaced(text, key, value)
    config = TrainConfig.parse(text)
    folder = (work / "structure" / row).resolve()
    recipe = CascadeRecipe(bundle=understood(described(config), folder=folder), config=config)
    scenes = load_scenes(masks, config.data)
    chosen, loop = ROWS[row], config.loop
    seeded(loop.seed, threads=loop.threads)
    network = Outputs(build_cascade(config.network.architecture, options=config.network.options), chosen.strides)
    gradient, finest = (5.0, 0.0) if chosen.kind != "levels-ce" else (config.cascade.gradient, config.cascade.finest)
    trainer = Trainer(
        network,
        batches=recipe.sampler(scenes),
        config=loop,
        objective=Losses(gradient=gradient, finest=finest, kind=chosen.kind),
        files=Files(folder=folder),
        validate=None,
        about={**recipe.about(scenes, ()), "row": {"strides": chosen.strides, "kind": chosen.kind}},
    )
    return trainer.fit(progress=print).eval()


@torch.no_grad()
def sharpened(network: nn.Module, pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask of 0 and 1 after one look at each square: `(rows, columns)`."""
    spec = understood(described(TrainConfig.parse(CONFIG.read_text(encoding="utf-8"))), folder=CONFIG.parent).input
    found = np.zeros_like(mask)
    whole = Box.whole(Size(width=mask.shape[1], height=mask.shape[0]))
    average, deviation = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    for y in range(0, whole.height, SQUARE):
        for x in range(0, whole.width, SQUARE):
            part = Box(x=x, y=y, width=SQUARE, height=SQUARE).intersection(whole).slices
            image = torch.from_numpy(pixels[part]).permute(2, 0, 1).float() / 255
            own = torch.from_numpy(mask[part]).float()[None, None] * 2 - 1
            found[part] = (network(((image - average) / deviation)[None], own).s1[0, 0] > 0).numpy()
    return found


def measure(row: str, *, work: Path, masks: Path) -> None:
    """One row."""
    given = Input(part=Part(work=work, name="tile7"), kind="bilinear")
    given.part.prepare()
    given.prepare()
    before = only(given.labels(), BUILDING)
    judge = Judge(only(given.part.labels(), BUILDING), classes=2)
    after = sharpened(trained(row, work=work, masks=masks), given.part.pixels(), before)
    save_cell(given.part, TABLE, row, judge.score(after))


def main() -> None:
    """Measure what has not been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--row", action="append", choices=list(ROWS))
    args = parser.parse_args()
    for row in args.row or ROWS:
        if Cell.load(TABLE, "tile7", row, REFINED) is None:
            measure(row, work=args.work, masks=args.masks)


if __name__ == "__main__":
    main()
