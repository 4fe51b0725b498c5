"""What a run that ends too early leaves behind, and what it may take while it runs: the same for all methods."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.errors import DeviceError, MemoryShortageError, OutputError
from magnet_cli.models.device import is_out_of_memory
from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.masks.journal import Journal


@contextmanager
def keeping_what_is_finished(
    journal: Journal, passes: Collection[int], *, mask: Path, resume: bool, events: Events
) -> Iterator[None]:
    """Say of an output that cannot be written what is kept of it.

    The journal of a run that ends before it has finished a group is deleted: it would only refuse a mended image.

    Args:
        journal: Of the run.
        passes: Their numbers.
        mask: That is written.
        resume: Whether the same command would go on.
        events: Hears about messages.
    """
    try:
        yield
    except BaseException as error:
        if not any(journal.finished(number) for number in passes):
            journal.discard()
        elif isinstance(error, OutputError) and resume:
            events.message(f"{mask}: what was finished is kept, and the same command goes on from there")
        raise


@contextmanager
def naming_shortage(what: str, image: str | None = None) -> Iterator[None]:
    """Name a shortage of memory by what was done when it came.

    Args:
        what: What was done, if nothing inside has named the shortage already.
        image: The image that was worked on. It is added to what was named inside without a file.

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
            advice="Nothing that was finished is lost: run the same command with more memory",
        ) from error


def check_peak(peak: int | None, budget: int, *, file: str) -> None:
    """Accept the most memory that a run has used so far.

    Raises:
        DeviceError: It is more than the run may use.
    """
    if peak is not None and peak > budget:
        raise DeviceError(
            f"the run used {format_bytes(peak)} of host memory and may use {format_bytes(budget)}",
            file=file,
            advice="What was finished is kept: run the same command with a larger --memory",
        )
