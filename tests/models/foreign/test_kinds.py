"""The contract of networks of every kind, each saved by its own library."""

from __future__ import annotations

import json
import shutil
import socket
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.importing import import_network
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.foreign.foreign_bundle import bundle_in_place
from magnet_cli.models.foreign.kinds import KINDS, kind_of
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.foreign.trial import Trial
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from tests.models.foreign.makers import BANDS, MAKERS, SIDE, Saved

if TYPE_CHECKING:
    from pathlib import Path

INPUT = Size(width=SIDE, height=SIDE)


# The first network of transformers takes ten seconds to import, and the smallest one of torchvision four to build.
# OpenVINO and transformers are installed before the tests marked full alone.
SLOW = ("openvino", "transformers", "torchvision")
PARAMS = [pytest.param(name, marks=pytest.mark.full if name in SLOW else ()) for name in sorted(MAKERS)]


@pytest.fixture(scope="module", params=PARAMS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bundle(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    names = ",".join(f"c{index}" for index in range(saved.classes))
    return import_network(saved.options(classes=names), tmp_path_factory.mktemp("bundles") / "made").bundle


def patches(count: int = 2) -> torch.Tensor:
    return torch.randn(count, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_every_kind_has_a_maker() -> None:
    assert set(MAKERS) == set(KINDS)


def test_the_kind_of_a_path_is_known(saved: Saved, bundle: Bundle) -> None:
    assert bundle.foreign is not None
    assert kind_of(saved.path).name == bundle.foreign.kind


def test_probabilities_are_those_of_the_library(saved: Saved, bundle: Bundle) -> None:
    networks = load_foreign(bundle, device="cpu", precision="float32")
    found = networks.predict(patches(), INPUT)
    with torch.inference_mode():
        wanted = saved.eager(patches())
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5
    assert float((found.sum(dim=1) - 1).abs().max()) < 1e-5
    # A network whose answer is the same everywhere would pass with a picture turned upside down.
    assert float((wanted.amax(dim=(2, 3)) - wanted.amin(dim=(2, 3))).max()) > 0.01


def test_loading_asks_no_network(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **more: object) -> NoReturn:
        raise AssertionError((given, more))

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_foreign(bundle, device="cpu", precision="float32")


def test_a_bundle_lives_without_the_folder_that_it_came_from(saved: Saved, bundle: Bundle, tmp_path: Path) -> None:
    moved = load_bundle(str(shutil.copytree(bundle.folder, tmp_path / "moved")))
    assert moved.foreign_files.is_relative_to(tmp_path)
    assert moved.digest == bundle.digest
    networks = load_foreign(moved, device="cpu", precision="float32")
    assert networks.predict(patches(1), INPUT).shape == (1, saved.classes, SIDE, SIDE)


@pytest.mark.full
def test_masks_of_the_bundle_and_of_the_network_in_place_are_equal(
    saved: Saved, bundle: Bundle, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (97, 131, BANDS), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(64, 64), photometric="rgb")
    options = {"weights": str(bundle.folder)}, {"foreign": saved.options()}
    masks = []
    for index, more in enumerate(options):
        done = segment(tmp_path / "image.tif", tmp_path / f"{index}.tif", SegmentOptions(tissue="none", **more))  # type: ignore[arg-type]  # by name
        assert done[0].error is None
        masks.append(tifffile.imread(tmp_path / f"{index}.tif"))
    assert masks[0].shape == pixels.shape[:2]
    assert len(np.unique(masks[0])) > 1
    assert np.array_equal(masks[0], masks[1])


def test_verifying_replays_the_trial(bundle: Bundle, tmp_path: Path) -> None:
    checks = verify_bundle(bundle)
    assert [check.role for check in checks][-1] == "trial"
    assert all(check.error is None for check in checks)
    folder = shutil.copytree(bundle.folder, tmp_path / "other")
    kept = Trial.decode(folder / "trial.safetensors")
    turned = Trial(picture=kept.picture, labels=kept.labels[::-1], probs=kept.probs[:, ::-1])
    (folder / "trial.safetensors").write_bytes(turned.encode())
    error = verify_bundle(load_bundle(str(folder)))[-1].error
    assert error is not None
    assert "another result" in str(error)


def test_changed_files_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.foreign is not None
    folder = shutil.copytree(bundle.folder, tmp_path / "changed")
    largest = max(bundle.foreign.files, key=lambda name: (bundle.foreign_files / name).stat().st_size)
    data = bytearray((folder / "network" / largest).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "network" / largest).write_bytes(data)
    changed = load_bundle(str(folder))
    with pytest.raises(WeightsError, match="sha256"):
        load_foreign(changed, device="cpu", precision="float32")
    assert any(check.error for check in verify_bundle(changed))


def test_every_value_of_a_description_has_an_origin(bundle: Bundle) -> None:
    origins = "\n".join(bundle.origins)
    for name in ("classes", "bands", "input", "range", "mean", "std", "pixel", "activation"):
        assert f"{name}: " in origins
    assert all(line.endswith(")") for line in bundle.origins)
    assert "trial pass" in origins


def test_the_digest_of_a_bundle_forgets_the_machine_alone(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "measured")
    table = json.loads((folder / "bundle.json").read_text())
    foreign = table["networks"]["foreign"]
    foreign["memory"] = {"cpu": [{"batch": 1, "bytes": 5}]}
    foreign["runtime"] = {"torch": "0"}
    (folder / "bundle.json").write_text(json.dumps(table))
    assert load_bundle(str(folder)).digest == bundle.digest
    foreign["activation"] = "share"
    (folder / "bundle.json").write_text(json.dumps(table))
    assert load_bundle(str(folder)).digest != bundle.digest


def test_what_a_trial_has_shown_is_kept_for_the_next_run(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundle_in_place(saved.options())

    def tried_again(*given: object, **more: object) -> NoReturn:
        raise AssertionError((given, more))

    monkeypatch.setattr("magnet_cli.models.foreign.foreign_bundle.tried_network", tried_again)
    # Trust belongs to these files, and was given.
    assert bundle_in_place(saved.options(trust=False)).digest == first.digest
    with pytest.raises(AssertionError):
        bundle_in_place(saved.options(mean=(0.1, 0.2, 0.3)))
