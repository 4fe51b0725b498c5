"""Facts about bundle and machine, and generated images, in a process of their own because this work keeps memory."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import torch

from magnet_cli.bench.conditions import Setting
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import device_name, processor_name, resolve_device
from magnet_cli.models.engines.engine_choice import choose_engine
from magnet_cli.models.facts import model_facts
from magnet_cli.options.lengths import PhysicalScales
from magnet_cli.options.segment import DEFAULT_BUNDLE
from magnet_cli.plan.defaults import resolve_scales
from magnet_cli.scene import write_repeated
from magnet_cli.system.memory import total_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.network_spec import Described
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.options.shared import EngineName, Precision

WARM_SIDE = 4096
"""Largest side of the image on which contenders run once before anything is measured."""


class Studio:
    """Finds out the setting and draws images."""

    def __init__(self, options: SegmentOptions) -> None:
        self._options = options

    def setting(self) -> Setting:
        """Return the bundle, the machine and the device of the bench.

        Raises:
            WeightsError, DeviceError, UsageError: The bench cannot be run.
        """
        bundle, options = load_bundle(self._options.weights or DEFAULT_BUNDLE), self._options
        device = resolve_device(options.device)
        engine, precision = choose_engine(bundle, engine=options.engine, precision=options.precision, device=device)
        return setting_of(bundle, device=device, engine=engine, precision=precision)

    def draw(self, path: Path, side: int) -> int:
        """Write a square image with as many bands as the bundle takes, and return the file's bytes.

        Raises:
            OutputError: The disk has no room for the image.
        """
        bundle = load_bundle(self._options.weights or DEFAULT_BUNDLE)
        return write_repeated(path, size=Size(width=side, height=side), bands=len(bundle.input.bands))

    def draw_warm(self, path: Path, side: int) -> int:
        """Write a small image of a few windows of the finest scale; `side` is the largest side that it may have."""
        facts = model_facts(load_bundle(self._options.weights or DEFAULT_BUNDLE))
        size = Size(width=side, height=side)
        if isinstance(self._options.scales, PhysicalScales):  # the number of pixels is known where an image is read
            return self.draw(path, min(side, WARM_SIDE))
        finest = resolve_scales(self._options, facts, size)[-1]
        return self.draw(path, min(2 * max(finest.width, finest.height), side, WARM_SIDE))


def setting_of(bundle: Described, *, device: str, engine: EngineName, precision: Precision) -> Setting:
    """Return the bundle and the machine of a bench.

    Args:
        bundle: The bundle that is measured.
        device: The device that computes, as `resolve_device` gives it.
        engine: The library that computes the networks.
        precision: The precision that it computes in.
    """
    return Setting(
        bundle=bundle.name,
        digest=bundle.digest,
        notes=bundle.notes,
        device=device,
        device_name=device_name(device),
        engine=engine,
        precision=precision,
        cores=usable_cores(),
        machine={
            "system": f"{platform.system()} {platform.release()}",
            "processor": processor_name(),
            "cores": usable_cores(),
            "cores_of_the_machine": os.cpu_count(),
            "memory": total_memory(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a class of its own, which would load torch where it arrives
        },
    )
