"""Single functions of the published arithmetic give the values of the published program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.published.point_choice import certainty, choose_points, median_zero_padded
from magnet_cli.arithmetic.published.window_grid import OverlapMean, PublishedCutOut, place_windows, window_shares
from magnet_cli.geometry import Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

UNITS = Path(__file__).parents[3] / "shared" / "reference" / "units.npz"

pytestmark = pytest.mark.skipif(not UNITS.exists(), reason="the golden values are not beside the repository")


@pytest.fixture(scope="module")
def units() -> Mapping[str, NDArray[np.float32]]:
    with np.load(UNITS) as stored:
        return dict(stored)


def test_certainty(units: Mapping[str, NDArray[np.float32]]) -> None:
    found = certainty(torch.from_numpy(units["probs"][0]))

    np.testing.assert_array_equal(found.numpy(), units["certainty"][0, 0])


@pytest.mark.parametrize(("name", "shifted"), [("roi_released", True), ("roi_aligned", False)])
def test_cut_outs_with_and_without_the_shift(
    units: Mapping[str, NDArray[np.float32]], name: str, *, shifted: bool
) -> None:
    cut_out = PublishedCutOut(size=Size(width=20, height=16), shifted=shifted)

    found = cut_out.many(torch.from_numpy(units["probs"][0]), units["rois"])

    np.testing.assert_allclose(found.numpy(), units[name], atol=2e-6, rtol=0)


@pytest.mark.parametrize("k", [3, 5, 11])
def test_median(units: Mapping[str, NDArray[np.float32]], k: int) -> None:
    found = median_zero_padded(torch.from_numpy(units["median_in"][0, 0]), k=k)

    np.testing.assert_array_equal(found.numpy(), units[f"median_k{k}"][0, 0])


def test_overlapping_windows_are_placed_and_averaged(units: Mapping[str, NDArray[np.float32]]) -> None:
    size = Size(width=61, height=47)
    boxes = place_windows(size, crop=Size(width=24, height=24))
    joined = OverlapMean(classes=4, size=size, device=torch.device("cpu"))

    for patch, box in zip(torch.from_numpy(units["ens_patches"]), boxes, strict=True):
        joined.add(patch, box)

    np.testing.assert_array_equal(window_shares(boxes, size=size), units["ens_coords_fixed"])
    np.testing.assert_allclose(joined.mean().numpy(), units["ens_fixed"][0], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(joined.covered.numpy(), units["ens_mask_fixed"])


def test_windows_differ_from_the_unmended_ones_only_in_the_last_row_and_column(
    units: Mapping[str, NDArray[np.float32]],
) -> None:
    size = Size(width=1000, height=1000)
    released = units["coords_1000_306"]
    mended = released.copy()
    mended[released[:, 2] == released[:, 2].max(), 0::2] += 0.001
    mended[released[:, 3] == released[:, 3].max(), 1::2] += 0.001

    found = window_shares(place_windows(size, crop=Size(width=306, height=306)), size=size)

    np.testing.assert_allclose(found, mended, atol=1e-6)


def test_ties_go_to_the_lowest_index(units: Mapping[str, NDArray[np.float32]]) -> None:
    found = choose_points(torch.from_numpy(units["score_ties"][0, 0]), count=317)

    np.testing.assert_array_equal(np.flatnonzero(found.numpy()), np.sort(units["points_fixed_k317"][0]))
