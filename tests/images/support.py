"""Helpers that tests of several readers use."""

from __future__ import annotations

import subprocess
import sys


def info_without(library: str, *sources: object) -> str:
    """Run `magnet info` as if a library were not installed, and check that it ends as for an unreadable input.

    Returns:
        The text on standard error.
    """
    words = ["magnet", "info", *map(str, sources)]
    before = f"import sys; sys.modules[{library!r}] = None; sys.argv = {words!r}"
    code = f"{before}\nfrom magnet_cli.cli.app import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    return done.stderr
