"""What ends a command from outside is named in one true line: folders that vanish, loops of links, limits of memory."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import magnet_cli
from magnet_cli.cli.outcome import expected_failure
from magnet_cli.errors import DeviceError, OutputError
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.system import address_space, durable
from tests.cli.support import command, environment, invoke, one_failure
from tests.train.support import CONFIG, make_data

if TYPE_CHECKING:
    from pathlib import Path

PATCH = ("--method", "patch")


@pytest.mark.parametrize("comes_back", [False, True])
def test_an_output_folder_that_is_removed_ends_the_run_early_and_nothing_is_said_to_be_kept(
    here: Path, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool
) -> None:
    write_at, writes = durable.write_at, list[int]()

    def removing(descriptor: int, data: bytes, offset: int) -> None:
        write_at(descriptor, data, offset)
        writes.append(offset)
        if len(writes) == 6:
            shutil.rmtree(here / "out")
            if comes_back:
                (here / "out").mkdir()

    def counting(descriptor: int, data: bytes, offset: int) -> None:
        writes.append(offset)
        write_at(descriptor, data, offset)

    words = ("segment", image, "--weights", bundle, *PATCH, "--scales", "32", "-o", "out")
    monkeypatch.setattr(durable, "write_at", removing)
    result = invoke(*words)
    assert result.exit_code == 5
    assert "out/s.tif.journal: " in result.stderr
    assert "the journal was removed or replaced while the run wrote it" in result.stderr
    assert "kept" not in result.stderr
    early = len(writes)
    assert not list(here.glob("out/*"))
    writes.clear()
    monkeypatch.setattr(durable, "write_at", counting)
    assert invoke(*words).exit_code == 0
    assert early < len(writes)


def test_loops_of_links_are_named(here: Path, image: Path, bundle: Path) -> None:
    (here / "loop").symlink_to("pool")
    (here / "pool").symlink_to("loop")
    for name in ("loop.tif", "loop.geojson"):
        (here / name).symlink_to(name)
    (here / "tiny.toml").write_text(CONFIG)
    make_data(here / "data")
    common = ("--weights", bundle, *PATCH)
    for code, words in (
        (3, ("segment", "loop.tif", *common)),
        (5, ("segment", image, *common, "-o", "loop/x.tif")),
        (5, ("segment", image, *common, "-o", "loop")),
        (3, ("segment", image, *common, "--roi", "loop.geojson")),
        (3, ("segment", image, *common, "--mask", "loop.tif")),
        (4, ("segment", image, "--weights", "./loop")),
        (3, ("info", "loop.tif")),
        (3, ("export", "loop.tif", "--format", "cog")),
        (5, ("report", "loop.tif")),
        (5, ("scene", "loop/s.tif", "--size", "64x64")),
        (5, ("train", "backbone", "data", "--config", "tiny.toml", "-o", "loop/t")),
    ):
        result = invoke(*words)
        assert (result.exit_code, words) == (code, words), result.stderr
        assert "loop" in one_failure(result)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wants a limit that Linux keeps")
def test_an_address_space_that_is_too_small_is_named(here: Path, image: Path, bundle: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 1048576; exec "$@"', "sh", *command("segment", image, "--weights", bundle)],
        cwd=here,
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 6, done.stderr
    action, why = done.stderr.splitlines()
    assert action.startswith("magnet: Raise the limit (ulimit -v unlimited)")
    assert why.startswith("  Why: the address space of this process is limited to 1.00 GiB, and its libraries")


@pytest.mark.parametrize("words", [("bench", "--sizes=64"), ("evaluate", "--data=list.csv")])
def test_each_command_that_loads_networks_looks_at_the_address_space(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise address_space.shortage(1 << 30)

    for room in ("bench", "evaluate"):
        monkeypatch.setattr(f"magnet_cli.cli.{room}.check_address_space", refuse)
    result = invoke(*words)
    assert result.exit_code == 6
    assert "limited to 1.00 GiB" in one_failure(result)


def test_an_address_space_that_is_only_just_large_enough_for_the_libraries_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_space, "PROBE", "print(1 << 20)")
    for limit, is_enough in (((1 << 30) + (64 << 20), False), (1 << 44, True)):
        monkeypatch.setattr(address_space, "address_space_limit", lambda limit=limit: limit)
        if is_enough:
            address_space.check_address_space()
        else:
            with pytest.raises(DeviceError, match=r"limited to 1\.06 GiB, and its libraries need at least"):
                address_space.check_address_space()


def test_memory_that_runs_out_anywhere_is_no_bug() -> None:
    found = expected_failure(MemoryError())
    assert isinstance(found, DeviceError)
    assert expected_failure(ZeroDivisionError()) is None


def test_without_a_folder_for_temporary_files_everything_else_works(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system of a container may be read-only but for the folder of the outputs."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    monkeypatch.setattr("tempfile.gettempdir", none)
    for words in (
        ("plan", image, "--weights", bundle, "--value-range", "2%,98%"),
        ("evaluate", "m.tif", "m.tif"),
        ("refine", image, "m.tif", "--method", "guided", "-o", "refined.tif", "--dry-run"),
    ):
        assert invoke(*words).exit_code == 0, words
    with magnet_cli.open_image(image) as opened:
        assert opened.read("0,0,8,8").pixels.shape == (8, 8, 3)
    with pytest.raises(OutputError, match="no folder for temporary files can be written"):
        magnet_cli.segment_array(image, SegmentOptions(weights=str(bundle)))
    found = invoke("doctor")
    assert "no folder that can be written" in found.stdout


DIGITS = "9" * 400


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("plan", "s.tif", "--level", DIGITS), "--level is at most 1000"),
        (("plan", "s.tif", "--memory", f"{DIGITS}GiB"), "--memory takes a size with a binary unit"),
        (("plan", "s.tif", "--gpu-memory", f"{DIGITS}GiB"), "--gpu-memory takes a size with a binary unit"),
        (("plan", "s.tif", "--classes", "9" * 5000), ""),
        (("plan", "s.tif", "--roi", f"0,0,9,{DIGITS}"), ""),
        (("plan", "s.tif", "--points", f"q>{DIGITS}"), ""),
        (("plan", "s.tif", "--scales", DIGITS), ""),
        (("scene", "new.tif", "--seed", DIGITS), "--seed is a number of at most 2147483647"),
    ],
)
def test_numbers_of_hundreds_of_digits_are_wrong_usage(
    here: Path, image: Path, bundle: Path, words: tuple[str, ...], rule: str
) -> None:
    result = invoke(*words, *(("--weights", bundle) if words[0] == "plan" else ()))
    assert result.exit_code == 2, result.stderr
    assert rule in result.stderr
    assert [path.name for path in here.iterdir()] == [image.name]


@pytest.mark.parametrize("number", [DIGITS, "9" * 5000, "1e400"])
def test_numbers_of_hundreds_of_digits_in_files(here: Path, image: Path, bundle: Path, number: str) -> None:
    (here / "r.geojson").write_text(f'{{"type":"Polygon","coordinates":[[[0,0],[{number},0],[9,9],[0,0]]]}}')
    result = invoke("plan", image, "--weights", bundle, "--roi", "r.geojson")
    assert result.exit_code == 3, result.stderr
    assert "r.geojson" in one_failure(result)
    broken = here / "broken"
    shutil.copytree(bundle, broken)
    text = (broken / "bundle.json").read_text()
    assert '"width": 32' in text
    (broken / "bundle.json").write_text(text.replace('"width": 32', f'"width": {number}'))
    result = invoke("plan", image, "--weights", broken)
    assert result.exit_code == 4, result.stderr
    assert "broken" in one_failure(result)
