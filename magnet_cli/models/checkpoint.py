"""Weights of other programs: PyTorch checkpoints that hold tensors by name and nothing else."""

from __future__ import annotations

import pickle
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magnet_cli.errors import WeightsError
from magnet_cli.models.weights_file import COUNTER, check_tensors
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import nn

ADVICE = "Fetch or save the checkpoint again"

PARALLEL, WRAPPED = "module.", "model."
"""Prefixes of keys: of torch's DataParallel, and of the published training program's module of network and loss."""
TRAINING_ONLY = ("loss.criterion.weight",)
"""Keys that that program saves beside the network: the class weights of its loss. Its own readers ignore them too."""
SHOWN = 10
"""Number of keys that a message names."""
DAMAGED = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, MemoryError, OverflowError)
"""Exceptions of torch, beside UnpicklingError, for files that are damaged or no checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a `.pth` file."""

    file: Path
    state: Mapping[str, Tensor]
    """The network's tensors by name, without prefixes."""
    dropped: tuple[str, ...]
    """Keys, as they stand in the file, that belong to training and not to the network."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the tensors of a `.pth` file; nothing in the file is run.

    Raises:
        WeightsError: It is missing, damaged, a web page, or holds anything but tensors by name.
    """
    _check_content(path)
    try:
        # A checkpoint is a pickle, which may run any code. `weights_only` allows tensors and plain containers alone.
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise WeightsError(
            "this is no plain state dict: opening it could run code",
            value=_refused_object(exc),
            file=path,
            advice="Save the network's state_dict() alone",
        ) from exc
    except OSError as exc:
        raise WeightsError(
            f"cannot be read: {exc}", file=path, advice="Check that the file is there, and that this user may read it"
        ) from exc
    except DAMAGED as exc:
        raise WeightsError(
            "not a checkpoint that can be read",
            value=_first_line(exc),
            file=path,
            advice=ADVICE,
        ) from exc
    tensors = _tensors(found, path)
    dropped = tuple(key for key in tensors if key.removeprefix(PARALLEL) in TRAINING_ONLY)
    network = {key: tensor for key, tensor in tensors.items() if key not in dropped}
    return Checkpoint(file=path, state=unprefixed(network, file=path), dropped=dropped)


def unprefixed(state: Mapping[str, Tensor], *, file: Path) -> dict[str, Tensor]:
    """Return the keys without the wrappers' prefixes, which count only at the very start of a key.

    Raises:
        WeightsError: Two keys become one.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix(PARALLEL).removeprefix(WRAPPED)
        if name in found:
            raise WeightsError(
                "two keys differ in their prefix alone",
                value=key,
                file=file,
                advice="Save the state dict of one network alone",
            )
        found[name] = tensor
    return found


def fitted_state(checkpoint: Checkpoint, network: nn.Module, *, architecture: str) -> dict[str, Tensor]:
    """Return a network's complete state from a checkpoint: exactly its keys, shapes and types.

    Raises:
        WeightsError: A key is missing or unexpected, has another shape, or values that are not finite.
    """
    state, file, wanted = checkpoint.state, checkpoint.file, network.state_dict()
    # Checkpoints of older versions of torch lack the counters of batch norms, which inference does not use.
    missing = [key for key in wanted if key not in state and key.rpartition(".")[2] != COUNTER]
    unexpected = [key for key in state if key not in wanted]
    if missing or unexpected:
        rule = f"does not fit {architecture}: {len(missing)} keys missing, {len(unexpected)} unexpected"
        named = [f"{what} {_listed(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise WeightsError(
            rule,
            value="; ".join(named),
            file=file,
            advice="Choose the checkpoint of this architecture, or give --architecture",
        )
    check_tensors(state, wanted, file=file, rule=f"does not fit {architecture}: ")
    # Clones, because safetensors refuses tensors that share memory.
    return {key: state.get(key, own).to(own.dtype).clone() for key, own in wanted.items()}


def _check_content(path: Path) -> None:
    try:
        with regular_files.reading(path, WeightsError):
            head = regular_files.beginning(path, 64)
            packed = zipfile.is_zipfile(path) and _has_packed(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as exc:
        raise WeightsError(f"not a checkpoint that can be read: {exc}", file=path, advice=ADVICE) from exc
    # A page may begin with a byte order mark and blanks.
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise WeightsError(
            "this is a web page, not weights",
            value=repr(head[:20].decode("ascii", "replace")),
            file=path,
            advice="Download the file itself: some sites show a page to sign in or to confirm instead",
        )
    if packed:
        # torch never packs what it stores; unpacking could take any amount of memory.
        raise WeightsError("the checkpoint's archive is packed", file=path, advice="Save it again with torch.save")


def _has_packed(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _refused_object(error: pickle.UnpicklingError) -> str:
    """Return the class or function that a pickle would import, where torch names it: its text proposes to run it."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return named[1] if named else "a pickle of something else than tensors"


def _tensors(found: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise WeightsError(
            "a state dict is wanted: tensors by name",
            value=type(found).__name__,
            file=path,
            advice="Save model.state_dict() with torch.save",
        )
    strange = [str(key) for key, value in found.items() if not isinstance(key, str) or type(value) is not Tensor]
    if strange:
        raise WeightsError(
            "a plain state dict is wanted: tensors by name and nothing else",
            value=_listed(strange),
            file=path,
            advice="Save the network's state_dict() alone",
        )
    if not found:
        raise WeightsError("the checkpoint is empty", file=path, advice=ADVICE)
    return found


def _listed(keys: Iterable[str]) -> str:
    every = list(keys)
    shown = ", ".join(every[:SHOWN])
    return shown if len(every) <= SHOWN else f"{shown} and {len(every) - SHOWN} more"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
