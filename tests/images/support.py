"""What tests of several readers share."""

from __future__ import annotations

import subprocess
import sys


def info_without(library: str, *sources: object) -> str:
    """Run `magnet info` where a library is not installed; it has to fail as for an unreadable input.

    Returns:
        What it wrote to standard error.
    """
    words = ["magnet", "info", *map(str, sources)]
    before = f"import sys; sys.modules[{library!r}] = None; sys.argv = {words!r}"
    code = f"{before}\nfrom magnet_cli.cli.app import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    return done.stderr
