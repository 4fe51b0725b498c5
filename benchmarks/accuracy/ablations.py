"""Ablations over kept fields: which scales, which parts of Q, how many points, which merge, and what accepts a change.

    python -m benchmarks.accuracy.ablations --work WORK --fold 7
    python -m benchmarks.accuracy.ablations --print

needs the fields of tile N as the bundle outN sees it (`benchmarks.accuracy.fields`), and, for rows with something to
fit, those of the two other held-out scenes as bundles see them that left out both: for fold 4, tile 6 of out46 and
tile 7 of out47. A row whose fields or refiner are missing is named and left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.accuracy.cells import Cell, count, miou
from benchmarks.accuracy.fields import DIGITS, MARGIN, SCALES, FieldFolder, bundle_of, pass_of, read_truth
from benchmarks.accuracy.gain import ByGain, fitted_gain
from benchmarks.accuracy.lab import (
    AllScales,
    ByCertainty,
    Geometric,
    Measure,
    Merger,
    Oracle,
    Pick,
    Refined,
    Scored,
    SeenScene,
    Weighted,
    cascade,
    fitted_temperature,
)
from magnet_cli.geometry import Size
from magnet_cli.models.networks import load_networks
from magnet_cli.options.segment import parse_points

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magnet_cli.models.networks import Networks
    from magnet_cli.plan.windows import Pass

HELD_OUT = (4, 6, 7)
CLASSES = 5
REFINERS = {"refiner": "", "refiner-published": "-published", "refiner-per-stage": "-per-stage"}
"""What the bundle with each kind of refiner is called, after `outN`."""
MERGERS: dict[str, Merger] = {
    "mean": Weighted(),
    "own30": Weighted(0.3),
    "own70": Weighted(0.7),
    "certainty": ByCertainty(),
    "geometric": Geometric(),
    "all-scales": AllScales(),
}

Accept = Literal["rule", "gain", "gain-agreed", "oracle", "oracle-agreed"]


class MissingError(Exception):
    """What a row needs has not been made."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    table: str
    name: str
    scales: tuple[int, ...] = SCALES
    merge: str = "mean"
    """A key of `MERGERS` or of `REFINERS`."""
    points: str = "all"
    """As `--points` takes it, where `accept` is `rule`."""
    accept: Accept = "rule"
    measure: Measure = "both"
    median: int = 11
    tempered: bool = False
    """Whether O gets temperatures fitted on the other held-out scenes; a refiner has its bundle's."""

    @property
    def is_refined(self) -> bool:
        """Whether it needs a network."""
        return self.merge in REFINERS


def scale_rows() -> list[Row]:
    """Table 3 of the paper, single looks beside it, and a run that ends before the finest scale."""
    chains = [
        (2048,),
        (1024,),
        (512,),
        (256,),
        (2048, 256),
        (2048, 512, 256),
        (2048, 1024, 256),
        SCALES,
        (1024, 512, 256),
        (512, 256),
        (2048, 1024, 512),
    ]
    return [Row(table="scales", name="-".join(map(str, chain)), scales=chain) for chain in chains]


def score_rows() -> list[Row]:
    """Table 6 of the paper: a quarter of the points by parts of Q."""
    names: dict[str, Measure] = {"field": "field", "merged": "merged", "product": "both"}
    return [
        Row(table="score", name=f"{name}-median{median}", points="25%", measure=measure, median=median)
        for name, measure in names.items()
        for median in (1, 11)
    ]


def point_rows() -> list[Row]:
    """Figure 7 of the paper, and shares and thresholds."""
    counts = [Row(table="points", name=f"count{1 << power}", points=str(1 << power)) for power in (12, 14, 16, 18)]
    shares = [Row(table="points", name=f"share{share}", points=f"{share}%") for share in (12.5, 25, 50, 75)]
    cuts = [Row(table="points", name=f"q{cut}", points=f"q>{cut}") for cut in (0.05, 0.1, 0.2, 0.3)]
    return [*counts, *shares, *cuts, Row(table="points", name="all")]


def merge_rows() -> list[Row]:
    """Ways to make R, all points."""
    plain = [Row(table="merge", name=name, merge=name) for name in MERGERS]
    warm = [replace(row, name=f"{row.name}-tempered", tempered=True) for row in plain]
    return [*plain, *warm, *(Row(table="merge", name=name, merge=name) for name in REFINERS)]


def accept_rows() -> list[Row]:
    """What decides where R is taken."""
    kinds: list[tuple[str, str, Accept]] = [
        ("all", "all", "rule"),
        ("share50", "50%", "rule"),
        ("q0.1", "q>0.1", "rule"),
        ("gain", "all", "gain"),
        ("gain-agreed", "all", "gain-agreed"),
        ("oracle", "all", "oracle"),
        ("oracle-agreed", "all", "oracle-agreed"),
    ]
    return [
        Row(table="accept", name=f"{name}-{merge}", merge=merge, points=points, accept=accept)
        for merge in ("mean", "refiner")
        for name, points, accept in kinds
    ]


TABLES = {
    "scales": scale_rows,
    "score": score_rows,
    "points": point_rows,
    "merge": merge_rows,
    "accept": accept_rows,
}


@dataclass(frozen=True, eq=False)
class Fold:
    """One held-out scene, and the others that things are fitted on."""

    work: Path
    held: int
    _seen: dict[tuple[str, str], SeenScene] = field(default_factory=dict)
    _networks: dict[str, Networks] = field(default_factory=dict)

    @property
    def bundle(self) -> str:
        """The one that never saw the scene."""
        return f"out{self.held}"

    @property
    def name(self) -> str:
        """Of the scene."""
        return f"tile{self.held}"

    @property
    def scene(self) -> SeenScene:
        """The held-out scene."""
        return self.seen(self.bundle, self.name)

    def folder(self, bundle: str, scene: str) -> FieldFolder:
        """Where fields are.

        Raises:
            MissingError: They have not been made.
        """
        folder = FieldFolder(work=self.work, bundle=bundle, scene=scene)
        if not folder.is_complete:
            raise MissingError(f"no fields of {scene} by {bundle}")
        return folder

    def seen(self, bundle: str, scene: str) -> SeenScene:
        """A scene as a bundle sees it, at temperature 1; opened once."""
        key = (bundle, scene)
        if key not in self._seen:
            folder = self.folder(*key)
            meta = folder.meta()
            if meta is None:
                raise MissingError(f"no meta.json of {scene} by {bundle}")
            own = {scale: folder.open(scale) for scale in SCALES}
            self._seen[key] = SeenScene(name=scene, own=own, truth=read_truth(self.work, scene, size=meta.size))
        return self._seen[key]

    @property
    def others(self) -> list[SeenScene]:
        """The other held-out scenes, as backbones see them that were trained on neither them nor this one."""
        rest = [number for number in HELD_OUT if number != self.held]
        return [self.seen("out" + "".join(map(str, sorted((number, self.held)))), f"tile{number}") for number in rest]

    @cached_property
    def temperatures(self) -> dict[int, float]:
        """Of O at each scale, fitted on the others."""
        found = {}
        for scale in SCALES:
            stages = [steps(other, (scale,)).stages[0] for other in self.others]
            found[scale] = round(fitted_temperature(self.others, scale, stages), 4)
        return found

    def networks(self, kind: str) -> Networks:
        """The networks of a bundle with a refiner of that kind, over this fold's backbone.

        Raises:
            MissingError: There is none.
        """
        name = self.bundle + REFINERS[kind]
        if name not in self._networks:
            if not (self.work / "bundles" / name / "bundle.json").is_file():
                raise MissingError(f"no bundle {name}")
            bundle = bundle_of(self.work, name)
            if not bundle.refiners:
                raise MissingError(f"{name} has no refiner")
            if (bundle.backbone.sha256 or "")[:DIGITS] != self.backbone:
                raise MissingError(f"{name} has another backbone than the fields")
            self._networks[name] = load_networks(bundle, device="cpu", precision="float32")
        return self._networks[name]

    @property
    def backbone(self) -> str:
        """First digits of the SHA-256 of the backbone that made the held-out scene's fields."""
        meta = self.folder(self.bundle, self.name).meta()
        return meta.backbone if meta else ""


def steps(scene: SeenScene, scales: Sequence[int]) -> Pass:
    """The stages of a run over a scene."""
    height, width = scene.truth.shape
    return pass_of(scales, image=Size(width=width, height=height), input=Size(width=256, height=256), margin=MARGIN)


def marks(row: Row, fold: Fold) -> dict[str, object]:
    """What a cell depends on beside its row and the backbone; a cell with other marks is measured again."""
    if not row.is_refined:
        return {}
    return {"refiner": [(spec.sha256 or "")[:DIGITS] for spec in fold.networks(row.merge).bundle.refiners]}


def temperatures_of(row: Row, fold: Fold) -> dict[int, float]:
    """Of O, by window side; empty where all are 1."""
    if row.is_refined:
        heat = fold.networks(row.merge).bundle.backbone.temperature
        return {scale: heat.at(Size(width=scale, height=scale)) for scale in SCALES}
    return fold.temperatures if row.tempered else {}


def pick_of(row: Row, fold: Fold, *, merger: Merger, temperatures: dict[int, float]) -> Pick | None:
    """What chooses the points; None takes all."""
    agreed = row.accept.endswith("agreed")
    if row.accept.startswith("oracle"):
        return Oracle(agreed=agreed)
    if row.accept.startswith("gain"):
        others = [replace(other, temperatures=temperatures) for other in fold.others]
        seen = [(other, steps(other, row.scales)) for other in others]
        return fitted_gain(seen, merger=merger, agreed=agreed)
    rule = parse_points(row.points)
    return None if rule.kind == "all" else Scored(rule=rule, measure=row.measure, median=row.median)


def measured(row: Row, fold: Fold) -> Cell:
    """Run one row over the held-out scene of a fold.

    Raises:
        MissingError: Its fields or its refiner have not been made.
    """
    temperatures = temperatures_of(row, fold)
    merger = Refined(networks=fold.networks(row.merge)) if row.is_refined else MERGERS[row.merge]
    pick = pick_of(row, fold, merger=merger, temperatures=temperatures)
    scene = replace(fold.scene, temperatures=temperatures)
    step = steps(scene, row.scales)
    outcome = cascade(scene, step, merger=merger, pick=pick)
    more: dict[str, object] = {**marks(row, fold), "stages": outcome.describe()}
    if temperatures:
        more["temperatures"] = {str(scale): round(heat, 4) for scale, heat in temperatures.items()}
    if isinstance(pick, ByGain):
        more["gain"] = {str(scale): table.describe() for scale, table in pick.tables.items()}
    scores: dict[str, Any] = {**count(outcome.labels, scene.truth, classes=CLASSES)}
    return Cell(
        table=row.table,
        row=row.name,
        scene=fold.name,
        **scores,
        windows=sum(stage.cells.pixels for stage in step.stages),
        megapixels=round(scene.truth.size / 1e6, 3),
        backbone=fold.backbone,
        more=more,
    )


def is_fresh(row: Row, fold: Fold) -> bool:
    """Whether the row has been measured with the weights that there are."""
    cell = Cell.load(row.table, fold.name, row.name)
    if cell is None or cell.backbone != fold.backbone:
        return False
    return all(cell.more.get(key) == value for key, value in marks(row, fold).items())


def run(rows: Iterable[Row], fold: Fold, *, again: bool) -> None:
    """Measure rows and keep their cells."""
    for row in rows:
        try:
            if not again and is_fresh(row, fold):
                continue
            cell = measured(row, fold)
        except MissingError as missing:
            print(f"{row.table}/{fold.name}/{row.name}: left out, {missing}", flush=True)
            continue
        cell.save()
        print(f"{row.table}/{fold.name}/{row.name}: mIoU {miou([cell]):.2f}", flush=True)


def table(name: str) -> str:
    """A table of what has been measured: mIoU of each scene, their mean, and with all pixels pooled."""
    scenes = [f"tile{number}" for number in HELD_OUT]
    lines = [f"{name:28}" + "".join(f"{head:>9}" for head in (*scenes, "mean", "pooled"))]
    for row in TABLES[name]():
        cells = [Cell.load(name, scene, row.name) for scene in scenes]
        found = [cell for cell in cells if cell is not None]
        if not found:
            continue
        values = [None if cell is None else miou([cell]) for cell in cells]
        if len(found) == len(cells):
            values += [float(np.mean([miou([cell]) for cell in found])), miou(found)]
        lines.append(f"{row.name:28}" + "".join("        -" if value is None else f"{value:9.2f}" for value in values))
    return "\n".join(lines)


def main() -> None:
    """Measure, or print what has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--fold", type=int, choices=HELD_OUT, action="append")
    parser.add_argument("--table", choices=TABLES, action="append")
    parser.add_argument("--again", action="store_true", help="measure what has been measured before")
    parser.add_argument("--print", action="store_true", help="print the tables")
    args = parser.parse_args()
    names = args.table or list(TABLES)
    if not args.print:
        for held in args.fold or HELD_OUT:
            run([row for name in names for row in TABLES[name]()], Fold(args.work, held), again=args.again)
    print("\n\n".join(table(name) for name in names))


if __name__ == "__main__":
    main()
