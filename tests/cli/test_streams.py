"""The program as a process has clean streams, a bar on a terminal, and an end by signals.

Where the start and the end of an interpreter do not matter, the process is forked from one with loaded libraries.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import command, environment, invoke, invoke_json, write_image
from tests.files import tree
from tests.forked import start_forked

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform != "win32":
    import pty

posix = pytest.mark.skipif(sys.platform == "win32", reason="wants signals and pseudo-terminals")


HOLDING = """
from magnet_cli.cli import program
program.signals.start()
import time
from pathlib import Path
from magnet_cli.segmentation.pass_runner import PassRunner
compute, done = PassRunner.compute, []

def held(self, given, known):
    if len(done) == 4:
        Path("held").touch()
        time.sleep(100)
    done.append(given)
    return compute(self, given, known)

PassRunner.compute = held
program.main()
"""
"""The program as its script starts it, but it waits before its fifth group, so that it cannot end before a signal."""


def test_json_alone_goes_to_standard_output(here: Path, image: Path, bundle: Path) -> None:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        words = ["segment", str(image), "--json", "-o", "out"]
        more = {"MAGNET_WEIGHTS": str(bundle), "FORCE_COLOR": "1"}
        process = start_forked(words, here, stdout=stdout.fileno(), stderr=stderr.fileno(), **more)
        process.join()
        printed, messages = (os.pread(file.fileno(), 1 << 20, 0).decode() for file in (stdout, stderr))
    assert process.exitcode == 0
    found = json.loads(printed)
    assert set(found) == {"schema", "images"}
    assert found["images"][0]["mask"] == "out/s.tif"
    assert messages.splitlines()[-1] == "out/s.tif: done"
    assert "\x1b" not in messages
    assert "pass 1" not in messages


def test_the_package_can_be_run_as_a_module() -> None:
    line = [sys.executable, "-m", "magnet_cli", "info", "none.tif"]
    found = subprocess.run(line, env=environment(), capture_output=True, check=False)
    assert found.returncode == 3
    assert b"magnet: none.tif" in found.stderr
    line = [sys.executable, "-m", "magnet_cli", "--help"]
    found = subprocess.run(line, env=environment(), capture_output=True, check=True)
    assert found.stdout.lstrip().startswith(b"Usage: magnet [OPTIONS]")


def screen(data: str) -> list[str]:
    """Return the lines that a terminal shows at the end, after new lines, moves of the cursor and erased lines."""
    lines, row, column = [""], 0, 0
    for text, moves, count in re.findall(r"([^\x1b]+)|\x1b\[\??([\d;]*)([A-Za-z])", data):
        if count == "A":
            row -= int(moves or 1)
        elif count == "K":
            lines[row] = ""
        for letter in text:
            if letter == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif letter == "\r":
                column = 0
            else:
                lines[row] = lines[row][:column].ljust(column) + letter + lines[row][column + 1 :]
                column += 1
    return lines


def on_terminal(*words: str | Path, cwd: Path) -> tuple[int, str]:
    """Run the program with a terminal as its standard error."""
    master, slave = pty.openpty()
    try:
        process = start_forked([str(word) for word in words], cwd, stderr=slave, TERM="xterm", COLUMNS="100")
        os.close(slave)
        data = b""
        while True:
            try:
                data += os.read(master, 65536)
            except OSError:
                # Linux: the other end is closed and nothing is left.
                break
        process.join()
        assert process.exitcode is not None
        return process.exitcode, data.decode()
    finally:
        os.close(master)


@posix
def test_a_terminal_shows_a_bar_and_is_left_clean(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.tif", size=(300, 400))
    (here / "in" / "b.tif").write_text("no image")
    code, data = on_terminal("segment", "in", "-o", "out", "--weights", bundle, cwd=here)
    assert code == 7
    assert "0 of 2 images: a.tif, pass 1 of 2" in data
    assert re.search(r"\b\d+%", data), "the bar says how much of the whole run is done"
    assert " left" in data
    assert data.rindex("\x1b[?25h") > data.rindex("\x1b[?25l"), "the cursor is shown again"
    shown = screen(data)
    assert "in/a.tif: bundle colours names no resolution" in shown[0]
    assert shown[1] == "out/a.tif: done"
    assert shown[2].startswith("magnet: in/b.tif: Give a TIFF, PNG, ")
    assert shown[3] == "  Why: this file is not an image that can be read"
    assert shown[4].startswith("2 images: 1 done, 1 failed; ")
    assert shown[9] == "  out/run.json lists every image"
    assert "".join(shown[10:]) == ""


@posix
def test_no_bar_where_it_is_not_wanted(here: Path, image: Path, bundle: Path) -> None:
    code, data = on_terminal("segment", image, "--no-progress", "--weights", bundle, cwd=here)
    assert code == 0
    assert "pass 1" not in data
    assert "\x1b" not in data


@posix
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("info", "s.tif"), "s.tif, reading"),
        (("verify", "m.tif"), "m.tif, checking"),
        (("report", "m.tif"), "m.tif, drawing"),
        (("export", "m.tif", "--format", "cog"), "m.tif, exporting"),
        (("scene", "t.tif", "--size", "64x64"), "t.tif, drawing"),
    ],
)
def test_other_commands_show_that_they_work_unless_told_otherwise(
    here: Path, image: Path, bundle: Path, words: tuple[str, ...], shown: str
) -> None:
    invoke("segment", image, "-o", "m.tif", "--weights", bundle)
    code, data = on_terminal(*words, cwd=here)
    assert code == 0
    assert shown in data
    more = ("--overwrite",) if words[0] in ("export", "scene") else ()
    code, data = on_terminal(*words, *more, "--no-progress", cwd=here)
    assert code == 0
    assert "\x1b" not in data


@posix
# `tests/laws/test_resume.py` sends both signals to the same command in a forked process.
@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.full)])
def test_an_interrupted_run_goes_on(here: Path, bundle: Path, name: str) -> None:
    write_image(here / "s.tif", size=(420, 500))
    words = ("segment", "s.tif", "--weights", str(bundle), "-b", "1", "--json")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, *words, "-o", "m.tif"],
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and not (here / "held").exists():
            time.sleep(0.005)
        process.send_signal(getattr(signal, name))
        output, messages = process.communicate(timeout=120)
    assert process.returncode == 130, messages
    assert json.loads(output) == {"schema": 1, "images": [], "error": "interrupted", "exit_code": 130}
    assert messages.splitlines()[-1].startswith("magnet: interrupted; what was finished is kept")
    assert sorted(tree(here)) == ["held", "m.tif.journal", "s.tif"]

    found = invoke_json(*words[:-1], "-o", "m.tif")["images"][0]
    groups = found["report"]["groups"]
    assert groups["resumed"] > 0
    # Each block is a group twice: while it is computed, and while its border is blended with its neighbours'.
    assert groups["resumed"] + groups["computed"] == 2 * found["report"]["passes"][0]["blocks"]
    assert invoke(*words, "-o", "never.tif").exit_code == 0
    assert (here / "m.tif").read_bytes() == (here / "never.tif").read_bytes()


def refused_by_a_full_output(here: Path, words: tuple[str, ...], **more: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            command(*words),
            cwd=here,
            env=environment(**more),
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == (
        "magnet: Send the output where there is space\n"
        "  Why: standard output cannot be written (got No space left on device)\n"
    )
    assert done.returncode == 5


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="wants a device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("words", [("info", "s.tif"), ("info", "s.tif", "--json"), ("weights", "list")])
def test_standard_output_that_is_full(here: Path, image: Path, words: tuple[str, ...]) -> None:
    assert image.exists()
    refused_by_a_full_output(here, words)


@posix
def test_a_reader_of_standard_output_that_has_left(here: Path, image: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("info", image), cwd=here, env=environment(), check=False, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (5, b"")


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="wants a device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("more", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("words", [("--help",), ("--version",), ("segment", "--help")])
def test_help_that_cannot_be_printed(here: Path, words: tuple[str, ...], more: dict[str, str]) -> None:
    refused_by_a_full_output(here, words, **more)


@posix
def test_closed_standard_output_is_named(here: Path, image: Path) -> None:
    script = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "magnet_cli.cli.program", "info", str(image)]
    done = subprocess.run(script, cwd=here, env=environment(), check=False, stderr=subprocess.PIPE, text=True)
    assert done.stderr == (
        "magnet: Send the output where there is space\n  Why: standard output cannot be written (got it is closed)\n"
    )
    assert done.returncode == 5


@posix
def test_closed_standard_error_stops_nothing(here: Path, image: Path, bundle: Path) -> None:
    words = ("segment", str(image), "-o", "m.tif", "--weights", str(bundle))
    script = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command(*words)]
    assert subprocess.run(script, cwd=here, env=environment(), check=False).returncode == 0
    assert (here / "m.json").exists()


@posix
@pytest.mark.parametrize("full", [False, True], ids=["nobody reads", "full"])
def test_messages_that_nobody_hears_stop_nothing(here: Path, image: Path, bundle: Path, *, full: bool) -> None:
    reading, heard = os.pipe()
    os.close(reading)
    if full:
        os.close(heard)
        heard = os.open("/dev/full", os.O_WRONLY)
    process = start_forked(["segment", str(image), "-o", "m.tif", "--weights", str(bundle)], here, stderr=heard)
    process.join()
    assert process.exitcode == 0
    # At its end an interpreter of its own writes what is left, and fails with 120 where it cannot.
    ended = subprocess.run(command("info", "missing.tif"), cwd=here, env=environment(), check=False, stderr=heard)
    os.close(heard)
    assert ended.returncode == 3
    assert (here / "m.json").exists()
