"""This program's own networks are the slim pyramid, the shared refiner and one convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.conv import conv_backbone
from magnet_cli.models.architectures.refiner import SMALLEST, SharedRefiner, against, compared
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
    with pytest.raises(WeightsError, match=r"Choose from .*fpn-small"):
        build_backbone("no-such-network", classes=2, bands=3, options={})
    with pytest.raises(WeightsError, match="depth"):
        build_backbone("conv", classes=2, bands=3, options={"depth": 3})


@pytest.mark.parametrize("options", [{}, {"full": True, "gate": True, "bound": 1.5}], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_untrained_shared_refiner_is_the_mean(stride: int, options: dict[str, Any]) -> None:
    own, field = (probabilities(classes=4, height=21, width=18, seed=seed) for seed in (1, 2))
    merged = SharedRefiner(classes=4, stride=stride, **options)(torch.cat((own, field), dim=1)).softmax(dim=1)
    torch.testing.assert_close(merged, (own + field) / 2, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"full": True, "gate": True, "bound": 1.5}], ids=str)
def test_shared_refiner_treats_classes_alike(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    network = SharedRefiner(classes=4, **options)
    for last in filter(None, (network.change, network.gate)):
        torch.nn.init.normal_(last.weight)
    own, field = (probabilities(classes=4, height=16, width=16, seed=seed) for seed in (1, 2))
    order = [2, 0, 3, 1]
    straight = network(torch.cat((own, field), dim=1))
    permuted = network(torch.cat((own[:, order], field[:, order]), dim=1))
    torch.testing.assert_close(permuted, straight[:, order])
    assert not torch.allclose(straight.softmax(dim=1), (own + field) / 2, atol=1e-3)


def test_a_gate_chooses_between_the_inputs_and_a_bound_limits_the_change() -> None:
    own, field = (probabilities(classes=4, height=16, width=16, seed=seed) for seed in (1, 2))
    network = SharedRefiner(classes=4, gate=True, bound=0.5)
    assert network.gate is not None
    with torch.no_grad():
        network.gate.bias.fill_(50)  # type: ignore[union-attr]
    joined = torch.cat((own, field), dim=1)
    torch.testing.assert_close(network(joined).softmax(dim=1), own)
    torch.nn.init.normal_(network.change.weight, std=100)
    change = network(joined) - own.clamp_min(SMALLEST).log()
    assert 0.4 < float(change.detach().abs().max()) <= 0.5 + 1e-5


def test_what_is_compared_is_bounded() -> None:
    own, field = (probabilities(classes=4, height=8, width=8, seed=seed) for seed in (1, 2))
    sure = torch.zeros(2, 4, 8, 8)
    sure[:, 0] = 1
    for pair in ((own, field), (sure, field), (sure, sure)):
        features = compared(*pair)
        assert len(features) == 5
        assert all(float(feature.abs().max()) <= 1 + 1e-6 for feature in features)
    assert float(compared(sure, sure)[4].min()) == 1


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
