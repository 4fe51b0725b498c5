"""Plain patching of masks, which does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.bench.task import Contender, Ready
from magnet_cli.options.refine import RefineOptions

if TYPE_CHECKING:
    from magnet_cli.bench.task import Took


class CascadePatching(Contender[RefineOptions]):
    """Refuses, because plain patching has no meaning for masks."""

    def prepare(self) -> Ready:
        """Return the refusal: plain patching of masks does not exist."""
        reason = "plain patching predicts classes, one window by itself; a cascade sharpens a mask as a whole first"
        return Ready(refusal="does not apply", reason=reason)

    def run(self, what: str, program: Took | None) -> Took:
        """Raise an error, since a refused contender is never run."""
        raise NotImplementedError(what, program)
