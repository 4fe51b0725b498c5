"""Events that a run reports to its caller: the library prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.errors import MagnetError


class Step(NamedTuple):
    """The progress of one image."""

    image: str
    """The name of the image."""
    what: str
    """The activity, such as `pass 1 of 2` or `writing`."""
    done: int
    total: int
    share: float | None = None
    """The finished share of the whole work on the image, 0 to 1. None where the work does not know what follows it."""


class Images(NamedTuple):
    """The progress of a run over several images."""

    done: int
    """Images that are finished, failed ones included."""
    total: int
    failed: int
    finished: float | None = None
    """The share of the finished images in the work of the run, 0 to 1, by the sizes of their files. None counts images
    alike."""
    following: float = 0.0
    """The share of the image that is computed next, where `finished` is known."""


class Events:
    """Receives events and ignores them; subclasses override some methods. Several threads call it, one at a time."""

    def message(self, text: str) -> None:
        """Receive a message for the user; each is sent once."""

    def begins(self, image: str, lines: Sequence[str]) -> None:
        """Receive what was recognised about an image and what will be done with it, before its first window."""

    def step(self, step: Step) -> None:
        """Receive the progress of an image."""

    def images(self, progress: Images) -> None:
        """Receive the progress of a run over several images."""

    def failed(self, image: str, error: MagnetError) -> None:
        """Receive the failure of an image."""


class Notes(list[str]):
    """Notes of a run for its report, each of which is also sent as a message when it is added.

    Args:
        name: The name of the image.
        events: The receiver of the messages.
    """

    def __init__(self, name: str, events: Events) -> None:
        super().__init__()
        self._name, self._events = name, events

    def append(self, text: str) -> None:
        """Add a note and send it."""
        self._events.message(f"{self._name}: {text}")
        super().append(text)
