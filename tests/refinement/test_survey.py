"""Objects are found as connected components with box, area and seed, whatever the tiles, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label as connected
from skimage.measure import regionprops

from magnet_cli.geometry import Box, Size
from magnet_cli.refinement.survey import MaskObject, Survey

if TYPE_CHECKING:
    from numpy.typing import NDArray

small = st.integers(1, 13)


def survey_of(labels: NDArray[np.uint8], side: int) -> Survey:
    size = Size(width=labels.shape[1], height=labels.shape[0])
    return Survey(lambda box: labels[box.slices], size=size, side=side)


def expected(labels: NDArray[np.uint8]) -> set[MaskObject]:
    """Return what scikit-image finds in the whole array."""
    numbers = connected(labels, background=255, connectivity=2)  # type: ignore[no-untyped-call]
    found = set()
    for region in regionprops(numbers):  # type: ignore[no-untyped-call]
        top, left, bottom, right = region.bbox
        row, col = min(map(tuple, region.coords.tolist()))
        found.add(
            MaskObject(
                label=int(labels[row, col]),
                area=int(region.area),
                box=Box.between(left=left, top=top, right=right, bottom=bottom),
                seed=(row, col),
            )
        )
    return found


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    shape = draw(small), draw(small)
    values = draw(st.sampled_from([[0, 1], [1, 255], [0, 1, 255], [0, 1, 2, 254]]))
    return draw(arrays(np.uint8, shape, elements=st.sampled_from(values)))


@given(labels=masks(), side=st.integers(1, 8))
@example(labels=np.full((1, 1), 255, dtype=np.uint8), side=1)
@example(labels=np.where(np.eye(12), 1, 255).astype(np.uint8), side=3)
@example(labels=np.where(np.eye(12), 1, 255).astype(np.uint8)[::-1], side=3)
def test_objects_are_the_connected_components(labels: NDArray[np.uint8], side: int) -> None:
    found = list(survey_of(labels, side).objects())
    assert len(found) == len(set(found))
    assert set(found) == expected(labels)


def test_a_spiral_through_every_tile_is_one_object() -> None:
    labels = np.full((61, 61), 255, dtype=np.uint8)
    row, col = np.mgrid[:61, :61]
    labels[np.minimum.reduce([row, col, 60 - row, 60 - col]) % 4 == 0] = 1
    for inner in range(0, 28, 4):
        labels[30, inner : inner + 5] = 1
    assert [found.area for found in survey_of(labels, 7).objects()] == [int((labels == 1).sum())]


def test_what_is_held_does_not_grow_with_the_height() -> None:
    cell = np.full((16, 16), 255, dtype=np.uint8)
    cell[3:13, 3:13] = 1
    cell[6:10, 6:10] = 2
    held = []
    for rows in (20, 160):
        survey = survey_of(np.tile(cell, (rows, 6)), 24)
        assert sum(1 for _ in survey.objects()) == rows * 6 * 2
        held.append((survey.most_components, len(survey._components)))
    assert held[0] == held[1]
