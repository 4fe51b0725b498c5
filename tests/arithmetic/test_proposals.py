"""Scores of windows are computed from the score map of the patch that shows them."""

from __future__ import annotations

import torch

from magnet_cli.arithmetic.grnet_stages import mean_scores
from magnet_cli.geometry import Size


def test_a_box_has_the_mean_of_its_places_each_by_its_share() -> None:
    """The expected score averages over all pixels of the patch, each with its place's value. The boxes cut places."""
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    pixels = scores.repeat_interleave(10, dim=1).repeat_interleave(6, dim=2)
    boxes = torch.tensor([[[0.0, 0, 24, 30], [5, 7, 13, 22]], [[6, 10, 12, 20], [23, 29, 24, 30]]])
    found = mean_scores(scores, boxes, size=Size(width=24, height=30))
    for image, parts in enumerate(boxes.int().tolist()):
        for index, (left, top, right, bottom) in enumerate(parts):
            torch.testing.assert_close(found[image, index], pixels[image, top:bottom, left:right].mean())


def test_a_box_may_end_inside_a_pixel() -> None:
    found = mean_scores(
        torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[0.5, 0.0, 2.5, 1.0]]]), size=Size(width=4, height=1)
    )
    torch.testing.assert_close(found, torch.tensor([[(1.5 * 1 + 0.5 * 5) / 2]]))
