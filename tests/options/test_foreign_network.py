"""Options describe a network from another library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.options.foreign_network import NetworkOptions
from magnet_cli.options.option import options_in
from tests.cli.support import invoke

if TYPE_CHECKING:
    from pathlib import Path

ENTRIES = {entry.name: entry for entry in options_in(NetworkOptions) if entry.name != "network"}
VALUES: dict[str, Any] = {
    "classes": "3", "network_bands": "red,green,blue", "input": "512", "range": "0,10000", "values": "stored",
    "mean": "imagenet", "std": "imagenet", "pixel": "0.5um", "activation": "sigmoid", "output_name": "scores",
    "multiple": "32", "trim": "0", "layout": "nhwc", "preparation": "stains", "trust": True,
}  # fmt: skip
"""A value for each of these options, none of which is its default."""


@pytest.mark.parametrize("name", ENTRIES)
def test_options_that_describe_a_network_need_it(name: str) -> None:
    # A bundle states these values itself: without a network from elsewhere the option would be ignored in silence.
    entry = ENTRIES[name]
    value = VALUES[name]
    with pytest.raises(UsageError, match=f"^{entry.word} describes .*--network names .*Add --network") as failed:
        NetworkOptions(**{name: value})
    assert failed.value.exit_code == 2
    assert NetworkOptions(network="x", **{name: value}) != NetworkOptions(network="x")


def test_commands_end_with_2_where_such_an_option_is_typed_alone(tmp_path: Path) -> None:
    for words in (
        ["segment", "x.tif", "--activation", "sigmoid"],
        ["plan", "x.tif", "--multiple", "32"],
        ["weights", "import", "-o", str(tmp_path / "b"), "--bands", "red,green,blue"],
        ["weights", "import", "-o", str(tmp_path / "b"), "--sample", "x.tif"],
        ["weights", "import", "-o", str(tmp_path / "b"), "--engine", "onnxruntime"],
        ["weights", "import", "-o", str(tmp_path / "b"), "--from", "cascadepsp", "x.pth", "--engine", "openvino"],
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        assert "--network" in result.stderr
    assert not list(tmp_path.iterdir())


def test_options_of_other_imports_are_refused_beside_a_network(tmp_path: Path) -> None:
    for words in (["--device", "cpu"], ["--gpu", "0"], ["--preset", "inria"], ["--refiner-input", "own-first"]):
        result = invoke("weights", "import", "--network", "x", "-o", str(tmp_path / "b"), *words)
        assert result.exit_code == 2, (words, result.stderr)
        assert words[0] in result.stderr
    assert not list(tmp_path.iterdir())


def test_variables_of_the_environment_wait_for_a_network(tmp_path: Path) -> None:
    alone = {"MAGNET_ACTIVATION": "sigmoid", "MAGNET_CLASSES": "3"}
    for env, words in ((alone, ()), ({**alone, "MAGNET_NETWORK": "net"}, ("--weights", "aerial"))):
        result = invoke("plan", tmp_path / "none.tif", *words, env=env)
        assert (result.exit_code, "none.tif" in result.stderr, "--network" in result.stderr) == (3, True, False)
    result = invoke(
        "plan", tmp_path / "none.tif", "--network", tmp_path / "net", env={"MAGNET_WEIGHTS": "aerial", **alone}
    )
    assert "takes the place of a bundle" not in result.stderr
