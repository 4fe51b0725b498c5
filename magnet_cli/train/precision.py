"""The device and the precision of a training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.models.device import computes_bfloat16, resolve_device

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.train.config import LoopConfig, TrainConfig

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(config: LoopConfig) -> str:
    """Return the name of the device of a loop.

    Raises:
        DeviceError: This machine has no such device.
    """
    try:
        return resolve_device(config.device)
    except DeviceError as exc:
        advice = 'Write [loop] device = "auto", or see what this machine has with its vendor\'s tool.'
        raise DeviceError(exc.rule, value=exc.value, advice=advice) from exc


def slow_precision(config: TrainConfig) -> str | None:
    """Return a note on a training in bfloat16 on a device that only emulates it; None for any other training.

    One note is enough: it names each table of the configuration whose loop is slow.

    Raises:
        DeviceError: This machine has no such device.
    """
    loops = {"[loop]": config.loop, "[folds.loop]": config.folds.loop}
    devices = {table: device_of(loop) for table, loop in loops.items()}
    slow = [
        table for table, loop in loops.items() if loop.precision == "bfloat16" and not computes_bfloat16(devices[table])
    ]
    if not slow:
        return None
    return (
        f"{devices[slow[0]]} has no instructions for bfloat16, so that the training takes many times as long as with "
        f'{" and ".join(slow)} precision = "float32".'
    )


class Arithmetic:
    """The device on which a network is fitted, and its precision.

    Args:
        config: Names device and precision.

    Raises:
        DeviceError: This machine has no such device.
        UsageError: The device cannot be trained on in that precision.
    """

    def __init__(self, config: LoopConfig) -> None:
        self.device = torch.device(device_of(config))
        self._pins = self.device.type == "cuda"
        self.half = HALVES.get(config.precision)
        scales = self.half == torch.float16
        if scales and self.device.type != "cuda":
            raise UsageError(
                "[loop] precision float16 needs a CUDA device",
                value=self.device,
                advice='Write precision = "bfloat16" or "float32".',
            )
        self.scaler = torch.amp.GradScaler("cuda", enabled=scales)
        """Keeps float16's small gradients from vanishing; hands everything through in another precision."""

    def autocast(self) -> torch.autocast:
        """Return a context in which operations take the half precision, if there is one."""
        return torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None)

    def moved(self, tensor: Tensor) -> Tensor:
        """Return a tensor of host memory on the device; a GPU copies it while the host goes on."""
        if self._pins:
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
