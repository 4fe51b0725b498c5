"""The inside of a contender's process: `python -m magnet_cli.bench.worker`, asked over standard input."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
import time
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO

from magnet_cli.errors import DeviceError, MagnetError
from magnet_cli.system.memory import keep_heap_steady

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.bench.task import Command

NAMES = ("studio", "program", "ceiling", "patching", "naive")
CONTENDERS: dict[Command, dict[str, tuple[str, str]]] = {
    "segment": {name: (f"magnet_cli.bench.{name}", name.title()) for name in NAMES},
    "refine": {name: (f"magnet_cli.bench.cascades.cascade_{name}", f"Cascade{name.title()}") for name in NAMES},
}
"""Module and class by the command that is measured and the contender's name: a process loads what its own contender
needs, and no more."""


def main() -> None:
    """Answer until standard input ends."""
    # Ctrl-C reaches every process of the terminal, and the parent process decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    keep_heap_steady()
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints must not come between answers.
    os.dup2(2, 1)
    messages = _messages(sys.stdin.buffer)
    command, kind, task = next(messages)
    module, name = CONTENDERS[command][kind]
    contender = getattr(import_module(module), name)(task)
    for call, arguments in messages:
        _answer(answers, _called(contender, call, arguments))


def _end_with(parent: int) -> None:
    """End once the parent process is gone. It may have been killed in the middle of a run that takes an hour."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _messages(stream: BinaryIO) -> Iterator[Any]:
    while True:
        try:
            yield pickle.load(stream)  # noqa: S301 - from the parent that started this process
        except EOFError:
            return


def _called(contender: object, call: str, arguments: tuple[object, ...]) -> object:
    try:
        return getattr(contender, call)(*arguments)
    except MagnetError as error:
        return portable(error)
    except (MemoryError, RuntimeError) as error:
        # PyTorch has this error only as a text, for a GPU's memory and for the host's.
        if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error)):
            return DeviceError(
                f"out of memory: {str(error).partition('. ')[0]}",
                advice="Measure smaller images with --sizes, or fewer contenders",
            )
        raise


def portable(error: MagnetError) -> MagnetError:
    """Return an error that can be pickled: exceptions are restored from their first argument alone."""
    return type(error)(str(error))


def _answer(stream: BinaryIO, answer: object) -> None:
    pickle.dump(answer, stream)
    stream.flush()


if __name__ == "__main__":
    main()
