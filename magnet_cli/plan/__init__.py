"""The plan of a run: what is read, computed and written, and with how much memory, before a pixel is read."""

from __future__ import annotations

from magnet_cli.plan.bands import (
    InputFacts,
    check_bands,
    check_values,
    describe_bands,
    examine_bands,
    inspect_bands,
    needs_clamp,
)
from magnet_cli.plan.defaults import resolve_scales
from magnet_cli.plan.domains import check_domain
from magnet_cli.plan.footprint import host_memory_plan, output_side
from magnet_cli.plan.grid import WorkingGrid, with_pixel_size, working_grid
from magnet_cli.plan.segmentation_plan import (
    AreaSpec,
    Machine,
    MemoryPlan,
    ModelFacts,
    Plan,
    SelectorFacts,
    windows_selected,
)
from magnet_cli.plan.segmentation_planner import GROUP, make_plan

__all__ = [
    "GROUP",
    "AreaSpec",
    "InputFacts",
    "Machine",
    "MemoryPlan",
    "ModelFacts",
    "Plan",
    "SelectorFacts",
    "WorkingGrid",
    "check_bands",
    "check_domain",
    "check_values",
    "describe_bands",
    "examine_bands",
    "host_memory_plan",
    "inspect_bands",
    "make_plan",
    "needs_clamp",
    "output_side",
    "resolve_scales",
    "windows_selected",
    "with_pixel_size",
    "working_grid",
]
