"""The script of runs in several engines makes its ratios within rounds, and of the right numbers."""

from __future__ import annotations

from benchmarks.engine_runs import Engine, compared, options_of
from magnet_cli.options.segment import SegmentOptions


def test_ratios_are_of_rounds_and_against_the_passes_of_torch() -> None:
    torch = Engine(name="torch", windows=9, runs=[10, 20], passes=[8, 12])
    other = Engine(name="openvino", windows=9, runs=[5, 8], passes=[4, 6])
    found = compared([torch, other])
    assert found["torch"]["of its ceiling"] == {"median": 0.7, "least": 0.6, "most": 0.8, "all": [0.8, 0.6]}
    assert found["openvino"]["of the ceiling of torch"] == {
        "median": 1.55,
        "least": 1.5,
        "most": 1.6,
        "all": [1.6, 1.5],
    }
    assert found["openvino"]["of its ceiling"] == {"median": 0.775, "least": 0.75, "most": 0.8, "all": [0.8, 0.75]}


def test_an_engine_may_be_a_ceiling_alone() -> None:
    found = compared([Engine(name="torch", passes=[8]), Engine(name="openvino", runs=[5], passes=[4])])
    assert "seconds" not in found["torch"]
    assert found["openvino"]["of the ceiling of torch"] == {"median": 1.6, "least": 1.6, "most": 1.6, "all": [1.6]}


def test_an_engine_is_named_with_its_precision() -> None:
    assert options_of("openvino:bfloat16", SegmentOptions()).precision == "bfloat16"
    plain = options_of("onnxruntime", SegmentOptions())
    assert (plain.engine, plain.precision) == ("onnxruntime", "float32")
