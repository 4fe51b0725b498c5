"""Options take values and the text of the command line, and do not change afterwards."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.options.bench import BenchOptions
from magnet_cli.options.evaluate import EvaluationOptions, ScoreOptions
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.lengths import PhysicalScales
from magnet_cli.options.option import options_in
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.rules import Rule
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.values import ValueRange

GROUPS: list[Any] = [SegmentOptions, ExportOptions, RefineOptions, EvaluationOptions, ScoreOptions, BenchOptions]


TEXTS: dict[str, tuple[str | None, object]] = {
    "weights": ("b", Path("b")),
    "scales": ("256,512x1024", (Size(width=512, height=1024), Size(width=256, height=256))),
    "method": ("magnet_fast", "magnet-fast"),
    "points": ("75%", Rule(kind="share", values=(Fraction(3, 4),))),
    "patches": ("4,4,8", Rule(kind="count", values=(Fraction(4), Fraction(4), Fraction(8)))),
    "budget": ("20%", 0.2),
    "median": ("5", 5),
    "mpp": ("0.25", 0.25),
    "slide_mpp": (".5", Fraction(1, 2)),
    "bands": ("4, 3,red", ("4", "3", "red")),
    "value_range": ("0,10000", ValueRange(kind="values", low=Fraction(0), high=Fraction(10000))),
    "roi": ("0,0,512,256", Box(x=0, y=0, width=512, height=256)),
    "mask": ("m.png", Path("m.png")),
    "batch_size": ("auto", None),
    "level": (None, None),
    "gpu_memory": ("4GiB", 4 << 30),
    "refine": ("cascadepsp", "cascadepsp"),
    "refine_only": ("road, 3", ("road", "3")),
    "exports": ("tiff,geojson,cog", ExportOptions(formats=("cog", "geojson"))),
}
"""A text and a value with the same meaning for options of `segment`. Scales are sorted, the coarsest first."""


def test_texts_and_values_make_the_same_options() -> None:
    texts: Any = {name: text for name, (text, _) in TEXTS.items()}
    values: Any = {name: value for name, (_, value) in TEXTS.items()}
    assert SegmentOptions(**texts) == SegmentOptions(**values)
    assert hash(SegmentOptions(**texts)) == hash(SegmentOptions(**values))
    assert SegmentOptions(**texts).scales == values["scales"]


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"mpp": 0.1}, "mpp", Fraction(1, 10)),
        ({"mpp": Decimal("0.1")}, "mpp", Fraction(1, 10)),
        ({"mpp": 1}, "mpp", Fraction(1)),
        ({"points": 32768}, "points", Rule(kind="count", values=(Fraction(32768),))),
        ({"points": 0.75}, "points", Rule(kind="share", values=(Fraction(3, 4),))),
        ({"patches": 3}, "patches", Rule(kind="count", values=(Fraction(3),))),
        ({"scales": [256, Size(width=512, height=600)]}, "scales", parse_scales("512x600,256")),
        ({"scales": parse_scales("64um,32um")}, "scales", parse_scales("32um,64um")),
        ({"scales": " Auto"}, "scales", "auto"),
        ({"bands": [4, 3, 2]}, "bands", ("4", "3", "2")),
        ({"median": np.int64(5)}, "median", 5),
        ({"exports": ExportOptions(formats=["geojson", "cog"])}, "exports", ExportOptions(formats=("cog", "geojson"))),
        ({"roi": "where.geojson"}, "roi", Path("where.geojson")),
    ],
)
def test_python_values_that_stand_for_an_option(given: dict[str, Any], name: str, value: object) -> None:
    found = getattr(SegmentOptions(**given), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"scales": 4.5}, ["--scales", "4.5, of type float", "text that the command line takes", "PhysicalScales"]),
        ({"scales": [True]}, ["--scales"]),
        ({"scales": ["256"]}, ["--scales", "['256']"]),
        ({"scales": (256, 256)}, ["must differ from the others"]),
        ({"memory": 4.0}, ["--memory", "4.0"]),
        ({"memory": True}, ["--memory", "True, of type bool"]),
        ({"memory": "4"}, ["--memory takes a size with a binary unit", "'4'"]),
        ({"overlay": "yes"}, ["--overlay", "'yes'", "True or False"]),
        ({"overlay": 1}, ["--overlay", "1, of type int"]),
        ({"method": "fast"}, ["--method is one of magnet, magnet-fast", "'fast'"]),
        ({"tissue": None}, ["--tissue", "None"]),
        ({"mpp": float("nan")}, ["--mpp", "nan"]),
        ({"mpp": float("inf")}, ["--mpp", "inf"]),
        ({"mpp": -1.5}, ["--mpp is a positive size in um", "-1.5"]),
        ({"roi": (0, 0, 1, 1)}, ["--roi", "(0, 0, 1, 1)"]),
        ({"overlap": -1}, ["--overlap is a share", "-1"]),
        ({"overlap": "4.5"}, ["--overlap is a share", "'4.5'"]),
        ({"median": "4"}, ["--median is odd"]),
        ({"points": 1.5}, ["--points is one of", "1.5"]),
        ({"points": 1.0}, ["--points is one of", "1.0"]),  # one point, or all of them?
        ({"bands": []}, ["--bands"]),
        ({"exports": "png"}, ["--format is one or more of cog", "'png'"]),
        ({"exports": ("cog",)}, ["--exports", "('cog',)"]),
    ],
    ids=str,
)
def test_values_that_are_no_options(given: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        SegmentOptions(**given)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_options_of_other_commands_take_texts_too() -> None:
    options = RefineOptions(
        threshold="0.25", padding="25%", only="sky,3", side="900", memory="1GiB", method="cascadepsp"
    )
    assert (options.threshold, options.padding, options.only) == (Fraction(1, 4), Fraction(1, 4), ("sky", "3"))
    assert (options.side, options.memory) == (900, 1 << 30)
    assert RefineOptions(padding=0.5).padding == Fraction(1, 2)
    counted = EvaluationOptions(ignore="0,7", exclude=[2], names="land, water,road", truth_values="255=1")
    assert counted == EvaluationOptions(
        ignore=(0, 7), exclude=(2,), names=("land", "water", "road"), truth_values={255: 1}
    )
    assert ScoreOptions(methods="patch, magnet_fast").methods == ("patch", "magnet-fast")
    assert ScoreOptions(iou_threshold="0.5").iou_threshold == 0.5
    with pytest.raises(UsageError, match="--ignore takes labels"):
        EvaluationOptions(ignore="land")


def test_options_stay_as_they_were_made() -> None:
    options = SegmentOptions(scales="256,512", exports="cog")
    for name in ("scales", "device", "exports"):
        with pytest.raises(FrozenInstanceError, match=name):
            setattr(options, name, getattr(options, name))
        with pytest.raises(FrozenInstanceError, match=name):
            delattr(options, name)
    assert replace(options, scales="128").scales == (Size(width=128, height=128),)
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options  # noqa: S301 - made here
    assert {options: 1}[SegmentOptions(scales="512,256", exports="cog")] == 1
    assert "PhysicalScales" not in repr(options)


@pytest.mark.parametrize("group", GROUPS)
def test_every_field_is_an_option_with_a_help_text(group: Any) -> None:
    plain = {ScoreOptions: {"segment", "evaluation"}, BenchOptions: {"measured"}}.get(group, set())
    assert {entry.name for entry in options_in(group)} == {entry.name for entry in fields(group)} - plain
    for entry in options_in(group):
        assert entry.about.endswith("."), entry.name
        assert entry.about.isascii(), entry.name


@pytest.mark.parametrize("group", GROUPS)
def test_a_default_is_what_the_help_shows(group: Any) -> None:
    for entry in options_in(group):
        if entry.shown:
            assert entry.take(entry.shown) == entry.default, entry.name


def test_an_option_of_several_commands_is_one_definition() -> None:
    """`segment` and `refine` share one definition of each common option, unless it depends on the command's methods."""
    segment, refine = ({entry.name: entry for entry in options_in(group)} for group in (SegmentOptions, RefineOptions))
    # Without a network `refine` has no use for these. They differ in nothing else.
    of_networks = {"engine", "device", "precision", "gpu_memory"}
    both = set(segment) & set(refine) - {"method", "weights", "compat"} - of_networks
    assert len(both) >= 6
    assert [name for name in both if segment[name] is not refine[name]] == []
    for name in of_networks:
        differing = {key for key, value in vars(segment[name]).items() if getattr(refine[name], key) != value}
        assert differing == {"needs"}
    assert segment["weights"].about == refine["weights"].about


def test_scales_with_a_unit_are_written_to_the_last_digit() -> None:
    options = SegmentOptions(scales="320.0000000001um,1x2mm")
    (entry,) = (entry for entry in options_in(SegmentOptions) if entry.name == "scales")
    _, text = entry.command_words(options)
    assert isinstance(options.scales, PhysicalScales)
    assert SegmentOptions(scales=text).scales == options.scales
