"""Images, networks and sinks in memory, for tests of a run without files."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.canvas import reflected
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images.protocol import ImageInfo, Level, Region, Request, Resolution
from magnet_cli.options.method_settings import BundleDefaults
from magnet_cli.options.rules import ALL, Rule
from magnet_cli.plan import Machine, ModelFacts, Plan, make_plan
from magnet_cli.run.clock import Clock
from magnet_cli.run.engine import Engine, Progress
from magnet_cli.run.job import Resources
from magnet_cli.segmentation.computer import Normalisation
from magnet_cli.segmentation.image_run import ACTIVITIES
from magnet_cli.segmentation.segment_job import SegmentJob
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.options.segment import SegmentOptions

STEP = 40
"""Difference of grey values between two consecutive labels of a coded image."""


def coded(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an RGB image whose grey value is its label times `STEP`."""
    return np.repeat((labels * STEP)[..., None], 3, axis=2)


class ArrayImage(Closing):
    """An image in memory with level 0 only."""

    def __init__(
        self, pixels: NDArray[np.uint8], *, valid: NDArray[np.bool_] | None = None, resolution: float | None = None
    ) -> None:
        self._pixels = pixels.astype(np.float64)
        self._valid = valid
        height, width, bands = pixels.shape
        size = Size(width=width, height=height)
        exact = Fraction(str(resolution)) if resolution else None
        self.info = ImageInfo(
            path="array",
            backend="array",
            size=size,
            levels=(Level(size=size, downsample=LEVEL0),),
            bands=("red", "green", "blue")[:bands] if bands == 3 else tuple(f"band{n + 1}" for n in range(bands)),
            dtype="uint8",
            resolution=Resolution(x=exact, y=exact, unit="um") if exact else None,
            has_mask=valid is not None,
        )
        self.reads = 0
        self.exact = False

    def read(self, requests: Sequence[Request]) -> list[Region]:
        self.reads += 1
        return [self._read(request) for request in requests]

    def _read(self, request: Request) -> Region:
        rows = area_weights(request.box.y, request.box.height, request.pitch.y, self.info.size.height)
        columns = area_weights(request.box.x, request.box.width, request.pitch.x, self.info.size.width)
        bands = slice(None) if request.bands is None else list(request.bands)
        values = np.einsum("ab,bcd->acd", rows, self._pixels[:, :, bands])
        values = np.einsum("ac,bcd->bad", columns, values)
        valid = None
        if self._valid is not None:
            valid = rows @ self._valid @ columns.T >= 0.5
        if self.exact:
            return Region(pixels=values, valid=valid)
        return Region(pixels=np.floor(values + 0.5).clip(0, 255).astype(np.uint8), valid=valid)

    def close(self) -> None:
        """Close nothing, because no file is open."""


def area_weights(start: int, count: int, pitch: Fraction, length: int) -> NDArray[np.float64]:
    """Return weights `(count, length)` for the mean over the area of each pixel.

    A pixel of the grid that is smaller than one of the image gets two weights, interpolated at its centre.
    """
    weights = np.zeros((count, length))
    for row in range(count):
        left, right = float((start + row) * pitch), float((start + row + 1) * pitch)
        if pitch < 1:
            centre = min(max((left + right) / 2 - 0.5, 0), length - 1)
            first = int(centre)
            weights[row, first] += 1 - (centre - first)
            weights[row, min(first + 1, length - 1)] += centre - first
            continue
        for column in range(int(left), int(np.ceil(right))):
            overlap = min(column + 1, right) - max(column, left)
            weights[row, int(reflected(length, column + 1)[-1])] += overlap
        weights[row] /= weights[row].sum()
    return weights


class CodedNetworks:
    """Networks that read the label from a coded image. The refiner repeats the backbone's result (R = O).

    Args:
        classes: Number of labels.
        sharpness: Factor of the logits. The larger it is, the more certain the networks are.
    """

    def __init__(self, classes: int, sharpness: float = 60.0) -> None:
        self.device = torch.device("cpu")
        self.has_refiner = True
        self.classes = classes
        self.sharpness = sharpness
        self.batches: list[int] = []

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        del scale
        self.batches.append(len(patches))
        centres = torch.arange(self.classes).reshape(1, -1, 1, 1) * (STEP / 255)
        return (-self.sharpness * (patches[:, :1] - centres).abs()).softmax(dim=1)

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        del field, scale
        return own


PLAIN = Normalisation(spans=((0, 255),) * 3, mean=(0, 0, 0), std=(1, 1, 1))


@dataclass
class MemorySink:
    """A sink that keeps everything in memory, and counts how often each pixel was stored."""

    size: Size
    classes: int
    labels: NDArray[np.uint8] = field(init=False)
    touched: NDArray[np.int64] = field(init=False)
    fields: dict[str, list[tuple[Box, NDArray[np.generic]]]] = field(default_factory=dict)
    groups: dict[int, dict[int, dict[str, object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.labels = np.full((self.size.height, self.size.width), 254, np.uint8)
        self.touched = np.zeros((self.size.height, self.size.width), np.int64)

    def finished(self, pass_index: int) -> Mapping[int, Mapping[str, object]]:
        return self.groups.get(pass_index, {})

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        del group
        self.labels[box.slices] = labels
        self.touched[box.slices] += 1

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:
        del group
        self.fields.setdefault(name, []).append((box, values))

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        return self._read(name, box, np.dtype(np.float16), np.nan).astype(np.float16)

    def _read(self, name: str, box: Box, dtype: np.dtype[Any], nothing: float) -> NDArray[np.generic]:
        stored = self.fields.get(name, [])
        bands = len(stored[0][1]) if stored else 1
        out = np.full((bands, box.height, box.width), nothing, dtype)
        for have, values in stored:
            both = have.intersection(box)
            if both.area:
                target = both.shifted(x=-box.x, y=-box.y).slices
                source = both.shifted(x=-have.x, y=-have.y).slices
                out[:, *target] = values[:, *source]
        return out

    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        return self._read(name, box, np.dtype(np.uint8), 255)

    def drop_group(self, group: GroupId) -> None:
        raise NotImplementedError

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        self.groups.setdefault(group.pass_index, {})[group.index] = dict(counts)


def facts(classes: int, *, input_side: int, scales: tuple[int, ...] = (), resolution: str | None = None) -> ModelFacts:
    """Return the facts of a bundle for coded images."""
    sizes = tuple(Size(width=side, height=side) for side in sorted(scales, reverse=True))
    return ModelFacts(
        name="coded",
        classes=classes,
        bands=("red", "green", "blue"),
        value_range=(0, 255),
        input=Size(width=input_side, height=input_side),
        resample="area",
        resolution=Fraction(resolution) if resolution else None,
        unit="um" if resolution else None,
        trained=sizes,
        defaults=BundleDefaults(scales=sizes, merge="refiner", points=ALL, median=11, margin=0),
        has_refiner=True,
        activation_bytes=1 << 20,
    )


MACHINE = Machine(device="cpu", precision="float32", memory=4 << 30)


@dataclass(kw_only=True)
class Outcome:
    """The result of a run."""

    plan: Plan
    sink: MemorySink
    networks: CodedNetworks
    progress: list[Progress]

    @property
    def labels(self) -> NDArray[np.uint8]:
        return self.sink.labels


def run(
    image: ArrayImage, model: ModelFacts, options: SegmentOptions, networks: CodedNetworks | None = None
) -> Outcome:
    """Plan and run over an image in memory."""
    return run_in_turns(image, model, options, (networks or CodedNetworks(model.classes),))


def run_in_turns(
    image: ArrayImage, model: ModelFacts, options: SegmentOptions, networks: Sequence[CodedNetworks]
) -> Outcome:
    """Run once for each of the networks. Each run but the last is interrupted by them, and the next one resumes it."""
    plan = make_plan(image.info, model, options, MACHINE)
    sink = MemorySink(image.info.size, model.classes)
    progress: list[Progress] = []
    for number, given in enumerate(networks, 1):
        readers = plan.machine.readers(options.num_workers)
        engine = engine_over(image, sink, readers=readers, on_progress=progress.append)
        with pytest.raises(KeyboardInterrupt) if number < len(networks) else nullcontext():
            engine.run(job_of(plan, given))
    return Outcome(plan=plan, sink=sink, networks=networks[-1], progress=progress)


def engine_over(image: ArrayImage, sink: MemorySink, *, readers: int = 0, **more: Any) -> Engine:
    """Return an engine over an image in memory, whose results stay in memory."""
    return Engine(
        resources=Resources(image=image, results=sink, sink=sink, clock=Clock(ACTIVITIES)), readers=readers, **more
    )


def job_of(
    plan: Plan,
    networks: CodedNetworks,
    *,
    kind: type[SegmentJob] = SegmentJob,
    normalisation: Normalisation = PLAIN,
) -> SegmentJob:
    """Return the job that carries out a plan with some networks. It has no bundle, because nothing reads it."""
    return kind(plan=plan, bundle=cast("Bundle", None), networks=networks, normalisation=normalisation)


def computed(outcome: Outcome, number: int) -> NDArray[np.bool_]:
    """Return which cells of a stage were computed, `(rows, columns)`."""
    for step in outcome.plan.passes:
        for stage in step.stages:
            if stage.number == number:
                found = np.zeros((stage.cells.height, stage.cells.width), bool)
                for group, counts in outcome.sink.groups[step.number].items():
                    statuses = iter(dict(counts["statuses"])[str(number)])  # type: ignore[call-overload]
                    for block in outcome.plan.blocks(step, group):
                        for cell in step.cells(block, stage):
                            found[cell.row, cell.column] = next(statuses) == "r"
                return found
    raise AssertionError(number)


def sides(*values: int) -> tuple[Size, ...]:
    """Return square scales, coarsest first."""
    return tuple(Size(width=value, height=value) for value in values)


def count(*values: int) -> Rule:
    """Return a rule that names one count for each stage."""
    return Rule(kind="count", values=tuple(Fraction(value) for value in values))
