"""Networks of a Python program are told apart, tried before a run, and refused where their mask would be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.python_network import NetworkDescription, PythonNetwork, _unlisted

if TYPE_CHECKING:
    from collections.abc import Callable

BANDS = 3


def described(**more: Any) -> NetworkDescription:
    return NetworkDescription(**{"classes": 3, "size": 32, "version": "1", **more})


def own(network: Any, **more: Any) -> PythonNetwork:
    found = PythonNetwork.of(network, described(**more))
    assert found is not None
    return found


def digest(network: Any, **more: Any) -> str:
    return own(network, **more).bundle.digest


def module(seed: int = 0, *, stride: int = 1, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(BANDS, 8, 3, padding=1, stride=stride), nn.Dropout(dropout), nn.Conv2d(8, 3, 1))


def test_modules_are_told_apart_by_their_weights_and_their_shape() -> None:
    first = digest(module(), version=None)
    assert digest(module(), version=None) == first
    assert digest(module(1), version=None) != first
    assert digest(module(stride=2), version=None) != first
    assert digest(module(), version="2") != first
    half = module().to(torch.bfloat16)
    assert digest(half, version=None) != first


@pytest.mark.parametrize(
    "more",
    [
        {"classes": ["a", "b", "c"]},
        {"size": 64},
        {"bands": ("red", "green", "nir")},
        {"range": (0, 1)},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"activation": "sigmoid"},
        {"scales": "32,64"},
        {"pixel_size": "0.5um"},
        {"name": "other"},
        {"version": "2"},
    ],
    ids=str,
)
def test_another_description_is_another_network(more: dict[str, Any]) -> None:
    def network(patches: Tensor) -> Tensor:
        return patches

    assert digest(network, **more) != digest(network)


def test_a_function_needs_a_version() -> None:
    with pytest.raises(UsageError, match="needs a version"):
        own(lambda patches: patches, version=None)


def test_network_and_description_belong_together() -> None:
    assert PythonNetwork.of(None, None) is None
    with pytest.raises(UsageError, match="is given with its description"):
        PythonNetwork.of(module(), None)
    with pytest.raises(UsageError, match="is given with its description"):
        PythonNetwork.of(None, described())
    wrong: Any = "aerial"
    with pytest.raises(UsageError, match="a module or another callable"):
        PythonNetwork.of(wrong, described())


def test_a_description_becomes_a_bundle() -> None:
    bundle = own(
        module(), classes=["a", "b", "c"], size="64x32", scales=[128, Size(width=64, height=32)], pixel_size="500nm"
    ).bundle
    assert [entry.name for entry in bundle.classes] == ["a", "b", "c"]
    assert bundle.input.size == Size(width=64, height=32)
    assert bundle.scales == (Size(width=128, height=128), Size(width=64, height=32))
    assert bundle.resolution is not None
    assert (float(bundle.resolution.value), bundle.resolution.unit) == (0.5, "um")
    assert (bundle.input.mean, bundle.input.std) == ((0.0,) * 3, (1.0,) * 3)
    assert own(module(), pixel_size="30cm").bundle.resolution == own(module(), pixel_size="0.3m").bundle.resolution


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"classes": 1}, "2 to 255 classes"),
        ({"classes": 256}, "2 to 255 classes"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": "land"}, "different names"),
        ({"size": "64,32"}, "size is that of one patch"),
        ({"size": "64um"}, "size is that of one patch"),
        ({"size": 0}, "at least one pixel"),
        ({"size": 32.5}, "size does not take this value"),
        ({"size": None}, "size does not take this value"),
        ({"bands": "rgb"}, "bands are different names"),
        ({"bands": ()}, "bands are different names"),
        ({"range": (255, 0)}, "lower end of the range of stored values"),
        ({"range": (0, float("nan"))}, "lower end of the range of stored values"),
        ({"mean": (0.5,)}, "mean has a value for each of 3 bands"),
        ({"std": (0.5, 0.5, 0)}, "positive"),
        ({"activation": "relu"}, "activation is one of"),
        ({"scales": "auto"}, "scales are sides in pixels"),
        ({"scales": "64um"}, "scales are sides in pixels"),
        ({"pixel_size": "0.5"}, "at least one pixel"),
        ({"pixel_size": "5"}, "pixel_size is a length with a unit"),
        ({"pixel_size": "1x2um"}, "pixel_size is a length with a unit"),
        ({"colors": ("#FF0000",)}, "a colour for each of 3"),
        ({"colors": ("red", "green", "blue")}, "#RRGGBB"),
        ({"memory": "4"}, "binary unit"),
    ],
    ids=str,
)
def test_descriptions_that_cannot_be(more: dict[str, Any], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        described(**more)


def loaded(network: Any, **more: Any) -> Any:
    return own(network, **more).load(device="cpu", precision="float32")


def test_a_module_is_copied_and_stays_as_it_is() -> None:
    given = module(dropout=0.5)
    assert given.training
    _, networks = loaded(given)
    assert given.training
    assert all(parameter.requires_grad for parameter in given.parameters())
    patch = torch.rand(2, BANDS, 32, 32)
    before = networks.predict(patch, Size(width=32, height=32))
    with torch.no_grad():
        next(given.parameters()).zero_()
    assert torch.equal(networks.predict(patch, Size(width=32, height=32)), before)


def test_scores_become_probabilities_at_the_size_of_the_patch() -> None:
    size = Size(width=32, height=32)
    patch = torch.rand(2, BANDS, 32, 32)
    expected = patch.softmax(dim=1)
    for network in (lambda x: x, lambda x: x.numpy(), lambda x: x.double()):
        _, networks = loaded(network)
        torch.testing.assert_close(networks.predict(patch, size), expected)
    _, networks = loaded(lambda x: x.softmax(1), activation="none")
    torch.testing.assert_close(networks.predict(patch, size), expected)
    _, networks = loaded(lambda x: x[:, :1], classes=2, activation="sigmoid")
    torch.testing.assert_close(networks.predict(patch, size)[:, 1], patch[:, 0].sigmoid())
    _, networks = loaded(lambda x: nn.functional.avg_pool2d(x, 4))
    ramp = 0.2 * torch.arange(32.0).expand(1, BANDS, 32, 32) * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    found = networks.predict(ramp, size)[0, 0, 0].logit()
    # Means of four pixels, interpolated with pixel centres aligned, are the ramp again but at the edge.
    torch.testing.assert_close((found - found[16])[2:-2], 0.2 * torch.arange(-14.0, 14.0), atol=1e-3, rtol=0)


def reused(patches: Tensor, kept: list[Tensor] = []) -> Tensor:  # noqa: B006 - the list outlives the calls
    """Return random probabilities in the same tensor each time."""
    kept += [] if kept else [torch.empty(1, 2, *patches.shape[2:])]
    chance = torch.rand_like(kept[0][:, :1])
    kept[0].copy_(torch.cat((chance, 1 - chance), dim=1))
    return kept[0]


@pytest.mark.parametrize(
    ("network", "more", "rule"),
    [
        (lambda x: {"out": x}, {}, r"type dict.*x\)\['out'\]"),
        (lambda x: x[0], {}, r"scores \(1, 3, h, w\)"),
        (lambda x: x[:, :2], {}, r"got \(1, 2, 32, 32\)"),
        (lambda x: x.mean(dim=(2, 3)), {}, r"got \(1, 3\)"),
        (lambda x: nn.functional.avg_pool2d(x, 64), {"size": 64}, r"got \(1, 3, 1, 1\)"),
        (lambda x: nn.functional.interpolate(x, scale_factor=2), {}, r"got \(1, 3, 64, 64\)"),
        (lambda x: x * torch.nan, {}, "not numbers"),
        (lambda x: x, {"activation": "none"}, "probabilities, from 0 to 1, whose sum is 1"),
        (lambda x: x.sigmoid(), {"activation": "none"}, "whose sum is 1"),
        (lambda x: x + torch.rand_like(x), {}, "another result for the same patch"),
        (lambda x: x.mul_(2), {}, "another result for the same patch.*change no patch in place"),
        (reused, {"activation": "none", "classes": 2}, "another result for the same patch"),
    ],
)
def test_networks_whose_mask_would_mislead(network: Callable[[Tensor], Any], more: dict[str, Any], rule: str) -> None:
    with pytest.raises(WeightsError, match=rule):
        loaded(network, **more)


def test_memory_is_measured_or_given() -> None:
    facts, _ = loaded(module())
    assert facts.weight_bytes == sum(parameter.numel() * 4 for parameter in module().parameters())
    assert facts.activation_bytes >= 8 * 32 * 32 * 4
    larger, _ = loaded(module(), size=64)
    assert larger.activation_bytes == pytest.approx(4 * facts.activation_bytes, rel=0.1)
    given, _ = loaded(lambda x: x, memory="512MiB")
    assert given.activation_bytes == 512 << 20


def test_the_patches_are_what_the_description_says() -> None:
    """The first call is the trial pass: noise of the described size, on the device."""
    seen = []

    def network(patches: Tensor) -> np.ndarray[Any, Any]:
        seen.append((tuple(patches.shape), patches.dtype, patches.device.type))
        return np.zeros((len(patches), 2, *patches.shape[2:]), np.float32)

    loaded(network, classes=2, size="48x32", bands=("a", "b", "c", "d"))
    assert set(seen) == {((1, 4, 32, 48), torch.float32, "cpu")}


class Scaled(nn.Module):
    """A module without weights whose result depends on attributes of several kinds."""

    offset: Tensor

    def __init__(self, *, factor: float = 1.0, shift: Any = 0.0, offset: float = 0.0) -> None:
        super().__init__()
        self.factor = factor
        self.shift = shift
        self.register_buffer("offset", torch.tensor([offset]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + torch.as_tensor(self.shift) + self.offset


class Squared(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x**2 + torch.as_tensor(self.shift) + self.offset


def test_modules_that_compute_otherwise_are_other_networks() -> None:
    """A run that took one for the other would return the mask of an earlier network as already done."""
    squared = type("Scaled", (Squared,), {"__module__": Scaled.__module__, "__qualname__": Scaled.__qualname__})
    modules = [
        *(Scaled(), Scaled(factor=2.0), Scaled(shift=torch.ones(1)), Scaled(shift=torch.zeros(1))),
        *(Scaled(shift=np.ones(1)), Scaled(offset=1.0), squared()),
    ]
    described = NetworkDescription(classes=3, size=32)
    digests = [PythonNetwork(network=module, description=described).bundle.digest for module in modules]
    assert len(set(digests)) == len(modules)
    again = PythonNetwork(network=Scaled(factor=2.0).eval(), description=described).bundle.digest
    assert again == digests[1]


class Buffered(Scaled):
    """A module with buffers that are not saved, one of which may be missing."""

    def __init__(self, mask: Tensor | None, *, shift: Any = 0.0) -> None:
        super().__init__(shift=shift)
        self.register_buffer("mask", mask, persistent=False)


def test_buffers_and_arrays_of_every_kind_are_told_apart() -> None:
    sparse = torch.eye(2).to_sparse()
    wide = np.array([1.0], np.longdouble)
    modules = [
        *(Buffered(None), Buffered(torch.eye(2)), Buffered(sparse), Buffered(2 * sparse)),
        *(Buffered(torch.eye(2).half()), Buffered(torch.empty(2, device="meta"))),
        Buffered(None, shift=sparse),
        *(Buffered(None, shift=np.ones(1, ">f4")), Buffered(None, shift=np.ones(1, "<f4"))),
        *(Buffered(None, shift=wide), Buffered(None, shift=wide + np.finfo(wide.dtype).eps)),
        *(Buffered(None, shift=np.array([1j])), Buffered(None, shift=np.array([2j]))),
    ]
    digests = [b"".join(_unlisted(module)) for module in modules]
    assert len(set(digests)) == len(modules)
    assert digests == [b"".join(_unlisted(module)) for module in modules]
    described = NetworkDescription(classes=3, size=32)
    assert PythonNetwork(network=Buffered(None), description=described).bundle.digest
