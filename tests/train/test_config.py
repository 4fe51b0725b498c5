"""Configurations are read, and wrong ones are refused before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks.accuracy import folds, grnets
from magnet_cli.errors import UsageError
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.unread_keys import TABLES, refuse_idle_keys
from tests.train.support import CONFIG, validating

if TYPE_CHECKING:
    from magnet_cli.train.unread_keys import Kind

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
        "batch = 4\nlogit_adjustment = 0.5\nbalance = 0.0": "logit_adjustment must be 0 where balance is 0",
        "batch = 4\nfocal_gamma = 2.0": r'focal_gamma has no effect with loss = "cross-entropy" \(got focal_gamma = 2',
        "batch = 4\nmomentum = 0.9": r'momentum has no effect with optimizer = "adamw" .*write optimizer = "sgd"',
        'batch = 4\noptimizer = "adam"\nmomentum = 0.9': r"\[loop\] momentum has no effect",
        "batch = 4\nsteps = [0.5]\nstep_factor = 0.1": r"steps and step_factor have no effect .*steps = \[0.5\],",
        'batch = 4\nschedule = "step"\nsteps = []\nstep_factor = 0.5': r"step_factor has no effect with steps = \[\]",
        "batch = 4\n[folds.loop]\nmomentum = 0.9": r"\[folds.loop\] momentum has no effect",
        "batch = 4\nmomentum = inf": r"\[loop\] momentum must be of type float \(got inf\)",
    },
    "colour = 0.0": {
        "color = 0.0": r"unknown keys in \[data\]",
        'validation = "tile3"': "validation must be of type list of str",
        'validation = ["a"]\n[folds]\nheld_out = [["b"], ["a"]]': r"\[data\] validation is not \(got a\)",
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
    more = 'batch = 4\nschedule = "step"\nsteps = [0.5, 0.9]\ndevice = "cuda:1"'
    config = TrainConfig.parse(text.replace("batch = 4", more))
    assert config.data.validation == ("b",)
    assert config.data.grid == (3, 2)
    assert config.data.label_values == {"255": 1, "0": 0}
    assert config.loop.steps == (0.5, 0.9)
    assert (config.loop.validate_every, config.loop.patience, config.loop.device) == (7, 2, "cuda:1")


def test_values_that_ask_for_nothing_may_be_stated() -> None:
    stated = (
        "batch = 4\nfocal_gamma = 0\nsteps = []\nsmoothing = 0.0\npatience = 0\nlogit_adjustment = 0.0\nbalance = 0.0"
    )
    assert TrainConfig.parse(CONFIG.replace("batch = 4", stated)).loop.steps == ()
    assert TrainConfig.parse(CONFIG).loop == TrainConfig.parse(CONFIG.replace("batch = 4", "batch = 4")).loop


HEADS: dict[Kind, str] = {
    "backbone": '[bundle]\nname = "a"\n[network]\narchitecture = "conv"\n',
    "cascade": '[bundle]\nname = "a"\n[network]\narchitecture = "conv"\n',
    "grnet": '[bundle]\nname = "a"\n[network]\narchitecture = "conv"\n',
    "refiner": '[network]\narchitecture = "shared"\n',
    "selector": '[network]\narchitecture = "ppn-small"\n',
}
HELD_OUT = 'held_out = [["a"], ["b"]]\n'
IDLE: list[tuple[Kind, str, str]] = [
    ("backbone", "[folds]\nrounds = 1", r"\[folds\] has no effect on the training of a backbone \(got rounds\)"),
    ("backbone", "[cascade]\ncrop = 24", r"\[cascade\] has no effect"),
    ("backbone", "[grnet]\ncells = 4", r"\[grnet\] has no effect"),
    ("backbone", '[selector]\nlabels = "paper"', r"\[selector\] has no effect"),
    ("refiner", '[bundle]\nname = "a"', r"\[bundle\] has no effect on the training of a refiner.*bundle.json"),
    ("selector", '[bundle]\nname = "a"', r"\[bundle\] has no effect on the training of a selector"),
    ("cascade", '[loop]\nloss = "focal"\nbalance = 0.5', "loss and balance have no effect on a cascade"),
    ("cascade", "[cascade]\nshrink = 8", r"\[cascade\] shrink has no effect without \[cascade\] coarse"),
    ("cascade", "[cascade]\nwindows = 64", r"windows has no effect without a validation"),
    ("grnet", '[grnet]\nvariant = "all"\nselecting = 50', 'selecting has no effect with variant = "all"'),
    ("selector", "[loop]\nbalance = 0.5", "balance has no effect on a selector"),
    ("selector", f"[folds]\n{HELD_OUT}temperatures = true", "temperatures has no effect on a selector"),
    (
        "selector",
        "[folds.loop]\niterations = 3",
        r"\[folds.loop\] iterations has no effect where no backbone .*held_out",
    ),
    ("selector", f'[data]\nrare = 0.5\n[folds]\n{HELD_OUT}backbones = ["x", "y"]', "rare has no effect.*leave out"),
    ("refiner", "[data]\njitter = 1.4\ncolour = 0.7", r"\[data\] jitter and colour have no effect.*colour = 0.7"),
    ("refiner", "[folds.loop]\nbatch = 3", "batch has no effect where no backbone of a fold is fitted"),
    ("refiner", f'[folds]\n{HELD_OUT}backbones = ["x", "y"]\n[folds.loop]\nrate = 1.0', "rate has no effect"),
]


@pytest.mark.parametrize(("kind", "text", "message"), IDLE)
def test_what_a_training_does_not_read_is_refused(kind: Kind, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refuse_idle_keys(TrainConfig.parse(HEADS[kind] + text), kind)


@pytest.mark.parametrize("text", ["[loop]\nrate = 0.1", "[folds]\nrounds = 1", "options = { width = 4 }"])
def test_without_a_refiner_nothing_is_fitted_to_fields(text: str) -> None:
    with pytest.raises(UsageError, match='no effect with architecture = "none", which fits temperatures alone'):
        refuse_idle_keys(TrainConfig.parse('[network]\narchitecture = "none"\n' + text), "refiner")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("backbone", "[folds]\n[loop]\nsmoothing = 0.1"),
        ("cascade", "[loop]\nbalance = 0\n[cascade]\nshrink = 9.0\ncoarse = 0.5"),
        ("refiner", "[data]\njitter = 1.0\ncolour = 0.0\n[folds.loop]\ndevice = 'cpu'"),
        ("refiner", f"[data]\njitter = 1.4\n[folds]\n{HELD_OUT}[folds.loop]\nbatch = 3"),
        ("selector", "[data]\njitter = 1.4\nrare = 0.1"),
        ("selector", f"[data]\ncolour = 0.5\n[folds]\n{HELD_OUT}backbones = ['x', 'y']\n[folds.loop]\ndevice = 'cpu'"),
    ],
)
def test_what_a_training_reads_is_accepted(kind: Kind, text: str) -> None:
    refuse_idle_keys(TrainConfig.parse(HEADS[kind] + text), kind)


ROOT = Path(__file__).parents[2]


def kind_of(text: str) -> Kind:
    """Return the training that the first comment of a configuration names; that of a GRNet has `[grnet]`."""
    found = re.search(r"magnet train (\w+)", text)
    name = found[1] if found else "grnet" if "[grnet]" in text else "backbone"
    assert name in TABLES
    return cast("Kind", name)


@pytest.mark.parametrize(
    "path",
    [
        path.relative_to(ROOT)
        for folder in ("weights", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.toml"))
    ],
    ids=str,
)
def test_what_comes_with_the_program_states_no_idle_key(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    refuse_idle_keys(TrainConfig.read(ROOT / path), kind_of(text))


@pytest.mark.parametrize(("page", "kind"), [("training", "backbone"), ("grnet", "selector")])
def test_the_examples_of_pages_state_no_idle_key(page: str, kind: Kind) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for text in blocks:
        refuse_idle_keys(TrainConfig.parse(text), kind)


def test_configurations_that_benchmarks_make_state_no_idle_key(tmp_path: Path) -> None:
    for scene in folds.HELD_OUT:
        refuse_idle_keys(folds.refiner_config(scene, tmp_path), "refiner")
    for model in grnets.MODELS.values():
        refuse_idle_keys(grnets.grnet_config(model, "tile7"), "backbone" if model.is_backbone else "grnet")
