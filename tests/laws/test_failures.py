"""Laws 7 and 8: a failure is named and stops nothing else; files stay data."""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.models.architectures.conv import conv_backbone
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone, build_refiner
from tests.laws.support import CLASSES, coded, digest, labels_in, magnet, random_labels, template_bundle, write_tiled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = Size(width=257, height=200)
SCALES = "--scales=64,32"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_bundle(tmp_path_factory.mktemp("bundle") / "template", scales=(32, 64))


def break_tile(path: Path, *, column: int, row: int) -> None:
    """Overwrite a tile of a TIFF made by `write_tiled`, so that it cannot be decoded."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        index = row * -(-page.imagewidth // page.tilewidth) + column
        offset, length = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset + 2)
        file.write(b"\xa5" * (length - 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write three images, of which the second has a tile that cannot be decoded."""
    found = tmp_path / "in"
    found.mkdir()
    for index, name in enumerate("abc"):
        write_tiled(found / f"{name}.tif", coded(random_labels(SIZE, seed=index)))
    break_tile(found / "b.tif", column=2, row=1)
    return found


def test_one_bad_image_does_not_stop_a_folder(bundle: Path, folder: Path, tmp_path: Path) -> None:
    before = [digest(file) for file in sorted(folder.iterdir())]
    ended = magnet("segment", folder, f"--weights={bundle}", SCALES, "-o", tmp_path / "out")
    assert ended.code == 7
    for index, name in ((0, "a"), (2, "c")):
        np.testing.assert_array_equal(labels_in(tmp_path / "out" / f"{name}.tif"), random_labels(SIZE, seed=index))
    assert str(folder / "b.tif") in ended.said
    assert "block (2, 1)" in ended.said
    assert "tile" in ended.said
    assert not (tmp_path / "out" / "b.tif").exists()
    assert not OutputPaths.of(tmp_path / "out" / "b.tif").report.exists()
    assert [digest(file) for file in sorted(folder.iterdir())] == before


def test_what_a_bad_image_left_is_not_taken_for_the_repaired_one(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """A repaired file has the same name and other content, so no part of the damaged file may reach its mask."""
    out = tmp_path / "b.tif"
    words = ("segment", folder / "b.tif", f"--weights={bundle}", SCALES, "-o", out)
    assert magnet(*words).code == 3
    write_tiled(folder / "b.tif", coded(random_labels(SIZE, seed=9)))
    again = magnet(*words)
    assert again.code == 5
    assert "other input" in again.said
    assert magnet(*words, "--overwrite").code == 0
    np.testing.assert_array_equal(labels_in(out), random_labels(SIZE, seed=9))


def test_a_run_that_must_stop_stops_at_the_first_failure(bundle: Path, folder: Path, tmp_path: Path) -> None:
    ended = magnet("segment", folder, f"--weights={bundle}", SCALES, "-o", tmp_path / "out", "--on-error=fail")
    assert ended.code != 0
    assert (tmp_path / "out" / "a.tif").exists()
    assert not (tmp_path / "out" / "c.tif").exists()


def test_all_of_several_failed(bundle: Path, folder: Path, tmp_path: Path) -> None:
    for name in "ac":
        break_tile(folder / f"{name}.tif", column=0, row=0)
    assert magnet("segment", folder, f"--weights={bundle}", SCALES, "-o", tmp_path / "out").code == 3


def test_a_truncated_image_is_named(bundle: Path, folder: Path, tmp_path: Path) -> None:
    image = folder / "a.tif"
    image.write_bytes(image.read_bytes()[:20_000])
    ended = magnet("segment", image, f"--weights={bundle}", SCALES, "-o", tmp_path / "m.tif")
    assert ended.code == 3
    assert str(image) in ended.said
    assert not (tmp_path / "m.tif").exists()


def overflowing(role: str, folder: Path) -> Path:
    """Return a bundle of finite weights whose network gives values that are not numbers."""
    description = describe(name="overflow", classes=2, size=32, refiners=[{}], magnet={"merge": "refiner"})
    networks = {
        "backbone": build_backbone("conv", classes=2, bands=3, options={}),
        "refiner": build_refiner("conv", classes=2, options={}),
    }
    weight = networks[role].state_dict()["conv.weight"]
    weight[:] = 3e38
    write_bundle(
        folder, description, {f"{name}.safetensors": item for name, item in networks.items()}, dtype=torch.float32
    )
    return folder


@pytest.mark.parametrize(("role", "stage"), [("backbone", 1), ("refiner", 2)])
def test_a_network_that_gives_no_numbers_is_named_with_block_and_stage(role: str, stage: int, tmp_path: Path) -> None:
    image = write_tiled(tmp_path / "s.tif", np.full((100, 130, 3), 250, np.uint8))
    weights = overflowing(role, tmp_path / "bundle")
    ended = magnet("segment", image, f"--weights={weights}", SCALES, "-o", tmp_path / "m.tif")
    assert ended.code == 4
    assert f"stage {stage}" in ended.said
    assert "block (0, 0)" in ended.said
    assert str(image) in ended.said
    assert not (tmp_path / "m.tif").exists()


class Trap:
    """An object that runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self.path).touch, (self.path,)


def pickled(path: Path, sprung: Path) -> None:
    path.write_bytes(pickle.dumps({"conv.weight": Trap(sprung)}))


def torch_saved(path: Path, sprung: Path) -> None:
    torch.save({"conv.weight": Trap(sprung)}, path)


def torch_script(path: Path, sprung: Path) -> None:
    del sprung
    module = torch.jit.trace(conv_backbone(classes=CLASSES), torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
    torch.jit.save(module, str(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("write", [pickled, torch_saved, torch_script])
def test_weights_that_can_run_code_are_refused(write: Callable[[Path, Path], None], tmp_path: Path) -> None:
    weights = template_bundle(tmp_path / "bundle", scales=(32, 64))
    sprung = tmp_path / "sprung"
    write(weights / "backbone.safetensors", sprung)
    sprung.unlink(missing_ok=True)
    description = json.loads((weights / "bundle.json").read_text())
    found = hashlib.sha256((weights / "backbone.safetensors").read_bytes()).hexdigest()
    description["networks"]["backbone"]["sha256"] = found
    (weights / "bundle.json").write_text(json.dumps(description))
    image = write_tiled(tmp_path / "s.tif", np.zeros((50, 60, 3), np.uint8))
    ended = magnet("segment", image, f"--weights={weights}", SCALES, "-o", tmp_path / "m.tif")
    assert ended.code == 4
    assert "backbone.safetensors" in ended.said
    assert not sprung.exists()
    assert not (tmp_path / "m.tif").exists()


def test_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    weights = template_bundle(tmp_path / "bundle", scales=(32, 64))
    data = bytearray((weights / "backbone.safetensors").read_bytes())
    data[-1] ^= 1
    (weights / "backbone.safetensors").write_bytes(bytes(data))
    image = write_tiled(tmp_path / "s.tif", np.zeros((50, 60, 3), np.uint8))
    ended = magnet("segment", image, f"--weights={weights}", SCALES, "-o", tmp_path / "m.tif")
    assert ended.code == 4
    assert "sha256" in ended.said


@pytest.mark.parametrize("name", ["bundle.pt", "bundle.pkl"])
def test_a_single_file_is_no_bundle(name: str, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch_saved(tmp_path / name, sprung)
    sprung.unlink(missing_ok=True)
    image = write_tiled(tmp_path / "s.tif", np.zeros((50, 60, 3), np.uint8))
    ended = magnet("segment", image, f"--weights={tmp_path / name}", SCALES, "-o", tmp_path / "m.tif")
    assert ended.code == 4
    assert not sprung.exists()
