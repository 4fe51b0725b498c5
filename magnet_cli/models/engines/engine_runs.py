"""Measurements of engines in files beside a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from magnet_cli.models.schema import LARGEST, STRICT, FieldRule, Text, checked_description, parse_object
from magnet_cli.options.segment import DeviceKind
from magnet_cli.options.shared import EngineName, Precision
from magnet_cli.system import durable, regular_files

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

    engines: Mapping[DeviceKind, Mapping[Precision, Mapping[EngineName, EngineRun]]] = field(default_factory=dict)
    """Measurements by kind of device, precision and engine."""


def measured_engines(folder: Path) -> EngineFile:
    """Return the measurements of a bundle's engines. The result is empty where nothing was measured.

    Raises:
        WeightsError: The file is no such table.
    """
    file = folder / FILE
    if not file.is_file():
        return EngineFile()
    table = parse_object(regular_files.beginning(file, LARGEST + 1), file=file)
    return checked_description(EngineFile, table, file=file)


def store_engine(folder: Path, run: EngineRun, *, engine: EngineName, precision: Precision) -> None:
    """Keep what was measured in the folder of a bundle, from where `--engine auto` takes it.

    Raises:
        OutputError: The bundle's folder cannot be written.
    """
    known = asdict(measured_engines(folder))["engines"]
    of_device = known.get("cpu", {})
    of_precision = {**of_device.get(precision, {}), engine: asdict(run)}
    table = {"engines": {**known, "cpu": {**of_device, precision: of_precision}}}
    durable.write_whole(folder / FILE, (json.dumps(table, indent=2) + "\n").encode())
