"""CascadePSP's module has the published keys, gives each pass its inputs, and returns what training needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.cascade_base import CascadeModule, CascadeOutputs
from magnet_cli.models.architectures.cascadepsp import cascadepsp_light, cascadepsp_lite0, cascadepsp_resnet50
from magnet_cli.models.architectures.conv import conv_cascade
from magnet_cli.models.registry import CASCADES, build_cascade
from tests.models.support import manifest, on_meta, parameters, shapes

SLIM = {"width": 4, "depths": [1, 1, 1, 1], "pooled": 8, "widths": [8, 4, 4], "hidden": 4}


class Spy(CascadeModule):
    """A cascade in which each pass returns a number of its own and keeps its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor, Tensor, Tensor]] = []

    def first(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> Tensor:
        self.seen.append(("first", masks, s8, s4))
        return torch.full_like(images[:, :1], 0.1)

    def middle(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(("middle", masks, s8, s4))
        return torch.full_like(images[:, :1], 0.2), torch.full_like(images[:, :1], 0.3)

    def last(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append(("last", masks, s8, s4))
        return tuple(torch.full_like(images[:, :1], value) for value in (0.4, 0.5, 0.6))  # type: ignore[return-value]


def test_the_module_has_the_published_keys() -> None:
    network = on_meta(cascadepsp_resnet50)
    assert parameters(network) == 67_683_433
    assert shapes(network) == manifest("cascadepsp_refinement_module.txt")


def test_the_light_module_is_small_on_disk() -> None:
    assert 2 * sum(value.numel() for value in on_meta(cascadepsp_light).state_dict().values()) < 10 << 20


@pytest.mark.parametrize("architecture", CASCADES)
def test_every_output_has_the_inputs_size(architecture: str) -> None:
    with torch.device("meta"):
        network = build_cascade(architecture, options={}).eval()
        found = network(torch.empty(2, 3, 64, 96), torch.empty(2, 1, 64, 96))
    assert (len(found.s8), len(found.s4)) == (3, 2)
    assert {tuple(output.shape) for output in (*found.s8, *found.s4, found.s1)} == {(2, 1, 64, 96)}


def test_the_global_step_hands_each_output_on_as_a_hyperbolic_tangent() -> None:
    network, mask = Spy(), torch.full((1, 1, 8, 8), -1.0)
    found = network(torch.zeros(1, 3, 8, 8), mask)
    names = [name for name, *_ in network.seen]
    given = [[float(part.mean()) for part in masks] for _, *masks in network.seen]
    tanh = [float(torch.tensor(value).tanh()) for value in (0.1, 0.2, 0.3)]
    assert names == ["first", "middle", "last"]
    assert given[0] == [-1, -1, -1]
    assert given[1] == pytest.approx([-1, tanh[0], tanh[0]])
    assert given[2] == pytest.approx([-1, tanh[1], tanh[2]])
    assert means(found) == pytest.approx([0.1, 0.2, 0.4, 0.3, 0.5, 0.6])


def test_the_local_step_takes_the_coarse_output_where_the_first_pass_would_have_put_its_own() -> None:
    """The paper names two inputs for three places. The published program puts the output of stride 4 in the first."""
    network, mask = Spy(), torch.full((1, 1, 8, 8), -1.0)
    found = network.two_passes(torch.zeros(1, 3, 8, 8), mask, torch.full((1, 1, 8, 8), 0.7))
    given = [[float(part.mean()) for part in masks] for _, *masks in network.seen]
    assert [name for name, *_ in network.seen] == ["middle", "last"]
    assert given[0] == pytest.approx([-1, 0.7, 0.7])
    assert given[1] == pytest.approx([-1, *(float(torch.tensor(value).tanh()) for value in (0.2, 0.3))])
    assert means(found) == pytest.approx([0.2, 0.4, 0.3, 0.5, 0.6])


def means(found: CascadeOutputs) -> list[float]:
    return [float(output.mean()) for output in (*found.s8, *found.s4, found.s1)]


def test_the_module_over_lite0_is_small_on_disk() -> None:
    network = on_meta(cascadepsp_lite0)
    assert 3_200_000 < parameters(network) < 3_400_000


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("cascadepsp-light", SLIM),
        ("cascadepsp-lite0", {"lateral": 8, "pooled": 8, "widths": [8, 4, 4], "hidden": 4}),
    ],
)
def test_every_weight_of_the_small_modules_learns_from_the_outputs(
    architecture: str, options: dict[str, object]
) -> None:
    network = build_cascade(architecture, options=options).train()
    torch.manual_seed(5)
    found = network(torch.randn(2, 3, 32, 32), torch.randn(2, 1, 32, 32).sign())
    total = torch.stack([output.square().mean() for output in (*found.s8, *found.s4, found.s1)]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert [name for name, value in network.named_parameters() if value.grad is None] == []


def test_the_small_cascade_can_give_its_mask_back() -> None:
    network = conv_cascade()
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        next(iter(network.parameters()))[0, 3] = 20
    mask = torch.randn(1, 1, 8, 8).sign()
    assert torch.equal(network(torch.randn(1, 3, 8, 8), mask).s1 > 0, mask > 0)


def test_the_finest_logits_may_be_raised() -> None:
    torch.manual_seed(0)
    network = cascadepsp_light(width=4, depths=(1, 1, 1, 1), pooled=8, widths=(8, 4, 4), hidden=4).eval()
    images, mask = torch.randn(1, 3, 16, 24), torch.randn(1, 1, 16, 24).sign()
    before = network(images, mask)
    network.raise_finest(0.75)
    after = network(images, mask)
    torch.testing.assert_close(after.s1, before.s1 + 0.75)
    assert torch.equal(after.s4[-1], before.s4[-1])


def test_sides_need_only_be_multiples_of_eight_over_lite0() -> None:
    """The maps of strides 16 and 32 of such sides are rounded up, and are enlarged to the map of stride 8."""
    with torch.device("meta"):
        found = cascadepsp_lite0().eval()(torch.empty(1, 3, 40, 72), torch.empty(1, 1, 40, 72))
    assert {tuple(output.shape) for output in (*found.s8, *found.s4, found.s1)} == {(1, 1, 40, 72)}


@pytest.mark.parametrize("sees", [False, True])
def test_the_finest_level_sees_the_masks_where_it_is_told_to(*, sees: bool) -> None:
    torch.manual_seed(0)
    network = cascadepsp_light(width=4, depths=(1, 1, 1, 1), pooled=8, widths=(8, 4, 4), hidden=4, sees=sees).eval()
    with torch.no_grad():
        network.feats.get_parameter("conv1.weight")[:, 3:] = 0
    images, mask = torch.randn(1, 3, 16, 24), torch.randn(1, 1, 16, 24).sign()
    found, other = (network(images, masks) for masks in (mask, -mask))
    assert torch.equal(found.s4[0], other.s4[0])
    assert torch.equal(found.s1, other.s1) is not sees


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("vgg", {}, "unknown architecture"),
        ("cascadepsp-resnet50", {"width": 8}, "options do not fit"),
        ("cascadepsp-light", {"widths": [8, 8]}, "options do not fit"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_cascade(architecture, options=options)
