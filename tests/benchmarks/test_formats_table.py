"""The tables of docs/formats.md agree with what the readers make of the shared files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmarks import formats

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "formats"


def opened(text: str) -> set[str]:
    """Return the table lines of files that opened."""
    return {line for line in text.splitlines() if line.startswith("| ") and line.count(" | ") > 5}


def refused(text: str) -> set[str]:
    """Return the names of refused files. Messages are not compared, because those of libraries change."""
    return {line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and line.count(" | ") == 1}


# `tests/images/test_formats.py` reads these files in the default suite, and compares them with other readers.
@pytest.mark.full
@pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared/data beside the checkout")
def test_the_tables_are_what_the_readers_say(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    made = formats.tables([formats.look(path, FOLDER) for path in formats.find(FOLDER)])
    kept = formats.DOCUMENT.read_text(encoding="utf-8").partition(formats.BEGIN)[2].partition(formats.END)[0]
    assert opened(kept) == opened(made)
    assert refused(kept) == refused(made)
    assert len(opened(kept)) > 150


def test_a_cell_keeps_its_text_in_one_cell() -> None:
    row = formats.Row(file="a|b_c.tif", refusal="no <tag>")
    assert formats.refused_table([row]).splitlines()[-1] == r"| a\|b\_c.tif | no \<tag\> |"
