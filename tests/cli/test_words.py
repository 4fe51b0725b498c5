"""Options also come from environment variables, and fixed rules decide which value wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from magnet_cli.cli.app import app
from tests.cli.support import invoke, invoke_json, one_failure


def test_the_environment_gives_options(image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNET_WEIGHTS", str(bundle))
    monkeypatch.setenv("MAGNET_SCALES", "32,96")
    monkeypatch.setenv("MAGNET_OVERLAP", "4")
    monkeypatch.setenv("MAGNET_BATCH_SIZE", "3")
    monkeypatch.setenv("MAGNET_OUTPUT", "out")
    monkeypatch.setenv("MAGNET_MEMORY", "20GiB")
    options = invoke_json("segment", image)["images"][0]["report"]["options"]
    assert options["scales"] == [{"width": 96, "height": 96}, {"width": 32, "height": 32}]
    assert options["overlap"] == 4
    assert options["batch"] == 3
    assert Path("out/s.tif").is_file()
    found = invoke_json("plan", image, "--scales", "64")["images"][0]
    assert [stage["scale"]["width"] for step in found["passes"] for stage in step["stages"]] == [64]
    assert found["memory"]["budget"] == 20 << 30


def test_a_wrong_word_in_the_environment(image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNET_MEMORY", "4")
    result = invoke("segment", image, "--weights", bundle)
    assert result.exit_code == 2
    assert "'4'" in one_failure(result)
    monkeypatch.delenv("MAGNET_MEMORY")
    monkeypatch.setenv("MAGNET_NUM_WORKERS", "many")
    result = invoke("segment", image, "--weights", bundle)
    assert result.exit_code == 2
    assert "MAGNET_NUM_WORKERS" in result.stderr


def test_the_command_line_beats_the_environment_for_the_device(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("plan", image, "--weights", bundle)
    monkeypatch.setenv("MAGNET_DEVICE", "cpu")
    result = invoke(*words, "--gpu", "99")
    assert result.exit_code == 6
    assert "there is no GPU 99" in one_failure(result)
    monkeypatch.setenv("MAGNET_GPU", "98")
    result = invoke(*words)
    assert result.exit_code == 2
    assert "MAGNET_DEVICE and MAGNET_GPU" in one_failure(result)
    monkeypatch.delenv("MAGNET_DEVICE")
    assert "there is no GPU 98" in one_failure(invoke(*words))
    assert invoke_json(*words, "--device", "cpu")["images"][0]["device"] == "cpu"


def test_the_command_line_beats_the_environment_for_the_size_to_read_at(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("plan", image, "--weights", bundle, "--slide-mpp", "0.25")
    monkeypatch.setenv("MAGNET_MAG", "20")
    assert invoke_json(*words)["images"][0]["working_pixel"] == {"width": 2.0, "height": 2.0}
    found = invoke_json(*words, "--mpp", "1")["images"][0]
    assert (found["working_pixel"], found["read_at"]) == ({"width": 4.0, "height": 4.0}, "--mpp 1")
    for name, value in (("MAGNET_LEVEL", "0"), ("MAGNET_GSD", "2")):
        monkeypatch.setenv(name, value)
        result = invoke(*words)
        assert result.exit_code == 2
        assert "--mag 20" in one_failure(result)
        assert f"--{name[7:].lower()} {value}" in one_failure(result)


def test_the_environment_says_nothing_of_stages_that_a_typed_method_lacks(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("plan", image, "--weights", bundle)
    for name, value in (("POINTS", "50%"), ("MERGE", "mean"), ("MEDIAN", "3"), ("PATCHES", "2"), ("SELECT", "change")):
        monkeypatch.setenv(f"MAGNET_{name}", value)
    found = {method: invoke_json(*words, "--method", method)["images"][0] for method in ("patch", "magnet")}
    assert (found["patch"]["method"], found["patch"]["median"]) == ("patch", 11)
    assert (found["magnet"]["points"], found["magnet"]["patches"]) == ("50%", "all")
    assert invoke_json(*words, "--method", "magnet-fast")["images"][0]["select"] == "change"
    monkeypatch.setenv("MAGNET_METHOD", "patch")
    assert "--points 50%" in one_failure(invoke(*words))


def test_the_environment_says_nothing_of_polygons_where_there_are_none(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGNET_SIMPLIFY", "1")
    monkeypatch.setenv("MAGNET_MIN_AREA", "9")
    words = ("segment", image, "--weights", bundle, "--method", "downsample")
    report = invoke_json(*words, "-o", "m.tif")["images"][0]["report"]
    assert "--simplify" not in report["command"]
    assert invoke("export", "m.tif", "--format", "ome-zarr").exit_code == 0
    assert invoke(*words, "-o", "n.tif", "--min-area", "9").exit_code == 2
    assert invoke("export", "m.tif", "--format", "ome-zarr", "--simplify", "1").exit_code == 2
    report = invoke_json(*words, "-o", "n.tif", "--geojson")["images"][0]["report"]
    assert report["command"][-6:] == ["--format", "geojson", "--simplify", "1", "--min-area", "9"]


def test_underscores_are_understood(image: Path, bundle: Path) -> None:
    words = ("--method", "magnet_fast", "--patches", "2", "--batch_size", "5", "--num_workers", "0")
    found = invoke_json("plan", image, "--weights", bundle, *words)["images"][0]
    assert (found["method"], found["patches"], found["batch"]) == ("magnet-fast", "2", 5)


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--points", "q>0.25"], "points", "q>0.25"),
        (["--points", "0.5"], "points", "50%"),
        (["--points", "7"], "points", "7"),
        (["--method", "magnet-fast", "--patches", "u>0.125"], "patches", "u>0.125"),
        (["--method", "magnet-fast", "--patches", "2,1"], "patches", "2,1"),
        (["--method", "magnet-fast"], "patches", "3"),
        (["--median", "3"], "median", 3),
    ],
)
def test_options_are_told_as_they_are_spelled(
    image: Path, bundle: Path, words: list[str], key: str, value: object
) -> None:
    assert invoke_json("plan", image, "--weights", bundle, *words)["images"][0][key] == value


@pytest.mark.parametrize("points", ["q>0.2", "20%", "64"])
def test_choices_run(image: Path, bundle: Path, points: str) -> None:
    found = invoke_json("segment", image, "--weights", bundle, "--method", "magnet-fast", "--points", points)
    last = found["images"][0]["report"]["passes"][-1]["stages"][-1]
    assert last["windows_run"] + sum(last["not_run"].values()) == last["windows"]


def test_version_and_help() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("magnet ")
    assert invoke("-h").stdout == invoke("--help").stdout
    assert "--no-version" not in invoke("--help").stdout


def test_an_option_is_spelled_alike_everywhere() -> None:
    group: Any = typer.main.get_command(app)
    spelled: dict[str, set[tuple[Any, ...]]] = {}
    for name in ("segment", "plan", "info", "verify", "report"):
        for parameter in group.commands[name].params:
            if parameter.param_type_name == "option":
                found = (tuple(parameter.opts), parameter.envvar, parameter.help, str(parameter.default))
                spelled.setdefault(parameter.name, set()).add(found)
    assert {name: found for name, found in spelled.items() if len(found) != 1} == {}
    once = {"overwrite", "resume", "image", "trust"}
    for name, once_found in spelled.items():
        words, variable, *_ = next(iter(once_found))
        longest: str = max(words, key=len)
        assert variable == (None if name in once else f"MAGNET_{longest[2:].replace('-', '_').upper()}")
