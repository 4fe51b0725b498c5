"""A series of images: a mask is written beside the next image's computation only if both fit into memory."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from magnet_cli.segmentation.image_series import FINISHING_BYTES, ImageSeries

if TYPE_CHECKING:
    from magnet_cli.segmentation.image_run import PreparedImage


@pytest.mark.parametrize(("spare", "waits"), [(FINISHING_BYTES - 1, True), (FINISHING_BYTES, False)])
def test_an_image_waits_for_the_mask_before_it_where_memory_is_short(spare: int, *, waits: bool) -> None:
    class Watched(Future):  # type: ignore[type-arg]
        asked = False

        def exception(self, timeout: float | None = None) -> None:
            del timeout
            self.asked = True

    pending = Watched()
    seen: list[bool] = []
    memory = SimpleNamespace(total=1000, budget=1000 + spare)
    image = SimpleNamespace(plan=SimpleNamespace(memory=memory), computed=lambda: seen.append(pending.asked))
    ImageSeries._computed(cast("PreparedImage", image), pending)
    assert seen == [waits]


def test_a_failure_of_the_plan_is_kept_for_its_turn() -> None:
    error = ValueError("no image")
    assert ImageSeries._computed(error, None) is error
