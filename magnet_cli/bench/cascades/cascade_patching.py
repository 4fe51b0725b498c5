"""Plain patching, which there is not for masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.bench.task import Contender, Ready
from magnet_cli.options.refine import RefineOptions

if TYPE_CHECKING:
    from magnet_cli.bench.task import Took


class CascadePatching(Contender[RefineOptions]):
    """Says that it has no meaning here."""

    def prepare(self) -> Ready:
        """Return the refusal: plain patching of masks does not exist."""
        reason = "plain patching predicts classes, one window by itself; a cascade sharpens a mask as a whole first"
        return Ready(refusal="does not apply", reason=reason)

    def run(self, what: str, program: Took | None) -> Took:
        """Raise an error, since a refused contender is never run."""
        raise NotImplementedError(what, program)
