"""Events of a run whose folders and foreign file names are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from magnet_cli.events import Events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.errors import MagnetError
    from magnet_cli.events import Images, Step
    from magnet_cli.system.private_names import PrivateNames


class PrivateEvents(Events):
    """Passes events on without the names that are private.

    Args:
        events: Receives the events.
        names: The names that are left out.
    """

    def __init__(self, events: Events, names: PrivateNames) -> None:
        self._events, self._names = events, names

    @override
    def message(self, text: str) -> None:
        self._events.message(self._names.text(text))

    @override
    def begins(self, image: str, lines: Sequence[str]) -> None:
        self._events.begins(self._names.text(image), [self._names.text(line) for line in lines])

    @override
    def step(self, step: Step) -> None:
        self._events.step(step._replace(image=self._names.text(step.image)))

    @override
    def images(self, progress: Images) -> None:
        self._events.images(progress)

    @override
    def failed(self, image: str, error: MagnetError) -> None:
        self._events.failed(self._names.text(image), self._names.error(error))
