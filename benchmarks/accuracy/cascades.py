"""A cascade on masks of parts of scenes: through `magnet refine`, or one of its steps alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch

from benchmarks.accuracy.cells import REFINED, Cell
from benchmarks.accuracy.judge import EVERY
from benchmarks.accuracy.parts import ALONE, only
from benchmarks.accuracy.scenes import write_labels
from magnet_cli import RefineOptions, refine_mask
from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.pyramid import Level, LevelPart
from magnet_cli.arithmetic.cascade.steps import BORDER, S1, local_step
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.models.bundle import load_cascade_bundle
from magnet_cli.models.bundle_writer import CASCADE_FILE
from magnet_cli.models.cascade_networks import load_cascade

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.accuracy.inputs import Input
    from benchmarks.accuracy.parts import Part

MEMORY = 6 << 30
"""Budget of a run, in bytes, so that what else the machine does has no say in it."""


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """A bundle, and the table that it is for."""

    table: str
    weights: str

    @property
    def digest(self) -> str:
        """First 12 digits of the SHA-256 of its file."""
        return hashlib.sha256((Path(self.weights) / CASCADE_FILE).read_bytes()).hexdigest()[:12]

    @property
    def side(self) -> int:
        """Its own L."""
        return load_cascade_bundle(self.weights).side

    @property
    def kind(self) -> str:
        """`--mask-kind` of what it refines."""
        return "labels" if self.table == EVERY else "binary"

    def suits(self, part: Part) -> bool:
        """Whether the part has that table."""
        return self.table == ALONE[part.data] or (self.table == EVERY and not part.is_fundus)

    def has(self, table: str, part: Part, row: str) -> bool:
        """Whether a cell has been measured with these weights."""
        cell = Cell.load(table, part.name, row, REFINED)
        return cell is not None and cell.backbone == self.digest

    def mask(self, given: Input) -> Path:
        """What is refined: all classes, or the one alone as 0 and 1."""
        if self.table == EVERY:
            return given.mask
        path = given.mask.with_name(f"{given.kind}-{self.table}.tif")
        if not path.exists():
            write_labels(path, only(given.labels(), given.part.alone))
        return path


@dataclass(frozen=True, kw_only=True)
class Sharpened:
    """A mask after `magnet refine`."""

    labels: NDArray[np.uint8]
    windows: int
    """Forward passes: global steps, and windows of local ones."""
    host_peak: int
    """Most memory of the process, in bytes."""


def by_cascade(cascade: Cascade, image: Path, mask: Path, **chosen: Any) -> Sharpened:
    """A mask after `magnet refine`, in this process; its output stays beside the mask."""
    output = mask.with_name(f"{mask.stem}-sharp.tif")
    kind: Any = cascade.kind
    fixed: dict[str, Any] = {"mask_kind": kind, "memory": MEMORY, "overwrite": True}
    options = RefineOptions(weights=cascade.weights, **{**fixed, **chosen})
    return read_sharpened(output, refine_mask(image, mask, output, options).report)


def by_command(cascade: Cascade, image: Path, mask: Path, *words: str) -> Sharpened:
    """The same by a process of its own, so that the most memory that it had is that of this run."""
    output = mask.with_name(f"{mask.stem}-sharp.tif")
    fixed = ["--weights", cascade.weights, "--mask-kind", cascade.kind, "--memory", "6GiB", "--overwrite"]
    command = [sys.executable, "-m", "magnet_cli.cli.app", "refine", str(image), str(mask), "-o", str(output)]
    subprocess.run([*command, *fixed, *words, "--no-progress"], check=True, stderr=subprocess.DEVNULL)
    return read_sharpened(output, json.loads(output.with_suffix(".json").read_text(encoding="utf-8")))


def read_sharpened(output: Path, report: dict[str, Any]) -> Sharpened:
    """What a run wrote."""
    windows = sum(step.get("wholes_run", 0) + step.get("windows_run", 0) for step in report["passes"])
    return Sharpened(labels=tifffile.imread(output), windows=windows, host_peak=report["memory"]["host_peak"])


def locally(cascade: Cascade, image: Path, mask: Path, *, side: int) -> NDArray[np.uint8]:
    """A binary mask after the local step alone, at full size, without any level before it: `(rows, columns)`."""
    network = load_cascade(load_cascade_bundle(cascade.weights), device="cpu", precision="float32")
    labels = tifffile.imread(mask)
    size = Size(width=labels.shape[1], height=labels.shape[0])
    part = LevelPart(level=Level(pitch=LEVEL0, size=size), box=Box.whole(size), side=side)
    own = torch.from_numpy((labels == 1).astype(np.float32)).expand(2, -1, -1)
    before = Canvas(values=own, box=part.box, pitch=LEVEL0)
    found = local_step(network.normalised(tifffile.imread(image)), before, network, part)
    return (found.values[S1] > BORDER).numpy().astype(np.uint8)
