"""HRNet with OCR has the published names and counts, and gives the numbers of other implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.models.architectures.hrnet import Exchange, HRNet, enlarge_corners
from magnet_cli.models.architectures.ocr import KEYS, WIDTH, HRNetOCR, ObjectContext, hrnet18_ocr, hrnet48_ocr, regions
from tests.models.support import manifest, on_meta, parameters, seeded, seeded_patch, shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

ROW = torch.tensor(
    (
        *(-1.0913, -4.0703, 0.8547, 0.7253, 2.5173, 3.1421, -1.5077, -2.6205, -4.3908, 2.9298),
        *(3.2233, 0.5603, 1.8090, 0.7035, -1.0758, 1.0755, 2.0119, -0.1462, -0.6315),
    )
)
"""Logits at row 37, column 11 of two other implementations for the seeded weights and patch.

They are timm 1.0.31's HRNet (stem stride 1, bilinear, corners aligned) with mmsegmentation 1.2.2's OCR head. The first
convolutions of both heads are divided by 50.
"""

PUBLISHED = [
    (hrnet18_ocr, "magnet_hrnet18_ocr_c19.txt", 924, 6_379_278),
    (hrnet48_ocr, "magnet_hrnet48_ocr_c19.txt", 1890, 70_372_678),
]


@pytest.mark.parametrize(("build", "name", "keys", "count"), PUBLISHED)
def test_published_keys(build: Callable[..., HRNetOCR], name: str, keys: int, count: int) -> None:
    network = on_meta(build, classes=19)
    assert (len(network.state_dict()), parameters(network)) == (keys, count)
    assert shapes(network) == manifest(name)


@pytest.mark.parametrize(("stem_stride", "size"), [(1, (128, 256)), (1, (37, 21)), (2, (64, 33))])
def test_logits_have_the_patchs_size(stem_stride: int, size: tuple[int, int]) -> None:
    network = on_meta(hrnet18_ocr, classes=5, bands=4, stem_stride=stem_stride)
    assert network(torch.empty(2, 4, *size, device="meta")).shape == (2, 5, *size)


def test_numbers_of_other_implementations() -> None:
    state = seeded("magnet_hrnet18_ocr_c19.txt")
    for key in ("aux_head.0.weight", "conv3x3_ocr.0.weight"):
        state[key] = state[key] * 0.02
    network = hrnet18_ocr(classes=19).eval()
    network.load_state_dict(state)
    with torch.inference_mode():
        logits = network(seeded_patch(height=64, width=32))
    assert logits.shape == (1, 19, 64, 32)
    torch.testing.assert_close(logits[0, :, 37, 11], ROW, atol=2e-3, rtol=0)
    corners = torch.stack((logits[0, 0, 0, 0], logits[0, 7, 0, 31], logits[0, 18, 63, 0], logits[0, 3, 63, 31]))
    torch.testing.assert_close(corners, torch.tensor((0.0805, -2.2027, 0.8130, -0.3728)), atol=2e-3, rtol=0)
    assert float(logits.mean()) == pytest.approx(0.25003, abs=1e-3)
    assert float(logits.abs().mean()) == pytest.approx(1.69165, abs=1e-3)


@pytest.mark.parametrize(("stem_stride", "finest"), [(1, 32), (2, 8)])
def test_each_branch_is_half_as_fine_as_the_one_before(stem_stride: int, finest: int) -> None:
    network = HRNet(widths=(2, 3, 4, 5), modules=(1, 1, 1), blocks=1, bottlenecks=1, stem_stride=stem_stride).eval()
    seen: list[list[tuple[int, ...]]] = []
    for exchange in (network.stage2, network.stage3, network.stage4):
        exchange.register_forward_hook(lambda _module, _inputs, maps: seen.append([tuple(x.shape) for x in maps]))
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 14, finest, finest)
    every = [(1, width, finest >> index, finest >> index) for index, width in enumerate((2, 3, 4, 5))]
    assert seen == [every[:2], every[:3], every]


def test_corners_stay_where_they_are() -> None:
    x = torch.randn(1, 1, 3, 5)
    y = enlarge_corners(x, torch.empty(1, 1, 9, 8))
    torch.testing.assert_close(y[..., :: 9 - 1, :: 8 - 1], x[..., :: 3 - 1, :: 5 - 1])
    ramp = enlarge_corners(torch.arange(3.0).reshape(1, 1, 1, 3), torch.empty(1, 1, 1, 5))
    torch.testing.assert_close(ramp.flatten(), torch.tensor((0, 0.5, 1, 1.5, 2)))


def test_an_exchange_leaves_its_input_alone() -> None:
    exchange = Exchange(widths=(2, 4), blocks=1).eval()
    maps = [torch.randn(1, 2, 8, 8), torch.randn(1, 4, 4, 4)]
    before = [x.clone() for x in maps]
    with torch.inference_mode():
        exchange(maps)
    assert all(torch.equal(x, y) for x, y in zip(maps, before, strict=True))


def softmax(x: Doubles, *, axis: int) -> Doubles:
    powers: Doubles = np.exp(x - x.max(axis=axis, keepdims=True))
    total: Doubles = powers.sum(axis=axis, keepdims=True)
    return powers / total


def test_regions_are_means_over_positions() -> None:
    features, logits = torch.randn(2, 7, 3, 5).double(), torch.randn(2, 4, 3, 5).double()
    expected = np.zeros((2, 7, 4, 1))
    for n in range(2):
        for k in range(4):
            weight = softmax(logits[n, k].numpy().ravel(), axis=0).reshape(3, 5)
            expected[n, :, k, 0] = (features[n].numpy() * weight).sum(axis=(1, 2))
    np.testing.assert_allclose(regions(features, logits).numpy(), expected, rtol=1e-12)


def test_attention_is_over_classes() -> None:
    torch.manual_seed(0)
    block = ObjectContext().double().eval()
    features, proxies = 3 * torch.randn(1, WIDTH, 2, 3).double(), 3 * torch.randn(1, WIDTH, 4, 1).double()
    with torch.inference_mode():
        y = block(features, proxies)
        queries = block.f_pixel(features)[0].reshape(KEYS, 6).numpy()
        keys = block.f_object(proxies)[0, :, :, 0].numpy()
        values = block.f_down(proxies)[0, :, :, 0].numpy()
        weights = softmax(np.einsum("cp,ck->pk", queries, keys) / 16, axis=1)
        context = torch.from_numpy(np.einsum("pk,ck->cp", weights, values)).reshape(1, KEYS, 2, 3)
        torch.testing.assert_close(y, block.f_up(context))
    assert weights.std() > 1e-4


def test_the_heads_are_mixed_one_to_two_fifths() -> None:
    network = HRNetOCR(classes=2, widths=(2, 3, 4, 5), modules=(1, 1, 1), blocks=1, bottlenecks=1).eval()
    x = torch.randn(1, 3, 16, 8)
    shift = torch.tensor((3.0, -5.0))
    with torch.inference_mode():
        before = network(x)
        network.cls_head.bias += shift  # type: ignore[operator]
        main = network(x)
        network.aux_head[3].bias += shift  # type: ignore[operator]
        both = network(x)
    # A softmax over positions does not see a constant, so the auxiliary bias reaches the logits directly only.
    torch.testing.assert_close(main - before, (shift / 1.4).reshape(1, 2, 1, 1).expand_as(before))
    torch.testing.assert_close(both - main, (0.4 * shift / 1.4).reshape(1, 2, 1, 1).expand_as(before))
