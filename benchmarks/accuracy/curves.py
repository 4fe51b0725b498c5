"""How accuracy grows with the share of windows that are computed, by what chooses them.

    python -m benchmarks.accuracy.scenes --data DATA --work curves-work
    python -m benchmarks.accuracy.curves --scene tile7

trains the backbones for a held-out tile (`curves.toml`; input 128 px, so that windows are many and their tree deep),
makes the fields of every scene that is needed, and measures each selector's curve. A retina is seen by the shipped
bundle `fundus`. What is there already is not made again. With `--verify` it compares the simulated mask of some budgets
with that of `magnet segment --method magnet-fast --budget ... --select ...` instead.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy.cells import count
from benchmarks.accuracy.curve import RESULTS, Curve, Point
from benchmarks.accuracy.fields import FieldFolder, bundle_of, image_of, make_fields, pass_of, read_truth, scales_of
from benchmarks.accuracy.folds import CURVES, HELD_OUT, backbone
from benchmarks.accuracy.lab import SeenScene
from benchmarks.accuracy.learnt import Learnt
from benchmarks.accuracy.selection import Above, AtRandom, Best, CoarseFirst, Tapered, TrueGain, Uncertain, selected
from benchmarks.accuracy.selectors import LABELS, selector
from magnet_cli import SegmentOptions, segment
from magnet_cli.geometry import Box, Size
from magnet_cli.images.labels import open_labels
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.models.networks import load_networks
from magnet_cli.train.config import DataConfig
from magnet_cli.train.scene_data import load_scenes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.accuracy.fields import Meta
    from benchmarks.accuracy.selection import Rule, Untaught, Worth
    from benchmarks.accuracy.selectors import Labels
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.plan.windows import Pass

FUNDUS = ("04_dr", "04_g", "04_h")
SHARES = tuple(Fraction(percent, 100) for percent in (5, 10, 20, 30, 40, 60, 80))
"""Of all windows of all stages, the coarsest counted."""
LIMITS = (0.9, 0.8, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.2)
"""Thresholds on mean uncertainty."""
FUNDUS_LIMITS = (0.3, 0.25, 0.2, 0.18, 0.16, 0.14, 0.12, 0.1, 0.08, 0.06, 0.04, 0.02)
"""In retinas, where most pixels are plain."""
SEEDS = (1, 2, 3)
AGREEMENT = RESULTS / "agreement.json"
VERIFIED: tuple[tuple[Fraction, Untaught], ...] = (
    (Fraction(1, 5), "uncertainty"),
    (Fraction(2, 5), "both"),
)
"""Budgets that are compared with the program."""


@dataclass(frozen=True)
class Place:
    """A held-out scene, and the bundle that has never seen it."""

    work: Path
    scene: str

    @cached_property
    def bundle(self) -> Bundle:
        """Trained where it is missing."""
        if self.scene in FUNDUS:
            return bundle_of(self.work, "fundus")
        return bundle_of(self.work, backbone(self.work, (self.scene,), CURVES).name)

    @cached_property
    def folder(self) -> FieldFolder:
        """Where the fields are."""
        return FieldFolder(
            work=self.work, bundle=self.bundle.folder.name, scene=self.scene, scales=scales_of(self.bundle)
        )

    @cached_property
    def meta(self) -> Meta:
        """Of the fields, which are made where they are missing."""
        return make_fields(self.folder, threads=1)

    @cached_property
    def seen(self) -> SeenScene:
        """The scene as the program sees it."""
        size, heat = self.meta.size, self.bundle.backbone.temperature
        return SeenScene(
            name=self.scene,
            own={scale: self.folder.open(scale) for scale in self.folder.scales},
            truth=read_truth(self.work, self.scene, size=size),
            temperatures={scale: heat.at(Size(width=scale, height=scale)) for scale in self.folder.scales},
        )

    @cached_property
    def step(self) -> Pass:
        """All stages."""
        return pass_of(
            self.folder.scales,
            image=self.meta.size,
            input=self.bundle.input.size,
            margin=self.meta.margin,
        )

    def point(self, asked: float, worth: Worth, rule: Rule) -> Point:
        """One run."""
        run = selected(self.seen, self.step, worth=worth, rule=rule)
        scores: dict[str, Any] = count(run.labels, self.seen.truth, classes=len(self.bundle.classes))
        return Point(asked=asked, windows=run.windows, **scores)

    @cached_property
    def coarsest(self) -> Point:
        """The run that computes no window after the first stage, `downsample`: where every curve begins."""
        return self.point(0, AtRandom(seed=0), Best(share=Fraction(0)))

    @cached_property
    def everything(self) -> Point:
        """The run that computes every window, `magnet`: where every curve ends."""
        return self.point(1, AtRandom(seed=0), Best(share=Fraction(1)))


def budget(share: Fraction, step: Pass) -> Fraction | None:
    """How many windows a share of all is, the coarsest stage's left out; None where that stage alone has more."""
    left = share * sum(stage.cells.pixels for stage in step.stages) - step.stages[0].cells.pixels
    return left if left >= 0 else None


def by_share(place: Place) -> Iterator[tuple[float, Rule]]:
    """Runs with a budget, the same share of every stage after the first."""
    rest = sum(stage.cells.pixels for stage in place.step.stages[1:])
    for share in SHARES:
        spent = budget(share, place.step)
        if spent is not None:
            yield float(share), Best(share=spent / rest)


def by_taper(place: Place) -> Iterator[tuple[float, Rule]]:
    """Runs with a budget, a share that doubles with the window's side."""
    for share in SHARES:
        spent = budget(share, place.step)
        if spent is not None:
            yield float(share), Tapered.spending(spent, place.step)


def coarse_first(place: Place) -> Iterator[tuple[float, Rule]]:
    """Runs with the program's `--budget`."""
    for share in SHARES:
        if budget(share, place.step) is not None:
            yield float(share), CoarseFirst(budget=share, stages=place.step.stages)


def by_limit(place: Place) -> Iterator[tuple[float, Rule]]:
    """Runs with one threshold for all stages."""
    limits = FUNDUS_LIMITS if place.scene in FUNDUS else LIMITS
    yield from ((limit, Above(limit=limit)) for limit in limits)


@dataclass(frozen=True, kw_only=True)
class Selector:
    """One curve."""

    worth: Callable[[Place], Worth]
    scenes: Sequence[str] = (*HELD_OUT, *FUNDUS)
    """Where it is measured."""
    rules: Callable[[Place], Iterator[tuple[float, Rule]]] = by_share


def plain(worth: Worth) -> Callable[[Place], Worth]:
    """For what is compared alike in every scene."""
    return lambda place: worth  # noqa: ARG005


def learnt(labels: Labels) -> Callable[[Place], Worth]:
    """For a trained selector."""

    def of(place: Place) -> Worth:
        networks = load_networks(
            load_bundle(str(selector(place.work, place.scene, labels))), device="cpu", precision="float32"
        )
        scenes = load_scenes(place.work / "dubai" / "scenes.csv", DataConfig(scenes=(place.scene,)))
        if networks.selector is None:
            raise RuntimeError(f"the bundle for {place.scene} has no selector")
        return Learnt(networks=networks, scene=scenes[0], sees_field=networks.selector.sees_field)

    return of


EVEN: dict[str, Selector] = {
    **{f"random{seed}": Selector(worth=plain(AtRandom(seed=seed))) for seed in SEEDS},
    "uncertainty": Selector(worth=plain(Uncertain())),
    "threshold": Selector(worth=plain(Uncertain()), rules=by_limit),
    "change": Selector(worth=plain(Uncertain(select="change"))),
    "both": Selector(worth=plain(Uncertain(select="both"))),
    **{f"ppn-{labels}": Selector(worth=learnt(labels), scenes=HELD_OUT) for labels in LABELS},
    "oracle": Selector(worth=plain(TrueGain())),
    "oracle-balanced": Selector(worth=plain(TrueGain(balanced=True))),
}
"""With the same share of every stage."""
SPREADS: dict[str, Callable[[Place], Iterator[tuple[float, Rule]]]] = {"tapered": by_taper, "coarse": coarse_first}
"""A share that doubles with the window's side, and the program's: a stage is filled before the next one begins."""
SPREAD = {
    f"{spread}-{name}": replace(selector, rules=rules)
    for spread, rules in SPREADS.items()
    for name, selector in EVEN.items()
    if name != "threshold"
}
SELECTORS = {**EVEN, **SPREAD}


def measured(place: Place, name: str) -> Curve:
    """One selector's curve on one scene."""
    chosen, step = SELECTORS[name], place.step
    worth = chosen.worth(place)
    points = [place.point(asked, worth, rule) for asked, rule in chosen.rules(place)]
    return Curve(
        scene=place.scene,
        selector=name,
        backbone=place.meta.backbone,
        scales=place.folder.scales,
        windows=tuple(stage.cells.pixels for stage in step.stages),
        points=(place.coarsest, *points, place.everything),
    )


def verified(place: Place, share: Fraction, select: Untaught) -> float:
    """The share of pixels on which a simulated run and the program agree, with a budget."""
    mask = place.work / "masks" / place.scene / f"budget{float(share):g}-{select}.tif"
    mask.parent.mkdir(parents=True, exist_ok=True)
    options = SegmentOptions(
        weights=str(place.bundle.folder), method="magnet-fast", budget=share, select=select, overwrite=True
    )
    result = segment([image_of(place.work, place.scene)], mask, options)[0]
    if result.error is not None:
        raise result.error
    with open_labels(str(mask)) as opened:
        program = opened.read(Box.whole(place.meta.size))
    rule = CoarseFirst(budget=share, stages=place.step.stages)
    run = selected(place.seen, place.step, worth=Uncertain(select=select), rule=rule)
    report: dict[str, Any] = result.report or {}
    windows = tuple(stage["windows_run"] for step in report["passes"] for stage in step["stages"])
    print(place.scene, f"{float(share):g}", select, f"program {windows}, simulated {run.windows}", flush=True)
    return float((program == run.labels).mean())


def verify(work: Path, scenes: Sequence[str]) -> None:
    """Compare with the program, and keep how far they agree."""
    found = json.loads(AGREEMENT.read_text(encoding="utf-8")) if AGREEMENT.exists() else {}
    for scene in scenes:
        place = Place(work, scene)
        for share, select in VERIFIED:
            found[f"{scene} {float(share):.0%} {select}"] = round(verified(place, share, select), 6)
            AGREEMENT.parent.mkdir(parents=True, exist_ok=True)
            AGREEMENT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def main() -> None:
    """Measure what has not been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("curves-work"))
    parser.add_argument("--scene", action="append", choices=(*HELD_OUT, *FUNDUS))
    parser.add_argument("--selector", action="append", choices=[*SELECTORS])
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--verify", action="store_true", help="compare with the program instead")
    args = parser.parse_args()
    pin_arithmetic(1)
    if args.verify:
        verify(args.work, args.scene or HELD_OUT)
        return
    for scene in args.scene or (*HELD_OUT, *FUNDUS):
        place = Place(args.work, scene)
        for name in args.selector or [name for name, one in SELECTORS.items() if scene in one.scenes]:
            known = Curve.load(scene, name)
            if known is not None and known.backbone == place.meta.backbone and not args.again:
                continue
            curve = measured(place, name)
            curve.save()
            print(scene, name, " ".join(f"{curve.share(p):.0%}:{p.miou:.2f}" for p in curve.points), flush=True)


if __name__ == "__main__":
    main()
