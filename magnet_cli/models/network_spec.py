"""The description of a model bundle, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction
    from pathlib import Path

    from magnet_cli.geometry import Size


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """One class; its index is its position."""

    name: str
    color: str
    """`#RRGGBB`."""


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """What the values of an image mean to a network."""

    bands: tuple[str, ...]
    range: tuple[float, float]
    """Stored values that map to 0 and 1, before mean and standard deviation."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class InputSpec(PixelSpec):
    """The input of the backbone."""

    size: Size
    resample: str
    """`area` or `bilinear`."""


@dataclass(frozen=True, kw_only=True)
class PixelSize:
    """Physical size of a working-grid pixel."""

    value: Fraction
    unit: str
    """`um` or `m`."""


@dataclass(frozen=True, kw_only=True)
class MagnetDefaults:
    """Defaults of the method, as they would be written on the command line."""

    merge: str
    """`refiner`, `mean` or `certainty`."""
    points: str
    patches: str
    median: int
    margin: int


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """What logits are divided by before the activation: one number, or a number a scale."""

    default: float = 1.0
    scales: tuple[tuple[Size, float], ...] = ()

    def at(self, scale: Size) -> float:
        """The temperature of the scale nearest in ratio."""
        if not self.scales:
            return self.default
        return min(self.scales, key=lambda item: distance(item[0], scale))[1]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """One network and the file of its weights."""

    architecture: str
    options: Mapping[str, Any]
    temperature: Temperature
    file: str
    """Name, in the bundle's folder."""
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class RefinerSpec(NetworkSpec):
    """A refiner of a bundle."""

    scale: Size | None
    """Trained for; None serves every scale."""
    input: str
    """`own-first` or `field-first`."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a bundle is best run on one kind of device in one precision."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    precision: str
    batch: int
    """Patches a forward pass."""
    agreement: float | None = None
    """Share of pixels that get the same class as in float32; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """The facts that every bundle gives."""

    name: str
    licence: str
    source: str
    metrics: Mapping[str, Any]
    execution: tuple[Execution, ...]
    """At most one entry for a kind of device and a precision; the program's own numbers serve others."""
    origins: tuple[str, ...]
    """The source of the bundle's values; empty where it is not known."""
    folder: Path
    digest: str
    """SHA-256 over bundle.json and the hashes of the weights."""
    notes: tuple[str, ...] = field(default=())
    """Messages for the user about the bundle."""

    def runs(self, device: str, precision: str) -> Execution | None:
        """Return the bundle's entry for a kind of device and a precision."""
        found = (item for item in self.execution if (item.device, item.precision) == (device, precision))
        return next(found, None)


@dataclass(frozen=True, kw_only=True)
class Bundle(Described):
    """A bundle that predicts classes, read and checked; weights are checked when they are loaded."""

    classes: tuple[ClassSpec, ...]
    input: InputSpec
    activation: str
    """`softmax` or `sigmoid`."""
    scales: tuple[Size, ...]
    """Trained at; the default of `--scales`."""
    resolution: PixelSize | None
    magnet: MagnetDefaults
    compat: str
    backbone: NetworkSpec
    refiners: tuple[RefinerSpec, ...]
    selector: NetworkSpec | None
    """A selector of cells or windows of an image."""
    local: NetworkSpec | None
    """A GRNet's local branch."""

    @property
    def logits(self) -> int:
        """Channels that the backbone gives: one where a sigmoid tells two classes apart."""
        two = 2
        return 1 if self.activation == "sigmoid" and len(self.classes) == two else len(self.classes)

    @property
    def networks(self) -> tuple[tuple[str, NetworkSpec], ...]:
        """Its networks, each with its role: `backbone`, `refiner`, `selector` or `local`."""
        refiners = (("refiner", spec) for spec in self.refiners)
        optional = (("selector", self.selector), ("local", self.local))
        return ("backbone", self.backbone), *refiners, *((role, spec) for role, spec in optional if spec is not None)

    def refiner_for(self, scale: Size) -> int | None:
        """Index of the refiner whose trained scale is nearest in ratio; None without refiners."""
        if not self.refiners:
            return None

        def far(index: int) -> float:
            trained = self.refiners[index].scale
            return float("inf") if trained is None else distance(trained, scale)

        return min(range(len(self.refiners)), key=far)


@dataclass(frozen=True, kw_only=True)
class CascadeBundle(Described):
    """A bundle that sharpens masks, read and checked; weights are checked when they are loaded."""

    input: PixelSpec
    side: int
    """L: the longer side in the global step, and the side of the local step's windows, unless a run says otherwise."""
    compat: str
    """`paper` or `published`: the arithmetic that it is meant for."""
    network: NetworkSpec
    kind_of_object: str = ""
    """The one kind of object that it was trained on, such as `building`; empty where it takes any."""

    @property
    def exact(self) -> bool:
        """Whether its network runs without what changes a probability's last digits."""
        return self.compat == "published"

    @property
    def networks(self) -> tuple[tuple[str, NetworkSpec], ...]:
        """Its one network, with its role."""
        return (("cascade", self.network),)


def distance(one: Size, other: Size) -> float:
    """How far apart two scales are, as a ratio of sides."""
    return abs(log(one.width / other.width)) + abs(log(one.height / other.height))
