"""The command line in a report, parsed again, gives the options of the run."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import typer

from magnet_cli.cli.app import app
from magnet_cli.cli.parameters import Given, Group
from magnet_cli.geometry import Box, Size
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.foreign_network import NetworkOptions, parse_class_choices
from magnet_cli.options.option import options_in
from magnet_cli.options.rules import Rule, parse_patches
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import READING, SegmentOptions
from magnet_cli.options.spelling import segment_words
from magnet_cli.options.values import ValueRange

FOREIGN = NetworkOptions(
    network="my network",
    classes=parse_class_choices("building=1+25,road=6,other=rest", "--classes"),
    network_bands=("red", "nir"),
    input=Size(width=512, height=384),
    range=(-0.1, 10000),
    mean=(0.1, -0.25),
    std="imagenet",
    pixel="0.5um",
    activation="sigmoid",
    output_name="out",
    multiple=32,
    trim=92,
    layout="nhwc",
    preparation="stains",
    trust=True,
)
EVERYTHING = SegmentOptions(
    weights="my bundle",
    scales=(Size(width=512, height=256), Size(width=256, height=128)),
    method="magnet-fast",
    points=Rule(kind="share", values=(Fraction(123456789, 10**9),)),
    patches=Rule(kind="count", values=(Fraction(4), Fraction(8))),
    select="change",
    budget=Fraction("0.125"),
    merge="certainty",
    median=5,
    overlap=Rule(kind="share", values=(Fraction("0.125"),)),
    blend="linear",
    tta="2",
    compat="published-unshifted",
    mpp=Fraction("0.2500000001"),
    slide_mpp=Fraction("0.499"),
    series="scan 2",
    domain="histology",
    alpha="band",
    bands=("4", "red", "B2"),
    value_range=ValueRange(kind="values", low=Fraction("-0.1000000001"), high=Fraction(10000)),
    device="cuda:1",
    precision="bfloat16",
    engine="openvino",
    batch_size=3,
    num_workers=0,
    gpu_memory=3 << 30,
    memory=(5 << 30) + 1,
    probabilities=True,
    uncertainty=True,
    refine="cascadepsp",
    refine_weights="my cascade",
    refine_only=("road", "3"),
    roi=Box(x=10, y=20, width=300, height=400),
    mask=Path("look here.png"),
    tissue="otsu",
    overlay=True,
    html=True,
    exports=ExportOptions(formats=("cog", "geojson"), simplify=Fraction("1.5"), min_area=20),
)


def parsed(words: list[str]) -> tuple[SegmentOptions, dict[str, object]]:
    """Return the options that the program parses from a command line, and its other parameters."""
    group = typer.main.get_command(app)
    command = group.commands["segment"]  # type: ignore[attr-defined]
    assert words[:2] == ["magnet", "segment"]
    with command.make_context("segment", words[2:]) as context:
        return Given(Group(options=SegmentOptions), context).value(), context.params


@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(weights="aerial"),
        EVERYTHING,
        replace(EVERYTHING, roi=Path("parts.geojson"), tissue="none"),
        replace(EVERYTHING, scales="auto", points=Rule(kind="threshold", values=(Fraction("0.123456789"),))),
        replace(EVERYTHING, patches=Rule(kind="threshold", values=(Fraction(0),)), points=Rule(kind="all")),
        replace(EVERYTHING, points=Rule(kind="share", values=(Fraction(1),)), mpp=Fraction(3), budget=Fraction(1)),
        replace(EVERYTHING, value_range=ValueRange(kind="percentiles", low=Fraction("0.5"), high=Fraction("99.9"))),
        replace(EVERYTHING, value_range=ValueRange(kind="dtype")),
        replace(EVERYTHING, method="grnet", patches=Rule(kind="selector")),
        replace(EVERYTHING, mpp=None, gsd=Fraction("0.3")),
        replace(EVERYTHING, mpp=None, level=0),
        replace(EVERYTHING, mpp=None, mag=Fraction("2.5")),
        replace(EVERYTHING, scales=parse_scales("0.0000001m,320.5um,1x2mm")),
        replace(EVERYTHING, weights=None, foreign=FOREIGN),
        replace(EVERYTHING, weights=None, foreign=replace(FOREIGN, classes=4, values="stored", mean=None, std=None)),
        replace(EVERYTHING, weights=None, foreign=replace(FOREIGN, classes=parse_class_choices("a,b", "--classes"))),
        replace(EVERYTHING, scales=parse_scales("7km,7nm,3cm")),
    ],
)
def test_the_words_give_the_options_back(options: SegmentOptions) -> None:
    found, given = parsed(segment_words("in put.tif", "out/m.tif", options))
    assert found == options
    assert (given["inputs"], given["output"]) == (["in put.tif"], "out/m.tif")


@pytest.mark.parametrize(("select", "word"), [(None, "u>0.25"), ("uncertainty", "u>0.25"), ("ppn", "w>0.25")])
def test_a_limit_names_what_windows_are_compared_by(select: Any, word: str) -> None:
    options = SegmentOptions(method="magnet-fast", patches=parse_patches("w>0.25"), select=select)
    words = segment_words("a.tif", "m.tif", options)
    assert words[words.index("--patches") + 1] == word


def test_every_option_is_spelled() -> None:
    """This test fails for an option that it does not set, which could be missing in the command unnoticed."""
    defaults = SegmentOptions()
    same = {
        entry.name for entry in fields(EVERYTHING) if getattr(EVERYTHING, entry.name) == getattr(defaults, entry.name)
    }
    of_one_run = {entry.name for entry in options_in(SegmentOptions) if entry.of_one_run}
    assert of_one_run == {"overwrite", "resume", "private"}
    # A network from elsewhere takes the place of a bundle, and one option at most says at which size to read.
    assert same == of_one_run | {"foreign"} | set(READING) - {"mpp"}
    same = {
        entry.name for entry in fields(FOREIGN) if getattr(FOREIGN, entry.name) == getattr(NetworkOptions(), entry.name)
    }
    assert same == {"values"}  # values that are stored have no mean


def test_the_bundle_is_named_and_a_name_is_no_option() -> None:
    words = segment_words("-x.tif", "-o.tif", SegmentOptions())
    assert words == ["magnet", "segment", "./-x.tif", "-o", "./-o.tif", "--weights", "aerial"]
    assert parsed(words)[0] == SegmentOptions(weights="aerial")
