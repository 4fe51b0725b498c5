"""The published arithmetic equals a plain second writing of it, with each published network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from magnet_cli.arithmetic.published.stages import PublishedSettings, published_stages
from magnet_cli.geometry import Size
from magnet_cli.models.architectures.fpn import FPN
from magnet_cli.models.architectures.ocr import HRNetOCR
from magnet_cli.models.architectures.psp import PSPNet
from magnet_cli.models.architectures.refiner import RefinementMagNet
from tests.arithmetic import oracle
from tests.arithmetic.oracle import Case
from tests.models.support import slim_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.full

NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "fpn": (7, lambda: FPN(slim_encoder(), classes=7, lateral=8, head=4)),
    "psp": (4, lambda: PSPNet(slim_encoder(), classes=4)),
    "hrnet": (19, lambda: HRNetOCR(classes=19, widths=(4, 5, 6, 7), modules=(1, 1, 1), blocks=1, bottlenecks=1)),
}

CASES = {
    "psp": ("psp", 1, Case(stages=[(80, 48), (160, 96), (320, 192)], crop=(80, 48), input=(64, 40), points=0.3,
                           patches=-1, median=11)),
    "hrnet": ("hrnet", 2, Case(stages=[(32, 16), (64, 32), (128, 64)], crop=(32, 16), input=(32, 16), points=1500,
                               patches=-1, median=5)),
    "fast": ("fpn", 1, Case(stages=[(60, 60), (120, 120), (240, 240)], crop=(60, 60), input=(48, 48), points=0.9,
                            patches=3, median=11)),
    "fast, a refiner a stage": ("fpn", 3, Case(stages=[(64, 32), (128, 64), (256, 128), (512, 256)], crop=(64, 32),
                                               input=(64, 32), points=65536, patches=3, median=5)),
    "overlaps": ("psp", 1, Case(stages=[(64, 64), (150, 131), (255, 203)], crop=(64, 64), input=(40, 48), points=0.5,
                                patches=-1, median=5)),
    "fast with overlaps": ("fpn", 1, Case(stages=[(64, 48), (150, 131), (255, 203)], crop=(64, 48), input=(48, 40),
                                          points=1.0, patches=4, median=3)),
}  # fmt: skip
"""A network, its number of refiners, and the settings of the published program, for each case."""


@dataclass(frozen=True)
class Tiny:
    """Random networks with logits large enough for certain results."""

    backbone: nn.Module
    refiners: tuple[nn.Module, ...]
    scales: tuple[Size, ...]
    """Scales of the refining stages."""

    def logits(self, patches: Tensor) -> Tensor:
        logits: Tensor = self.backbone(patches)
        return 4 * (logits - logits.mean(dim=(2, 3), keepdim=True)) / logits.std()

    def refined(self, index: int, pair: Tensor) -> Tensor:
        half = pair.shape[1] // 2
        change: Tensor = self.refiners[index](pair)
        return 3 * pair[:, :half] + 2 * pair[:, half:] + change

    def predict(self, patches: Tensor, scale: Size) -> Tensor:  # noqa: ARG002 - one temperature for all
        return torch.cat([self.logits(patch[None]) for patch in patches]).softmax(dim=1)

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        index = min(len(self.refiners) - 1, self.scales.index(scale))
        return self.refined(index, torch.cat((own, field), dim=1)).softmax(dim=1)


def photo() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return a picture (181, 333, 3) of steps, noise and ramps."""
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.integers(0, 200, (19, 34, 3)), np.ones((10, 10, 1), np.int64))[:181, :333]
    noise = rng.integers(0, 56, blocks.shape) * (np.arange(333) > 150)[None, :, None]
    return (blocks + noise).astype(np.uint8)


def tiny(network: str, count: int, settings: PublishedSettings) -> Tiny:
    torch.manual_seed(5)
    classes, build = NETWORKS[network]
    scales = tuple(settings.scale_of(index) for index in range(1, len(settings.stages)))
    refiners = tuple(RefinementMagNet(classes=classes).eval() for _ in range(count))
    return Tiny(backbone=build().eval(), refiners=refiners, scales=scales)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_both_writings_agree(name: str, *, shifted: bool) -> None:
    pytest.importorskip("cv2")
    network, count, case = CASES[name]
    settings = PublishedSettings(
        stages=tuple(Size(width=w, height=h) for w, h in case.stages),
        crop=Size(width=case.crop[0], height=case.crop[1]),
        input=Size(width=case.input[0], height=case.input[1]),
        points=case.points,
        patches=case.patches,
        median=case.median,
        batch=2,
    )
    networks = tiny(network, count, settings)
    refiners = [lambda pair, index=index: networks.refined(index, pair) for index in range(count)]

    expected = oracle.run(photo(), case, backbone=networks.logits, refiners=refiners, shifted=shifted)
    found = list(published_stages(photo(), networks, settings=settings, shifted=shifted))

    assert len(found) == len(expected)
    for stage, other in zip(found, expected, strict=True):
        # As a set, because overlaps are averaged and the means of two windows may round either way.
        assert {(box.x, box.y) for box in stage.windows} == set(other.windows)
        assert (stage.chosen.numpy() == other.chosen).mean() >= 0.9995
        difference = (stage.probabilities - other.probabilities).abs().amax(dim=0)
        assert float((difference <= 2e-3).float().mean()) >= 0.9995
        labels = stage.probabilities.argmax(dim=0) == other.probabilities.argmax(dim=0)
        assert float(labels.float().mean()) >= 0.9995
    changed = [float(stage.chosen.float().mean()) for stage in found[1:]]
    assert all(share > 0 for share in changed)
