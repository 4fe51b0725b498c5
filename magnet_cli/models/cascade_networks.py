"""A cascade on a device: images and masks to sharper masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from magnet_cli.models.architectures.cascade_base import BANDS, STRIDE
from magnet_cli.models.folding import fused
from magnet_cli.models.networks import PRECISIONS, channels_last, placed, precision_of
from magnet_cli.models.registry import build_cascade
from magnet_cli.models.weights_file import filled

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.models.architectures.cascade_base import CascadeModule, CascadeOutputs
    from magnet_cli.models.network_spec import CascadeBundle

ALIVE_AT_ONCE = 8
"""Number of the network's largest tensors that are counted as in memory together.

A local step of the light cascade raised the process's peak by 140 to 146 MiB at 448 pixels and by 541 to 595 at 896, on
a CPU; seven tensors are 139 and 557 MiB.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedCascade:
    """A cascade ready to run. Results do not depend on what ran before."""

    bundle: CascadeBundle
    network: CascadeModule
    device: torch.device
    precision: str

    @torch.inference_mode()
    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run the three passes of the global step.

        Args:
            images: `(n, 3, h, w)` float32, normalised, on the device; h and w are multiples of 8.
            masks: `(n, 1, h, w)` float32, -1 outside to 1 inside.

        Returns:
            Probabilities of being inside from the last pass, of output strides 4 and 1: `(n, 1, h, w)` float32 each.
        """
        with self._precisely():
            return _probabilities(self.network(self._stored(images), masks))

    @torch.inference_mode()
    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two passes of the local step.

        Args:
            images: `(n, 3, h, w)` float32, normalised; h and w are multiples of 8.
            masks: The step before's output of stride 1, as -1 to 1.
            coarse: Its output of stride 4, as -1 to 1.

        Returns:
            Probabilities of being inside from the last pass, as `three_levels` gives them.
        """
        with self._precisely():
            return _probabilities(self.network.two_passes(self._stored(images), masks, coarse))

    def normalised(self, pixels: NDArray[Any]) -> Tensor:
        """Return `(h, w, 3)` stored values normalised for the network: `(3, h, w)` float32, on the host."""
        spec = self.bundle.input
        low, high = spec.range
        scaled = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        values = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    def _stored(self, images: Tensor) -> Tensor:
        return images if self.bundle.exact else images.contiguous(memory_format=torch.channels_last)

    def _precisely(self) -> torch.autocast:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)


def load_cascade(bundle: CascadeBundle, *, device: str, precision: str) -> LoadedCascade:
    """Read, check and place a bundle's cascade; arguments and errors are those of `load_networks`."""
    dtype = precision_of(precision)
    made = partial(build_cascade, bundle.network.architecture, options=bundle.network.options)
    network = filled(made, spec=bundle.network, folder=bundle.folder)
    place = placed(device)
    ready = ready_cascade(network, device=place, dtype=dtype, exact=bundle.exact)
    return LoadedCascade(bundle=bundle, network=ready, device=place, precision=precision)


def ready_cascade(network: CascadeModule, *, device: torch.device, dtype: torch.dtype, exact: bool) -> CascadeModule:
    """Return a cascade for inference on a device, its convolutions' weights in their precision.

    Args:
        network: Changed, and returned.
        device: The device of the network.
        dtype: The dtype of its convolutions.
        exact: Whether norms are left unfolded and weights in their order, both of which change the last digits. The
            published arithmetic cuts a probability at one half on its way, so a last digit can change a whole window.
    """
    network.eval().requires_grad_(requires_grad=False)
    if not exact:
        fold_parts(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    network.requires_grad_(requires_grad=False).to(device)
    if not exact:
        channels_last(network)
    return network


def fold_parts(network: CascadeModule) -> None:
    """Fold the norms of each part by itself: passes end at different outputs, so no one trace fits them all."""
    for name, part in list(network.named_children()):
        if any(isinstance(module, nn.BatchNorm2d) for module in part.modules()):
            setattr(network, name, fused(part, simplify=False))


def cascade_bytes(bundle: CascadeBundle, *, side: int) -> int:
    """Estimate the memory of a pass over a square of this side, without its input, from shapes alone."""
    seen: list[int] = []

    def record(module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs
        seen.append(output.numel() * 4 if isinstance(output, torch.Tensor) else 0)

    height = width = side + -side % STRIDE
    # Tensors on the device meta have shapes and no memory, so the estimate computes nothing.
    with torch.device("meta"), torch.inference_mode():
        network = build_cascade(bundle.network.architecture, options=bundle.network.options).eval()
        for leaf in (module for module in network.modules() if not list(module.children())):
            leaf.register_forward_hook(record)
        masks = [torch.empty((1, 1, height, width))] * 3
        network.last(torch.empty((1, BANDS, height, width)), *masks)
    return sum(sorted(seen)[-ALIVE_AT_ONCE:])


def _probabilities(found: CascadeOutputs) -> tuple[Tensor, Tensor]:
    return found.s4[-1].float().sigmoid(), found.s1.float().sigmoid()
