"""What a run tells whoever started it: the library prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magnet_cli.errors import MagnetError


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far one image has come."""

    image: str
    """Its name."""
    what: str
    """What is being done: `pass 1 of 2`, `writing`."""
    done: int
    total: int


class Events:
    """Hears what happens and does nothing; override what is of interest. Called from several threads, one at a time."""

    def message(self, text: str) -> None:
        """Something worth telling once."""

    def step(self, step: Step) -> None:
        """An image has come further."""

    def failed(self, image: str, error: MagnetError) -> None:
        """An image could not be segmented."""


class Notes(list[str]):
    """What should be known of a run, told as it is noted.

    Args:
        name: Of the image.
        events: Hears each note.
    """

    def __init__(self, name: str, events: Events) -> None:
        super().__init__()
        self._name, self._events = name, events

    def append(self, text: str) -> None:
        """One note more."""
        self._events.message(f"{self._name}: {text}")
        super().append(text)
