"""Configurations are read, and wrong ones are refused before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.train.config import TrainConfig
from tests.train.support import CONFIG, validating

if TYPE_CHECKING:
    from pathlib import Path

WRONG = {
    "batch = 4": {
        "bach = 4": "bach",
        'batch = "4"': "batch must be of type int",
        "batch = true": "batch must be of type int",
        "batch = 0": "batch must be at least 1",
        'batch = 4\nloss = "dice"': "loss must be cross-entropy or focal",
        "batch = 4\nsmoothing = 1.0": "smoothing must be at least 0 and below 1",
        'batch = 4\nsmoothing = 0.1\nloss = "focal"': "smoothing must be 0 where loss is focal",
        "batch = 4\nencoder_rate = 2": "encoder_rate must be from 0 to 1",
        "batch = 4\nfocal_gamma = -1": "focal_gamma must be at least 0",
        'batch = 4\nschedule = "linear"': "schedule must be cosine or step",
        "batch = 4\nsteps = [0.8, 0.6]": "steps must be shares between 0 and 1",
        'batch = 4\nsteps = ["0.8"]': "steps must be of type list of float",
        'batch = 4\nprecision = "half"': "precision must be float32, bfloat16 or float16",
        'batch = 4\ndevice = "gpu"': "device must be auto, cpu, cuda",
        "batch = 4\npatience = 2": "patience must be 0 without validate_every",
        "batch = 4\nvalidate_every = 2": r"Name some in \[data\] validation",
        "batch = 4\nmomentum = inf": r"\[loop\] momentum must be of type float \(got inf\)",
    },
    "colour = 0.0": {
        "color = 0.0": r"unknown keys in \[data\]",
        'validation = "tile3"': "validation must be of type list of str",
        "rare = 1.5": r"\[data\] rare must be from 0 to 1",
        "border = -1": r"\[data\] border must be from 0 to 32",
        "grid = [3]": "grid is two numbers",
        "label_values = { 256 = 1 }": "256 = 1",
        "label_values = { one = 1 }": "one = 1",
        'label_values = { 1 = "a" }': "label_values must be of type table of int",
    },
    'architecture = "conv"': {
        "": "names no network",
    },
    "[loop]": {
        "[cascade]\ncrop = 20\n[loop]": "crop must be a multiple of 8",
        "[cascade]\nscales = []\n[loop]": "scales must be one side or more",
        "[cascade]\niou = [0.9, 0.8]\n[loop]": "iou must be two numbers in rising order",
        "[cascade]\ncoarse = 1.5\n[loop]": "coarse must be from 0 to 1",
        "[grnet.selector]\noptions = {}\n[loop]": r"\[grnet.selector\] needs the name of an architecture",
        "[cascade]\nalpha = 5\n[loop]": r"unknown keys in \[cascade\]",
    },
    'name = "tiny"': {
        "name = 1979-01-01": r"date or a time.*1979-01-01",
    },
}
"""Messages, by the text that replaces a line of `CONFIG`."""


@pytest.mark.parametrize(
    ("old", "new", "message"), [(old, new, said) for old, cases in WRONG.items() for new, said in cases.items()]
)
def test_a_configuration_that_is_wrong_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig.parse(CONFIG.replace(old, new))


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 20000 + "]" * 20000])
def test_what_the_toml_reader_has_no_room_for_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        TrainConfig.parse(f"[network]\narchitecture = {value}\n")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("= 3")
    with pytest.raises(UsageError, match=r"a\.toml"):
        TrainConfig.read(tmp_path / "a.toml")


def test_values_are_read() -> None:
    text = validating(every=7, patience=2).replace("colour = 0.0", "grid = [3, 2]\nlabel_values = { 255 = 1, 0 = 0 }")
    config = TrainConfig.parse(text.replace("batch = 4", 'batch = 4\nsteps = [0.5, 0.9]\ndevice = "cuda:1"'))
    assert config.data.validation == ("b",)
    assert config.data.grid == (3, 2)
    assert config.data.label_values == {"255": 1, "0": 0}
    assert config.loop.steps == (0.5, 0.9)
    assert (config.loop.validate_every, config.loop.patience, config.loop.device) == (7, 2, "cuda:1")
