"""Measure `magnet refine` on the program's own masks, on scenes that no network behind them was trained on.

    python -m benchmarks.accuracy.refined --work WORK                           # the masks, guided filter, dense CRF
    python -m benchmarks.accuracy.refined --work WORK --cascade vessel=CASCADE  # and a cascade, for vessels
    python -m benchmarks.accuracy.refined --work WORK --part tile7 --cascade building=CASCADE --seed 2

The scenes in WORK are made by benchmarks.accuracy.scenes, and WORK/bundles/out7, which was trained without tile 7, by
`benchmarks.accuracy.folds --recipe curves`. Of each scene the middle is cut out into WORK/refined. `magnet segment`
makes masks of it, and `magnet refine` refines them: all classes, and with a cascade one class, by itself and in the
mask of all classes (`--only`). With --seed the rows are those of another training of the cascade. Each row becomes a
line of refined-every.jsonl, refined-building.jsonl or refined-vessel.jsonl in benchmarks/results; rows that are there
are not measured again, unless the cascade has other weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile

import magnet_cli
from benchmarks.accuracy.cells import Cell, load_cells, save_cell
from benchmarks.accuracy.rows import digest, scored
from benchmarks.accuracy.scenes import IGNORE, SceneFiles, write_labels
from magnet_cli import RefineOptions, SegmentOptions, segment
from magnet_cli.geometry import Box, Size
from magnet_cli.models.bundle_writer import CASCADE_FILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.options.segment import Method, RefineMethod

TILES = {"tile4": "tile4", "tile6": "tile6", "tile7": "tile7-part"}
"""Name of a part, and of the scene from whose middle it is cut."""
RETINAS = ("04_dr", "04_g", "04_h")
TILE_SIDE, RETINA_SIDE = 2048, 1024
SCALES = (1024, 512, 256, 128)
"""Window sizes on tiles, for networks with an input of 128 x 128 pixels.

The coarsest are reduced eight times, like those of the bundle `aerial`.
"""
TILE_CLASSES = ("building", "land", "road", "vegetation", "water")
RETINA_CLASSES = ("background", "vessel")
KINDS: tuple[Method, ...] = ("downsample", "patch", "magnet")
"""Methods that make the masks."""
CLASSICAL: tuple[RefineMethod, ...] = ("guided", "crf")
EVERY = "every"
MEMORY = 6 << 30
"""Memory budget of a run in bytes. A fixed one keeps the measured peak independent of the machine's load."""


class Part(SceneFiles):
    """The middle of a scene, as an image. The network behind its masks was not trained on the scene."""

    @property
    def is_retina(self) -> bool:
        """Return whether the scene is a retina and not a part of a city."""
        return self.name in RETINAS

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by label."""
        return RETINA_CLASSES if self.is_retina else TILE_CLASSES

    @property
    def alone(self) -> str:
        """Return the class that is also scored alone, against all others. A retina has only this score."""
        return "vessel" if self.is_retina else "building"

    @property
    def folder(self) -> Path:
        """Return the folder of everything that is made of the part."""
        return self.work / "refined" / self.name

    @property
    def image(self) -> Path:
        """Return the file of the pixels."""
        return self.folder / "image.tif"

    @property
    def truth(self) -> Path:
        """Return the file of the labels, 255 where unknown."""
        return self.folder / "truth.tif"

    def mask(self, kind: Method) -> Path:
        """Return the mask that a method of `magnet segment` makes, with its probabilities beside it."""
        return self.folder / f"{kind}.tif"

    def prepare(self) -> None:
        """Cut image and labels out of the scene, unless that has been done."""
        if self.truth.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        source = self.work / ("hrf" if self.is_retina else "dubai") / TILES.get(self.name, self.name)
        labels = tifffile.imread(source.with_name(f"{source.name}-labels.tif"))
        read = imagecodecs.imread if self.is_retina else tifffile.imread
        pixels = read(source.with_suffix(".jpg" if self.is_retina else ".tif"))
        size = Size(width=labels.shape[1], height=labels.shape[0])
        part = middle(size, RETINA_SIDE if self.is_retina else TILE_SIDE).slices
        shown = np.ascontiguousarray(pixels[part][..., :3])
        tifffile.imwrite(self.image, shown, tile=(256, 256), compression="zlib", photometric="rgb")
        write_labels(self.truth, labels[part])

    def segment(self, kind: Method) -> None:
        """Make a mask, unless it has been made."""
        if self.mask(kind).exists():
            return
        weights = "fundus" if self.is_retina else str(self.work / "bundles" / f"out{self.name.removeprefix('tile')}")
        scales = None if self.is_retina else tuple(Size(width=side, height=side) for side in SCALES)
        options = SegmentOptions(weights=weights, scales=scales, method=kind, probabilities=True)
        result = segment([self.image], self.mask(kind), options)[0]
        if result.error is not None:
            raise result.error

    def only(self, labels: Path) -> Path:
        """Return a copy of a file of labels with 1 for the class that is scored alone and 0 for others; 255 stays."""
        path = labels.with_name(f"{labels.stem}-{self.alone}.tif")
        write_labels(path, one_class(tifffile.imread(labels), self.classes.index(self.alone)))
        return path


def middle(size: Size, side: int) -> Box:
    """Return a square in the middle of an image."""
    return Box(x=(size.width - side) // 2, y=(size.height - side) // 2, width=side, height=side)


def one_class(labels: NDArray[np.uint8], label: int) -> NDArray[np.uint8]:
    """Return 1 for a label and 0 for all others. The label 255, which is unknown, stays."""
    return np.where(labels == IGNORE, np.uint8(IGNORE), (labels == label).astype(np.uint8))


class Cascade(NamedTuple):
    """A bundle for `magnet refine`, and the class that it was trained for."""

    table: str
    weights: str

    @property
    def digest(self) -> str:
        """Return the first 12 digits of the SHA-256 of its weights."""
        return digest(Path(self.weights) / CASCADE_FILE)


def measure(part: Part, kind: Method, *, cascade: Cascade | None, seed: int) -> None:
    """Measure the rows of one kind of mask that have not been measured."""
    mask, evidence = part.mask(kind), part.mask(kind).with_suffix(".probabilities.zarr")
    score_all(part, f"{kind}-input", mask)
    for method in CLASSICAL:
        if missing(part, f"{kind}-{method}", tables(part)):
            refined, facts = refine(part, mask, RefineOptions(method=method, evidence=evidence, overwrite=True))
            score_all(part, f"{kind}-{method}", refined, **facts)
    if cascade is None or cascade.table != part.alone:
        return
    suffix = "" if seed == 1 else f"-seed{seed}"
    shared: dict[str, Any] = {"weights": cascade.weights, "memory": MEMORY, "overwrite": True}
    if missing(part, f"{kind}-cascade{suffix}", [part.alone], cascade):
        refined, facts = refine(part, part.only(mask), RefineOptions(mask_kind="binary", **shared))
        score(part, part.alone, f"{kind}-cascade{suffix}", refined, backbone=cascade.digest, **facts)
    if EVERY in tables(part) and missing(part, f"{kind}-only{suffix}", [EVERY], cascade):
        options = RefineOptions(mask_kind="labels", only=(part.alone,), evidence=evidence, **shared)
        refined, facts = refine(part, mask, options)
        score(part, EVERY, f"{kind}-only{suffix}", refined, backbone=cascade.digest, **facts)


def refine(part: Part, mask: Path, options: RefineOptions) -> tuple[Path, dict[str, Any]]:
    """Refine a mask.

    Returns:
        The file, and seconds of CPU time and forward passes as arguments of `Cell`.
    """
    output = mask.with_name(f"{mask.stem}-{options.method}.tif")
    started = time.process_time()
    report: dict[str, Any] = magnet_cli.refine(part.image, mask, output, options).report
    windows = sum(step.get("wholes_run", 0) + step.get("windows_run", 0) for step in report["passes"])
    more = {"host_peak": report["memory"]["host_peak"]}
    return output, {"seconds": round(time.process_time() - started, 1), "windows": windows, "more": more}


def tables(part: Part) -> list[str]:
    """Return the tables in which masks of all classes are scored."""
    return [part.alone] if part.is_retina else [EVERY, part.alone]


def missing(part: Part, row: str, names: list[str], cascade: Cascade | None = None) -> bool:
    """Return whether a table lacks a row of the part, or has it for a cascade with other weights."""
    cells = [load_cells(f"refined-{name}").get((row, part.name)) for name in names]
    return any(cell is None or (cascade is not None and cell.backbone != cascade.digest) for cell in cells)


def score_all(part: Part, row: str, mask: Path, **more: Any) -> None:
    """Add a mask of all classes to the tables that lack it."""
    if EVERY in tables(part) and missing(part, row, [EVERY]):
        score(part, EVERY, row, mask, **more)
    if missing(part, row, [part.alone]):
        score(part, part.alone, row, part.only(mask), **more)


def score(part: Part, table: str, row: str, mask: Path, **more: Any) -> None:
    """Score a mask and add it to a table."""
    truth = part.truth if table == EVERY else part.only(part.truth)
    names = part.classes if table == EVERY else ("other", part.alone)
    save_cell(f"refined-{table}", Cell(row=row, scene=part.name, **scored(mask, truth, names), **more))
    print(part.name, table, row, f"{more.get('seconds', 0):.1f} s", flush=True)


def named_cascade(text: str) -> Cascade:
    """Return the cascade that `vessel=FOLDER` or `building=FOLDER` names."""
    table, _, weights = text.partition("=")
    if table not in {"building", "vessel"} or not weights:
        message = f"--cascade takes building=FOLDER or vessel=FOLDER, not {text}"
        raise argparse.ArgumentTypeError(message)
    return Cascade(table=table, weights=weights)


def main() -> None:
    """Measure the rows that have not been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--part", action="append", choices=[*TILES, *RETINAS])
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--cascade", type=named_cascade, metavar="CLASS=FOLDER")
    parser.add_argument("--seed", type=int, default=1, help="seed with which the cascade was trained")
    args = parser.parse_args()
    for name in args.part or (*TILES, *RETINAS):
        part = Part(work=args.work, name=name)
        part.prepare()
        for kind in args.kind or KINDS:
            part.segment(kind)
            measure(part, kind, cascade=args.cascade, seed=args.seed)


if __name__ == "__main__":
    main()
