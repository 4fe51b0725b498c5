"""The description of a network from elsewhere in `bundle.json`, as values whose annotations are the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from magnet_cli.models.schema import ByteCount, FieldRule, Natural, Positive, Text
from magnet_cli.options.foreign_network import AxisOrder, ScoreActivation
from magnet_cli.options.segment import DeviceKind

FOLDER = "network"
"""Folder of a bundle that holds the files of a network from elsewhere."""
InputType = Literal["float32", "float16", "float64", "uint8"]


def _inside(files: Mapping[str, str]) -> Mapping[str, str]:
    for name in files:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
            message = f"names a file outside the bundle's folder: {name}"
            raise ValueError(message)
    return files


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$"), FieldRule("must be 64 small hexadecimal digits")]


@dataclass(frozen=True, kw_only=True)
class PassMemory:
    """Memory that one forward pass was measured to take."""

    batch: Positive
    """Number of patches in the pass."""
    bytes: ByteCount
    """Peak of the pass beyond what lay in memory before it."""


@dataclass(frozen=True, kw_only=True)
class ForeignSpec:
    """A network that another library made: its files, and how it is called."""

    kind: Text
    """Name of the kind, a key of `KINDS`."""
    files: Annotated[Mapping[str, Digest], AfterValidator(_inside)]
    """SHA-256 of each file by its path inside the bundle's folder `network`."""
    options: Annotated[Mapping[str, Any], FieldRule("must be an object")] = field(default_factory=dict)
    """Values that only the kind understands, such as the name of an architecture."""
    channels: Positive
    """Scores that the network gives for each pixel."""
    classes: tuple[tuple[Natural, ...], ...]
    """For each class of the mask, the channels whose probabilities are added up. A class without channels has one minus
    the largest probability of all channels: it takes the pixels that none of them claims. One score under a sigmoid
    counts as two channels: one minus the probability, and the probability."""
    activation: ScoreActivation
    """Function that turns scores into probabilities."""
    output: Text = ""
    """Name or number of the output that holds the scores; empty where there is one."""
    layout: AxisOrder = "nchw"
    """Order of the axes of the input."""
    output_layout: AxisOrder = "nchw"
    """Order of the axes of the scores."""
    input_type: InputType = "float32"
    """Type of the numbers that the network takes; `uint8` takes stored values, rounded."""
    batch: Natural = 0
    """Patches of every forward pass, where the network takes no other number; 0 where it takes any."""
    multiple: Positive = 1
    """Number that divides the sides of what the network takes. Patches are padded to it by reflection."""
    trim: Natural = 0
    """Pixels on each side of what the network takes that get no score, because it does not pad. Patches are so much
    smaller, and get a rim by reflection. The margin is at least as wide, so that cells depend on real pixels alone."""
    memory: Mapping[DeviceKind, tuple[PassMemory, ...]] = field(default_factory=dict)
    """Memory of forward passes that was measured, by kind of device."""
    runtime: Annotated[Mapping[str, str], FieldRule("must be an object of strings")] = field(default_factory=dict)
    """Versions of the packages that ran the trial pass, by name."""
    trusted: bool = False
    """Whether the user let the code inside exactly these files run."""
    trial: Text = ""
    """File in the bundle's folder with the picture and the result of the trial pass; empty where there is none."""
