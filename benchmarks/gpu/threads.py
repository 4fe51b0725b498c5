"""Samples of the threads of this process: which function of the program each thread is in, and how often."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

EVERY = 0.02
"""Seconds between samples."""
WAITS = ("wait", "_worker", "result", "acquire", "get", "shutdown")
"""Innermost functions of a thread that has nothing to do."""


class Places:
    """Counts of samples by kind of thread and place."""

    def __init__(self) -> None:
        self.found: dict[str, Counter[str]] = {}
        self.rounds = 0

    def take(self, own: int) -> None:
        """Take one sample of every thread but the sampling one."""
        names = {thread.ident: _kind(thread.name) for thread in threading.enumerate()}
        self.rounds += 1
        for identity, frame in sys._current_frames().items():  # noqa: SLF001 - there is no public one
            if identity != own and identity in names:
                self.found.setdefault(names[identity], Counter())[_place(frame)] += 1

    def shares(self, most: int = 8) -> dict[str, dict[str, float]]:
        """Return the most frequent places by kind of thread, in the mean number of threads that are there."""
        return {
            kind: {place: round(count / self.rounds, 3) for place, count in places.most_common(most)}
            for kind, places in sorted(self.found.items())
        }


def _kind(name: str) -> str:
    """Return the name of a thread without its number, as pools name their threads `read_0`, `read_1`, ..."""
    return re.sub(r"[_-]?\d+.*$", "", name)


def _place(frame: FrameType | None) -> str:
    """Return the innermost function, and the innermost one of the program around it."""
    if frame is None:
        return "?"
    inner = frame.f_code.co_name
    outer: FrameType | None = frame
    while outer is not None and "magnet_cli" not in outer.f_code.co_filename:
        outer = outer.f_back
    if outer is None:
        return "waiting" if inner in WAITS else inner
    where = f"{outer.f_code.co_filename.rpartition('magnet_cli/')[2]}:{outer.f_code.co_name}:{outer.f_lineno}"
    return where if outer is frame else f"{where} > {inner}"


@contextmanager
def sampled_threads() -> Iterator[Places]:
    """Sample while the context is open."""
    places, ended = Places(), threading.Event()

    def take() -> None:
        own = threading.get_ident()
        while not ended.wait(EVERY):
            places.take(own)

    thread = threading.Thread(target=take, name="sampler", daemon=True)
    thread.start()
    try:
        yield places
    finally:
        ended.set()
        thread.join()
