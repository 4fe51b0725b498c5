"""Checkpoints: everything that an exact continuation needs, and the identity of the training."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import torch

from magnet_cli.errors import UsageError
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from magnet_cli.train.config import LoopConfig

HARMLESS = frozenset({"device", "threads", "log_every", "save_every"})
"""Keys of a loop that may change from one start to the next."""
ADVICE = "Remove it, or give the configuration and the data that it was made with."
LONGEST = 60
"""Most characters of a value that a message shows."""

State = dict[str, Any]


def identity(loop: LoopConfig, others: Mapping[str, Mapping[str, object]]) -> State:
    """Return the facts that identify a training, as flat JSON values: the loop's keys that matter, and `others`."""
    settings = {key: value for key, value in asdict(loop).items() if key not in HARMLESS}
    tables = {"loop": settings, **others}
    flat = {f"[{table}] {key}": value for table, values in tables.items() for key, value in values.items()}
    return cast("State", json.loads(json.dumps(flat)))


def write_checkpoint(path: Path, state: State) -> None:
    """Make `path` hold a state of tensors and plain values, complete or as before.

    Raises:
        OutputError: The file cannot be written.
    """
    with working_file(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as exc:
            # torch finds the archive incomplete after a write has failed, and hides the failure behind that.
            if isinstance(exc.__context__, OSError):
                raise exc.__context__ from exc
            raise


def read_checkpoint(path: Path, *, configuration: State, load: Callable[[State], None]) -> None:
    """Hand a checkpoint, its tensors in host memory, to `load`.

    Args:
        path: The path of a file that `write_checkpoint` wrote.
        configuration: The result of `identity` for the present training. A checkpoint with another one is refused, and
            one without any is accepted.
        load: Receives the state.

    Raises:
        UsageError: The checkpoint is damaged, or belongs to another training.
    """
    try:
        # Without `weights_only` a checkpoint could run code: it is a pickle.
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        refuse_others(state.get("configuration", {}), configuration)
        load(state)
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as exc:
        raise UsageError(f"the checkpoint does not fit this training: {exc}", file=path, advice=ADVICE) from exc


def refuse_others(then: State, now: State) -> None:
    """Check that two trainings are one in every key that the earlier one knew.

    Raises:
        ValueError: A key differs.
    """
    changed = [
        f"{key} was {text}" if len(text := json.dumps(value)) <= LONGEST else f"{key} was another"
        for key, value in then.items()
        if key not in now or now[key] != value
    ]
    if changed:
        raise ValueError("; ".join(changed))
