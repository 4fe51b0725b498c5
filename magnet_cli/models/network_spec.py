"""The description of a model bundle, as values whose annotations are the rules of `bundle.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, log
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from magnet_cli.geometry import Size
from magnet_cli.models.foreign.foreign_spec import FOLDER, ForeignSpec
from magnet_cli.models.schema import FieldRule, Natural, Positive, Text, no_larger
from magnet_cli.options.foreign_network import PreparationKind
from magnet_cli.options.segment import Compat, DeviceKind, Merge
from magnet_cli.options.shared import Precision

HASH_RULE = "must be 64 small hexadecimal digits"
MOST_CLASSES = 255
"""Masks have 8 bits, and 255 means not computed."""
Value = TypeVar("Value")
Numbers = Annotated[tuple[float, ...], FieldRule("must be an array of numbers")]


def _not_too_large(size: Size) -> Size:
    no_larger(max(size.width, size.height))
    return size


Sides = Annotated[
    Size,
    FieldRule("must be a width and a height, both whole numbers of at least 1"),
    AfterValidator(_not_too_large),
]


def _must(value: Value, rule: str, *, holds: object) -> Value:
    if not holds:
        raise ValueError(rule)
    return value


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    return _must(names, "must be an array of different names", holds=names and len(set(names)) == len(names))


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    return _must(span, "must rise", holds=span[0] < span[1])


def _all_positive(values: tuple[float, ...]) -> tuple[float, ...]:
    return _must(values, "must be positive", holds=min(values, default=0) > 0)


def _odd(value: int) -> int:
    return _must(value, "must be odd", holds=value % 2)


def _file_name(name: str) -> str:
    # A name with folders in it could lead out of the bundle.
    holds = Path(name).name == name and name.endswith(".safetensors")
    return _must(name, "must be the name of a .safetensors file in the bundle's folder", holds=holds)


def _domain(name: str) -> str:
    holds = not name or re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name)
    return _must(name, "must be one word in small letters, such as aerial or histology", holds=holds)


def _scale(key: str) -> Size:
    match = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", key)
    if match is None:
        message = f"has a key that is no scale: {key}"
        raise ValueError(message)
    return Size(width=int(match[1]), height=int(match[2] or match[1]))


def _is_number(value: object) -> bool:
    # A bool is an int in Python, and `true` is no number in JSON.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


def _exact(value: object) -> Fraction:
    """Return a number as it is written: 0.1 is one tenth."""
    return Fraction(str(_must(value, "must be a positive number", holds=_is_positive(value))))


def _selection(value: object) -> str:
    """Return a selection as the command line would spell it: a string, a number, or numbers with commas."""
    values = value if isinstance(value, list) else [value]
    holds = values and (isinstance(value, str) or all(map(_is_number, values)))
    _must(value, "must be a string, a number or an array of numbers", holds=holds)
    return ",".join(map(str, values))


def _square(value: object) -> object:
    """Return a scale that may be written as the side of a square."""
    return {"width": value, "height": value} if _is_number(value) else value


def _class_list(classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
    rule = f"must be 2 to {MOST_CLASSES}, not {len(classes)}"
    _must(classes, rule, holds=2 <= len(classes) <= MOST_CLASSES)  # noqa: PLR2004 - a mask of one class says nothing
    return _must(classes, "must have different names", holds=len({item.name for item in classes}) == len(classes))


def _some(scales: tuple[Size, ...]) -> tuple[Size, ...]:
    return _must(scales, "must name at least one scale", holds=scales)


Selection = Annotated[str, BeforeValidator(_selection)]


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """One class; its index is its position."""

    name: Text
    """The name of the class, which differs from those of the others."""
    color: Annotated[str, Field(pattern="^#[0-9A-Fa-f]{6}$"), FieldRule("must be written #RRGGBB")]
    """The colour of the class in masks."""


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """Bands and values of an image as a network expects them."""

    bands: Annotated[tuple[str, ...], AfterValidator(_different), FieldRule("must be an array of different names")]
    """Names of the bands, in the order in which the network gets them."""
    range: Annotated[tuple[float, float], FieldRule("must be an array of 2 numbers"), AfterValidator(_rising)]
    """Stored values that map to 0 and 1, before mean and standard deviation."""
    mean: Numbers
    """Mean of each band, of values from 0 to 1."""
    std: Annotated[Numbers, AfterValidator(_all_positive)]
    """Standard deviation of each band."""


@dataclass(frozen=True, kw_only=True)
class InputSpec(PixelSpec):
    """The input of the backbone."""

    size: Sides
    """Size of a patch, in pixels of the network."""
    resample: Literal["area", "bilinear"]
    """How windows are made smaller: by the mean of the pixels, or as OpenCV's bilinear interpolation does it."""


@dataclass(frozen=True, kw_only=True)
class PixelSize:
    """Physical size of a working-grid pixel."""

    value: Annotated[Fraction, PlainValidator(_exact)]
    """Width and height of the pixel."""
    unit: Literal["um", "m"]
    """Micrometres or metres."""


@dataclass(frozen=True, kw_only=True)
class MagnetDefaults:
    """Defaults of the method, as they would be written on the command line."""

    merge: Merge
    """Default of `--merge`."""
    points: Selection
    """Default of `--points`."""
    patches: Selection
    """Default of `--patches` with `--method magnet-fast`."""
    median: Annotated[Positive, AfterValidator(_odd)]
    """Default of `--median`."""
    margin: Natural
    """Pixels at the rim of a patch that a network judges badly; windows overlap by at least twice as many."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Divisor of logits before the activation: one number, or a number for each scale."""

    default: float = 1.0
    scales: tuple[tuple[Size, float], ...] = ()

    def at(self, scale: Size) -> float:
        """Return the temperature of the scale nearest in ratio."""
        if not self.scales:
            return self.default
        return min(self.scales, key=lambda item: distance(item[0], scale))[1]

    @classmethod
    def parse(cls, value: object) -> Temperature:
        """Return one number, or a number a scale, whose key is a side (`612`) or a width and height (`2048x1024`).

        Raises:
            ValueError: The value is neither.
        """
        values: dict[str, Any] = value if isinstance(value, dict) else {"": value}
        holds = values and all(map(_is_positive, values.values()))
        _must(value, "must be a positive number, or one a scale", holds=holds)
        if not isinstance(value, dict):
            return cls(default=float(values[""]))
        return cls(scales=tuple((_scale(key), float(item)) for key, item in values.items()))


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """One network and the file of its weights."""

    architecture: Text
    """Name of the architecture, as training configurations have it."""
    options: Annotated[Mapping[str, Any], FieldRule("must be an object")] = field(default_factory=dict)
    """Values that only the architecture understands."""
    temperature: Annotated[Temperature, PlainValidator(Temperature.parse)] = Temperature()
    """Divisor of the scores before the activation: one number, or one for each scale."""
    file: Annotated[str, AfterValidator(_file_name)]
    """Name of a `.safetensors` file in the bundle's folder."""
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$"), FieldRule(HASH_RULE)] = None
    """SHA-256 of the file. Bundles that come with the program must state it."""


@dataclass(frozen=True, kw_only=True)
class RefinerSpec(NetworkSpec):
    """A refiner of a bundle."""

    scale: Annotated[Sides | None, BeforeValidator(_square)] = None
    """Scale that it was trained for; None serves every scale."""
    input: Literal["own-first", "field-first"]
    """The field that it gets first: the network's own result of the window, or that of the stage before."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The batch size with which a bundle runs best on one kind of device in one precision."""

    batch: Positive
    """Number of patches in a forward pass."""
    agreement: Annotated[float | None, Field(ge=0, le=1), FieldRule("must be a share of pixels, 0 to 1")] = None
    """Share of pixels that get the same class as in float32; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Keys of `bundle.json` that every bundle has."""

    name: Text
    """The name of the bundle."""
    domain: Annotated[Text, AfterValidator(_domain)] = ""
    """The kind of image that the bundle was trained on: `aerial`, `histology`, `fundus`, ...; empty where unknown."""
    licence: Text = ""
    """Licence of the weights."""
    source: Text = ""
    """Where the weights come from."""
    metrics: Annotated[Mapping[str, Any], FieldRule("must be an object")] = field(default_factory=dict)
    """Scores of the bundle. The program shows them and reads nothing else from them."""
    execution: Mapping[DeviceKind, Mapping[Precision, Execution]] = field(default_factory=dict)
    """Execution settings by kind of device and precision. Elsewhere the program's own numbers hold."""
    origins: Annotated[tuple[str, ...], FieldRule("must be an array of strings")] = ()
    """The source of the bundle's values, a sentence each; empty where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Described(Description):
    """A description that was read from a bundle's folder."""

    folder: Path
    digest: str
    """SHA-256 over bundle.json and the hashes of the weights."""
    notes: tuple[str, ...] = field(default=())
    """Messages for the user about the bundle."""

    def runs(self, device: str, precision: str) -> Execution | None:
        """Return the execution settings for a kind of device and a precision, or None where there are none."""
        kinds = (runs for kind, runs in self.execution.items() if kind == device)
        return next((run for runs in kinds for name, run in runs.items() if name == precision), None)


@dataclass(frozen=True, kw_only=True)
class SegmentationDescription(Description):
    """Keys of `bundle.json` of a bundle that predicts classes, without its networks."""

    classes: Annotated[tuple[ClassSpec, ...], AfterValidator(_class_list)]
    """The classes, 2 to 255. The index of a class in masks is its place in the list."""
    input: InputSpec
    """What the backbone gets."""
    activation: Literal["softmax", "sigmoid", "none"]
    """Function from scores to probabilities; `none` where the network gives probabilities."""
    scales: Annotated[tuple[Sides, ...], AfterValidator(_some)]
    """Scales that it was trained at; the default of `--scales`."""
    resolution: PixelSize | None = None
    """Size of a pixel of the working grid. None takes every image at its own size of a pixel."""
    magnet: MagnetDefaults
    """Defaults of the method."""
    compat: Compat = "paper"
    """Default of `--compat`: the arithmetic that the bundle is meant for."""
    preparation: PreparationKind = "none"
    """Treatment of a stained section before normalisation, with values of the whole image."""


@dataclass(frozen=True, kw_only=True)
class CascadeDescription(Description):
    """Keys of `bundle.json` of a bundle that sharpens masks, without its network."""

    input: PixelSpec
    """What the network gets of the image."""
    side: Positive
    """L: the longer side in the global step, and the side of the local step's windows, unless a run says otherwise."""
    compat: Literal["paper", "published"] = "paper"
    """The arithmetic that the bundle is meant for."""


@dataclass(frozen=True, kw_only=True)
class Bundle(SegmentationDescription, Described):
    """A bundle that predicts classes, read and checked; weights are checked when they are loaded."""

    backbone: NetworkSpec
    refiners: tuple[RefinerSpec, ...]
    selector: NetworkSpec | None
    """A selector of cells or windows of an image."""
    local: NetworkSpec | None
    """A GRNet's local branch."""
    foreign: ForeignSpec | None = None
    """The description of a network that another library made, which stands in for `backbone`; None for one of the
    program's own architectures."""
    network_folder: Path | None = None
    """Folder of that network's files, where it is not the bundle's own `network`."""

    @property
    def foreign_files(self) -> Path:
        """The folder that holds the files of a network that another library made."""
        return self.network_folder or self.folder / FOLDER

    @property
    def logits(self) -> int:
        """The channels that the backbone returns: one where a sigmoid separates two classes."""
        two = 2
        return 1 if self.activation == "sigmoid" and len(self.classes) == two else len(self.classes)

    @property
    def networks(self) -> tuple[tuple[str, NetworkSpec], ...]:
        """Its networks, each with its role: `backbone`, `refiner`, `selector` or `local`."""
        refiners = (("refiner", spec) for spec in self.refiners)
        optional = (("selector", self.selector), ("local", self.local))
        return ("backbone", self.backbone), *refiners, *((role, spec) for role, spec in optional if spec is not None)

    def refiner_for(self, scale: Size) -> int | None:
        """Return the index of the refiner whose trained scale is nearest in ratio; None without refiners."""
        if not self.refiners:
            return None

        def far(index: int) -> float:
            trained = self.refiners[index].scale
            return float("inf") if trained is None else distance(trained, scale)

        return min(range(len(self.refiners)), key=far)


@dataclass(frozen=True, kw_only=True)
class CascadeBundle(CascadeDescription, Described):
    """A bundle that sharpens masks, read and checked; weights are checked when they are loaded."""

    network: NetworkSpec
    kind_of_object: str = ""
    """The one kind of object that it was trained on, such as `building`; empty where it takes any."""

    @property
    def exact(self) -> bool:
        """Whether its network runs without optimisations that change a probability's last digits."""
        return self.compat == "published"

    @property
    def networks(self) -> tuple[tuple[str, NetworkSpec], ...]:
        """Its one network, with its role."""
        return (("cascade", self.network),)


def distance(one: Size, other: Size) -> float:
    """Return how far apart two scales are, as a ratio of sides."""
    return abs(log(one.width / other.width)) + abs(log(one.height / other.height))
