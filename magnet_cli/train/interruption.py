"""An interruption that waits until an iteration is over."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Closing):
    """Holds back signals whose handlers are Python's until `deliver`, as a context; a second signal passes at once.

    In the middle of an iteration the weights are not such that a training could go on from them. In another thread
    than the main one, which signals never reach, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that waits."""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows handlers of signals to be set in the main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # Handlers that are not Python's, such as the default one, cannot be called later.
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._hold)
        return self

    def close(self) -> None:
        """Give the signals back to their handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Let the signal that waits, if there is one, do what it would have done."""
        if self.asked is not None:
            number, self.asked = self.asked, None
            self._handlers[number](number, None)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self._handlers[number](number, frame)
        self.asked = number
