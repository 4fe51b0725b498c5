"""The folders that a training writes: its bundle, and beside it the files from which it can be continued."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CHECKPOINT = "checkpoint.pt"
"""File in the folder of a training from which the training goes on."""
TRAINING_FILES = ("log.jsonl", "curves.png", "evaluation.html")
"""Files in the folder of a training for a person to look at: its log, its curves and its evaluation."""
LOCK = "lock"
"""File in the folder of a training that is locked while it runs."""


def real_path(output: Path) -> Path:
    """Return a path with its links followed. Links that lead to themselves stay: whatever is written there fails."""
    return type(output)(os.path.realpath(output))


@contextmanager
def training_folder(output: Path, ending: str, files: Sequence[str]) -> Iterator[Path]:
    """Hold the folder `<output><ending>` of checkpoints and logs for one training until the block ends.

    Args:
        output: The bundle's folder, made at the end of the training.
        ending: Ending that is added to the bundle's name.
        files: Names of the files that the training will write into the bundle.

    Raises:
        OutputError: The bundle cannot be written there, another training writes it, or files are in the way that belong
            to no bundle.
    """
    folder = output.with_name(f"{output.name}{ending}")
    # Where a training has left a checkpoint, it has passed this check: files without a description are those of a
    # bundle that it was killed while writing.
    if not (folder / CHECKPOINT).is_file():
        check_bundle_folder(output, files)
    with durable.writing(folder):
        descriptor = _locked(folder)
    try:
        yield folder
    finally:
        # Somebody may have removed the folder while the training ran.
        with suppress(FileNotFoundError):
            if [entry.name for entry in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
        os.close(descriptor)


def _locked(folder: Path) -> int:
    """Return the descriptor that holds the lock of a folder, which is made where it is missing."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = durable.open_for_append(folder / LOCK)
        except FileNotFoundError:
            continue
        if not durable.owned(descriptor):
            os.close(descriptor)
            raise OutputError("another training is writing this output", file=folder, advice="Wait until it ends")
        # A training that ended before it kept anything may have removed the file since it was opened.
        if durable.names(folder / LOCK, descriptor):
            return descriptor
        os.close(descriptor)


def check_bundle_folder(output: Path, files: Sequence[str]) -> None:
    """Accept a folder that is missing, holds a bundle, or holds no file of these names.

    Raises:
        OutputError: It is a file, or files of no bundle would be replaced.
    """
    if output.exists() and not output.is_dir():
        raise OutputError("a bundle is a folder, and this is a file", file=output, advice="Choose another -o")
    if (output / DESCRIPTION).is_file():
        return
    for name in files:
        if (output / name).exists():
            raise OutputError(
                f"this file would be replaced, and the folder is no bundle: it has no {DESCRIPTION}",
                file=output / name,
                advice="Choose another -o, or move the file away",
            )
