"""The processes that read an image on behalf of another process.

`python -m magnet_cli.images.reading_server IMAGE SERIES CHANNEL...`, where SERIES is a number, or empty for
the default image of the file. The libraries are loaded once; then there is a process for each channel.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import MagnetError, ReaderBugError
from magnet_cli.images import open_image
from magnet_cli.images.shared_regions import Failure, ReadMessage, receive, send, share
from magnet_cli.system.memory import keep_heap_steady

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.images import Image
    from magnet_cli.images.protocol import Region, Request


def main() -> None:
    """Start the processes, and wait until all of them have ended."""
    # Ctrl-C reaches every process of the terminal. The asking process closes the channels when it ends, in any way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_heap_steady()
    path, series, alpha, *texts = sys.argv[1:]
    channels = [int(text) for text in texts]
    for number, channel in enumerate(channels):
        # Here a fork is safe: no image is open and no thread runs yet. The libraries' pages stay shared.
        if os.fork() == 0:
            for other in (*channels[:number], *channels[number + 1 :]):
                os.close(other)
            how: dict[str, Any] = {"series": int(series) if series else None, "alpha": alpha or None}
            _serve(path, how, socket.socket(fileno=channel))
            os._exit(0)
    for channel in channels:
        os.close(channel)
    for _ in channels:
        os.wait()


def _serve(path: str, how: Mapping[str, Any], channel: socket.socket) -> None:
    """Read what is asked for until the channel is closed; `how` goes to `open_image`."""
    with suppress(OSError):
        send(channel, pickle.dumps("ready"))
    with suppress(OSError), closing(_Opened(path, how)) as opened:
        _answer(opened, channel)


class _Opened:
    """The image of a process, opened at its first read."""

    def __init__(self, path: str, how: Mapping[str, Any]) -> None:
        self.path = path
        self._how = how
        self._image: Image | None = None

    def read(self, requests: Sequence[Request]) -> list[Region]:
        """Read regions as the image does."""
        if self._image is None:
            self._image = open_image(self.path, **self._how)
        return self._image.read(requests)

    def close(self) -> None:
        """Close the image, if it was opened."""
        if self._image is not None:
            self._image.close()


def _answer(image: _Opened, channel: socket.socket) -> None:
    """Read what is asked for until the channel is closed.

    Raises:
        OSError: The other side is gone.
    """
    slabs: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
    while True:
        data, descriptors = receive(channel)
        if not data:
            return
        # The message comes from the process that started this one, over a channel that no other process has.
        message: ReadMessage = pickle.loads(data)  # noqa: S301
        for number in message.dropped:
            slabs.pop(number, None)
        for descriptor in descriptors:
            slabs[message.slab] = np.frombuffer(mmap.mmap(descriptor, message.size), np.uint8)
            os.close(descriptor)
        answer: object
        try:
            answer = share(image.read(message.requests), slabs[message.slab])
        except (MagnetError, MemoryError) as error:
            answer = _failure(error)
        # A bug must not end this process without an answer, because the asking process would wait for it.
        except Exception as error:  # noqa: BLE001 - the process that asks raises it as the failure of the image
            answer = _failure(ReaderBugError.of(error, file=image.path))
        send(channel, pickle.dumps(answer))


def _failure(error: MagnetError | MemoryError) -> Failure:
    if isinstance(error, MemoryError):
        return Failure(rule=str(error), value=None, file=None, advice=None, is_memory=True)
    value, file = (None if part is None else str(part) for part in (error.value, error.file))
    return Failure(rule=error.rule, value=value, file=file, advice=error.advice, details=error.details)


if __name__ == "__main__":
    main()
