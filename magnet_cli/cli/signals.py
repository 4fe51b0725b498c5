"""Ctrl-C and SIGTERM end the program with exit code 130 and one line, from its first moment on."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
GOES_ON = "what was finished is kept, and the same command goes on from there"
"""Message after an interruption that has no message of its own."""
NOTHING_BEGUN = "nothing was begun"
IMPORTING = "<frozen importlib"
"""Beginning of the file names of frames that are on the stack while a module is imported."""
SHOW_CURSOR = "\x1b[?25h"


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle a signal while the program starts: nothing has been read or written yet."""
    del number, frame
    _end(NOTHING_BEGUN)


class Interrupt:
    """Handles signals while a command runs: it raises KeyboardInterrupt.

    While a module is imported, and at the second signal, the process ends here instead. Libraries turn an exception
    into an ImportError or drop it in the middle of an import; and what a run has finished is on the disk at any moment.
    """

    def __init__(self) -> None:
        self._is_asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, or end the process while a module is imported and at the second signal."""
        del number
        if self._is_asked or _is_importing(frame):
            _end(GOES_ON)
        self._is_asked = True
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORTING):
            return True
        frame = frame.f_back
    return False


def _end(message: str) -> NoReturn:
    cursor = ""
    with suppress(OSError, ValueError, AttributeError):
        cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError):
        # Written to the descriptor itself: the signal may have come in the middle of a write to the Python stream,
        # whose lock is then held.
        os.write(2, f"{cursor}magnet: interrupted; {message}\n".encode())
    os._exit(INTERRUPTED)


def start() -> None:
    """Handle signals that come before a command runs. A signal that the parent process ignores stays ignored."""
    for number in SIGNALS:
        # `nohup` and shells that start jobs in the background ignore signals on purpose.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end_at_once)


@contextmanager
def interruptible() -> Iterator[None]:
    """Handle signals that come while a command runs.

    Afterwards the outcome is known, and a signal that comes while the program ends would only hide it.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interrupt = Interrupt()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if handler is end_at_once else handler)
