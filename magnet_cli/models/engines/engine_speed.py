"""Speed and agreement of an engine, measured beside PyTorch."""

from __future__ import annotations

from functools import partial
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from magnet_cli.models.device import pin_arithmetic, processor_name
from magnet_cli.models.engines.engine_choice import choose_cascade_engine
from magnet_cli.models.engines.engine_networks import loaded_cascade, loaded_networks
from magnet_cli.models.engines.engine_runs import EngineRun
from magnet_cli.models.engines.graph_engine import ENGINES, check_engine
from magnet_cli.models.foreign.trial import generated_picture, windows_of_bundle
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from magnet_cli.models.cascade_networks import LoadedCascade
    from magnet_cli.models.network_spec import Bundle, CascadeBundle
    from magnet_cli.models.networks import Networks
    from magnet_cli.options.shared import EngineName, Precision

ROUNDS = 7
"""Rounds in which PyTorch and the engine take turns."""
PATCHES = 4
"""Patches of a pass."""


WINDOW = 512
"""Side in pixels of the windows of a cascade that are measured: that of the made-up picture."""
INSIDE = 0.5
"""Probability above which a pixel is inside of an object."""
OBJECTS = ((224, 136), (176, 224), (224, 200), (224, 88), (296, 224), (224, 352))
"""Rows and columns of the objects that are measured, which differ as those of a mask do."""


@torch.inference_mode()
def measure_engine(bundle: Bundle, *, engine: EngineName, precision: Precision) -> EngineRun:
    """Measure the speed and the agreement of a bundle's backbone in an engine on the CPU.

    Of a GRNet all networks but the selector are measured. Classes are compared on windows of a made-up picture of 512
    pixels.

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
    picture = generated_picture(len(bundle.input.bands), bundle.input.range)
    windows = windows_of_bundle(bundle, picture)
    patches = torch.cat([windows.patch(top, left) for top, left in list(windows.starts())[:PATCHES]])
    same = _scores(networks, patches).argmax(dim=1) == _scores(plain, patches).argmax(dim=1)
    speed = _times_as_fast(partial(_scores, networks, patches), partial(_scores, torch_networks, patches))
    return _run(engine, speed=speed, agreement=float(same.double().mean()))


@torch.inference_mode()
def measure_cascade(bundle: CascadeBundle, *, engine: EngineName, precision: Precision) -> EngineRun:
    """Measure the speed and the agreement of a cascade in an engine on the CPU.

    Steps over windows of one size and steps over objects of several sizes are measured by themselves, because engines
    prepare each size anew. The smaller speed counts, so that no kind of mask takes longer than with PyTorch. Both see
    parts of a made-up picture, with a mask whose borders follow its brightness roughly.

    Raises:
        WeightsError, DeviceError, UsageError: The engine cannot be used.
    """
    engine_of_bundle, _ = choose_cascade_engine(bundle, engine=engine, precision=precision, device="cpu")
    pin_arithmetic(usable_cores())
    plain = loaded_cascade(bundle, device="cpu", precision="float32")
    torch_cascade = plain if precision == "float32" else loaded_cascade(bundle, device="cpu", precision=precision)
    cascade = loaded_cascade(bundle, device="cpu", precision=precision, engine=engine_of_bundle)
    picture = generated_picture(len(bundle.input.bands), bundle.input.range).transpose(1, 2, 0)
    image = plain.normalised(picture)[None]
    bright = functional.avg_pool2d(image.mean(dim=1, keepdim=True), 17, stride=1, padding=8)
    mask = (bright > bright.mean()).float() * 2 - 1
    parts = [(image[..., :rows, :columns], mask[..., :rows, :columns]) for rows, columns in OBJECTS]

    def objects(network: LoadedCascade) -> list[Tensor]:
        return [network.three_levels(*part)[1] for part in parts]

    def window(network: LoadedCascade) -> list[Tensor]:
        return [network.two_levels(image, mask, mask)[1]]

    steps = (objects, window)
    found = [torch.cat([each.flatten() for step in steps for each in step(one)]) for one in (cascade, plain)]
    same = (found[0] > INSIDE) == (found[1] > INSIDE)
    speeds = [_times_as_fast(partial(step, cascade), partial(step, torch_cascade)) for step in steps]
    return _run(engine, speed=min(speeds), agreement=float(same.double().mean()))


def _scores(networks: Networks, patches: Tensor) -> Tensor:
    """Return the scores of patches, of a GRNet those in which every cell is refined."""
    if networks.local is None:
        return networks.predict(patches, networks.bundle.input.size)
    scores = networks.scores(patches)
    refined = networks.cell_scores(patches, scores.softmax(dim=1))
    # The graph of the aggregation layer takes one map at a time, as a run fuses cells.
    pairs = zip(refined.unbind(), scores.unbind(), strict=True)
    return torch.cat([networks.aggregate(*(part[None] for part in pair)) for pair in pairs])


def _times_as_fast(run: Callable[[], object], other: Callable[[], object]) -> float:
    """Return how many times as fast one call is as another.

    Both take turns, so that other work on the machine slows both; the ratio is that of the medians of CPU seconds.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for call, found in zip((run, other), seconds, strict=True):
            begun = process_time()
            call()
            found.append(process_time() - begun)
    # The first round warms caches and compiles.
    own, others = (float(np.median(found[1:])) for found in seconds)
    return others / own


def _run(engine: EngineName, *, speed: float, agreement: float) -> EngineRun:
    return EngineRun(
        speed=round(speed, 3),
        agreement=round(agreement, 6),
        version=ENGINES[engine].version,
        machine=f"{processor_name()}, {usable_cores()} threads",
    )
