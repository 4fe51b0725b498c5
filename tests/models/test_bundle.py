"""The reader of bundles accepts and refuses descriptions, and each refusal says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import OutputError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models import bundle as bundle_module
from magnet_cli.models.bundle import Temperature, load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.bundle_writer import describe, describe_cascade, write_bundle, write_cascade_bundle
from magnet_cli.models.description import DESCRIPTION, SCHEMA
from magnet_cli.models.network_spec import Execution
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone, build_local, build_selector
from magnet_cli.system import durable

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, **changes: Any) -> Path:
    network = build_backbone("conv", classes=2, bands=3, options={})
    write_bundle(folder, describe(**changes), {"backbone.safetensors": network})
    return folder


def changed(folder: Path, *path: str | int, value: Any) -> Path:
    """Write a bundle with one value of its description replaced."""
    table = json.loads((written(folder) / DESCRIPTION).read_text())
    place = table
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / DESCRIPTION).write_text(json.dumps(table))
    return folder


def test_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    folder = written(
        tmp_path / "a",
        name="a",
        size=(48, 32),
        scales=(32, 64),
        resolution={"value": 0.1, "unit": "um"},
        magnet={"points": 0.75, "patches": [1, 4, 4], "margin": 12},
    )
    bundle = load_bundle(str(folder))
    assert bundle.name == "a"
    assert bundle.input.size == Size(width=48, height=32)
    assert bundle.scales == (Size(width=32, height=32), Size(width=64, height=64))
    assert bundle.resolution is not None
    assert bundle.resolution.value == Fraction(1, 10)
    assert (bundle.magnet.points, bundle.magnet.patches, bundle.magnet.median) == ("0.75", "1,4,4", 11)
    assert bundle.backbone.sha256 is not None
    assert bundle.notes == ()
    assert bundle.folder == folder


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("colour",), 1, "unknown keys.*colour"),
        (("input", "gamma"), 1, r"unknown keys.*input\.gamma"),
        (("networks", "backbone", "url"), "x", r"unknown keys.*networks\.backbone\.url"),
        (("networks", "extra"), {}, r"unknown keys.*networks\.extra"),
        (("classes", 0, "id"), 3, r"unknown keys.*classes\[0\]\.id"),
        (("schema",), SCHEMA + 1, "schema is newer"),
        (("origins",), [1], "origins must be an array of strings"),
        (("schema",), True, "schema must be a whole number"),
        (("classes",), [{"name": f"c{i}", "color": "#000000"} for i in range(256)], "classes must be 2 to 255"),
        (("classes",), [{"name": "a", "color": "#000000"}], "classes must be 2 to 255"),
        (("classes",), [{"name": "a", "color": "#000000"}] * 2, "different names"),
        (("classes", 1, "color"), "red", "#RRGGBB"),
        (("input", "bands"), ["a", "a", "b"], "different names"),
        (("input", "std"), [1, 1], "array of 3 numbers"),
        (("input", "std"), [1, 0, 1], "std must be positive"),
        (("input", "range"), [255, 0], "must rise"),
        (("input", "size"), {"width": 0, "height": 8}, "at least 1"),
        (("input", "resample"), "lanczos", "area, bilinear"),
        (("activation",), "relu", "softmax, sigmoid"),
        (("scales",), [], "at least one scale"),
        (("resolution",), {"value": 1, "unit": "px"}, "um, m"),
        (("resolution",), {"value": -1, "unit": "m"}, "positive number"),
        (("magnet", "median"), 10, "must be odd"),
        (("magnet", "merge"), "refiner", "refiners is empty"),
        (("magnet", "merge"), "median", "refiner, mean, certainty"),
        (("magnet", "points"), None, "must be a string, a number"),
        (("networks", "backbone", "file"), "../x.safetensors", "in the bundle's folder"),
        (("networks", "backbone", "file"), "model.pt", "safetensors file"),
        (("networks", "backbone", "sha256"), "abc", "64 small hexadecimal"),
        (("networks", "backbone", "temperature"), 0, "positive number"),
        (("networks", "backbone", "temperature"), {"big": 1.0}, "no scale"),
    ],
)
def test_refuses_and_names_what_is_wrong(tmp_path: Path, path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_bundle(str(changed(tmp_path, *path, value=value)))


def grnet(folder: Path, *, cells: int = 2, activation: str = "softmax") -> Path:
    """Write a bundle with a selector of two cells a side and a local branch."""
    small = {"width": 2, "lateral": 2, "head": 2, "aggregation": 2, "cells": cells}
    entries = {
        "selector": {"architecture": "ppn-small", "options": {"cells": 2, "width": 2}, "file": "selector.safetensors"},
        "local": {"architecture": "grnet-small", "options": small, "file": "local.safetensors"},
    }
    files = {
        "backbone.safetensors": build_backbone("conv", classes=2, bands=3, options={}),
        "selector.safetensors": build_selector("ppn-small", bands=3, classes=2, options={"cells": 2, "width": 2}),
        "local.safetensors": build_local("grnet-small", classes=2, bands=3, options=small),
    }
    write_bundle(folder, describe(networks=entries, activation=activation), files)
    return folder


def test_a_grnet_has_a_local_branch(tmp_path: Path) -> None:
    bundle = load_bundle(str(grnet(tmp_path / "a")))
    assert bundle.local is not None
    assert bundle.local.architecture == "grnet-small"
    found = [(check.role, check.hashed, check.error) for check in verify_bundle(bundle)]
    assert found == [("backbone", True, None), ("selector", True, None), ("local", True, None)]
    (tmp_path / "a" / "local.safetensors").write_bytes(b"")
    assert [check.error is None for check in verify_bundle(bundle)] == [True, True, False]
    with pytest.raises(WeightsError, match=r"cells must be the selector's \(got 4\)"):
        grnet(tmp_path / "c", cells=4)
    with pytest.raises(WeightsError, match="activation must be softmax where there is a local branch"):
        grnet(tmp_path / "d", activation="sigmoid")


def test_a_selector_has_what_it_sees_and_compares_with(tmp_path: Path) -> None:
    options = {"cells": 2, "width": 2, "sees": "image+field", "against": "constant", "constant": -0.01}
    entry = {"architecture": "ppn-small", "options": options, "file": "selector.safetensors"}
    files = {
        "backbone.safetensors": build_backbone("conv", classes=2, bands=3, options={}),
        "selector.safetensors": build_selector("ppn-small", bands=3, classes=2, options=options),
    }
    networks = {"selector": entry}
    bundle = write_bundle(tmp_path / "a", describe(networks=networks), files)
    assert [check.error for check in verify_bundle(bundle)] == [None, None]
    selector = load_networks(bundle, device="cpu", precision="float32").selector
    assert selector is not None
    assert (selector.sees_field, selector.against, selector.constant) == (True, "constant", -0.01)
    folder = grnet(tmp_path / "c")
    table = json.loads((folder / DESCRIPTION).read_text())
    table["networks"]["selector"]["options"]["sees"] = "image+field"
    (folder / DESCRIPTION).write_text(json.dumps(table))
    with pytest.raises(WeightsError, match="comes before any field"):
        load_bundle(str(folder))


def test_a_selector_of_other_weights_is_found(tmp_path: Path) -> None:
    folder = grnet(tmp_path / "a")
    table = json.loads((folder / DESCRIPTION).read_text())
    table["networks"]["selector"]["options"]["width"] = 4
    (folder / DESCRIPTION).write_text(json.dumps(table))
    errors = {check.role: str(check.error) for check in verify_bundle(load_bundle(str(folder))) if check.error}
    assert list(errors) == ["selector"]
    assert "must have shape" in errors["selector"]


def test_a_description_says_where_its_values_are_from(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", origins=["scales: the paper"])
    assert load_bundle(str(folder)).origins == ("scales: the paper",)
    assert load_bundle(str(written(tmp_path / "b"))).origins == ()
    with pytest.raises(WeightsError, match="origins must be an array of strings"):
        load_bundle(str(written(tmp_path / "c", origins=[1])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON"),
        ("[1]", "must be a JSON object"),
        ('{"schema": 1, "schema": 1}', "given twice: schema"),
        ('{"schema": NaN}', "NaN"),
        ("{" * 100_000, "not a JSON"),
        (" " * 2**20 + "{}", "at most 1 MiB"),
    ],
)
def test_refuses_what_is_no_description(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / DESCRIPTION).write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_bundle(str(tmp_path))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / DESCRIPTION).write_text(json.dumps({"schema": 1, "networks": value, "classes": value}))
    with pytest.raises(WeightsError):
        load_bundle(str(folder))


def test_a_missing_hash_is_noted_for_a_users_bundle(tmp_path: Path) -> None:
    bundle = load_bundle(str(changed(tmp_path, "networks", "backbone", "sha256", value=None)))
    assert len(bundle.notes) == 1
    assert "backbone.safetensors" in bundle.notes[0]


def test_a_missing_hash_is_an_error_for_a_shipped_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(tmp_path / "mine", "networks", "backbone", "sha256", value=None)
    monkeypatch.setattr(bundle_module, "roots", lambda: [tmp_path])
    for name in ("mine", str(tmp_path / "mine")):
        with pytest.raises(WeightsError, match="must give the sha256"):
            load_bundle(name)


def test_an_unknown_name_lists_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sea", "aerial"):
        written(tmp_path / name, name=name)
    monkeypatch.setattr(bundle_module, "roots", lambda: [tmp_path])
    assert load_bundle("sea").name == "sea"
    with pytest.raises(WeightsError, match=r"Name a bundle that magnet has \(aerial, sea\)"):
        load_bundle("moon")


def test_the_digest_follows_description_and_weights(tmp_path: Path) -> None:
    first = load_bundle(str(written(tmp_path / "a")))
    description = (tmp_path / "a" / DESCRIPTION).read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / DESCRIPTION).write_bytes(description)
    assert load_bundle(str(tmp_path / "b")).digest == first.digest
    assert load_bundle(str(changed(tmp_path / "c", "name", value="c"))).digest != first.digest
    open_ended = changed(tmp_path / "d", "networks", "backbone", "sha256", value=None)
    before = load_bundle(str(open_ended)).digest
    (open_ended / "backbone.safetensors").write_bytes(b"other")
    assert load_bundle(str(open_ended)).digest != before


def test_a_bundle_that_is_removed_while_it_is_written_is_a_failure_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = durable.write_whole

    def write_and_lose(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == DESCRIPTION:
            shutil.rmtree(path.parent)

    monkeypatch.setattr(durable, "write_whole", write_and_lose)
    with pytest.raises(OutputError, match="removed while it was written"):
        written(tmp_path / "stages")
    with pytest.raises(OutputError, match="removed while it was written"):
        write_cascade_bundle(tmp_path / "cascade", describe_cascade(), {})


def test_temperature_and_refiner_are_the_nearest_in_ratio(tmp_path: Path) -> None:
    square = [Size(width=side, height=side) for side in (100, 149, 151, 2000)]
    scales = ((Size(width=100, height=100), 1.0), (Size(width=225, height=225), 2.0))
    found = [Temperature(scales=scales).at(size) for size in square]
    assert found == [1.0, 1.0, 2.0, 2.0]
    entries: list[dict[str, Any]] = [{"scale": 100}, {"scale": {"width": 225, "height": 225}}]
    networks = {
        "backbone.safetensors": build_backbone("conv", classes=2, bands=3, options={}),
        "refiner.safetensors": build_backbone("conv", classes=2, bands=4, options={}),
        "refiner1.safetensors": build_backbone("conv", classes=2, bands=4, options={}),
    }
    bundle = write_bundle(tmp_path, describe(refiners=entries), networks)
    assert [bundle.refiner_for(size) for size in square] == [0, 0, 1, 1]


def test_reading_a_description_does_not_import_torch(tmp_path: Path) -> None:
    folder = written(tmp_path)
    code = (
        "import sys; from magnet_cli.models.bundle import load_bundle; "
        f"load_bundle({str(folder)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RUNS = {
    "cpu": {"float32": {"batch": 2}, "bfloat16": {"batch": 4, "agreement": 0.9991}},
    "cuda": {"float16": {"batch": 9}},
}


def test_how_it_runs_best_is_told_by_device_and_precision(tmp_path: Path) -> None:
    bundle = load_bundle(str(written(tmp_path / "a", execution=RUNS)))
    assert bundle.runs("cpu", "float32") == Execution(batch=2)
    assert bundle.runs("cpu", "bfloat16") == Execution(batch=4, agreement=0.9991)
    assert bundle.runs("cuda", "float16") == Execution(batch=9)
    assert bundle.runs("cuda", "float32") is None
    assert load_bundle(str(written(tmp_path / "b"))).execution == {}


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"tpu": {}}, r"unknown keys.*execution\.tpu"),
        ({"cpu": {"float64": {"batch": 1}}}, r"unknown keys.*execution\.cpu\.float64"),
        ({"cpu": {"float32": {}}}, r"execution\.cpu\.float32\.batch is missing"),
        ({"cpu": {"float32": {"batch": 0}}}, "at least 1"),
        ({"cpu": {"float32": {"batch": 1, "agreement": 99}}}, "share of pixels"),
    ],
)
def test_execution_that_makes_no_sense_is_refused(tmp_path: Path, execution: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_bundle(str(written(tmp_path / "a", execution=execution)))
