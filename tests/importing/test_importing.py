"""Published checkpoints become bundles that predict the same as their networks, and everything else is refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from magnet_cli.errors import OutputError, SourceError, UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.importing import ImportOptions, Order, OrderSample, import_bundle
from magnet_cli.importing.presets import (
    CITYSCAPES,
    DEEPGLOBE,
    GLEASON,
    INRIA,
    OURS,
    PAPER,
    PRESETS,
    SCRIPT,
    FastVariant,
    Preset,
)
from magnet_cli.models.architectures.fpn import fpn_resnet50
from magnet_cli.models.architectures.refiner import RefinementMagNet
from magnet_cli.models.checkpoint import unprefixed
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import BACKBONES, build_backbone, build_refiner

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = Preset(
    name="stripes",
    domain="stripes",
    title="stripes",
    architecture="conv",
    classes=(("dark", "#000000"), ("bright", "#FFFFFF")),
    input=Size(width=8, height=8),
    scales=(Size(width=32, height=32), Size(width=8, height=8)),
    points="all",
    median=1,
    fast=(FastVariant(source=OURS, scales=(Size(width=8, height=8),), patches=1, points="all", note="all of these"),),
    sources=("everything: our choice",),
)


def saved(path: Path, state: Any, prefix: str = "") -> Path:
    if isinstance(state, nn.Module):
        state = {f"{prefix}{key}": value for key, value in state.state_dict().items()}
    torch.save(state, path)
    return path


@pytest.fixture
def options() -> ImportOptions:
    return ImportOptions(preset=SMALL, refiner_architecture="conv")


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return saved(tmp_path / "b.pth", brightness())


def brightness() -> nn.Module:
    """Return a network whose class is 1 where red is above the mean."""
    network = build_backbone("conv", classes=2, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        weight = next(iter(network.parameters()))
        weight[1, 0] = 10
    return network


def takes(half: int) -> nn.Module:
    """Return a refiner that returns one half of its input."""
    network = build_refiner("conv", classes=2, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        weight = next(iter(network.parameters()))
        for label in range(2):
            weight[label, 2 * half + label] = 20
    return network


def stripes(folder: Path) -> OrderSample:
    """Write columns of alternating classes, which are grey in the reduced image and plain at full size."""
    labels = np.tile(np.arange(32, dtype=np.uint8) % 2, (32, 1))
    tifffile.imwrite(folder / "image.tif", np.dstack([labels * np.uint8(255)] * 3), photometric="rgb")
    tifffile.imwrite(folder / "label.tif", labels, photometric="minisblack")
    return OrderSample(image=folder / "image.tif", label=folder / "label.tif")


PREFIXES = ["", "model.", "module.", "module.model."]
"""Prefixes that the names of all tensors of a published checkpoint may have."""


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_changes_no_prediction(tmp_path: Path, options: ImportOptions, prefix: str) -> None:
    backbone, refiner = saved(tmp_path / "b.pth", brightness(), prefix), saved(tmp_path / "r.pth", takes(1), prefix)
    made = import_bundle(backbone, [refiner], tmp_path / "made", options)
    found = load_networks(made.bundle, device="cpu", precision="float32")
    patch, scale = torch.randn(1, 3, 8, 8), Size(width=8, height=8)
    with torch.inference_mode():
        own = brightness()(patch).softmax(dim=1)
        refined = takes(1)(torch.cat((own, own.flip(-1)), dim=1)).softmax(dim=1)
        torch.testing.assert_close(found.predict(patch, scale), own)
        torch.testing.assert_close(found.refine(own, own.flip(-1), scale), refined)


@pytest.mark.parametrize(
    "prefix", [pytest.param(prefix, marks=() if prefix == "module.model." else pytest.mark.full) for prefix in PREFIXES]
)
def test_the_bundle_predicts_what_the_networks_did(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(1)
    network, refiner = fpn_resnet50(classes=7).eval(), RefinementMagNet(classes=7).eval()
    made = import_bundle(
        saved(tmp_path / "b.pth", network, prefix),
        [saved(tmp_path / "r.pth", refiner, prefix)],
        tmp_path / "globe",
        ImportOptions(preset=DEEPGLOBE),
    )
    found = load_networks(made.bundle, device="cpu", precision="float32")
    patch, scale = torch.randn(1, 3, 64, 64), Size(width=612, height=612)
    with torch.inference_mode():
        own = network(patch).softmax(dim=1)
        field = own.flip(-1)
        refined = refiner(torch.cat((own, field), dim=1)).softmax(dim=1)
    torch.testing.assert_close(found.predict(patch, scale), own)
    torch.testing.assert_close(found.refine(own, field, scale), refined)
    bundle = made.bundle
    assert (bundle.name, bundle.folder, bundle.compat) == ("globe", tmp_path / "globe", "published")
    assert (bundle.input.size, bundle.input.resample) == (Size(width=508, height=508), "bilinear")
    assert [scale.width for scale in bundle.scales] == [2448, 1224, 612]
    assert (bundle.magnet.points, bundle.magnet.median, bundle.magnet.merge) == ("75%", 11, "refiner")
    card = (tmp_path / "globe" / "README.md").read_text()
    assert "--method magnet-fast" in card
    assert "--patches 3 --points 65536" in card
    assert "--patches 3 --points 90%" in card
    assert "--exclude-class 0" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.pth", "globe", "r.pth"]


@pytest.mark.parametrize(
    ("prefix", "key"), [("model.", "loss.criterion.weight"), ("module.model.", "module.loss.criterion.weight")]
)
def test_the_weights_of_the_training_loss_are_left_out_and_told(
    tmp_path: Path, options: ImportOptions, prefix: str, key: str
) -> None:
    network = brightness()
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    made = import_bundle(saved(tmp_path / "b.pth", {**state, key: torch.ones(2)}), [], tmp_path / "out", options)
    assert made.dropped == (("b.pth", (key,)),)
    (sentence,) = made.left_out
    assert sentence.startswith(f"b.pth: left out {key}")
    assert sentence in (tmp_path / "out" / "README.md").read_text()
    found = load_networks(made.bundle, device="cpu", precision="float32").backbone.state_dict()
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in network.state_dict().items()
    }


@pytest.mark.parametrize("key", ["loss.weight", "model.loss.criterion.weight", "criterion.weight", "optimizer.step"])
def test_only_keys_known_to_belong_to_training_are_left_out(tmp_path: Path, options: ImportOptions, key: str) -> None:
    state = {**brightness().state_dict(), key: torch.ones(2)}
    with pytest.raises(WeightsError, match=f"1 unexpected.*unexpected {key.removeprefix('model.')}"):
        import_bundle(saved(tmp_path / "b.pth", state), [], tmp_path / "out", options)


def test_a_bundle_says_where_its_values_are_from(tmp_path: Path) -> None:
    network = build_backbone("conv", classes=19, bands=3, options={})
    options = ImportOptions(preset=CITYSCAPES, architecture="conv")
    made = import_bundle(saved(tmp_path / "b.pth", network), [], tmp_path / "out", options)
    *usual, last = made.bundle.origins
    assert tuple(usual) == CITYSCAPES.origins
    assert last == "backbone: conv, chosen at the import instead of hrnet18-ocr"
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(origin in card for origin in made.bundle.origins)


def test_a_refiner_without_input_norm_is_recognised(tmp_path: Path) -> None:
    torch.manual_seed(2)
    refiner = RefinementMagNet(classes=2, bn0=False).eval()
    made = import_bundle(
        saved(tmp_path / "b.pth", brightness()),
        [saved(tmp_path / "r.pth", refiner)],
        tmp_path / "out",
        ImportOptions(preset=SMALL),
    )
    found = load_networks(made.bundle, device="cpu", precision="float32")
    own = torch.rand(1, 2, 8, 8)
    with torch.inference_mode():
        expected = refiner(torch.cat((own, own), dim=1)).softmax(dim=1)
    torch.testing.assert_close(found.refine(own, own, Size(width=8, height=8)), expected)


@pytest.mark.parametrize(("half", "order"), [(0, "own-first"), (1, "field-first")])
def test_the_sample_decides_the_order_of_the_inputs(
    tmp_path: Path, backbone: Path, options: ImportOptions, half: int, order: Order
) -> None:
    options = replace(options, sample=stripes(tmp_path), order="field-first" if half == 0 else "own-first")
    made = import_bundle(backbone, [saved(tmp_path / "r.pth", takes(half))], tmp_path / "out", options)
    assert made.order == order
    assert made.scores[order] == 1.0
    assert min(made.scores.values()) < 0.5
    assert [spec.input for spec in made.bundle.refiners] == [order]
    assert order in made.finding
    assert "better" in made.finding
    assert made.finding in (tmp_path / "out" / "README.md").read_text()


def test_a_sample_that_says_nothing_is_called_so(tmp_path: Path, backbone: Path, options: ImportOptions) -> None:
    sample = stripes(tmp_path)
    tifffile.imwrite(sample.image, np.full((32, 32, 3), 255, np.uint8), photometric="rgb")
    made = import_bundle(
        backbone, [saved(tmp_path / "r.pth", takes(0))], tmp_path / "out", replace(options, sample=sample)
    )
    assert made.order == "own-first"
    assert "does not tell" in made.finding


def test_a_sample_must_fit(tmp_path: Path, backbone: Path, options: ImportOptions) -> None:
    sample, refiners = stripes(tmp_path), [saved(tmp_path / "r.pth", takes(0))]
    tifffile.imwrite(sample.label, np.full((32, 32), 2, np.uint8))
    with pytest.raises(SourceError, match="labels are below 2"):
        import_bundle(backbone, refiners, tmp_path / "out", replace(options, sample=sample))
    tifffile.imwrite(sample.label, np.zeros((32, 31), np.uint8))
    with pytest.raises(SourceError, match=r"32x32 \(got 31x32\)"):
        import_bundle(backbone, refiners, tmp_path / "out", replace(options, sample=sample))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.pth", "image.tif", "label.tif", "r.pth"]


class Planted:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("planted"),)


def page(path: Path) -> None:
    path.write_text("\ufeff\n <!DOCTYPE html><html><body>Sign in</body></html>")


def packed(path: Path) -> None:
    saved(path, brightness())
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def scripted(path: Path) -> None:
    saved(path, {"a": Planted()})


def nan(path: Path) -> None:
    network = brightness()
    with torch.no_grad():
        next(iter(network.parameters()))[0, 0] = torch.nan
    saved(path, network)


def cut(path: Path) -> None:
    saved(path, brightness())
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: saved(path, {}), "checkpoint is empty"),
        (
            lambda path: saved(path, {f"fc{i}.weight": torch.zeros(1) for i in range(12)}),
            "2 keys missing, 12 unexpected.*missing conv.weight, conv.bias; unexpected fc0.*fc9.weight and 2 more",
        ),
        (lambda path: saved(path, {**brightness().state_dict(), "x": torch.zeros(1)}), "0 keys missing.*unexpected x"),
        (lambda path: saved(path, {"conv.weight": torch.zeros(2, 3, 1, 1)}), "1 keys missing.*conv.bias"),
        (
            lambda path: saved(path, {"conv.weight": torch.zeros(2, 3, 3, 3), "conv.bias": torch.zeros(2)}),
            r"conv.weight must have shape \(2, 3, 1, 1\).*\(2, 3, 3, 3\)",
        ),
        (lambda path: saved(path, {"a.b": torch.zeros(1), "model.a.b": torch.zeros(1)}), "prefix alone"),
        (lambda path: saved(path, {"state_dict": brightness().state_dict(), "epoch": 3}), "got state_dict, epoch"),
        (lambda path: saved(path, [torch.zeros(1)]), "tensors by name.*list"),
        (lambda path: saved(path, torch.zeros(1)), "tensors by name.*Tensor"),
        (lambda path: saved(path, {1: torch.zeros(1)}), "nothing else"),
        (scripted, "could run code"),
        (nan, "not finite.*conv.weight"),
        (page, "a web page, not weights"),
        (packed, "archive is packed"),
        (cut, "not a checkpoint"),
        (lambda path: path.write_bytes(b""), "not a checkpoint"),
        (lambda path: path.write_text("hello"), "no plain state dict|not a checkpoint"),
        (lambda _: None, "cannot be read"),
    ],
)
def test_refuses_everything_but_the_networks_own_state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: ImportOptions,
    write: Callable[[Path], Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    write(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=message) as caught:
        import_bundle(path, [], tmp_path / "out", options)
    assert str(caught.value).startswith(str(path))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", sorted(set(BACKBONES) & {"fpn-resnet50", "psp-resnet101", "hrnet18-ocr"}))
def test_an_unrelated_checkpoint_fits_no_published_backbone(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "x.pth", brightness())
    with pytest.raises(WeightsError, match=f"does not fit {name}: .* keys missing, 2 unexpected"):
        import_bundle(path, [], tmp_path / "out", ImportOptions(preset=DEEPGLOBE, architecture=name))


def test_prefixes_count_at_the_start_alone() -> None:
    tensor = torch.zeros(1)
    keys = {"module.model.a.model.b": tensor, "c.module.d": tensor, "model": tensor}
    assert list(unprefixed(keys, file=Path("x"))) == ["a.model.b", "c.module.d", "model"]


def test_several_refiners_serve_the_stages_in_order(tmp_path: Path, backbone: Path, options: ImportOptions) -> None:
    three = replace(options, preset=replace(SMALL, scales=tuple(Size(width=side, height=side) for side in (32, 16, 8))))
    files = [saved(tmp_path / f"r{half}.pth", takes(half)) for half in range(2)]
    made = import_bundle(backbone, files, tmp_path / "out", three)
    assert [spec.scale for spec in made.bundle.refiners] == [Size(width=16, height=16), Size(width=8, height=8)]
    with pytest.raises(UsageError, match="2 refiners for 1 refining stages"):
        import_bundle(backbone, files, tmp_path / "other", options)
    with pytest.raises(UsageError, match="1 for 2"):
        import_bundle(backbone, files, tmp_path / "other", replace(three, refiner_scales=(SMALL.input,)))
    said = replace(three, refiner_scales=(Size(width=8, height=8), Size(width=16, height=16)))
    made = import_bundle(backbone, files, tmp_path / "other", said)
    assert [spec.scale for spec in made.bundle.refiners] == [Size(width=8, height=8), Size(width=16, height=16)]


def test_only_a_bundle_is_replaced_and_only_when_asked(tmp_path: Path, backbone: Path, options: ImportOptions) -> None:
    import_bundle(backbone, [], tmp_path / "out", options)
    with pytest.raises(OutputError, match="folder exists"):
        import_bundle(backbone, [], tmp_path / "out", options)
    for name in ("engines.json", "int8.json", "backbone.int8.onnx"):
        (tmp_path / "out" / name).write_text("{}")
    made = import_bundle(backbone, [], tmp_path / "out", replace(options, overwrite=True, name="again"))
    assert not (tmp_path / "out/engines.json").exists()
    assert made.bundle.name == "again"
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError, match="only a folder with"):
        import_bundle(backbone, [], tmp_path / "mine", replace(options, overwrite=True))


def test_a_bundle_behind_a_link_that_leads_to_itself_is_refused(
    tmp_path: Path, backbone: Path, options: ImportOptions
) -> None:
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    for output in (tmp_path / "one" / "bundle", tmp_path / "one" / "deeper" / "bundle"):
        for replaced in (False, True):
            with pytest.raises(OutputError, match="symbolic link that leads to itself") as failed:
                import_bundle(backbone, [], output, replace(options, overwrite=replaced))
            assert failed.value.exit_code == 5
    for replaced in (False, True):
        with pytest.raises(OutputError, match="symbolic link that leads to itself"):
            import_bundle(backbone, [], tmp_path / "one", replace(options, overwrite=replaced))


def test_presets() -> None:
    assert {name: len(preset.classes) for name, preset in PRESETS.items()} == {
        "cityscapes": 19,
        "deepglobe": 7,
        "gleason": 4,
        "inria": 2,
    }
    assert CITYSCAPES.classes[13] == ("car", "#00008E")
    for preset in PRESETS.values():
        assert len(set(preset.classes)) == len(preset.classes)
        assert list(preset.scales) == sorted(preset.scales, reverse=True)
        assert all(set(variant.scales) <= set(preset.scales) for variant in preset.fast)


@pytest.mark.parametrize(
    ("preset", "size", "scales", "points", "median"),
    [
        (CITYSCAPES, "256x128", "2048x1024 1024x512 512x256 256x128", "32768", 5),
        (DEEPGLOBE, "508x508", "2448x2448 1224x1224 612x612", "75%", 11),
        (GLEASON, "512x512", "5000x5000 2500x2500 1250x1250 625x625", "65536", 11),
        (INRIA, "536x536", "5000x5000 2500x2500 1250x1250 625x625", "65536", 11),
    ],
)
def test_values_of_the_paper_and_the_published_scripts(
    preset: Preset, size: str, scales: str, points: str, median: int
) -> None:
    assert str(preset.input) == size
    assert " ".join(map(str, preset.scales)) == scales
    assert (preset.points, preset.median) == (points, median)


def test_fast_variants_of_the_paper_and_the_published_scripts() -> None:
    found = {
        (name, variant.source): (len(variant.scales), variant.patches, variant.points)
        for name, preset in PRESETS.items()
        for variant in preset.fast
    }
    assert found == {
        ("cityscapes", PAPER): (3, 3, "65536"),
        ("cityscapes", SCRIPT): (4, 4, "90%"),
        ("deepglobe", PAPER): (3, 3, "65536"),
        ("deepglobe", SCRIPT): (3, 3, "90%"),
        ("gleason", PAPER): (4, 3, "65536"),
        ("inria", OURS): (4, 3, "65536"),
    }
    # 256 to 512 to 2048 in the paper are widths of the resized image: windows of 2048, 1024 and 256.
    assert [scale.width for scale in CITYSCAPES.fast[0].scales] == [2048, 1024, 256]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_value_of_a_preset_has_an_origin(preset: Preset) -> None:
    told = " ".join(preset.origins)
    words = ("classes", "colours", "backbone", "input", "scales", "refiner", "points", "median", "MagNet-Fast", "mean")
    assert [word for word in words if word not in told] == []
    assert sum("MagNet-Fast" in origin for origin in preset.origins) == len(preset.fast)
