"""Measurements of engines in files beside a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from magnet_cli.errors import WeightsError
from magnet_cli.models.schema import LARGEST, STRICT, FieldRule, Text, checked_description, parse_object
from magnet_cli.options.segment import DeviceKind
from magnet_cli.options.shared import EngineName, Precision
from magnet_cli.system import durable, regular_files

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle, CascadeBundle

FILE = "engines.json"
"""File in a bundle's folder with what was measured of engines. It is no part of `bundle.json`: the engine of a run is
among the values that its mask depends on, and a measurement by itself changes no mask."""
AGREEMENT_RULE = "must be a share of pixels, 0 to 1"


@dataclass(frozen=True, kw_only=True)
class EngineRun:
    """Measurements of a bundle's networks in an engine."""

    speed: Annotated[float, Field(gt=0), FieldRule("must be a positive number")]
    """Speed of the forward passes as a multiple of PyTorch's."""
    agreement: Annotated[float, Field(ge=0, le=1), FieldRule(AGREEMENT_RULE)]
    """Share of pixels that get the same class as from PyTorch in float32."""
    version: Text = ""
    """Version of the engine."""
    machine: Text = ""
    """The processor, and the number of threads."""

    def line(self, engine: str, precision: str) -> str:
        """Return the figures in one sentence."""
        return (
            f"{engine} {self.version} in {precision}: {self.speed:.2f} times the speed of torch, {self.agreement:.3%} "
            f"of pixels get the same class ({self.machine})"
        )


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """`engines.json` of a bundle."""

    __pydantic_config__ = STRICT

    network: Text = ""
    """The SHA-256 over the networks that were measured."""
    engines: Mapping[DeviceKind, Mapping[Precision, Mapping[EngineName, EngineRun]]] = field(default_factory=dict)
    """Measurements by kind of device, precision and engine."""


def measured_engines(bundle: Bundle | CascadeBundle) -> EngineFile:
    """Return the measurements of a bundle's engines. The result is empty where these networks were not measured.

    Raises:
        WeightsError: The file is no such table.
    """
    file = bundle.folder / FILE
    if not file.is_file():
        return EngineFile()
    table = parse_object(regular_files.beginning(file, LARGEST + 1), file=file)
    found = checked_description(EngineFile, table, file=file)
    return found if found.network == measured_network(bundle) else EngineFile()


def store_engine(bundle: Bundle | CascadeBundle, run: EngineRun, *, engine: EngineName, precision: Precision) -> None:
    """Keep what was measured in the folder of a bundle, from where `--engine auto` takes it.

    Measurements of other networks, which the folder had before, are dropped.

    Raises:
        OutputError: The bundle's folder cannot be written.
    """
    known = asdict(measured_engines(bundle))["engines"]
    of_device = known.get("cpu", {})
    of_precision = {**of_device.get(precision, {}), engine: asdict(run)}
    engines = {**known, "cpu": {**of_device, precision: of_precision}}
    table = {"network": measured_network(bundle), "engines": engines}
    durable.write_whole(bundle.folder / FILE, (json.dumps(table, indent=2) + "\n").encode())


def measured_network(bundle: Bundle | CascadeBundle) -> str:
    """Return the SHA-256 over the networks of a bundle that an engine computes: all but its selector.

    Raises:
        WeightsError: The description gives no hash of a file of weights, and the file cannot be read.
    """
    values: list[object] = []
    for role, spec in bundle.networks:
        if role != "selector":
            path = bundle.folder / spec.file
            with regular_files.reading(path, WeightsError):
                digest = spec.sha256 or regular_files.sha256_of(path)
            values.append([role, spec.architecture, dict(spec.options), digest])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
