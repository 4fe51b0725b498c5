"""The stages of a group of blocks: batches through the networks, merging, choosing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.pipeline.block import BlockState
from magnet_cli.refine.merge import Refiner, merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.pipeline.clock import Clock
    from magnet_cli.pipeline.reading import GroupPixels
    from magnet_cli.plan import Plan
    from magnet_cli.refine.canvas import Canvas
    from magnet_cli.windows import Pass, Stage, Window


class Predictor(Refiner, Protocol):
    """The networks of a bundle on a device."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def has_refiner(self) -> bool:
        """Whether `refine` can be called."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """`(n, classes, h, w)` float32 probabilities from `(n, bands, h, w)` normalised float32 patches."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """From stored values to what a network was trained on."""

    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Tensor, valid: Tensor | None) -> Tensor:
        """Scale to 0..1, subtract the mean, divide by the deviation; pixels without data become the mean.

        Args:
            pixels: `(n, h, w, bands)` stored values.
            valid: `(n, h, w)` bool, or None where every pixel holds data.

        Returns:
            `(n, bands, h, w)` float32.
        """
        device = pixels.device
        mean = torch.tensor(self.mean, device=device)
        std = torch.tensor(self.std, device=device)
        values = ((pixels.float() - self.low) / (self.high - self.low) - mean) / std
        if valid is not None:
            values = torch.where(valid[..., None], values, 0.0)
        return values.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One forward pass: a window of a block."""

    state: BlockState
    window: Window


class Computer:
    """Runs the stages of groups of blocks, one group at a time."""

    def __init__(self, plan: Plan, networks: Predictor, normalisation: Normalisation, clock: Clock) -> None:
        self._plan = plan
        self._networks = networks
        self._normalisation = normalisation
        self._clock = clock

    def run(self, step: Pass, group: GroupPixels, fields: Sequence[Canvas | None]) -> list[BlockState]:
        """All stages of a pass for the blocks of a group.

        Args:
            step: The pass.
            group: Pixels of its blocks.
            fields: For each block, what the pass before says about it; None in the first pass.

        Returns:
            The blocks with their last canvas.

        Raises:
            WeightsError: A network gave values that are not numbers.
            DeviceError: The device ran out of memory.
        """
        states = [
            BlockState(plan=self._plan, step=step, pixels=pixels, device=self._networks.device, canvas=field)
            for pixels, field in zip(group.blocks, fields, strict=True)
        ]
        with torch.inference_mode():
            for stage in step.stages:
                self._run_stage(states, stage)
        return states

    def _run_stage(self, states: Sequence[BlockState], stage: Stage) -> None:
        with self._clock.measure("select"):
            jobs = [Job(state=state, window=window) for state in states for window in state.begin(stage)]
        for start in range(0, len(jobs), self._plan.batch):
            batch = jobs[start : start + self._plan.batch]
            try:
                self._run_batch(batch, stage)
            except (torch.OutOfMemoryError, MemoryError) as error:
                raise DeviceError(
                    f"out of memory in stage {stage.number}, block {batch[0].state.pixels.block}",
                    advice="Nothing that was finished is lost: run the same command with a smaller -b",
                ) from error
        with self._clock.measure("select"):
            for state in states:
                state.finish(stage)

    def _run_batch(self, jobs: Sequence[Job], stage: Stage) -> None:
        with self._clock.measure("forward"):
            own = self._networks.predict(self._patches(jobs, stage), stage.scale)
            self._check(own, jobs, stage)
        if jobs[0].state.canvas is None:
            for job, probs in zip(jobs, own, strict=True):
                job.state.put(job.window, probs, None)
            return
        with self._clock.measure("refine"):
            under = torch.stack([job.state.field_under(job.window, stage) for job in jobs])
            merged = merge(own, under, how=self._plan.settings.merge, networks=self._networks, scale=stage.scale)
            self._check(merged, jobs, stage)
            for job, probs, field in zip(jobs, merged, under, strict=True):
                job.state.put(job.window, probs, field)

    def _patches(self, jobs: Sequence[Job], stage: Stage) -> Tensor:
        patches = [job.state.patch(job.window, stage) for job in jobs]
        device = self._networks.device
        pixels = torch.from_numpy(np.stack([_torch_dtype(values) for values, _ in patches])).to(device)
        if all(valid is None for _, valid in patches):
            return self._normalisation.apply(pixels, None)
        masks = [np.ones(values.shape[:2], np.bool_) if valid is None else valid for values, valid in patches]
        return self._normalisation.apply(pixels, torch.from_numpy(np.stack(masks)).to(device))

    def _check(self, probs: Tensor, jobs: Sequence[Job], stage: Stage) -> None:
        if not torch.isfinite(probs.sum()):
            raise WeightsError(
                f"the network gave values that are not numbers in stage {stage.number}, "
                f"block {jobs[0].state.pixels.block}",
                file=self._plan.image.path,
                advice="Check the bundle with 'magnet weights verify', and try --precision float32",
            )


def _torch_dtype(values: np.ndarray) -> np.ndarray:
    """Values in a dtype that torch converts: unsigned 16 and 32 bit become wider signed integers."""
    wider = {"uint16": np.int32, "uint32": np.int64}
    return values.astype(wider[values.dtype.name]) if values.dtype.name in wider else values
