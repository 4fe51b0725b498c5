"""A pass of a plan, bound to everything that is fixed while its groups are read, computed and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from magnet_cli.areas import Area
    from magnet_cli.options.method_settings import MethodSettings
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage
    from magnet_cli.segmentation.window_budget import BudgetCells


@dataclass(frozen=True, kw_only=True)
class BoundPass:
    """A pass, with its plan, its device, and where it computes anything."""

    plan: Plan
    step: Pass
    device: torch.device
    """The networks' device."""
    area: Area | None = None
    """Where labels are wanted; None everywhere."""
    budget: BudgetCells | None = None
    """The cells that a budget allows to be computed; None without a budget, and in the first pass."""
    what: str = ""
    """Nothing: the number of a pass says enough."""

    @property
    def number(self) -> int:
        """Which pass of the plan it is, from 0."""
        return self.step.number

    @property
    def groups(self) -> int:
        """How many groups of blocks it has."""
        return self.plan.groups(self.step)

    @property
    def settings(self) -> MethodSettings:
        """The method's settings, which are those of the plan."""
        return self.plan.settings

    @property
    def is_last(self) -> bool:
        """Whether the pass writes labels; the others leave a field."""
        return self.step is self.plan.passes[-1]

    @property
    def before(self) -> Pass:
        """The pass before this one, whose field it starts from."""
        return self.plan.passes[self.number - 1]

    @property
    def keeps_change(self) -> bool:
        """Whether the pass leaves, beside probabilities, how far its last stage changed them."""
        return self.plan.keeps_change(self.step)

    def blocks(self, group: int) -> list[Index]:
        """The blocks of a group, row-major."""
        return self.plan.blocks(self.step, group)

    def is_first(self, stage: Stage) -> bool:
        """Whether a stage starts the run, with nothing to refine."""
        return self.plan.is_first(self.step, stage)
