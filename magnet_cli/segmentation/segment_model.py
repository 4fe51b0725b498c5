"""A bundle on a device, ready to segment images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import choose_device, machine_of
from magnet_cli.models.facts import model_facts
from magnet_cli.models.networks import load_networks
from magnet_cli.options.segment import DEFAULT_BUNDLE, DEFAULT_BUNDLE_NOTE
from magnet_cli.system.memory import reuse_large_tensors

if TYPE_CHECKING:
    from magnet_cli.events import Events
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.networks import Networks
    from magnet_cli.models.python_network import PythonNetwork
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan import Machine, ModelFacts
    from magnet_cli.refinement.last_stage import LastStage


@dataclass(frozen=True, kw_only=True)
class Model:
    """A bundle on a device, ready for any number of images."""

    bundle: Bundle
    facts: ModelFacts
    networks: Networks
    machine: Machine
    last: LastStage | None = None
    """What refines finished masks."""
    notes: tuple[str, ...] = ()
    """Notes on the choice of the bundle. The user reads them when the first image turns out to fit the bundle."""
    reported: set[str] = field(default_factory=set)
    """Notes that the user has read; they are the same for many images."""


def load_model(options: SegmentOptions, events: Events, own: PythonNetwork | None = None) -> Model:
    """The bundle that the options name, or the network of a Python program, on the device that the options name.

    Raises:
        WeightsError, DeviceError, UsageError: It cannot be had.
    """
    last = load_last_stage(options, events)
    bundle = chosen_bundle(options, own)
    device, precision = choose_device(options, bundle, events)
    if own is None:
        facts, networks = model_facts(bundle), None
    else:
        facts, networks = own.load(device=device, precision=precision)
    if facts.large_tensors and device == "cpu":
        reuse_large_tensors()
    networks = networks or load_networks(bundle, device=device, precision=precision)
    machine = machine_of(device, precision, memory=options.memory, gpu_memory=options.gpu_memory)
    if last is not None:
        last = last.after([entry.name for entry in bundle.classes], base=machine.base)
        for note in last.notes:
            events.message(f"magnet: {note}")
    notes = (DEFAULT_BUNDLE_NOTE,) if options.weights is None and own is None else ()
    return Model(bundle=bundle, facts=facts, networks=networks, machine=machine, last=last, notes=notes)


def chosen_bundle(options: SegmentOptions, own: PythonNetwork | None) -> Bundle:
    """The bundle that the options name, or that of a Python program's own network.

    Raises:
        UsageError: Both were given.
        WeightsError: There is no such bundle.
    """
    if own is None:
        return load_bundle(options.weights or DEFAULT_BUNDLE)
    if options.weights is not None:
        raise UsageError(
            "a network of your own takes the place of a bundle",
            value=f"network={own.description.name} and weights={options.weights!r}",
            advice="Give one of them",
        )
    return own.bundle


def load_last_stage(options: SegmentOptions, events: Events) -> LastStage | None:
    """What the options ask to refine finished masks by; None for nothing."""
    if options.refine is None:
        return None
    from magnet_cli.refinement.last_stage import LastStage  # noqa: PLC0415 - loads only what is asked for

    return LastStage.load(options.refine, options, events)
