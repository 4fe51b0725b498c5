"""The folders that a training writes: its bundle, and beside it the files from which it can be continued."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.images import InputStates
from magnet_cli.models.bundle_writer import read_description
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from magnet_cli.train.scenes import LabelledScene

CHECKPOINT = "checkpoint.pt"
"""File in the folder of a training from which the training goes on."""
TRAINING_FILES = ("log.jsonl", "curves.png", "evaluation.html")
"""Files that a person reads in the folder of a training: its log, its curves and its evaluation."""
LOCK = "lock"
"""File in the folder of a training that is locked while it runs."""


@dataclass(kw_only=True)
class HeldFolder:
    """The folder of a training's checkpoints and logs, and the inputs that these depend on."""

    path: Path
    inputs: InputStates = field(default_factory=InputStates)
    """The states of the inputs, noted before they were read."""

    def depend_on(self, scenes: Iterable[LabelledScene], *, weights: InputStates | None = None) -> None:
        """Set the inputs: the files of scenes, and weights that a network begins with."""
        begun = [] if weights is None else [weights]
        self.inputs = InputStates.joined([*begun, *(scene.inputs for scene in scenes)])

    def refuse_change(self) -> None:
        """Refuse to make a bundle of what was learnt, where an input has changed since it was read.

        Raises:
            SourceError: An input has changed.
        """
        self.inputs.refuse_change()

    def set_aside(self, held: ExitStack) -> Path | None:
        """Give the folder a name under which no training finds it, and release its lock.

        Args:
            held: The stack that closes the file that is locked.

        Returns:
            The folder's new path. None where it holds nothing but the lock, and for a folder that is gone.
        """
        if not self.path.is_dir() or [entry.name for entry in self.path.iterdir()] == [LOCK]:
            return None
        names = (f"{self.path.name}.changed{number}" for number in ("", *range(2, 1000)))
        target = next(path for path in map(self.path.with_name, names) if not path.exists())
        with durable.writing(self.path):
            durable.rename_owned(self.path, target, held.close)
            (target / LOCK).unlink(missing_ok=True)
        return target


def real_path(output: Path) -> Path:
    """Return a path with its links followed. Links that lead to themselves stay: whatever is written there fails."""
    return type(output)(os.path.realpath(output))


@contextmanager
def training_folder(output: Path, ending: str, files: Sequence[str], *, replaces: bool = False) -> Iterator[HeldFolder]:
    """Hold the folder `<output><ending>` of checkpoints and logs for one training until the block ends.

    Where the block ends by an exception and an input has changed by then, whatever was learnt may be of the old content
    in one part and of the new in another. The folder then gets the ending `.changed`, and no training goes on from it.

    Args:
        output: The bundle's folder, made at the end of the training.
        ending: Ending that is added to the bundle's name.
        files: Names of the files that the training will write into the bundle.
        replaces: Whether the training makes the whole bundle anew, and does not add to one that is there.

    Raises:
        OutputError: The bundle cannot be written there, another training writes it, files are in the way that belong to
            no bundle, or a bundle would lose networks that the training does not make.
        SourceError: An input has changed; it is raised in place of any other exception but an interruption.
        WeightsError: The training makes the whole bundle anew, and the description of the one that is there is damaged.
    """
    folder = output.with_name(f"{output.name}{ending}")
    # Where a training has left a checkpoint, it has passed this check: files without a description are those of a
    # bundle that it was killed while writing.
    if replaces and (output / DESCRIPTION).is_file():
        # The end of the training reads it, too: a damaged description would be noticed after hours.
        read_description(output)
    if not (folder / CHECKPOINT).is_file():
        check_bundle_folder(output, files)
        if replaces:
            refuse_lost_networks(output, files)
    with ExitStack() as held:
        with durable.writing(folder):
            held.callback(os.close, _locked(folder))
        work = HeldFolder(path=folder)
        try:
            yield work
        # A bug and Ctrl-C leave the same checkpoints behind as an expected failure, so they are handled alike.
        except BaseException as error:
            change = work.inputs.change(quick=not isinstance(error, Exception))
            if change is None:
                raise
            kept = work.set_aside(held)
            said = "" if kept is None else f"what was learnt is kept in {kept}, which no training uses (delete it)"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"{change}. {said}") from error
            if not isinstance(error, Exception):
                raise
            advice = f"{change.advice}; {said}" if said else change.advice
            raise SourceError(change.rule, value=change.value, file=change.file, advice=advice) from error
        finally:
            # Somebody may have removed the folder while the training ran.
            with suppress(FileNotFoundError):
                if [entry.name for entry in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()
                    folder.rmdir()


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
            raise OutputError(
                "another training is writing this output",
                file=folder,
                advice="Wait until the other training ends, or choose another output",
            )
        # A training that ended before it kept anything may have removed the file since it was opened.
        if durable.names(folder / LOCK, descriptor):
            return descriptor
        os.close(descriptor)


def check_bundle_folder(output: Path, files: Sequence[str]) -> None:
    """Accept a folder that is missing, holds a bundle, or holds no file of these names.

    Raises:
        OutputError: The path is a file, or files of no bundle would be replaced.
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


def refuse_lost_networks(output: Path, files: Sequence[str]) -> None:
    """Refuse to replace a bundle that has networks which a training does not make, such as refiners.

    Args:
        output: The bundle's folder, which may be missing.
        files: Names of the files that the training writes.

    Raises:
        OutputError: The bundle has other networks. They fit its present backbone alone, or it is of another kind.
        WeightsError: The description of the bundle cannot be read.
    """
    if not (output / DESCRIPTION).is_file():
        return
    networks = read_description(output)["networks"]
    entries = [entry for found in networks.values() for entry in (found if isinstance(found, list) else [found])]
    names = [entry.get("file", entry.get("kind")) for entry in entries if isinstance(entry, dict)]
    lost = sorted({str(name) for name in names} - set(files))
    if lost:
        raise OutputError(
            "the bundle that would be replaced has networks that this training does not make",
            value=", ".join(lost),
            file=output,
            advice="Move the bundle away and give the same command again, or choose another -o",
        )
