"""Small networks of each kind, saved by the function that their own library has for that."""

from __future__ import annotations

import json
import warnings
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from magnet_cli.models.registry import build_backbone
from magnet_cli.options.foreign_network import NetworkOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

BANDS = 3
SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A network that its library has saved."""

    path: Path
    eager: Callable[[Tensor], Tensor]
    """A function from patches to the library's own result: probabilities `(n, classes, h, w)`."""
    classes: int
    more: dict[str, Any] = field(default_factory=dict)
    """Options for what the files do not state."""

    def options(self, **other: Any) -> NetworkOptions:
        usual: dict[str, Any] = {"input": SIDE, "mean": "imagenet", "std": "imagenet"}
        return NetworkOptions(network=str(self.path), **{**usual, **self.more, **other})


def enlarged(logits: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(logits, size=like.shape[2:], mode="bilinear", align_corners=False)


def lively(network: nn.Module, seed: int = 7) -> nn.Module:
    """Return the network with changed statistics and biases, so that a tensor that is lost shows in the result."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=random) - 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return network.eval()


def smp_network(architecture: str = "Unet", **arguments: Any) -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
    torch.manual_seed(3)
    usual: dict[str, Any] = {"encoder_weights": None, "classes": 3, "in_channels": BANDS}
    encoder = "tu-test_vit" if architecture == "DPT" else "tu-test_resnet"
    found: nn.Module = getattr(smp, architecture)(encoder, **{**usual, **arguments})
    return lively(found)


def save_smp(folder: Path, network: Any) -> Path:
    with warnings.catch_warnings():
        # The library leaves a file open that it reads while it writes.
        warnings.simplefilter("ignore", ResourceWarning)
        network.save_pretrained(folder)
    return folder


def smp_saved(folder: Path) -> Saved:
    network = smp_network()
    return Saved(path=save_smp(folder / "unet", network), eager=lambda x: network(x).softmax(dim=1), classes=3)


def torchvision_saved(folder: Path) -> Saved:
    segmentation = pytest.importorskip("torchvision.models.segmentation", reason="torchvision is not installed")
    torch.manual_seed(3)
    network = lively(segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4))
    torch.save(network.state_dict(), folder / "lraspp.pth")
    return Saved(path=folder / "lraspp.pth", eager=lambda x: network(x)["out"].softmax(dim=1), classes=4)


def made_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that follow from the names and shapes of tensors alone, and keep values in bounds."""
    found = {}
    for name, tensor in state.items():
        random, part = np.random.RandomState(zlib.crc32(name.encode())), name.rpartition(".")[2]
        shape = tuple(tensor.shape)
        if part in ("num_batches_tracked", "unpool_mat"):
            found[name] = tensor
        elif len(shape) == 4:
            # Small weights of the last layer keep scores away from 0 and 1.
            gain = 0.2 if name == "clf.weight" else 1.0
            values = gain * random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
            found[name] = torch.from_numpy(values.astype(np.float32))
        elif part in ("running_var", "weight"):
            # Residual blocks would add up to large values otherwise.
            gain = 0.1 if name.endswith("bn3.weight") else 1.0
            found[name] = torch.from_numpy((gain * random.uniform(0.5, 1.5, shape)).astype(np.float32))
        else:
            found[name] = torch.from_numpy(random.uniform(-0.2, 0.2, shape).astype(np.float32))
    return found


class PlainUNet(nn.Module):
    """A U-Net whose tensors have the names that TIAToolbox gives to a U-Net with the encoder `unet`."""

    def __init__(self, *, channels: int = 3, levels: tuple[int, ...] = (4, 6, 8)) -> None:
        super().__init__()
        blocks = []
        for inputs, outputs in zip((BANDS, *levels), levels, strict=False):
            first, second = nn.Conv2d(inputs, outputs, 3, bias=False), nn.Conv2d(outputs, outputs, 3, bias=False)
            norms = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            blocks.append(nn.ModuleList([nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])]))
        self.backbone = nn.Module()
        self.backbone.blocks = nn.ModuleList(blocks)
        self.conv1x1 = nn.Conv2d(levels[-1], levels[-2], 1, bias=False)
        self.uplist = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, wanted, 3, bias=False), nn.BatchNorm2d(wanted))
            for width, wanted in zip(levels[-2::-1], (*levels[-3::-1], levels[0]), strict=True)
        )
        self.clf = nn.Conv2d(levels[0], channels, 1)
        self.upsample2x = nn.Module()
        self.upsample2x.register_buffer("unpool_mat", torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        state, maps = self.state_dict(), []
        for level in range(len(self.uplist) + 1):
            for layer in (0, 3):
                name = f"backbone.blocks.{level}.0"
                x = self._step(x, state, f"{name}.{layer}", f"{name}.{layer + 1}")
            maps.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        x = nn.functional.conv2d(maps.pop(), state["conv1x1.weight"])
        for step in range(len(self.uplist)):
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) + maps.pop()
            x = self._step(x, state, f"uplist.{step}.0", f"uplist.{step}.1")
        return nn.functional.conv2d(x, state["clf.weight"], state["clf.bias"])

    @staticmethod
    def _step(x: Tensor, state: Mapping[str, Tensor], conv: str, norm: str) -> Tensor:
        x = nn.functional.conv2d(x, state[f"{conv}.weight"], padding=1)
        mean, var, weight, bias = (
            state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.relu(nn.functional.batch_norm(x, mean, var, weight, bias))


def plain_unet(channels: int = 3) -> PlainUNet:
    network = PlainUNet(channels=channels).eval()
    network.load_state_dict(made_weights(network.state_dict()))
    return network


def tiatoolbox_saved(folder: Path) -> Saved:
    network = plain_unet()
    torch.save(network.state_dict(), folder / "tissue.pth")
    (folder / "tissue.yaml").write_text(
        "architecture: {class: unet.UNetModel}\n"
        "ioconfig: {kwargs: {patch_input_shape: [64, 64], input_resolutions: [{units: baseline, resolution: 1.0}]}}\n"
    )
    return Saved(
        path=folder / "tissue.pth",
        eager=lambda x: network(x).softmax(dim=1),
        classes=3,
        more={"input": None, "mean": None, "std": None},
    )


class Strided(nn.Module):
    """A network whose logits have a quarter of the patch's sides."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(BANDS, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, classes, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = 4 * self.second(torch.relu(self.first(x)))
        return found


def save_script(path: Path, network: nn.Module, *, example: Tensor | None = None, freeze: bool = False) -> Path:
    with warnings.catch_warnings():
        # PyTorch calls TorchScript deprecated.
        warnings.simplefilter("ignore")
        jit: Any = torch.jit
        found = jit.script(network.eval()) if example is None else jit.trace(network.eval(), example)
        jit.save(jit.freeze(found) if freeze else found, path)
    return path


def torchscript_saved(folder: Path) -> Saved:
    network = Strided().eval()
    return Saved(
        path=save_script(folder / "strided.pt", network),
        eager=lambda x: enlarged(network(x), x).softmax(dim=1),
        classes=3,
        more={"trust": True},
    )


def transformers_network(kind: str, **more: Any) -> nn.Module:
    """Return a small network of a type of transformers, with random weights."""
    library: Any = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    torch.manual_seed(3)
    labels: dict[str, Any] = {"num_labels": 3, **more}
    vit: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": SIDE, "patch_size": 16,
    }  # fmt: skip
    hidden: dict[str, Any] = {
        "segformer": {"hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4},
        "upernet": {"hidden_size": 16, "use_auxiliary_head": False},
        "dpt": {**vit, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8},
        "beit": {**vit, "out_indices": [0, 1, 2, 3], "use_relative_position_bias": True},
        "data2vec-vision": {**vit, "out_indices": [0, 1, 2, 3]},
        "mobilevit": {"image_size": SIDE, "hidden_sizes": [16] * 3, "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 16]},
        "mobilenet_v2": {"image_size": SIDE, "depth_multiplier": 0.25},
        "eomt": {**vit, "num_blocks": 1, "num_queries": 8, "mlp_ratio": 2},
        "mask2former": {
            "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16,
            "dim_feedforward": 16, "decoder_layers": 2, "encoder_layers": 1, "num_attention_heads": 2, "num_queries": 8,
        },
        "oneformer": {
            "is_training": False, "num_queries": 8, "conv_dim": 32, "mask_dim": 32, "hidden_dim": 32,
            "encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2,
            "num_attention_heads": 2, "query_dec_layers": 1, "use_task_norm": True,
        },
    }  # fmt: skip
    if kind == "upernet":
        labels["backbone_config"] = library.ConvNextConfig(
            depths=[1] * 4, hidden_sizes=[8, 8, 8, 8], out_features=["stage1", "stage2", "stage3", "stage4"]
        )
    if kind in ("mask2former", "oneformer"):
        labels["backbone_config"] = library.SwinConfig(
            image_size=SIDE, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
    config = library.AutoConfig.for_model(kind, **{**hidden[kind], **labels})
    universal = kind in ("eomt", "mask2former", "oneformer")
    head = library.AutoModelForUniversalSegmentation if universal else library.AutoModelForSemanticSegmentation
    return lively(head.from_config(config))


def save_vocabulary(folder: Path) -> None:
    """Write a vocabulary in CLIP's form whose one sentence has the word numbers 3 to 6 between the marks 1 and 2."""
    words = ("the", "task", "is", "semantic")
    parts = ["<pad>", "<|startoftext|>", "<|endoftext|>", *(f"{word}</w>" for word in words)]
    merges: list[str] = []
    for word in words:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        done = letters[0]
        for letter in letters[1:]:
            merges.append(f"{done} {letter}")
            done += letter
        parts += [each for end in range(2, len(word)) if (each := word[:end]) not in parts]
    parts += sorted({each for word in words for each in (*word, f"{word[-1]}</w>")} - set(parts))
    (folder / "vocab.json").write_text(json.dumps({part: number for number, part in enumerate(parts)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


TASK_LENGTH = 77
PROCESSOR: dict[str, Any] = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3], "rescale_factor": 0.00392156862745098, "size": {"height": SIDE, "width": SIDE},
}  # fmt: skip


def transformers_saved(folder: Path, kind: str = "segformer", **processor: Any) -> Saved:
    network: Any = transformers_network(kind)
    if kind == "segformer":
        # Features of random weights vary little, and every pixel would have one class.
        head = network.decode_head.classifier
        with torch.no_grad():
            head.weight.mul_(100)
            head.bias.sub_(network(pixel_values=torch.randn(1, BANDS, SIDE, SIDE)).logits.mean(dim=(0, 2, 3)))
    network.save_pretrained(folder / kind)
    (folder / kind / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **processor}))

    more = {}
    if kind == "oneformer":
        save_vocabulary(folder / kind)
        numbers = [1, 3, 4, 5, 6, 2]
        more["task_inputs"] = torch.tensor([numbers + [0] * (TASK_LENGTH - len(numbers))])

    def eager(x: Tensor) -> Tensor:
        found = network(pixel_values=x, **{key: value.expand(len(x), -1) for key, value in more.items()})
        if kind not in ("eomt", "mask2former", "oneformer"):
            return enlarged(found.logits, x).softmax(dim=1)
        masks = enlarged(found.masks_queries_logits, x).sigmoid()
        scores = torch.einsum("bqc,bqhw->bchw", found.class_queries_logits.softmax(dim=-1)[..., :-1], masks)
        return scores / scores.sum(dim=1, keepdim=True)

    return Saved(path=folder / kind, eager=eager, classes=3, more={"input": None, "mean": None, "std": None})


def onnx_graph(network: Strided | None = None, *, side: int | str = "side", **metadata: Any) -> Any:
    """Return an ONNX graph with the layers and weights of a small network.

    Args:
        network: The network. None makes one.
        side: Rows and columns of the input. A name leaves them free.
        metadata: Metadata of the graph. Each value is written as JSON.
    """
    onnx: Any = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    given, helper = network or Strided(), onnx.helper
    weights = {
        f"{layer}_{name}": getattr(getattr(given, layer), name).detach().numpy()
        for layer in ("first", "second")
        for name in ("weight", "bias")
    }
    same: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "first_weight", "first_bias"], ["a"], **same),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second_weight", "second_bias"], ["c"], **same),
        helper.make_node("Mul", ["c", "four"], ["scores"]),
    ]
    free = [None if isinstance(side, str) else side // 4] * 2
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "strided",
        [tensor("image", 1, ["n", BANDS, side, side])],
        [tensor("scores", 1, ["n", given.second.out_channels, *free])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
        + [helper.make_tensor("four", 1, [], [4.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    return model


def onnx_saved(folder: Path) -> Saved:
    onnx: Any = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    network = Strided().eval()
    onnx.save(onnx_graph(network), folder / "strided.onnx")
    return Saved(path=folder / "strided.onnx", eager=lambda x: enlarged(network(x), x).softmax(dim=1), classes=3)


def openvino_saved(folder: Path) -> Saved:
    openvino: Any = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    given = onnx_saved(folder)
    # Its own default halves the precision of the weights.
    openvino.save_model(openvino.Core().read_model(given.path), folder / "strided.xml", compress_to_fp16=False)
    return replace(given, path=folder / "strided.xml")


MAKERS: dict[str, Callable[[Path], Saved]] = {
    "onnx": onnx_saved,
    "openvino": openvino_saved,
    "smp": smp_saved,
    "tiatoolbox": tiatoolbox_saved,
    "torchvision": torchvision_saved,
    "torchscript": torchscript_saved,
    "transformers": transformers_saved,
}
"""A function for each kind that makes and saves a network. The contract suite runs for all of them."""


def decided_pyramid(side: int) -> torch.nn.Module:
    """Return a pyramid of three classes, with seeded weights, whose pixels differ in class.

    Features of random weights vary little, so that all pixels would have one class. The weights of the last layer are
    enlarged to prevent that.
    """
    torch.manual_seed(2)
    backbone = lively(build_backbone("fpn-small", classes=3, bands=3, options={}))
    head = [layer for layer in backbone.modules() if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == 3][-1]
    assert head.bias is not None
    with torch.no_grad():
        head.weight.mul_(50)
        head.bias.sub_(backbone(torch.randn(4, 3, side, side)).mean(dim=(0, 2, 3)))
    return backbone
