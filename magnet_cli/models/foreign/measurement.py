"""Measuring memory and margin of a network from elsewhere, for plans, in a process of its own.

Memory is measured and not counted from the network's tensors: counts were short by 1.3 to 1.8 times on networks of
this field, because attention and the workspace of kernels show in no module's output. A process of its own begins with
a heap that no other work has grown.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from magnet_cli.errors import DeviceError, MagnetError, WeightsError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.models.facts import model_facts
from magnet_cli.models.foreign.foreign_spec import PassMemory
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.foreign.trial import SIDE, Trial, generated_picture, windows_of_bundle
from magnet_cli.models.pass_memory import BATCHES, answer_of, memory_of_passes
from magnet_cli.plan import Machine
from magnet_cli.plan.segmentation_planner import default_batch
from magnet_cli.system import durable
from magnet_cli.system.memory import keep_heap_steady, reuse_large_tensors
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.models.networks import Networks

FELT = 0.01
"""Least mean change of a pixel's probabilities (total variation) that counts as an influence of the patch's edge."""
MOVE = 32
"""Windows are moved against each other by a multiple of this: the whole stride of the field's networks. Another move
would measure what the network does with a shift, instead of what an edge does."""
SHARE = 8
"""A margin takes at most this part of a patch: windows then overlap by a quarter, and their weights vanish at the rim.
Attention reaches over any distance, and twice the margin would double the work."""
STEP = 8
"""Margins are rounded up to a multiple of this, so that machines whose last bits differ find the same one."""


@dataclass(frozen=True, kw_only=True)
class NetworkMeasurement:
    """The figures that were measured of a network on one device."""

    device: str
    """Kind of the device: `cpu`, `cuda`, `mps`."""
    memory: tuple[PassMemory, ...]
    edge: int
    """Distance in patch pixels over which the edge of a patch changes results; at most an eighth of the patch."""
    agreement: float | None
    """Share of pixels that get the same class in bfloat16 as in float32; None where the network does not run in it."""
    batch: int
    """Patches of a forward pass that the program takes on this device."""

    def lines(self) -> list[str]:
        """Return the figures, a sentence each."""
        passes = ", ".join(f"{each.bytes / 2**20:.0f} MiB with a batch of {each.batch}" for each in self.memory)
        said = "it does not run in bfloat16" if self.agreement is None else f"{self.agreement:.2%} of pixels agree"
        return [
            f"memory of a forward pass on {self.device}: {passes}",
            f"margin: the edge of a patch changes scores up to {self.edge} pixels inside it",
            f"bfloat16 against float32: {said}",
        ]


def measured(bundle: Bundle, device: str = "cpu") -> NetworkMeasurement:
    """Measure the network from elsewhere of a bundle in a process of its own.

    Args:
        bundle: The bundle, on disk.
        device: A device that `resolve_device` has returned.

    Raises:
        DeviceError: A single patch does not fit into memory.
        WeightsError: The network cannot be loaded.
    """
    answer, status = answer_of(__name__, str(bundle.folder), str(bundle.foreign_files), device)
    found: dict[str, Any] = json.loads(answer) if answer else {"error": f"exit status {status}"}
    if "error" in found:
        kind = DeviceError if found.get("short", not answer) else WeightsError
        raise kind(
            "the network could not be measured", value=found["error"], file=bundle.folder,
            advice="Take a smaller --input, or a machine with more memory",
        )  # fmt: skip
    memory = tuple(PassMemory(**each) for each in found.pop("memory"))
    return NetworkMeasurement(memory=memory, **found)


def measured_here(bundle: Bundle, device: str = "cpu") -> NetworkMeasurement:
    """Measure the network from elsewhere of a bundle in this process, whatever its heap holds already.

    Raises:
        DeviceError: A single patch does not fit into memory.
    """
    networks = load_foreign(bundle, device=device, precision="float32")
    kind = device.partition(":")[0]
    machine = Machine(device=device, precision="bfloat16", memory=0)
    return NetworkMeasurement(
        device=kind,
        memory=_passes(networks, bundle, kind),
        edge=felt_edge(networks, bundle),
        agreement=_agreement(networks, bundle),
        batch=default_batch(replace(model_facts(bundle, device), batches={}), machine),
    )


def store(folder: Path, found: NetworkMeasurement, *, margin: bool = False) -> None:
    """Write what was measured into a bundle's description.

    Args:
        folder: The bundle's folder.
        found: The figures of one device. Those of other devices are kept.
        margin: Whether the margin becomes the bundle's, which changes its masks.

    Raises:
        OutputError: The description cannot be written.
    """
    file = folder / DESCRIPTION
    table = json.loads(file.read_text(encoding="utf-8"))
    foreign = table["networks"]["foreign"]
    foreign["memory"] = {**foreign.get("memory", {}), found.device: [asdict(each) for each in found.memory]}
    if found.agreement is not None:
        known = table.get("execution", {})
        runs = {**known.get(found.device, {}), "bfloat16": {"batch": found.batch, "agreement": found.agreement}}
        table["execution"] = {**known, found.device: runs}
    if margin:
        table["magnet"]["margin"] = max(foreign["trim"], found.edge)
    durable.write_whole(file, (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode())


def _passes(networks: Networks, bundle: Bundle, kind: str) -> tuple[PassMemory, ...]:
    """Return the peak of a pass by batch, beyond what lay in memory before the first pass."""
    size = bundle.input.size
    fixed = bundle.foreign.batch if bundle.foreign is not None else 0
    found = memory_of_passes(
        lambda batch: networks.predict(_noise(bundle, batch).to(networks.device), size),
        batches=[batch for batch in BATCHES[kind] if not fixed or batch <= fixed],
        device=networks.device,
    )
    if not found:
        raise DeviceError(
            "a single patch does not fit into memory",
            value=str(size),
            file=bundle.folder,
            advice="Give more memory with --gpu-memory, or a smaller size of patches with --input",
        )
    return found


def _noise(bundle: Bundle, count: int) -> Tensor:
    size = bundle.input.size
    shape = (count, len(bundle.input.bands), size.height, size.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _picture(bundle: Bundle, *, least: int) -> np.ndarray[Any, Any]:
    """Return the trial's picture, or a made-up one, reflected until it has at least so many rows and columns."""
    name = bundle.foreign.trial if bundle.foreign is not None else ""
    file = bundle.folder / name
    bands, span = len(bundle.input.bands), bundle.input.range
    found = Trial.decode(file).picture if name and file.is_file() else generated_picture(bands, span)
    short = [max(0, least - side) for side in found.shape[1:]]
    return np.pad(found, ((0, 0), (0, short[0]), (0, short[1])), mode="symmetric")


def felt_edge(networks: Networks, bundle: Bundle) -> int:
    """Return how far inside a patch its edge changes results.

    Windows of one picture, moved against each other, are compared.

    Returns:
        A distance in patch pixels, rounded up to a multiple of `STEP`, at most an eighth of the patch.
    """
    size = bundle.input.size
    side = min(size.height, size.width)
    move = max(1, side // 4 // MOVE) * MOVE
    most = side // SHARE // STEP * STEP
    if side - move < 2 * STEP:
        return most  # Windows this small share nothing that is far from an edge.
    windows = windows_of_bundle(bundle, _picture(bundle, least=max(size.width, size.height) + move))
    change, count = torch.zeros(side), torch.zeros(side)
    for down, right in ((move, move), (0, move), (move, 0)):
        one, other = (
            networks.predict(windows.patch(*at).to(networks.device), size)[0].float().cpu()
            for at in ((0, 0), (down, right))
        )
        rows, columns = one.shape[1] - down, one.shape[2] - right
        apart = (one[:, down:, right:] - other[:, :rows, :columns]).abs().sum(dim=0) / 2
        near = _distances(one.shape[1], one.shape[2])
        distance = torch.minimum(near[down:, right:], near[:rows, :columns]).reshape(-1)
        change.index_add_(0, distance, apart.reshape(-1))
        count.index_add_(0, distance, torch.ones(distance.numel()))
    felt = (change / count.clamp_min(1) > FELT).nonzero().reshape(-1)
    reach = int(felt[-1]) + 1 if len(felt) else 0
    return min(-(-reach // STEP) * STEP, most)


def _distances(height: int, width: int) -> Tensor:
    """Return for each pixel the number of pixels between it and the nearest edge."""
    rows, columns = torch.arange(height), torch.arange(width)
    rows, columns = torch.minimum(rows, height - 1 - rows), torch.minimum(columns, width - 1 - columns)
    return torch.minimum(rows[:, None], columns[None, :])


def _agreement(networks: Networks, bundle: Bundle) -> float | None:
    """Return the share of pixels of the trial's picture that get the same class in bfloat16 as in float32."""
    windows = windows_of_bundle(bundle, _picture(bundle, least=SIDE))
    patch, size = windows.patch(*next(iter(windows.starts()))).to(networks.device), bundle.input.size
    try:
        other = replace(networks, precision="bfloat16").predict(patch, size)
    # Operators without a bfloat16 kernel, and code that expects float32, fail in any of these ways.
    except (RuntimeError, ValueError, TypeError, NotImplementedError, DeviceError):
        return None
    if not bool(torch.isfinite(other).all()):
        return None
    return float((other.argmax(dim=1) == networks.predict(patch, size).argmax(dim=1)).double().mean())


def _main(folder: str, files: str, device: str) -> dict[str, Any]:
    keep_heap_steady()
    reuse_large_tensors()
    pin_arithmetic(usable_cores())
    try:
        found = measured_here(replace(load_bundle(folder), network_folder=Path(files)), device)
    except MagnetError as error:
        return {"error": str(error), "short": isinstance(error, DeviceError)}
    return asdict(found)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(*sys.argv[1:])) + "\n")
