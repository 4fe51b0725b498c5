"""The borders of blocks: probabilities of neighbouring blocks at the same pixels, joined after all blocks are computed.

A block is computed without its neighbours, and also has probabilities of pixels beyond its border, as far as windows
overlap. Each pass keeps the values of its blocks in up to four layers, in which no two blocks have a pixel in common.
Whoever reads such a field gets the mean of the layers, weighted by how far a pixel is from the border. The last pass
keeps only what lies near borders, and one more pass makes the labels there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from typing_extensions import override

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY, FieldSpec
from magnet_cli.plan.windows import frame_boxes
from magnet_cli.run.job import Runner
from magnet_cli.segmentation.canvas_output import count_labels, labels_of, own_uncertainty

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import BlockLayer, Index, Pass
    from magnet_cli.run.job import Resources
    from magnet_cli.run.results import Results, Sink

VALID_LABELS, VALID_VALUES = "borders-labels", "borders-values"
"""Names of the fields that mark which pixels near borders get a label, and which a probability."""
VALID = np.uint8(0)
"""A pixel that gets one; any other gets none."""


def field_name(number: int, layer: BlockLayer) -> str:
    """Name the field in which the journal keeps a layer of a pass."""
    return f"pass{number}{layer.name}"


def border_fields(plan: Plan) -> tuple[FieldSpec, ...]:
    """Return the fields in which a plan's passes keep what later ones read."""
    fields = []
    for step in plan.passes:
        is_last = step is plan.passes[-1]
        if is_last and not step.fade:
            continue
        stage = step.stages[-1]
        bands = plan.classes if is_last else plan.field_bands(step)
        fields += [
            FieldSpec(name=field_name(step.number, layer), bands=bands, size=stage.extent, pitch=stage.pitch)
            for layer in step.layers
        ]
        if is_last and plan.lacks_labels:
            fields += [
                FieldSpec(name=VALID_LABELS, bands=1, size=plan.image.size, pitch=LEVEL0, dtype="uint8"),
                FieldSpec(name=VALID_VALUES, bands=1, size=stage.extent, pitch=stage.pitch, dtype="uint8"),
            ]
    return tuple(fields)


def put_values(sink: Sink, group: GroupId, step: Pass, block: Index, *, box: Box, values: NDArray[np.float16]) -> None:
    """Keep values of a block in its layer.

    Args:
        sink: The sink that stores the values.
        group: The group of the block.
        step: The pass.
        block: A block of the pass.
        box: A box of the last canvas inside `step.reach(block)`.
        values: `(bands, box.height, box.width)`.
    """
    sink.put_field(group, name=field_name(step.number, step.layer(block)), box=box, values=values)


def joined(results: Results, step: Pass, box: Box, *, classes: int) -> NDArray[np.float32]:
    """Read the probabilities of a pass in a box: the mean over the layers of its blocks, by their weights.

    A block that computed nothing of a pixel, because it has no data there, does not count.

    Args:
        results: The finished groups.
        step: The pass.
        box: A box of its last canvas.
        classes: The bands that are probabilities; they are the first.

    Returns:
        `(bands, height, width)`; 0 where no block has a value.
    """
    if not step.fade:
        return _single(results.read_field(field_name(step.number, step.layers[0]), box))
    total: NDArray[np.float32] | None = None
    weights = np.zeros((box.height, box.width), np.float32)
    for layer in step.layers:
        rows, columns = layer.weights(box)
        # Only parts of the box in which the layer has a share are read: of most layers that is a narrow rim.
        for down, across in layer.parts(box):
            part = Box.between(
                left=box.x + across.start, top=box.y + down.start, right=box.x + across.stop, bottom=box.y + down.stop
            )
            values = _single(results.read_field(field_name(step.number, layer), part))
            # No class has any probability where nothing was computed.
            known = values[:classes].max(axis=0) > 0
            weight = rows[down, None] * columns[across]
            if not known.all():
                values[:, ~known] = 0
                weight[~known] = 0
            values *= weight
            if total is None:
                total = np.zeros((len(values), box.height, box.width), np.float32)
            total[:, down, across] += values
            weights[down, across] += weight
    if total is None:
        message = f"a box has a share in some layer, got {box}"
        raise ValueError(message)
    # The division is done in place, because arrays of all classes are most of the memory of this pass.
    total /= np.where(weights > 0, weights, np.float32(1))
    return total


def _single(values: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return values in float32. PyTorch converts them five times as fast as NumPy."""
    found: NDArray[np.float32] = torch.from_numpy(values).float().numpy()
    return found


@dataclass(frozen=True, kw_only=True)
class BorderPass:
    """The pass that makes labels near the borders of the last pass's blocks, group by group."""

    plan: Plan
    what: str = "borders of blocks"

    @classmethod
    def of(cls, plan: Plan) -> tuple[BorderPass, ...]:
        """Return the pass of a plan; none where no border is blended."""
        return (cls(plan=plan),) if plan.border_groups else ()

    @property
    def step(self) -> Pass:
        """The pass whose blocks it joins."""
        return self.plan.passes[-1]

    @property
    def number(self) -> int:
        """The number after that of the last pass."""
        return len(self.plan.passes)

    @property
    def groups(self) -> int:
        """Number of groups, which is that of the last pass. Each has the borders of the same blocks."""
        return self.plan.border_groups


@dataclass(frozen=True, kw_only=True)
class Border:
    """The pixels of a block near its borders."""

    labels: tuple[tuple[Box, NDArray[np.uint8]], ...]
    """Boxes of level 0 and their labels."""
    values: tuple[tuple[Box, NDArray[np.float16]], ...]
    """Boxes of the last canvas and their probabilities, NaN where there are none; empty where they are not kept."""


class BorderRunner(Runner):
    """Joins the borders of the last pass's blocks.

    Args:
        step: The pass.
        resources: The results of the blocks, and the sink for labels.
    """

    def __init__(self, step: BorderPass, resources: Resources) -> None:
        self._plan = step.plan
        self._step = step.step
        self._resources = resources

    @override
    def read(self, group: int) -> list[Border]:
        with torch.inference_mode():
            return [self._border(block) for block in self._plan.blocks(self._step, group)]

    @override
    def compute(self, given: list[Border], known: None) -> list[Border]:
        del known
        return given

    @override
    def store(self, group: GroupId, found: list[Border]) -> dict[str, object]:
        sink, plan = self._resources.sink, self._plan
        labels, nodata = [0] * plan.classes, 0
        for border in found:
            for box, part in border.labels:
                sink.put_labels(group, box=box, labels=part)
                counted, missing = count_labels(part, plan.classes)
                labels = [a + b for a, b in zip(labels, counted, strict=True)]
                nodata += missing
            for box, values in border.values:
                if plan.probabilities:
                    sink.put_field(group, name=PROBABILITIES, box=box, values=values)
                if plan.uncertainty:
                    sink.put_field(group, name=UNCERTAINTY, box=box, values=own_uncertainty(values))
        return {"labels": labels, "nodata": nodata}

    def _border(self, block: Index) -> Border:
        step, stage = self._step, self._step.stages[-1]
        level0, own = step.level0(block), step.own(block, stage)
        wants_values = self._plan.probabilities or self._plan.uncertainty
        # A block of few pixels is read once, and a large one only near its borders.
        whole = self._joined(step.reach(block).grown(1)) if step.kept(block) == [step.reach(block)] else None
        valid = self._valid(VALID_LABELS, level0)
        labels = [
            (box, self._labels(box, whole, cut(valid, box, whole=level0)))
            for box in frame_boxes(step.inner_level0(block), level0)
        ]
        shown = self._valid(VALID_VALUES, own) if wants_values else None
        values = [
            (box, self._values(box, whole, cut(shown, box, whole=own)))
            for box in (frame_boxes(step.inner(block), own) if wants_values else [])
        ]
        return Border(labels=tuple(labels), values=tuple(values))

    def _labels(self, box: Box, canvas: Canvas | None, valid: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Make labels of a box of level 0, `(height, width)`, from a canvas that covers it or is still to be read."""
        if valid is not None and not valid.any():
            return np.full((box.height, box.width), NODATA, np.uint8)
        pitch = self._step.stages[-1].pitch
        return labels_of(canvas or self._joined(pitch.around(box, LEVEL0).grown(1)), box, valid)

    def _values(self, box: Box, canvas: Canvas | None, valid: NDArray[np.bool_] | None) -> NDArray[np.float16]:
        """Give the probabilities of a box of the last canvas."""
        values: NDArray[np.float16] = (canvas or self._joined(box)).view(box).numpy()
        return values if valid is None else np.where(valid, values, np.float16("nan"))

    def _joined(self, box: Box) -> Canvas:
        """Read the joined probabilities of the part of a box that lies in the last canvas."""
        stage = self._step.stages[-1]
        inside = box.intersection(Box.whole(stage.extent))
        values = joined(self._resources.results, self._step, inside, classes=self._plan.classes)
        return Canvas(values=torch.from_numpy(values).half(), box=inside, pitch=stage.pitch)

    def _valid(self, name: str, box: Box) -> NDArray[np.bool_] | None:
        """Return which pixels of a box get a label or a probability; None for all."""
        if not self._plan.lacks_labels or not box.area:
            return None
        return np.asarray(self._resources.results.read_stored_field(name, box)[0] == VALID)


def cut(valid: NDArray[np.bool_] | None, box: Box, *, whole: Box) -> NDArray[np.bool_] | None:
    """Cut the part under a box out of an array over a larger one; None stays None."""
    return None if valid is None else valid[box.shifted(x=-whole.x, y=-whole.y).slices]


def put_validity(sink: Sink, group: GroupId, *, name: str, box: Box, valid: NDArray[np.bool_] | None) -> None:
    """Keep which pixels of a box get a label or a probability.

    Args:
        sink: The sink that stores the validity.
        group: The group that the box belongs to.
        name: `VALID_LABELS` or `VALID_VALUES`.
        box: A box of level 0, or of the last canvas.
        valid: `(height, width)`; None where all do.
    """
    stored = np.zeros((1, box.height, box.width), np.uint8)
    if valid is not None:
        stored[0] = np.where(valid, VALID, np.uint8(NODATA))
    sink.put_field(group, name=name, box=box, values=stored)
