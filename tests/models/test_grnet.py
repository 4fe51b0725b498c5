"""The patch proposal network and the local branch of a GRNet are built as in the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.fpn import FPN
from magnet_cli.models.architectures.grnet import Saliency, grnet_resnet18, grnet_small
from magnet_cli.models.architectures.ppn import ppn_resnet18, ppn_small
from magnet_cli.models.folding import fused
from magnet_cli.models.registry import LOCAL_BRANCHES, SELECTORS, build_local, build_selector
from tests.models.support import on_meta, parameters

if TYPE_CHECKING:
    from magnet_cli.models.architectures.ppn import PatchProposalNetwork


def patches(count: int = 2, *, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", SELECTORS)
def test_a_selector_gives_a_logit_a_cell(architecture: str) -> None:
    with torch.device("meta"):
        network = build_selector(architecture, bands=4, classes=2, options={"cells": 8}).eval()
        assert network(torch.empty(2, 4, 128, 96)).shape == (2, 64)


def test_the_papers_selector_has_a_map_of_256_channels_and_stride_16() -> None:
    network = on_meta(ppn_resnet18)
    assert network.encoder(torch.empty(1, 3, 512, 512, device="meta"))[-1].shape == (1, 256, 32, 32)
    assert network.score.in_features == 256
    other = on_meta(ppn_resnet18, depths=(2, 2, 2, 1))
    assert other.encoder(torch.empty(1, 3, 512, 512, device="meta"))[-1].shape == (1, 512, 16, 16)
    assert (parameters(network), parameters(other)) == (2_783_041, 6_456_385)


def test_a_cells_logit_is_the_images_score_minus_its_own() -> None:
    """The expected logits are those of Figure 3, computed from the deep features of one image."""
    torch.manual_seed(2)
    network = ppn_small(cells=2).eval()
    found = network(patches(1))[0]
    deep = network.encoder(patches(1))[-1][0]
    assert deep.shape == (64, 4, 4)
    weight = network.score.weight[0]
    whole = (deep.mean(dim=(1, 2)) * weight).sum()
    for index, (y, x) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2))):
        own = (deep[:, y : y + 2, x : x + 2].mean(dim=(1, 2)) * weight).sum()
        torch.testing.assert_close(found[index], whole - own)


def test_equal_cells_logits_sum_to_zero_so_that_one_is_always_selected() -> None:
    torch.manual_seed(3)
    logits = ppn_small(cells=4).eval()(patches(3, side=128))
    torch.testing.assert_close(logits.sum(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    assert (logits >= 0).any(dim=1).all()


def known(count: int = 2, *, classes: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randn(count, classes, side, side, generator=torch.Generator().manual_seed(6)).softmax(dim=1)


def taught(**options: Any) -> PatchProposalNetwork:
    """Return a selector whose last layer differs from its initial values."""
    torch.manual_seed(4)
    network = ppn_small(cells=2, classes=3, **options).eval()
    torch.nn.init.normal_(network.score.weight)
    torch.nn.init.normal_(network.score.bias)
    return network


@pytest.mark.parametrize("sees", ["image", "image+field"])
@pytest.mark.parametrize("against", ["image", "constant"])
def test_a_cells_score_is_the_mean_of_its_places_scores(sees: str, against: str) -> None:
    network = taught(sees=sees, against=against, constant=0.25 if against == "constant" else 0.0)
    scores = network.score_map(patches(), known())
    assert (scores.shape, scores.dtype) == ((2, 4, 4), torch.float32)
    limit = scores.mean(dim=(1, 2)) if against == "image" else torch.full((2,), 0.25)
    cells = scores.reshape(2, 2, 2, 2, 2).mean(dim=(2, 4)).flatten(1)
    torch.testing.assert_close(network(patches(), known()), limit[:, None] - cells, atol=1e-5, rtol=1e-4)


def test_a_selector_that_sees_the_field_begins_with_its_uncertainty() -> None:
    torch.manual_seed(5)
    network = ppn_small(cells=2, classes=3, sees="image+field", against="constant").eval()
    unsure = uncertainty(known()).reshape(2, 4, 16, 4, 16).mean(dim=(2, 4))
    torch.testing.assert_close(network.score_map(patches(), known()), -unsure)
    other = known(1).expand(2, -1, -1, -1)
    assert not torch.equal(network(patches(), other)[0], network(patches(), known())[1])
    with pytest.raises(ValueError, match="must be given the field"):
        network(patches())


def test_what_a_selector_learns_of_the_image_and_the_field_changes_its_scores() -> None:
    network = taught(sees="image+field")
    scores = network.score_map(patches(), known())
    assert not torch.allclose(network.score_map(patches().flip(0), known()), scores, atol=1e-3)
    # Two classes change places, which no uncertainty tells.
    assert not torch.allclose(network.score_map(patches(), known()[:, [1, 0, 2]]), scores, atol=1e-3)


def test_a_selector_can_be_fused() -> None:
    torch.manual_seed(4)
    network = ppn_small(cells=2).eval()
    x = patches()
    torch.testing.assert_close(fused(network.encoder, simplify=True)(x)[-1], network.encoder(x)[-1])


@pytest.mark.parametrize("architecture", LOCAL_BRANCHES)
def test_a_local_branch_gives_scores_of_cells_and_fuses_them(architecture: str) -> None:
    with torch.device("meta"):
        network = build_local(architecture, classes=5, bands=4, options={"fusion": "detail"}).eval()
        scores = network(torch.empty(2, 4, 64, 96), torch.empty(2, 5, 64, 96))
        assert scores.shape == network(torch.empty(2, 4, 64, 96), None).shape == (2, 5, 64, 96)
        assert network.aggregate(scores, scores).shape == (2, 5, 64, 96)


def test_the_papers_local_branch_is_an_fpn_over_resnet18_with_256_channels_to_fuse() -> None:
    network = on_meta(grnet_resnet18, classes=7)
    assert isinstance(network.branch, FPN)
    assert network.branch.resnet_backbone.channels == (64, 128, 256, 512)
    kernels = [tuple(layer.weight.shape) for layer in network.aggregation if isinstance(layer, torch.nn.Conv2d)]
    assert kernels == [(256, 14, 3, 3), (256, 256, 3, 3), (7, 256, 1, 1)]


def test_a_saliency_multiplies_the_image_by_two_convolutions_of_the_probabilities() -> None:
    saliency = Saliency(classes=1, bands=1)
    with torch.no_grad():
        saliency.inner.weight.fill_(1)
        saliency.inner.bias.fill_(-1)  # type: ignore[union-attr]
        saliency.outer.weight.zero_()
        saliency.outer.weight[0, 0, 2, 2] = 2
    probs = torch.zeros(1, 1, 3, 3)
    probs[0, 0, 1, 1] = 0.5
    probs[0, 0, 0, 0] = 0.75
    # The 3 x 3 sums minus one: 0.25 where both are seen, else below zero; twice that and the bias of one.
    weights = torch.ones(3, 3)
    weights[:2, :2] = 1.5
    torch.testing.assert_close(saliency(torch.full((1, 1, 3, 3), 3.0), probs)[0, 0], 3 * weights)


def test_a_saliency_begins_near_the_image() -> None:
    torch.manual_seed(5)
    image = patches()
    found = Saliency(classes=7, bands=3)(image, torch.randn(2, 7, 64, 64).softmax(dim=1)).detach()
    assert not torch.equal(found, image)
    assert float(((found - image).abs() / image.abs().clamp_min(1e-6)).max()) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [2, 2]}, "of 3 or 4 layers"),
        ({"cells": 0}, "at least 1"),
        ({"colour": 1}, "do not fit ppn-resnet18"),
        ({"sees": "field"}, "one of image, image.field"),
        ({"against": "others"}, "one of image, constant"),
        ({"constant": 1.0}, "must come with against = constant"),
    ],
)
def test_a_selector_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_selector("ppn-resnet18", bands=3, classes=2, options=options)


@pytest.mark.parametrize(("options", "message"), [({"fusion": "sum"}, "literal, detail"), ({"cells": 0}, "at least 1")])
def test_a_local_branch_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_local("grnet-resnet18", classes=2, bands=3, options=options)


def test_light_networks_are_light() -> None:
    assert parameters(on_meta(ppn_small)) < 80_000
    assert parameters(on_meta(grnet_small, classes=5)) < 400_000
