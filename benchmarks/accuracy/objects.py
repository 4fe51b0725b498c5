"""What a cascade makes of wrong masks of single objects on scenes that it has not seen.

    python -m benchmarks.accuracy.objects --work WORK --weights CASCADE [--masks MASKS]

Each held-out scene is cut into crops; each class in a crop that is large enough is an object. Its wrong masks are
perturbed, or made of the labels at an eighth of their resolution: enlarged by nearest neighbours, or bilinearly and cut
at one half. With MASKS, the wrong masks are those that networks made of whole scenes: class indices in
MASKS/SCENE-KIND.tif, of any kinds; scenes without any are left out. IoU is pooled over pixels, mBA has radii of 3 to
13.65 pixels. Prints a table; WORK/objects has a JSON file and pictures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile
import torch

from magnet_cli.arithmetic.cascade.steps import CascadeSettings, refine_region
from magnet_cli.evaluation.boundary import BoundaryCounts, add_block, boundary_radii
from magnet_cli.geometry import Box, Size
from magnet_cli.models.bundle import load_cascade_bundle
from magnet_cli.models.cascade_networks import load_cascade
from magnet_cli.train.perturbation import Perturbation, shrunk_and_enlarged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from magnet_cli.models.cascade_networks import LoadedCascade

    Mask = NDArray[np.bool_]
    Pixels = NDArray[np.uint8]

HELD_OUT = {"dubai": ("tile7",), "hrf": ("04_dr", "04_g", "04_h")}
SHRINK = 8
SMALLEST = 4096
IGNORE = 255
KINDS = ("perturbed", "nearest", "bilinear")
NAMES = {"dubai": ("building", "land", "road", "vegetation", "water"), "hrf": ("background", "vessel")}


@dataclass(kw_only=True)
class Sums:
    """Of one kind of masks of one class."""

    both: int = 0
    either: int = 0
    near: BoundaryCounts = field(default_factory=lambda: BoundaryCounts(radii=boundary_radii(Size(width=1, height=1))))

    def add(self, mask: Mask, truth: Mask, known: Mask) -> None:
        """Count a crop."""
        mask = mask & known
        self.both += int(np.count_nonzero(mask & truth))
        self.either += int(np.count_nonzero(mask | truth))
        inner = Box.whole(Size(width=mask.shape[1], height=mask.shape[0]))
        right = mask == truth
        add_block([self.near], truth.astype(np.uint8), labelled=known, inner=inner, right=right, counted=known)

    def scores(self) -> tuple[float, float]:
        """IoU and mBA, percent."""
        return 100 * self.both / self.either, 100 * (self.near.mba or 0.0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One object in a crop."""

    folder: str
    name: str
    pixels: Pixels
    truth: Mask
    known: Mask
    seed: tuple[int, ...]
    made: Mapping[str, Mask]
    """Wrong masks that networks made, by kind."""

    def wrong(self, kind: str) -> Mask | None:
        """A wrong mask of it; None where nothing is left of it."""
        if kind in self.made:
            return self.made[kind]
        if kind == "perturbed":
            perturb = Perturbation(iou=(0.8, 1.0), coarse=0.0, shrink=1.0)
            return perturb(self.truth, np.random.default_rng(self.seed))
        if kind == "nearest":
            small = self.truth[SHRINK // 2 :: SHRINK, SHRINK // 2 :: SHRINK]
            return small.repeat(SHRINK, axis=0).repeat(SHRINK, axis=1)
        return shrunk_and_enlarged(self.truth, factor=SHRINK)


def cases(work: Path, *, crop: int, most: int, masks: Path | None) -> Iterator[Case]:
    """Objects of every held-out scene, from `most` crops of each at most, spread evenly."""
    for folder, scenes in HELD_OUT.items():
        for scene in scenes:
            made = made_by_networks(masks, scene)
            if masks is not None and not made:
                continue
            labels = tifffile.imread(work / folder / f"{scene}-labels.tif")
            pixels = picture(work / folder, scene)
            rows, columns = (side // crop for side in labels.shape)
            places = [(row * crop, column * crop) for row in range(rows) for column in range(columns)]
            for number, (y, x) in enumerate(places[:: max(1, len(places) // most)][:most]):
                part = (slice(y, y + crop), slice(x, x + crop))
                there = {kind: mask[part] for kind, mask in made.items()}
                yield from in_crop(folder, scene, pixels[part], labels[part], made=there, number=number)


def made_by_networks(masks: Path | None, scene: str) -> dict[str, Pixels]:
    """Class indices that networks found in a scene, by kind."""
    paths = [] if masks is None else sorted(masks.glob(f"{scene}-*.tif"))
    return {path.stem.removeprefix(f"{scene}-"): tifffile.imread(path) for path in paths}


def picture(folder: Path, scene: str) -> Pixels:
    """A scene's pixels, `(rows, columns, 3)`."""
    path = next(path for path in (folder / f"{scene}.tif", folder / f"{scene}.jpg") if path.exists())
    found: Pixels = tifffile.imread(path) if path.suffix == ".tif" else imagecodecs.imread(path)
    return found[..., :3]


def in_crop(
    folder: str, scene: str, pixels: Pixels, labels: Pixels, *, made: Mapping[str, Pixels], number: int
) -> Iterator[Case]:
    """The objects of one crop."""
    known = labels != IGNORE
    for value, name in enumerate(NAMES[folder]):
        truth = labels == value
        if SMALLEST <= np.count_nonzero(truth) <= np.count_nonzero(known) - SMALLEST and name != "background":
            seed = (int.from_bytes(scene.encode(), "little") % 2**32, number, value)
            own = {kind: mask == value for kind, mask in made.items()}
            yield Case(folder=folder, name=name, pixels=pixels, truth=truth, known=known, seed=seed, made=own)


def refined(case: Case, wrong: Mask, cascade: LoadedCascade, *, side: int) -> Mask:
    """The mask after the global step and the local ones."""
    mask = torch.from_numpy(wrong.astype(np.float32))
    found = refine_region(cascade.normalised(case.pixels), mask, cascade, CascadeSettings(side=side))
    sharp: Mask = (found >= 0.5).numpy()
    return sharp


def painted(case: Case, wrong: Mask, sharp: Mask) -> Pixels:
    """Picture, truth, and what is wrong before and after: red where it is missing, blue where it is too much."""
    panels = [case.pixels, np.where(case.truth[..., None], case.pixels, case.pixels // 4)]
    for mask in (wrong, sharp):
        panel = np.where(mask[..., None], case.pixels, case.pixels // 4)
        panel[case.truth & ~mask & case.known] = (255, 40, 40)
        panel[mask & ~case.truth & case.known] = (60, 90, 255)
        panels.append(panel)
    return np.concatenate([np.concatenate(panels[:2], axis=1), np.concatenate(panels[2:], axis=1)]).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of masks of one class."""

    names: tuple[str, str, str]
    """Data, class, kind."""
    values: tuple[float, ...]
    """IoU and its value after, mBA and its value after, percent."""


def measure(found: Iterable[Case], cascade: LoadedCascade, *, side: int, pictures: Path) -> list[Row]:
    """A row for each class and kind of mask."""
    sums: dict[tuple[str, str, str], tuple[Sums, Sums]] = {}
    for case in found:
        for kind in case.made or KINDS:
            wrong = case.wrong(kind)
            if wrong is None or not wrong.any():
                continue
            sharp = refined(case, wrong, cascade, side=side)
            before, after = sums.setdefault((case.folder, case.name, kind), (Sums(), Sums()))
            before.add(wrong, case.truth, case.known)
            after.add(sharp, case.truth, case.known)
            target = pictures / f"{case.name}-{kind}-{case.seed[0]}-{case.seed[1]}.png"
            if not target.exists():
                imagecodecs.imwrite(target, painted(case, wrong, sharp))
    return [row(names, one, other) for names, (one, other) in sorted(sums.items())]


def row(names: tuple[str, str, str], before: Sums, after: Sums) -> Row:
    """The scores of both."""
    (iou, mba), (new_iou, new_mba) = before.scores(), after.scores()
    return Row(names=names, values=(iou, new_iou, mba, new_mba))


def main() -> None:
    """Measure one bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--weights", required=True)
    parser.add_argument("--side", type=int, help="L; the bundle's own where it is not given.")
    parser.add_argument("--masks", type=Path, help="Folder of masks that networks made.")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--crop", type=int, default=1024, help="Side of a crop.")
    parser.add_argument("--crops", type=int, default=9, help="Of each scene at most.")
    args = parser.parse_args()
    bundle = load_cascade_bundle(args.weights)
    cascade = load_cascade(bundle, device="cpu", precision=args.precision)
    side = args.side or bundle.side
    folder = args.work / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    found = cases(args.work, crop=args.crop, most=args.crops, masks=args.masks)
    rows = measure(found, cascade, side=side, pictures=folder)
    (folder / f"{bundle.name}-{side}-{args.crop}.json").write_text(
        json.dumps([asdict(row) for row in rows], indent=2) + "\n"
    )
    print("| data | class | mask | IoU before | after | mBA before | after |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join([*map(str, row.names), *(f"{value:.1f}" for value in row.values)]) + " |")


if __name__ == "__main__":
    main()
