"""Measure methods of `magnet segment`: one method on one scene, with a backbone that was not trained on the scene.

    python -m benchmarks.accuracy.rows --work WORK --scene tile7                 # every row that has not been measured
    python -m benchmarks.accuracy.rows --work WORK --scene tile7 --row patch     # one row

The masks are made by `magnet_cli.segment`, or, for two rows, by yardsticks.py, and stay in WORK/masks. Each row becomes
a line of main.jsonl (tiles) or fundus.jsonl (retinas) in benchmarks/results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import tifffile
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy.cells import Boundary, Cell, load_cells, save_cell
from benchmarks.accuracy.scenes import SceneFiles, write_labels
from benchmarks.accuracy.yardsticks import Patching
from magnet_cli import SegmentOptions, segment
from magnet_cli.evaluation.mask_scores import evaluate
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.networks import load_networks
from magnet_cli.options.evaluate import EvaluationOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.models.bundle import Bundle

SCENES = ("tile4", "tile6", "tile7")
FUNDUS = ("04_dr", "04_g", "04_h")
MARGIN = 16
BACKBONE = "backbone.safetensors"


class Place(SceneFiles):
    """The files of a scene, and the bundle whose backbone was not trained on it."""

    @property
    def is_fundus(self) -> bool:
        """Return whether the scene is a retina, not a city."""
        return self.name in FUNDUS

    @property
    def table(self) -> str:
        """Return the file of results to which the scene's rows belong."""
        return "fundus" if self.is_fundus else "main"

    @property
    def image(self) -> Path:
        """Return the image file."""
        return self.work / (f"hrf/{self.name}.jpg" if self.is_fundus else f"dubai/{self.name}.tif")

    @property
    def truth(self) -> Path:
        """Return the file of the image's labels, 255 where unknown."""
        return self.image.with_name(f"{self.name}-labels.tif")

    @property
    def bundle(self) -> Path:
        """Return the folder of the bundle that was trained on the other scenes."""
        name = "fundus" if self.is_fundus else f"out{self.name.removeprefix('tile')}"
        return self.work / "bundles" / name

    def mask(self, row: str) -> Path:
        """Return the file of the mask that a row predicts."""
        return self.work / "masks" / self.name / f"{row}.tif"

    @property
    def weights(self) -> str:
        """Return the first 12 digits of the SHA-256 of the backbone's weights."""
        return digest(self.bundle / BACKBONE)

    def keep(self, row: str, measure: Callable[[], Cell], *, again: bool = False) -> None:
        """Measure a row and save its cell, unless it was measured with the same weights.

        Args:
            row: The name of the row.
            measure: Function that measures the row on this scene.
            again: Whether it is measured in any case.
        """
        known = load_cells(self.table).get((row, self.name))
        if known is None or known.backbone != self.weights or again:
            cell = measure()
            save_cell(self.table, cell)
            print(self.name, row, f"{cell.windows} windows, {cell.seconds} s", flush=True)

    def pixels(self) -> NDArray[np.uint8]:
        """Return all pixels of the image, `(rows, columns, bands)`."""
        pixels: NDArray[np.uint8] = (imagecodecs.imread if self.is_fundus else tifffile.imread)(self.image)
        return pixels


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method with its options."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `SegmentOptions`."""
    input_factor: int = 1
    """Factor by which the network's input and every window are larger than in the bundle."""


ROWS: dict[str, Row | dict[str, Any]] = {
    "downsample": Row(options={"method": "downsample"}),
    "patch": Row(options={"method": "patch"}),
    "patch-half-overlap": {"overlap": 0.5},
    "patch-flips": {"flips": True},
    "magnet-fast": Row(options={"method": "magnet-fast"}),
    "magnet": Row(),
    "magnet-certainty": Row(options={"merge": "certainty"}),
}


def magnified(bundle: Path, factor: int) -> Path:
    """Return a copy of a bundle with the same weights, whose input and windows are larger by a factor."""
    folder = bundle.with_name(f"{bundle.name}-x{factor}")
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    description = json.loads((bundle / DESCRIPTION).read_text(encoding="utf-8"))
    for size in (description["input"]["size"], *description["scales"]):
        size.update({key: value * factor for key, value in size.items()})
    for network in (description["networks"]["backbone"], *description["networks"]["refiners"]):
        if isinstance(network["temperature"], dict):
            network["temperature"] = {enlarged(key, factor): value for key, value in network["temperature"].items()}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def enlarged(scale: str, factor: int) -> str:
    """Return a scale such as `256` or `256x128` with each side larger by a factor."""
    return "x".join(str(int(side) * factor) for side in scale.split("x"))


def macs(bundle: Bundle) -> tuple[float, float]:
    """Return the multiplications of a forward pass of backbone and refiner (0 without one), in units of 10^9."""
    networks = load_networks(bundle, device="cpu", precision="float32")
    size, scale = bundle.input.size, bundle.scales[0]
    found = []
    pair = torch.full((1, len(bundle.classes), size.height, size.width), 1 / len(bundle.classes))
    for look in (
        lambda: networks.predict(torch.zeros((1, len(bundle.input.bands), size.height, size.width)), scale),
        lambda: networks.refine(pair, pair, scale) if networks.has_refiner else pair,
    ):
        with FlopCounterMode(display=False) as counter:
            look()  # type: ignore[no-untyped-call]
        found.append(counter.get_total_flops() / 2e9)
    return found[0], found[1]


def windows_run(report: Mapping[str, Any]) -> list[int]:
    """Return the number of forward passes of the backbone by stage."""
    return [stage["windows_run"] for step in report["passes"] for stage in step["stages"]]


def scored(mask: Path, truth: Path, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the counts of a mask against its truth as arguments of `Cell`. The mask or `names` name the classes."""
    found = evaluate(mask, truth, EvaluationOptions(boundary="fixed", names=names))
    near = found.boundary
    return {
        "truth": tuple(entry.truth for entry in found.classes),
        "mask": tuple(entry.mask for entry in found.classes),
        "both": tuple(entry.both for entry in found.classes),
        "boundary": near
        and Boundary(radii=near.radii, near=tuple(near.near.tolist()), right=tuple(near.right.tolist())),
    }


def digest(weights: Path) -> str:
    """Return the first 12 digits of the SHA-256 of a file of weights."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def run_report(image: Path, mask: Path, options: SegmentOptions) -> dict[str, Any]:
    """Segment an image, and return the report of the run.

    Raises:
        MagnetError: The run failed.
    """
    mask.parent.mkdir(parents=True, exist_ok=True)
    (result,) = segment([image], mask, options)
    if result.error is not None:
        raise result.error
    return result.report or {}


def megapixels(report: Mapping[str, Any]) -> float:
    """Return the size of a run's image in megapixels."""
    size = report["input"]["size"]
    return float(size["width"] * size["height"] / 1e6)


def measured(place: Place, name: str, row: Row) -> Cell:
    """Measure one row through the program."""
    folder = magnified(place.bundle, row.input_factor) if row.input_factor > 1 else place.bundle
    options = SegmentOptions(**{"weights": str(folder), "overlap": 2 * MARGIN, "overwrite": True, **row.options})
    mask = place.mask(name)
    report = run_report(place.image, mask, options)
    windows = windows_run(report)
    backbone, refiner = macs(load_bundle(str(folder)))
    refined = sum(windows[1:]) if report["options"]["merge"] == "refiner" else 0
    tta = report["options"].get("tta", "none")
    passes = sum(windows) * (1 if tta == "none" else int(tta))
    return Cell(
        row=name,
        scene=place.name,
        **scored(mask, place.truth),
        windows=passes,
        gmac=round(passes * backbone + refined * refiner, 3),
        megapixels=megapixels(report),
        seconds=round(sum(report["seconds"].values()), 1),
        backbone=place.weights,
        more={"windows_by_stage": windows, "options": report["options"], "host_peak": report["memory"]["host_peak"]},
    )


def yardstick(place: Place, name: str, settings: Mapping[str, Any]) -> Cell:
    """Measure one row by plain patching."""
    bundle = load_bundle(str(place.bundle))
    pixels = place.pixels()
    started = time.monotonic()
    labels, windows = Patching(bundle=bundle, margin=MARGIN, **settings).run(pixels)
    seconds = time.monotonic() - started
    mask = place.mask(name)
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_labels(mask, labels)
    return Cell(
        row=name,
        scene=place.name,
        **scored(mask, place.truth),
        windows=windows,
        gmac=round(windows * macs(bundle)[0], 3),
        megapixels=pixels.shape[0] * pixels.shape[1] / 1e6,
        seconds=round(seconds, 1),
        backbone=place.weights,
    )


def run(place: Place, name: str) -> Cell:
    """Measure one row of any table."""
    row = ROWS[name]
    return measured(place, name, row) if isinstance(row, Row) else yardstick(place, name, row)


def main() -> None:
    """Measure the rows that have not been measured with the present weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--scene", action="append", choices=(*SCENES, *FUNDUS))
    parser.add_argument("--row", action="append", choices=[*ROWS])
    parser.add_argument("--again", action="store_true", help="measure rows again that are there already")
    args = parser.parse_args()
    for scene in args.scene or (*SCENES, *FUNDUS):
        place = Place(work=args.work, name=scene)
        for name in args.row or ROWS:
            place.keep(name, partial(run, place, name), again=args.again)


if __name__ == "__main__":
    main()
