"""Graphs of networks of PyTorch as ONNX files, which the engines read."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.cascade_base import BANDS, STRIDE
from magnet_cli.models.architectures.strips import InStrips

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from magnet_cli.models.architectures.cascade_base import CascadeModule

SAMPLE = (128, 192)
"""Rows and columns of the zeros with which a network for any size is traced. They differ, because the exporter would
take equal ones for one and the same number."""
LARGEST = 1 << 16
"""Largest side of the patches that a graph for any size is exported for."""


def write_graph(network: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Write the graph of a network for any number of patches of one size.

    Args:
        network: Maps patches `(n, bands, h, w)` to scores; in evaluation mode.
        shape: Bands, rows and columns of a patch.
        path: The file.

    Raises:
        WeightsError: The exporter refuses the network.
    """
    if isinstance(network, InStrips):
        # An engine plans the memory of a whole graph, and has no use for strips.
        network = network.network
    given = {"patches": torch.zeros(2, *shape)}
    _export(network, given, outputs=("scores",), dynamic=({0: Dim("n")},), path=path)


def write_sizeless(network: nn.Module, channels: int, path: Path) -> None:
    """Write the graph of a network of convolutions for one map of any size.

    Args:
        network: Maps `(1, channels, h, w)` to scores; in evaluation mode.
        channels: The channels of the map.
        path: The file.

    Raises:
        WeightsError: The exporter refuses the network.
    """
    axes = {2: Dim("rows", min=2, max=LARGEST), 3: Dim("columns", min=2, max=LARGEST)}
    _export(network, {"maps": torch.zeros(1, channels, *SAMPLE)}, outputs=("scores",), dynamic=(axes,), path=path)


def write_cascade(network: CascadeModule, files: Mapping[str, Path]) -> None:
    """Write the graphs of a cascade's passes for one image of any size.

    Args:
        network: The cascade, in evaluation mode.
        files: The file of each pass by its name, which is that of the method of `CascadeModule`.

    Raises:
        WeightsError: The exporter refuses the network.
    """
    measured = copy.deepcopy(network)
    _replace_pools(measured)
    rows, columns = (STRIDE * Dim(name, min=2, max=LARGEST // STRIDE) for name in ("rows", "columns"))
    # The exporter takes a tensor that is given twice for one input, so each mask is a tensor of its own.
    masks = {name: torch.zeros(1, 1, *SAMPLE) for name in ("masks", "s8", "s4")}
    given = {"images": torch.zeros(1, BANDS, *SAMPLE), **masks}
    dynamic = ({2: rows, 3: columns},) * len(given)
    for index, (name, path) in enumerate(files.items()):
        outputs = ("logits_8", "logits_4", "logits_1")[: index + 1]
        _export(_Pass(measured, name).eval(), given, outputs=outputs, dynamic=dynamic, path=path)


class _Pass(nn.Module):
    """One pass of a cascade as a module.

    Args:
        network: The cascade.
        name: The name of the pass's method.
    """

    def __init__(self, network: CascadeModule, name: str) -> None:
        super().__init__()
        self.network = network
        self._name = name

    def forward(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs of the pass."""
        return cast("Tensor | tuple[Tensor, ...]", getattr(self.network, self._name)(images, masks, s8, s4))


class GridMeans(nn.Module):
    """The means over a grid of cells that `nn.AdaptiveAvgPool2d` gives, as products with matrices.

    ONNX has no such pooling for maps of any size.

    Args:
        count: Cells on a side of the grid.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, channels, h, w)` to `(n, channels, count, count)`."""
        rows, columns = (self._shares(x.shape[axis], x) for axis in (2, 3))
        return rows @ x @ columns.T

    def _shares(self, length: int, like: Tensor) -> Tensor:
        """Return the weight of each position in the mean of each cell of an axis, `(count, length)`."""
        at, cell = torch.arange(length, device=like.device), torch.arange(self._count, device=like.device)[:, None]
        # Cell i of k covers floor(i * length / k) to ceil((i + 1) * length / k), here without a division.
        inside = (self._count * (at + 1) > cell * length) & (self._count * at < (cell + 1) * length)
        counted = inside.to(like.dtype)
        return counted / counted.sum(dim=1, keepdim=True)


def _replace_pools(network: nn.Module) -> None:
    for module in network.modules():
        for name, part in list(module.named_children()):
            if isinstance(part, nn.AdaptiveAvgPool2d):
                setattr(module, name, GridMeans(cast("int", part.output_size)))


def _export(
    network: nn.Module, given: Mapping[str, Tensor], *, outputs: Sequence[str], dynamic: Sequence[Any], path: Path
) -> None:
    """Write the graph of a network.

    Args:
        network: The network.
        given: Examples of its inputs by name.
        outputs: Names of its outputs, which differ from those of the inputs.
        dynamic: Names of those axes of each input whose length is not fixed, by the axis.
        path: The file.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter warns of functions of its own that are to change.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(given.values()),
                str(path),
                input_names=list(given),
                output_names=list(outputs),
                dynamic_shapes=tuple(dynamic),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        raise WeightsError(
            f"the exporter of PyTorch refuses the network: {line}",
            advice="Take --engine torch, or --precision float32",
        ) from exc
