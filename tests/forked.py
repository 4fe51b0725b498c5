"""Commands run in processes forked from one with loaded libraries, so that torch is loaded once for all of them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.cli.app import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.context import ForkServerContext, ForkServerProcess

LOADED = ["magnet_cli.segmentation.api", "tests.laws.driver", "tests.forked"]
"""Modules that every forked process has loaded. A session has one server, so the list is the same for all tests."""


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
    """Run `magnet WORDS` in a folder with this process's environment, and discard what it prints."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as stderr:
        process = start_forked(words, folder, stderr=stderr.fileno())
        process.join()
        return Ended(code=process.exitcode, stderr=Path(stderr.name).read_text(encoding="utf-8"))


def start_forked(
    words: Sequence[str], folder: Path, *, stdout: int | None = None, stderr: int | None = None, **more: str
) -> ForkServerProcess:
    """Start `magnet WORDS` in a folder with this process's environment.

    Args:
        words: The words after the program's name.
        folder: The current folder of the process.
        stdout: Descriptor of the standard output, which stays open here. None discards the output.
        stderr: Descriptor of the standard error, with the same rules.
        more: Further environment variables.
    """
    with open(os.devnull, "r+b") as nowhere:  # noqa: PTH123 (no path of a file)
        descriptors = [nowhere.fileno(), *(nowhere.fileno() if each is None else each for each in (stdout, stderr))]
        # A connection is what multiprocessing hands to a process of the server with its descriptor.
        streams = [Connection(os.dup(each)) for each in descriptors]
    process = context().Process(target=_type, args=(list(words), folder, {**os.environ, **more}, streams))
    process.start()
    for stream in streams:
        stream.close()
    return process


def _type(words: list[str], folder: Path, environment: Mapping[str, str], streams: Sequence[Connection]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, given in zip((sys.stdin, sys.stdout, sys.stderr), streams, strict=True):
        os.dup2(given.fileno(), stream.fileno())
        given.close()
    os.chdir(folder)
    sys.argv = ["magnet", *words]
    main()
