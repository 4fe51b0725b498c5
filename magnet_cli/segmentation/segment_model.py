"""A bundle that is loaded onto a device, ready to segment images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import choose_device, machine_of, resolve_device
from magnet_cli.models.engines.engine_choice import choose_engine
from magnet_cli.models.engines.engine_memory import engine_memory
from magnet_cli.models.engines.engine_networks import loaded_networks
from magnet_cli.models.engines.graph_engine import ENGINES, engine_version
from magnet_cli.models.engines.quantised_graph import GRAPH, quantised_graph
from magnet_cli.models.facts import model_facts
from magnet_cli.models.foreign.foreign_bundle import bundle_in_place
from magnet_cli.models.foreign.loading import runtime
from magnet_cli.options.segment import DEFAULT_BUNDLE, DEFAULT_BUNDLE_NOTE
from magnet_cli.run.guards import naming_shortage
from magnet_cli.system.memory import reuse_large_tensors

if TYPE_CHECKING:
    from magnet_cli.events import Events
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.networks import Networks
    from magnet_cli.models.python_network import PythonNetwork
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.options.shared import EngineName, PrecisionOption
    from magnet_cli.plan import Machine, ModelFacts
    from magnet_cli.refinement.last_stage import LastStage


@dataclass(frozen=True, kw_only=True)
class Model:
    """The networks of a bundle on a device, with which any number of images can be segmented."""

    bundle: Bundle
    facts: ModelFacts
    networks: Networks
    machine: Machine
    last: LastStage | None = None
    """The method of `--refine`, which refines finished masks. None without the option."""
    notes: tuple[str, ...] = ()
    """Notes on the choice of the bundle. They are reported once the first image turns out to fit the bundle."""
    runtime: str | None = None
    """Versions of the libraries that run a network from elsewhere; None for the program's own architectures."""
    threads: int | None = None
    """The number of threads of each operation of a run that begins. None takes as many as there are cores."""
    reported: set[str] = field(default_factory=set)
    """Notes that were already reported, because the notes of many images are the same."""


def load_model(options: SegmentOptions, events: Events, own: PythonNetwork | None = None) -> Model:
    """Load the bundle of the options, or the network of a Python program, onto the device of the options.

    Raises:
        WeightsError, DeviceError, UsageError: The bundle or the device cannot be used, or memory ran out.
    """
    # Other programs may have filled the device.
    with naming_shortage("the networks were loaded"):
        return _loaded(options, events, own)


def _loaded(options: SegmentOptions, events: Events, own: PythonNetwork | None) -> Model:
    last = load_last_stage(options, events)
    bundle = chosen_bundle(options, own)
    engine, word = engine_of_run(options, bundle, own)
    device, precision = choose_device(replace(options, precision=word), bundle, events)
    if own is None:
        facts, networks = facts_of_run(bundle, device=device, precision=precision, engine=engine), None
    else:
        facts, networks = own.load(device=device, precision=precision)
    if facts.large_tensors and device == "cpu":
        reuse_large_tensors()
    networks = networks or loaded_networks(bundle, device=device, precision=precision, engine=engine)
    machine = machine_of(device, precision, engine=engine, memory=options.memory, gpu_memory=options.gpu_memory)
    if last is not None:
        last = last.after([entry.name for entry in bundle.classes], base=machine.base)
        for note in last.notes:
            events.message(f"magnet: {note}")
    if precision == "int8":
        events.message(f"magnet: in int8, {quantised_graph(bundle).line()}")
    is_default = options.weights is None and options.foreign.network is None and own is None
    libraries = None if bundle.foreign is None else runtime(bundle, engine)
    if libraries is not None and libraries.note is not None:
        events.message(f"magnet: {libraries.note}")
    return Model(
        bundle=bundle,
        facts=facts,
        networks=networks,
        machine=machine,
        last=last,
        notes=(DEFAULT_BUNDLE_NOTE,) if is_default else (),
        runtime=engine_text(engine, bundle, precision) if libraries is None else libraries.text,
    )


def engine_of_run(
    options: SegmentOptions, bundle: Bundle, own: PythonNetwork | None
) -> tuple[EngineName, PrecisionOption]:
    """Return the engine of a run, and the precision that it computes in.

    Raises:
        UsageError: The network of a Python program is to be computed by another engine than PyTorch.
        WeightsError, DeviceError: The engine cannot be used.
    """
    if own is None:
        return choose_engine(
            bundle, engine=options.engine, precision=options.precision, device=resolve_device(options.device)
        )
    if options.precision == "int8":
        raise UsageError(
            "8 bits are for bundles, whose backbone is quantised beforehand",
            value="precision='int8'",
            advice="Leave out the precision, or make a bundle",
        )
    if options.engine not in ("auto", "torch"):
        raise UsageError(
            "the network of a Python program is called as it is",
            value=f"engine={options.engine!r}",
            advice="Leave out the engine, or save the network and name it by --network",
        )
    return "torch", options.precision


def facts_of_run(bundle: Bundle, *, device: str, precision: str, engine: EngineName) -> ModelFacts:
    """Return the facts of a bundle, with the memory of the engine that computes its networks."""
    facts = model_facts(bundle, device)
    if bundle.foreign is None:
        is_known = engine == "torch"
    else:
        is_known = engine not in ENGINES or ENGINES[engine].package in bundle.foreign.runtime
    return facts if is_known else engine_memory(bundle, device=device, precision=precision, engine=engine).facts(facts)


def engine_text(engine: EngineName, bundle: Bundle, precision: str) -> str | None:
    """Return the version of an engine, and the hash of a graph in 8 bits, as a journal keeps them; None for PyTorch."""
    text = engine_version(engine)
    return f"{text}, {GRAPH} {quantised_graph(bundle).sha256}" if precision == "int8" else text


def chosen_bundle(options: SegmentOptions, own: PythonNetwork | None) -> Bundle:
    """Return the bundle of the options, or the one that describes the network of a Python program.

    Raises:
        UsageError: The options name a bundle although a network was given.
        WeightsError: There is no such bundle.
    """
    if options.foreign.network is not None:
        other = f"--weights {options.weights}" if own is None else f"network={own.description.name}"
        if options.weights is not None or own is not None:
            raise UsageError(
                "a network from elsewhere takes the place of a bundle",
                value=f"--network {options.foreign.network} and {other}",
                advice="Give the network or the bundle, not both",
            )
        return bundle_in_place(options.foreign, options.engine)
    if own is None:
        return load_bundle(options.weights or DEFAULT_BUNDLE)
    if options.weights is not None:
        raise UsageError(
            "a network takes the place of a bundle, so only one of the two can be given",
            value=f"network={own.description.name} and weights={options.weights!r}",
            advice="Leave out network or weights",
        )
    return own.bundle


def load_last_stage(options: SegmentOptions, events: Events) -> LastStage | None:
    """Load the method of `--refine`; None without the option."""
    if options.refine is None:
        return None
    from magnet_cli.refinement.last_stage import LastStage  # noqa: PLC0415 - loads only what is asked for

    return LastStage.load(options.refine, options, events)
