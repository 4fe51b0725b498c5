"""A stored speed is found again for exactly the case in which it was measured, and for no other."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from magnet_cli.errors import OutputError
from magnet_cli.system.speeds import (
    NAME,
    Case,
    Figure,
    format_seconds,
    nearest_figure,
    state_folder,
    store_figure,
    stored_figures,
)

CASE = Case(bundle="ab", device="cpu, X, 2 cores", precision="float32", method="magnet", merge="mean", batch=4)


def test_the_nearest_image_of_the_same_case_counts(tmp_path: Path) -> None:
    for pixels, speed in ((100, 1.0), (10_000, 2.0)):
        store_figure(Figure(case=CASE, pixels=pixels, windows_per_second=speed), tmp_path)
    store_figure(Figure(case=replace(CASE, method="patch"), pixels=1500, windows_per_second=9.0), tmp_path)

    found = [nearest_figure(CASE, pixels=pixels, folder=tmp_path) for pixels in (1, 900, 1100, 10**9)]

    assert [figure.windows_per_second for figure in found if figure] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    "other",
    [{"bundle": "cd"}, {"device": "cuda, Y"}, {"precision": "bfloat16"}, {"merge": "refiner"}, {"batch": 8}],
    ids=str,
)
def test_another_case_has_no_figure(tmp_path: Path, other: dict[str, str]) -> None:
    store_figure(Figure(case=CASE, pixels=100, windows_per_second=1.0), tmp_path)

    assert nearest_figure(replace(CASE, **other), pixels=100, folder=tmp_path) is None  # type: ignore[arg-type]


def test_a_new_figure_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for speed in (1.0, 3.0):
        store_figure(Figure(case=CASE, pixels=100, windows_per_second=speed), tmp_path)

    assert [figure.windows_per_second for figure in stored_figures(tmp_path)] == [3.0]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"schema": 9, "figures": []}', '{"schema": 1, "figures": [{"case": {}}]}', "[]", '{"schema": 1}'],
)
def test_a_file_that_cannot_be_read_holds_nothing_and_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)

    assert stored_figures(tmp_path) == []
    store_figure(Figure(case=CASE, pixels=100, windows_per_second=1.0), tmp_path)
    assert len(stored_figures(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputError, match="file"):
        store_figure(Figure(case=CASE, pixels=1, windows_per_second=1.0), tmp_path / "file" / "state")


def test_where_figures_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNET_STATE", "/some/where")
    assert state_folder() == Path("/some/where")
    monkeypatch.delenv("MAGNET_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", "/other")
    assert state_folder() == Path("/other/magnet")


@pytest.mark.skipif(os.name == "nt", reason="Windows has a variable for the folder")
def test_an_account_without_a_home_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a number for which no account is listed, and without HOME."""
    for name in ("HOME", "XDG_STATE_HOME", "MAGNET_STATE"):
        monkeypatch.delenv(name, raising=False)

    def unlisted(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unlisted)
    assert stored_figures() == []
    with pytest.raises(OutputError, match=r"has no home folder.*MAGNET_STATE"):
        store_figure(Figure(case=CASE, pixels=100, windows_per_second=1.0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (4.94, "4.9 s"), (61, "61 s"), (138, "2.3 min"), (1860, "31 min"), (5400, "1.5 h")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
