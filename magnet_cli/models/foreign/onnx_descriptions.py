"""Descriptions of ONNX networks by other programs: Deepness inside the file, geoai and STAC MLM beside it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.completion import advice_for_stored
from magnet_cli.models.foreign.network_kind import Stated
from magnet_cli.models.schema import LARGEST, parse_object
from magnet_cli.options.foreign_network import ClassChoice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from magnet_cli.options.foreign_network import NetworkOptions

ADVICE = "Correct the metadata of the file, or give the option of --network that replaces them"

MOST_FILES = 64
"""Files `*.json` in the network's folder that are searched for a STAC item."""
SIDE = range(1, 100_000)
HALF = 0.5
DIVIDED = (0.0, 255.0)
"""Stored values that become 0 and 1 in Deepness."""


def deepness(
    metadata: Mapping[str, str], options: NetworkOptions, *, channels: int | None, file: Path
) -> dict[str, Stated]:
    """Return what Deepness, a plugin of QGIS, reads from a graph's metadata; nothing where it is not Deepness's.

    Its convention: stored values are divided by 255, then mean and deviation apply; scores are probabilities.

    Args:
        metadata: Words of the graph; their values are JSON.
        options: Options of the user; a value that has one is not read.
        channels: Scores for each pixel, where the graph states them.
        file: The network's file, for messages.

    Raises:
        WeightsError: The metadata are of another kind of network, or a value cannot be read.
    """
    if "model_type" not in metadata:
        return {}
    known = {key: _json(text, key, file) for key, text in metadata.items() if key in DEEPNESS}
    if known["model_type"] != "Segmentor":
        raise WeightsError(
            "the network does not give classes of pixels: Deepness's metadata do not call it a Segmentor",
            value=known["model_type"],
            file=file,
            advice="Choose a network for semantic segmentation",
        )
    origin = "metadata of the file (Deepness): "
    found = {
        "range": Stated(value=DIVIDED, origin=f"{origin}values are divided by 255"),
        "activation": Stated(value="none", origin=f"{origin}its networks give probabilities"),
        "mean": Stated(value=(0.0,), origin=f"{origin}no standardization_mean, which means 0"),
        "std": Stated(value=(1.0,), origin=f"{origin}no standardization_std, which means 1"),
    }
    if options.classes is None:
        found.update(_deepness_classes(known, channels, origin, file))
    for name in ("mean", "std"):
        key = f"standardization_{name}"
        if key in known and getattr(options, name) is None:
            numbers = _numbers(known[key], key, file, positive=name == "std")
            advice = advice_for_stored(name, numbers, DIVIDED)
            if advice is not None:
                raise WeightsError(
                    f"{key} is of values from 0 to 1, and these fit stored values",
                    value=", ".join(f"{number:g}" for number in numbers),
                    file=file,
                    advice=advice,
                )
            found[name] = Stated(value=numbers, origin=origin + key)
    for key in ("tile_size", "tiles_size"):
        if key in known:
            found["input"] = Stated(value=_size(known[key], known[key], key, file), origin=origin + key)
    if "resolution" in known:
        (centimetres,) = _numbers([known["resolution"]], "resolution", file, positive=True)
        found["pixel"] = Stated(value=f"{centimetres:.12g}cm", origin=f"{origin}resolution in cm")
    return found


def _deepness_classes(known: dict[str, Any], channels: int | None, origin: str, file: Path) -> dict[str, Stated]:
    names = known.get("class_names", known.get("names"))
    if names is None:
        return {}
    said = f"{origin}class_names"
    threshold = known.get("seg_thresh", HALF)
    if threshold != HALF:
        said += f"; its seg_thresh {threshold} is not applied, the likeliest class wins"
    chosen = _names(names, said, file)
    if channels == 1 and len(chosen) == 1:
        chosen = ("background", *chosen)
    return {"classes": _classes(chosen, said, file)}


DEEPNESS = frozenset(
    {"model_type", "class_names", "names", "resolution", "tile_size", "tiles_size", "standardization_mean",
     "standardization_std", "seg_thresh"}
)  # fmt: skip
"""Keys of Deepness's metadata that are read; its manual says `tiles_size` where its program reads `tile_size`."""


def geoai(path: Path, options: NetworkOptions) -> dict[str, Stated]:
    """Return the facts in the file `x.onnx.json` that geoai writes beside a network, or none without such a file.

    Raises:
        WeightsError: The network does something else than segment, or a value cannot be read.
    """
    file = path.with_name(f"{path.name}.json")
    if not file.is_file():
        return {}
    table = parse_object(file.read_bytes(), file=file)
    task = table.get("task")
    if task not in ("segmentation", "semantic-segmentation"):
        raise WeightsError(
            "the network does not give classes of pixels: its task is another one",
            value=task,
            file=file,
            advice="Choose a network for semantic segmentation",
        )
    found: dict[str, Stated] = {"activation": Stated(value="softmax", origin=f"{file.name}: logits, as geoai exports")}
    if "id2label" in table and options.classes is None:
        found["classes"] = _classes(_names(table["id2label"], "id2label", file), f"{file.name}: id2label", file)
    if "input_height" in table and "input_width" in table:
        size = _size(table["input_width"], table["input_height"], "input_width, input_height", file)
        found["input"] = Stated(value=size, origin=f"{file.name}: input_width, input_height")
    if isinstance(table.get("input_channels"), int):
        found["bands"] = Stated(value=table["input_channels"], origin=f"{file.name}: input_channels")
    return found


def stac(path: Path, options: NetworkOptions) -> dict[str, Stated]:
    """Return the facts in a STAC item with the extension MLM beside a network, or none without such an item.

    Raises:
        WeightsError: The item describes something else than a network for segmentation, or a value cannot be read.
    """
    file, item = _item(path)
    if file is None:
        return {}
    known = item["properties"]
    tasks = known.get("mlm:tasks") or []
    if tasks and not {"semantic-segmentation", "segmentation"} & set(map(str, tasks)):
        raise WeightsError(
            "the network does not give classes of pixels: its tasks are others",
            value=", ".join(map(str, tasks)),
            file=file,
            advice="Choose a network for semantic segmentation",
        )
    taken, given = _first(known.get("mlm:input")), _first(known.get("mlm:output"))
    found: dict[str, Stated] = {}
    bands = [each.get("name") if isinstance(each, dict) else each for each in taken.get("bands") or []]
    if bands and all(isinstance(each, str) for each in bands):
        found["bands"] = Stated(value=tuple(bands), origin=f"{file.name}: mlm:input bands")
    found.update(_shape(taken.get("input"), file))
    # A function that is not run leaves mean and deviation to the user.
    if not taken.get("pre_processing_function") and (options.mean is None or options.std is None):
        found.update(_scaling(taken.get("value_scaling"), len(bands), options, file))
    classes = given.get("classification:classes")
    if classes and options.classes is None:
        names = {str(each.get("value")): each.get("name") for each in classes if isinstance(each, dict)}
        found["classes"] = _classes(
            _names(names, "classification:classes", file), f"{file.name}: classification:classes", file
        )
    if isinstance(known.get("gsd"), (int, float)) and known["gsd"] > 0:
        found["pixel"] = Stated(value=f"{known['gsd']:.12g}m", origin=f"{file.name}: gsd")
    if isinstance(known.get("license"), str):
        found["licence"] = Stated(value=known["license"], origin=f"{file.name}: license")
    return found


def _item(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the item whose assets name the network's file, or that has the file's own name."""
    for file in sorted(path.parent.glob("*.json"))[:MOST_FILES]:
        if file.stat().st_size > LARGEST or b'"mlm:' not in (data := file.read_bytes()):
            continue
        item = parse_object(data, file=file)
        assets = item.get("assets")
        hrefs = [str(each.get("href", "")) for each in (assets if isinstance(assets, dict) else {}).values()
                 if isinstance(each, dict)]  # fmt: skip
        names = file.stem == path.stem or any(href.rpartition("/")[2] == path.name for href in hrefs)
        if names and isinstance(item.get("properties"), dict):
            return file, item
    return None, {}


def _first(value: object) -> dict[str, Any]:
    """Return the first object of a list; an empty one where there is none."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _shape(structure: object, file: Path) -> dict[str, Stated]:
    table = structure if isinstance(structure, dict) else {}
    order, shape = table.get("dim_order"), table.get("shape")
    if not isinstance(order, list) or not isinstance(shape, list) or len(order) != len(shape):
        return {}
    sides, origin = dict(zip(map(str, order), shape, strict=True)), f"{file.name}: mlm:input shape"
    found = {}
    if order[-1] in ("channel", "channels", "band", "bands"):
        found["layout"] = Stated(value="nhwc", origin=f"{file.name}: mlm:input dim_order")
    if all(isinstance(sides.get(name), (int, float)) and sides[name] > 0 for name in ("height", "width")):
        found["input"] = Stated(value=_size(int(sides["width"]), int(sides["height"]), "shape", file), origin=origin)
    return found


def _scaling(steps: object, bands: int, options: NetworkOptions, file: Path) -> dict[str, Stated]:
    """Return range, mean and deviation that do what `value_scaling` does; nothing where it can be read in two ways.

    One step is for all bands, and a step for each band is for that band. Steps of different types in one list could
    also be meant one after another.
    """
    if not isinstance(steps, list) or len(steps) not in (1, bands) or not all(isinstance(step, dict) for step in steps):
        return {}
    if len({step.get("type") for step in steps}) > 1:
        return {}
    lines = [_line(step, file) for step in steps]
    origin, found = f"{file.name}: value_scaling", {}
    spans = [span for _, _, span in lines if span is not None]
    span = options.range
    if span is None and spans:
        span = (min(low for low, _ in spans), max(high for _, high in spans))
        found["range"] = Stated(value=span, origin=f"{origin}; values beyond are clipped")
    low, high = span or (0.0, 255.0)
    # The network takes slope * stored + offset, and is given ((stored - low) / (high - low) - mean) / std.
    widths = [slope * (high - low) for slope, _, _ in lines]
    means = [-(slope * low + offset) / width for (slope, offset, _), width in zip(lines, widths, strict=True)]
    found["mean"] = Stated(value=tuple(means), origin=origin)
    found["std"] = Stated(value=tuple(1 / width for width in widths), origin=origin)
    return found


def _line(step: Mapping[str, Any], file: Path) -> tuple[float, float, tuple[float, float] | None]:
    """Return the slope and offset of a step, and the stored values beyond which it clips."""
    kind, span, less, by = step.get("type"), None, 0.0, 1.0
    if kind in ("min-max", "clip"):
        low, high = _two(step, "minimum", "maximum", file)
        if not high > low:
            raise WeightsError(
                f"the minimum of {kind} in value_scaling is below its maximum",
                value=f"{low:g}, {high:g}",
                file=file,
                advice=ADVICE,
            )
        span = (low, high)
        less, by = (low, high - low) if kind == "min-max" else (less, by)
    elif kind == "z-score":
        less, by = _two(step, "mean", "stddev", file)
    elif kind == "offset":
        (less,) = _numbers([step.get("value")], "value", file)
    elif kind == "scale":
        (by,) = _numbers([step.get("value")], "value", file)
    else:
        raise WeightsError(
            "this step of value_scaling is not read", value=kind, file=file, advice="Give --mean and --std, and --range"
        )
    if not by > 0:
        raise WeightsError(
            "a step of value_scaling divides by a positive number",
            value=by,
            file=file,
            advice=ADVICE,
        )
    return 1 / by, -less / by, span


def _two(step: Mapping[str, Any], first: str, second: str, file: Path) -> tuple[float, float]:
    one, other = _numbers([step.get(first), step.get(second)], f"{first}, {second}", file)
    return one, other


def _json(text: str, key: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Words without quotes are common for names, such as the model's type.
        if key == "model_type":
            return text
        raise WeightsError(
            "metadata of the file are JSON",
            value=f"{key}: {text[:80]}",
            file=file,
            advice=ADVICE,
        ) from None


def _names(value: object, key: str, file: Path) -> tuple[str, ...]:
    """Return the names of classes, from a list or from an object whose keys are the numbers of channels."""
    if isinstance(value, dict):
        numbers = [str(index) for index in range(len(value))]
        if set(value) != set(numbers):
            raise WeightsError(
                f"{key} names the channels 0, 1, 2, ... without a gap",
                value=", ".join(map(str, value)),
                file=file,
                advice="Give the names with --classes",
            )
        value = [value[number] for number in numbers]
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise WeightsError(f"{key} is no list of names", value=str(value)[:80], file=file, advice="Give --classes")
    return tuple(value)


def _classes(names: Sequence[str], origin: str, file: Path) -> Stated:
    if len(set(names)) < len(names):
        raise WeightsError("two classes have one name", value=", ".join(names), file=file, advice="Give --classes")
    return Stated(value=tuple(ClassChoice(name=name, channels=None) for name in names), origin=origin)


def _size(width: object, height: object, key: str, file: Path) -> Size:
    if not (isinstance(width, int) and isinstance(height, int) and width in SIDE and height in SIDE):
        raise WeightsError(f"{key} is no size in pixels", value=f"{width}, {height}", file=file, advice="Give --input")
    return Size(width=width, height=height)


def _numbers(values: object, key: str, file: Path, *, positive: bool = False) -> tuple[float, ...]:
    listed = values if isinstance(values, list) else []
    right = all(
        isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each) for each in listed
    )
    if not listed or not right or (positive and min(listed) <= 0):
        raise WeightsError(
            f"{key} holds {'positive ' * positive}numbers",
            value=str(values)[:80],
            file=file,
            advice=ADVICE,
        )
    return tuple(map(float, listed))
