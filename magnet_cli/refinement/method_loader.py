"""Loading of refinement methods by the options of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.arithmetic.classical import classical
from magnet_cli.models.device import machine_of
from magnet_cli.options.refine import THRESHOLD
from magnet_cli.refinement.cascade_method import Cascade
from magnet_cli.refinement.cascade_model import load_refine_model
from magnet_cli.refinement.classical_method import Smoothing
from magnet_cli.refinement.planner import resolve
from magnet_cli.refinement.squares import SquareSettings

if TYPE_CHECKING:
    from magnet_cli.events import Events
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.refinement.method import Method


def load_method(options: RefineOptions, events: Events, named: str = "--weights") -> Method:
    """Load the method that the options name, with its bundle.

    Args:
        options: The options of the run.
        events: Receives messages.
        named: The option of the command line that names a bundle, for messages.

    Raises:
        WeightsError, DeviceError, UsageError: The bundle or the device cannot be used.
    """
    if options.method != "cascadepsp":
        settings = SquareSettings(
            tool=classical(options.method),
            kind=options.mask_kind,
            threshold=THRESHOLD if options.threshold is None else options.threshold,
            objects=options.objects,
            bands=options.bands,
            value_range=options.value_range,
        )
        machine = machine_of("cpu", "float32", memory=options.memory)
        return Smoothing(settings=settings, machine=machine, evidence=options.evidence)
    model = load_refine_model(options, events, named)
    return Cascade(
        model=model,
        settings=resolve(options, model),
        weights=options.weights or model.bundle.name,
        evidence=options.evidence,
        domain=options.domain,
    )
