"""The output of a backbone for whole scenes, scale by scale, to which refiners and temperatures are fitted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.arithmetic.canvas import reflected
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.protocol import Request
from magnet_cli.models.facts import model_facts
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan.defaults import resolve_settings
from magnet_cli.plan.windows import Pass, Stage, group_scales
from magnet_cli.system.durable import writing
from magnet_cli.train.canvases import Scratch, StageTruth, StoredField, field_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle, InputSpec
    from magnet_cli.plan.windows import Window
    from magnet_cli.train.canvases import Field, Shape, Truth
    from magnet_cli.train.scenes import LabelledScene

CHUNK = 8
"""The number of windows in one forward pass."""
FORMAT = 2
"""Increase this number when the same settings give other fields, so that stored fields are not used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneView:
    """The probabilities that a backbone gives for a scene at every scale, coarsest first."""

    name: str
    key: str
    """A hash over everything that `logs` depend on."""
    stages: tuple[Stage, ...]
    logs: tuple[Field, ...]
    """Log O at temperature 1, which is more precise than O itself near 0 and near 1."""
    labels: tuple[Truth, ...]
    scratch: Scratch
    """The room on disk for fields that are computed from `logs`."""


def stages_of(bundle: Bundle, image: Size) -> tuple[Stage, ...]:
    """Return the stages of a run with a bundle's defaults over an image read 1:1, coarsest first.

    Windows lie and are blended as in a run over an image of one block.
    """
    scales = sorted(bundle.scales, key=lambda scale: -scale.pixels)
    settings = resolve_settings(SegmentOptions(), model_facts(bundle), group_scales(scales))
    return tuple(
        Stage(
            number=number,
            scale=scale,
            input=bundle.input.size,
            margin=settings.margin,
            image=image,
            working=LEVEL0,
            blend=settings.blend,
        )
        for number, scale in enumerate(scales, start=1)
    )


def windows_of(stage: Stage) -> Iterator[Window]:
    """Return the windows of a stage, row-major, with the weights that they have in a run over an image of one block."""
    step = Pass(number=0, stages=(stage,), span=max(stage.cells.width, stage.cells.height))
    return step.windows(step.block(0), stage)


def add_window(field: StoredField, window: Window, logs: Tensor) -> None:
    """Add a window's log-probabilities to a field, by the window's weights.

    Windows have to be added in the order of `windows_of`, each once: which pixels of a window's reach hold a part of
    the sum already follows from where it lies.

    Args:
        field: The log of the sum so far.
        window: The window.
        logs: Its log-probabilities in `reach`, `(classes, reach.height, reach.width)` float32.
    """
    box, kept, fade = window.reach, window.kept, window.fade
    if window.is_sharp:
        field.write(box, logs)
        return
    rows, columns = (torch.from_numpy(part).log() for part in window.weights)
    logs = logs + (rows[:, None] + columns)
    # Windows above and to the left reach beyond their border to this one, as far as this one reaches beyond it.
    above = kept.y + fade - box.y if kept.y > box.y else 0
    beside = kept.x + fade - box.x if kept.x > box.x else 0
    sums = field.read(box).float()
    for part in ((slice(None, above), slice(None)), (slice(above, None), slice(None, beside))):
        logs[:, *part] = torch.logaddexp(logs[:, *part], sums[:, *part])
    field.write(box, logs)


def view_scene(network: nn.Module, scene: LabelledScene, *, bundle: Bundle, folder: Path) -> SceneView:
    """Return the output of a backbone for a scene at each of a bundle's scales.

    What was computed before is read from disk.

    Args:
        network: A backbone of the bundle's architecture, in eval mode.
        scene: A scene with labels.
        bundle: Its scales, input and margin.
        folder: The folder where fields are kept, each under a hash of the weights, the scene and the settings.

    Raises:
        OutputError: A field cannot be kept.
    """
    stages = stages_of(bundle, scene.size)
    weights = weights_hash(network)
    logs = []
    for stage in stages:
        rows, columns = scene.size.height, scene.size.width
        joins = [stage.margin, stage.blend]
        # The name has all that the field depends on, so a file of this name never has to be compared.
        said = [FORMAT, weights, scene.digest, str(bundle.input), str(stage.scale), *joins, rows, columns]
        path = folder / f"{short_hash(said)}.npy"
        if not path.exists():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            part = StoredField.made(path.with_suffix(".part"), shape_of(stage, bundle))
            own_logs(network, scene, stage=stage, spec=bundle.input, into=part)
            part.named(path)
        logs.append(StoredField(path))
    return SceneView(
        name=scene.name,
        key=short_hash([field.path.name for field in logs]),
        stages=stages,
        logs=tuple(logs),
        labels=tuple(StageTruth(scene.labels, stage=stage) for stage in stages),
        scratch=Scratch(folder.with_name("scratch")),
    )


def shape_of(stage: Stage, bundle: Bundle) -> Shape:
    """Return the shape of a field of a stage: classes, rows and columns."""
    return (len(bundle.classes), stage.extent.height, stage.extent.width)


def disk_of(bundle: Bundle, sizes: Sequence[Size]) -> int:
    """Return the most bytes of the fields of scenes of these sizes: one a stage, and one more a refining stage."""
    total = 0
    for size in sizes:
        taken = [field_bytes(shape_of(stage, bundle)) for stage in stages_of(bundle, size)]
        total += 2 * sum(taken) - taken[0]
    return total


def short_hash(said: Sequence[object]) -> str:
    """Return a name that is a hash of numbers and texts."""
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def weights_hash(network: nn.Module) -> str:
    """Return a hash of the names and values of a network's weights."""
    total = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        total.update(key.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


@torch.inference_mode()
def own_logs(network: nn.Module, scene: LabelledScene, *, stage: Stage, spec: InputSpec, into: StoredField) -> None:
    """Write the log-probabilities of a scene at one scale: the windows of a run of the program, by their weights."""
    place = next(network.parameters()).device
    windows = list(windows_of(stage))
    for first in range(0, len(windows), CHUNK):
        part = windows[first : first + CHUNK]
        patches = np.stack([patch_at(scene, window.box, stage=stage, spec=spec) for window in part])
        inputs = torch.from_numpy(patches).to(place).contiguous(memory_format=torch.channels_last)
        logs = network(inputs).float().log_softmax(dim=1).cpu()
        for window, one in zip(part, logs, strict=True):
            add_window(into, window, one[:, *inside(window)])


def inside(window: Window) -> tuple[slice, slice]:
    """Return the rows and columns of a window's patch that lie in its reach."""
    return window.reach.shifted(x=-window.box.x, y=-window.box.y).slices


def patch_at(scene: LabelledScene, box: Box, *, stage: Stage, spec: InputSpec) -> NDArray[np.float32]:
    """Return a box of a stage's canvas grid for the network, read as a run of the program reads it: `(bands, h, w)`."""
    inside = box.intersection(Box.whole(stage.extent))
    pixels = scene.pixels.sample(Request(pitch=stage.pitch, box=inside, resample=spec.resample))
    if box != inside:
        pixels = pixels[np.ix_(reflected(inside.height, box.height), reflected(inside.width, box.width))]
    low, high = spec.range
    scaled = (pixels - np.float32(low)) / np.float32(high - low)
    normal = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))
