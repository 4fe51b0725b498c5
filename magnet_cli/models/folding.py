"""Networks simplified for inference: the same function up to rounding, in fewer operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from magnet_cli.models.architectures.chain import ConvChain
from magnet_cli.models.architectures.timm_encoder import TimmEncoder

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Simplifies(Protocol):
    """A network that can give an equal one with fewer operations."""

    def simplified(self) -> nn.Module:
        """Return the equal network; it may share parameters with this one."""


def fused(network: nn.Module, *, simplify: bool) -> nn.Module:
    """Return the network with its batch norms folded into the convolutions before them.

    Args:
        network: In evaluation mode; left as it is, but its parameters may be shared.
        simplify: Whether to take the equal, simpler network of a network that `Simplifies`.
    """
    if simplify and isinstance(network, Simplifies):
        network = network.simplified().eval()
    traced = fx.GraphModule(network, _Tracer().trace(network))
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(norm := modules[node.target], nn.BatchNorm2d):
            _fold(traced, node, norm, modules)
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold(traced: fx.GraphModule, node: fx.Node, norm: nn.BatchNorm2d, modules: dict[str, nn.Module]) -> None:
    """Fold one norm into its convolution, unless something else reads that convolution's output or also calls it."""
    before = node.args[0]
    if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
        return
    target = cast("str", before.target)
    # A convolution that is called twice has to stay as it is for the other call.
    if not isinstance(conv := modules[target], nn.Conv2d) or _calls(traced, target) > 1:
        return
    folded = fuse_conv_bn_eval(conv, norm)
    traced.set_submodule(target, folded)
    modules[target] = folded
    node.replace_all_uses_with(before)
    traced.graph.erase_node(node)


def _calls(traced: fx.GraphModule, target: str) -> int:
    return sum(node.op == "call_module" and node.target == target for node in traced.graph.nodes)


class _Tracer(fx.Tracer):
    """Follows every module but those of torch itself, and those whose Python code depends on the shape of the input."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ConvChain | TimmEncoder) or super().is_leaf_module(m, module_qualified_name)
