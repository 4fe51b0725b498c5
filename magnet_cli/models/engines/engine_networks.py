"""A bundle's networks with an engine in PyTorch's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.models.engines.exported_graphs import exported_graphs
from magnet_cli.models.engines.graph_engine import check_engine, engine_network
from magnet_cli.models.engines.quantised_graph import graph_of
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.networks import Networks, load_networks, placed, placed_selector, precision_of

if TYPE_CHECKING:
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.options.shared import EngineName


def loaded_networks(bundle: Bundle, *, device: str, precision: str, engine: EngineName = "torch") -> Networks:
    """Read, check and place the networks of any bundle; arguments and errors are those of `load_networks`.

    Args:
        bundle: A bundle that `load_bundle` has read.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `float32`, `bfloat16` or `float16`, of what happens inside the networks; or `int8`, in which an
            engine computes the backbone, and refiners in float32.
        engine: Library that computes backbone and refiners. A selector is computed by PyTorch.

    Raises:
        WeightsError: A file is missing or does not fit, or the engine is not installed or does not take the networks.
        DeviceError: The engine does not compute on the device or in the precision.
    """
    if bundle.foreign is not None:
        return load_foreign(bundle, device=device, precision=precision, engine=engine)
    if engine == "torch":
        return load_networks(bundle, device=device, precision=precision)
    check_engine(engine, device=device, precision=precision)
    if bundle.local is not None:
        raise WeightsError(
            "the networks of a GRNet are computed by PyTorch alone", value=f"--engine {engine}", file=bundle.folder,
            advice="Take --engine torch",
        )  # fmt: skip
    place, size = placed(device), bundle.input.size
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    if precision == "int8":
        # What lies between the networks is float32: the graph takes and gives it.
        backbone, precision = graph_of(bundle), "float32"
        refiners = exported_graphs(bundle).refiners if bundle.refiners else ()
    else:
        graphs = exported_graphs(bundle)
        backbone, refiners = graphs.backbone, graphs.refiners
    return Networks(
        bundle=bundle,
        backbone=engine_network(backbone, engine, shape=(bands, size.height, size.width), device=place),
        refiners=tuple(
            engine_network(path, engine, shape=(2 * classes, size.height, size.width), device=place)
            for path in refiners
        ),
        device=place,
        precision=precision,
        selector=placed_selector(bundle, place=place, dtype=precision_of(precision)),
    )
