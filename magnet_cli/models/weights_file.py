"""Files of weights: tensors by name, which fill a network exactly or are refused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from magnet_cli.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from magnet_cli.models.network_spec import NetworkSpec

COUNTER = "num_batches_tracked"
"""Batch norms count batches under this name; nothing here reads it, so a file may leave it out."""


def fill(network: nn.Module, *, spec: NetworkSpec, folder: Path) -> None:
    """Give a network the weights of its file, exactly those and all of them."""
    path = folder / spec.file
    state = read_state(path, sha256=spec.sha256)
    wanted = network.state_dict()
    optional = {key for key in wanted if key.rpartition(".")[2] == COUNTER}
    missing = sorted(set(wanted) - set(state) - optional)
    extra = sorted(set(state) - set(wanted))
    if missing or extra:
        rule = f"the weights do not fit {spec.architecture}: {len(missing)} keys missing, {len(extra)} unknown"
        raise WeightsError(rule, value=", ".join([*missing, *extra][:6]), file=path)
    check_tensors(state, wanted, file=path)
    network.load_state_dict({**wanted, **{key: value.to(wanted[key].dtype) for key, value in state.items()}})


def check_tensors(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, file: Path, rule: str = "") -> None:
    """Check the shapes and values of weights.

    Args:
        state: The weights that were read.
        wanted: The network's own, by the same keys.
        file: The file that the weights are from.
        rule: What a message about a shape begins with.

    Raises:
        WeightsError: A tensor has another shape, or values that are not finite.
    """
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            shape = tuple(wanted[key].shape)
            raise WeightsError(f"{rule}{key} must have shape {shape}", value=tuple(tensor.shape), file=file)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError("holds weights that are not finite", value=key, file=file)


def read_state(path: Path, *, sha256: str | None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, after a check of its hash.

    Raises:
        WeightsError: The file is missing, has another hash, or is no safetensors file.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise WeightsError(f"cannot be read: {exc}", file=path) from exc
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise WeightsError(
            f"the content is not what bundle.json says: sha256 {sha256} expected",
            value=found,
            file=path,
            advice="Fetch the bundle again.",
        )
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as exc:
        raise WeightsError(f"not a safetensors file: {exc}", file=path) from exc
