"""The stages of a group of blocks: batches through the networks, merging, choosing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, cast

import numpy as np
import torch

from magnet_cli.arithmetic.merge import Refiner, merge
from magnet_cli.errors import WeightsError
from magnet_cli.plan import needs_clamp
from magnet_cli.run.guards import naming_shortage
from magnet_cli.segmentation.block import BlockState
from magnet_cli.segmentation.block_stage import BlockStage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Stage, Window
    from magnet_cli.run.clock import Clock
    from magnet_cli.segmentation.bound_pass import BoundPass
    from magnet_cli.segmentation.group_reader import GroupPixels
    from magnet_cli.segmentation.window_scores import Known


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


class Scorer(Predictor, Protocol):
    """The same, with a selector."""

    def score_map(self, patches: Tensor, field: Tensor | None) -> Tensor:
        """`(n, h', w')` float32 of normalised patches and, where it sees them, `(n, classes, h, w)` probabilities."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """From stored values to what a network was trained on."""

    spans: tuple[tuple[float, float], ...]
    """For each band, the stored values that become 0 and 1."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clamps: bool = False
    """Whether stored values may lie beyond: they are then taken for the nearer end."""

    @classmethod
    def of(cls, plan: Plan, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        """For the image of a plan.

        Args:
            plan: Says which stored values are the ends of the bundle's range.
            mean: Of the bundle, for each band, of values from 0 to 1.
            std: Likewise.
        """
        return cls(spans=plan.value_range, mean=mean, std=std, clamps=needs_clamp(plan.image, plan.value_range))

    def factors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What stored values are multiplied by, and what is then added, for each band; float32."""
        mean, std = np.array(self.mean), np.array(self.std)
        low, high = np.array(self.spans, np.float64).T
        span = high - low
        parts = (1 / (span * std), -(low / span + mean) / std)
        scale, shift = (torch.from_numpy(part.astype(np.float32)).to(device) for part in parts)
        return scale, shift

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The least and the largest stored value of each band, float32; None where none lies beyond."""
        if not self.clamps:
            return None
        low, high = (torch.tensor(ends, dtype=torch.float32, device=device) for ends in zip(*self.spans, strict=True))
        return low, high

    def apply(self, pixels: Tensor) -> Tensor:
        """Stored values `(n, h, w, bands)` as a network takes them: `(n, bands, h, w)` float32."""
        scale, shift = self.factors(pixels.device)
        values, bounds = pixels.float(), self.bounds(pixels.device)
        values = values if bounds is None else values.clamp(*bounds)
        return (values * scale + shift).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A window of a block that a network is to look at."""

    at: BlockStage
    window: Window

    @property
    def block(self) -> Index:
        """The block that the window belongs to."""
        return self.at.state.pixels.block


class Computer:
    """Runs the stages of a pass for groups of blocks, one group at a time.

    Args:
        bound: The pass.
        networks: The networks of a bundle, on the pass's device.
        normalisation: Makes what networks take of stored values.
        clock: Measures where the time goes.
    """

    def __init__(self, bound: BoundPass, networks: Predictor, normalisation: Normalisation, clock: Clock) -> None:
        self._bound = bound
        self._networks = networks
        self._scale, self._shift = normalisation.factors(networks.device)
        self._bounds = normalisation.bounds(networks.device)
        self._clock = clock

    def run(self, group: GroupPixels, known: Sequence[Known | None]) -> list[BlockState]:
        """Run all stages of the pass for the blocks of a group.

        Args:
            group: Pixels of its blocks.
            known: For each block, what the pass before says about it; None in the first pass.

        Returns:
            The blocks with their last canvas.

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
        # Looking at a number makes the host wait for the device: the sums of all batches are looked at together.
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
        """The stage of each block, and all windows that are computed, in batches."""
        with self._clock.measure("select"):
            blocks = [BlockStage(state, stage) for state in states]
        windows = [Forward(at=block, window=window) for block in blocks for window in block.windows]
        batch = self._bound.plan.batch
        return blocks, [windows[start : start + batch] for start in range(0, len(windows), batch)]

    def _score(
        self, blocks: Sequence[BlockStage], batches: Sequence[Sequence[Forward]], stage: Stage, *, sees_field: bool
    ) -> None:
        """Ask the selector for the scores of the next stage's windows."""
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
        """Run one batch; gives the sum of its probabilities, not a number if any is none."""
        with self._clock.measure("select"):
            patches = self._patches(batch, stage)
        with self._clock.measure("forward"):
            result = self._predict(patches, stage)
        under: Tensor | None = None
        if not batch[0].at.is_start:
            with self._clock.measure("select"):
                under = torch.stack([one.at.field_under(one.window) for one in batch])
            with self._clock.measure("refine"):
                how = self._bound.settings.merge
                result = merge(result, under, how=how, networks=self._networks, scale=stage.scale)
        with self._clock.measure("select"):
            for index, one in enumerate(batch):
                one.at.put(one.window, result[index], None if under is None else under[index])
            return result.sum()

    def _predict(self, patches: Tensor, stage: Stage) -> Tensor:
        """O: `(n, classes, h, w)` float32 probabilities."""
        return self._networks.predict(patches, stage.scale)

    def _patches(self, batch: Sequence[Forward], stage: Stage) -> Tensor:
        """`(n, bands, h, w)` normalised float32, stored band by band; pixels without data become the mean."""
        size = stage.input
        shape = (len(batch), size.height, size.width, len(self._scale))
        values = torch.empty(shape, dtype=torch.float32, device=self._networks.device)
        valid = [one.at.patch(one.window, target) for one, target in zip(batch, values, strict=True)]
        # Whole rows: an operation whose innermost dimension has the three values of a pixel takes ten times as long.
        rows = values.reshape(len(batch), size.height, -1)
        scale, shift, *bounds = (ends.repeat(size.width) for ends in (self._scale, self._shift, *(self._bounds or ())))
        if bounds:
            torch.clamp(rows, *bounds, out=rows)
        rows.mul_(scale).add_(shift)
        for target, holding in zip(values, valid, strict=True):
            if holding is not None:
                target.masked_fill_(~holding[..., None], 0)
        return values.permute(0, 3, 1, 2)

    def _check(self, sums: Tensor, batches: Sequence[Sequence[Forward]], stage: Stage) -> None:
        wrong = (~torch.isfinite(sums)).nonzero().reshape(-1).tolist()
        if wrong:
            raise WeightsError(
                f"the network gave values that are not numbers in stage {stage.number}, "
                f"block {batches[wrong[0]][0].block}",
                file=self._bound.plan.image.path,
                advice="Check the bundle with 'magnet weights verify', and try --precision float32",
            )
