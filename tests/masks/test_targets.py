"""Files are recognised as masks of earlier runs, or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from magnet_cli.masks import report_file
from magnet_cli.masks.targets import is_earlier_output

if TYPE_CHECKING:
    from typing import Any

OURS = b'{"program": {"name": "magnet", "version": "0"}}'


@pytest.mark.parametrize("before", range(60))
def test_a_report_is_recognised_wherever_it_says_who_wrote_it(
    before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_file, "SEARCHED", 64)
    (tmp_path / "x.json").write_bytes(b" " * before + OURS + b" " * 200)
    assert is_earlier_output(tmp_path / "x.tif")


def test_another_programs_json_makes_no_mask(tmp_path: Path) -> None:
    assert not is_earlier_output(tmp_path / "x.tif")
    (tmp_path / "x.json").write_bytes(b'{"type": "FeatureCollection", "name": "magnet"}' * 9)
    assert not is_earlier_output(tmp_path / "x.tif")


@pytest.mark.parametrize("name", ["x.png", "x.geojson"])
def test_an_unreadable_file_is_no_earlier_output(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder run goes on, and the file's own line says what is wrong with it."""
    (tmp_path / name).write_bytes(b"unreadable")

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refused)
    assert not is_earlier_output(tmp_path / name)
