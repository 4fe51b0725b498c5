"""Bundles that refine masks are described, written, read, verified and run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.cli.bundle_text import bundle_lines, described_lines, summary
from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.models.architectures.cascade_base import BANDS
from magnet_cli.models.bundle import load_bundle, load_cascade_bundle, load_description
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.bundle_writer import describe, describe_cascade, write_bundle, write_cascade_bundle
from magnet_cli.models.cascade_networks import LoadedCascade, cascade_bytes, load_cascade, ready_cascade
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.registry import build_backbone, build_cascade
from tests.models.test_cascade import SLIM

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import CascadeBundle

CPU = torch.device("cpu")


def written(folder: Path, **changes: Any) -> CascadeBundle:
    return write_cascade_bundle(folder, describe_cascade(**changes), build_cascade("conv", options={}))


def light(folder: Path, **changes: Any) -> CascadeBundle:
    torch.manual_seed(7)
    network = {"architecture": "cascadepsp-light", "options": SLIM}
    description = describe_cascade(network=network, **changes)
    made = build_cascade("cascadepsp-light", options=SLIM).train()
    with torch.no_grad():  # batch norms that change something
        made(torch.randn(4, BANDS, 32, 32) * 2 + 1, torch.randn(4, 1, 32, 32).sign())
    return write_cascade_bundle(folder, description, made, dtype=torch.float32)


def test_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    made = written(tmp_path / "a", name="a", side=500, compat="published", input={"std": [2, 2, 2]}, licence="MIT")
    assert load_cascade_bundle(str(tmp_path / "a")) == made
    assert (made.name, made.side, made.compat, made.licence) == ("a", 500, "published", "MIT")
    assert (made.input.bands, made.input.std) == (("red", "green", "blue"), (2, 2, 2))
    assert made.network.sha256 is not None
    assert made.notes == ()
    assert [role for role, _ in made.networks] == ["cascade"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "sharpener", "segmentation, cascade"),
        (("schema",), 2, "schema is newer than this program, which reads up to 1"),
        (("side",), 0, "at least 1"),
        (("classes",), [], "unknown keys.*classes"),
        (("compat",), "published-unshifted", "paper, published"),
        (("input", "size"), {"width": 8, "height": 8}, r"unknown keys.*input\.size"),
        (("input", "bands"), ["red", "green"], "array of 3 numbers|array of 2 numbers"),
        (("networks", "backbone"), {}, r"unknown keys.*networks\.backbone"),
        (("networks", "cascade", "temperature"), 2, "must be 1"),
    ],
)
def test_refuses_and_names_what_is_wrong(tmp_path: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    written(tmp_path)
    table = json.loads((tmp_path / DESCRIPTION).read_text())
    place = table
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / DESCRIPTION).write_text(json.dumps(table))
    with pytest.raises(WeightsError, match=message):
        load_description(str(tmp_path))


def test_it_may_know_one_kind_of_object(tmp_path: Path) -> None:
    assert written(tmp_path / "any").kind_of_object == ""
    made = written(tmp_path / "one", object="building")
    assert made.kind_of_object == "building"
    assert "object: building" in " ".join(described_lines(made))
    assert summary(made)["object"] == "building"
    assert "masks of building" in bundle_lines(made)[0]
    with pytest.raises(WeightsError, match="object must be a string"):
        written(tmp_path / "two", object=["building", "road"])


def test_a_cascade_looks_at_three_bands(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"input\.bands must be 3"):
        written(tmp_path, bands=("red", "green"))


def test_the_kinds_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    written(tmp_path / "sharp", name="sharp")
    network = build_backbone("conv", classes=2, bands=3, options={})
    write_bundle(tmp_path / "classes", describe(name="classes"), {"backbone.safetensors": network})
    with pytest.raises(WeightsError, match=r"sharp sharpens masks.*magnet refine"):
        load_bundle(str(tmp_path / "sharp"))
    with pytest.raises(WeightsError, match=r"classes predicts classes.*magnet segment"):
        load_cascade_bundle(str(tmp_path / "classes"))
    assert load_description(str(tmp_path / "classes")).name == "classes"


def test_verify_checks_its_file(tmp_path: Path) -> None:
    bundle = light(tmp_path)
    (check,) = verify_bundle(bundle)
    assert (check.role, check.architecture, check.hashed, check.error) == ("cascade", "cascadepsp-light", True, None)
    path = tmp_path / "cascade.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    (check,) = verify_bundle(bundle)
    assert check.error is not None
    assert "sha256" in str(check.error)


def test_a_network_made_ready_computes_what_it_computed_with_fewer_norms(tmp_path: Path) -> None:
    bundle = light(tmp_path, input={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]})
    loaded = load_cascade(bundle, device="cpu", precision="float32")
    plain = build_cascade("cascadepsp-light", options=SLIM).eval()
    plain.load_state_dict(load_file(bundle.folder / bundle.network.file))
    images, masks, coarse = torch.randn(2, 3, 40, 24), torch.rand(2, 1, 40, 24) * 2 - 1, torch.rand(2, 1, 40, 24)
    with torch.inference_mode():
        wide, close = plain(images, masks), plain.two_passes(images, masks, coarse)
    s4, s1 = loaded.three_levels(images, masks)
    torch.testing.assert_close(s4, wide.s4[-1].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(s1, wide.s1.sigmoid(), rtol=1e-4, atol=1e-5)
    s4, s1 = loaded.two_levels(images, masks, coarse)
    torch.testing.assert_close(s4, close.s4[-1].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(s1, close.s1.sigmoid(), rtol=1e-4, atol=1e-5)
    assert 0 < norms(loaded.network) < norms(plain)
    exact = load_cascade(replace(bundle, compat="published"), device="cpu", precision="float32")
    assert norms(exact.network) == norms(plain)
    assert torch.equal(exact.two_levels(images, masks, coarse)[1], close.s1.sigmoid())


def norms(network: torch.nn.Module) -> int:
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_bfloat16_is_near(tmp_path: Path) -> None:
    bundle = light(tmp_path)
    images, masks = torch.randn(1, 3, 32, 32), torch.randn(1, 1, 32, 32).sign()
    outputs = [
        load_cascade(bundle, device="cpu", precision=precision).three_levels(images, masks)[1]
        for precision in ("float32", "bfloat16")
    ]
    assert {output.dtype for output in outputs} == {torch.float32}
    assert float((outputs[0] - outputs[1]).abs().max()) < 0.05


def test_pixels_are_normalised_by_what_the_bundle_says(tmp_path: Path) -> None:
    bundle = written(tmp_path, input={"range": [100, 300], "mean": [0, 0.5, 1], "std": [1, 0.5, 2]})
    loaded = LoadedCascade(
        bundle=bundle,
        network=ready_cascade(build_cascade("conv", options={}), device=CPU, dtype=torch.float32, exact=False),
        device=CPU,
        precision="float32",
    )
    found = loaded.normalised(np.array([[[100, 200, 300], [300, 300, 100]]], np.uint16))
    assert found.shape == (3, 1, 2)
    assert found[:, 0].T.tolist() == [[0, 0, 0], [1, 1, -0.5]]


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="unknown precision"):
        load_cascade(written(tmp_path), device="cpu", precision="float8")


def test_memory_is_estimated_without_weights(tmp_path: Path) -> None:
    small, large = (cascade_bytes(light(tmp_path), side=side) for side in (96, 896))
    assert 96 * 96 * 4 * 4 <= small < large
