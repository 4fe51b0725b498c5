"""Fixtures for any test: small files with odd sizes, and the folder of shared data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from magnet_cli.geometry import Size
from magnet_cli.scene import Pyramid, Scene, write_scene
from magnet_cli.system import memory

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Two processes of tests share two cores. Threads of OpenMP that wait for work by spinning take from each other what
# they could compute with. PyTorch is loaded later, and the commands that tests start inherit the variable.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder with real data beside the checkout. Where it is absent, the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def odd_scene() -> Scene:
    """Return a scene whose sides no tile and no power of two divides."""
    return Scene(size=Size(width=397, height=331), seed=3)


@pytest.fixture(scope="session")
def odd_pyramid(odd_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write `odd_scene` as a deflate pyramid of 64-pixel tiles and four levels, one page each. Tests only read it."""
    path = tmp_path_factory.mktemp("scene") / "odd.tif"
    write_scene(path, odd_scene, pyramid=Pyramid(tile=64))
    return path


@pytest.fixture
def resident_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace PSS by resident memory, because PSS changes when another process that shares a library starts or ends."""

    def resident(process: int) -> int:
        return memory._fields(memory._PROC / f"{process}/smaps_rollup").get("Rss", 0)

    monkeypatch.setattr(memory, "_pss", resident)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter an empty folder, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_environment_options(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Remove MAGNET_* variables of whoever runs the test, and let nothing be written to their home."""
    for name in list(os.environ):
        if name.startswith("MAGNET_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path_factory.getbasetemp() / "state"))
