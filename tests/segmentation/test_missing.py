"""Where pixels have no data a network sees the mean, whatever the file stores there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.computer import Normalisation
from tests.segmentation.support import MACHINE, ArrayImage, CodedNetworks, MemorySink, engine_over, facts, job_of, sides

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Size

MEAN, STD = (0.2, 0.3, 0.4), (0.1, 0.2, 0.3)


class Watched(CodedNetworks):
    """Networks that keep the patches that they receive."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.seen: list[Tensor] = []

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        self.seen += list(patches.clone())
        return super().predict(patches, scale)


def test_missing_pixels_are_the_mean() -> None:
    random = np.random.default_rng(2)
    pixels, valid = random.integers(0, 256, (32, 64, 3), np.uint8), random.random((32, 64)) < 0.7
    image, networks = ArrayImage(pixels, valid=valid), Watched(5)
    plan = make_plan(
        image.info, facts(5, input_side=32), SegmentOptions(method="patch", scales=sides(32), overlap=0), MACHINE
    )
    normalisation = Normalisation(spans=((0, 255),) * 3, mean=MEAN, std=STD)
    sink = MemorySink(image.info.size, 5)
    engine_over(image, sink).run(job_of(plan, networks, normalisation=normalisation))
    expected = np.where(valid[..., None], (pixels / 255 - MEAN) / STD, 0).astype(np.float32).transpose(2, 0, 1)
    torch.testing.assert_close(torch.cat(networks.seen, dim=2), torch.from_numpy(expected), rtol=0, atol=1e-5)
