"""The mean over mirror images is that of single predictions of all mirror images, each mirrored back."""

from __future__ import annotations

import pytest
import torch

from magnet_cli.arithmetic.mirroring import mean_over_mirrors


class Slanted:
    """Networks whose result depends on the place of a pixel in the patch, as no real network's should."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self.seen.append(patches.clone())
        rows, columns = (torch.arange(size, dtype=torch.float32) for size in patches.shape[2:])
        return patches[:, :2] + rows[:, None] + 10 * columns


@pytest.mark.parametrize("images", [1, 2, 4, 8])
def test_every_image_is_seen_once_and_mirrored_back(images: int) -> None:
    patches = torch.rand((2, 3, 6, 6), generator=torch.Generator().manual_seed(1))
    network = Slanted()
    found = mean_over_mirrors(network, patches, images=images)
    assert len({image.numpy().tobytes() for image in network.seen}) == len(network.seen) == images
    # What depends on the place is averaged over the symmetries, and what depends on the pixel is kept.
    rows, columns = torch.arange(6.0), torch.arange(6.0)
    middle = torch.full((6,), 2.5)
    expected = {
        1: rows[:, None] + 10 * columns,
        2: rows[:, None] + 10 * middle,
        4: middle[:, None] + 10 * middle,
        8: middle[:, None] + 10 * middle,
    }[images]
    torch.testing.assert_close(found, patches[:, :2] + expected, rtol=0, atol=1e-5)


def test_a_transposed_image_is_turned_back() -> None:
    patches = torch.rand((1, 1, 5, 5), generator=torch.Generator().manual_seed(2))
    found = mean_over_mirrors(lambda given: given * torch.arange(5.0), patches, images=8)
    # Columns count by their mean over all symmetries: 2.
    torch.testing.assert_close(found, patches * 2, rtol=0, atol=1e-5)


def test_patches_that_are_no_squares_have_four_images() -> None:
    patches = torch.rand((1, 3, 4, 8))
    assert mean_over_mirrors(Slanted(), patches, images=4).shape == (1, 2, 4, 8)
