"""Measure cascades for buildings on masks of scenes that no network behind them was trained on: two halves in turn.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.halves --work WORK
    python -m benchmarks.accuracy.halves --work WORK --step backbones --half a    # one step for one half

The seven scenes are parted in two. The recipe of `aerial` is trained on each half (WORK/bundles/half-a and half-b), and
makes masks of the scenes of the other half, by each method. A cascade (halves.toml) is trained on a half and its masks
(WORK/bundles/cascade-half-a), which are therefore wrong as masks of unseen scenes are, and refines those of the other
half. So a refined mask is of a scene that neither network was trained on. Each row, the buildings in the middle of a
scene before or after, becomes a line of benchmarks/results/halves.jsonl. Every training goes on where it was
interrupted, and what is finished is not repeated. The backbones have fewer iterations than `aerial`, because half of
the scenes need no more, and compute in float32.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import magnet_cli
from benchmarks.accuracy.cells import Cell, load_cells, save_cell
from benchmarks.accuracy.folds import WEIGHTS, replaced
from benchmarks.accuracy.refined import KINDS, MEMORY, Part
from benchmarks.accuracy.rows import digest, scored
from magnet_cli import RefineOptions, SegmentOptions, segment
from magnet_cli.models.bundle_writer import CASCADE_FILE
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.cascade_training import train_cascade
from magnet_cli.train.config import TrainConfig

if TYPE_CHECKING:
    from magnet_cli.options.segment import Method

TABLE = "halves"
HALVES = {"a": ("tile1", "tile2", "tile3", "tile5"), "b": ("tile4", "tile6", "tile7")}
OTHER = {"a": "b", "b": "a"}
ITERATIONS = 500
"""Iterations of a backbone, which learns from half of the scenes."""
BACKBONE = WEIGHTS / "aerial" / "train.toml"
CASCADE = Path(__file__).with_name("halves.toml")
BUILDING = ("other", "building")
SIDE = 1024


class HalfPart(Part):
    """The middle of a scene, with masks by the network of the other half."""

    @property
    def half(self) -> str:
        """The half that the scene belongs to."""
        return next(half for half, scenes in HALVES.items() if self.name in scenes)

    @property
    def side(self) -> int:
        """The side of the square that is scored, in pixels: that of one step of the cascade."""
        return SIDE

    @property
    def folder(self) -> Path:
        """The folder of everything that is made of the part."""
        return self.work / "halves" / self.name

    @property
    def scene(self) -> Path:
        """The whole scene, of which the training needs masks."""
        return self.work / "dubai" / f"{self.name}.tif"

    def whole_mask(self, kind: Method) -> Path:
        """Return the mask of the whole scene that a method makes."""
        return self.folder / f"whole-{kind}.tif"

    def segment(self, kind: Method) -> None:
        """Make the masks of the part and of the whole scene, unless they have been made."""
        options = SegmentOptions(weights=str(backbone(self.work, OTHER[self.half])), method=kind)
        for image, mask in ((self.image, self.mask(kind)), (self.scene, self.whole_mask(kind))):
            if not mask.exists():
                result = segment([image], mask, options)[0]
                if result.error is not None:
                    raise result.error

    def measure(self, kind: Method, *, cascade: Path) -> None:
        """Score the buildings of a mask before and after refinement, unless that was done with the same weights."""
        mask, known = self.only(self.mask(kind)), load_cells(TABLE)
        networks = digest(backbone(self.work, OTHER[self.half]) / "backbone.safetensors")
        before = known.get((f"{kind}-input", self.name))
        if before is None or before.backbone != networks:
            self._keep(f"{kind}-input", mask, backbone=networks)
        weights = f"{networks} {digest(cascade / CASCADE_FILE)}"
        after = known.get((f"{kind}-cascade", self.name))
        if after is not None and after.backbone == weights:
            return
        output, started = mask.with_name(f"{mask.stem}-refined.tif"), time.process_time()
        options = RefineOptions(mask_kind="binary", weights=str(cascade), memory=MEMORY, overwrite=True)
        report: dict[str, Any] = magnet_cli.refine(self.image, mask, output, options).report
        windows = sum(step.get("wholes_run", 0) + step.get("windows_run", 0) for step in report["passes"])
        seconds = round(time.process_time() - started, 1)
        self._keep(f"{kind}-cascade", output, backbone=weights, windows=windows, seconds=seconds)

    def _keep(self, row: str, mask: Path, **more: Any) -> None:
        truth = self.only(self.truth)
        save_cell(TABLE, Cell(row=row, scene=self.name, **scored(mask, truth, BUILDING), **more))
        print(self.name, row, f"{more.get('seconds', 0):.1f} s", flush=True)


def backbone(work: Path, half: str) -> Path:
    """Return the bundle of the backbone that was trained on a half."""
    return work / "bundles" / f"half-{half}"


def cascade(work: Path, half: str) -> Path:
    """Return the bundle of the cascade that was trained on a half."""
    return work / "bundles" / f"cascade-half-{half}"


def backbone_config(half: str) -> TrainConfig:
    """Return the configuration of `aerial` with the scenes of a half."""
    text = replaced(BACKBONE.read_text(encoding="utf-8"), "scenes", listed(HALVES[half]))
    text = replaced(replaced(text, "iterations", str(ITERATIONS)), "precision", '"float32"')
    return TrainConfig.parse(text, folder=BACKBONE.parent)


def cascade_config(half: str) -> TrainConfig:
    """Return the configuration of a cascade with the scenes of a half, once for each method that made a mask."""
    names = tuple(f"{scene}-{kind}" for scene in HALVES[half] for kind in KINDS)
    return TrainConfig.parse(replaced(CASCADE.read_text(encoding="utf-8"), "scenes", listed(names)))


def listed(names: tuple[str, ...]) -> str:
    """Return names as a list of TOML."""
    return str(list(names)).replace("'", '"')


def write_masks_list(work: Path, half: str) -> Path:
    """Write the CSV file that lists each scene of a half once for each method, with its mask, and return its path."""
    path = work / "dubai" / f"half-{half}-masks.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("name", "image", "label", "mask"))
        for scene in HALVES[half]:
            part = HalfPart(work=work, name=scene)
            for kind in KINDS:
                label = part.scene.with_name(f"{scene}-labels.tif")
                rows.writerow((f"{scene}-{kind}", part.scene.name, label.name, part.whole_mask(kind).resolve()))
    return path


def train_backbones(work: Path, half: str) -> None:
    """Train the backbone of a half, unless it has been trained."""
    if not (backbone(work, half) / DESCRIPTION).exists():
        train_backbone(work / "dubai" / "scenes.csv", backbone(work, half), backbone_config(half), progress=print)


def make_masks(work: Path, half: str) -> None:
    """Make the masks of the scenes of a half by the network of the other one."""
    for name in HALVES[half]:
        part = HalfPart(work=work, name=name)
        part.prepare()
        for kind in KINDS:
            part.segment(kind)


def train_cascades(work: Path, half: str) -> None:
    """Train the cascade of a half, unless it has been trained."""
    if not (cascade(work, half) / DESCRIPTION).exists():
        train_cascade(write_masks_list(work, half), cascade(work, half), cascade_config(half), progress=print)


def score(work: Path, half: str) -> None:
    """Score what the cascade of a half makes of the masks of the other one."""
    for name in HALVES[OTHER[half]]:
        for kind in KINDS:
            HalfPart(work=work, name=name).measure(kind, cascade=cascade(work, half))


STEPS = {"backbones": train_backbones, "masks": make_masks, "cascades": train_cascades, "scores": score}


def main() -> None:
    """Take the steps in turn, each for both halves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--half", action="append", choices=HALVES, help="the half that is trained on or segmented")
    parser.add_argument("--step", action="append", choices=STEPS)
    args = parser.parse_args()
    for step in args.step or STEPS:
        for half in args.half or HALVES:
            STEPS[step](args.work, half)


if __name__ == "__main__":
    main()
