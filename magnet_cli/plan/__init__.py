"""What will be read, computed and written, and with how much memory: decided before the first pixel is read."""

from __future__ import annotations

from magnet_cli.plan.budget import OUTPUT_SIDE
from magnet_cli.plan.making import GROUP, make_plan
from magnet_cli.plan.resolve import check_bands, resolve_scales, working_pitch
from magnet_cli.plan.run import AreaSpec, Machine, MemoryPlan, ModelFacts, Plan, windows_selected

__all__ = [
    "GROUP",
    "OUTPUT_SIDE",
    "AreaSpec",
    "Machine",
    "MemoryPlan",
    "ModelFacts",
    "Plan",
    "check_bands",
    "make_plan",
    "resolve_scales",
    "windows_selected",
    "working_pitch",
]
