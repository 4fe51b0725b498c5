"""Plain patching: MONAI's sliding window over the whole image in memory, with the finest stage's windows."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from magnet_cli.bench.ceiling import normalisation, opened
from magnet_cli.bench.plain_networks import PlainNetworks
from magnet_cli.bench.program import made_plan
from magnet_cli.bench.task import Contender, Ready, Took
from magnet_cli.bench.timing import measured
from magnet_cli.events import Events
from magnet_cli.geometry import Box, Size
from magnet_cli.images.protocol import Request
from magnet_cli.models.device import free_device_memory, pin_arithmetic
from magnet_cli.options.segment import OF_GRNETS, SegmentOptions
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.memory import available_memory, format_bytes, host_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from magnet_cli.plan import Plan

LOADED, SAME = "model as loaded", "same model object"
KINDS = (LOADED, SAME)
NOT_A_BACKBONE = "plain patching runs a backbone, and a GRNet computes its finest windows by its local branch"
INSTALL = "pip install 'magnet-cli[bench]'"
ROWS = 1024
"""The rows of the image that are read at a time."""


class Patching(Contender[SegmentOptions]):
    """MONAI's `sliding_window_inference` with overlap 0, then the largest class, as a user of MONAI would write it."""

    def prepare(self) -> Ready:
        """Read the whole image into memory, if there is room for it and its result, and run one batch."""
        if self._task.options.method in OF_GRNETS:
            return Ready(refusal="does not apply", reason=NOT_A_BACKBONE)
        if find_spec("monai") is None:
            return Ready(refusal="unavailable", reason=f"MONAI is not installed: {INSTALL}")
        self._model = load_model(self._task.options, Events())
        self._plan = made_plan(self._task.image, self._model, self._task.options)
        refused = refusal(needed_bytes(self._plan), device=self._plan.machine.device)
        if refused is not None:
            return refused
        pin_arithmetic(usable_cores())
        settings = self._plan.settings
        machine = self._plan.machine
        # MONAI calls PyTorch, which does not compute these networks in 8 bits.
        precision = "float32" if machine.precision == "int8" else machine.precision
        self._plain = PlainNetworks.load(
            self._model.bundle, device=machine.device, precision=precision, how=settings.merge
        )
        loaded = host_memory()
        self._pixels = self._read().to(self._plain.device)
        size = self._plan.stages[-1].input
        # One batch of each kind warms kernels and memory up before anything is measured.
        few = self._pixels[..., : size.height, : size.width * self._plan.batch]
        for kind in KINDS:
            self._infer(few, self._predictor(kind))
        return Ready(loaded=loaded, needs=needed_bytes(self._plan), available=_available(machine.device))

    def run(self, what: str, program: Took | None) -> Took:
        """Segment the image, and return what it took.

        Args:
            what: `LOADED` or `SAME`.
            program: It is not used.
        """
        del program
        windows: list[int] = []
        predictor = self._predictor(what)

        def counted(patches: Tensor) -> Tensor:
            windows.append(len(patches))
            return predictor(patches)

        with measured(self._plain.device) as found:
            self._infer(self._pixels, counted)
        return Took(
            seconds=found.seconds,
            windows=sum(windows),
            host_base=found.host_base,
            host_peak=found.host_peak,
            device_peak=found.device_peak,
        )

    def _predictor(self, kind: str) -> Callable[[Tensor], Tensor]:
        if kind == LOADED:
            return self._plain.logits
        scale = self._plan.stages[-1].scale
        return lambda patches: self._model.networks.predict(patches, scale)

    @torch.inference_mode()
    def _infer(self, pixels: Tensor, predictor: Callable[[Tensor], Tensor]) -> Tensor:
        from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415 - an optional extra

        size = self._plan.stages[-1].input
        probs: Any = sliding_window_inference(
            pixels, (size.height, size.width), self._plan.batch, predictor, overlap=0.0
        )
        labels: Tensor = probs.argmax(dim=1)
        return labels

    def _read(self) -> Tensor:
        """Return the image at the finest stage's pixels, `(1, bands, height, width)` float32, normalised."""
        stage, bands = self._plan.stages[-1], self._plan.bands
        size = stage.extent
        pixels = torch.empty((1, len(bands), size.height, size.width))
        with opened(self._task) as image:
            for top in range(0, size.height, ROWS):
                box = Box(x=0, y=top, width=size.width, height=min(ROWS, size.height - top))
                region = image.read([Request(pitch=stage.pitch, box=box, resample=self._plan.resample, bands=bands)])[0]
                strip = region.pixels.astype(np.float32)
                values = normalisation(self._plan, self._model).apply(torch.from_numpy(strip)[None])
                pixels[:, :, top : top + box.height] = values
        return pixels


def needed_bytes(plan: Plan) -> int:
    """Return the bytes of whole-image tensors: pixels, classes and counts in float32, labels as int64."""
    size: Size = plan.stages[-1].extent
    bands = len(plan.image.bands)
    return size.pixels * (4 * (bands + plan.classes + 1) + 8)


def refusal(needs: int, *, device: str) -> Ready | None:
    """Return why so many bytes are not available; None where they are."""
    available = _available(device)
    if available is None or needs <= available:
        return None
    where = "device" if device.startswith("cuda") else "host"
    reason = f"needs {format_bytes(needs)} of {where} memory, and {format_bytes(available)} are available"
    return Ready(refusal="refused", reason=reason, needs=needs, available=available)


def _available(device: str) -> int | None:
    return free_device_memory(device) if device.startswith("cuda") else available_memory()
