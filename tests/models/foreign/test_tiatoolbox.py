"""TIAToolbox's U-Nets give the scores of its own code, take values from its YAML, and its other networks are refused.

TIAToolbox 2.1.3 computed the numbers named `GOLDEN`, with weights that follow from the names of its tensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.completion import described
from magnet_cli.models.foreign.kinds import kind_of, read_network
from magnet_cli.models.foreign.tiatoolbox_unet import WITHOUT_USE, ToolboxUNet, UNetVariant, unet_variant
from magnet_cli.options.foreign_network import NetworkOptions
from tests.models.foreign.makers import SIDE, made_weights, plain_unet, tiatoolbox_saved

if TYPE_CHECKING:
    from magnet_cli.models.foreign.completion import ForeignDescription

VARIANTS: dict[str, tuple[dict[str, Any], UNetVariant]] = {
    "fcn_resnet50_unet-bcss": (
        {"num_input_channels": 3, "num_output_channels": 5, "encoder": "resnet50", "decoder_block": [3, 3]},
        UNetVariant(encoder="resnet50", levels=(64, 256, 512, 1024, 2048), kernels=(3, 3), joined="add", bands=3,
            channels=5, biased=False),
    ),
    "four bands, side by side": (
        {"num_input_channels": 4, "num_output_channels": 2, "encoder": "resnet50", "decoder_block": [3],
         "skip_type": "concat"},
        UNetVariant(encoder="resnet50", levels=(64, 256, 512, 1024, 2048), kernels=(3,), joined="concat", bands=4,
            channels=2, biased=True),
    ),
    "plain": (
        {"num_input_channels": 3, "num_output_channels": 3, "encoder": "unet", "encoder_levels": [8, 12, 20],
         "decoder_block": [3, 1]},
        UNetVariant(encoder="unet", levels=(8, 12, 20), kernels=(3, 1), joined="add", bands=3, channels=3,
            biased=False),
    ),
}  # fmt: skip
"""Arguments of TIAToolbox's class, and the variant that has to be recognised by its state dict."""
GOLDEN_NAMES = {
    "fcn_resnet50_unet-bcss": "91fa44f8bb4a361be84148b8f4cb174e92acebb5919ecffc2d76df559088644a",
    "four bands, side by side": "70be0a61689a14973d63467da84b46456a4eaf166f3a7fe2751a6458d4445aa2",
    "plain": "7321bbf0e14e70f93187715dee7b9034f114203dfdae93378309ccacba449d6c",
}
"""SHA-256 of the names and shapes of the tensors in TIAToolbox's state dicts."""
GOLDEN_SCORES = {
    "fcn_resnet50_unet-bcss": [0.692779, 0.027291, 0.716572, 0.004239, 0.675585, 0.012502, 0.510845, 0.045985],
    "four bands, side by side": [0.526257, 0.473743, 0.561252, 0.438748, 0.608236, 0.391764, 0.497764, 0.502236],
    "plain": [0.473102, 0.397931, 0.41645, 0.459535, 0.401873, 0.450236, 0.375487, 0.530666],
}
"""Probabilities of the first two classes at four pixels."""
PLACES = ((3, 5), (20, 41), (33, 32), (60, 1))
PARAMS = ["plain", "fcn_resnet50_unet-bcss", pytest.param("four bands, side by side", marks=pytest.mark.full)]


def patches(bands: int) -> Tensor:
    """Return a patch of stored values from 0 to 255, `(1, bands, 64, 64)`."""
    return torch.from_numpy(np.random.RandomState(4).randint(0, 256, (1, bands, SIDE, SIDE)).astype(np.float32))


def ours(variant: UNetVariant) -> ToolboxUNet:
    network = ToolboxUNet(variant).eval()
    network.load_state_dict(made_weights(network.state_dict()))
    return network


def named(state: dict[str, Tensor]) -> str:
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def at_places(probs: Tensor) -> list[float]:
    return [round(float(probs[0, channel, row, column]), 6) for row, column in PLACES for channel in (0, 1)]


@pytest.mark.parametrize("name", PARAMS)
def test_scores_are_those_that_tiatoolbox_gave(name: str) -> None:
    variant = VARIANTS[name][1]
    network = ours(variant)
    with torch.inference_mode():
        found = network(patches(variant.bands) / 255)
    assert found.shape == (1, variant.channels, SIDE, SIDE)
    assert at_places(found) == pytest.approx(GOLDEN_SCORES[name], abs=1e-5)
    without_use = {"upsample2x.unpool_mat": torch.ones(2, 2)}
    if variant.encoder == "resnet50":
        without_use |= {"backbone.fc.weight": torch.empty(1000, 2048), "backbone.fc.bias": torch.empty(1000)}
    assert set(without_use) <= set(WITHOUT_USE)
    assert named({**network.state_dict(), **without_use}) == GOLDEN_NAMES[name]
    assert unet_variant(network.state_dict(), file=Path("any")) == variant


@pytest.mark.parametrize("name", PARAMS)
def test_scores_are_those_of_an_installed_tiatoolbox(name: str) -> None:
    unet: Any = pytest.importorskip("tiatoolbox.models.architecture.unet", reason="TIAToolbox is not installed")
    arguments, variant = VARIANTS[name]
    theirs = unet.UNetModel(**arguments).eval()
    theirs.load_state_dict(made_weights(theirs.state_dict()))
    given = patches(variant.bands)
    with torch.inference_mode():
        found = ours(variant)(given / 255)
        if variant.encoder == "resnet50":
            # Its own call gives the inner half of each side.
            wanted = torch.from_numpy(unet.UNetModel.infer_batch(theirs, given.permute(0, 2, 3, 1), device="cpu"))
            wanted, inner = wanted.permute(0, 3, 1, 2), slice(SIDE // 4, 3 * SIDE // 4)
            found = found[:, :, inner, inner]
        else:
            wanted = theirs(given).softmax(dim=1)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5


ENTRY: dict[str, Any] = {
    "architecture": {
        "class": "unet.UNetModel",
        "kwargs": {"num_output_channels": 3, "class_dict": {1: "tumour", 2: "stroma"}},
    },
    "ioconfig": {
        "class": "io_config.IOSegmentorConfig",
        "kwargs": {
            "ignore_index": 0,
            "input_resolutions": [{"units": "mpp", "resolution": 2.0}],
            "patch_input_shape": [64, 96],
            "patch_output_shape": [32, 48],
        },
    },
}


def changed(**more: Any) -> dict[str, Any]:
    return {**ENTRY, "ioconfig": {"kwargs": {**ENTRY["ioconfig"]["kwargs"], **more}}}


def write(folder: Path, table: object, name: str = "tissue.yaml") -> Path:
    torch.save(plain_unet().state_dict(), folder / "tissue.pth")
    (folder / name).write_text(yaml.safe_dump(table))
    return folder / "tissue.pth"


def read(path: Path, **options: Any) -> ForeignDescription:
    given = NetworkOptions(network=str(path), **options)
    return described(read_network(path, given), given)


@pytest.mark.parametrize(
    ("table", "name"), [(ENTRY, "tissue.yaml"), ({"other": {}, "tissue": ENTRY}, "pretrained_model.yaml")]
)
def test_values_come_from_an_entry_of_the_list(tmp_path: Path, table: dict[str, Any], name: str) -> None:
    path = write(tmp_path, table, name)
    for given in (path, tmp_path, *([tmp_path / name] if name == "tissue.yaml" else [])):
        found = read(given)
        assert found["input"] == Size(width=96, height=64)
        assert found["pixel"] == "2um"
        assert [each.name for each in found["classes"]] == ["background", "tumour", "stroma"]
        assert (found["range"], found["mean"], found["std"]) == ((0.0, 255.0), (0.0,) * 3, (1.0,) * 3)
        assert (found["bands"], found["multiple"], found["channels"]) == (("red", "green", "blue"), 4, 3)
        assert found.values["input"].origin == f"{name}: patch_input_shape"
    assert read(path, pixel="1um", classes=None, input=128)["pixel"] == "1um"


def test_values_come_from_what_its_option_takes(tmp_path: Path) -> None:
    found = read(write(tmp_path, ENTRY["ioconfig"]["kwargs"]))
    assert (found["input"], found["pixel"], found.get("classes")) == (Size(width=96, height=64), "2um", None)


def test_weights_alone_need_a_size(tmp_path: Path) -> None:
    path = tiatoolbox_saved(tmp_path).path
    path.with_suffix(".yaml").unlink()
    assert kind_of(path).name == "tiatoolbox"
    with pytest.raises(WeightsError, match="do not state input"):
        read(path)
    assert read(path, input=64).get("pixel") is None


def test_the_size_of_a_pixel_is_never_guessed(tmp_path: Path) -> None:
    path = write(tmp_path, changed(input_resolutions=[{"units": "baseline", "resolution": 1.0}]))
    assert read(path)["pixel"] is None
    for wrong in (
        [{"units": "power", "resolution": 20}],
        [{"units": "baseline", "resolution": 0.25}],
        [{"units": "mpp", "resolution": [0.5, 0.25]}],
        [{"units": "mpp", "resolution": 0.5}, {"units": "mpp", "resolution": 1.0}],
    ):
        write(tmp_path, changed(input_resolutions=wrong))
        with pytest.raises(WeightsError, match="--pixel"):
            read(path)
        assert read(path, pixel="0.5um")["pixel"] == "0.5um"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vanilla.CNNModel", "one answer for a whole patch"),
        ("hovernet.HoVerNet", "single nuclei"),
        ("kongnet.KongNet", "centres of nuclei"),
        ("nuclick.NuClick", "clicks"),
        ("grandqc.GrandQCModel", "JPEG"),
        ("efficientunet_tissue_mask_model.EfficientUNetTissueMaskModel", "threshold of 0.95"),
        ("new.Network", "does not know its layers"),
    ],
)
def test_other_classes_are_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    path = write(tmp_path, {**ENTRY, "architecture": {"class": name, "kwargs": {}}})
    torch.save({"decoder.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=reason) as found:
        read(path)
    assert "UNetModel" in str(found.value)


def test_other_weights_and_wrong_classes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {**ENTRY, "architecture": {"class": "unet.UNetModel", "kwargs": {"class_dict": {7: "a"}}}})
    with pytest.raises(WeightsError, match="class_dict"):
        read(path)
    torch.save({"decoder.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"none of TIAToolbox's U-Nets.* Choose a state dict"):
        read(path)
    torch.save(plain_unet(channels=1).state_dict(), path)
    with pytest.raises(WeightsError, match="softmax of all channels"):
        read(path)


def test_weights_that_are_left_over_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ENTRY)
    state = plain_unet().state_dict()
    torch.save({**state, "uplist.9.0.weight": torch.zeros(1, 1, 3, 3)}, path)
    kind = kind_of(path)
    reading = kind.read(path, NetworkOptions(network=str(path)))
    spec: Any = type("Spec", (), {"files": dict.fromkeys(reading.files, "")})
    with pytest.raises(WeightsError, match="left over"):
        kind.load(tmp_path, spec, "torch")


def test_the_yaml_is_data(tmp_path: Path) -> None:
    path = write(tmp_path, ENTRY)
    (tmp_path / "tissue.yaml").write_text("patch_input_shape: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(WeightsError, match="cannot be read as YAML"):
        read(path)
