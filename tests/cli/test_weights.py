"""`magnet weights`: what is shipped, what is damaged, what is imported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from magnet_cli.models import bundle as bundle_module
from magnet_cli.models.refinement import RefinementMagNet
from magnet_cli.models.registry import build_backbone
from tests.cli.support import invoke, invoke_json, one_line, write_colours_bundle


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only shipped bundle."""
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
    assert str(path) in one_line(result)
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
    assert "do not fit fpn-small" in one_line(result)
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


def test_import_refuses_a_page(here: Path) -> None:
    (here / "b.pth").write_text("<html></html>")
    result = invoke("weights", "import", "--preset", "inria", "--backbone", "b.pth", "-o", "x")
    assert result.exit_code == 4
    assert "b.pth: this is a web page" in one_line(result)
    assert not (here / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--refiner-scale", "12x"], "--refiner-scale is a window's side"),
        (["--image", "a.tif"], "Give --image and --label"),
    ],
)
def test_wrong_use(here: Path, words: list[str], message: str) -> None:
    del here
    result = invoke("weights", "import", "--preset", "inria", "--backbone", "b.pth", "-o", "x", *words)
    assert result.exit_code == 2
    assert message in one_line(result)
