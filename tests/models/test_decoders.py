"""DeepLabV3+ and U-Net have the right sizes, counts and dilation, and can be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.models.architectures.deeplab import DeepLabV3Plus, deeplabv3plus_resnet50
from magnet_cli.models.architectures.efficientnet import EfficientNetLite
from magnet_cli.models.architectures.resnet import Bottleneck, ResNet
from magnet_cli.models.architectures.unet import UNet, unet_lite0, unet_resnet34
from tests.models.support import on_meta, parameters, slim_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

ENCODERS: dict[str, Callable[[], ResNet | EfficientNetLite]] = {
    "unet": slim_encoder,
    "unet-lite": lambda: EfficientNetLite(width=0.1, depth=0.4),
}
SLIM: dict[str, Callable[[], nn.Module]] = {
    "deeplab": lambda: DeepLabV3Plus(slim_encoder(output_stride=16), classes=3, width=8, low=4),
    **{name: (lambda name=name: slim_unet(name)) for name in ENCODERS},  # type: ignore[misc]  # mypy infers no lambda
}


def slim_unet(encoder: str) -> UNet:
    return UNet(ENCODERS[encoder](), classes=3, widths=(8, 8, 8, 8, 4))


def test_parameter_counts() -> None:
    assert parameters(on_meta(deeplabv3plus_resnet50, classes=5)) == 26_678_357
    assert parameters(on_meta(unet_resnet34, classes=5)) == 24_436_949
    assert parameters(on_meta(unet_lite0, classes=5)) == 3_629_909


@pytest.mark.parametrize("build", [deeplabv3plus_resnet50, unet_resnet34, unet_lite0])
@pytest.mark.parametrize("size", [(64, 96), (67, 33)])
def test_logits_have_the_patchs_size(build: Callable[..., nn.Module], size: tuple[int, int]) -> None:
    network = on_meta(build, classes=5, bands=4)
    assert network(torch.empty(2, 4, *size, device="meta")).shape == (2, 5, *size)


@pytest.mark.parametrize(("stride", "step3", "step4"), [(16, 1, 2), (8, 2, 4)])
def test_a_dilated_encoder_sees_what_the_strided_one_sees(stride: int, step3: int, step4: int) -> None:
    torch.manual_seed(0)
    strided = ResNet(block=Bottleneck, depths=(1, 1, 2, 3), width=4).eval()
    dilated = ResNet(block=Bottleneck, depths=(1, 1, 2, 3), width=4, output_stride=stride).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 128, 192)
    with torch.inference_mode():
        expected, found = strided(x), dilated(x)
    assert found[3].shape[2:] == (128 // stride, 192 // stride)
    for a, b, step in zip(expected, found, (1, 1, step3, step4), strict=True):
        torch.testing.assert_close(b[..., ::step, ::step], a)


def test_an_output_stride_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="8, 16 or 32, not 4"):
        slim_encoder(output_stride=4)


@pytest.mark.parametrize("name", SLIM)
def test_training_on_a_single_patch(name: str) -> None:
    network = SLIM[name]().train()
    loss: torch.Tensor = network(torch.randn(1, 3, 64, 64)).square().mean()
    torch.autograd.backward(loss)
    unused = [key for key, value in network.named_parameters() if value.grad is None]
    assert not unused


@pytest.mark.parametrize("name", SLIM)
def test_patches_do_not_see_each_other(name: str) -> None:
    network = SLIM[name]().eval()
    x = torch.randn(3, 3, 48, 80)
    with torch.inference_mode():
        alone = torch.cat([network(x[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(network(x), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(64, 64), (67, 33)])
def test_unet_takes_up_every_map_of_its_encoder(
    encoder: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    network = slim_unet(encoder).eval()
    x = torch.randn(1, 3, *size)
    with torch.inference_mode():
        maps = network.encoder.maps(x)
        assert [tuple(each.shape[2:]) for each in maps] == [
            tuple(-(-side // stride) for side in size) for stride in (2, 4, 8, 16, 32)
        ]
        assert [each.shape[1] for each in maps] == [network.encoder.stem_channels, *network.encoder.channels]
        for alone, beside in zip(network.encoder(x), maps[1:], strict=True):
            assert torch.equal(alone, beside)
        monkeypatch.setattr(network.encoder, "maps", lambda _: maps)
        before = network(x)
        for value in maps:
            kept = value.clone()
            value.add_(1)
            assert not torch.allclose(network(x), before)
            value.copy_(kept)
