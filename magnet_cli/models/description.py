"""Reading bundle.json: every key checked, every refusal naming its place."""

from __future__ import annotations

import hashlib
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.network_spec import (
    Bundle,
    CascadeBundle,
    ClassSpec,
    Execution,
    InputSpec,
    MagnetDefaults,
    NetworkSpec,
    PixelSize,
    PixelSpec,
    RefinerSpec,
    Temperature,
)
from magnet_cli.models.strict import is_number
from magnet_cli.options.segment import DeviceKind, Merge
from magnet_cli.options.shared import Precision

if TYPE_CHECKING:
    from magnet_cli.models.strict import Table

SCHEMA = 1
"""Written where no newer key is needed, so that older programs can read it."""
WITH_ORIGINS = 2
"""Brought `origins`."""
WITH_EXECUTION = 3
"""Brought `execution`."""
WITH_KIND = 4
"""Brought `kind`, and with it bundles that sharpen masks."""
KINDS = ("segmentation", "cascade")
CASCADE_BANDS = 3
WITH_LOCAL = 5
"""Brought `networks.local`."""
WITH_SEEING = 6
"""Brought what a selector sees and compares with: options of its network that are no programs' before."""
SEEING = ("sees", "against", "constant")
WITH_OBJECT = 7
"""Brought `object` of bundles that sharpen masks."""
NEWEST = 7
"""Read."""
MOST_CLASSES = 255
"""Masks are 8 bit and 255 means not computed."""
DESCRIPTION = "bundle.json"


def parsed(table: Table, *, data: bytes, is_shipped: bool) -> Bundle | CascadeBundle:
    """The bundle that a description describes."""
    schema = table.integer("schema", least=1)
    if schema > NEWEST:
        rule = f"is newer than this program, which reads up to {NEWEST}"
        raise table.fail("schema", rule, schema)
    kind = table.choice("kind", KINDS, KINDS[0]) if schema >= WITH_KIND else KINDS[0]
    read = cascade_bundle if kind == "cascade" else segmentation_bundle
    return read(table, data=data, is_shipped=is_shipped)


def described(table: Table, specs: list[NetworkSpec], *, data: bytes, is_shipped: bool) -> dict[str, Any]:
    """What every bundle says of itself."""
    schema, folder = table.integer("schema", least=1), table.file.parent
    return {
        "name": table.text("name"),
        "licence": table.text("licence", ""),
        "source": table.text("source", ""),
        "metrics": table.take("metrics", {}),
        "execution": execution(table) if schema >= WITH_EXECUTION else (),
        "origins": origins(table) if schema >= WITH_ORIGINS else (),
        "folder": folder,
        "digest": digest(data, specs, folder=folder),
        "notes": unsigned(specs, file=table.file, is_shipped=is_shipped),
    }


def cascade_bundle(table: Table, *, data: bytes, is_shipped: bool) -> CascadeBundle:
    """A bundle that sharpens masks."""
    schema, networks, pixels = table.integer("schema", least=1), table.nested("networks"), table.nested("input")
    spec = network(networks.nested("cascade"))
    networks.done()
    bundle = CascadeBundle(
        **described(table, [spec], data=data, is_shipped=is_shipped),
        input=PixelSpec(**pixel_fields(pixels)),
        side=table.integer("side", least=1),
        compat=table.choice("compat", ("paper", "published"), "paper"),
        kind_of_object=table.text("object", "") if schema >= WITH_OBJECT else "",
        network=spec,
    )
    pixels.done()
    table.done()
    if len(bundle.input.bands) != CASCADE_BANDS:
        raise pixels.fail("bands", f"must be {CASCADE_BANDS}", list(bundle.input.bands))
    if spec.temperature != Temperature():
        raise table.fail("networks.cascade.temperature", "must be 1: a cascade reads its own probabilities again")
    return bundle


def segmentation_bundle(table: Table, *, data: bytes, is_shipped: bool) -> Bundle:
    """A bundle that predicts classes."""
    schema = table.integer("schema", least=1)
    networks = table.nested("networks")
    refiners = tuple(refiner(item) for item in networks.tables("refiners", []))
    selector = optional_network(networks, "selector")
    local = optional_network(networks, "local") if schema >= WITH_LOCAL else None
    if selector is not None and schema < WITH_SEEING and (newer := sorted(set(SEEING) & set(selector.options))):
        raise table.fail("schema", f"must be {WITH_SEEING} or more with a selector's options {newer}", schema)
    backbone = network(networks.nested("backbone"))
    networks.done()
    specs = [backbone, *refiners, *filter(None, (selector, local))]
    bundle = Bundle(
        **described(table, specs, data=data, is_shipped=is_shipped),
        classes=classes(table),
        input=input_spec(table.nested("input")),
        activation=table.choice("activation", ("softmax", "sigmoid")),
        scales=tuple(item.size() for item in table.tables("scales")),
        resolution=resolution(table),
        magnet=defaults(table.nested("magnet")),
        compat=table.choice("compat", ("paper", "published", "published-unshifted"), "paper"),
        backbone=backbone,
        refiners=refiners,
        selector=selector,
        local=local,
    )
    table.done()
    if not bundle.scales:
        raise table.fail("scales", "must name at least one scale")
    if bundle.magnet.merge == "refiner" and not refiners:
        raise table.fail("magnet.merge", "is refiner, but networks.refiners is empty")
    if local is not None and bundle.activation != "softmax":
        raise table.fail("activation", "must be softmax where there is a local branch", bundle.activation)
    if selector is not None and local is not None and selector.options.get("sees", "image") != "image":
        raise table.fail("networks.selector.options.sees", "must be image: a GRNet's selector comes before any field")
    if selector is not None and local is not None and selector.options.get("cells") != local.options.get("cells"):
        raise table.fail("networks.local.options.cells", "must be the selector's", local.options.get("cells"))
    return bundle


def classes(table: Table) -> tuple[ClassSpec, ...]:
    """Between two and 255 classes, of different names."""
    found = []
    for item in table.tables("classes"):
        color = item.text("color")
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
            raise item.fail("color", "must be written #RRGGBB", color)
        found.append(ClassSpec(name=item.text("name"), color=color))
        item.done()
    if not 2 <= len(found) <= MOST_CLASSES:  # noqa: PLR2004
        raise table.fail("classes", f"must be 2 to {MOST_CLASSES}", len(found))
    if len({item.name for item in found}) != len(found):
        raise table.fail("classes", "must have different names")
    return tuple(found)


def input_spec(table: Table) -> InputSpec:
    """What the backbone sees."""
    spec = InputSpec(
        **pixel_fields(table),
        size=table.nested("size").size(),
        resample=table.choice("resample", ("area", "bilinear")),
    )
    table.done()
    return spec


def pixel_fields(table: Table) -> dict[str, Any]:
    """What the values of an image mean."""
    bands = table.items("bands")
    if not bands or not all(isinstance(band, str) for band in bands) or len(set(bands)) != len(bands):
        raise table.fail("bands", "must be an array of different names", bands)
    low, high = table.numbers("range", count=2)
    std = table.numbers("std", count=len(bands))
    if low >= high:
        raise table.fail("range", "must rise", [low, high])
    if min(std) <= 0:
        raise table.fail("std", "must be positive", list(std))
    mean = table.numbers("mean", count=len(bands))
    return {"bands": tuple(bands), "range": (low, high), "mean": mean, "std": std}


def resolution(table: Table) -> PixelSize | None:
    """Physical size of a pixel, exact as it is written."""
    if table.take("resolution", None) is None:
        return None
    item = table.nested("resolution")
    value = item.take("value")
    if not is_number(value) or value <= 0:
        raise item.fail("value", "must be a positive number", value)
    found = PixelSize(value=Fraction(str(value)), unit=item.choice("unit", ("um", "m")))
    item.done()
    return found


def origins(table: Table) -> tuple[str, ...]:
    """Where the description's values are from, a sentence each."""
    found = table.items("origins", [])
    if not all(isinstance(line, str) for line in found):
        raise table.fail("origins", "must be an array of strings", found)
    return tuple(found)


def execution(table: Table) -> tuple[Execution, ...]:
    """How it runs best, by kind of device and precision."""
    if table.take("execution", None) is None:
        return ()
    found, devices = [], table.nested("execution")
    for device in get_args(DeviceKind):
        if devices.take(device, None) is None:
            continue
        precisions = devices.nested(device)
        known = [precision for precision in get_args(Precision) if precisions.take(precision, None) is not None]
        found += [run_as(precisions.nested(precision), device=device, precision=precision) for precision in known]
        precisions.done()
    devices.done()
    return tuple(found)


def run_as(table: Table, *, device: str, precision: str) -> Execution:
    """One entry of `execution`."""
    agreement = table.take("agreement", None)
    if agreement is not None and not (is_number(agreement) and 0 <= agreement <= 1):
        raise table.fail("agreement", "must be a share of pixels, 0 to 1", agreement)
    found = Execution(
        device=device,
        precision=precision,
        batch=table.integer("batch", least=1),
        agreement=None if agreement is None else float(agreement),
    )
    table.done()
    return found


def defaults(table: Table) -> MagnetDefaults:
    """Defaults of the method."""
    found = MagnetDefaults(
        merge=table.choice("merge", get_args(Merge)),
        points=spelled(table, "points"),
        patches=spelled(table, "patches"),
        median=table.integer("median", least=1),
        margin=table.integer("margin", least=0),
    )
    table.done()
    if found.median % 2 == 0:
        raise table.fail("median", "must be odd", found.median)
    return found


def spelled(table: Table, key: str) -> str:
    """A selection as the command line would spell it: a string, a number, or numbers with commas."""
    value = table.take(key)
    values = value if isinstance(value, list) else [value]
    if not values or not (isinstance(value, str) or all(is_number(item) for item in values)):
        raise table.fail(key, "must be a string, a number or an array of numbers", value)
    return ",".join(str(item) for item in values)


def network(table: Table) -> NetworkSpec:
    """A network and its file."""
    spec = NetworkSpec(**network_fields(table))
    table.done()
    return spec


def optional_network(table: Table, key: str) -> NetworkSpec | None:
    """A network that a bundle may have."""
    return None if table.take(key, None) is None else network(table.nested(key))


def refiner(table: Table) -> RefinerSpec:
    """A refiner and its file."""
    value = table.take("scale", None)
    scale = None if value is None else side(table, "scale") if is_number(value) else table.nested("scale").size()
    order = table.choice("input", ("own-first", "field-first"))
    spec = RefinerSpec(**network_fields(table), scale=scale, input=order)
    table.done()
    return spec


def side(table: Table, key: str) -> Size:
    """A square scale, written as its side."""
    value = table.integer(key, least=1)
    return Size(width=value, height=value)


def network_fields(table: Table) -> dict[str, Any]:
    """What every network says of itself."""
    file, digest_text = table.text("file"), table.take("sha256", None)
    if Path(file).name != file or not file.endswith(".safetensors"):
        raise table.fail("file", "must be the name of a .safetensors file in the bundle's folder", file)
    if digest_text is not None and not re.fullmatch(r"[0-9a-f]{64}", str(digest_text)):
        raise table.fail("sha256", "must be 64 small hexadecimal digits", digest_text)
    options = table.take("options", {})
    if not isinstance(options, dict):
        raise table.fail("options", "must be an object", options)
    return {
        "architecture": table.text("architecture"),
        "options": options,
        "temperature": temperature(table),
        "file": file,
        "sha256": digest_text,
    }


def temperature(table: Table) -> Temperature:
    """One number, or a number a scale, whose key is a side (`612`) or a width and height (`2048x1024`)."""
    value = table.take("temperature", 1.0)
    values = value if isinstance(value, dict) else {"": value}
    if not values or not all(is_number(item) and item > 0 for item in values.values()):
        raise table.fail("temperature", "must be a positive number, or one a scale", value)
    if not isinstance(value, dict):
        return Temperature(default=float(value))
    scales = []
    for key, item in value.items():
        match = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", key)
        if match is None:
            raise table.fail("temperature", "has a key that is no scale", key)
        scales.append((Size(width=int(match[1]), height=int(match[2] or match[1])), float(item)))
    return Temperature(scales=tuple(scales))


def unsigned(specs: list[NetworkSpec], *, file: Path, is_shipped: bool) -> tuple[str, ...]:
    """What to say of files without a hash.

    Raises:
        WeightsError: The bundle is a shipped one, which must have them all.
    """
    missing = [spec.file for spec in specs if spec.sha256 is None]
    if missing and is_shipped:
        raise WeightsError("a shipped bundle must give the sha256 of each file", value=", ".join(missing), file=file)
    return tuple(f"{file}: no sha256 for {name}, so its content is not checked" for name in missing)


def digest(data: bytes, specs: list[NetworkSpec], *, folder: Path) -> str:
    """SHA-256 over the description and the hashes of the weights, given or computed."""
    total = hashlib.sha256(data)
    for spec in specs:
        path = folder / spec.file
        try:
            found = spec.sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as exc:
            raise WeightsError(f"cannot be read: {exc}", file=path) from exc
        total.update(found.encode())
    return total.hexdigest()
