"""The windows of a plan are those of the run where every window holds a border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.api import plan_refine, refine
from magnet_cli.refinement.effort import GLOBAL, LOCAL, effort_of
from tests.refinement.support import SIDE, Echo, use, write_grey, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.refinement.cascade_method import CascadeJob


@dataclass
class Measured(Echo):
    """A cascade that adds up the pixels of its passes."""

    pixels: int = 0

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        self.pixels += GLOBAL * images.shape[2] * images.shape[3]
        return super().three_levels(images, masks)

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        self.pixels += (LOCAL - GLOBAL) * images.shape[2] * images.shape[3]
        return super().two_levels(images, masks, coarse)


def net(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask of lines in two directions, so that half of every window is inside."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    found: NDArray[np.bool_] = (rows % 40 < 12) | (cols % 40 < 12)
    return found


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((330, 351), RefineOptions()),
        ((330, 351), RefineOptions(fast=True)),
        ((200, 240), RefineOptions()),
        ((200, 240), RefineOptions(compat="published")),
        ((90, 70), RefineOptions()),
        ((90, 70), RefineOptions(compat="published")),
    ],
)
def test_every_step_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], options: RefineOptions
) -> None:
    network = Measured()
    use(monkeypatch, network)
    inside = net(shape)
    image, mask = write_image(tmp_path / "i.tif", inside), write_grey(tmp_path / "m.tif", inside.astype(np.uint8))
    job = cast("CascadeJob", plan_refine(image, mask, options))
    effort = effort_of(job.plan)

    report = refine(image, mask, tmp_path / "out.tif", options).report

    passes = cast("list[dict[str, Any]]", report["passes"])
    if shape == (330, 351):
        # Several blocks have pixels of the last level in common, and windows are counted once all the same.
        last = passes[-2]
        assert last["groups"] > 1
        assert last["windows_run"] == last["windows_planned"]
    assert effort.steps == sum(step.get("wholes_run", 0) + step.get("windows_run", 0) for step in passes)
    # Sides grow to multiples of eight.
    assert effort.pixels <= network.pixels <= 1.15 * effort.pixels
    assert effort.windows(SIDE) == effort.pixels / (LOCAL * SIDE**2)


def test_windows_without_a_border_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Measured()
    use(monkeypatch, network)
    inside = np.zeros((500, 400), bool)
    inside[20:-20, 20:-20] = True
    image, mask = write_image(tmp_path / "i.tif", inside), write_grey(tmp_path / "m.tif", inside.astype(np.uint8))
    job = cast("CascadeJob", plan_refine(image, mask))

    refine(image, mask, tmp_path / "out.tif")

    assert 0 < network.calls < effort_of(job.plan).steps
