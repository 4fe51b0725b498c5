"""All kinds of networks from elsewhere, and the reasons why other files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import MagnetError, WeightsError
from magnet_cli.models.foreign.bioimageio_description import description_in, read_description
from magnet_cli.models.foreign.network_files import archive_names, read_json
from magnet_cli.models.foreign.onnx_file import OnnxFile
from magnet_cli.models.foreign.openvino_file import OpenVinoFile
from magnet_cli.models.foreign.smp_folder import SmpFolder
from magnet_cli.models.foreign.tiatoolbox_state import TiatoolboxState
from magnet_cli.models.foreign.torchscript_file import TorchScriptFile
from magnet_cli.models.foreign.torchvision_state import TorchvisionState
from magnet_cli.models.foreign.transformers_folder import TransformersFolder

if TYPE_CHECKING:
    from magnet_cli.models.foreign.network_kind import NetworkKind, NetworkReading
    from magnet_cli.options.foreign_network import NetworkOptions

_EVERY: tuple[NetworkKind, ...] = (
    SmpFolder(),
    TransformersFolder(),
    TorchScriptFile(),
    OnnxFile(),
    OpenVinoFile(),
    TiatoolboxState(),
    TorchvisionState(),
)
PARTS = ("config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json")
"""Files of folders that `save_pretrained` of a library wrote."""
KINDS: dict[str, NetworkKind] = {kind.name: kind for kind in _EVERY}
"""The kinds by name, in the order in which they are tried on a path."""


def kind_named(name: str, *, file: Path) -> NetworkKind:
    """The kind that a description names.

    Raises:
        WeightsError: This version has no such kind.
    """
    if name not in KINDS:
        raise WeightsError(
            "unknown kind of network",
            value=name,
            file=file,
            advice=f"Take a network of one of the kinds {', '.join(KINDS)}",
        )
    return KINDS[name]


def network_path(text: str) -> Path:
    """The path of a network as a user names it. A link to it is followed; links inside a folder are refused later."""
    path = Path(text)
    return path.resolve() if path.exists() else path


def kind_of(path: Path) -> NetworkKind:
    """The kind of the network in a folder or a file.

    Raises:
        WeightsError: The path is of no kind. The message has the reason, where it is known.
    """
    if not path.exists():
        raise WeightsError("there is no such folder or file", file=path, advice="Check --network")
    reason = _refusal(path)
    if reason is not None:
        raise reason
    if path.name in PARTS and any(kind.claims(path.parent) for kind in (KINDS["smp"], KINDS["transformers"])):
        raise WeightsError(
            "the network is the folder that holds this file", file=path, advice=f"Give --network {path.parent}"
        )
    found = next((kind for kind in KINDS.values() if kind.claims(path)), None)
    if found is None:
        raise WeightsError(
            "no kind of network is recognised in this path",
            file=path,
            advice=f"Give a network of one of the kinds {', '.join(KINDS)}; docs/networks.md says which files each "
            "of them has",
        )
    return found


def read_network(path: Path, options: NetworkOptions) -> NetworkReading:
    """What the files of a network state, by its kind, or by a description that names the file of a kind.

    Raises:
        WeightsError: The files are of no kind, or cannot be used; the message says why.
    """
    file = description_in(path)
    if file is not None:
        return read_description(file, options)
    return kind_of(path).read(path, options)


def _refusal(path: Path) -> WeightsError | None:
    """Why files are refused that are known, and that no kind may read; None for all others."""
    if path.is_dir():
        return _folder_refusal(path)
    if path.suffix == ".py":
        return WeightsError(
            "Python sources are not run",
            file=path,
            advice="Export the network, or hand it to magnet_cli.segment(network=..., description=...)",
        )
    names = archive_names(path)
    if path.suffix == ".pt2" or any(
        name.endswith(("serialized_exported_program.json", "archive_format")) for name in names
    ):
        return WeightsError(
            "a program of torch.export is not opened: reading it unpickles parts of the file, which can run code",
            file=path,
            advice="Save the network's state, or export it to ONNX",
        )
    if path.suffix in (".ckpt", ".pkl", ".pickle", ".joblib"):
        return WeightsError(
            "a pickled file can run code when it is opened",
            file=path,
            advice="Save the network's state_dict() alone, or with its library's save_pretrained",
        )
    return None


def _folder_refusal(path: Path) -> WeightsError | None:
    try:
        config: dict[str, Any] = read_json(path, "config.json") if (path / "config.json").exists() else {}
    except MagnetError:
        return None  # The kind that reads the file says what is wrong with it.
    if "patch_size_pixels" in config or any(
        "ForImageClassification" in str(name) for name in _words(config, "architectures")
    ):
        return WeightsError(
            "the network gives one answer for a whole patch: it classifies patches and does not segment",
            file=path,
            advice="Take a network that gives scores for each pixel",
        )
    if "auto_map" in config:
        return WeightsError(
            "auto_map in config.json names Python sources, which are not run",
            value=", ".join(map(str, _words(config, "auto_map"))),
            file=path,
            advice="Take a network whose architecture is part of its library",
        )
    return None


def _words(config: dict[str, Any], key: str) -> list[object]:
    value = config.get(key)
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []
