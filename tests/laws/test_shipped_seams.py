"""Law 5 with a network that was trained: the grid of windows and blocks does not show in the mask.

The default overlap is 32 of 256 pixels. Two windows that disagree have to change class somewhere in what they share, so
in its middle the rate stays above 1.15 times that elsewhere on scenes where windows disagree as often as here; where
windows end it does not, and with a wider overlap it is hardly above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.seams import measure, scene_of
from magnet_cli.options.segment import SegmentOptions

if TYPE_CHECKING:
    from pathlib import Path

SIZE, SEED = 1700, 4
LIMIT = 1.15
WIDE_LIMIT = 1.2
"""What a wide overlap is held to: 1.17 was measured with the shipped network."""


def ratios(folder: Path, **more: Any) -> dict[str, float]:
    """Rates of changes across each kind of border of `aerial`, divided by the rate elsewhere."""
    options = SegmentOptions(weights="aerial", method="patch", tissue="none", **more)
    seams = measure(scene_of(SIZE, SEED), options, folder)["seams"]
    return {kind: seam["to_elsewhere"] for kind, seam in seams.items()}


@pytest.mark.full
def test_windows_of_a_shipped_network_end_without_a_trace(tmp_path: Path) -> None:
    found = ratios(tmp_path)
    assert found["window"] < LIMIT
    assert max(found["cell"], found["block"]) < 1.5


@pytest.mark.full
def test_a_wide_overlap_nearly_keeps_the_law_in_its_middle_too(tmp_path: Path) -> None:
    found = ratios(tmp_path, overlap="50%")
    assert max(found["window"], found["cell"]) < WIDE_LIMIT


@pytest.mark.full
def test_without_blending_the_grid_shows(tmp_path: Path) -> None:
    """The checks above can fail."""
    assert ratios(tmp_path, blend="none")["block"] > 3
