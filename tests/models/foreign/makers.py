"""Small networks of each kind, saved by the call that their own library has for it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from magnet_cli.options.foreign_network import NetworkOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BANDS = 3
SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A network that its library has saved."""

    path: Path
    eager: Callable[[Tensor], Tensor]
    """The library's own answer for patches: probabilities of each pixel, `(n, classes, h, w)`."""
    classes: int
    more: dict[str, Any] = field(default_factory=dict)
    """Options that the files do not state."""

    def options(self, **other: Any) -> NetworkOptions:
        usual: dict[str, Any] = {"input": SIDE, "mean": "imagenet", "std": "imagenet"}
        return NetworkOptions(network=str(self.path), **{**usual, **self.more, **other})


def enlarged(logits: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(logits, size=like.shape[2:], mode="bilinear", align_corners=False)


def lively(network: nn.Module, seed: int = 7) -> nn.Module:
    """The network with statistics and biases that are not those of a new one, so that a lost tensor shows."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=random) - 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return network.eval()


def smp_network(architecture: str = "Unet", **arguments: Any) -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
    torch.manual_seed(3)
    usual: dict[str, Any] = {"encoder_weights": None, "classes": 3, "in_channels": BANDS}
    encoder = "tu-test_vit" if architecture == "DPT" else "tu-test_resnet"
    found: nn.Module = getattr(smp, architecture)(encoder, **{**usual, **arguments})
    return lively(found)


def save_smp(folder: Path, network: Any) -> Path:
    with warnings.catch_warnings():
        # The library leaves a file open that it reads while it writes.
        warnings.simplefilter("ignore", ResourceWarning)
        network.save_pretrained(folder)
    return folder


def smp_saved(folder: Path) -> Saved:
    network = smp_network()
    return Saved(path=save_smp(folder / "unet", network), eager=lambda x: network(x).softmax(dim=1), classes=3)


def torchvision_saved(folder: Path) -> Saved:
    segmentation = pytest.importorskip("torchvision.models.segmentation", reason="torchvision is not installed")
    torch.manual_seed(3)
    network = lively(segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4))
    torch.save(network.state_dict(), folder / "lraspp.pth")
    return Saved(path=folder / "lraspp.pth", eager=lambda x: network(x)["out"].softmax(dim=1), classes=4)


class Strided(nn.Module):
    """Logits at a quarter of the patch's sides."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(BANDS, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, classes, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = 4 * self.second(torch.relu(self.first(x)))
        return found


def save_script(path: Path, network: nn.Module, *, example: Tensor | None = None, freeze: bool = False) -> Path:
    with warnings.catch_warnings():
        # PyTorch calls TorchScript deprecated.
        warnings.simplefilter("ignore")
        jit: Any = torch.jit
        found = jit.script(network.eval()) if example is None else jit.trace(network.eval(), example)
        jit.save(jit.freeze(found) if freeze else found, path)
    return path


def torchscript_saved(folder: Path) -> Saved:
    network = Strided().eval()
    return Saved(
        path=save_script(folder / "strided.pt", network),
        eager=lambda x: enlarged(network(x), x).softmax(dim=1),
        classes=3,
        more={"trust": True},
    )


MAKERS: dict[str, Callable[[Path], Saved]] = {
    "smp": smp_saved,
    "torchvision": torchvision_saved,
    "torchscript": torchscript_saved,
}
"""A maker for each kind: the contract suite runs for all of them."""
