"""An interrupted refinement is recognised by its hashes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.planner import resolve
from magnet_cli.refinement.refinement_plan import options_hash
from tests.refinement.support import Echo, model_of


def test_every_option_that_a_refined_mask_depends_on_is_in_its_hash() -> None:
    model = model_of(Echo())
    given: dict[str, dict[str, Any]] = {
        "nothing": {},
        "side": {"side": 256},
        "fast": {"fast": True},
        "compat": {"compat": "published"},
        "kind": {"mask_kind": "binary"},
        "threshold": {"threshold": "0.4"},
        "a threshold like it": {"threshold": "0.40000001"},
        "object": {"objects": "roof"},
        "only": {"only": "roof"},
        "stuff": {"stuff": "roof"},
        "least area": {"min_area": 65},
        "padding": {"padding": "10%"},
        "bands": {"bands": "3,2,1"},
        "range": {"value_range": "0,200"},
    }
    found = {name: options_hash(resolve(RefineOptions(**each), model), model.machine) for name, each in given.items()}
    settings = resolve(RefineOptions(), model)
    for name, machine in (
        ("precision", replace(model.machine, precision="bfloat16")),
        ("device", replace(model.machine, device="cuda")),
        ("engine", replace(model.machine, engine="openvino")),
        ("another engine", replace(model.machine, engine="onnxruntime")),
    ):
        found[name] = options_hash(settings, machine)
    alike = [pair for pair in combinations(found, 2) if found[pair[0]] == found[pair[1]]]
    assert alike == []


def test_the_hash_does_not_depend_on_memory() -> None:
    model = model_of(Echo())
    settings = resolve(RefineOptions(), model)
    other = replace(model.machine, memory=1 << 30, base=400 << 20)
    assert options_hash(settings, other) == options_hash(settings, model.machine)
