"""The description of a network from elsewhere, joined from the facts in its files and the options of the user."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.options.foreign_network import IMAGENET_VALUES, pixel_in_unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.geometry import Size
    from magnet_cli.options.foreign_network import ClassChoice, NetworkOptions

OPTION_OF = {
    "classes": "--classes",
    "bands": "--network-bands",
    "input": "--input",
    "range": "--range",
    "values": "--values",
    "mean": "--mean",
    "std": "--std",
    "pixel": "--pixel",
    "activation": "--activation",
    "output": "--output-name",
    "multiple": "--multiple",
    "trim": "--trim",
    "layout": "--layout",
    "preparation": "--preparation",
}
"""The option that supplies a value or replaces it."""
EXAMPLES = {"input": "512", "mean": "imagenet", "std": "imagenet", "activation": "softmax", "bands": "red,green,blue"}
FIELDS = {"bands": "network_bands", "output": "output_name"}
"""Fields of `NetworkOptions` that are not called as their value."""
ASSUMED = {
    "range": Stated(value=(0.0, 255.0), origin="assumed: 8-bit values; images with others are refused"),
    "values": Stated(value="normalised", origin="assumed"),
    "output": Stated(value="", origin="assumed: there is one output"),
    "multiple": Stated(value=1, origin="assumed: any size"),
    "layout": Stated(value="nchw", origin="assumed"),
    "output_layout": Stated(value="nchw", origin="assumed"),
    "input_type": Stated(value="float32", origin="assumed"),
    "preparation": Stated(value="none", origin="assumed"),
    "batch": Stated(value=0, origin="assumed: any number of patches"),
}
"""Values that are taken where nothing states them: a trial pass or the image's own check shows where they are wrong."""
LARGEST_SHARE = 4.0
"""A mean or a standard deviation beyond it is one of stored values. Those of values from 0 to 1 lie there themselves,
and those that move such values to other ends, such as -1 and 1, lie near."""
MOST_CLASSES = 255
"""Classes of a mask: the last value of a byte marks pixels that were not computed."""
BYTES = (0.0, 255.0)
COLOURS = {1: ("gray",), 3: ("red", "green", "blue")}
"""Names of bands by their number, where nothing names them."""


@dataclass(frozen=True, kw_only=True)
class ForeignDescription:
    """Everything that is known of a network, each value with its origin."""

    reading: NetworkReading
    values: Mapping[str, Stated] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """Return a value by its name."""
        return self.values[name].value

    def get(self, name: str) -> Any:
        """Return a value by its name; None where it is not known."""
        return self.values[name].value if name in self.values else None

    def with_value(self, name: str, value: object, origin: str) -> ForeignDescription:
        """Return the description with another value."""
        return replace(self, values={**self.values, name: Stated(value=value, origin=origin)})

    def lines(self) -> list[str]:
        """Return each value with its origin, a line each, in a fixed order."""
        ordered = sorted(self.values, key=lambda name: (name not in OPTION_OF, [*OPTION_OF, name].index(name)))
        return [f"{name}: {spelled(self[name])}  ({self.values[name].origin})" for name in ordered]


def spelled(value: object) -> str:
    """Return a value of a description as a line shows it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(getattr(each, "name", None) or spelled(each) for each in value)
    return str(value)


def described(reading: NetworkReading, options: NetworkOptions) -> ForeignDescription:
    """Join the facts in the files with the user's options, before the network is tried.

    Raises:
        WeightsError: Values are missing that no trial pass can find; the message names the option for each.
        UsageError: Values contradict each other.
    """
    values = {**ASSUMED, **reading.stated}
    for name, option in OPTION_OF.items():
        given = getattr(options, FIELDS.get(name, name))
        if given is not None:
            values[name] = Stated(value=given, origin=option)
    for name in ("mean", "std"):
        _refuse_stored_units(name, getattr(options, name), values["range"].value, is_given=options.range is not None)
    if "bands" not in values and "imagenet" in (options.mean, options.std):
        values["bands"] = Stated(value=COLOURS[3], origin="ImageNet's mean and standard deviation are of these bands")
    values = _with_bands(values)
    values = _with_normalisation(values, given=options)
    _refuse_incomplete(ForeignDescription(reading=reading, values=values))
    if "pixel" not in values:
        values["pixel"] = Stated(
            value=None, origin="not stated: every image is taken at its own size of a pixel; --pixel states it"
        )
    return ForeignDescription(reading=reading, values=values)


def _refuse_stored_units(
    name: str, given: tuple[float, ...] | str | None, span: tuple[float, float], *, is_given: bool
) -> None:
    """Refuse means and standard deviations of stored values, such as 123.675 for bytes.

    A network that gets values so small sees nearly the same dark patch everywhere, and its mask is plausible and wrong.
    """
    if given is None or isinstance(given, str):
        return
    advice = advice_for_stored(name, given, span, is_given=is_given)
    if advice is not None:
        raise UsageError(
            f"--{name} is of values from 0 to 1, which --range makes of the stored ones, and these fit stored values",
            value=",".join(f"{value:g}" for value in given),
            advice=advice,
        )


def advice_for_stored(
    name: str, given: Sequence[float], span: tuple[float, float], *, is_given: bool = False
) -> str | None:
    """Return the options that give numbers of stored values as they are taken; None where they are taken as they are.

    Args:
        name: `mean` or `std`.
        given: A number for each band, or one for all.
        span: Stored values that become 0 and 1.
        is_given: Whether the user has given them: images whose values are no bytes have other ends.
    """
    if max(map(abs, given)) <= LARGEST_SHARE:
        return None
    if is_given and span[1] - span[0] <= LARGEST_SHARE:
        return "Give the ends of the stored values by --range, and mean and std as shares of it"
    (low, high), said = (span, "") if span[1] - span[0] > LARGEST_SHARE else (BYTES, "--range 0,255 ")
    less = low if name == "mean" else 0.0
    shares = ",".join(f"{(value - less) / (high - low):.4g}" for value in given)
    return f"Give {said}--{name} {shares}"


def _refuse_incomplete(description: ForeignDescription) -> None:
    missing = [name for name in ("bands", "input", "mean", "std") if name not in description.values]
    if not missing:
        return
    found = "; ".join(description.lines())
    raise WeightsError(
        f"the network's files do not state {', '.join(missing)}; known or assumed are {found}",
        file=description.reading.path,
        advice="Give " + " ".join(f"{OPTION_OF[name]} {EXAMPLES[name]}" for name in missing) + ", with its own values",
    )


def _with_bands(values: dict[str, Stated]) -> dict[str, Stated]:
    found = values.get("bands")
    if found is None or not isinstance(found.value, int):
        return values
    names = COLOURS.get(found.value, tuple(f"band{number + 1}" for number in range(found.value)))
    origin = f"{found.origin} is {found.value}; names are assumed"
    return {**values, "bands": Stated(value=names, origin=origin)}


def _with_normalisation(values: dict[str, Stated], *, given: NetworkOptions) -> dict[str, Stated]:
    """Return mean and standard deviation for each band, and those that hand stored values on."""
    if "bands" not in values:
        return values
    bands = values["bands"].value
    if values["values"].value == "stored":
        if given.mean is not None or given.std is not None:
            raise UsageError(
                "a network that takes stored values has no mean and standard deviation",
                value=values["values"].origin,
                advice="Leave --mean and --std out, or add --values normalised",
            )
        low, high = values["range"].value
        origin = f"stored values ({values['values'].origin})"
        values = {
            **values,
            # The range maps stored values to 0..1. This mean and deviation map them back, so the network gets what is
            # stored.
            "mean": Stated(value=(-low / (high - low),) * len(bands), origin=origin),
            "std": Stated(value=(1 / (high - low),) * len(bands), origin=origin),
        }
    for name in ("mean", "std"):
        if name not in values:
            continue
        found, origin = values[name].value, values[name].origin
        if found == "imagenet":
            if set(bands) != {"red", "green", "blue"} or len(bands) != 3:  # noqa: PLR2004 - ImageNet has colours
                raise UsageError(
                    f"--{name} imagenet is for the bands red, green and blue",
                    value=", ".join(bands),
                    advice=f"Give --{name} a number for each band, or name the bands with --network-bands",
                )
            colour = dict(zip(("red", "green", "blue"), IMAGENET_VALUES[name], strict=True))
            found, origin = tuple(colour[band] for band in bands), f"{origin} imagenet"
        if len(found) == 1:
            found = tuple(found) * len(bands)
        if len(found) != len(bands):
            raise UsageError(
                f"{name} has a value for each of {len(bands)} bands",
                value=f"{len(found)} values ({origin})",
                advice=f"Give --{name}, or --network-bands with the names of the network's bands",
            )
        values = {**values, name: Stated(value=tuple(map(float, found)), origin=origin)}
    return values


def class_choices(description: ForeignDescription, channels: int) -> tuple[tuple[ClassChoice, ...], str]:
    """Return the classes of a network with their channels, and where they come from.

    Args:
        description: The values that are known.
        channels: Channels after activation: two for one score under a sigmoid.

    Raises:
        UsageError: The classes do not fit the channels.
    """
    from magnet_cli.options.foreign_network import ClassChoice  # noqa: PLC0415 - typed above

    stated, has_one = description.values.get("classes"), description.get("channels") == 1
    if stated is None or isinstance(stated.value, int):
        if stated is not None and stated.value != channels:
            _refuse_classes(stated.value, channels, stated.origin, has_one=has_one)
        if channels > MOST_CLASSES:
            raise UsageError(
                f"a mask has at most {MOST_CLASSES} classes",
                value=channels,
                advice="Add channels up with --classes NAME=CHANNEL+CHANNEL,other=rest",
            )
        found = tuple(ClassChoice(name=f"class{index}", channels=(index,)) for index in range(channels))
        return found, f"the network has {channels} channels; names are not stated, --classes gives them"
    wanted = tuple(stated.value)
    if all(each.channels is None for each in wanted):
        if has_one and len(wanted) == 1 and wanted[0].name != "background":
            wanted = (replace(wanted[0], name="background"), *wanted)
        if len(wanted) != channels:
            _refuse_classes(len(wanted), channels, stated.origin, has_one=has_one)
        return tuple(ClassChoice(name=each.name, channels=(i,)) for i, each in enumerate(wanted)), stated.origin
    named = [channel for each in wanted for channel in each.channels or ()]
    if len(set(named)) < len(named) or max(named, default=0) >= channels:
        raise UsageError(
            f"--classes names each of the {channels} channels at most once, counted from 0",
            value=", ".join(map(str, named)),
            advice="Leave out what occurs twice, or is no channel",
        )
    left = tuple(index for index in range(channels) if index not in named)
    has_rest = any(not each.channels and not each.unclaimed for each in wanted)
    if left and not has_rest:
        raise UsageError(
            "every channel belongs to a class, or the probabilities of a pixel do not sum to one",
            value=f"channels {', '.join(map(str, left[:10]))} are left over",
            advice="Add other=rest to --classes",
        )
    if has_rest and not left:
        raise UsageError(
            "no channel is left for the class =rest", value=stated.origin, advice="Leave the class =rest out"
        )
    whole = tuple(each if each.unclaimed else replace(each, channels=each.channels or left) for each in wanted)
    return whole, stated.origin


def _refuse_classes(count: int, channels: int, origin: str, *, has_one: bool) -> None:
    value = f"{count} classes ({origin})"
    if has_one:
        raise UsageError(
            "the network gives one score for each pixel, which counts as two classes: the score is that of the second",
            value=value,
            advice="Name the second alone, or both: --classes background,road",
        )
    raise UsageError(
        f"the network gives {channels} channels",
        value=value,
        advice="Name as many classes in --classes, or write NAME=CHANNEL for those that are kept and NAME=rest",
    )


def pixel_size(description: ForeignDescription) -> dict[str, object] | None:
    """Return the size of a pixel as `bundle.json` has it; None where it is not known."""
    text = description.get("pixel")
    if text is None:
        return None
    number, unit = pixel_in_unit(text)
    return {"value": float(number), "unit": unit}


def input_size(description: ForeignDescription) -> Size:
    """Return the size of the network's input."""
    found: Size = description["input"]
    return found
