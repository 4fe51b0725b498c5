"""`magnet bench` works as a command: in one small run, with wrong options, and when it is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.bench import rounds as running
from magnet_cli.bench.worker_process import Process
from magnet_cli.errors import DeviceError, OutputError, WeightsError
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.system.speeds import stored_figures
from tests.bench.support import SCALES
from tests.cli.support import command, environment, invoke, invoke_json, write_image
from tests.laws.support import blurry_bundle
from tests.segmentation.test_grnet import grnet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full

SIDE = 150
YARDSTICKS = ["ceiling", "patching", "patching", "naive"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blurry_bundle(tmp_path_factory.mktemp("bundle") / "blurry", scales=SCALES)


def test_a_whole_bench(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monai")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path / "state"))
    image = write_image(tmp_path / "own.tif")
    page = tmp_path / "bench.html"
    before = invoke_json("plan", image, "--weights", bundle, "--device", "cpu")

    words = ["--sizes", str(SIDE), "--weights", str(bundle), "--repeats", "2", "--device", "cpu", "--html", str(page)]
    found = invoke_json("bench", *words)

    _check_setting(found)
    [row] = found["images"]
    assert row["size"] == {"width": SIDE, "height": SIDE}
    assert len(row["seconds"]["all"]) == row["repeats"] == 2
    assert [mark["yardstick"] for mark in row["yardsticks"]] == YARDSTICKS
    assert {mark["status"] for mark in row["yardsticks"]} == {"measured"}
    ceiling, loaded, same, naive = row["yardsticks"]
    assert ceiling["windows"] == row["windows"] == sum(row["windows_by_stage"].values())
    assert loaded["windows"] == same["windows"] == (-(-SIDE // 32)) ** 2
    assert set(naive["parts"]) == set(naive["shares"]) == {"backbone", "refiner", "rest"}
    assert sum(naive["shares"].values()) == pytest.approx(1, abs=0.02)
    for mark in row["yardsticks"]:
        for ratio in ("time_ratio", "window_ratio"):
            assert len(mark[ratio]["all"]) == 2
            assert mark[ratio]["least"] <= mark[ratio]["median"] <= mark[ratio]["most"]
    assert found["quote"] in page.read_text(encoding="utf-8")
    assert list(scratch.iterdir()) == []
    _check_plan(before, invoke_json("plan", image, "--weights", bundle, "--device", "cpu"))
    assert "time: about" in invoke("plan", image, "--weights", bundle, "--device", "cpu").stdout


def test_a_grnet_is_benched_beside_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path / "state"))
    weights, page = grnet(tmp_path / "grnet"), tmp_path / "bench.html"
    words = ["--sizes", str(SIDE), "--weights", str(weights), "--repeats", "1", "--device", "cpu", "--html", str(page)]

    (row,) = invoke_json("bench", "--methods", "grnet", *words)["images"]

    assert row["method"] == "grnet"
    ceiling, *others = row["yardsticks"]
    assert ceiling["status"] == "measured"
    assert ceiling["windows"] == row["windows"] == sum(row["windows_by_stage"].values()) > 0
    assert {mark["status"] for mark in others} == {"does not apply"}
    assert all(mark["reason"] in page.read_text(encoding="utf-8") for mark in others)
    assert [figure.case.method for figure in stored_figures()] == ["grnet"]


def _check_setting(found: dict[str, Any]) -> None:
    assert found["schema"] == 1
    assert found["bundle"]["name"] == "blurry"
    assert found["precision"] == "float32"
    assert {"system", "processor", "cores", "memory", "torch"} <= set(found["machine"])


def _check_plan(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check that `plan` states no time before the bench, and the one of the stored speed after it."""
    assert before["images"][0]["seconds"] is None
    [figure] = stored_figures()
    windows = sum(stage["windows"] for step in after["images"][0]["passes"] for stage in step["stages"])
    assert after["images"][0]["seconds"] == pytest.approx(windows / figure.windows_per_second, abs=0.1)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--sizes", "0"], "whole numbers from 1"),
        (["--sizes", "many"], "'many'"),
        (["--sizes", "64,64"], "once"),
        (["--sizes", "12345678"], "whole numbers from 1"),
        (["--repeats", "0"], "--repeats is at least 1"),
        (["--yardsticks", "foot"], "--yardsticks are ceiling, patching, naive"),
        (["--methods", "best"], "best"),
        (["--memory", "4"], "binary unit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(words: list[str], part: str) -> None:
    result = invoke("bench", *words)

    assert result.exit_code == 2
    assert part in result.stderr


def test_a_missing_image_and_a_missing_folder(tmp_path: Path) -> None:
    missing = invoke("bench", tmp_path / "no.tif")
    assert missing.exit_code == 3
    assert f"{tmp_path / 'no.tif'}: Check the path" in missing.stderr
    assert "there is no such file" in missing.stderr
    folder = invoke("bench", "--html", tmp_path / "no" / "page.html")
    assert folder.exit_code == 5
    assert "the page's folder is missing" in folder.stderr


def test_a_size_that_the_disk_has_no_room_for_fails_alone(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # What `write_repeated` says, which tests/scene/test_scene.py makes it say.
    monkeypatch.setattr(running.Bench, "_drawn", _no_room)
    found = invoke_json("bench", "--sizes", "64", "--weights", bundle, "--device", "cpu", code=5)

    [row] = found["images"]
    assert row["status"] == "failed"
    assert "free space" in row["error"].lower()
    assert found["quote"] is None
    assert list(tmp_path.iterdir()) == []


def _no_room(_: running.Bench, side: int, path: Path) -> Path:
    raise OutputError(f"an image of {side} pixels takes too much", file=path, advice="Free space there")


def test_who_asks_loads_no_library_whose_memory_it_wants_to_know() -> None:
    modules = [
        "magnet_cli.cli.bench",
        *(f"magnet_cli.bench.{name}" for name in ("api", "rounds", "conditions", "task", "table")),
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {', '.join(modules)}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert {"torch", "numpy", "tifffile", "matplotlib"} & set(done.stdout.split()) == set()


def test_errors_come_out_of_a_process_as_they_are_and_a_killed_one_is_named(tmp_path: Path) -> None:
    with Process("studio", SegmentOptions(weights=str(tmp_path / "nothing"))) as studio:
        with pytest.raises(WeightsError, match="nothing"):
            studio.ask("setting")
        studio._process.kill()
        with pytest.raises(DeviceError, match=r"'studio' was killed"):
            studio.ask("setting")


def test_an_interrupted_bench_leaves_no_files(tmp_path: Path, bundle: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["bench", "--sizes", "3000", "--weights", str(bundle), "--device", "cpu", "--json", "--no-progress"]
    environ = environment(TMPDIR=str(scratch), MAGNET_STATE=str(tmp_path / "state"))
    process = subprocess.Popen(command(*words), env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(scratch.glob("magnet-bench-*/generated-*.tif")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert json.loads(out)["error"] == "interrupted"
    assert "nothing is left behind" in err
    assert list(scratch.iterdir()) == []
