"""A pass of a plan, bound to everything that is fixed while its groups are read, computed and stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from magnet_cli.areas import Area
    from magnet_cli.options.method_settings import MethodSettings
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage
    from magnet_cli.segmentation.window_budget import BudgetCells

MOST_REMEMBERED = 1024
"""Blocks of which it is remembered what they read: memory must not grow with the image."""


@dataclass(frozen=True, kw_only=True)
class BoundPass:
    """A pass with its plan, its device, and the area and the budget that limit which windows it computes."""

    plan: Plan
    step: Pass
    device: torch.device
    """The networks' device."""
    area: Area | None = None
    """The area in which labels are wanted. None is the whole image."""
    budget: BudgetCells | None = None
    """The cells that a budget selects. None without a budget and in the first pass, which is computed in any case."""
    _read: dict[Index, NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)
    what: str = ""
    """Empty, because progress messages name a pass of a segmentation by its number."""

    @property
    def number(self) -> int:
        """The number of the pass in its plan, from 0."""
        return self.step.number

    @property
    def groups(self) -> int:
        """The number of groups of blocks in the pass."""
        return self.plan.groups(self.step)

    @property
    def settings(self) -> MethodSettings:
        """The settings of the method, from the plan."""
        return self.plan.settings

    @property
    def is_last(self) -> bool:
        """Whether the pass writes labels; the others leave a field."""
        return self.step is self.plan.passes[-1]

    @property
    def before(self) -> Pass:
        """The pass before this one, whose field it starts from."""
        return self.plan.passes[self.number - 1]

    @cached_property
    def after(self) -> BoundPass:
        """The pass after this one, by the same plan and area. It is not run."""
        return BoundPass(plan=self.plan, step=self.plan.passes[self.number + 1], device=self.device, area=self.area)

    def remembered(self, block: Index, find: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the boxes that a block reads, `(boxes, 4)`, for which several blocks of the pass before ask.

        Args:
            block: A block of this pass.
            find: Finds them if they are not remembered.
        """
        found = self._read.get(block)
        if found is None:
            found = find()
            # Several threads read. Those that find the same at once waste a moment.
            if len(self._read) >= MOST_REMEMBERED:
                self._read.clear()
            self._read[block] = found
        return found

    @property
    def keeps_change(self) -> bool:
        """Whether the pass keeps the change of its last stage as one more band of its field."""
        return self.plan.keeps_change(self.step)

    def blocks(self, group: int) -> list[Index]:
        """Return the blocks of a group, row-major."""
        return self.plan.blocks(self.step, group)

    def is_first(self, stage: Stage) -> bool:
        """Return whether a stage starts the run, with nothing to refine."""
        return self.plan.is_first(self.step, stage)
