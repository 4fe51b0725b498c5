"""Folders in the BioImage.IO format: a description in YAML that names files of weights. It is read as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.graph import bands_described
from magnet_cli.models.foreign.network_files import checked_file, digest_of_file, read_yaml
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.models.foreign.onnx_file import OnnxFile
from magnet_cli.models.foreign.torchscript_file import TorchScriptFile
from magnet_cli.options.foreign_network import ClassChoice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from magnet_cli.models.foreign.network_kind import NetworkKind
    from magnet_cli.options.foreign_network import NetworkOptions

ADVICE = "Correct the description, or export the network again in the format of BioImage.IO"

NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
"""Names of the description in a folder."""
FORMATS = ("0.4.", "0.5.")
"""Versions of the format that are read."""
READERS: tuple[tuple[str, NetworkKind], ...] = (("onnx", OnnxFile()), ("torchscript", TorchScriptFile()))
"""Kinds of weights that are read, the preferred one first: an ONNX file holds no code."""
USUAL = 512
"""Least side that is chosen for a network that takes several."""
LAYOUTS = {"bcyx": "nchw", "byxc": "nhwc"}
UNITS = {"nanometer": "nm", "micrometer": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m"}
HALF = 0.5
"""Threshold of a probability at which the likelier of two classes wins."""
TINY = 1e-6
"""Number that the format adds to a standard deviation, where a description does not state another."""
OF_EACH_SAMPLE = ("scale_range", "zero_mean_unit_variance")
"""Steps whose values come from each sample, unless the description fixes them."""
WITHOUT_EFFECT = ("ensure_dtype",)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a tensor in a description."""

    name: str
    """`b`, `c`, `y`, `x`, or another letter."""
    size: int | None = None
    """The only size of the axis; None where the network takes several."""
    least: int | None = None
    """Smallest of the sizes that it takes, where these are stated."""
    step: int | None = None
    names: tuple[str, ...] = ()
    """Names of the channels, where they are stated."""
    pixel: str | None = None
    """Physical size of a pixel, as `--pixel` takes it."""


@dataclass(frozen=True, kw_only=True)
class TensorDescription:
    """An input or an output of a network in a description."""

    axes: tuple[Axis, ...]
    steps: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Names of the steps before or after the network, with their arguments."""

    def axis(self, name: str) -> Axis | None:
        """The axis of a name; None where there is none."""
        return next((axis for axis in self.axes if axis.name == name), None)


@dataclass(kw_only=True)
class Scaling:
    """A linear function of the stored values of each band: `slope * value + offset`."""

    slope: list[float]
    offset: list[float]
    span: tuple[float, float] | None = None
    """Stored values beyond which a step clips."""
    origin: list[str] = field(default_factory=list)

    def apply(self, gain: Sequence[float], less: Sequence[float], name: str) -> None:
        """Continue with `gain * value + less`."""
        self.offset = [g * offset + add for g, offset, add in zip(gain, self.offset, less, strict=True)]
        self.slope = [g * slope for g, slope in zip(gain, self.slope, strict=True)]
        self.origin.append(name)


def description_in(path: Path) -> Path | None:
    """The description of a folder, or a description itself; None where there is none."""
    if path.is_file():
        return path if path.name in NAMES else None
    return next((path / name for name in NAMES if (path / name).is_file()), None)


def read_description(file: Path, options: NetworkOptions) -> NetworkReading:
    """Return the facts in a description and in the weights file that it names. Nothing is run or fetched.

    Args:
        file: The description.
        options: Options of the user. A step whose values they replace is not read.

    Raises:
        WeightsError: The description cannot be read, or describes something that cannot be used.
    """
    table = _table(file)
    given, found = _tensors(table, "inputs", file), _tensors(table, "outputs", file)
    if len(given) != 1:
        raise WeightsError(
            "a network takes patches, and nothing else",
            value=f"{len(given)} inputs",
            file=file,
            advice=ADVICE,
        )
    kind, weights = _weights(table, file)
    reading = kind.read(weights, options)
    stated = _stated(table, given[0], found, options, file)
    graph = reading.stated
    if "bands" in stated and "bands" in graph and options.network_bands is None:
        stated["bands"] = bands_described(stated["bands"], graph["bands"], file)
    # What a graph states of types and fixed sides is what the network takes.
    return replace(
        reading,
        path=file,
        stated={
            **stated,
            **{k: v for k, v in graph.items() if k != "bands"},
            **({"bands": stated["bands"]} if "bands" in stated else {}),
        },
    )


def _table(file: Path) -> dict[str, Any]:
    table = read_yaml(file)
    if table.get("type") != "model":
        raise WeightsError(
            "the file does not describe a network in the format of BioImage.IO",
            file=file,
            advice=ADVICE,
        )
    version = str(table.get("format_version"))
    if not version.startswith(FORMATS):
        raise WeightsError(
            "this version of the format is not read",
            value=version,
            file=file,
            advice="Export the network in version 0.4 or 0.5",
        )
    return table


def _weights(table: Mapping[str, Any], file: Path) -> tuple[NetworkKind, Path]:
    """The file of weights that is taken, and the kind that reads it."""
    known = table.get("weights")
    weights = known if isinstance(known, dict) else {}
    for name, kind in READERS:
        entry = weights.get(name)
        if not isinstance(entry, dict):
            continue
        # An address on the network is not fetched; archives hold the file by its last name.
        source = str(entry.get("source", "")).rpartition("/")[2] if "://" in str(entry.get("source")) else None
        path = checked_file(file.parent, source or str(entry.get("source", "")))
        wanted = entry.get("sha256")
        if wanted is not None and digest_of_file(path) != wanted:
            raise WeightsError(f"the content is not what the description says: sha256 {wanted} expected", file=path,
                advice="Fetch the network again")  # fmt: skip
        if not kind.claims(path):
            raise WeightsError(
                f"the description calls this file {name}, but its content is of another kind",
                file=path,
                advice="Copy the network again, with all of its files",
            )
        return kind, path
    if "pytorch_state_dict" in weights:
        raise WeightsError(
            "weights of the kind pytorch_state_dict belong to an architecture in Python sources, which are not run",
            value=", ".join(weights),
            file=file,
            advice="Take a network of the same collection with weights in ONNX or TorchScript",
        )
    raise WeightsError(
        f"weights of the kinds {' and '.join(name for name, _ in READERS)} are read",
        value=", ".join(map(str, weights)) or "none",
        file=file,
        advice=ADVICE,
    )


def _tensors(table: Mapping[str, Any], key: str, file: Path) -> list[TensorDescription]:
    entries = table.get(key)
    if not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        raise WeightsError(
            f"{key} is no list of tensors",
            file=file,
            advice=ADVICE,
        )
    steps = "preprocessing" if key == "inputs" else "postprocessing"
    return [
        TensorDescription(axes=_axes(entry, file), steps=tuple(_step(each, file) for each in entry.get(steps) or ()))
        for entry in entries
    ]


def _step(step: object, file: Path) -> tuple[str, Mapping[str, Any]]:
    """The name and the arguments of a step; version 0.4 calls the name `name`, version 0.5 `id`."""
    found = step if isinstance(step, dict) else {}
    name, given = found.get("id", found.get("name")), found.get("kwargs") or {}
    if not isinstance(name, str) or not isinstance(given, dict):
        raise WeightsError(
            "a step has a name and arguments",
            value=str(step)[:80],
            file=file,
            advice=ADVICE,
        )
    return name, given


def _axes(entry: Mapping[str, Any], file: Path) -> tuple[Axis, ...]:
    axes = entry.get("axes")
    if isinstance(axes, str):
        return _axes_of_letters(axes, entry.get("shape"), file)
    if not isinstance(axes, list) or not all(isinstance(axis, dict) for axis in axes):
        raise WeightsError(
            "a tensor has axes",
            value=str(axes)[:80],
            file=file,
            advice=ADVICE,
        )
    return tuple(_axis(axis) for axis in axes)


def _axes_of_letters(letters: str, shape: object, file: Path) -> tuple[Axis, ...]:
    """Axes as version 0.4 has them: letters, and sizes in a list, or their least and their step."""
    if isinstance(shape, list) and len(shape) == len(letters):
        return tuple(Axis(name=name, size=_whole(size)) for name, size in zip(letters, shape, strict=True))
    free = shape if isinstance(shape, dict) else {}
    least, step = free.get("min"), free.get("step")
    if isinstance(least, list) and isinstance(step, list) and len(least) == len(step) == len(letters):
        return tuple(
            Axis(name=name, size=_whole(low)) if not more else Axis(name=name, least=_whole(low), step=_whole(more))
            for name, low, more in zip(letters, least, step, strict=True)
        )
    if shape is not None and not free:
        raise WeightsError(
            "a shape has a size for each axis",
            value=str(shape)[:80],
            file=file,
            advice=ADVICE,
        )
    return tuple(Axis(name=name) for name in letters)


def _axis(axis: Mapping[str, Any]) -> Axis:
    """An axis as version 0.5 has it."""
    kind, size = axis.get("type"), axis.get("size")
    name = {"batch": "b", "channel": "c"}.get(str(kind), str(axis.get("id", "")))
    free = size if isinstance(size, dict) else {}
    names = axis.get("channel_names")
    is_named = isinstance(names, list) and all(isinstance(each, str) for each in names)
    count = _whole(size)
    if name == "c" and is_named and isinstance(names, list):
        count = len(names)
    scale, unit = axis.get("scale"), UNITS.get(str(axis.get("unit")))
    pixel = f"{scale:.12g}{unit}" if unit is not None and isinstance(scale, (int, float)) and scale > 0 else None
    return Axis(
        name=name,
        size=count,
        least=_whole(free.get("min")),
        step=_whole(free.get("step")),
        names=tuple(names) if is_named and isinstance(names, list) else (),
        pixel=pixel,
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _stated(
    table: Mapping[str, Any],
    given: TensorDescription,
    outputs: Sequence[TensorDescription],
    options: NetworkOptions,
    file: Path,
) -> dict[str, Stated]:
    layout = LAYOUTS.get("".join(axis.name for axis in given.axes))
    if layout is None:
        raise WeightsError(
            "a network takes patches with the axes of batch, bands, rows and columns",
            value="".join(axis.name for axis in given.axes),
            file=file,
            advice=ADVICE,
        )
    found = {"layout": Stated(value=layout, origin=f"{file.name}: axes of the input")}
    bands = given.axis("c")
    if bands is not None and bands.size is not None:
        is_usual = len(set(bands.names)) < bands.size or any(name.startswith("channel") for name in bands.names)
        value: object = bands.size if is_usual else bands.names
        found["bands"] = Stated(value=value, origin=f"{file.name}: channels of the input")
    found.update(_sides(given, file))
    found.update(_normalisation(given, bands.size if bands is not None else None, options, file))
    if len(outputs) == 1:
        found.update(_scores(outputs[0], options, file))
    if isinstance(table.get("license"), str):
        found["licence"] = Stated(value=table["license"], origin=f"{file.name}: license")
    return found


def _sides(given: TensorDescription, file: Path) -> dict[str, Stated]:
    """Size of a patch, what divides it, and the size of a pixel."""
    rows, columns = given.axis("y"), given.axis("x")
    assert rows is not None  # noqa: S101 - the layout has both
    assert columns is not None  # noqa: S101
    found = {}
    sides = []
    for axis in (columns, rows):
        side = axis.size
        if side is None and axis.least is not None and axis.step is not None:
            side = axis.least + max(0, math.ceil((USUAL - axis.least) / axis.step)) * axis.step
        sides.append(side)
    if sides[0] is not None and sides[1] is not None:
        is_fixed = rows.size is not None and columns.size is not None
        said = "axes of the input" if is_fixed else f"the first size from {USUAL} on that the axes of the input take"
        found["input"] = Stated(value=Size(width=sides[0], height=sides[1]), origin=f"{file.name}: {said}")
    steps = {axis.step for axis in (rows, columns) if axis.step is not None and (axis.least or 0) % axis.step == 0}
    if len(steps) == 1:
        found["multiple"] = Stated(value=steps.pop(), origin=f"{file.name}: step of the axes")
    if rows.pixel is not None and rows.pixel == columns.pixel:
        found["pixel"] = Stated(value=rows.pixel, origin=f"{file.name}: scale and unit of the axes")
    return found


def _normalisation(
    given: TensorDescription, bands: int | None, options: NetworkOptions, file: Path
) -> dict[str, Stated]:
    """Range, mean and deviation that do what the steps before the network do."""
    if options.values == "stored" or (options.mean is not None and options.std is not None):
        _refuse_lost_clip(given, options, file)
        return {}
    if bands is None:
        raise WeightsError("the description states the number of the network's bands", file=file,
            advice="Give --mean and --std")  # fmt: skip
    scaling = Scaling(slope=[1.0] * bands, offset=[0.0] * bands)
    for name, values in given.steps:
        if name in WITHOUT_EFFECT:
            continue
        _add_step(scaling, name, values, options, file)
    origin = f"{file.name}: {', '.join(scaling.origin) or 'no step before the network, which takes stored values'}"
    found: dict[str, Stated] = {}
    span = options.range or scaling.span
    if options.range is None and scaling.span is not None:
        found["range"] = Stated(value=scaling.span, origin=f"{origin}; values beyond are clipped")
    low, high = span or (0.0, 255.0)
    # The network takes slope * stored + offset, and is given ((stored - low) / (high - low) - mean) / std.
    widths = [slope * (high - low) for slope in scaling.slope]
    means = [-(s * low + o) / width for s, o, width in zip(scaling.slope, scaling.offset, widths, strict=True)]
    found["mean"] = Stated(value=tuple(means), origin=origin)
    found["std"] = Stated(value=tuple(1 / width for width in widths), origin=origin)
    return found


def _refuse_lost_clip(given: TensorDescription, options: NetworkOptions, file: Path) -> None:
    """Refuse options that replace the steps of a description, one of which clips, without saying where it clips."""
    clip = next((values for name, values in given.steps if name == "clip"), None)
    if clip is not None and options.range is None:
        raise WeightsError(
            "the description clips values, and options replace its steps",
            value=f"clip min {clip.get('min')}, max {clip.get('max')}",
            file=file,
            advice="Add --range LOW,HIGH with the stored values at which it clips",
        )


def _add_step(scaling: Scaling, name: str, values: Mapping[str, Any], options: NetworkOptions, file: Path) -> None:
    """Add a step before the network to those before it."""
    count = len(scaling.slope)
    is_fixed = name == "fixed_zero_mean_unit_variance" or values.get("mode") == "fixed"
    if name == "scale_linear":
        gain, offset = (
            _each(values.get("gain", 1.0), count, name, file),
            _each(values.get("offset", 0.0), count, name, file),
        )
        if min(gain) <= 0:
            raise WeightsError(
                "gain of scale_linear is positive",
                value=gain,
                file=file,
                advice=ADVICE,
            )
        scaling.apply(gain, offset, name)
    elif is_fixed:
        tiny = values.get("eps", TINY)
        mean, std = _each(values.get("mean"), count, name, file), _each(values.get("std"), count, name, file)
        if min(std) <= 0:
            raise WeightsError(
                f"std of {name} is positive",
                value=std,
                file=file,
                advice=ADVICE,
            )
        # Version 0.5 leaves the small number out where values are fixed.
        more = 0.0 if name.startswith("fixed") else float(tiny)
        scaling.apply([1 / (s + more) for s in std], [-m / (s + more) for m, s in zip(mean, std, strict=True)], name)
    elif name == "clip":
        low, high = _each([values.get("min"), values.get("max")], 2, name, file)
        ends = {((low - o) / s, (high - o) / s) for s, o in zip(scaling.slope, scaling.offset, strict=True)}
        if len(ends) != 1 or not high > low:
            raise WeightsError(
                "the minimum of clip is below its maximum, and both are the same for all bands",
                value=f"{low:g}, {high:g}",
                file=file,
                advice=ADVICE,
            )
        (ends_here,) = ends
        spans = [ends_here, scaling.span or ends_here]
        scaling.span = (max(low for low, _ in spans), min(high for _, high in spans))
        if not scaling.span[1] > scaling.span[0]:
            raise WeightsError(
                "two steps clip to ranges that have nothing in common",
                value=f"{ends_here[0]:g}, {ends_here[1]:g}",
                file=file,
                advice=ADVICE,
            )
        scaling.origin.append(name)
    elif name == "scale_range" and options.range is not None and not scaling.origin:
        low, high = options.range
        scaling.apply([1 / (high - low)] * count, [-low / (high - low)] * count, "scale_range of --range")
        scaling.span = options.range
    elif name in OF_EACH_SAMPLE:
        said = "--range LOW,HIGH, the values that its percentiles have in your images" if name == "scale_range" else (
            "--mean and --std, as shares of --range")  # fmt: skip
        raise WeightsError(
            f"the step {name} takes its values from each sample, so a pixel would get another value in each window",
            value=", ".join(f"{key} {value}" for key, value in values.items())[:120],
            file=file,
            advice=f"Give {said}",
        )
    else:
        raise WeightsError(
            "this step before the network is not read",
            value=name,
            file=file,
            advice="Give --mean and --std, and --range",
        )


def _each(value: object, count: int, name: str, file: Path) -> list[float]:
    """A number for each band, from one number or a list."""
    listed: list[Any] = value if isinstance(value, list) else [value] * count
    right = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in listed)
    if not right or len(listed) not in (1, count):
        raise WeightsError(
            f"{name} has a number for each band",
            value=str(value)[:80],
            file=file,
            advice=ADVICE,
        )
    return [float(v) for v in listed] * (count if len(listed) == 1 else 1)


def _scores(given: TensorDescription, options: NetworkOptions, file: Path) -> dict[str, Stated]:
    """Activation and classes by the only output."""
    found: dict[str, Stated] = {}
    last = next((name for name, _ in given.steps if name in ("sigmoid", "softmax")), None)
    others = [name for name, _ in given.steps if name not in ("sigmoid", "softmax", "binarize", *WITHOUT_EFFECT)]
    if others and options.activation is None:
        raise WeightsError(
            "this step after the network is not read", value=", ".join(others), file=file, advice="Give --activation"
        )
    if last is not None:
        said = f"{file.name}: postprocessing{_without_threshold(given)}"
        found["activation"] = Stated(value=last, origin=said)
    axis = given.axis("c")
    names = axis.names if axis is not None else ()
    is_usual = len(set(names)) < len(names) or any(name.startswith("channel") for name in names)
    if names and not is_usual and options.classes is None:
        chosen = ("background", *names) if len(names) == 1 else names
        value = tuple(ClassChoice(name=name, channels=None) for name in chosen)
        found["classes"] = Stated(value=value, origin=f"{file.name}: channels of the output")
    return found


def _without_threshold(given: TensorDescription) -> str:
    """Return a remark on a threshold that would not give the likeliest class; empty without such a threshold."""
    found = next((values.get("threshold", HALF) for name, values in given.steps if name == "binarize"), HALF)
    return "" if found == HALF else f"; its threshold {str(found)[:80]} is not applied, the likeliest class wins"
