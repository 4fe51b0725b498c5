"""Computation of a group of blocks: patches go through the networks in batches, and each stage is merged with Y'."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self, cast

import numpy as np
import torch

from magnet_cli.arithmetic.merge import Refiner, merge
from magnet_cli.arithmetic.mirroring import mean_over_mirrors
from magnet_cli.errors import WeightsError
from magnet_cli.plan import needs_clamp
from magnet_cli.run.guards import naming_shortage
from magnet_cli.segmentation.block import BlockState
from magnet_cli.segmentation.block_stage import BlockStage
from magnet_cli.segmentation.stains import apply_stains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.plan import Plan
    from magnet_cli.plan.preparation import StainMap
    from magnet_cli.plan.windows import Index, Stage, Window
    from magnet_cli.run.clock import Clock
    from magnet_cli.segmentation.bound_pass import BoundPass
    from magnet_cli.segmentation.group_reader import GroupPixels
    from magnet_cli.segmentation.window_scores import Known


class Predictor(Refiner, Protocol):
    """The networks of a bundle on a device."""

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""

    @property
    def has_refiner(self) -> bool:
        """Whether `refine` can be called."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """Predict probabilities `(n, classes, h, w)` float32 from normalised patches `(n, bands, h, w)` float32."""


class Scorer(Predictor, Protocol):
    """The networks of a bundle that has a patch proposal network (PPN)."""

    def score_map(self, patches: Tensor, field: Tensor | None) -> Tensor:
        """Score the places of patches; a low score proposes a place for the next stage.

        Args:
            patches: Normalised patches `(n, bands, h, w)` float32.
            field: Probabilities `(n, classes, h, w)` float32; None for a network that takes the patches alone.

        Returns:
            `(n, h', w')` float32.
        """


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """The linear map from stored values to the normalised values that a network was trained on."""

    spans: tuple[tuple[float, float], ...]
    """Stored values of each band that become 0 and 1."""
    mean: tuple[float, ...]
    """Mean of each band, which is subtracted from values in 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each band, by which the difference is divided."""
    preparation: StainMap | None = None
    """The map of colours that comes first. None for networks that take colours."""
    clamps: bool = False
    """Whether stored values may lie outside `spans`. Such values are clamped to the nearer end."""

    @classmethod
    def of(cls, plan: Plan, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        """Return the normalisation for the image of a plan.

        Args:
            plan: The plan, whose `value_range` gives the stored values that become 0 and 1.
            mean: The bundle's mean of each band, of values from 0 to 1.
            std: The bundle's standard deviation of each band.
        """
        return cls(
            spans=plan.value_range,
            mean=mean,
            std=std,
            clamps=needs_clamp(plan.image, plan.value_range),
            preparation=plan.preparation,
        )

    def factors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return for each band the factor of stored values and the summand that follows, float32."""
        mean, std = np.array(self.mean), np.array(self.std)
        low, high = np.array(self.spans, np.float64).T
        span = high - low
        parts = (1 / (span * std), -(low / span + mean) / std)
        scale, shift = (torch.from_numpy(part.astype(np.float32)).to(device) for part in parts)
        return scale, shift

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Return the ends to which stored values of each band are clamped, float32. None where none lies outside."""
        if not self.clamps:
            return None
        low, high = (torch.tensor(ends, dtype=torch.float32, device=device) for ends in zip(*self.spans, strict=True))
        return low, high

    def apply(self, pixels: Tensor) -> Tensor:
        """Normalise stored values `(n, h, w, bands)` to patches `(n, bands, h, w)` float32."""
        scale, shift = self.factors(pixels.device)
        values, bounds = pixels.float(), self.bounds(pixels.device)
        if self.preparation is not None:
            # Stains are applied in place, and `float` does not copy values that are float32 already.
            values = values.clone()
            apply_stains(values, self.preparation)
        values = values if bounds is None else values.clamp(*bounds)
        return (values * scale + shift).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A window of a block's stage that goes through a network."""

    at: BlockStage
    window: Window

    @property
    def block(self) -> Index:
        """The block that the window belongs to."""
        return self.at.state.pixels.block


class Computer:
    """Runs the stages of a pass for groups of blocks, one group at a time.

    Args:
        bound: The pass whose stages are run.
        networks: The networks of a bundle, on the pass's device.
        normalisation: The map from stored values to the networks' input.
        clock: Measures the time of each activity.
    """

    def __init__(self, bound: BoundPass, networks: Predictor, normalisation: Normalisation, clock: Clock) -> None:
        self._bound = bound
        self._networks = networks
        self._scale, self._shift = normalisation.factors(networks.device)
        self._bounds = normalisation.bounds(networks.device)
        self._rows: dict[int, list[Tensor]] = {}
        self._preparation = normalisation.preparation
        self._clock = clock

    def run(self, group: GroupPixels, known: Sequence[Known | None]) -> list[BlockState]:
        """Run all stages of the pass for the blocks of a group.

        Args:
            group: The decoded pixels of its blocks.
            known: For each block, the result of the pass before; None in the first pass.

        Returns:
            The states of the blocks after the last stage of the pass.

        Raises:
            WeightsError: A network gave values that are not numbers.
            MemoryShortageError: The device ran out of memory.
        """
        states = [
            BlockState(bound=self._bound, pixels=pixels, known=before)
            for pixels, before in zip(group.blocks, known, strict=True)
        ]
        for stage in self._bound.step.stages:
            what = f"stage {stage.number}, block {states[0].pixels.block}, was computed"
            with naming_shortage(what), torch.inference_mode():
                self._run_stage(states, stage)
        return states

    def _run_stage(self, states: Sequence[BlockState], stage: Stage) -> None:
        blocks, batches = self._begun(states, stage)
        # Reading a number makes the host wait for the device, so the sums of all batches are checked together.
        sums = [self._run_batch(batch, stage) for batch in batches]
        if sums:
            self._check(torch.stack(sums), batches, stage)
        selector = self._bound.plan.selector
        with self._clock.measure("select"):
            for block in blocks:
                block.finish()
            if selector is not None and stage is not self._bound.plan.stages[-1]:
                self._score(blocks, batches, stage, sees_field=selector.sees_field)

    def _begun(self, states: Sequence[BlockState], stage: Stage) -> tuple[list[BlockStage], list[list[Forward]]]:
        """Start the stage of each block, and divide the selected windows of all blocks into batches.

        A batch may hold windows of several blocks. Which windows share a batch can change the last bits of a result, so
        group and batch are part of the plan, and never depend on free memory or on what a resumed run finds.
        """
        with self._clock.measure("select"):
            blocks = [BlockStage(state, stage) for state in states]
        windows = [Forward(at=block, window=window) for block in blocks for window in block.windows]
        batch = self._bound.plan.batch
        return blocks, [windows[start : start + batch] for start in range(0, len(windows), batch)]

    def _score(
        self, blocks: Sequence[BlockStage], batches: Sequence[Sequence[Forward]], stage: Stage, *, sees_field: bool
    ) -> None:
        """Let the patch proposal network score the places from which the next stage's windows are selected."""
        networks, sums = cast("Scorer", self._networks), []
        found: dict[Index, list[tuple[Window, Tensor]]] = {block.state.pixels.block: [] for block in blocks}
        for batch in batches:
            under = torch.stack([one.at.field_under(one.window) for one in batch]) if sees_field else None
            scores = networks.score_map(self._patches(batch, stage), under)
            sums.append(scores.sum())
            for one, places in zip(batch, scores, strict=True):
                found[one.block].append((one.window, places))
        if sums:
            self._check(torch.stack(sums), batches, stage)
        for block in blocks:
            block.take_scores(found[block.state.pixels.block])

    def _run_batch(self, batch: Sequence[Forward], stage: Stage) -> Tensor:
        """Run one batch, and return the sum of its probabilities, which is NaN if any of them is NaN."""
        with self._clock.measure("select"):
            patches = self._patches(batch, stage)
        with self._clock.measure("forward"):
            images = self._bound.settings.images
            result = mean_over_mirrors(partial(self._predict, stage=stage), patches, images=images)
        how = self._bound.settings.merge
        if how == "geometric" and result.device.type == "cpu" and not batch[0].at.is_start:
            # One window after another stays in the processor's cache. A GPU takes a batch in fewer operations.
            with self._clock.measure("refine"):
                sums = [one.at.merge(one.window, own) for one, own in zip(batch, result.unbind(), strict=True)]
                return torch.stack(sums).sum()
        under: Tensor | None = None
        if not batch[0].at.is_start:
            with self._clock.measure("select"):
                under = torch.stack([one.at.field_under(one.window) for one in batch])
            with self._clock.measure("refine"):
                result = merge(result, under, how=how, networks=self._networks, scale=stage.scale)
        with self._clock.measure("select"):
            for index, one in enumerate(batch):
                one.at.put(one.window, result[index], None if under is None else under[index])
            return result.sum()

    def _predict(self, patches: Tensor, stage: Stage) -> Tensor:
        """Return O, the probabilities of this stage alone: `(n, classes, h, w)` float32."""
        return self._networks.predict(patches, stage.scale)

    def _patches(self, batch: Sequence[Forward], stage: Stage) -> Tensor:
        """Return the normalised patches of a batch, `(n, bands, h, w)` float32; pixels without data become the mean.

        The memory order is that of the stored values (channels last).
        """
        size = stage.input
        shape = (len(batch), size.height, size.width, len(self._scale))
        values = torch.empty(shape, dtype=torch.float32, device=self._networks.device)
        valid = [one.at.patch(one.window, target) for one, target in zip(batch, values.unbind(), strict=True)]
        if self._preparation is not None:
            apply_stains(values, self._preparation)
        # Factors are repeated to whole rows: an operation whose innermost dimension has the three values of a pixel
        # takes ten times as long.
        rows = values.reshape(len(batch), size.height, -1)
        scale, shift, *bounds = self._factors_of_rows(size.width)
        if bounds:
            torch.clamp(rows, *bounds, out=rows)
        rows.mul_(scale).add_(shift)
        for target, holding in zip(values, valid, strict=True):
            if holding is not None:
                target.masked_fill_(~holding[..., None], 0)
        return values.permute(0, 3, 1, 2)

    def _factors_of_rows(self, width: int) -> list[Tensor]:
        """Return the factors, the summands and the bounds of all bands, each repeated for so many pixels."""
        if width not in self._rows:
            self._rows[width] = [ends.repeat(width) for ends in (self._scale, self._shift, *(self._bounds or ()))]
        return self._rows[width]

    def _check(self, sums: Tensor, batches: Sequence[Sequence[Forward]], stage: Stage) -> None:
        wrong = (~torch.isfinite(sums)).nonzero().reshape(-1).tolist()
        if wrong:
            raise WeightsError(
                f"the network gave values that are not numbers in stage {stage.number}, "
                f"block {batches[wrong[0]][0].block}",
                file=self._bound.plan.image.path,
                advice="Check the bundle with 'magnet weights verify', and try --precision float32",
            )
