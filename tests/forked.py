"""The program in a process forked from one that has loaded its libraries: torch is loaded once for all commands."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.cli.app import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.context import ForkServerContext

LOADED = ["magnet_cli.segmentation.api", "tests.laws.driver", "tests.forked"]
"""What every forked process has already; the same list for all tests, because a session has one server."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int | None
    stderr: str


def context() -> ForkServerContext:
    """Return a context of processes that start with the libraries loaded."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(LOADED)
    return found


def run_forked(words: Sequence[str], folder: Path) -> Ended:
    """Type `magnet WORDS` in a folder, in this process's environment; what it prints goes nowhere."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as stderr:
        process = context().Process(target=_type, args=(list(words), folder, dict(os.environ), stderr.name))
        process.start()
        process.join()
        return Ended(code=process.exitcode, stderr=Path(stderr.name).read_text(encoding="utf-8"))


def _type(words: list[str], folder: Path, environment: Mapping[str, str], stderr: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((sys.stdin, os.devnull), (sys.stdout, os.devnull), (sys.stderr, stderr)):
        file = os.open(name, os.O_RDWR)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.chdir(folder)
    sys.argv = ["magnet", *words]
    main()
