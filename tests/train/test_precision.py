"""A training uses the device and the precision of its configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.train import precision as precision_module
from magnet_cli.train.config import FoldsConfig, LoopConfig, TrainConfig
from magnet_cli.train.precision import Arithmetic, slow_precision
from tests.train.support import CONFIG


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert Arithmetic(LoopConfig()).device == torch.device("cpu")


def test_auto_is_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Arithmetic(LoopConfig()).device == torch.device("cuda:0")
    assert Arithmetic(LoopConfig(device="cuda:1")).device == torch.device("cuda:1")


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=r"no GPU 3.*\[loop\] device"):
        Arithmetic(LoopConfig(device="cuda:3"))


def test_float16_is_for_cuda() -> None:
    with pytest.raises(UsageError, match="float16 needs a CUDA device"):
        Arithmetic(LoopConfig(precision="float16", device="cpu"))


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_operations_take_the_precision(precision: str, dtype: torch.dtype) -> None:
    arithmetic = Arithmetic(LoopConfig(precision=precision, device="cpu"))
    with arithmetic.autocast():
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
    assert not arithmetic.scaler.is_enabled()


HALF, FULL = LoopConfig(device="cpu", precision="bfloat16"), LoopConfig(device="cpu")


@pytest.mark.parametrize(
    ("loop", "folds", "tables"),
    [(HALF, FULL, "[loop]"), (FULL, HALF, "[folds.loop]"), (HALF, HALF, "[loop] and [folds.loop]")],
)
def test_one_note_names_each_loop_that_a_device_would_emulate(
    monkeypatch: pytest.MonkeyPatch, loop: LoopConfig, folds: LoopConfig, tables: str
) -> None:
    config = replace(TrainConfig.parse(CONFIG), loop=loop, folds=FoldsConfig(loop=folds))
    monkeypatch.setattr(precision_module, "computes_bfloat16", lambda _: False)
    note = slow_precision(config)
    assert note is not None
    assert note.startswith("cpu has no instructions for bfloat16")
    assert note.endswith(f' with {tables} precision = "float32".')
    assert slow_precision(replace(config, loop=FULL, folds=FoldsConfig(loop=FULL))) is None
    monkeypatch.setattr(precision_module, "computes_bfloat16", lambda _: True)
    assert slow_precision(config) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_float16_scales_its_loss() -> None:
    arithmetic = Arithmetic(LoopConfig(precision="float16", device="cuda"))
    assert arithmetic.scaler.is_enabled()
    assert arithmetic.moved(torch.ones(2)).device.type == "cuda"
    assert float(arithmetic.scaler.scale(torch.ones((), device="cuda"))) > 1
