"""`magnet doctor` finds what is there, and names for each missing thing its purpose and the command."""

from __future__ import annotations

import builtins
import importlib.metadata
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import pytest
import torch

from magnet_cli.cli import doctor
from magnet_cli.images import codecs
from magnet_cli.models import accelerators
from magnet_cli.system import installation
from tests.cli.support import invoke, invoke_json

ROOT = Path(__file__).parents[2]
FOR_DEVELOPERS = {"docs", "test"}
FORMER_NAMES = {"jp2"}


def findings(code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the findings of `magnet doctor --json` by part and name."""
    return {(each["part"], each["name"]): each for each in invoke_json("doctor", code=code)["findings"]}


def without(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Let every import of a library fail, as if it were not installed."""
    real = builtins.__import__

    def refusing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refusing)


def test_a_machine_with_everything_is_ready() -> None:
    found = findings()
    assert found["PyTorch", "torch"]["found"].startswith(torch.__version__)
    assert found["Readers", "tifffile"]["state"] == "ok"
    for name in ("processor", "memory", "temporary files", "current folder"):
        assert ("Machine", name) in found
    assert [each["name"] for each in found.values() if each["required"]] == []
    for each in found.values():
        assert bool(each["needed_for"]) == bool(each["command"]) == (each["state"] != "ok"), each


def test_every_extra_has_its_purpose() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.PURPOSES) >= set(project["optional-dependencies"]) - FOR_DEVELOPERS - FORMER_NAMES


def test_a_missing_extra_names_its_purpose_and_a_command_that_pip_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "rasterio":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "wsidicom" else real(name)

    monkeypatch.setattr(installation, "version", version)
    without(monkeypatch, "rasterio")
    found = findings()
    gdal, dicom, reader = found["Extras", "gdal"], found["Extras", "dicom"], found["Readers", "GDAL"]
    assert (gdal["state"], gdal["found"]) == ("missing", "no rasterio")
    assert "JPEG 2000" in gdal["needed_for"]
    assert shlex.split(gdal["command"]) == [sys.executable, "-m", "pip", "install", "magnet-cli[gdal]"]
    assert re.fullmatch(r"wsidicom 0\.1, but >=[\d.]+ is needed", dicom["found"])
    assert (reader["state"], reader["command"]) == ("missing", gdal["command"])


def test_a_build_without_a_codec_names_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagecodecs.JPEG2K, "available", False)
    monkeypatch.setitem(codecs.PICTURE_LOADERS, "noload", "files of no format")
    found = findings()
    tiff, vips = found["Readers", "tifffile"], found["Readers", "libvips"]
    assert (tiff["state"], vips["state"]) == ("missing", "missing")
    assert tiff["needed_for"] == "JPEG 2000 tiles, as Aperio's scanners write them (JPEG2K)"
    assert vips["needed_for"] == "files of no format (noload)"
    assert "JPEG2K" not in tiff["found"]


def test_without_pytorch_nothing_can_be_segmented(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch cannot be loaded twice in a process, so what asks it is loaded again, and not PyTorch itself.
    monkeypatch.delitem(sys.modules, "magnet_cli.models.accelerators")
    monkeypatch.delattr("magnet_cli.models.accelerators")
    without(monkeypatch, "torch")
    result = invoke("doctor")
    assert result.exit_code == 6
    assert "No module named 'torch'" in result.stdout
    assert "No image can be segmented yet." in result.stdout
    assert result.stderr == f"magnet: do this first: {sys.executable} -m pip install 'torch'\n"


@pytest.mark.parametrize(
    ("cuda", "driver", "advice"),
    [
        ("12.4", False, "NVIDIA GPU and its driver"),
        ("12.4", True, "a driver as new as CUDA 12.4"),
        (None, True, "a build of PyTorch with CUDA"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why(
    cuda: str | None, *, driver: bool, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(accelerators, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "none")
    gpu = findings()["PyTorch", "GPU"]
    assert gpu["state"] == "missing"
    assert advice in gpu["command"]


def test_gpus_are_listed_with_the_word_that_chooses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="H200", total_memory=150 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert findings()["PyTorch", "GPU"]["found"] == "H200, 150 GiB (--device cuda:0)"


def test_a_full_disk_and_little_memory_are_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    monkeypatch.setattr(doctor, "available_memory", lambda: 1 << 30)
    found = findings()
    assert found["Machine", "temporary files"]["state"] == "low"
    assert "TMPDIR" in found["Machine", "temporary files"]["command"]
    assert "-o" in found["Machine", "current folder"]["command"]
    assert found["Machine", "memory"]["state"] == "low"


def test_a_program_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "DISTRIBUTION", "no-such-distribution")
    assert installation.needed_packages("no-such-distribution") is None
    monkeypatch.setattr(installation, "needed_packages", lambda: None)
    assert "not installed" in findings()["Packages", "magnet-cli"]["found"]


def test_the_text_says_for_every_missing_thing_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "rasterio")
    result = invoke("doctor")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    (place,) = [number for number, line in enumerate(lines) if re.match(r"  missing  GDAL ", line)]
    assert "needed for: JPEG 2000" in lines[place + 1]
    assert "supply it: " in lines[place + 2]
    assert lines[-1].startswith("Images can be segmented here.")
