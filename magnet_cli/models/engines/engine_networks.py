"""A bundle's networks with an engine in PyTorch's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from magnet_cli.models.architectures.cascade_base import CascadeModule
from magnet_cli.models.cascade_networks import LoadedCascade, load_cascade
from magnet_cli.models.engines.exported_graphs import cascade_graphs, exported_graphs
from magnet_cli.models.engines.graph_engine import ENGINES, check_engine, engine_network
from magnet_cli.models.engines.quantised_graph import graph_of
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.networks import (
    Networks,
    load_networks,
    placed,
    placed_local,
    placed_selector,
    precision_of,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from magnet_cli.models.architectures.grnet import LocalBranch
    from magnet_cli.models.engines.exported_graphs import ExportedGraphs
    from magnet_cli.models.engines.graph_engine import GraphNetwork
    from magnet_cli.models.network_spec import Bundle, CascadeBundle
    from magnet_cli.options.shared import EngineName


def loaded_networks(bundle: Bundle, *, device: str, precision: str, engine: EngineName = "torch") -> Networks:
    """Read, check and place the networks of any bundle; arguments and errors are those of `load_networks`.

    Args:
        bundle: A bundle that `load_bundle` has read.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `float32`, `bfloat16` or `float16`, of what happens inside the networks; or `int8`, in which an
            engine computes the backbone, and refiners in float32.
        engine: Library that computes backbone, refiners, and the local branch of a GRNet. PyTorch computes a selector.

    Raises:
        WeightsError: A file is missing or does not fit, or the engine is not installed or does not take the networks.
        DeviceError: The engine does not compute on the device or in the precision.
    """
    if bundle.foreign is not None:
        return load_foreign(bundle, device=device, precision=precision, engine=engine)
    if engine == "torch":
        return load_networks(bundle, device=device, precision=precision)
    check_engine(engine, device=device, precision=precision)
    place, size = placed(device), bundle.input.size
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    if precision == "int8":
        # What lies between the networks is float32: the graph takes and gives it.
        backbone, precision = graph_of(bundle), "float32"
        graphs = exported_graphs(bundle) if bundle.refiners else None
    else:
        graphs = exported_graphs(bundle)
        backbone = graphs.backbone
    return Networks(
        bundle=bundle,
        backbone=engine_network(backbone, engine, shape=(bands, size.height, size.width), device=place),
        refiners=tuple(
            engine_network(path, engine, shape=(2 * classes, size.height, size.width), device=place)
            for path in (() if graphs is None else graphs.refiners)
        ),
        device=place,
        precision=precision,
        selector=placed_selector(bundle, place=place, dtype=precision_of(precision)),
        local=None if graphs is None else _local_branch(bundle, graphs, engine, place=place, precision=precision),
    )


def _local_branch(
    bundle: Bundle, graphs: ExportedGraphs, engine: EngineName, *, place: torch.device, precision: str
) -> LocalBranch | None:
    """Return a GRNet's local branch whose two networks an engine computes; None for other bundles."""
    local = placed_local(bundle, place=place, dtype=precision_of(precision))
    if local is None or graphs.local is None or graphs.aggregation is None:
        return None
    shape = (len(bundle.input.bands), bundle.input.size.height, bundle.input.size.width)
    local.branch = engine_network(graphs.local, engine, shape=shape, device=place)
    # Cells are fused with the pixels around them, so that maps at the border of an image have other sizes.
    local.set_submodule("aggregation", engine_network(graphs.aggregation, engine, shape=None, device=place))
    return local


@dataclass(frozen=True, kw_only=True)
class CascadePasses:
    """The passes of a cascade as graphs that an engine computes."""

    first: GraphNetwork
    middle: GraphNetwork
    last: GraphNetwork


class EngineCascade(CascadeModule):
    """A cascade whose passes an engine computes in PyTorch's place.

    Args:
        passes: The graphs of its passes.
    """

    def __init__(self, passes: CascadePasses) -> None:
        super().__init__()
        self._passes = passes

    @override
    def first(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> Tensor:
        (found,) = self._passes.first(images, masks, s8, s4).values()
        return found

    @override
    def middle(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor]:
        coarse, fine = self._passes.middle(images, masks, s8, s4).values()
        return coarse, fine

    @override
    def last(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse, fine, finest = self._passes.last(images, masks, s8, s4).values()
        return coarse, fine, finest


def loaded_cascade(
    bundle: CascadeBundle, *, device: str, precision: str, engine: EngineName = "torch"
) -> LoadedCascade:
    """Read, check and place a bundle's cascade; arguments and errors are those of `loaded_networks`."""
    if engine == "torch":
        return load_cascade(bundle, device=device, precision=precision)
    check_engine(engine, device=device, precision=precision)
    place = placed(device)
    opened = {name: ENGINES[engine].open_sizeless(path) for name, path in vars(cascade_graphs(bundle)).items()}
    for graph in opened.values():
        graph.open(str(place))
    network = EngineCascade(CascadePasses(**opened))
    return LoadedCascade(bundle=bundle, network=network, device=place, precision=precision)
