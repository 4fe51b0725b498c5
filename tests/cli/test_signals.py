"""Ctrl-C and SIGTERM end the program with 130 and one line, also while it starts and while libraries are imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="wants signals")
NUMBERS = [signal.SIGINT, signal.SIGTERM]
DEFAULT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""A program that starts in the background of a shell ignores SIGINT unless it does this."""
STARTING = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "magnet_cli.cli.app":
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Finder())
from magnet_cli.cli.program import main
main()
"""
RUNNING = """
import importlib, os, sys
from magnet_cli.cli import signals
from magnet_cli.cli.outcome import command

@command
def work():
    KIND

sys.path.insert(0, sys.argv[2])
signals.start()
work()
"""
STUBBORN = """
import os, sys
for _ in range(2):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except BaseException as error:
        raise ImportError("something is wrong with the library") from error
"""


def ended(code: str, number: int, *more: str | Path) -> tuple[int, str]:
    """Return the exit code and the messages of a program that gets a signal."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(number)), *map(str, more)],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", NUMBERS)
def test_in_the_first_moments(number: int) -> None:
    assert ended(DEFAULT + STARTING, number) == (130, "magnet: interrupted; nothing was begun\n")


def test_a_library_that_is_imported_cannot_turn_it_into_an_error(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    code = RUNNING.replace("KIND", 'importlib.import_module("stubborn")')
    line = "magnet: interrupted; what was finished is kept, and the same command goes on from there\n"
    assert ended(code, signal.SIGTERM, tmp_path) == (130, line)


def test_a_second_signal_does_not_break_the_message_of_the_first(tmp_path: Path) -> None:
    kill = "os.kill(os.getpid(), int(sys.argv[1]))"
    code = RUNNING.replace("KIND", f"try:\n        {kill}\n    finally:\n        {kill}")
    status, text = ended(DEFAULT + code, signal.SIGINT, tmp_path)
    assert status == 130
    assert text.count("\n") == 1
    assert text.startswith("magnet: interrupted; ")


def test_a_signal_after_the_end_does_not_hide_the_outcome(tmp_path: Path) -> None:
    code = RUNNING.replace("KIND", "return 7").replace(
        "\nwork()", "\ntry:\n    work()\nfinally:\n    os.kill(os.getpid(), int(sys.argv[1]))"
    )
    status, text = ended(code, signal.SIGTERM, tmp_path)
    assert status != -signal.SIGTERM
    assert "interrupted" not in text


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        kill = "os.kill(os.getpid(), int(sys.argv[1]))"
        status, text = ended(RUNNING.replace("KIND", f"{kill}; os._exit(9)"), signal.SIGINT, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, text) == (9, "")
