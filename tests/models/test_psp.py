"""PSPNet has the published names and counts, pools as published, and mixes its two heads."""

from __future__ import annotations

import pytest
import torch

from magnet_cli.models.architectures.psp import PSPNet, PyramidPooling, psp_resnet101
from tests.models.support import manifest, on_meta, parameters, shapes, slim_encoder


def test_published_keys() -> None:
    assert shapes(on_meta(psp_resnet101, classes=4)) == manifest("magnet_psp_c4.txt")


def test_parameter_count() -> None:
    network = on_meta(psp_resnet101, classes=4)
    assert parameters(network) == 72_317_387
    assert len(network.state_dict()) == 658


@pytest.mark.parametrize("size", [(64, 96), (67, 33)])
def test_logits_have_the_patchs_size(size: tuple[int, int]) -> None:
    network = on_meta(psp_resnet101, classes=4)
    assert network(torch.empty(2, 3, *size, device="meta")).shape == (2, 4, *size)


def test_the_encoder_is_not_dilated() -> None:
    maps = on_meta(psp_resnet101, classes=4).feats(torch.empty(1, 3, 256, 128, device="meta"))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 64, 32), (512, 32, 16), (1024, 16, 8), (2048, 8, 4)]


def test_pooled_maps_come_first_and_in_the_order_of_sizes() -> None:
    pooling = PyramidPooling(channels=2, outputs=6, sizes=(1, 6))
    x = torch.randn(3, 2, 6, 6)
    with torch.inference_mode():
        for stage, factor in zip(pooling.stages, (1.0, 2.0), strict=True):
            stage[1].weight.copy_(factor * torch.eye(2).reshape(2, 2, 1, 1))  # type: ignore[index]
        pooling.bottleneck.weight.copy_(torch.eye(6).reshape(6, 6, 1, 1))
        pooling.bottleneck.bias.copy_(torch.arange(6.0))  # type: ignore[union-attr]
        y = pooling(x)
    whole = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    expected = (torch.cat((whole, 2 * x, x), dim=1) + torch.arange(6.0).reshape(6, 1, 1)).clamp_min(0)
    torch.testing.assert_close(y, expected)


def test_the_heads_are_mixed_one_to_two_fifths() -> None:
    network = PSPNet(slim_encoder(), classes=2).eval()
    x = torch.randn(1, 3, 32, 64)
    with torch.inference_mode():
        both = network(x)
        for head, weight in ((network.final, 1.0), (network.classifier, 0.4)):
            head.weight.zero_()
            head.bias.copy_(torch.tensor((3.0, -5.0)))  # type: ignore[union-attr]
            change = network(x)
            head.bias.zero_()  # type: ignore[union-attr]
            rest = network(x)
            expected = (weight / 1.4 * torch.tensor((3.0, -5.0))).reshape(1, 2, 1, 1).expand_as(both)
            torch.testing.assert_close(change - rest, expected)
    assert both.abs().max() > 0
    assert network(x).abs().max() == 0
