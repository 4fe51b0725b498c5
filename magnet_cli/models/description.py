"""The reader of bundle.json, which checks every key and names the place of every refusal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict

from magnet_cli.errors import WeightsError
from magnet_cli.models.foreign.foreign_spec import ForeignSpec
from magnet_cli.models.network_spec import (
    Bundle,
    CascadeBundle,
    CascadeDescription,
    Description,
    NetworkSpec,
    RefinerSpec,
    SegmentationDescription,
    Temperature,
)
from magnet_cli.models.schema import STRICT, Positive, Text, checked_description
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from pathlib import Path

ADVICE = "Correct bundle.json; docs/reference/bundle.md describes its keys"

SCHEMA = 1
"""The version of the description's keys; a new key raises it, and older versions are read on."""
CASCADE_BANDS = 3
DESCRIPTION = "bundle.json"
CARD = "README.md"
"""The model card, for people, in a bundle's folder."""


def _known(schema: int) -> int:
    if schema > SCHEMA:
        message = f"is newer than this program, which reads up to {SCHEMA}"
        raise ValueError(message)
    return schema


@dataclass(frozen=True, kw_only=True)
class Head:
    """The keys that decide how the others are read."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")

    schema: Annotated[Positive, AfterValidator(_known)]
    """The version of these keys, at present 1."""
    kind: Literal["segmentation", "cascade"] = "segmentation"
    """What the bundle does: it predicts classes, or sharpens masks."""


@dataclass(frozen=True, kw_only=True)
class SegmentationNetworks:
    """The networks of a bundle that predicts classes."""

    backbone: NetworkSpec | None = None
    """The network that predicts classes, of an architecture of this program."""
    foreign: ForeignSpec | None = None
    """A network of another library in its place. A bundle has one of the two."""
    refiners: tuple[RefinerSpec, ...] = ()
    """Networks that merge the results of two stages."""
    selector: NetworkSpec | None = None
    """A network that selects the windows, or the cells of a GRNet, that are computed in detail."""
    local: NetworkSpec | None = None
    """The local branch of a GRNet."""


@dataclass(frozen=True, kw_only=True)
class SegmentationFile(Head, SegmentationDescription):
    """`bundle.json` of a bundle that predicts classes."""

    __pydantic_config__ = STRICT

    networks: SegmentationNetworks
    """The networks."""


@dataclass(frozen=True, kw_only=True)
class CascadeNetworks:
    """The one network of a bundle that sharpens masks."""

    cascade: NetworkSpec
    """The network that sharpens masks."""


@dataclass(frozen=True, kw_only=True)
class CascadeFile(Head, CascadeDescription):
    """`bundle.json` of a bundle that sharpens masks."""

    __pydantic_config__ = STRICT

    object: Text = ""
    """The kind of object that it was trained on; empty where it is for any."""
    networks: CascadeNetworks
    """The network."""


def parse_bundle(table: Mapping[str, Any], *, file: Path, data: bytes, is_shipped: bool) -> Bundle | CascadeBundle:
    """Return the bundle that a description describes.

    Args:
        table: The description as a JSON object.
        file: The file that the description was read from.
        data: The bytes of that file, for the bundle's digest.
        is_shipped: Whether the bundle comes with the program, and so must give the hash of each file.

    Raises:
        WeightsError: A key is missing, unknown or wrong; the message names it.
    """
    kind = checked_description(Head, table, file=file).kind
    read = cascade_bundle if kind == "cascade" else segmentation_bundle
    return read(table, file=file, data=data, is_shipped=is_shipped)


def cascade_bundle(table: Mapping[str, Any], *, file: Path, data: bytes, is_shipped: bool) -> CascadeBundle:
    """Return a bundle that sharpens masks; arguments and errors as of `parse_bundle`."""
    found = checked_description(CascadeFile, table, file=file)
    spec = found.networks.cascade
    _pixels_fit(found, file=file)
    if len(found.input.bands) != CASCADE_BANDS:
        raise WeightsError(
            f"input.bands must be {CASCADE_BANDS}",
            value=list(found.input.bands),
            file=file,
            advice=ADVICE,
        )
    if spec.temperature != Temperature():
        rule = "networks.cascade.temperature must be 1: a cascade reads its own probabilities again"
        raise WeightsError(rule, file=file, advice=ADVICE)
    return CascadeBundle(
        **_fields(found, CascadeDescription),
        **_origin([spec], file=file, data=data, is_shipped=is_shipped),
        kind_of_object=found.object,
        network=spec,
    )


def segmentation_bundle(table: Mapping[str, Any], *, file: Path, data: bytes, is_shipped: bool) -> Bundle:
    """Return a bundle that predicts classes; arguments and errors as of `parse_bundle`."""
    found = checked_description(SegmentationFile, table, file=file)
    networks = found.networks
    backbone, foreign = _backbone(found, file=file), networks.foreign
    selector, local = networks.selector, networks.local
    _pixels_fit(found, file=file)
    if found.magnet.merge == "refiner" and not networks.refiners:
        raise WeightsError(
            "magnet.merge is refiner, but networks.refiners is empty",
            file=file,
            advice=ADVICE,
        )
    if local is not None and found.activation != "softmax":
        rule = "activation must be softmax where there is a local branch"
        raise WeightsError(
            rule,
            value=found.activation,
            file=file,
            advice=ADVICE,
        )
    if selector is not None and local is not None:
        _grnet_fits(selector.options, local.options, file=file)
    own = [backbone] if foreign is None else []
    specs = [*own, *networks.refiners, *filter(None, (selector, local))]
    described = data if foreign is None else _lasting(table, foreign)
    return Bundle(
        **_fields(found, SegmentationDescription),
        **_origin(specs, file=file, data=described, is_shipped=is_shipped),
        backbone=backbone,
        foreign=foreign,
        refiners=networks.refiners,
        selector=selector,
        local=local,
    )


def _pixels_fit(found: SegmentationFile | CascadeFile, *, file: Path) -> None:
    count = len(found.input.bands)
    for key, values in (("mean", found.input.mean), ("std", found.input.std)):
        if len(values) != count:
            raise WeightsError(
                f"input.{key} must be an array of {count} numbers",
                value=list(values),
                file=file,
                advice=ADVICE,
            )


def _backbone(found: SegmentationFile, *, file: Path) -> NetworkSpec:
    """Return the backbone, or the entry that stands in for one where another library made the network.

    Raises:
        WeightsError: The description has neither or both, or the description of the network contradicts the bundle's.
    """
    backbone, foreign = found.networks.backbone, found.networks.foreign
    if (backbone is None) == (foreign is None):
        rule = "networks has either backbone or foreign"
        raise WeightsError(
            rule,
            value="both" if backbone else "neither",
            file=file,
            advice=ADVICE,
        )
    if foreign is None:
        assert backbone is not None  # noqa: S101 - one of them is there
        return backbone
    if found.activation != "none":
        rule = "activation must be none where networks.foreign has its own"
        raise WeightsError(
            rule,
            value=found.activation,
            file=file,
            advice=ADVICE,
        )
    if len(foreign.classes) != len(found.classes):
        rule = f"networks.foreign.classes must have {len(found.classes)} entries"
        raise WeightsError(
            rule,
            value=len(foreign.classes),
            file=file,
            advice=ADVICE,
        )
    # A single channel is the probability of the second of two classes, so such a network names two as well.
    named = sorted(channel for channels in foreign.classes for channel in channels)
    if named != list(range(max(2, foreign.channels))):
        raise WeightsError(
            "networks.foreign.classes must name each channel once",
            value=named[:20],
            file=file,
            advice=ADVICE,
        )
    if found.networks.selector is not None or found.networks.local is not None:
        raise WeightsError(
            "networks.foreign has neither a selector nor a local branch",
            file=file,
            advice=ADVICE,
        )
    total = hashlib.sha256(json.dumps(dict(sorted(foreign.files.items()))).encode()).hexdigest()
    return NetworkSpec(architecture=foreign.kind, file="", sha256=total)


MEASURED = ("memory", "runtime", "trial")
"""Keys of `networks.foreign` that describe a machine and not the network."""


def _lasting(table: Mapping[str, Any], foreign: ForeignSpec) -> bytes:
    """Return what a mask depends on in the description of a foreign network: all but what was measured."""
    networks = dict(table["networks"])
    networks["foreign"] = {key: value for key, value in networks["foreign"].items() if key not in MEASURED}
    lasting = {**table, "networks": networks, "files": dict(foreign.files)}
    lasting.pop("execution", None)
    return json.dumps(lasting, sort_keys=True).encode()


def _grnet_fits(selector: Mapping[str, Any], local: Mapping[str, Any], *, file: Path) -> None:
    if selector.get("sees", "image") != "image":
        rule = "networks.selector.options.sees must be image: a GRNet's selector comes before any field"
        raise WeightsError(rule, file=file, advice=ADVICE)
    if selector.get("cells") != local.get("cells"):
        raise WeightsError(
            "networks.local.options.cells must be the selector's",
            value=local.get("cells"),
            file=file,
            advice=ADVICE,
        )


def _fields(found: Description, kind: type[Description]) -> dict[str, Any]:
    return {item.name: getattr(found, item.name) for item in fields(kind)}


def _origin(specs: list[NetworkSpec], *, file: Path, data: bytes, is_shipped: bool) -> dict[str, Any]:
    return {
        "folder": file.parent,
        "digest": digest(data, specs, folder=file.parent),
        "notes": unsigned(specs, file=file, is_shipped=is_shipped),
    }


def unsigned(specs: list[NetworkSpec], *, file: Path, is_shipped: bool) -> tuple[str, ...]:
    """Return notes on files without a hash.

    Raises:
        WeightsError: The bundle is a shipped one, which must have them all.
    """
    missing = [spec.file for spec in specs if spec.sha256 is None]
    if missing and is_shipped:
        raise WeightsError(
            "a shipped bundle must give the sha256 of each file",
            value=", ".join(missing),
            file=file,
            advice="Install the package again",
        )
    return tuple(f"{file}: no sha256 for {name}, so its content is not checked" for name in missing)


def digest(data: bytes, specs: list[NetworkSpec], *, folder: Path) -> str:
    """Return the SHA-256 over the description and the hashes of the weights, given or computed."""
    total = hashlib.sha256(data)
    for spec in specs:
        path = folder / spec.file
        with regular_files.reading(path, WeightsError):
            total.update((spec.sha256 or regular_files.sha256_of(path)).encode())
    return total.hexdigest()
