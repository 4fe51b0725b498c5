"""State dicts of torchvision's segmentation networks: tensors by name, whose names and shapes tell the architecture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from magnet_cli.errors import WeightsError
from magnet_cli.models.checkpoint import read_checkpoint
from magnet_cli.models.foreign.network_files import archive_names, checked_file
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.models.foreign.strict_weights import fill_strictly
from magnet_cli.models.weights_file import read_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName

SUFFIXES = (".pth", ".pt", ".safetensors", ".bin")
DEEP = 12
"""A layer of ResNet-101's third group that ResNet-50 lacks, which has six."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The architecture of a network, as the names in its state dict define it."""

    architecture: str
    channels: int
    bands: int
    auxiliary: bool
    """Whether the second head, which only training uses, is in the file."""


class TorchvisionState:
    """Reads and loads networks of `torchvision.models.segmentation`."""

    name = "torchvision"
    extra = "torchvision"
    packages: tuple[str, ...] = ("torchvision",)
    modules: tuple[str, ...] = ("torchvision",)
    engines: tuple[EngineName, ...] = ("torch",)

    def claims(self, path: Path) -> bool:
        """Return whether a file has a suffix of weights, and is no TorchScript, which has code beside them."""
        return path.is_file() and path.suffix in SUFFIXES and "constants.pkl" not in archive_names(path)

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return the architecture, classes and bands that follow from the names and shapes of the tensors."""
        del options
        variant = variant_of(state_of(path), file=path)
        return NetworkReading(
            kind=self.name,
            path=path,
            root=path.parent,
            files=(path.name,),
            options={"architecture": variant.architecture, "auxiliary": variant.auxiliary},
            stated={
                "channels": Stated(value=variant.channels, origin=f"{path.name}: shape of the last layer"),
                "bands": Stated(value=variant.bands, origin=f"{path.name}: shape of the first layer"),
                "activation": Stated(
                    value="softmax" if variant.channels > 1 else "sigmoid",
                    origin="torchvision: its networks give logits",
                ),
                "output": Stated(value="out", origin="torchvision: the name of its networks' scores"),
            },
        )

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> nn.Module:
        """Build the architecture without weights of its own, and fill it strictly."""
        from torchvision.models import segmentation  # noqa: PLC0415 - an extra

        del engine
        (name,) = spec.files
        path = checked_file(folder, name)
        state = state_of(path)
        variant = variant_of(state, file=path)
        options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": variant.channels}
        if not variant.architecture.startswith("lraspp"):
            options["aux_loss"] = variant.auxiliary
        network: nn.Module = getattr(segmentation, variant.architecture)(**options)
        if variant.bands != 3:  # noqa: PLR2004 - the library builds networks for three bands
            _widen(network, variant.bands)
        fill_strictly(network, state, file=path)
        if hasattr(network, "aux_classifier"):
            cast("Any", network).aux_classifier = None
        return network


def state_of(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or a checkpoint; nothing in it is run.

    Raises:
        WeightsError: The file holds anything else.
    """
    if path.suffix == ".safetensors":
        return read_state(path, sha256=None)
    return dict(read_checkpoint(path).state)


def variant_of(state: Mapping[str, Tensor], *, file: Path) -> Variant:
    """Return the network that a state dict belongs to.

    Raises:
        WeightsError: The state dict belongs to none of torchvision's networks.
    """
    first = next((state[key] for key in ("backbone.conv1.weight", "backbone.0.0.weight") if key in state), None)
    last_keys = ("classifier.low_classifier.weight", "classifier.4.weight")
    last = next((state[key] for key in last_keys if key in state), None)
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:  # noqa: PLR2004 - weights of convolutions
        raise WeightsError(
            "the names of these weights are those of none of torchvision's segmentation networks, and a state dict "
            "has nothing else that identifies its network",
            value=", ".join(list(state)[:4]),
            file=file,
            advice="Save the network with its library's save_pretrained, or export it",
        )
    return Variant(
        architecture=_architecture(state),
        channels=len(last),
        bands=first.shape[1],
        auxiliary=any(key.startswith("aux_classifier.") for key in state),
    )


def _architecture(state: Mapping[str, Tensor]) -> str:
    if "classifier.low_classifier.weight" in state:
        return "lraspp_mobilenet_v3_large"
    deep = any(re.match(rf"backbone\.layer3\.{DEEP}\.", key) for key in state)
    body = "mobilenet_v3_large" if "backbone.0.0.weight" in state else "resnet101" if deep else "resnet50"
    head = "deeplabv3" if any(key.startswith("classifier.0.convs.") for key in state) else "fcn"
    return f"{head}_{body}"


def _widen(network: nn.Module, bands: int) -> None:
    """Replace the first convolution by one for another number of bands."""
    body: Any = network.get_submodule("backbone")
    holder, slot = (body, "conv1") if hasattr(body, "conv1") else (body["0"], "0")
    old = holder.get_submodule(slot)
    new = nn.Conv2d(
        bands, old.out_channels, old.kernel_size, stride=old.stride, padding=old.padding, bias=old.bias is not None
    )
    holder.register_module(slot, new)
