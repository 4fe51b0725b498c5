"""Options that describe a network from elsewhere: each takes the place of what the network's own files state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.forms import SWITCH, TEXT, WHOLE, choice
from magnet_cli.options.lengths import PhysicalScales, in_unit
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, OptionGroup, PathOption
from magnet_cli.options.scales import parse_scales

ScoreActivation = Literal["softmax", "sigmoid", "none", "share"]
ValueKind = Literal["normalised", "stored"]
AxisOrder = Literal["nchw", "nhwc"]
PreparationKind = Literal["none", "stains", "macenko", "reinhard"]

IMAGENET = "imagenet"
IMAGENET_VALUES = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and standard deviation of red, green and blue in ImageNet, for values from 0 to 1."""
NETWORK = ("network", "")
"""The option without which the others of a network from elsewhere have no meaning, whatever its value is."""
REST = "rest"
"""Word of `--classes` for the sum of all channels that no other class names."""
NONE = "none"
"""Word of `--classes` for the pixels that no channel claims, where each channel has a probability of its own."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?"
_SUM = re.compile(r"\d{1,5}(?:\+\d{1,5})*|rest|none")


@dataclass(frozen=True, kw_only=True)
class ClassChoice:
    """One class of the mask, and the channels of the network that are added up for it."""

    name: str
    channels: tuple[int, ...] | None
    """Numbers of the channels (the first is 0). Empty takes every channel that no other class names; None takes the
    channel at the class's own position."""
    unclaimed: bool = False
    """Whether the class is that of the pixels for which no channel is likely; it has no channels then."""


def parse_class_choices(text: str, option: str) -> tuple[ClassChoice, ...] | int:
    """Parse `3`, names in the order of the channels, or `wall=0,building=1+25,other=rest`, or `a=0,b=1,ground=none`.

    Raises:
        UsageError: The text has none of these forms.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) == 1 and re.fullmatch(r"\d{1,9}", words[0]):
        return int(words[0])
    names = [word.partition("=")[0].strip() for word in words]
    sums = [word.partition("=")[2].strip() for word in words if "=" in word]
    right = all(names) and len(set(names)) == len(names) and len(sums) in (0, len(words))
    # Two classes with the rest would count the same channels twice.
    if not right or not all(map(_SUM.fullmatch, sums)) or sums.count(REST) > 1 or sums.count(NONE) > 1:
        raise UsageError(
            f"{option} is a number of classes, their different names in order, or NAME=CHANNEL+CHANNEL for each class",
            value=repr(text),
            advice=f"Write {option} background,tissue or {option} building=1+25,road=6,other=rest",
        )
    if not sums:
        return tuple(ClassChoice(name=name, channels=None) for name in names)
    return tuple(
        ClassChoice(
            name=name,
            channels=() if each in (REST, NONE) else tuple(map(int, each.split("+"))),
            unclaimed=each == NONE,
        )
        for name, each in zip(names, sums, strict=True)
    )


def spell_class_choices(value: tuple[ClassChoice, ...] | int) -> str:
    """Write classes as `parse_class_choices` reads them."""
    if isinstance(value, int):
        return str(value)
    return ",".join(
        each.name
        if each.channels is None
        else f"{each.name}={'+'.join(map(str, each.channels)) or (NONE if each.unclaimed else REST)}"
        for each in value
    )


def _parse_numbers(text: str, option: str) -> tuple[float, ...] | str:
    if text.strip().lower() == IMAGENET:
        return IMAGENET
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(_NUMBER, word) for word in words):
        raise UsageError(
            f"{option} is a number for each band, or the word {IMAGENET}",
            value=repr(text),
            advice=f"Write {option} 0.5,0.5,0.5",
        )
    return tuple(map(float, words))


def _spell_numbers(value: tuple[float, ...] | str) -> str:
    return value if isinstance(value, str) else ",".join(map(repr, value))


def _parse_span(text: str, option: str) -> tuple[float, float]:
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(re.fullmatch(_NUMBER, word) for word in words) or float(words[0]) >= float(words[1]):  # noqa: PLR2004 - two ends
        raise UsageError(
            f"{option} is LOW,HIGH in stored values, with LOW below HIGH",
            value=repr(text),
            advice=f"Write {option} 0,10000",
        )
    return float(words[0]), float(words[1])


def _parse_size(text: str, option: str) -> Size:
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text.strip().lower())
    if match is None:
        raise UsageError(f"{option} is a side or WIDTHxHEIGHT in pixels", value=repr(text), advice="Write 512")
    return Size(width=int(match[1]), height=int(match[2] or match[1]))


def _parse_names(text: str, option: str) -> tuple[str, ...]:
    names = tuple(word.strip() for word in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"{option} are the different names of the network's bands, in its order",
            value=repr(text),
            advice=f"Write {option} red,green,blue",
        )
    return names


def _parse_pixel(text: str, option: str) -> str:
    try:
        found: object = parse_scales(text)
    except UsageError:
        found = None
    if not isinstance(found, PhysicalScales) or len(found.sizes) != 1 or found.sizes[0].width != found.sizes[0].height:
        raise UsageError(f"{option} is a length with a unit", value=repr(text), advice=f"Write {option} 0.5um or 0.3m")
    return text.strip()


def pixel_in_unit(text: str) -> tuple[str, Literal["um", "m"]]:
    """Return a pixel's size as `--pixel` takes it, as a decimal number and its unit: micrometres or metres."""
    found = parse_scales(text)
    if not isinstance(found, PhysicalScales):
        raise UsageError("--pixel is a length with a unit", value=repr(text), advice="Write --pixel 0.5um or 0.3m")
    unit: Literal["um", "m"] = "um" if found.sizes[0].unit in ("nm", "um", "mm") else "m"
    return f"{float(in_unit(found.sizes[0].width, unit)):.12g}", unit


CLASS_CHOICES = Form(
    parse=parse_class_choices,
    spell=spell_class_choices,
    types=(int, tuple),
    metavar="LIST",
    convert=lambda value: value,
)
NUMBERS = Form(
    parse=_parse_numbers,
    spell=_spell_numbers,
    types=(tuple, list),
    convert=lambda v: tuple(map(float, v)),
    metavar="LIST",
)
SPAN = Form(
    parse=_parse_span,
    spell=lambda value: ",".join(map(repr, value)),
    types=(tuple, list),
    convert=lambda value: (float(value[0]), float(value[1])),
    metavar="LOW,HIGH",
)
SIDES = Form(
    parse=_parse_size,
    types=(Size, Integral),
    convert=lambda value: value if isinstance(value, Size) else Size(width=int(value), height=int(value)),
    metavar="SIZE",
)
NAMES = Form(
    parse=_parse_names, spell=",".join, types=(tuple, list), convert=lambda v: _parse_names(",".join(v), "bands"),
    metavar="NAMES",
)  # fmt: skip
PIXEL = Form(parse=_parse_pixel, types=(), metavar="LENGTH")
NETWORK_FILE = Form(parse=lambda text, _: text, types=(), metavar="PATH")


@dataclass(kw_only=True, unsafe_hash=True)
class NetworkOptions(OptionGroup, panel="Network from elsewhere", needs=NETWORK):
    """A network from elsewhere, and the values that its own files do not state or state otherwise."""

    network: PathOption[str | None] = PathOption(
        None,
        NETWORK_FILE,
        about="A network from elsewhere: the folder or file in which another library saved it.",
        rival="model",
    )
    classes: Option[tuple[ClassChoice, ...] | int | None] = Option(
        None,
        CLASS_CHOICES,
        about="Classes of the network: a number, names in order, or NAME=CHANNEL+CHANNEL,...,NAME=rest, which keeps "
        "some channels and adds up others; NAME=none takes the pixels that no channel claims.",
    )
    network_bands: ListOption[tuple[str, ...] | None] = ListOption(
        None, NAMES, about="Bands of the network in its order, like red,green,blue,nir or blue,green,red."
    )
    input: NumericOption[Size | None] = NumericOption(
        None, SIDES, about="Size of the network's input in pixels: 512 or 512x384."
    )
    range: ListOption[tuple[float, float] | None] = ListOption(
        None, SPAN, about="Stored values that become 0 and 1 before mean and standard deviation, like 0,10000."
    )
    values: Option[ValueKind | None] = Option(
        None,
        choice(ValueKind),
        about="What the network takes: normalised values, or stored values, which it normalises itself.",
        panel="How that network is called",
    )
    mean: ListOption[tuple[float, ...] | str | None] = ListOption(
        None, NUMBERS, about="Mean of each band, of values from 0 to 1, or imagenet."
    )
    std: ListOption[tuple[float, ...] | str | None] = ListOption(
        None, NUMBERS, about="Standard deviation of each band, or imagenet."
    )
    pixel: Option[str | None] = Option(
        None, PIXEL, about="Physical size of a pixel at which the network was trained, like 0.5um or 0.3m."
    )
    activation: Option[ScoreActivation | None] = Option(
        None,
        choice(ScoreActivation),
        about="What makes probabilities of the network's scores; none for scores that are probabilities, share for "
        "scores that are divided by their sum.",
    )
    output_name: Option[str | None] = Option(
        None,
        TEXT,
        about="Name or number of the output that holds the scores, where there are several.",
        panel="How that network is called",
    )
    multiple: Option[int | None] = Option(
        None,
        WHOLE,
        about="Number that has to divide the sides of what the network takes; patches are padded to it.",
        panel="How that network is called",
        least=1,
    )
    trim: Option[int | None] = Option(
        None,
        WHOLE,
        about="Pixels by which the network's output is smaller than its input on each side, without padding.",
        panel="How that network is called",
        least=0,
    )
    layout: Option[AxisOrder | None] = Option(
        None,
        choice(AxisOrder),
        about="Order of the axes of the network's input: nchw (bands first) or nhwc.",
        panel="How that network is called",
    )
    preparation: Option[PreparationKind | None] = Option(
        None,
        choice(PreparationKind),
        about="What is done to a stained section before normalisation: stains (eosin, hematoxylin and density instead "
        "of colours), macenko or reinhard (colours like those of a reference).",
        panel="How that network is called",
    )
    trust: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Run a network whose file holds code. It is asked for again when the file changes.",
        variable="",
    )

    def __post_init__(self) -> None:
        given = self.given_for(NETWORK)
        if self.network is None and given:
            raise UsageError(
                f"{given[0]} describes a network from elsewhere, which --network names",
                value=", ".join(given),
                advice="Add --network PATH, or leave it out",
            )
        if isinstance(self.std, tuple) and min(self.std) <= 0:
            raise UsageError(
                "--std is positive",
                value=",".join(map(str, self.std)),
                advice="Write positive numbers, one for each band",
            )
        if self.values == "stored" and (self.mean is not None or self.std is not None):
            raise UsageError(
                "--values stored hands the stored values on, without mean and standard deviation",
                advice="Leave --mean and --std out",
            )


FOREIGN = Form(parse=lambda text, _: NetworkOptions(network=text), types=(NetworkOptions,))
