"""The networks of this program's own: the slim pyramid, the shared refiner, one convolution."""

from __future__ import annotations

import pytest
import torch

from magnet_cli.errors import WeightsError
from magnet_cli.models.conv import conv_backbone
from magnet_cli.models.refinement import SharedRefiner, against
from magnet_cli.models.registry import REFINERS, build_backbone, build_refiner

TINY = {"fpn-small": {"width": 4, "depths": [1, 1, 1, 1], "lateral": 4, "head": 4}}


def probabilities(*, classes: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, classes, height, width, generator=generator)).softmax(dim=1)


@pytest.mark.parametrize("name", ["fpn-small", "conv"])
@pytest.mark.parametrize("size", [(32, 32), (48, 33)])
def test_backbones_give_logits_of_the_patch(name: str, size: tuple[int, int]) -> None:
    network = build_backbone(name, classes=5, bands=4, options=TINY.get(name, {})).eval()
    assert network(torch.zeros(2, 4, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("name", sorted(REFINERS))
def test_refiners_give_logits_of_the_field(name: str) -> None:
    network = build_refiner(name, classes=3, options={}).eval()
    assert network(torch.full((1, 6, 17, 20), 1 / 3)).shape == (1, 3, 17, 20)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"Known: .*fpn-small"):
        build_backbone("no-such-network", classes=2, bands=3, options={})
    with pytest.raises(WeightsError, match="depth"):
        build_backbone("conv", classes=2, bands=3, options={"depth": 3})


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_untrained_shared_refiner_is_the_mean(stride: int) -> None:
    own, field = (probabilities(classes=4, height=21, width=18, seed=seed) for seed in (1, 2))
    merged = SharedRefiner(classes=4, stride=stride)(torch.cat((own, field), dim=1)).softmax(dim=1)
    torch.testing.assert_close(merged, (own + field) / 2, atol=2e-5, rtol=1e-4)


def test_shared_refiner_treats_classes_alike() -> None:
    torch.manual_seed(3)
    network = SharedRefiner(classes=4)
    torch.nn.init.normal_(network.change.weight)
    own, field = (probabilities(classes=4, height=16, width=16, seed=seed) for seed in (1, 2))
    order = [2, 0, 3, 1]
    straight = network(torch.cat((own, field), dim=1))
    permuted = network(torch.cat((own[:, order], field[:, order]), dim=1))
    torch.testing.assert_close(permuted, straight[:, order])
    assert not torch.allclose(straight.softmax(dim=1), (own + field) / 2, atol=1e-3)


def test_against_names_the_best_other_class() -> None:
    probs = torch.tensor([0.5, 0.2, 0.3]).reshape(1, 3, 1, 1)
    own, other, certainty = against(probs)
    assert own is probs
    assert other.flatten().tolist() == pytest.approx([0.3, 0.5, 0.5])
    assert certainty.flatten().tolist() == pytest.approx([0.2] * 3)


def test_conv_can_be_an_identity_classifier() -> None:
    network = conv_backbone(classes=3, bands=3)
    with torch.no_grad():
        network.conv.weight.copy_(100 * torch.eye(3).reshape(3, 3, 1, 1))
        network.conv.bias.zero_()  # type: ignore[union-attr]
    labels = torch.randint(0, 3, (2, 9, 7), generator=torch.Generator().manual_seed(5))
    patches = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert torch.equal(network(patches).argmax(dim=1), labels)
