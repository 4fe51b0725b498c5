"""Guards of every run: what it keeps when it ends early, how a shortage of memory is named, and its memory budget."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.errors import DeviceError, MemoryShortageError, OutputError, SourceError
from magnet_cli.images.input_states import CHANGED
from magnet_cli.models.device import is_out_of_memory
from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.images import InputStates
    from magnet_cli.masks.journal import Journal


@contextmanager
def keeping_what_is_finished(
    journal: Journal, passes: Collection[int], *, mask: Path, resume: bool, events: Events
) -> Iterator[None]:
    """Report what is kept if an output cannot be written, and delete the journal of a run that finished no group.

    A journal without finished groups would be of no use, and would refuse the image once the user has repaired it.
    Where another process has just made the mask of the same pieces, it would make that mask count as unfinished.

    Args:
        journal: The journal of the run.
        passes: The numbers of the run's passes.
        mask: The path of the mask that the run writes.
        resume: Whether the same command would resume the run.
        events: Receives messages.
    """
    try:
        yield
    # A bug and Ctrl-C leave the same journal behind as an expected failure, so they are handled alike and raised again.
    except BaseException as error:
        is_kept = journal.is_there if journal.holds_groups else any(journal.finished(number) for number in passes)
        if not journal.holds_groups:
            journal.discard()
        if isinstance(error, OutputError) and resume and is_kept:
            events.message(f"{mask}: what was finished is kept, and the same command goes on from there")
        raise


@contextmanager
def keeping_changed_inputs_apart(journal: Journal, *, inputs: InputStates, events: Events) -> Iterator[None]:
    """Refuse to go on, now or later, with what was computed of an input that changed while it was read.

    The journal is kept under a name under which no run finds it: a part of it is of the old content, a part of the new.

    Args:
        journal: Journal of the run.
        inputs: Inputs of the run as they were when it began.
        events: Receives messages.

    Raises:
        SourceError: An input changed.
    """
    try:
        yield
        inputs.refuse_change()
    # Whatever ended the run, also a bug or Ctrl-C, may have been caused by the change, or may leave a journal of both.
    except BaseException as error:
        is_change = isinstance(error, SourceError) and error.rule == CHANGED
        change = error if is_change else inputs.change(quick=not isinstance(error, Exception))
        if change is None:
            raise
        if journal.holds_groups:
            path = journal.set_aside()
            events.message(f"{path}: what was computed of the changed input is kept here; no run uses it (delete it)")
        if is_change or not isinstance(error, Exception):
            raise
        raise change from error


@contextmanager
def naming_shortage(what: str, image: str | None = None) -> Iterator[None]:
    """Turn a failed allocation into an error that names what was done at the time.

    Args:
        what: The work inside, used unless an inner block has named the shortage already.
        image: The image that was worked on. It is added to an inner block's error that names no file.

    Raises:
        MemoryShortageError: Memory ran out.
    """
    try:
        yield
    except MemoryShortageError as error:
        if error.file is not None or image is None:
            raise
        raise MemoryShortageError(error.rule, file=image, advice=error.advice) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"out of memory while {what}",
            file=image,
            advice="Run the same command with more memory: what was finished is kept",
        ) from error


def check_peak(peak: int | None, budget: int, *, file: str) -> None:
    """Compare the most memory that a run has used so far with its budget.

    Raises:
        DeviceError: The run has used more memory than its budget.
    """
    if peak is not None and peak > budget:
        raise DeviceError(
            f"the run used {format_bytes(peak)} of host memory and may use {format_bytes(budget)}",
            file=file,
            advice="Run the same command with a larger --memory: what was finished is kept",
        )
