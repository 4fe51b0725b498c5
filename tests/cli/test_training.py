"""`magnet train backbone` prints lines and a bar, and resumes after an interruption."""

from __future__ import annotations

import io
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from magnet_cli.cli.app import app
from magnet_cli.cli.training_progress import TrainingDisplay
from magnet_cli.train import precision
from magnet_cli.train.loop import Tick
from tests.areas.drawn import annotation, square, write_drawn
from tests.cli.support import invoke
from tests.train.grnet import GRNET, SELECTOR
from tests.train.support import CONFIG, make_data, validating

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(folder: Path, text: str, *, what: str = "backbone", data: str = "data") -> Result:
    if not (folder / "data").exists():
        make_data(folder / "data")
    (folder / "tiny.toml").write_text(text)
    words = ["train", what, str(folder / data), "-o", str(folder / "tiny")]
    return CliRunner().invoke(app, [*words, "--config", str(folder / "tiny.toml")])


def test_where_nobody_looks_the_lines_of_the_log_are_told(tmp_path: Path) -> None:
    result = train(tmp_path, validating(CONFIG, every=20))
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["iteration", "10"], ["iteration", "20"]]
    assert "validation_miou" in lines[2]
    assert lines[-1] == f"{tmp_path / 'tiny'}: bundle 'tiny', 2 classes"
    assert result.stdout == ""


def test_quiet_prints_nothing_and_the_log_file_has_all_lines(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    (tmp_path / "tiny.toml").write_text(validating(CONFIG, every=20))
    words = ("train", "backbone", tmp_path / "data", "-o", tmp_path / "tiny", "--config", tmp_path / "tiny.toml")
    result = invoke(*words, "--quiet", "--log-file", tmp_path / "a.log")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    lines = [line.partition(" ")[2] for line in (tmp_path / "a.log").read_text().splitlines()]
    assert [line.split()[:2] for line in lines[1:3]] == [["iteration", "10"], ["iteration", "20"]]
    assert "validation_miou" in lines[3]
    assert lines[-1] == f"{tmp_path / 'tiny'}: bundle 'tiny', 2 classes"


class Closed(io.StringIO):
    """A pipe whose reader has gone after the first line."""

    def write(self, text: str) -> int:
        if self.tell():
            raise BrokenPipeError
        return super().write(text)


def test_a_training_goes_on_where_nobody_reads_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    with TrainingDisplay() as display:
        for iteration in (10, 20, 30):
            display.line({"iteration": iteration, "loss": 1.0})


def test_notes_on_polygons_are_printed(tmp_path: Path) -> None:
    make_data(tmp_path / "data")
    drawn = (annotation("dark", square(0, 0, 9, 9)), annotation("Ignore*", square(0, 0, 9, 9)))
    write_drawn(tmp_path / "data" / "c.geojson", *drawn)
    row = "images/a.png,labels/a.png,c.geojson"
    (tmp_path / "data" / "s.csv").write_text(f"image,label,corrections\n{row}\n", encoding="utf-8")
    result = train(tmp_path, CONFIG.replace("iterations = 40", "iterations = 1"), data="data/s.csv")
    assert result.exit_code == 0, result.stderr
    assert "polygons of Ignore* are left out, as QuPath does" in result.stderr


@pytest.mark.parametrize("has_it", [True, False])
def test_a_precision_that_the_processor_only_emulates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_it: bool
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: has_it)
    text = CONFIG.replace("iterations = 40", 'iterations = 1\nprecision = "bfloat16"')
    result = train(tmp_path, text)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("cpu has no instructions for bfloat16") == int(not has_it)
    assert "bfloat16" not in train(tmp_path / "float32", CONFIG.replace("iterations = 40", "iterations = 1")).stderr


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("what", ["backbone", "refiner", "cascade", "grnet", "selector"])
def test_every_kind_of_training_names_it_once_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, *, has_it: bool
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: has_it)
    monkeypatch.setattr(f"magnet_cli.train.{what}_training.train_{what}", lambda *_, message, **__: message("begins"))
    text = CONFIG.replace("iterations = 40", 'iterations = 1\nprecision = "bfloat16"')
    result = train(tmp_path, text + '[folds.loop]\nprecision = "bfloat16"\n', what=what)
    assert result.exit_code == 0, result.stderr
    before, _, after = result.stderr.partition("begins")
    assert before.count("cpu has no instructions for bfloat16") == int(not has_it)
    assert "bfloat16" not in after


def test_an_interruption_can_be_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_display: TrainingDisplay, tick: Tick) -> None:
        if tick.iteration == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "tick", interrupt)
        stopped = train(tmp_path, CONFIG)
    assert stopped.exit_code == 130
    assert "the same command goes on from there" in stopped.stderr
    assert not (tmp_path / "tiny").exists()
    assert train(tmp_path, CONFIG.replace("batch = 4", "batch = 5")).exit_code == 2
    assert train(tmp_path, CONFIG).exit_code == 0
    assert (tmp_path / "tiny.training" / "curves.png").exists()


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with TrainingDisplay() as display:
        display.tick(Tick(iteration=41, iterations=100, loss=0.5, rate=0.01))
        display.line({"iteration": 41, "loss": 0.123456, "rate": 0.01, "seconds": 1})
        display.line({"iteration": 41, "validation_miou": 0.25, "best_miou": 0.75, "seconds": 1})
        display.tick(Tick(iteration=42, iterations=100, loss=0.5, rate=0.01))
    shown = terminal.getvalue()
    assert "42/100" in shown
    assert "loss 0.5000  rate 1.00e-02  mIoU 0.250, best 0.750" in shown
    assert "validation_miou 0.25" in shown
    assert "0.123456" not in shown


def test_a_grnet_and_a_selector_are_trained_and_shown(tmp_path: Path) -> None:
    short = GRNET.replace("iterations = 8", "iterations = 4")
    assert train(tmp_path, short, what="grnet").exit_code == 0
    shown = CliRunner().invoke(app, ["weights", "show", str(tmp_path / "tiny")]).stdout
    assert "selector: ppn-small, selector.safetensors" in shown
    assert "local: grnet-small, local.safetensors" in shown
    refused = train(tmp_path, SELECTOR, what="selector")
    assert refused.exit_code == 2
    assert "trained with its own selector" in refused.stderr
