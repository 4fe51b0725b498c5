"""`magnet weights` lists what is shipped, finds what is damaged, and imports what others trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from torch import nn

from magnet_cli.geometry import Size
from magnet_cli.importing.presets import PRESETS, Preset
from magnet_cli.models import bundle as bundle_module
from magnet_cli.models.architectures.cascadepsp import cascadepsp_light
from magnet_cli.models.architectures.refiner import RefinementMagNet
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.registry import CASCADES, build_backbone, build_cascade
from tests.cli.support import invoke, invoke_json, one_failure, write_colours_bundle, write_image
from tests.images.server import serving


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a bundle and let it be the only shipped one."""
    folder = write_colours_bundle(tmp_path / "weights" / "colours")
    monkeypatch.setattr(bundle_module, "roots", lambda: [tmp_path / "weights"])
    return folder


def test_list(shipped: Path) -> None:
    text = invoke("weights", "list").stdout
    assert "colours: r, g, b" in text
    assert "32x32,64x64,128x128" in text
    (row,) = invoke_json("weights", "list")["bundles"]
    assert (row["name"], row["folder"], row["card"]) == ("colours", str(shipped), None)
    assert row["bytes"] == (shipped / "backbone.safetensors").stat().st_size


def test_a_broken_bundle_does_not_hide_the_others(shipped: Path) -> None:
    (shipped.parent / "broken").mkdir()
    (shipped.parent / "broken/bundle.json").write_text("{")
    result = invoke("weights", "list")
    assert result.exit_code == 4
    assert "colours: r, g, b" in result.stdout
    assert result.stderr.count("not a JSON description") == 1
    broken, whole = invoke_json("weights", "list", code=4)["bundles"]
    assert (broken["name"], broken["folder"]) == ("broken", str(shipped.parent / "broken"))
    assert "not a JSON description" in broken["error"]
    assert whole["name"] == "colours"


def test_quantise_names_an_image_that_is_missing(shipped: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in shipped.iterdir())
    found = invoke_json("weights", "quantise", "colours", str(tmp_path / "missing.tif"), code=3)
    assert "missing.tif" in found["error"]
    assert sorted(path.name for path in shipped.iterdir()) == before
    assert "IMAGE" in invoke("weights", "quantise", "colours").stderr


def test_show_tells_which_files_are_missing(shipped: Path) -> None:
    size = (shipped / "backbone.safetensors").stat().st_size
    assert f"backbone: conv, backbone.safetensors, {size} B" in invoke("weights", "show", "colours").stdout
    (shipped / "backbone.safetensors").unlink()
    assert "backbone: conv, backbone.safetensors, MISSING" in invoke("weights", "show", "colours").stdout


def test_show(shipped: Path) -> None:
    (shipped / "README.md").write_text("card")
    text = invoke("weights", "show", "colours").stdout
    assert f"model card: {shipped / 'README.md'}" in text
    assert "class 0: r #FF0000" in text
    (row,) = invoke_json("weights", "show", str(shipped))["bundles"]
    assert row["description"]["networks"]["backbone"]["architecture"] == "conv"
    assert row["card"] == str(shipped / "README.md")


def test_verify(shipped: Path) -> None:
    assert "as hashed, fits" in invoke("weights", "verify", "colours").stdout
    (row,) = invoke_json("weights", "verify", "colours")["files"]
    assert (row["ok"], row["hashed"], row["role"]) == (True, True, "backbone")
    path = shipped / "backbone.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = invoke("weights", "verify", "colours")
    assert result.exit_code == 4
    assert str(path) in one_failure(result)
    (row,) = invoke_json("weights", "verify", "colours", code=4)["files"]
    assert row["ok"] is False
    path.unlink()
    (row,) = invoke_json("weights", "verify", "colours", code=4)["files"]
    assert "cannot be read" in row["error"]


def test_verify_checks_keys_where_there_is_no_hash(shipped: Path, here: Path) -> None:
    mine = here / "mine"
    shutil.copytree(shipped, mine)
    text = (mine / "bundle.json").read_text().replace('"architecture": "conv"', '"architecture": "fpn-small"')
    (mine / "bundle.json").write_text(text)
    result = invoke("weights", "verify", mine)
    assert result.exit_code == 4
    assert "do not fit fpn-small" in one_failure(result)
    found = invoke_json("weights", "verify", "nowhere", code=4)
    assert "nowhere" in found["error"]


def test_import(here: Path) -> None:
    torch.save(build_backbone("conv", classes=7, bands=3, options={}).state_dict(), here / "b.pth")
    torch.save(RefinementMagNet(classes=7).state_dict(), here / "r.pth")
    words = ["--preset", "deepglobe", "--architecture", "conv", "--backbone", "b.pth", "--refiner", "r.pth"]
    result = invoke("weights", "import", *words, "--refiner-scale", "1224", "--licence", "MIT", "-o", "globe")
    assert result.exit_code == 0, result.stderr
    assert "not tried, because no sample was given" in result.stderr
    (row,) = invoke_json("weights", "show", "globe")["bundles"]
    (refiner,) = row["description"]["networks"]["refiners"]
    assert (refiner["scale"], refiner["input"]) == ({"width": 1224, "height": 1224}, "own-first")
    assert (row["description"]["licence"], row["card"]) == ("MIT", str(Path("globe/README.md")))
    assert invoke("weights", "verify", "globe").exit_code == 0
    assert invoke("weights", "import", *words, "-o", "globe").exit_code == 5
    (row,) = invoke_json("weights", "import", *words, "-o", "globe", "--overwrite")["bundles"]
    assert (row["refiner_input"], row["scores"]) == ("own-first", {})


def test_import_tells_what_it_left_out_and_show_where_values_are_from(here: Path) -> None:
    network = build_backbone("conv", classes=7, bands=3, options={})
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({**state, "loss.criterion.weight": torch.ones(7)}, here / "b.pth")
    words = ["--preset", "deepglobe", "--architecture", "conv", "--backbone", "b.pth", "-o", "globe"]
    result = invoke("weights", "import", *words)
    assert result.exit_code == 0, result.stderr
    assert "b.pth: left out loss.criterion.weight" in result.stderr
    (row,) = invoke_json("weights", "import", *words, "--overwrite")["bundles"]
    assert row["left_out"] == [{"file": "b.pth", "keys": ["loss.criterion.weight"]}]
    text = invoke("weights", "show", "globe").stdout
    assert "origin: median: the published script; the paper gives none" in text
    assert "origin: MagNet-Fast, the paper: --method magnet-fast" in text
    (row,) = invoke_json("weights", "show", "globe")["bundles"]
    assert any("chosen at the import" in origin for origin in row["description"]["origins"])


@pytest.mark.parametrize(
    ("preset", "part", "compat"),
    [
        (PRESETS["cityscapes"], 16, "published"),
        (PRESETS["deepglobe"], 12, "published-unshifted"),
        (PRESETS["gleason"], 16, "published-unshifted"),
        (PRESETS["inria"], 16, "published"),
    ],
    ids=PRESETS,
)
def test_an_imported_experiment_runs_by_what_its_card_says(here: Path, preset: Preset, part: int, compat: str) -> None:
    """The sides and counts of the preset are divided, because the real ones take minutes."""
    classes = len(preset.classes)
    torch.save(build_backbone("conv", classes=classes, bands=3, options={}).state_dict(), here / "b.pth")
    torch.save(RefinementMagNet(classes=classes).state_dict(), here / "r.pth")
    refiners = ["--refiner", "r.pth"] * (len(preset.scales) - 1 if preset.name == "cityscapes" else 1)
    words = ["--preset", preset.name, "--architecture", "conv", "--backbone", "b.pth", *refiners]
    assert invoke("weights", "import", *words, "-o", "bundle").exit_code == 0
    edited = json.loads((here / "bundle/bundle.json").read_text())
    for size in (edited["input"]["size"], *edited["scales"]):
        size["width"], size["height"] = (side // part for side in (size["width"], size["height"]))
    for entry in edited["networks"]["refiners"]:
        if entry["scale"] is not None:
            entry["scale"] = {side: value // part for side, value in entry["scale"].items()}
    (here / "bundle/bundle.json").write_text(json.dumps(edited))
    coarsest = edited["scales"][0]
    write_image(here / "a.tif", size=(coarsest["height"], coarsest["width"]))
    for variant in preset.fast:
        scales = ",".join(f"{scale.width // part}x{scale.height // part}" for scale in variant.scales)
        points = variant.points if variant.points.endswith("%") else str(int(variant.points) // part**2)
        fast = ["--method", "magnet-fast", "--scales", scales, "--patches", str(variant.patches), "--points", points]
        common = ["a.tif", "--weights", "bundle", "--compat", compat, *fast]
        (plan,) = invoke_json("plan", *common)["images"]
        (step,) = plan["passes"]
        stages = list(enumerate(step["stages"]))
        assert plan["overlap"] == 0
        assert [stage["windows"] for _, stage in stages] == [min(4**k, variant.patches) if k else 1 for k, _ in stages]
        result = invoke("segment", *common, "-o", "mask.tif", "--overwrite")
        assert result.exit_code == 0, result.stderr
        assert tifffile.imread(here / "mask.tif").max() < classes


def brightness() -> nn.Module:
    """Return a network whose class is 1 where red is above the mean."""
    network = build_backbone("conv", classes=2, bands=3, options={})
    with torch.no_grad():
        weight, bias = network.parameters()
        weight.zero_()
        bias.zero_()
        weight[1, 0] = 10
    return network


def believing(half: int) -> RefinementMagNet:
    """Return a published refinement module that returns one half of its input, sharpened."""
    refiner = RefinementMagNet(classes=2)
    state = {key: value * 0 if value.ndim == 4 else value for key, value in refiner.state_dict().items()}
    for index in range(2):
        state[f"residual.{index}.bn3.weight"] *= 0
    for channel in range(4):
        state["conv1.weight"][channel, channel, 1, 1] = 1
        state["conv2.weight"][channel, channel, 1, 1] = 1
        state["residual.0.downsample.0.weight"][channel, channel] = 1
    for label in range(2):
        state["seg_conv.weight"][label, 2 * half + label] = 20
    refiner.load_state_dict(state)
    return refiner


@pytest.mark.parametrize(("half", "order"), [(0, "own-first"), (1, "field-first")])
def test_a_labelled_image_decides_the_order_of_the_inputs(
    here: Path, monkeypatch: pytest.MonkeyPatch, half: int, order: str
) -> None:
    """Only the finest stage can distinguish stripes of one pixel."""
    small = replace(
        PRESETS["inria"],
        input=Size(width=16, height=16),
        scales=tuple(Size(width=side, height=side) for side in (64, 32, 16)),
        points="all",
        median=1,
    )
    monkeypatch.setitem(PRESETS, "inria", small)
    torch.save(brightness().state_dict(), here / "b.pth")
    torch.save({f"module.{key}": value for key, value in believing(half).state_dict().items()}, here / "r.pth")
    labels = np.tile(np.arange(64, dtype=np.uint8) % 2, (64, 1))
    tifffile.imwrite(here / "image.tif", np.dstack([labels * np.uint8(255)] * 3), photometric="rgb")
    tifffile.imwrite(here / "label.tif", labels, photometric="minisblack")
    words = ["--preset", "inria", "--architecture", "conv", "--backbone", "b.pth", "--refiner", "r.pth", "-o", "out"]
    sample = ["--image", "image.tif", "--label", "label.tif"]
    (row,) = invoke_json("weights", "import", *words, *sample)["bundles"]
    assert row["refiner_input"] == order
    other = next(name for name in row["scores"] if name != order)
    assert row["scores"][order] > row["scores"][other] + 0.3
    assert f"{order}, every scale" in invoke("weights", "show", "out").stdout
    assert "the better one on the sample" in (here / "out/README.md").read_text()
    invoke_json("segment", "image.tif", "--weights", "out", "-o", "mask.tif")
    right = (tifffile.imread(here / "mask.tif") == labels).mean()
    assert right > 0.9
    # What the user says does not count where a sample decides.
    (row,) = invoke_json("weights", "import", *words, *sample, "--refiner-input", other, "--overwrite")["bundles"]
    assert row["refiner_input"] == order
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(here) as server:
        addresses = ["--image", server.url("image.tif"), "--label", server.url("label.tif")]
        (row,) = invoke_json("weights", "import", *words, *addresses, "--overwrite")["bundles"]
    assert row["refiner_input"] == order


def test_import_refuses_a_page(here: Path) -> None:
    (here / "b.pth").write_text("<html></html>")
    result = invoke("weights", "import", "--preset", "inria", "--backbone", "b.pth", "-o", "x")
    assert result.exit_code == 4
    assert "b.pth: " in one_failure(result)
    assert "  Why: this is a web page" in one_failure(result)
    assert not (here / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--refiner-scale", "12x"], "--refiner-scale is a window's side"),
        (["--image", "a.tif"], "Give --image and --label"),
        (["--device", "cpu"], "checkpoints are converted without computing anything"),
        (["--gpu", "0"], "Leave the option out"),
        (["--from", "cascadepsp", "b.pth", "--device", "cpu"], "checkpoints are converted without"),
    ],
)
def test_wrong_use(here: Path, words: list[str], message: str) -> None:
    del here
    result = invoke("weights", "import", "--preset", "inria", "--backbone", "b.pth", "-o", "x", *words)
    assert result.exit_code == 2
    assert message in one_failure(result)


@pytest.mark.parametrize("words", [("--gpu", "0"), ("--device", "cuda:0")])
def test_an_engine_is_measured_on_the_cpu_alone(shipped: Path, words: tuple[str, str]) -> None:
    result = invoke("weights", "measure", shipped, "--engine", "openvino", *words)
    assert result.exit_code == 2
    assert "engines are measured beside PyTorch on the CPU" in one_failure(result)


@pytest.fixture
def sharp(tmp_path: Path) -> Path:
    """Write a bundle that refines masks."""
    folder = tmp_path / "sharp"
    write_cascade_bundle(
        folder, describe_cascade(name="sharp", licence="MIT", side=500), build_cascade("conv", options={})
    )
    return folder


def test_a_bundle_that_sharpens_masks_is_listed_shown_and_verified(
    sharp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "roots", lambda: [tmp_path])
    text = invoke("weights", "list").stdout
    assert "sharp: sharpens masks" in text
    assert "conv, windows of 500" in text
    (row,) = invoke_json("weights", "list")["bundles"]
    assert (row["name"], row["kind"], row["side"], row["folder"]) == ("sharp", "cascade", 500, str(sharp))
    text = invoke("weights", "show", "sharp").stdout
    assert "licence: MIT" in text
    assert "cascade: conv, cascade.safetensors" in text
    (row,) = invoke_json("weights", "verify", "sharp")["files"]
    assert (row["ok"], row["role"]) == (True, "cascade")


def test_segment_refuses_a_bundle_that_sharpens_masks(here: Path, sharp: Path) -> None:
    write_image(here / "image.tif")
    result = invoke("segment", "image.tif", "--weights", sharp, "-o", "mask.tif")
    assert result.exit_code == 4
    assert "sharp sharpens masks" in one_failure(result)
    assert not (here / "mask.tif").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_import_of_cascadepsp(here: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """A smaller network of the same kind replaces the real one, which has 271 MB."""
    slim: dict[str, Any] = {"width": 4, "depths": [1, 1, 1, 1], "pooled": 8, "widths": [8, 4, 4], "hidden": 4}
    monkeypatch.setitem(CASCADES, "cascadepsp-resnet50", lambda: cascadepsp_light(**slim))
    network = build_cascade("cascadepsp-resnet50", options={})
    torch.save({f"{prefix}{key}": value for key, value in network.state_dict().items()}, here / "model")
    words = ["--from", "cascadepsp", "model", "-o", "sharp"]
    result = invoke("weights", "import", *words, "--licence", "MIT")
    assert result.exit_code == 0, result.stderr
    (row,) = invoke_json("weights", "show", "sharp")["bundles"]
    assert row["description"]["networks"]["cascade"]["architecture"] == "cascadepsp-resnet50"
    assert (row["description"]["compat"], row["description"]["licence"]) == ("published", "MIT")
    assert row["description"]["input"]["mean"] == [0.485, 0.456, 0.406]
    loaded = load_file(here / "sharp" / "cascade.safetensors")
    assert all(torch.equal(loaded[key], value) for key, value in network.state_dict().items())
    assert "sharpen a mask" in (here / "sharp" / "README.md").read_text()
    assert invoke("weights", "verify", "sharp").exit_code == 0
    assert invoke("weights", "import", *words).exit_code == 5
    (row,) = invoke_json("weights", "import", *words, "--overwrite")["bundles"]
    assert row["kind"] == "cascade"


def test_import_of_cascadepsp_refuses_what_does_not_fit(here: Path) -> None:
    torch.save({"module.feats.conv1.weight": torch.zeros(64, 6, 7, 7)}, here / "model")
    result = invoke("weights", "import", "--from", "cascadepsp", "model", "-o", "sharp")
    assert result.exit_code == 4
    assert "does not fit cascadepsp-resnet50" in one_failure(result)
    assert not (here / "sharp").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "cascadepsp"], "needs a checkpoint"),
        (["--from", "cascadepsp", "model", "--preset", "inria"], "takes one FILE, not MagNet's options (got --preset)"),
        (["model"], "Give --preset and --backbone, --from cascadepsp FILE, or --network FILE"),
        (["--preset", "inria"], "Give --preset and --backbone, --from cascadepsp FILE, or --network FILE"),
    ],
)
def test_wrong_use_of_programs(here: Path, words: list[str], message: str) -> None:
    del here
    result = invoke("weights", "import", "-o", "x", *words)
    assert result.exit_code == 2
    assert message in one_failure(result)


def test_bands_of_a_network_have_two_options_of_which_one_is_given(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("weights", "import", "--network", "nowhere", "--bands", "blue,green,red", "-o", "b")
    result = invoke(*words, "--network-bands", "red,green,blue")
    assert result.exit_code == 2
    assert "--bands is short for --network-bands" in result.stderr
    monkeypatch.setenv("MAGNET_NETWORK_BANDS", "red,green,blue")
    result = invoke(*words)
    assert "there is no such folder or file" in result.stderr
    assert not (here / "b").exists()
