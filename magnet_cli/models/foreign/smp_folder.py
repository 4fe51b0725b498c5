"""Folders that `save_pretrained` of segmentation-models-pytorch wrote: config.json and model.safetensors."""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from magnet_cli.errors import WeightsError
from magnet_cli.models.foreign.network_files import checked_file, read_json
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.models.foreign.strict_weights import fill_strictly
from magnet_cli.models.weights_file import read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName

ADVICE = "Write the folder again with save_pretrained of segmentation-models-pytorch"

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLASSES = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
    "DPT",
]
"""Classes of the library that may be built. Any other name in a file is refused: it could be anything importable."""
MOST_BEYOND = 4
"""A network with so many times the numbers of its file of weights is refused without being built."""
DIVISOR = 32
"""The stride of the library's encoders at their usual depth of five. U-Net alone pads by itself."""
ACTIVATIONS = {None: "logits", "identity": "logits", "sigmoid": "none", "softmax2d": "none", "softmax": "none"}
"""Activations that the library may put at the end of a network; the scores are then probabilities already."""


class SmpFolder:
    """Reads and loads networks of segmentation-models-pytorch."""

    name = "smp"
    extra = "smp"
    packages: tuple[str, ...] = ("segmentation-models-pytorch", "timm", "torchvision")
    modules: tuple[str, ...] = ("segmentation_models_pytorch",)
    engines: tuple[EngineName, ...] = ("torch",)

    def claims(self, path: Path) -> bool:
        """Return whether a folder has the library's config.json."""
        if not (path / CONFIG).is_file():
            return False
        return "_model_class" in read_json(path, CONFIG) or "encoder_name" in read_json(path, CONFIG)

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return what config.json states; the class has to be one of `CLASSES`."""
        del options
        config = read_json(path, CONFIG)
        known = config.get("_model_class")
        if known not in CLASSES:
            raise WeightsError(
                "no class of segmentation-models-pytorch that is built here",
                value=known,
                file=path / CONFIG,
                advice=f"Take a network of one of the classes {', '.join(CLASSES)}",
            )
        encoder = config.get("encoder_name")
        if not isinstance(encoder, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", encoder):
            # The library behind it takes names that lead to a hub, or to a folder.
            raise WeightsError(
                "encoder_name is the name of an encoder of the library",
                value=encoder,
                file=path / CONFIG,
                advice=ADVICE,
            )
        checked_file(path, WEIGHTS)
        return NetworkReading(
            kind=self.name, path=path, root=path, files=(CONFIG, WEIGHTS), stated=_stated(config, file=path / CONFIG)
        )

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> nn.Module:
        """Build the class with `encoder_weights=None`, so that nothing is fetched, and fill it strictly."""
        import segmentation_models_pytorch as smp  # noqa: PLC0415 - an extra

        del spec, engine
        config = read_json(folder, CONFIG)
        name = str(config.get("_model_class"))
        arguments = {key: value for key, value in config.items() if not key.startswith("_")}
        # A second head that classifies the patch is not called: its answer is none of a pixel.
        has_second = arguments.get("aux_params") is not None
        try:
            with warnings.catch_warnings():
                # Files of older releases spell an argument in a way that the library takes with a warning.
                warnings.simplefilter("ignore", DeprecationWarning)
                build = partial(getattr(smp, name), **{**arguments, "encoder_weights": None})
                state = read_state(folder / WEIGHTS, sha256=None)
                _check_size(build, state, file=folder / CONFIG)
                network: nn.Module = build()
        except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as exc:
            raise WeightsError(
                f"segmentation-models-pytorch does not build {name} with these arguments: {_first_line(exc)}",
                file=folder / CONFIG,
                advice="Save the network again with the release that is installed here",
            ) from exc
        fill_strictly(network, state, file=folder / WEIGHTS)
        if has_second:
            cast("Any", network).classification_head = None
        return network


def _check_size(build: Callable[[], nn.Module], state: Mapping[str, Tensor], *, file: Path) -> None:
    """Refuse a configuration whose network is much larger than its weights, before memory is taken for it.

    Raises:
        WeightsError: The network has more than `MOST_BEYOND` times the numbers of its weights.
    """
    try:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in build().state_dict().values())
    except NotImplementedError:
        return  # Some encoders look at numbers while they are built; those have sizes of their own.
    held = sum(value.numel() for value in state.values())
    if wanted > MOST_BEYOND * held:
        raise WeightsError(
            "the network that config.json describes is larger than its weights",
            value=f"{wanted} numbers, {held} in {WEIGHTS}",
            file=file,
            advice=ADVICE,
        )


def _stated(config: Mapping[str, Any], *, file: Path) -> dict[str, Stated]:
    bands, classes = config.get("in_channels", 3), config.get("classes", 1)
    activation = config.get("activation")
    if not all(isinstance(value, int) and value > 0 for value in (bands, classes)):
        raise WeightsError(
            "classes and in_channels are positive whole numbers",
            value=(classes, bands),
            file=file,
            advice=ADVICE,
        )
    known = ACTIVATIONS.get(activation)
    found = {
        "channels": Stated(value=classes, origin=f"{CONFIG}: classes"),
        "bands": Stated(value=bands, origin=f"{CONFIG}: in_channels"),
        "multiple": Stated(value=_divisor(config), origin=f"{CONFIG}: stride of {config.get('encoder_name')}"),
    }
    if known == "logits":
        usual = "softmax" if classes > 1 else "sigmoid"
        found["activation"] = Stated(value=usual, origin=f"{CONFIG}: activation {activation}, so scores are logits")
    elif known is not None:
        found["activation"] = Stated(value=known, origin=f"{CONFIG}: the network ends with {activation}")
    return found


def _divisor(config: Mapping[str, Any]) -> int:
    depth = config.get("encoder_depth", 5)
    power = 2**depth if isinstance(depth, int) and 1 <= depth <= 5 else DIVISOR  # noqa: PLR2004 - encoders have up to 5
    return max(power, int(config.get("encoder_output_stride", 0) or 0))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
