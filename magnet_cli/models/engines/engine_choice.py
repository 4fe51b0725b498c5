"""The engine of a run: the one that is asked for, or one that a measurement beside the bundle recommends."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.models.device import AGREES, computes_int8, resolve_precision
from magnet_cli.models.engines.engine_runs import measured_engines
from magnet_cli.models.engines.graph_engine import ENGINES, check_engine
from magnet_cli.models.engines.quantised_graph import quantised_graph, refuse_quantising
from magnet_cli.models.foreign.kinds import kind_named
from magnet_cli.models.foreign.network_kind import engine_of

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle, CascadeBundle
    from magnet_cli.options.segment import DeviceKind
    from magnet_cli.options.shared import EngineName, EngineOption, Precision, PrecisionOption

PAYS = 1.02
"""Ratio of speeds from which on another engine is taken unasked."""


def choose_engine(
    bundle: Bundle, *, engine: EngineOption, precision: PrecisionOption, device: str
) -> tuple[EngineName, Precision]:
    """Return the engine and the precision of a run.

    Args:
        bundle: The bundle that is to run.
        engine: The engine of `--engine`.
        precision: The precision of `--precision`. `auto` means float32 in an engine that the user names, because the
            agreement of precisions is measured in the bundle's own engine.
        device: A device that `resolve_device` has returned.

    Raises:
        DeviceError: The engine does not compute on the device or in the precision, or the processor lacks
            instructions for 8 bits.
        UsageError: 8 bits are asked for, and no engine is named that has them, or the networks are none for them.
        WeightsError: The library is missing, the network is none for this engine, or 8 bits are asked for and the
            bundle has no such graph.
    """
    if precision == "int8":
        return _engine_of_int8(bundle, engine, device), precision
    if bundle.foreign is not None:
        kind = kind_named(bundle.foreign.kind, file=bundle.folder)
        own = engine_of(kind, "auto", bundle.foreign.runtime)
        chosen = engine_of(kind, engine, bundle.foreign.runtime)
        named = chosen != own
    else:
        chosen = "torch" if engine == "auto" else engine
        named = chosen != "torch"
    resolved = resolve_precision("float32" if named and precision == "auto" else precision, device, bundle)
    if engine == "auto" and bundle.foreign is None:
        chosen = _recommended(bundle, device, resolved)
    check_engine(chosen, device=device, precision=resolved)
    return chosen, resolved


def choose_cascade_engine(
    bundle: CascadeBundle, *, engine: EngineOption, precision: PrecisionOption, device: str
) -> tuple[EngineName, Precision]:
    """Return the engine and the precision of a run of a cascade, as `choose_engine` does for other bundles.

    Raises:
        UsageError: 8 bits are asked for, or another engine than PyTorch for a bundle of the published arithmetic.
        DeviceError: The engine does not compute on the device or in the precision.
        WeightsError: The library is missing.
    """
    if precision == "int8":
        raise UsageError(
            "8 bits are for backbones: a cascade in 8 bits gives fewer than 99.9 % of pixels the label of float32",
            value="--precision int8",
            advice="Take --precision auto, and after segment in int8 refine the mask by a command of its own",
        )
    if bundle.exact and engine not in ("auto", "torch"):
        raise UsageError(
            "the bundle follows the published program, in which the last digit of a probability can change a whole "
            "window, so that PyTorch alone computes it",
            value=f"--engine {engine}",
            file=bundle.folder,
            advice="Take --engine torch",
        )
    named = engine not in ("auto", "torch")
    resolved = resolve_precision("float32" if named and precision == "auto" else precision, device, bundle)
    chosen: EngineName = "torch" if engine == "auto" else engine
    if engine == "auto" and not bundle.exact:
        chosen = _recommended(bundle, device, resolved)
    check_engine(chosen, device=device, precision=resolved)
    return chosen, resolved


def _engine_of_int8(bundle: Bundle, engine: EngineOption, device: str) -> EngineName:
    """Return the engine of a run in 8 bits, which the user names because its labels differ from those of float32."""
    if engine not in ENGINES:
        raise UsageError(
            f"--precision int8 is computed by the engines {' and '.join(ENGINES)}",
            value=f"--engine {engine}",
            advice="Add --engine openvino or --engine onnxruntime",
        )
    refuse_quantising(bundle)
    check_engine(engine, device=device, precision="int8")
    if not computes_int8():
        raise DeviceError(
            "8 bits need a processor that adds their products exactly (VNNI), or labels would be wrong unnoticed",
            value="--precision int8",
            advice="Take --precision float32",
        )
    quantised_graph(bundle)
    return ENGINES[engine].name


def _recommended(bundle: Bundle | CascadeBundle, device: str, precision: Precision) -> EngineName:
    """Return the fastest engine that agrees and is installed; PyTorch where none was measured to be faster."""
    found = measured_engines(bundle).engines.get(cast("DeviceKind", device.partition(":")[0]), {}).get(precision, {})
    fit = [
        (run.speed, name)
        for name, run in found.items()
        if run.speed >= PAYS and run.agreement >= AGREES and name in ENGINES and ENGINES[name].is_installed
    ]
    return max(fit)[1] if fit else "torch"
