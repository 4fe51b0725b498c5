"""Networks that were made ready for inference compute what they computed before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from magnet_cli.models.architectures.chain import ConvChain, composed, saves_work
from magnet_cli.models.architectures.fpn import FPN, SimplifiedFPN
from magnet_cli.models.architectures.refiner import RefinementMagNet
from magnet_cli.models.architectures.resnet import BasicBlock, ResNet
from magnet_cli.models.architectures.strips import ROWS, InStrips
from magnet_cli.models.folding import fused
from magnet_cli.models.networks import ready
from magnet_cli.models.registry import BACKBONES, REFINERS, build_backbone, build_refiner

pytestmark = pytest.mark.full

SLIM: dict[str, dict[str, Any]] = {
    "fpn-small": {"width": 4, "depths": [1, 1, 1, 1], "lateral": 4, "head": 4},
    "fpn-timm": {"encoder": "mobilenetv3_small_050", "lateral": 4, "head": 4},
}
UNFOLDED = ("fpn-timm",)
"""Networks whose encoder is Python code of another package, which keeps its batch norms."""
CPU = torch.device("cpu")


def lived(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return the network with batch norms that change values, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, spread, shift in (
                (module.running_mean, 0.2, 0.0),
                (module.bias.data, 0.2, 0.0),
                (module.running_var, 0.3, 1.0),
                (module.weight.data, 0.3, 1.0),
            ):
                assert tensor is not None
                tensor.copy_((torch.rand(tensor.shape, generator=generator) - 0.5) * 2 * spread + shift)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("simplify", [False, True])
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"hrnet48-ocr", "psp-resnet101"}))
def test_every_backbone_stays_what_it_was(name: str, simplify: bool) -> None:  # noqa: FBT001
    torch.manual_seed(3)
    network = lived(build_backbone(name, classes=3, bands=3, options=SLIM.get(name, {})))
    before, x = norms(network), torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected = network(x)
        found = fused(network, simplify=simplify)
        torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-5)
        assert (norms(found) == 0) == (name not in UNFOLDED)
        assert norms(network) == before
        torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(REFINERS))
@pytest.mark.parametrize("height", [40, ROWS + 1, 2 * ROWS + 37])
def test_every_refiner_stays_what_it_was_also_in_strips(name: str, height: int) -> None:
    torch.manual_seed(4)
    network = lived(build_refiner(name, classes=3, options={}))
    x = torch.rand(1, 6, height, 23)
    with torch.inference_mode():
        torch.testing.assert_close(ready(network, device=CPU, dtype=torch.float32)(x), network(x), rtol=1e-4, atol=1e-5)


def test_the_papers_refiner_sees_as_far_as_it_says() -> None:
    """The stated reach of the network is exactly that of its gradient."""
    network = lived(RefinementMagNet(classes=2))
    x = torch.rand(1, 4, 40, 12, requires_grad=True)
    network(x)[0, :, 20].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().reshape(-1)
    assert (int(rows.min()), int(rows.max())) == (20 - RefinementMagNet.reach, 20 + RefinementMagNet.reach)
    assert isinstance(ready(network, device=CPU, dtype=torch.float32), InStrips)


def test_a_norm_is_kept_where_something_else_reads_its_convolution() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            return torch.add(y, self.norm(y))

    network, x = lived(Twice()).requires_grad_(requires_grad=False), torch.randn(1, 2, 5, 6)
    with torch.inference_mode():
        torch.testing.assert_close(fused(network, simplify=True)(x), network(x))
    assert norms(fused(network, simplify=True)) == 1


def test_the_papers_pyramid_is_simplified_and_a_slim_one_is_not() -> None:
    encoder = ResNet(block=BasicBlock, depths=(1, 1, 1, 1), width=4)
    wide = FPN(encoder, classes=3)
    assert isinstance(wide.simplified(), SimplifiedFPN)
    slim = FPN(encoder, classes=3, lateral=4, head=4)
    assert slim.simplified() is slim


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 17), width=st.integers(1, 17), seed=st.integers(0, 99), kernels=st.sampled_from([1, 2, 3]))
def test_a_chain_is_its_convolutions_up_to_every_border(height: int, width: int, seed: int, kernels: int) -> None:
    torch.manual_seed(seed)
    channels = [3, 5, 4, 2][: kernels + 1]
    convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)]
    x = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        torch.testing.assert_close(ConvChain(convs)(x), nn.Sequential(*convs)(x), rtol=1e-4, atol=1e-5)
    assert composed(convs)[0].shape[2] == 2 * kernels + 1


def test_a_chain_pays_where_few_channels_come_out() -> None:
    assert saves_work([nn.Conv2d(256, 256, 3), nn.Conv2d(256, 128, 3), nn.Conv2d(128, 7, 3)])
    assert not saves_work([nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)])
