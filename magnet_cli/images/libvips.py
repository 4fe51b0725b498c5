"""The module loads libvips without its warnings: they repeat errors of the reader, or do not concern a user."""

from __future__ import annotations

import os
import sys

# pyvips hands warnings of libvips to a function in Python. Where the garbage collector frees a picture while that
# function runs, libvips warns again, and GLib ends the process (SIGABRT) when a handler is called within itself. With
# the variable libvips has a handler of its own that does nothing; it was read when a caller has imported pyvips before.
IS_FIRST = "pyvips" not in sys.modules
if IS_FIRST:
    os.environ.setdefault("VIPS_WARNING", "0")

import pyvips  # noqa: E402 (the variable has to be there before)

if IS_FIRST:
    pyvips._remove_log_handler()  # noqa: SLF001 (pyvips has no public way to leave its handler out)

__all__ = ["pyvips"]
