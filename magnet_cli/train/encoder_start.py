"""The encoder of a network that is trained, and the weights that it begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.images import InputStates
from magnet_cli.models.architectures.cascade_base import MASKS, CascadeModule
from magnet_cli.models.architectures.cascadepsp import ResidualEncoder
from magnet_cli.models.architectures.efficientnet import EfficientNetLite
from magnet_cli.models.architectures.resnet import ResNet
from magnet_cli.models.architectures.timm_encoder import TimmEncoder
from magnet_cli.models.encoder_weights import fill_encoder, normalisation

if TYPE_CHECKING:
    from torch import nn

    from magnet_cli.models.encoder_weights import EncoderOrigin
    from magnet_cli.train.config import LoopConfig


def encoders_of(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that turn pixels into features and are known by published weights."""
    kinds = ResNet | ResidualEncoder | EfficientNetLite | TimmEncoder
    return [module for module in network.modules() if isinstance(module, kinds)]


def encoder_of(network: nn.Module) -> nn.Module | None:
    """Return the one encoder of a network: None where the network has none, or several."""
    encoders = encoders_of(network)
    return encoders[0] if len(encoders) == 1 else None


def refuse_idle_rate(network: nn.Module, loop: LoopConfig) -> None:
    """Refuse a rate of encoders for a network without one.

    Raises:
        UsageError: The loop states one.
    """
    if loop.encoder_rate != 1 and not encoders_of(network):
        raise UsageError(
            "in [loop] or [folds.loop], encoder_rate has no effect on a network without an encoder",
            value=f"encoder_rate = {loop.encoder_rate:g}",
            advice="Remove the key, or choose an architecture with an encoder, such as fpn-lite0",
        )


@dataclass(frozen=True, kw_only=True)
class EncoderStart:
    """The weights that an encoder begins with, as a configuration names them."""

    words: str = ""
    """The text of `NetworkConfig.encoder_weights`. Empty keeps the encoder's random weights."""
    folder: Path = Path()
    """The folder from which relative paths of files start."""

    def states(self) -> InputStates:
        """Return the state of the file of weights; no state where the words name no file."""
        file = self.folder / self.words
        return InputStates.of([file] if self.words and file.is_file() else [])

    def normalisation(self, network: nn.Module) -> dict[str, list[float]]:
        """Return `mean` and `std` of `[bundle.input]` that an encoder's weights expect; empty without weights."""
        encoder = encoder_of(network)
        if not self.words or encoder is None:
            return {}
        mean, std = normalisation(encoder)
        return {"mean": [round(value, 6) for value in mean], "std": [round(value, 6) for value in std]}

    def fill(self, network: nn.Module) -> EncoderOrigin | None:
        """Give the encoder of a network these weights.

        Returns:
            Where they come from; None where the encoder keeps its random weights.

        Raises:
            UsageError: The network has no encoder.
            WeightsError: The weights are not there, or do not fit.
        """
        if not self.words:
            return None
        encoder = encoder_of(network)
        if encoder is None:
            raise UsageError(
                "[network] encoder_weights needs an architecture with an encoder",
                value=type(network).__name__,
                advice="Choose one with an encoder, such as fpn-lite0 or cascadepsp-lite0, or remove the key",
            )
        masks = MASKS if isinstance(network, CascadeModule) else 0
        return fill_encoder(encoder, self.words, folder=self.folder, masks=masks)
