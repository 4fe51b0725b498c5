"""State dicts of TIAToolbox's semantic networks, and the YAML that describes them, are read as data."""

from __future__ import annotations

import reprlib
from math import inf
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.network_files import checked_file, read_yaml
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.models.foreign.strict_weights import fill_strictly
from magnet_cli.models.foreign.tiatoolbox_unet import WITHOUT_USE, ToolboxUNet, UNetVariant, unet_variant
from magnet_cli.models.foreign.torchvision_state import state_of
from magnet_cli.options.foreign_network import ClassChoice
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName

SUFFIXES = (".pth", ".pt", ".safetensors", ".tar")
DESCRIPTIONS = (".yaml", ".yml")
REGISTRY = "pretrained_model.yaml"
"""TIAToolbox has this list of networks in its folder `data`. The key of an entry is the name of the weights' file."""
BEGINNING = 1 << 20
"""The first bytes of a file hold the names of its tensors, which every format puts before the numbers."""
MARK = b"uplist.0.0."
"""The name of a tensor begins so in no other library."""
UNET = "UNetModel"

_PATCHES = "it gives one answer for a whole patch: it classifies patches and does not segment"
_NUCLEI = "it finds single nuclei: TIAToolbox turns its maps into outlines, which hold no classes of pixels"
_POINTS = "it finds the centres of nuclei: TIAToolbox takes the peaks of its map, which holds no classes of pixels"
_CLICKS = "it asks for clicks beside the image"
REASONS = {
    "CNNModel": _PATCHES,
    "CNNBackbone": _PATCHES,
    "TimmModel": _PATCHES,
    "TimmBackbone": _PATCHES,
    "IDaRS": _PATCHES,
    "HoVerNet": _NUCLEI,
    "HoVerNetPlus": _NUCLEI,
    "MicroNet": _NUCLEI,
    "MapDe": _POINTS,
    "SCCNN": _POINTS,
    "KongNet": _POINTS,
    "NuClick": _CLICKS,
    "SAM": _CLICKS,
    "GrandQCModel": "it was trained on patches that JPEG had compressed with quality 80, which is not done here, and "
    "its lowest score wins",
    "EfficientUNetTissueMaskModel": "TIAToolbox makes its mask by a threshold of 0.95 and by closing and opening with "
    "a disc of 31 pixels, and not by the likeliest class",
}
"""Networks of these classes of TIAToolbox are refused, each for its reason."""


class TiatoolboxState:
    """Reads and loads the U-Nets of TIAToolbox."""

    name = "tiatoolbox"
    extra = ""
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    engines: tuple[EngineName, ...] = ("torch",)

    def claims(self, path: Path) -> bool:
        """Return whether weights have the names of such a U-Net, or a description beside them is TIAToolbox's."""
        weights = _weights(path)
        return weights is not None and (
            MARK in _beginning(weights) or b"patch_input_shape" in _described(weights, path)
        )

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return the facts that the tensors give about the network, and those that only the description states."""
        weights = _weights(path)
        if weights is None:
            raise WeightsError(
                "a folder of TIAToolbox has one file of weights", file=path, advice="Name the file of weights itself"
            )
        file = _description(weights, path)
        table = _entry(read_yaml(file), weights.stem, file) if file is not None else {}
        if file is not None:
            _refuse_class(table, file)
        variant = unet_variant(state_of(checked_file(weights.parent, weights.name)), file=weights)
        if variant.channels == 1:
            raise WeightsError(
                "TIAToolbox takes the softmax of all channels, and of one channel it is 1 everywhere: such a U-Net "
                "belongs to NuClick, which asks for clicks beside the image",
                file=weights,
                advice="Take a network with a channel for each class",
            )
        return NetworkReading(
            kind=self.name,
            path=path,
            root=weights.parent,
            files=(weights.name,),
            options={"architecture": f"unet-{variant.encoder}"},
            stated={
                **_of_tensors(variant, weights),
                **(_of_description(table, variant, options, file) if file else {}),
            },
        )

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> nn.Module:
        """Build the network that the tensors belong to, and fill it strictly."""
        del engine
        (name,) = spec.files
        path = checked_file(folder, name)
        state = state_of(path)
        network = ToolboxUNet(unet_variant(state, file=path))
        fill_strictly(network, {key: value for key, value in state.items() if key not in WITHOUT_USE}, file=path)
        return network


def _weights(path: Path) -> Path | None:
    """Return the file of weights for a path: the path itself, the one in a folder, or the one beside a description."""
    if path.is_dir():
        found = [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES]
        return found[0] if len(found) == 1 else None
    if path.suffix in DESCRIPTIONS:
        return next((file for suffix in SUFFIXES if (file := path.with_suffix(suffix)).is_file()), None)
    return path if path.suffix in SUFFIXES else None


def _description(weights: Path, path: Path) -> Path | None:
    """Return the description of weights: that of their name, TIAToolbox's list, or the only one in a folder."""
    if path.suffix in DESCRIPTIONS:
        return path
    names = [*(weights.with_suffix(suffix).name for suffix in DESCRIPTIONS), REGISTRY]
    known = [weights.parent / name for name in names]
    if path.is_dir():
        every = [each for each in sorted(path.iterdir()) if each.suffix in DESCRIPTIONS]
        known += every if len(every) == 1 else []
    found = next((file for file in known if file.is_file()), None)
    return None if found is None else checked_file(weights.parent, found.name)


def _beginning(file: Path) -> bytes:
    try:
        return regular_files.beginning(file, BEGINNING)
    except OSError:
        return b""


def _described(weights: Path, path: Path) -> bytes:
    """Return the text of the description; empty without one, and for a list that has no entry of these weights."""
    file = _description(weights, path)
    text = _beginning(file) if file is not None else b""
    is_list = file is not None and file.name == REGISTRY
    return b"" if is_list and f"{weights.stem}:".encode() not in text else text


def _entry(table: Mapping[str, Any], name: str, file: Path) -> Mapping[str, Any]:
    """Return the entry of one network, from a list, a file of one entry, or a file for `--yaml-config-path`."""
    if file.name == REGISTRY or (name in table and "ioconfig" not in table):
        found = table.get(name)
        if not isinstance(found, dict):
            raise WeightsError(
                "the list of networks has no entry of this name",
                value=name,
                file=file,
                advice="Rename the file as TIAToolbox names the network, or add an entry",
            )
        return found
    return table if "ioconfig" in table else {"ioconfig": {"kwargs": table}}


def _part(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        found = table.get(key)
        table = found if isinstance(found, dict) else {}
    return table


def _refuse_class(table: Mapping[str, Any], file: Path) -> None:
    given = _part(table, "architecture").get("class", UNET)
    # An alias in YAML can repeat a part so often that its whole text would fill the memory.
    stated = given if isinstance(given, str) else reprlib.repr(given)
    name = stated.rpartition(".")[2]
    if name == UNET:
        return
    raise WeightsError(
        f"networks of this class of TIAToolbox are not read: {REASONS.get(name, 'magnet does not know its layers')}",
        value=stated,
        file=file,
        advice=f"Use TIAToolbox for it, or take a network of the class {UNET}",
    )


def _of_tensors(variant: UNetVariant, weights: Path) -> dict[str, Stated]:
    origin = "TIAToolbox: its U-Nets divide stored values by 255 and do nothing else to them"
    return {
        "channels": Stated(value=variant.channels, origin=f"{weights.name}: shape of the last layer"),
        "bands": Stated(value=variant.bands, origin=f"{weights.name}: shape of the first layer"),
        "range": Stated(value=(0.0, 255.0), origin=origin),
        "mean": Stated(value=(0.0,), origin=origin),
        "std": Stated(value=(1.0,), origin=origin),
        "activation": Stated(value="none", origin="TIAToolbox: the softmax is taken before scores are enlarged"),
        "multiple": Stated(value=variant.multiple, origin=f"{weights.name}: number of the encoder's levels"),
    }


def _of_description(
    table: Mapping[str, Any], variant: UNetVariant, options: NetworkOptions, file: Path
) -> dict[str, Stated]:
    given = _part(table, "ioconfig", "kwargs") or _part(table, "ioconfig")
    found: dict[str, Stated] = {}
    shape = given.get("patch_input_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) and side > 0 for side in shape):  # noqa: PLR2004 - sides
        found["input"] = Stated(value=Size(width=shape[1], height=shape[0]), origin=f"{file.name}: patch_input_shape")
    if options.pixel is None:
        found.update(_pixel(given.get("input_resolutions"), file))
    names = _part(table, "architecture", "kwargs").get("class_dict")
    if isinstance(names, dict) and names and options.classes is None:
        found["classes"] = Stated(
            value=_classes(names, variant.channels, given.get("ignore_index"), file), origin=f"{file.name}: class_dict"
        )
    return found


def _pixel(resolutions: object, file: Path) -> dict[str, Stated]:
    """Return the physical size of a pixel of the network's input, as the description states it."""
    if resolutions is None:
        return {}
    if not isinstance(resolutions, list) or len(resolutions) != 1 or not isinstance(resolutions[0], dict):
        raise WeightsError(
            "a network takes patches of one resolution",
            value=reprlib.repr(resolutions),
            file=file,
            advice="Give --pixel, if the network has one input",
        )
    value, units = resolutions[0].get("resolution"), resolutions[0].get("units")
    sides = value if isinstance(value, list) else [value]
    number = sides[0] if sides and all(side == sides[0] for side in sides) else None
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < inf
    if is_number and units == "mpp":
        return {"pixel": Stated(value=f"{number:.12g}um", origin=f"{file.name}: input_resolutions")}
    if is_number and units == "baseline" and number == 1:
        return {"pixel": Stated(value=None, origin=f"{file.name}: input_resolutions is the size of each image's pixel")}
    raise WeightsError(
        "the description does not state the size of a pixel in micrometres (mpp)",
        value=f"{reprlib.repr(value)} {reprlib.repr(units)}",
        file=file,
        advice="Give --pixel, such as --pixel 0.5um for a magnification of 20",
    )


def _classes(names: Mapping[object, object], channels: int, ignored: object, file: Path) -> tuple[ClassChoice, ...]:
    """Return the names of all channels. TIAToolbox omits the name of the channel that it does not show."""
    numbers = [number for number in names if isinstance(number, int) and 0 <= number < channels]
    if len(numbers) < len(names):
        raise WeightsError(
            f"class_dict names the numbers of {channels} channels, which begin with 0",
            value=", ".join(map(reprlib.repr, names)),
            file=file,
            advice="Give --classes",
        )
    unnamed = {number: "background" if number == ignored else f"class{number}" for number in range(channels)}
    given = [names.get(number, unnamed[number]) for number in range(channels)]
    found = [name if isinstance(name, str) else reprlib.repr(name) for name in given]
    if len(set(found)) < channels:
        raise WeightsError("class_dict gives two channels one name", value=", ".join(found), file=file,
            advice="Give --classes")  # fmt: skip
    return tuple(ClassChoice(name=name, channels=None) for name in found)
