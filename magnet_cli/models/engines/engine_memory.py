"""Memory of forward passes that an engine computes, measured in a process of its own and kept in the state folder."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.errors import DeviceError, MagnetError, WeightsError
from magnet_cli.models.architectures.cascade_base import BANDS, STRIDE
from magnet_cli.models.bundle import CascadeBundle, load_description
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.models.engines.engine_networks import loaded_cascade, loaded_networks
from magnet_cli.models.engines.graph_engine import ENGINES, version_of
from magnet_cli.models.engines.quantised_graph import quantised_graph
from magnet_cli.models.facts import memory_line
from magnet_cli.models.foreign.foreign_spec import PassMemory
from magnet_cli.models.pass_memory import BATCHES, answer_of, memory_of_passes
from magnet_cli.system import durable
from magnet_cli.system.memory import keep_heap_steady, reuse_large_tensors
from magnet_cli.system.speeds import state_folder
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magnet_cli.models.network_spec import Bundle, Described
    from magnet_cli.options.shared import EngineName
    from magnet_cli.plan import ModelFacts


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """Memory of the passes of a bundle's networks in an engine."""

    backbone: tuple[PassMemory, ...]
    refiner: tuple[PassMemory, ...] = ()
    """Passes of the refiner that takes the most; empty where the bundle has none."""
    local: tuple[PassMemory, ...] = ()
    """Passes of a GRNet's local branch or of its aggregation layer, whichever takes more; empty for other bundles."""

    def facts(self, facts: ModelFacts) -> ModelFacts:
        """Return the facts of the bundle with the memory that was measured in place of estimates for PyTorch."""
        lines = [memory_line(passes) for passes in (self.backbone, self.refiner, self.local)]
        (patch, refined, local), fixed = (line[0] for line in lines), max(line[1] for line in lines)
        return replace(facts, activation_bytes=patch, refiner_bytes=refined, local_bytes=local, pass_bytes=fixed)


def engine_memory(bundle: Bundle, *, device: str, precision: str, engine: EngineName) -> EngineMemory:
    """Memory of passes on a device, measured where no earlier run has measured the same.

    Raises:
        DeviceError: A single patch does not fit into memory.
        WeightsError: The network cannot be loaded.
        OutputError: The state folder cannot be written.
    """
    words = [precision, quantised_graph(bundle).sha256] if precision == "int8" else [precision]
    return _kept(bundle, words, engine, lambda: _measured(bundle, device, precision, engine), device=device)


def cascade_memory(bundle: CascadeBundle, *, device: str, precision: str, engine: EngineName, side: int) -> int:
    """Return the bytes that a step of a cascade takes over a square of this side, measured as `engine_memory` does.

    Raises:
        DeviceError: The step does not fit into memory.
        WeightsError: The network cannot be loaded.
        OutputError: The state folder cannot be written.
    """
    words = [precision, f"side {side}"]
    found = _kept(
        bundle, words, engine, lambda: _cascade_measured(bundle, device, precision, engine, side), device=device
    )
    return max(each.bytes for each in found.backbone)


def _kept(
    bundle: Described, words: Sequence[str], engine: EngineName, measure: Callable[[], dict[str, Any]], *, device: str
) -> EngineMemory:
    """Return what an earlier run has measured; measured now and kept where none has."""
    found = (*words, bundle.digest, engine, version_of(ENGINES[engine].package), str(torch.__version__))
    key = hashlib.sha256("\n".join([*found, device.partition(":")[0], str(usable_cores())]).encode()).hexdigest()
    file = state_folder().absolute() / "engines" / f"memory-{key}.json"
    if not file.is_file():
        measured = measure()
        with durable.writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        durable.write_whole(file, json.dumps(measured).encode())
    try:
        table = json.loads(file.read_bytes())
        return EngineMemory(**{name: tuple(PassMemory(**each) for each in passes) for name, passes in table.items()})
    except (OSError, ValueError, TypeError) as exc:
        raise WeightsError(f"the measurements of the engine cannot be read: {exc}", file=file,
            advice="Delete the file, and the engine is measured again") from exc  # fmt: skip


def _measured(bundle: Bundle, device: str, precision: str, engine: EngineName) -> dict[str, Any]:
    return _answered(bundle, str(bundle.foreign_files.absolute()), device, precision, engine)


def _cascade_measured(
    bundle: CascadeBundle, device: str, precision: str, engine: EngineName, side: int
) -> dict[str, Any]:
    return _answered(bundle, str(side), device, precision, engine)


def _answered(bundle: Described, more: str, device: str, precision: str, engine: EngineName) -> dict[str, Any]:
    """Return what a process of its own has measured."""
    answer, status = answer_of(__name__, str(bundle.folder.absolute()), more, device, precision, engine)
    found: dict[str, Any] = json.loads(answer) if answer.startswith("{") else {"error": f"exit status {status}"}
    if "error" in found or not found["backbone"]:
        raise DeviceError(
            f"the memory of the engine {engine} could not be measured",
            value=found.get("error", "a single patch does not fit"),
            file=bundle.folder,
            advice="Take --engine torch",
        )
    return found


def measured_here(bundle: Bundle, *, device: str, precision: str, engine: EngineName) -> EngineMemory:
    """Measure passes in this process, whatever its heap holds already."""
    networks = loaded_networks(bundle, device=device, precision=precision, engine=engine)
    size, classes, place = bundle.input.size, len(bundle.classes), networks.device
    fixed = bundle.foreign.batch if bundle.foreign is not None else 0
    batches = [batch for batch in BATCHES[place.type] if not fixed or batch <= fixed]

    def noise(batch: int, channels: int) -> torch.Tensor:
        shape = (batch, channels, size.height, size.width)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(place)

    def refine(batch: int) -> object:
        return networks.refine(noise(batch, classes), noise(batch, classes), bundle.scales[-1])

    def local(batch: int) -> object:
        cells = networks.cell_scores(noise(batch, len(bundle.input.bands)), noise(batch, classes))
        # Cells are fused one by one.
        return networks.aggregate(cells[:1], noise(1, classes))

    backbone = memory_of_passes(
        lambda batch: networks.predict(noise(batch, len(bundle.input.bands)), size), batches=batches, device=place
    )
    refiner = memory_of_passes(refine, batches=batches, device=place) if networks.has_refiner else ()
    return EngineMemory(
        backbone=backbone,
        refiner=refiner,
        local=() if networks.local is None else (memory_of_passes(local, batches=batches, device=place)),
    )


def cascade_measured_here(
    bundle: CascadeBundle, *, device: str, precision: str, engine: EngineName, side: int
) -> EngineMemory:
    """Measure the global step of a cascade in this process, which has one pass more than the local step."""
    cascade = loaded_cascade(bundle, device=device, precision=precision, engine=engine)
    side += -side % STRIDE
    images, masks = (torch.zeros((1, channels, side, side), device=cascade.device) for channels in (BANDS, 1))
    passes = memory_of_passes(lambda _: cascade.three_levels(images, masks), batches=(1,), device=cascade.device)
    return EngineMemory(backbone=passes)


def _main(folder: str, more: str, device: str, precision: str, engine: str) -> dict[str, Any]:
    """Measure a bundle; `more` is the folder of a network from elsewhere, or the side of a cascade's windows."""
    keep_heap_steady()
    reuse_large_tensors()
    pin_arithmetic(usable_cores())
    try:
        bundle, name = load_description(folder), ENGINES[engine].name
        if isinstance(bundle, CascadeBundle):
            return asdict(
                cascade_measured_here(bundle, device=device, precision=precision, engine=name, side=int(more))
            )
        if bundle.foreign is not None:
            bundle = replace(bundle, network_folder=Path(more))
        return asdict(measured_here(bundle, device=device, precision=precision, engine=name))
    except MagnetError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_main(*sys.argv[1:])) + "\n")
