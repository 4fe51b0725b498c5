"""The reference of JSON files is made from classes: each key has a meaning, and files of runs have these keys."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import magnet_cli
from magnet_cli.masks.report_file import read_report
from magnet_cli.models.description import CascadeFile, SegmentationFile
from magnet_cli.report.report_schema import RunReport, SegmentReport
from tests.cli.support import write_colours_bundle, write_image

ROOT = Path(__file__).parents[1]
FREE = {"versions", "seconds", "memory.device_peak", "options.preparation"}
"""Keys of the report whose values are objects with keys of their own."""


@pytest.fixture(scope="module")
def hook() -> Any:
    """The module that makes the reference when the site is built."""
    found = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "reference" / "site_hook.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["site_hook"] = module
    found.loader.exec_module(module)
    return module


def keys_in(value: object, prefix: str = "") -> set[str]:
    """The keys of JSON values, as the reference writes them."""
    if isinstance(value, dict):
        inner = (keys_in(each, f"{prefix}{key}.") for key, each in value.items() if f"{prefix}{key}" not in FREE)
        return {f"{prefix}{key}" for key in value}.union(*inner)
    if isinstance(value, list):
        return set[str]().union(*(keys_in(each, f"{prefix.removesuffix('.')}[].") for each in value))
    return set()


def without_pairs(found: set[str]) -> set[str]:
    """Leave out widths and heights where the row of their key names them."""
    rows = {key for key in found if not re.search(r"\.(width|height)$", key)}
    return rows | {key for key in found if key.startswith("options.working_size.")}


@pytest.mark.parametrize("kind", [SegmentationFile, CascadeFile, SegmentReport, RunReport])
def test_every_key_has_a_meaning_in_a_whole_sentence_or_name(hook: Any, kind: type) -> None:
    found = list(hook.keys(kind))
    assert len(found) > 15
    assert [key.name for key in found if not key.about.endswith((".", "`."))] == []
    assert [key.name for key in found if "None" in key.about] == []


@pytest.mark.parametrize("name", ["aerial", "fundus", "fundus-cascade", "roofs-cascade"])
def test_descriptions_of_shipped_bundles_have_keys_of_the_reference(hook: Any, name: str) -> None:
    stored = json.loads((ROOT / "weights" / name / "bundle.json").read_bytes())
    kind = CascadeFile if stored.get("kind") == "cascade" else SegmentationFile
    listed = {key.name for key in hook.keys(kind)}
    needed = {key.name for key in hook.keys(kind) if key.is_always and "." not in key.name}
    assert needed <= stored.keys()
    free = ("metrics", "execution", "temperature", "options", "size", "scale", "scales")
    found = {key for key in keys_in(stored) if not any(f".{word}" in f".{key}".replace("[]", "") for word in free)}
    assert found <= listed


def test_reports_of_runs_have_the_keys_of_the_reference(hook: Any, tmp_path: Path) -> None:
    bundle = write_colours_bundle(tmp_path / "colours")
    images = [write_image(tmp_path / f"{name}.tif") for name in "ab"]
    options = magnet_cli.SegmentOptions(weights=str(bundle), scales="32,128", roi="0,0,120,100", slide_mpp="0.5")
    magnet_cli.segment(images, tmp_path / "out", options)
    (tmp_path / "bad.tif").write_text("no image")
    magnet_cli.segment([tmp_path / "bad.tif", images[0]], tmp_path / "again", options)
    for kind, paths, never in (
        # Without a series, an engine from elsewhere, a preparation, a GPU and a command line there are no such keys.
        (SegmentReport, ["out/a.json", "out/b.json"], {"input.series.", "hashes.runtime", "options.preparation"}),
        (RunReport, ["out/run.json", "again/run.json"], {"part."}),
    ):
        listed = {key.name for key in hook.keys(kind)}
        found = [without_pairs(keys_in(read_report(tmp_path / path))) for path in paths]
        assert set[str]().union(*found) - listed == set()
        missing = {key for key in listed - set[str]().union(*found) if not any(key.startswith(one) for one in never)}
        optional = {key.name for key in hook.keys(kind) if not key.is_always}
        assert missing - optional - {"maps.uncertainty.stage"} == set()
