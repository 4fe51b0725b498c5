"""Speed and agreement of an engine, measured beside PyTorch."""

from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.models.device import pin_arithmetic, processor_name
from magnet_cli.models.engines.engine_networks import loaded_networks
from magnet_cli.models.engines.engine_runs import EngineRun
from magnet_cli.models.engines.graph_engine import ENGINES, check_engine
from magnet_cli.models.foreign.trial import generated_picture, windows_of_bundle
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.options.shared import EngineName, Precision

ROUNDS = 7
"""Rounds in which PyTorch and the engine take turns."""
PATCHES = 4
"""Patches of a pass."""


@torch.inference_mode()
def measure_engine(bundle: Bundle, *, engine: EngineName, precision: Precision) -> EngineRun:
    """Measure the speed and the agreement of a bundle's backbone in an engine on the CPU.

    PyTorch and the engine take turns, so that other work on the machine slows both; the ratio is that of the medians of
    CPU seconds. Classes are compared on windows of a made-up picture of 512 pixels.

    Raises:
        WeightsError, DeviceError: The engine cannot be used.
    """
    check_engine(engine, device="cpu", precision=precision)
    pin_arithmetic(usable_cores())
    plain = loaded_networks(bundle, device="cpu", precision="float32")
    # PyTorch has no 8 bits here, so that it is measured in float32 beside them.
    is_own = precision in ("float32", "int8")
    torch_networks = plain if is_own else loaded_networks(bundle, device="cpu", precision=precision)
    networks = loaded_networks(bundle, device="cpu", precision=precision, engine=engine)
    size, picture = bundle.input.size, generated_picture(len(bundle.input.bands), bundle.input.range)
    windows = windows_of_bundle(bundle, picture)
    patches = torch.cat([windows.patch(top, left) for top, left in list(windows.starts())[:PATCHES]])
    same = networks.predict(patches, size).argmax(dim=1) == plain.predict(patches, size).argmax(dim=1)
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(ROUNDS + 1):
        for index, each in enumerate((torch_networks, networks)):
            begun = process_time()
            each.predict(patches, size)
            seconds[index].append(process_time() - begun)
    # The first round warms caches and compiles.
    by_torch, by_engine = (float(np.median(found[1:])) for found in seconds.values())
    return EngineRun(
        speed=round(by_torch / by_engine, 3),
        agreement=round(float(same.double().mean()), 6),
        version=ENGINES[engine].version,
        machine=f"{processor_name()}, {usable_cores()} threads",
    )
