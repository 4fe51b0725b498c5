"""A bundle with a cascade, loaded onto a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import CascadeBundle, load_cascade_bundle, load_description, shipped_bundles
from magnet_cli.models.cascade_networks import ALIVE_AT_ONCE, cascade_bytes
from magnet_cli.models.device import choose_device, machine_of, resolve_device
from magnet_cli.models.engines.engine_choice import choose_cascade_engine
from magnet_cli.models.engines.engine_memory import cascade_memory
from magnet_cli.models.engines.engine_networks import loaded_cascade
from magnet_cli.models.engines.graph_engine import engine_version
from magnet_cli.options.method_settings import BundleDefaults
from magnet_cli.plan import Machine, ModelFacts
from magnet_cli.run.guards import naming_shortage
from magnet_cli.system.memory import LARGE_TENSOR, reuse_large_tensors

if TYPE_CHECKING:
    from magnet_cli.events import Events
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.refinement.pass_context import Sharpener


@dataclass(frozen=True, kw_only=True)
class RefineModel:
    """A bundle with a cascade and its network on a device."""

    bundle: CascadeBundle
    network: Sharpener
    machine: Machine
    activation_bytes: int
    """Estimated or measured peak memory of one window's forward pass, in bytes."""
    runtime: str | None = None
    """Name and version of the engine that computes the network in PyTorch's place. None for PyTorch."""

    def facts(self) -> ModelFacts:
        """Return the facts of the bundle that are compared with an image."""
        side = self.bundle.side
        return ModelFacts(
            name=self.bundle.name,
            domain=self.bundle.domain,
            classes=2,
            bands=self.bundle.input.bands,
            value_range=self.bundle.input.range,
            input=Size(width=side, height=side),
            resample="area",
            resolution=None,
            unit=None,
            trained=(),
            defaults=BundleDefaults(),
            has_refiner=False,
            activation_bytes=self.activation_bytes,
        )


def load_refine_model(options: RefineOptions, events: Events, named: str) -> RefineModel:
    """Load the bundle of the options onto the device of the options.

    Args:
        options: The options of the run.
        events: Receives messages.
        named: The option of the command line that names a bundle, for messages.

    Raises:
        WeightsError, DeviceError, UsageError: The bundle, the device or the engine cannot be used, or memory ran out.
    """
    # Other programs may have filled the device.
    with naming_shortage("the networks were loaded"):
        return _loaded(options, events, named_bundle(options.weights, named))


def _loaded(options: RefineOptions, events: Events, bundle: CascadeBundle) -> RefineModel:
    side = options.side or bundle.side
    engine, word = choose_cascade_engine(
        bundle, engine=options.engine, precision=options.precision, device=resolve_device(options.device)
    )
    device, precision = choose_device(replace(options, precision=word), bundle, events)
    needed = cascade_bytes(bundle, side=side)
    if device == "cpu" and needed >= ALIVE_AT_ONCE * LARGE_TENSOR:
        reuse_large_tensors()
    if engine != "torch":
        needed = cascade_memory(bundle, device=device, precision=precision, engine=engine, side=side)
    network = loaded_cascade(bundle, device=device, precision=precision, engine=engine)
    return RefineModel(
        bundle=bundle,
        network=network,
        machine=machine_of(device, precision, engine=engine, memory=options.memory, gpu_memory=options.gpu_memory),
        activation_bytes=needed,
        runtime=engine_version(engine),
    )


def named_bundle(weights: str | None, option: str = "--weights") -> CascadeBundle:
    """Load the description of the bundle that was named.

    There is no default: a cascade refines the kind of object that it was trained on, so no bundle suits every mask.

    Args:
        weights: The name of a shipped bundle, or a folder.
        option: The option of the command line that names a bundle, for messages.

    Raises:
        WeightsError: No bundle was named, or there is no such bundle.
    """
    if weights is not None:
        return load_cascade_bundle(weights)
    shipped = [name for name in shipped_bundles() if isinstance(load_description(name), CascadeBundle)]
    raise WeightsError(
        "a cascade sharpens only what it was trained on, so its bundle has to be named",
        advice=f"Give a bundle with {option}: {' or '.join(shipped)}, which this program has ('magnet weights list'); "
        "'magnet weights import' makes one of published weights",
    )
