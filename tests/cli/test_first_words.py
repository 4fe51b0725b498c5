"""The first words that somebody types: none, `help`, a wrong command, a wrong option."""

from __future__ import annotations

from pathlib import Path

import pytest

from magnet_cli import __version__
from tests.cli.support import invoke, one_failure, write_image


def test_without_words_the_help_is_printed_in_lines() -> None:
    result = invoke()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.strip() == invoke("--help").stdout.strip()
    assert "\\n" not in result.stderr
    assert "  magnet segment IMAGE -o masks --html" in result.stderr


@pytest.mark.parametrize("words", [(), ("segment",), ("weights",), ("weights", "import"), ("train",)], ids=" ".join)
def test_help_is_a_command_too(words: tuple[str, ...]) -> None:
    asked = invoke("help", *words)
    assert asked.exit_code == 0
    assert asked.stdout == invoke(*words, "--help").stdout
    assert "Usage: magnet" in asked.stdout


@pytest.mark.parametrize("words", [["help", "segment"], ["help"], ["weights", "help"], ["version"]])
def test_help_and_version_may_follow_an_option(words: list[str]) -> None:
    asked = invoke("--debug", *words)
    assert asked.exit_code == 0, asked.stderr
    assert asked.stdout == invoke(*words).stdout


@pytest.mark.parametrize("word", ["help", "version"])
def test_words_that_are_no_commands_have_the_help_of_the_program(word: str) -> None:
    asked = invoke("help", word)
    assert (asked.exit_code, asked.stdout) == (0, invoke("--help").stdout)


def test_the_version_is_a_command_too() -> None:
    assert [invoke(word).stdout for word in ("version", "-V", "--version")] == [f"magnet {__version__}\n"] * 3


def test_the_list_of_commands_has_whole_sentences() -> None:
    listed = invoke("--help").stdout.partition("Commands:")[2].partition("First steps")[0]
    assert "..." not in listed
    assert "Segment images of any size, and write a mask and a report for each." in " ".join(listed.split())


def test_the_usage_and_the_arguments_have_no_types_of_python() -> None:
    shown = invoke("segment", "--help").stdout
    assert shown.startswith("Usage: magnet segment [OPTIONS] INPUT...\n")
    assert "  INPUT...  Images, folders" in shown
    assert "<str>" not in shown
    assert "list[" not in shown
    assert invoke("evaluate", "--help").stdout.startswith("Usage: magnet evaluate [OPTIONS] [MASK] [TRUTH]\n")


@pytest.mark.parametrize(
    ("words", "action", "why"),
    [
        (["segmnet", "x.tif"], "Write magnet segment", "magnet has no such command (got segmnet)"),
        (["nothing-like-it"], "Check the spelling; 'magnet --help' lists the commands", "got nothing-like-it"),
        (["weights", "lst"], "Write magnet weights list", "magnet weights has no such command (got lst)"),
        (["segment", "--hlep"], "Write --help", "the command magnet segment has no such option (got --hlep)"),
        (["segment", "x", "--zzz"], "'magnet segment --help' lists the options", "got --zzz"),
        (["segment"], "Write magnet segment [OPTIONS] INPUT...", "INPUT... is missing"),
        (["train", "backbone", "data"], "Write magnet train backbone", "--output is missing"),
        (["segment", "x", "--scales"], "Write a value after --scales; 'magnet segment --help'", "requires an argument"),
        (["segment", "x", "--tissue", "foo"], "Write --tissue auto, otsu or none", "'foo' is not one of"),
        (["segment", "x", "--num-workers", "a"], "Write a number for --num-workers", "valid integer"),
        (["evaluate", "a", "b", "c"], "'magnet evaluate --help'", "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_end_with_what_to_write_and_why(words: list[str], action: str, why: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    first, second = one_failure(result).split("\n")
    assert action in first
    assert why in second


def test_an_image_in_place_of_a_command_is_for_segment(image: Path) -> None:
    assert "Write magnet segment s.tif; " in one_failure(invoke(image))
    assert "segment" not in one_failure(invoke(Path("gone.tif")))


def test_the_file_of_a_network_in_place_of_a_bundle_is_for_network(image: Path) -> None:
    Path("own.pt").write_bytes(b"")
    said = one_failure(invoke("segment", image, "--weights", "own.pt"))
    assert "or give --network own.pt for a network of another library" in said
    assert "--network" not in one_failure(invoke("segment", image, "--weights", "none.pt"))
    assert "--network FILE" in one_failure(invoke("weights", "import", "own.pt", "-o", "own"))


def test_commands_of_training_have_the_same_usage_as_others() -> None:
    shown = invoke("train", "backbone", "--help").stdout
    assert shown.startswith("Usage: magnet train backbone [OPTIONS] DATA\n")
    said = one_failure(invoke("train", "backbone", "data", "-o", "b", "--config", "none.toml"))
    assert said.startswith("magnet: none.toml: Check the path")


def test_one_of_a_kind_is_no_plural(image: Path, bundle: Path) -> None:
    found = invoke("plan", image, "--weights", bundle, "--scales", "1024")
    assert "  pass 1: 1 block in 1 group\n" in found.stdout
    write_image(Path("in/a.tif"))
    write_image(Path("in/b.tif"))
    words = ("segment", "in", "--weights", bundle, "-o", "out", "--num-parts", "2", "--part-id", "0")
    assert "part 0 of 2: 1 image: 1 done; " in invoke(*words).stderr
