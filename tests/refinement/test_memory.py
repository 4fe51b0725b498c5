"""The memory of a refinement depends on L, and not on the image's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.geometry import Box
from magnet_cli.images.reader import PyramidImage
from magnet_cli.masks.journal import Journal
from magnet_cli.refinement.api import refine
from magnet_cli.refinement.input_mask import InputMask
from tests.refinement.support import Echo, labels_in, use, write_grey, write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

L = 160
STORED = ("put_field", "put_labels", "read_field", "read_stored_field")
SHAPES = ((560, 600), (560, 1050))
"""Two shapes with more pixels than a block of a level with the windows around it."""


def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the most pixels that one call has read or stored, by the name of the method that was called."""
    most: dict[str, int] = {}

    def watch(owner: type, method: str, area: Callable[..., int]) -> None:
        original = getattr(owner, method)

        def called(self: Any, *arguments: Any, **named: Any) -> Any:
            most[method] = max(most.get(method, 0), area(*arguments, **named))
            return original(self, *arguments, **named)

        monkeypatch.setattr(owner, method, called)

    def of_box(*arguments: Any, **named: Any) -> int:
        found = named["box"] if "box" in named else arguments[-1]
        assert isinstance(found, Box)
        return found.area

    watch(PyramidImage, "read", lambda requests: max(request.box.area for request in requests))
    watch(InputMask, "read", of_box)
    for method in STORED:
        watch(Journal, method, of_box)
    return most


def test_what_is_held_does_not_grow_with_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = use(monkeypatch, Echo(), side=L)
    for name, value in {"refinement_plan.BLOCK_SIDES": 1, "refinement_plan.SQUARE": 128, "planner.TILE": 128}.items():
        monkeypatch.setattr(f"magnet_cli.refinement.{name}", value)
    monkeypatch.setattr("magnet_cli.refinement.input_mask.SIDE", 128)
    most = watched(monkeypatch)
    for shape in SHAPES:
        inside = np.zeros(shape, bool)
        inside[40:-40, 40:-40] = True
        image, mask = write_image(tmp_path / "i.tif", inside), write_grey(tmp_path / "m.tif", inside.astype(np.uint8))
        result = refine(image, mask, tmp_path / f"{shape[1]}.tif")
        assert np.array_equal(labels_in(result.output), inside)
    assert most.keys() == {"read", *STORED}
    assert max(most.values()) <= (3 * L) ** 2 < min(height * width for height, width in SHAPES)
    assert network.largest <= L**2
