"""What a plan needs to know of a bundle, without loading its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from magnet_cli.memory import LARGE_TENSOR
from magnet_cli.models.registry import build_backbone, build_local, build_refiner, build_selector
from magnet_cli.models.strips import strip_of
from magnet_cli.options import BundleDefaults
from magnet_cli.plan import ModelFacts, SelectorFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.options import Compat

ALIVE_AT_ONCE = 6
"""How many of a network's largest tensors are counted as alive together: skip connections and a convolution's workspace
keep more than input and output."""

WEIGHTS_AGAIN = ("deeplabv3plus-resnet50", "unet")
"""Networks whose weights are counted once more, because the library lays them out anew for its kernels. Peak PSS of a
pass over one patch on a CPU, less that before it, was 7, 60 and 189 MiB at 32, 256 and 512 pixels (DeepLabV3+, 102 MiB
of weights) and 4, 65 and 176 (U-Net, 93), where the tensors alone say 0.4, 25 and 99. The pyramids' estimate is short
too, by 6 MiB (`fpn-small` at 256) to 28 (`fpn-resnet50` at 256), and is left alone."""


def model_facts(bundle: Bundle) -> ModelFacts:
    """The facts of a bundle."""
    magnet, estimates, (cells, local) = bundle.magnet, activation_bytes(bundle), local_facts(bundle)
    scales = tuple(sorted(bundle.scales, key=lambda size: -size.pixels))
    return ModelFacts(
        name=bundle.name,
        classes=len(bundle.classes),
        bands=bundle.input.bands,
        value_range=bundle.input.range,
        input=bundle.input.size,
        resample=bundle.input.resample,
        resolution=bundle.resolution.value if bundle.resolution else None,
        unit=cast("Literal['um', 'm']", bundle.resolution.unit) if bundle.resolution else None,
        trained=scales,
        defaults=BundleDefaults.parse(scales=scales, magnet=dict(vars(magnet))),
        has_refiner=bool(bundle.refiners),
        batches={(item.device, item.precision): item.batch for item in bundle.execution},
        compat=cast("Compat", bundle.compat),
        cells=cells,
        local_bytes=local,
        selector=selector_facts(bundle),
        large_tensors=max(estimates.values()) >= ALIVE_AT_ONCE * LARGE_TENSOR,
        **estimates,
    )


def activation_bytes(bundle: Bundle) -> dict[str, int]:
    """An estimate of what one patch takes in each network, from the shapes of a pass without data."""
    classes, size = len(bundle.classes), bundle.input.size
    with torch.device("meta"):
        backbone = build_backbone(
            bundle.backbone.architecture,
            classes=bundle.logits,
            bands=len(bundle.input.bands),
            options=bundle.backbone.options,
        )
        refiners = [build_refiner(spec.architecture, classes=classes, options=spec.options) for spec in bundle.refiners]
    return {
        "activation_bytes": _largest(backbone, (len(bundle.input.bands),), size)
        + _weights_again(backbone, bundle.backbone.architecture),
        "refiner_bytes": max((_largest(refiner, (2 * classes,), size) for refiner in refiners), default=0),
    }


def local_facts(bundle: Bundle) -> tuple[int, int]:
    """Cells a side of a GRNet, and an estimate of what one patch takes in its local branch; zeros where it is none."""
    if bundle.local is None:
        return 0, 0
    classes, bands, size = len(bundle.classes), len(bundle.input.bands), bundle.input.size
    with torch.device("meta"):
        local = build_local(bundle.local.architecture, classes=classes, bands=bands, options=bundle.local.options)
    return local.cells, max(_largest(local.branch, (bands,), size), _largest(local.aggregation, (2 * classes,), size))


def selector_facts(bundle: Bundle) -> SelectorFacts | None:
    """How a bundle's selector compares windows, and an estimate of what one patch takes in it; None without one."""
    if bundle.selector is None:
        return None
    classes, bands, options = len(bundle.classes), len(bundle.input.bands), bundle.selector.options
    with torch.device("meta"):
        selector = build_selector(bundle.selector.architecture, bands=bands, classes=classes, options=options)
    seen = (bands, classes) if selector.sees_field else (bands,)
    return SelectorFacts(
        against=cast("Literal['image', 'constant']", selector.against),
        constant=selector.constant,
        sees_field=selector.sees_field,
        activation_bytes=_largest(selector, seen, bundle.input.size),
    )


def _weights_again(network: nn.Module, architecture: str) -> int:
    if architecture not in WEIGHTS_AGAIN:
        return 0
    return sum(parameter.numel() * 4 for parameter in network.parameters())


def _largest(network: nn.Module, channels: Sequence[int], size: Size) -> int:
    seen: list[int] = []

    def record(module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs
        if isinstance(output, Tensor):
            seen.append(output.numel() * 4)

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    with torch.inference_mode():
        rows, columns = strip_of(network, size)
        network.eval()(*(torch.empty((1, count, rows, columns), device="meta") for count in channels))
    for handle in handles:
        handle.remove()
    return sum(sorted(seen)[-ALIVE_AT_ONCE:])
