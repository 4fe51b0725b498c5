"""Facts about a bundle that a plan needs, found without loading its weights."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self, cast

import torch
from torch import Tensor, nn

from magnet_cli.geometry import Size
from magnet_cli.models.architectures.strips import strip_of
from magnet_cli.models.registry import build_backbone, build_local, build_refiner, build_selector
from magnet_cli.models.shape_rules import ShapeRules
from magnet_cli.options.method_settings import BundleDefaults
from magnet_cli.plan import ModelFacts, SelectorFacts
from magnet_cli.system.memory import LARGE_TENSOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from magnet_cli.models.architectures.grnet import LocalBranch
    from magnet_cli.models.architectures.ppn import PatchProposalNetwork
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.foreign.foreign_spec import ForeignSpec, PassMemory

ALIVE_AT_ONCE = 6
"""Number of a network's largest tensors that are counted as in memory together.

Skip connections and a convolution's workspace keep more than input and output.
"""

WEIGHTS_AGAIN = ("deeplabv3plus-resnet50", "unet")
"""Networks whose weights are counted once more, because the library lays them out anew for its kernels. Peak PSS of a
pass over one patch on a CPU, less that before it, was 7, 60 and 189 MiB at 32, 256 and 512 pixels (DeepLabV3+, 102 MiB
of weights) and 4, 65 and 176 (U-Net, 93), where the tensors alone say 0.4, 25 and 99. The pyramids' estimate is short
too, by 6 MiB (`fpn-small` at 256) to 28 (`fpn-resnet50` at 256), and is left alone."""


@dataclass(frozen=True, kw_only=True)
class _Shapes:
    """The networks of a bundle without their weights."""

    backbone: nn.Module
    refiners: tuple[nn.Module, ...]
    selector: PatchProposalNetwork | None
    local: LocalBranch | None

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Return the networks of a bundle without their weights."""
        classes, bands, selector, local = len(bundle.classes), len(bundle.input.bands), bundle.selector, bundle.local
        with torch.device("meta"):
            return cls(
                backbone=build_backbone(
                    bundle.backbone.architecture, classes=bundle.logits, bands=bands, options=bundle.backbone.options
                ),
                refiners=tuple(
                    build_refiner(spec.architecture, classes=classes, options=spec.options) for spec in bundle.refiners
                ),
                selector=None
                if selector is None
                else build_selector(selector.architecture, bands=bands, classes=classes, options=selector.options),
                local=None
                if local is None
                else build_local(local.architecture, classes=classes, bands=bands, options=local.options),
            )

    @property
    def weight_bytes(self) -> int:
        """The weight bytes of all of them in float32."""
        optional = (network for network in (self.selector, self.local) if network is not None)
        return sum(map(_weights, (self.backbone, *self.refiners, *optional)))


def model_facts(bundle: Bundle, device: str = "cpu") -> ModelFacts:
    """Return the facts of a bundle.

    Args:
        bundle: The bundle.
        device: Name of the device, for networks from elsewhere, whose memory was measured on one kind of device.
    """
    if bundle.foreign is not None:
        return _foreign_facts(bundle, bundle.foreign, kind=device.partition(":")[0])
    shapes = _Shapes.of(bundle)
    return facts_of(
        bundle,
        weight_bytes=shapes.weight_bytes,
        cells=0 if shapes.local is None else shapes.local.cells,
        selector=None if shapes.selector is None else _selector_facts(bundle, shapes.selector),
        **_estimates(bundle, shapes),
    )


def _foreign_facts(bundle: Bundle, spec: ForeignSpec, *, kind: str) -> ModelFacts:
    """Return the facts of a network from elsewhere, whose memory was measured and not estimated."""
    # Another kind of device is planned with what was measured, until 'magnet weights measure' has run there.
    measured = next((found for name, found in spec.memory.items() if name == kind), None) or next(
        iter(spec.memory.values()), ()
    )
    patch, fixed = memory_line(measured)
    files = (bundle.foreign_files / name for name in spec.files)
    found = facts_of(
        bundle,
        weight_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        activation_bytes=patch,
        pass_bytes=fixed,
    )
    if len(found.trained) > 1:
        return found
    # Usual recipes enlarge and shrink their crops by a factor of two, so a window twice as large is not quite new.
    (only,) = found.trained
    double = Size(width=2 * only.width, height=2 * only.height)
    return replace(found, trained=(double, only), is_single_scale=True)


def memory_line(measured: Sequence[PassMemory]) -> tuple[int, int]:
    """Return the bytes for each patch and for each pass that are at least what was measured of every batch.

    Args:
        measured: Peaks of passes with one patch and more.
    """
    ordered = sorted(measured, key=lambda each: each.batch)
    slopes = [(b.bytes - a.bytes) // (b.batch - a.batch) for a, b in pairwise(ordered) if b.batch > a.batch]
    patch = max(slopes, default=ordered[-1].bytes // ordered[-1].batch if ordered else 0)
    patch = max(patch, 0)
    return patch, max((each.bytes - patch * each.batch for each in ordered), default=0)


def facts_of(
    bundle: Bundle,
    *,
    weight_bytes: int,
    activation_bytes: int,
    pass_bytes: int = 0,
    refiner_bytes: int = 0,
    local_bytes: int = 0,
    cells: int = 0,
    selector: SelectorFacts | None = None,
) -> ModelFacts:
    """Return the facts that a bundle states, joined with the memory of its networks.

    Args:
        bundle: A bundle whose description was read.
        weight_bytes: Bytes of all its weights in float32.
        activation_bytes: Bytes of one patch's pass through the backbone.
        pass_bytes: Bytes of a pass that do not depend on the number of its patches.
        refiner_bytes: Bytes of one patch's pass through the refiner.
        local_bytes: Bytes of one patch's pass through a GRNet's local branch.
        cells: Cells a side that a GRNet cuts an image into; 0 where the bundle is none.
        selector: Facts about its selector, where it has one.
    """
    scales = tuple(sorted(bundle.scales, key=lambda size: -size.pixels))
    return ModelFacts(
        name=bundle.name,
        domain=bundle.domain,
        preparation=bundle.preparation,
        classes=len(bundle.classes),
        bands=bundle.input.bands,
        value_range=bundle.input.range,
        input=bundle.input.size,
        resample=bundle.input.resample,
        resolution=bundle.resolution.value if bundle.resolution else None,
        unit=bundle.resolution.unit if bundle.resolution else None,
        trained=scales,
        defaults=BundleDefaults.parse(scales=scales, magnet=dict(vars(bundle.magnet))),
        has_refiner=bool(bundle.refiners),
        batches={
            (device, precision): run.batch
            for device, runs in bundle.execution.items()
            for precision, run in runs.items()
        },
        compat=bundle.compat,
        cells=cells,
        selector=selector,
        weight_bytes=weight_bytes,
        large_tensors=max(activation_bytes, refiner_bytes) >= ALIVE_AT_ONCE * LARGE_TENSOR,
        activation_bytes=activation_bytes,
        pass_bytes=pass_bytes,
        refiner_bytes=refiner_bytes,
        local_bytes=local_bytes,
    )


def _estimates(bundle: Bundle, shapes: _Shapes) -> dict[str, int]:
    """Estimate the bytes of one patch in each network from the shapes of a pass without data.

    Networks that are not there take 0.
    """
    classes, bands, size = len(bundle.classes), len(bundle.input.bands), bundle.input.size
    local = 0
    if shapes.local is not None:
        local = max(
            _largest(shapes.local.branch, (bands,), size), _largest(shapes.local.aggregation, (2 * classes,), size)
        )
    backbone = _largest(shapes.backbone, (bands,), size)
    if bundle.backbone.architecture in WEIGHTS_AGAIN:
        backbone += _weights(shapes.backbone)
    return {
        "activation_bytes": backbone,
        "refiner_bytes": max((_largest(refiner, (2 * classes,), size) for refiner in shapes.refiners), default=0),
        "local_bytes": local,
    }


def _selector_facts(bundle: Bundle, selector: PatchProposalNetwork) -> SelectorFacts:
    """Return how a bundle's selector compares windows, and an estimate of what one patch takes in it."""
    classes, bands, size = len(bundle.classes), len(bundle.input.bands), bundle.input.size
    seen = (bands, classes) if selector.sees_field else (bands,)
    return SelectorFacts(
        against=cast("Literal['image', 'constant']", selector.against),
        constant=selector.constant,
        sees_field=selector.sees_field,
        activation_bytes=_largest(selector, seen, size) + size.pixels * 4 * selector.joined_channels,
    )


def _weights(network: nn.Module) -> int:
    """Return the bytes of a network's parameters in float32."""
    return sum(parameter.numel() * 4 for parameter in network.parameters())


def _largest(network: nn.Module, channels: Sequence[int], size: Size) -> int:
    with torch.inference_mode(), largest_tensors(network) as found, ShapeRules():
        rows, columns = strip_of(network, size)
        network.eval()(*(torch.empty((1, count, rows, columns), device="meta") for count in channels))
    return found.bytes


@dataclass(kw_only=True)
class LargestTensors:
    """Outputs of a network's layers, recorded during passes."""

    outputs: list[int]
    """Bytes in float32 of each output."""

    @property
    def bytes(self) -> int:
        """An estimate of the bytes that are alive at the same time."""
        return sum(sorted(self.outputs)[-ALIVE_AT_ONCE:])


@contextmanager
def largest_tensors(network: nn.Module) -> Iterator[LargestTensors]:
    """Record the outputs of a network's layers until the block ends."""
    found = LargestTensors(outputs=[])

    def record(module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs
        if isinstance(output, Tensor):
            found.outputs.append(output.numel() * 4)

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
