"""A run chooses its precision and reports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.errors import DeviceError
from magnet_cli.models import device
from magnet_cli.models.architectures.conv import conv_backbone
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.device import computes_bfloat16, context_memory, precision_notes, resolve_precision

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import Bundle


def bundle_that_agrees(folder: Path, agreement: float | None) -> Bundle:
    run = {"batch": 4} if agreement is None else {"batch": 4, "agreement": agreement}
    return bundle_that_runs(folder, {"cpu": {"bfloat16": run}})


def bundle_that_runs(folder: Path, execution: dict[str, Any]) -> Bundle:
    description = describe(execution=execution)
    return write_bundle(folder, description, {"backbone.safetensors": conv_backbone(classes=2, bands=3)})


@pytest.mark.parametrize(
    ("agreement", "has_it", "taken"),
    [(0.9995, True, "bfloat16"), (0.9995, False, "float32"), (0.998, True, "float32"), (None, True, "float32")],
)
def test_half_precision_is_taken_unasked_only_where_it_changes_nothing(
    agreement: float | None,
    has_it: bool,  # noqa: FBT001
    taken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = bundle_that_agrees(tmp_path, agreement)
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: has_it)
    assert resolve_precision("auto", "cpu", bundle) == taken
    assert resolve_precision("float32", "cpu", bundle) == "float32"
    assert resolve_precision("bfloat16", "cpu", bundle) == "bfloat16"
    with pytest.raises(DeviceError, match="float16 is for GPUs"):
        resolve_precision("float16", "cpu", bundle)


@pytest.mark.parametrize(
    ("bfloat16", "float16", "taken"),
    [
        (0.9995, 0.9999, "bfloat16"),
        (0.997, 0.9996, "float16"),
        (0.997, 0.998, "float32"),
        (None, 0.9996, "float16"),
        (0.9995, None, "bfloat16"),
    ],
)
def test_a_gpu_takes_float16_where_bfloat16_changes_labels(
    bfloat16: float | None, float16: float | None, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {
        name: {"batch": 4, "agreement": agreement}
        for name, agreement in (("bfloat16", bfloat16), ("float16", float16))
        if agreement is not None
    }
    bundle = bundle_that_runs(tmp_path, {"cuda": runs, "cpu": {"float16": {"batch": 4, "agreement": 1.0}}})
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: True)
    assert resolve_precision("auto", "cuda:0", bundle) == taken
    assert resolve_precision("auto", "cpu", bundle) == "float32"
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: False)
    without = resolve_precision("auto", "cuda:0", bundle)
    assert without == ("float16" if (float16 or 0) >= 0.999 else "float32")


def test_a_bundle_that_no_gpu_has_measured_runs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: True)
    assert resolve_precision("auto", "cuda:0", load_bundle("aerial")) == "float32"


@pytest.mark.parametrize(
    ("agreement", "said"), [(0.9995, None), (0.998, "99.80% of pixels"), (None, "it was not measured")]
)
def test_what_a_precision_changes_is_told(
    agreement: float | None, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_that_agrees(tmp_path, agreement)
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: True)
    assert precision_notes("float32", "cpu", bundle) == []
    told = precision_notes("bfloat16", "cpu", bundle)
    assert told == [] if said is None else said in told[0]
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: False)
    assert precision_notes("float32", "cpu", bundle) == []
    (slow,) = [note for note in precision_notes("bfloat16", "cpu", bundle) if note not in told]
    assert "cpu has no instructions for bfloat16, so that a run takes many times as long" in slow


def test_a_cpu_is_asked_for_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, found in (("fpu avx512_bf16 avx2", True), ("amx_bf16", True), ("avx512f avx512bw", False)):
        monkeypatch.setattr(device, "_read_text", lambda _, flags=flags: f"flags : {flags}\n")
        assert computes_bfloat16("cpu") is found
    assert not computes_bfloat16("mps")
    assert context_memory("cpu") == 0
