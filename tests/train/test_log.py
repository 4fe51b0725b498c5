"""The log of a training continues after an interruption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magnet_cli.errors import OutputError
from magnet_cli.train.log import append_line, cut_log, read_log

if TYPE_CHECKING:
    from pathlib import Path


def test_what_will_be_told_again_and_a_torn_line_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t" / "log.jsonl"
    assert read_log(path) == []
    lines = [{"iteration": iteration, "loss": 0.5} for iteration in (10, 20, 30)]
    for line in lines:
        append_line(path, line)
    with path.open("a") as file:
        file.write('{"iteration": 40, "lo')
    assert read_log(path) == lines
    cut_log(path, iteration=20)
    append_line(path, lines[2])
    assert read_log(path) == lines
    assert path.read_text().count("\n") == 3


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a file")
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        append_line(tmp_path / "t" / "log.jsonl", {"iteration": 1})
