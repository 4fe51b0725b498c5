"""Each formula of GRNet inside an image gives a value that was computed by hand or in the plainest way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.arithmetic.cells import flagged
from magnet_cli.arithmetic.grnet_stages import (
    CellLayout,
    all_cells,
    chosen_cells,
    cut_out,
    flags_of,
    fused,
    magnified,
    pasted,
    refine_cells,
    resized,
    segmented,
    selector_labels,
)
from magnet_cli.geometry import Box, Size, grid_cells
from magnet_cli.models.architectures.grnet import grnet_small

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from magnet_cli.arithmetic.cells import Cell
    from magnet_cli.arithmetic.grnet_stages import Variant


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_last_row_and_column_of_cells_take_the_remainders() -> None:
    boxes = grid_cells(Size(width=11, height=5), side=2)
    assert [(box.x, box.y, box.width, box.height) for box in boxes] == [
        (0, 0, 5, 2),
        (5, 0, 6, 2),
        (0, 2, 5, 3),
        (5, 2, 6, 3),
    ]
    assert {(box.width, box.height) for box in grid_cells(Size(width=2448, height=2448), side=4)} == {(612, 612)}


def test_cells_tile_a_size_and_more_than_its_pixels_are_refused() -> None:
    size = Size(width=13, height=10)
    covered = torch.zeros(10, 13)
    for box in grid_cells(size, side=4):
        covered[box.slices] += 1
    assert (covered == 1).all()
    for side in (0, 11):
        with pytest.raises(ValueError, match="cannot be cut"):
            grid_cells(size, side=side)


def test_a_cell_is_selected_from_one_half_on_and_none_is_ranked() -> None:
    logits = torch.tensor([[-1e-3, 0.0, 3.0, -9.0], [-1.0, -2.0, -3.0, -4.0], [1.0, 1.0, 1.0, 1.0]])
    flags = flags_of(logits)
    assert flags.sum(dim=1).tolist() == [2, 0, 4]
    assert chosen_cells(flags)[:3] == ((0, 1), (0, 2), (2, 0))


def scores_of(said: list[list[int]], *, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(said), classes).permute(2, 0, 1)[None].float()


def test_a_cell_below_the_whole_image_is_labelled_one() -> None:
    """Equation 1 is computed by hand for 4 x 4 pixels, two cells a side, and three classes of which one is absent."""
    said = [[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    truth = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 9, 9], [0, 1, 9, 9]]
    labels, counted = selector_labels(scores_of(said, classes=3), torch.tensor([truth]), side=2, ignore=9)
    # Whole: class 0 has 6 hits of a union of 9, class 1 has 3 of 6, together (6/9 + 3/6) / 2 = 0.583.
    # First cell: class 0 alone, IoU 1. Second: 0 of 1 and 3 of 4: 0.375. Third: 2 of 4 and 0 of 2: 0.25.
    assert labels.tolist() == [[0, 1, 1, 0]]
    assert counted.tolist() == [[True, True, True, False]]


def test_an_equal_cell_is_not_selected_and_an_unlabelled_image_does_not_count() -> None:
    scores = scores_of([[0, 1], [0, 1]], classes=2).repeat(2, 1, 1, 1)
    truth = torch.tensor([[[0, 1], [0, 1]], [[255, 255], [255, 255]]])
    labels, counted = selector_labels(scores, truth, side=1, ignore=255)
    assert labels.tolist() == [[0], [0]]
    assert counted.tolist() == [[True], [False]]


def test_a_class_of_too_few_pixels_in_an_area_does_not_count_there() -> None:
    """The second cell has two of sixteen pixels of class 1, both missed; the third is half wrong."""
    truth, said = torch.zeros(1, 8, 8, dtype=torch.int64), torch.zeros(8, 8, dtype=torch.int64)
    truth[0, 0, 4:6] = 1
    truth[0, 4:, :2] = 1
    truth[0, 4:, 4:], said[4:, 4:] = 1, 1
    scores = scores_of(said.tolist(), classes=2)
    # Mean IoU whole: (38/48 + 16/26) / 2 = .70; of the cells: 1, (14/16 + 0) / 2, (8/16 + 0) / 2, 1.
    assert selector_labels(scores, truth, side=2, ignore=9)[0].tolist() == [[0, 1, 1, 0]]
    # A fifth of a cell are more than two pixels: the second has 14/16 of class 0 alone, the third is what it was.
    assert selector_labels(scores, truth, side=2, ignore=9, minimum=0.2)[0].tolist() == [[0, 0, 1, 0]]


def test_a_cell_is_magnified_by_itself() -> None:
    scores = torch.tensor([0.0, 1.0, 10.0, 20.0]).reshape(1, 1, 1, 4).expand(1, 1, 2, 4)
    size = Size(width=4, height=2)
    found = magnified(scores, [(0, 0), (0, 1)], side=2, size=size)
    # Bilinear with centres aligned: the outer pixels repeat, the inner lie at a quarter. Nothing of a neighbour.
    assert found[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    assert found[1, 0, 1].tolist() == [10.0, 12.5, 17.5, 20.0]


def test_refined_cells_are_pasted_into_zeros_also_where_cells_differ_in_size() -> None:
    refined = torch.stack([torch.full((1, 4, 4), 3.0), torch.full((1, 4, 4), 7.0)])
    found = pasted(refined, [(0, 1), (1, 3)], side=2, count=3, size=Size(width=5, height=3))
    assert found[0, 0].tolist() == [[0, 0, 3, 3, 3], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert found[1, 0].tolist() == [[0, 0, 0, 0, 0], [0, 0, 7, 7, 7], [0, 0, 7, 7, 7]]
    assert not found[2].any()


def test_a_patch_four_times_a_cell_is_made_small_from_its_inner_pixels() -> None:
    """Bilinear interpolation takes the middle two of four pixels in a row."""
    patch = torch.tensor([8.0, 1.0, 3.0, 8.0]).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert pasted(patch, [(0, 0)], side=1, count=1, size=Size(width=1, height=1)).item() == 2


@pytest.mark.parametrize("width", [12, 13])
def test_cells_get_what_the_whole_map_aggregated_has_and_others_stay(width: int) -> None:
    local = grnet_small(classes=3, aggregation=4).eval()
    size, chosen = Size(width=width, height=9), [(0, 0), (0, 2), (1, 3)]
    scores = random(2, 3, 9, width)
    refined = pasted(random(3, 3, 8, 8, seed=1), chosen, side=2, count=2, size=size)
    with torch.no_grad():
        found = fused(refined, scores, chosen, side=2, aggregate=local.aggregate)
        whole = local.aggregate(refined, scores)
    assert not torch.equal(whole, scores)
    boxes = grid_cells(size, side=2)
    for image in range(2):
        for cell, box in enumerate(boxes):
            expected = whole if (image, cell) in chosen else scores
            torch.testing.assert_close(found[image, :, *box.slices], expected[image, :, *box.slices])


def test_gradients_of_cells_are_those_of_the_whole_map() -> None:
    local = grnet_small(classes=3, aggregation=4)
    size, chosen = Size(width=13, height=9), [(0, 0), (1, 1), (0, 2), (1, 3)]
    inputs = [random(4, 3, 6, 6, seed=1).requires_grad_(), random(2, 3, 9, 13).requires_grad_()]
    weights = random(2, 3, 9, 13, seed=7)

    def gradients(*, by_cells: bool) -> tuple[Tensor, ...]:
        refined, scores = inputs
        under = pasted(refined, chosen, side=2, count=2, size=size)
        if by_cells:
            found = fused(under, scores, chosen, side=2, aggregate=local.aggregate)
        else:
            here = flagged(chosen, grid_cells(size, side=2), like=scores)
            found = torch.where(here, local.aggregate(under, scores), scores)
        return torch.autograd.grad((found * weights).sum(), [*inputs, *local.aggregation.parameters()])

    for one, other in zip(gradients(by_cells=True), gradients(by_cells=False), strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()


def test_cells_that_are_alike_are_aggregated_together() -> None:
    """Corners, edges and the middle of an image differ in what lies around them, however many cells there are."""
    asked = []

    def aggregate(refined: Tensor, scores: Tensor) -> Tensor:
        asked.append(len(refined))
        return refined + scores

    maps = random(3, 2, 24, 24)
    fused(maps, maps, all_cells(3, side=6), side=6, aggregate=aggregate)
    assert sorted(asked) == [3] * 4 + [12] * 4 + [48]


class Counting:
    """A stand-in for a GRNet, whose parts are told apart by their results and count their calls."""

    def __init__(self, logits: Tensor) -> None:
        self.asked: list[str] = []
        self.logits = logits
        self.local = self
        self.seen: Tensor | None = None

    def backbone(self, overview: Tensor) -> Tensor:
        self.asked.append("backbone")
        return overview[:, :2]

    def selector(self, overview: Tensor) -> Tensor:
        self.asked.append("selector")
        return self.logits[: len(overview)]

    def __call__(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        self.asked.append("local" if probs is not None else "local without saliency")
        self.seen = probs
        return patches[:, :2]

    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        return 10 * refined + scores


LAYOUTS = {
    "literal": CellLayout.of("literal", side=2, overview=Size(width=8, height=8), patch=Size(width=8, height=8)),
    "detail": CellLayout.of("detail", side=2, overview=Size(width=8, height=8), patch=Size(width=8, height=8)),
}


def images() -> tuple[Tensor, Callable[[Sequence[Cell]], Tensor]]:
    detail = random(1, 3, 16, 16, seed=4)
    return random(1, 3, 8, 8, seed=3), lambda chosen: cut_out(detail, chosen, side=2)


@pytest.mark.parametrize("fusion", LAYOUTS)
@pytest.mark.parametrize(
    ("variant", "asked", "chosen"),
    [
        ("selected", ["selector", "backbone", "local"], [1, 2]),
        ("all", ["backbone", "local"], [0, 1, 2, 3]),
        ("global-only", ["backbone"], []),
        ("local-only", ["local without saliency"], [0, 1, 2, 3]),
    ],
)
def test_each_variant_asks_what_it_needs(variant: Variant, asked: list[str], chosen: list[int], fusion: str) -> None:
    parts, layout = Counting(torch.tensor([[-1.0, 1.0, 0.0, -1.0]])), LAYOUTS[fusion]
    overview, patches = images()
    found = segmented(parts, overview, patches, layout=layout, variant=variant)
    assert parts.asked == asked
    assert [cell for _, cell in found.chosen] == chosen
    under = resized(overview[:, :2], layout.fused)
    half = Size(width=layout.fused.width // 2, height=layout.fused.height // 2)
    near = resized(patches(all_cells(1, side=2))[:, :2], half)
    for cell, box in enumerate(grid_cells(layout.fused, side=2)):
        expected = under[0, :, *box.slices]
        if variant == "local-only":
            expected = near[cell]
        elif cell in chosen:
            expected = 10 * near[cell] + expected
        torch.testing.assert_close(found.scores[0, :, *box.slices], expected)


def test_the_saliency_gets_probabilities_of_the_magnified_scores() -> None:
    parts = Counting(torch.zeros(1, 4))
    overview, patches = images()
    refine_cells(parts, overview[:, :2], patches, [(0, 3)], LAYOUTS["literal"])
    corner = overview[:, :2, 4:, 4:]
    expected = torch.nn.functional.interpolate(corner, size=(8, 8), mode="bilinear").softmax(dim=1)
    assert parts.seen is not None
    torch.testing.assert_close(parts.seen, expected)


def test_only_chosen_cells_are_cut_out_of_the_image() -> None:
    detail = random(2, 3, 8, 8)
    found = cut_out(detail, [(1, 2)], side=2)
    torch.testing.assert_close(found[0], detail[1, :, *Box(x=0, y=4, width=4, height=4).slices])
