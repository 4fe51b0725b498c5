"""Encoders of the package timm, by their names there, as four feature maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from magnet_cli.errors import WeightsError

if TYPE_CHECKING:
    from magnet_cli.models.architectures.resnet import Features

STRIDES = (4, 8, 16, 32)


def timm_package() -> Any:
    """Return the package timm, which is imported when a network needs it.

    Raises:
        WeightsError: The package is not installed.
    """
    try:
        import timm  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as exc:
        raise WeightsError(
            "the encoder is one of the package timm, which is not installed",
            value=str(exc),
            advice='Install it: pip install "magnet-cli[timm]"',
        ) from exc
    return timm


class TimmEncoder(nn.Module):
    """An encoder of timm. Nothing is downloaded: its weights come from the bundle, or from `encoder_weights`.

    Args:
        name: The name of the model in timm, such as `convnext_tiny` or `efficientnet_b0`.
        bands: Channels of the input.

    Raises:
        WeightsError: timm is not installed.
        ValueError: timm has no such model, or the model has no feature maps of strides 4, 8, 16 and 32.
    """

    def __init__(self, name: str, *, bands: int = 3) -> None:
        super().__init__()
        timm = timm_package()
        if not timm.is_model(name):
            message = f"timm {timm.__version__} has no model {name}"
            raise ValueError(message)
        self.name = name
        # The strides of a model are known once it is made, so it is made twice: with all of its maps, and with those
        # that are used.
        whole = timm.create_model(name, pretrained=False, features_only=True, in_chans=bands)
        strides = list(whole.feature_info.reduction())
        if missing := [stride for stride in STRIDES if stride not in strides]:
            message = f"{name} has feature maps of strides {strides}, and none of stride {missing[0]}"
            raise ValueError(message)
        indices = tuple(strides.index(stride) for stride in STRIDES)
        self.model = timm.create_model(name, pretrained=False, features_only=True, in_chans=bands, out_indices=indices)
        self.channels = tuple(self.model.feature_info.channels())

    def forward(self, x: Tensor) -> Features:
        """Map `(n, bands, h, w)` to four feature maps of strides 4, 8, 16 and 32, finest first."""
        finest, fine, coarse, coarsest = self.model(x)
        return finest, fine, coarse, coarsest
