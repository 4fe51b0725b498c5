"""What a backbone says of a whole scene at each scale, made once by the program itself and kept.

    python -m benchmarks.accuracy.fields --work WORK --bundle out7 --scene tile7

runs the method `patch` over WORK/dubai/tile7.tif (or WORK/hrf/tile7.jpg) at each scale of the bundle WORK/bundles/out7
(or of a shipped bundle of that name) with its margin, and writes WORK/fields/out7/tile7/<scale>.npy, `(classes, rows,
columns)` float16, one value a canvas pixel, beside meta.json. A scale that is there already, from the same weights, is
not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli import images
from magnet_cli.events import Events
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.labels import open_labels
from magnet_cli.models.bundle import Temperature, load_bundle
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.plan.windows import Pass, Stage
from magnet_cli.run.clock import Clock
from magnet_cli.segmentation.api import load_model
from magnet_cli.segmentation.computer import Normalisation
from magnet_cli.segmentation.scheduler import PROBABILITIES, Progress, Work, run_plan
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.segmentation.api import Model

SCALES = (2048, 1024, 512, 256)
"""Window sides that a bundle like `aerial` was trained at, coarsest first."""
MARGIN = 16
"""Of these."""
DIGITS = 12
"""Of a SHA-256, to tell weights apart."""


def bundle_of(work: Path, name: str) -> Bundle:
    """The bundle WORK/bundles/NAME, or the shipped one of that name.

    Raises:
        WeightsError: There is neither.
    """
    folder = work / "bundles" / name
    return load_bundle(str(folder) if folder.is_dir() else name)


def scales_of(bundle: Bundle) -> tuple[int, ...]:
    """The window sides of a bundle, coarsest first."""
    return tuple(sorted((scale.width for scale in bundle.scales), reverse=True))


def image_of(work: Path, scene: str) -> Path:
    """The picture of a scene: a city, or else a retina."""
    city = work / "dubai" / f"{scene}.tif"
    return city if city.exists() else work / "hrf" / f"{scene}.jpg"


def pass_of(scales: Sequence[int], *, image: Size, input: Size, margin: int) -> Pass:  # noqa: A002 - the stage's name
    """The stages of a run over an image without physical size, at least one and all in one pass.

    Args:
        scales: Window sides in pixels, coarsest first, each a multiple of the next.
        image: Level 0.
        input: What the network sees.
        margin: In patch pixels.
    """
    stages = tuple(
        Stage(
            number=number,
            scale=Size(width=scale, height=scale),
            input=input,
            margin=margin,
            image=image,
            working=Pitch.square(1),
        )
        for number, scale in enumerate(scales, start=1)
    )
    return Pass(number=0, stages=stages)


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What fields were made of."""

    bundle: str
    scene: str
    backbone: str
    """First digits of the SHA-256 of the backbone's file."""
    width: int
    height: int
    input: int
    margin: int
    seconds: dict[str, float]
    """Of each scale, on the machine that made it."""

    @property
    def size(self) -> Size:
        """Level 0."""
        return Size(width=self.width, height=self.height)


@dataclass(frozen=True, kw_only=True)
class FieldFolder:
    """The fields of one scene as one backbone sees it."""

    work: Path
    bundle: str
    scene: str
    scales: tuple[int, ...] = SCALES
    """Coarsest first."""

    @property
    def path(self) -> Path:
        """Its place."""
        return self.work / "fields" / self.bundle / self.scene

    def file(self, scale: int) -> Path:
        """Where a scale's values are."""
        return self.path / f"{scale}.npy"

    def meta(self) -> Meta | None:
        """What is known of it; None where nothing has been made."""
        file = self.path / "meta.json"
        return Meta(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def keep(self, meta: Meta) -> None:
        """Write what is known."""
        (self.path / "meta.json").write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")

    @property
    def is_complete(self) -> bool:
        """Whether every scale is there."""
        return all(self.file(scale).exists() for scale in self.scales)

    def open(self, scale: int) -> NDArray[np.float16]:
        """`(classes, rows, columns)` in [0, 1], mapped from disk."""
        values: NDArray[np.float16] = np.load(self.file(scale), mmap_mode="r")
        return values


class ArraySink:
    """Takes the probabilities that the program would quantise and keep beside a mask, as they are.

    Args:
        values: `(classes, rows, columns)`, written to.
    """

    def __init__(self, values: NDArray[np.float16]) -> None:
        self._values = values

    def finished(self, pass_index: int) -> Mapping[int, Mapping[str, object]]:  # noqa: ARG002 - the protocol's
        """Nothing: a scale that was cut off is made anew."""
        return {}

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        """Labels follow from the probabilities."""

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:  # noqa: ARG002
        """Keep the values of a box of the canvas grid."""
        if name == PROBABILITIES:
            self._values[:, *box.slices] = values

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        """Never asked for: a run of one stage has one pass."""
        raise NotImplementedError(name, box)

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        """Nothing to make durable."""


def make_fields(folder: FieldFolder, *, threads: int) -> Meta:
    """Make the scales that are missing, with the backbone's temperature left at 1.

    Raises:
        MagnetError: The bundle or the scene cannot be opened or read.
    """
    bundle = bundle_of(folder.work, folder.bundle)
    image = image_of(folder.work, folder.scene)
    size = images.inspect(image).size
    digits = (bundle.backbone.sha256 or "")[:DIGITS]
    meta = Meta(
        bundle=folder.bundle,
        scene=folder.scene,
        backbone=digits,
        width=size.width,
        height=size.height,
        input=bundle.input.size.width,
        margin=bundle.magnet.margin,
        seconds={},
    )
    old = folder.meta()
    if old is not None and replace(old, seconds={}) == meta:
        meta = old
    missing = [scale for scale in folder.scales if str(scale) not in meta.seconds]
    if not missing:
        return meta
    pin_arithmetic(threads)
    model = load_model(SegmentOptions(weights=str(bundle.folder), device="cpu", precision="float32"), Events())
    plain = replace(bundle, backbone=replace(bundle.backbone, temperature=Temperature()))
    model = replace(model, networks=replace(model.networks, bundle=plain))
    folder.path.mkdir(parents=True, exist_ok=True)
    for scale in missing:
        begun = time.perf_counter()
        part = folder.file(scale).with_suffix(".part")
        run_scale(image, scale, model, part, threads=threads)
        part.replace(folder.file(scale))
        meta.seconds[str(scale)] = round(time.perf_counter() - begun, 1)
        folder.keep(meta)
        print(f"{folder.bundle} {folder.scene} {scale}: {meta.seconds[str(scale)]} s", flush=True)
    return meta


def run_scale(image: Path, scale: int, model: Model, target: Path, *, threads: int) -> None:
    """One run of the method `patch` at one scale; its probabilities go to `target`, a NumPy file."""
    options = SegmentOptions(
        method="patch", scales=(Size(width=scale, height=scale),), margin=model.bundle.magnet.margin, probabilities=True
    )
    plan = make_plan(images.inspect(image), model.facts, options, model.machine)
    extent = plan.stages[-1].extent
    values = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.float16, shape=(plan.classes, extent.height, extent.width)
    )
    spec = model.bundle.input
    with images.open_image(image) as opened, torch.inference_mode():
        work = Work(
            image=opened,
            networks=model.networks,
            normalisation=Normalisation.of(plan, mean=spec.mean, std=spec.std),
            sink=ArraySink(values),
            workers=1,
            clock=Clock(),
            on_progress=_silent,
            threads=threads,
        )
        run_plan(plan, work)
    values.flush()


def _silent(progress: Progress) -> None:
    """Say nothing: a scale takes minutes, and its end is printed."""


def read_truth(work: Path, scene: str, *, size: Size) -> NDArray[np.uint8]:
    """The labels of a scene, `(height, width)`, 255 where unknown."""
    with open_labels(str(image_of(work, scene).with_name(f"{scene}-labels.tif"))) as opened:
        return opened.read(Box.whole(size))


def main() -> None:
    """Make the fields of one scene."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--scene", required=True)
    parser.add_argument("--threads", type=int, default=usable_cores())
    args = parser.parse_args()
    scales = scales_of(bundle_of(args.work, args.bundle))
    make_fields(FieldFolder(work=args.work, bundle=args.bundle, scene=args.scene, scales=scales), threads=args.threads)


if __name__ == "__main__":
    main()
