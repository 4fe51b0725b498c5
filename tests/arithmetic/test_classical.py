"""The classical refinements move a blurred border to the image's edge, and their results are probabilities."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.arithmetic.classical import Classical, DenseCrf, GuidedFilter, classical
from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 64
EDGE = 30
"""First column of the bright half."""
SHIFT = 5
"""Number of columns by which the border of the probabilities lies beyond the edge."""


def halves() -> NDArray[np.uint8]:
    """Return a dark and a bright half, a little noisy."""
    grey = np.where(np.arange(SIDE) < EDGE, 40.0, 200.0) + np.random.default_rng(2).normal(0, 3, (SIDE, SIDE))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def ramp() -> NDArray[np.float32]:
    """Return probabilities `(2, SIDE, SIDE)` with a soft border at the wrong place."""
    second = 1 / (1 + np.exp(-(np.arange(SIDE) - EDGE - SHIFT + 0.5) / 6))
    return np.stack([np.tile(values, (SIDE, 1)) for values in (1 - second, second)]).astype(np.float32)


def refined(name: Classical) -> NDArray[np.float32]:
    pytest.importorskip({"guided": "cv2.ximgproc", "crf": "pydensecrf"}[name])
    if name == "guided":
        return GuidedFilter().apply(ramp(), halves())
    return DenseCrf(position=20).apply(ramp(), halves())


@pytest.mark.parametrize("name", ["guided", "crf"])
def test_the_border_moves_to_the_edge(name: Classical) -> None:
    found = refined(name)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)
    assert found.min() >= 0
    truth = np.tile(np.arange(SIDE) >= EDGE, (SIDE, 1))
    wrong = [int(np.count_nonzero((probs[1] > probs[0]) != truth)) for probs in (ramp(), found)]
    assert wrong[0] == SHIFT * SIDE
    assert wrong[1] < wrong[0] / 3


def test_the_guided_filter_reaches_no_further_than_it_says() -> None:
    pytest.importorskip("cv2.ximgproc")
    near, far = halves(), halves()
    far[:, : EDGE - 3] = 255 - far[:, : EDGE - 3]
    rim = GuidedFilter().reach
    one, other = (GuidedFilter().apply(ramp(), image)[:, :, EDGE - 3 + rim :] for image in (near, far))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "library"), [("guided", "cv2.ximgproc"), ("crf", "pydensecrf.densecrf")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, name: Classical, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match="pip install 'magnet-cli"):
        classical(name)
