"""Files of weights: tensors by name, which fill a network exactly or are refused."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import nn

from magnet_cli.errors import WeightsError
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.models.network_spec import NetworkSpec

Built = TypeVar("Built", bound=nn.Module)
COUNTER = "num_batches_tracked"
"""Name of the counters of batch norms. Nothing here reads them, so a file may leave them out."""


def filled(build: Callable[[], Built], *, spec: NetworkSpec, folder: Path) -> Built:
    """Build a network and give it the weights of its file.

    The network is built without memory first, and compared with the shapes that the file's header states: a description
    of a few bytes may ask for any size.

    Args:
        build: Makes the network with initial weights.
        spec: Description of the network.
        folder: Folder of the bundle.

    Raises:
        WeightsError: The file is missing, damaged, has another hash, or does not fit the network.
    """
    path = folder / spec.file
    with torch.device("meta"):
        wanted = build().state_dict()
    found = stated_shapes(path)
    check_keys(found, wanted, spec=spec, file=path)
    for key, shape in found.items():
        check_shape(key, shape, wanted, file=path)
    network = build()
    fill(network, spec=spec, folder=folder)
    return network


def stated_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a safetensors file by its header, whose sizes add up to that of the file.

    Raises:
        WeightsError: The file is missing, or no safetensors file.
    """
    with regular_files.reading(path, WeightsError), _parsing(path):
        regular_files.check_regular(path)
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn what the library says about a damaged file into an error that names the file.

    Raises:
        WeightsError: Something in the block found that the file is no safetensors file.
    """
    try:
        yield
    except (SafetensorError, ValueError, KeyError) as exc:
        raise WeightsError(
            f"not a safetensors file: {exc}",
            file=path,
            advice="Copy the file again, or import its checkpoint with 'magnet weights import'",
        ) from exc


def fill(network: nn.Module, *, spec: NetworkSpec, folder: Path) -> None:
    """Give a network the weights of its file, exactly those and all of them."""
    path = folder / spec.file
    state = read_state(path, sha256=spec.sha256)
    wanted = network.state_dict()
    check_keys(state, wanted, spec=spec, file=path)
    check_tensors(state, wanted, file=path)
    network.load_state_dict({**wanted, **{key: value.to(wanted[key].dtype) for key, value in state.items()}})


def check_keys(found: Iterable[str], wanted: Iterable[str], *, spec: NetworkSpec, file: Path) -> None:
    """Check that a file has the weights of a network and no others.

    Raises:
        WeightsError: Some are missing or unknown.
    """
    optional = {key for key in wanted if key.rpartition(".")[2] == COUNTER}
    missing = sorted(set(wanted) - set(found) - optional)
    extra = sorted(set(found) - set(wanted))
    if missing or extra:
        rule = f"the weights do not fit {spec.architecture}: {len(missing)} keys missing, {len(extra)} unknown"
        raise WeightsError(
            rule,
            value=", ".join([*missing, *extra][:6]),
            file=file,
            advice="Correct the architecture or its options in bundle.json, or choose the weights that belong to it",
        )


def check_shape(key: str, shape: tuple[int, ...], wanted: Mapping[str, Tensor], *, file: Path, rule: str = "") -> None:
    """Check that a tensor of a file has the shape of the network's.

    Raises:
        WeightsError: The tensor has another shape.
    """
    if shape != tuple(wanted[key].shape):
        raise WeightsError(
            f"{rule}{key} must have shape {tuple(wanted[key].shape)}",
            value=shape,
            file=file,
            advice="Correct the architecture or its options in bundle.json, or choose the weights that belong to it",
        )


def check_tensors(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, file: Path, rule: str = "") -> None:
    """Check the shapes and values of weights.

    Args:
        state: The weights that were read.
        wanted: The network's own, by the same keys.
        file: The file that the weights are from.
        rule: Beginning of a message about a shape.

    Raises:
        WeightsError: A tensor has another shape, or values that are not finite.
    """
    for key, tensor in state.items():
        check_shape(key, tuple(tensor.shape), wanted, file=file, rule=rule)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                "holds weights that are not finite",
                value=key,
                file=file,
                advice="Use an earlier checkpoint of the training",
            )


def read_state(path: Path, *, sha256: str | None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, after a check of its hash.

    Raises:
        WeightsError: The file is missing, has another hash, or is no safetensors file.
    """
    with regular_files.reading(path, WeightsError):
        data = regular_files.content(path)
    # The bytes that were hashed are those that are loaded: a file that is read twice may change in between.
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise WeightsError(
            f"the content is not what bundle.json says: sha256 {sha256} expected",
            value=found,
            file=path,
            advice="Fetch the bundle again.",
        )
    with _parsing(path):
        return load(data)
