"""Networks of a bundle compute what they should, and damaged files are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.architectures.conv import conv_backbone, conv_refiner
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCALE = Size(width=32, height=32)


def bundle_with(folder: Path, *, logits: int = 2, refiners: Sequence[dict[str, Any]] = (), **changes: Any) -> Bundle:
    """Write a bundle: one convolution that returns the bands as logits, and a refiner that returns its first input."""
    backbone = conv_backbone(classes=logits, bands=3)
    backbone.load_state_dict(
        {"conv.weight": torch.eye(logits, 3).reshape(logits, 3, 1, 1), "conv.bias": torch.zeros(logits)}
    )
    networks = {"backbone.safetensors": backbone}
    if refiners:
        refiner = conv_refiner(classes=2)
        weight = 4 * torch.eye(2, 4).reshape(2, 4, 1, 1)
        refiner.load_state_dict({"conv.weight": weight, "conv.bias": torch.zeros(2)})
        networks["refiner.safetensors"] = refiner
    return write_bundle(folder, describe(refiners=refiners, **changes), networks)


def patches(*, bands: int = 3) -> torch.Tensor:
    return torch.randn(2, bands, 5, 7, generator=torch.Generator().manual_seed(0))


def test_softmax_with_the_scales_temperature(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, backbone={"temperature": {"32": 1.0, "64": 2.0}})
    networks = load_networks(bundle, device="cpu", precision="float32")
    x = patches()
    for side, temperature in ((32, 1.0), (64, 2.0), (4000, 2.0)):
        probs = networks.predict(x, Size(width=side, height=side))
        torch.testing.assert_close(probs, (x[:, :2] / temperature).softmax(dim=1))


def test_one_logit_means_two_classes(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, logits=1, activation="sigmoid")
    probs = load_networks(bundle, device="cpu", precision="float32").predict(patches(), SCALE)
    torch.testing.assert_close(probs[:, 1], patches()[:, 0].sigmoid())
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2, 5, 7))


@pytest.mark.parametrize(("order", "index"), [("own-first", 0), ("field-first", 1)])
def test_refiner_input_in_the_order_that_the_bundle_says(tmp_path: Path, order: str, index: int) -> None:
    bundle = bundle_with(tmp_path, refiners=[{"input": order}])
    networks = load_networks(bundle, device="cpu", precision="float32")
    own, field = patches(bands=2).softmax(dim=1), patches(bands=2).neg().softmax(dim=1)
    expected = (4 * (own, field)[index]).softmax(dim=1)
    torch.testing.assert_close(networks.refine(own, field, SCALE), expected)
    assert networks.has_refiner


def test_without_a_refiner(tmp_path: Path) -> None:
    networks = load_networks(bundle_with(tmp_path), device="cpu", precision="float32")
    assert not networks.has_refiner
    with pytest.raises(WeightsError, match="has no refiner"):
        networks.refine(patches(bands=2), patches(bands=2), SCALE)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_are_near(tmp_path: Path, precision: str) -> None:
    bundle = bundle_with(tmp_path)
    probs = load_networks(bundle, device="cpu", precision=precision).predict(patches(), SCALE)
    exact = load_networks(bundle, device="cpu", precision="float32").predict(patches(), SCALE)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, exact, atol=0.02, rtol=0)
    assert not torch.equal(probs, exact)


def test_batch_norms_use_what_they_learnt(tmp_path: Path) -> None:
    options = {"width": 4, "depths": [1, 1, 1, 1], "lateral": 4, "head": 4}
    network = build_backbone("fpn-small", classes=2, bands=3, options=options)
    network(torch.randn(4, 3, 32, 32))
    entry = {"architecture": "fpn-small", "options": options}
    bundle = write_bundle(tmp_path, describe(backbone=entry), {"backbone.safetensors": network}, dtype=torch.float32)
    x = torch.randn(3, 3, 32, 32)
    networks = load_networks(bundle, device="cpu", precision="float32")
    alone = torch.cat([networks.predict(x[i : i + 1], SCALE) for i in range(3)])
    torch.testing.assert_close(networks.predict(x, SCALE), alone, atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(alone, network.eval()(x).softmax(dim=1), atol=1e-5, rtol=1e-4)


def test_weights_are_float16_on_disk_and_float32_in_memory(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path)
    assert load_file(tmp_path / "backbone.safetensors")["conv.weight"].dtype == torch.float16
    networks = load_networks(bundle, device="cpu", precision="float32")
    assert {value.dtype for value in networks.backbone.parameters()} == {torch.float32}
    assert not networks.backbone.training


def test_another_number_of_bands_is_refused(tmp_path: Path) -> None:
    networks = load_networks(bundle_with(tmp_path), device="cpu", precision="float32")
    with pytest.raises(WeightsError, match="takes 3 bands: red, green, blue"):
        networks.predict(patches(bands=4), SCALE)


def test_a_changed_file_is_refused_by_name(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path)
    path = tmp_path / "backbone.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"backbone\.safetensors.*sha256"):
        load_networks(bundle, device="cpu", precision="float32")


def unhashed(folder: Path, state: dict[str, torch.Tensor] | bytes) -> Bundle:
    """Write a user's bundle with these weights and without a hash of them."""
    bundle_with(folder)
    table = json.loads((folder / DESCRIPTION).read_text())
    table["networks"]["backbone"]["sha256"] = None
    (folder / DESCRIPTION).write_text(json.dumps(table))
    path = folder / "backbone.safetensors"
    if isinstance(state, bytes):
        path.write_bytes(state)
    else:
        save_file(state, path)
    return load_bundle(str(folder))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv.weight": torch.zeros(2, 3, 1, 1)}, "1 keys missing, 0 unknown.*conv.bias"),
        ({"conv.weight": torch.zeros(2, 3, 1, 1), "conv.bias": torch.zeros(2), "x": torch.zeros(1)}, "1 unknown.*x"),
        ({"conv.weight": torch.zeros(2, 3, 3, 3), "conv.bias": torch.zeros(2)}, "must have shape"),
        ({"conv.weight": torch.full((2, 3, 1, 1), torch.nan), "conv.bias": torch.zeros(2)}, "not finite"),
        (b"", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (b"\x10\0\0\0\0\0\0\0" + b"{}" * 8, "not a safetensors file"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, state: dict[str, torch.Tensor] | bytes, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_networks(unhashed(tmp_path, state), device="cpu", precision="float32")


def test_a_device_or_precision_that_is_not_there(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path)
    with pytest.raises(DeviceError, match="unknown precision"):
        load_networks(bundle, device="cpu", precision="float8")
    for device in ("cuda:99", "toaster"):
        with pytest.raises(DeviceError, match="cannot be used"):
            load_networks(bundle, device=device, precision="float32")
