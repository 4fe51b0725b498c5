"""Labels are the classes of the largest probabilities, whatever type the probabilities have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from magnet_cli.segmentation.canvas_output import largest, largest_reduced


@pytest.mark.parametrize("classes", [2, 5, 19])
def test_float16_has_the_labels_of_float32(classes: int) -> None:
    """Few values make ties, and values beside 0 are those that rounding leaves of nothing."""
    random = np.random.default_rng(classes)
    values = np.array([0, -0.0, -6e-8, 6e-8, 1e-4, 0.5, 0.5005, 1], np.float16)
    probs = torch.from_numpy(random.choice(values, (classes, 70, 90)))
    probs[:, :9, :9] = torch.from_numpy(random.choice(values[:3], (classes, 9, 9)))
    wanted = largest(probs.float())
    assert (wanted[:9, :9] == 255).all()
    assert len(np.unique(wanted)) == classes + 1
    assert torch.equal(largest(probs), wanted)
    assert torch.equal(largest(probs[:, 3:50, 7:80]), wanted[3:50, 7:80])
    assert torch.equal(largest_reduced(probs.float()), wanted)
