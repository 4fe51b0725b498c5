"""`scripts/digests` compares what the program writes, and names what differs."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[1] / "scripts" / "digests"
BEFORE = {"magnet.mask": "1", "patch.mask": "2", "grnet.mask": "3"}


@pytest.fixture(scope="module")
def digests() -> ModuleType:
    loader = SourceFileLoader("digests", str(SCRIPT))
    spec = spec_from_loader("digests", loader)
    assert spec is not None
    module = module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["digests"] = module
    loader.exec_module(module)
    return module


def test_every_case_has_a_name_of_its_own(digests: Any) -> None:
    names = [case.name for case in digests.CASES]
    assert len(set(names)) == len(names) >= 16


def test_what_differs_is_missing_or_new_is_named(digests: Any) -> None:
    now = {"magnet.mask": "1", "patch.mask": "4", "budget.mask": "5"}
    assert digests.differences(BEFORE, now, complete=True) == [
        "differs: patch.mask",
        "missing: grnet.mask",
        "new: budget.mask",
    ]
    assert digests.differences(BEFORE, {"magnet.mask": "1"}, complete=False) == []


def test_digests_are_those_of_the_bytes_that_a_run_writes(digests: Any, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    digests.make_inputs(inputs)
    one = next(case for case in digests.CASES if case.name == "published")
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir()
    other.mkdir()
    found = dict(digests.outputs(one, inputs, tmp_path))
    assert set(found) == {"published.mask", "published.report"}
    assert dict(digests.outputs(one, inputs, again)) == found
    changed = dict(digests.outputs(replace(one, words=(*one.words, "--points", "10%")), inputs, other))
    assert digests.differences(found, changed, complete=True)[0] == "differs: published.mask"
