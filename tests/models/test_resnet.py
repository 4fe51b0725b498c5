"""The shortcuts of residual encoders compute what they should, under the published names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from magnet_cli.models.architectures.resnet import LEAST_STRIDED, shortcut


@pytest.mark.parametrize("inputs", [2, LEAST_STRIDED])
@pytest.mark.parametrize("side", [8, 9])
def test_a_shortcut_is_a_strided_convolution_under_its_usual_names(inputs: int, side: int) -> None:
    torch.manual_seed(0)
    found = shortcut(inputs=inputs, outputs=4, stride=2)
    assert found is not None
    assert list(found.state_dict())[:2] == ["0.weight", "1.weight"]
    usual = nn.Sequential(nn.Conv2d(inputs, 4, 1, 2, bias=False), nn.BatchNorm2d(4))
    usual.load_state_dict(found.state_dict())
    x = torch.randn(2, inputs, side, side)
    torch.testing.assert_close(found.eval()(x), usual.eval()(x))


def test_no_strided_convolution_has_few_channels() -> None:
    """Where oneDNN has only AVX2, the gradient of such a convolution writes beyond its memory."""
    found = shortcut(inputs=LEAST_STRIDED - 1, outputs=4, stride=2)
    assert found is not None
    assert [module.stride for module in found.modules() if isinstance(module, nn.Conv2d)] == [(1, 1)]
    assert shortcut(inputs=4, outputs=4, stride=1) is None
