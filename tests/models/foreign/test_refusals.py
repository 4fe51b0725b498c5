"""A refused network from another library is refused with its reason, and before any code of it runs."""

from __future__ import annotations

import json
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.engines import graph_engine
from magnet_cli.models.foreign.foreign_bundle import TriedNetwork, tried_network
from magnet_cli.options.foreign_network import NetworkOptions
from magnet_cli.options.option import options_in
from tests.models.foreign.makers import Strided, save_script, save_smp, smp_network

if TYPE_CHECKING:
    from collections.abc import Callable


def tried(path: Path, **more: Any) -> TriedNetwork:
    usual: dict[str, Any] = {"input": 64, "mean": "imagenet", "std": "imagenet"}
    return tried_network(NetworkOptions(network=str(path), **{**usual, **more}))


class Opened:
    """An object that leaves a file behind when it is unpickled."""

    trace = Path("opened")

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.trace,))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_smp(tmp_path_factory.mktemp("smp") / "unet", smp_network())


@pytest.fixture
def folder(unet: Path, tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    for file in unet.iterdir():
        (tmp_path / "unet" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "unet"


def changed(folder: Path, **more: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    return folder


def test_pickled_modules_are_not_opened(here: Path) -> None:
    torch.save(Strided(), here / "module.pt")
    with pytest.raises(WeightsError, match="could run code"):
        tried(here / "module.pt")
    torch.save({"weight": torch.ones(1), "more": Opened()}, here / "state.pth")
    with pytest.raises(WeightsError, match="could run code"):
        tried(here / "state.pth")
    (here / "model.pkl").write_bytes(pickle.dumps(Opened()))
    with pytest.raises(WeightsError, match="pickled file can run code"):
        tried(here / "model.pkl")
    assert not Opened.trace.exists()


def test_programs_of_torch_export_are_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    with pytest.raises(WeightsError, match=r"torch\.export is not opened"):
        tried(tmp_path / "model.pt2")
    (tmp_path / "model.pt2").rename(tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"torch\.export is not opened"):
        tried(tmp_path / "model.pt")


def test_python_sources_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("raise SystemExit")
    with pytest.raises(WeightsError, match="Python sources are not run"):
        tried(tmp_path / "model.py")


def test_auto_map_is_refused_whatever_the_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer", "auto_map": {"A": "code.A"}}))
    with pytest.raises(WeightsError, match=r"auto_map .*code\.A"):
        tried(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"spec_version": "1.0", "architecture": "resnet34", "num_classes": 2, "patch_size_pixels": 350},
        {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
    ],
)
def test_patch_classifiers_are_named(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="one answer for a whole patch"):
        tried(tmp_path)


def test_a_path_of_no_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder or file"):
        tried(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="no kind of network is recognised"):
        tried(tmp_path)


def test_weights_that_are_missing_or_left_over_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    key = next(key for key in state if key.startswith("decoder") and key.endswith("weight"))
    save_file({name: value for name, value in state.items() if name != key}, file)
    with pytest.raises(WeightsError, match=rf"1 are missing, 0 are left over .*{key}"):
        tried(folder)
    save_file({**state, "head.weight": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"0 are missing, 1 are left over .*head\.weight"):
        tried(folder)
    save_file({**state, key: torch.full_like(state[key], torch.nan)}, file)
    with pytest.raises(WeightsError, match="not finite"):
        tried(folder)


def test_files_outside_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WeightsError, match="is missing"):
        tried(folder)
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WeightsError, match="outside of its folder"):
        tried(folder)


def test_a_folder_may_be_named_by_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert tried(tmp_path / "link").spec.channels == 3


def test_classes_that_the_library_does_not_have_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="no class of segmentation-models-pytorch"):
        tried(changed(folder, _model_class="create_model"))
    with pytest.raises(WeightsError, match="does not build Unet with these arguments"):
        tried(changed(folder, _model_class="Unet", decoder_colour="red"))


@pytest.mark.parametrize("name", ["tu-hf-hub:someone/network", "tu-local-dir:/etc", "../resnet", 7])
def test_encoders_that_lead_elsewhere_are_refused(folder: Path, name: object) -> None:
    with pytest.raises(WeightsError, match="encoder_name is the name of an encoder"):
        tried(changed(folder, encoder_name=name))


def test_a_network_that_is_larger_than_its_weights_is_not_built(folder: Path) -> None:
    with pytest.raises(WeightsError, match="larger than its weights"):
        tried(changed(folder, decoder_channels=[200_000] * 5))


def test_weights_of_another_library_are_no_torchvision(tmp_path: Path) -> None:
    torch.save(Strided().state_dict(), tmp_path / "strided.pth")
    with pytest.raises(WeightsError, match="none of torchvision's"):
        tried(tmp_path / "strided.pth")


def test_code_runs_only_with_trust(tmp_path: Path) -> None:
    path = save_script(tmp_path / "a.pt", Strided())
    with pytest.raises(WeightsError, match="add --trust"):
        tried(path)
    assert tried(path, trust=True).spec.trusted


def test_trust_does_not_come_from_the_environment() -> None:
    found = {entry.name: entry.variable for entry in options_in(NetworkOptions)}
    assert found["trust"] == ""
    assert found["network"] == "MAGNET_NETWORK"


def test_a_missing_extra_is_one_line_that_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(graph_engine, "import_module", missing)
    with pytest.raises(WeightsError, match=r"pip install 'magnet-cli\[smp\]'") as error:
        tried(folder)
    assert "\n" not in str(error.value)


class Answering(nn.Module):
    """A network whose result is wrong in the way that a test names."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.tensor([[[[3.0]], [[-3.0]], [[1.0]]]]))

    def forward(self, x: Tensor) -> Tensor:
        scores = x * self.scale
        if self.kind == "labels":
            scores = scores.argmax(dim=1)
        elif self.kind == "vector":
            scores = scores.mean(dim=(2, 3))
        elif self.kind == "point":
            scores = scores.mean(dim=(2, 3), keepdim=True)
        elif self.kind == "nothing":
            scores = scores / 0.0 * 0.0
        elif self.kind == "random":
            scores = scores + torch.randn_like(scores)
        elif self.kind == "exchanged":
            scores = scores.transpose(2, 3)
        elif self.kind == "batch":
            scores = scores + scores.mean(dim=0, keepdim=True)
        elif self.kind == "large":
            scores = torch.cat([scores, scores], dim=3)
        else:
            scores = scores.softmax(dim=1)
        return scores


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("labels", "whole numbers instead of scores"),
        ("vector", "one answer for a whole patch"),
        ("point", "one answer for a whole patch"),
        ("nothing", "not numbers"),
        ("random", "another result for the same patch"),
        ("exchanged", "axes are exchanged"),
        ("batch", "depends on the other patches"),
        ("large", "or fewer down to a 32th"),
    ],
)
def test_what_a_network_does_decides(tmp_path: Path, kind: str, rule: str) -> None:
    path = save_script(tmp_path / "a.pt", Answering(kind))
    with pytest.raises(WeightsError, match=rule):
        tried(path, trust=True)


def test_probabilities_are_not_activated_twice(tmp_path: Path) -> None:
    path = save_script(tmp_path / "a.pt", Answering("probabilities"))
    assert tried(path, trust=True).spec.activation == "none"
    with pytest.raises(WeightsError, match="are probabilities already"):
        tried(path, trust=True, activation="softmax")
    logits = save_script(tmp_path / "b.pt", Strided())
    with pytest.raises(WeightsError, match="with activation none"):
        tried(logits, trust=True, activation="none")


def test_one_probability_is_not_activated_twice(tmp_path: Path) -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (3 * x[:, :1]).sigmoid()

    path = save_script(tmp_path / "one.pt", One())
    # The sigmoid of a probability is above one half, so the whole mask would be of the second class.
    with pytest.raises(WeightsError, match=r"probabilities already.*--activation none"):
        tried(path, trust=True, activation="sigmoid")
    with pytest.raises(WeightsError, match=r"does not tell .*--activation none for probabilities, sigmoid for logits"):
        tried(path, trust=True)
    assert tried(path, trust=True, activation="none").trial.labels.mean() == pytest.approx(0.5, abs=0.2)


class Single(nn.Module):
    """A network whose classes are independent of each other: a pixel may have several, or none."""

    def __init__(self, *, activated: bool) -> None:
        super().__init__()
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        scores = 3 * x[:, :2] - 1
        return scores.sigmoid() if self.activated else scores


@pytest.mark.parametrize("activated", [True, False])
def test_independent_classes_leave_pixels_to_another_class(tmp_path: Path, *, activated: bool) -> None:
    path = save_script(tmp_path / "a.pt", Single(activated=activated))
    classes = "roof=0,road=1,ground=none"
    found = tried(path, trust=True, classes=classes)
    assert found.spec.activation == ("none" if activated else "sigmoid")
    assert found.spec.classes == ((0,), (1,), ())
    picture = (torch.from_numpy(found.trial.picture) / 255 - 0.485) / 0.229
    claimed = (3 * picture[0] - 1 > 0) | (3 * (picture[1] * 0.229 + 0.485 - 0.456) / 0.224 - 1 > 0)
    assert float(((torch.from_numpy(found.trial.labels) != 2) == claimed).double().mean()) > 0.999
    if not activated:
        likeliest = tried(path, trust=True, activation="sigmoid").description.values["activation"].origin
        assert "also where none is likely" in likeliest
        with pytest.raises(UsageError, match=r"no pixel is left for ground=none .*Give --activation sigmoid"):
            tried(path, trust=True, classes=classes, activation="softmax")
        return
    for activation in ("sigmoid", "none"):
        with pytest.raises(WeightsError, match=r"--activation share.*=none"):
            tried(path, trust=True, activation=activation)


def test_a_network_of_smp_for_several_classes_of_a_pixel_says_how_to_take_it(tmp_path: Path) -> None:
    path = save_smp(tmp_path / "unet", smp_network(activation="sigmoid"))
    with pytest.raises(WeightsError, match=r"the network ends with sigmoid.*NAME=none"):
        tried(path)
    assert tried(path, activation="share").spec.activation == "share"
    assert len(tried(path, classes="a=0,b=1,c=2,ground=none").classes) == 4


def test_another_number_of_classes_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="gives 3 channels"):
        tried(folder, classes="a,b")
    with pytest.raises(UsageError, match="left over"):
        tried(folder, classes="a=0,b=1")
    with pytest.raises(UsageError, match="at most once"):
        tried(folder, classes="a=0+1,b=1+2")


def test_one_name_is_that_of_the_only_score(tmp_path: Path) -> None:
    path = save_smp(tmp_path / "unet", smp_network(classes=1))
    assert [each.name for each in tried(path, classes="road").classes] == ["background", "road"]
    with pytest.raises(UsageError, match="one score for each pixel, which counts as two classes"):
        tried(path, classes="a,b,c")


def test_more_classes_than_a_mask_has_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = save_script(tmp_path / "many.pt", nn.Conv2d(3, 256, 1))
    with pytest.raises(UsageError, match=r"at most 255 classes \(got 256\).* --classes"):
        tried(path, trust=True)
    assert len(tried(path, trust=True, classes="first=0,other=rest").classes) == 2


@pytest.mark.parametrize(("name", "given", "right"), [
    ("mean", (123.675, 116.28, 103.53), "--mean 0.485,0.456,0.406"),
    ("std", (58.395, 57.12, 57.375), "--std 0.229,0.224,0.225"),
])  # fmt: skip
def test_means_of_stored_values_are_refused(folder: Path, name: str, given: tuple[float, ...], right: str) -> None:
    # A network that gets (value / 255 - 123.675) / 58.395 sees the same dark image everywhere.
    with pytest.raises(UsageError, match=rf"--{name} is of values from 0 to 1.* Give {right}"):
        tried(folder, **{name: given})
    with pytest.raises(UsageError, match="Give the ends of the stored values by --range, and mean and std"):
        tried(folder, range=(0, 1), **{name: given})
    assert tried(folder, mean=(-1.0,), std=(2.0,)).spec.channels == 3


def test_a_file_of_a_folder_leads_to_the_folder(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(WeightsError, match=f"Give --network {folder}$"):
            tried(folder / name)


def test_a_checkpoint_of_a_training_names_what_is_no_tensor(tmp_path: Path) -> None:
    torch.save({"model": Strided().state_dict(), "args": Namespace(lr=1)}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match=r"could run code \(got argparse\.Namespace\)\. Save the network's"):
        tried(tmp_path / "checkpoint.pth")


def test_scores_without_an_axis_of_channels_are_refused(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0]

    with pytest.raises(WeightsError, match=r"\(got \(1, 64, 64\)\).*also that of a single channel"):
        tried(save_script(tmp_path / "flat.pt", Flat()), trust=True)


def test_missing_values_are_named_with_their_options(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="do not state input, mean, std") as error:
        tried_network(NetworkOptions(network=str(folder)))
    assert "--input 512 --mean imagenet --std imagenet" in str(error.value)
    path = save_script(tmp_path / "a.pt", Strided())
    with pytest.raises(WeightsError, match="--network-bands"):
        tried(path, mean=(0.5,), std=(0.5,))
