"""Which windows a run that keeps to an area has to compute."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from magnet_cli.refine.grnet import REACH

if TYPE_CHECKING:
    from magnet_cli.areas import Area
    from magnet_cli.geometry import Box
    from magnet_cli.plan import Plan
    from magnet_cli.windows import Index, Pass, Stage

Cells = frozenset["Index"]


def cells_to_look_at(plan: Plan, step: Pass, block: Index, area: Area) -> tuple[Cells, ...]:
    """The cells of each stage on which a label inside the area depends.

    The finest stage is asked where its result reaches a label inside; each stage before it, where the windows after it
    read it. So with every point and window taken, labels inside are those of a run without an area.

    Args:
        plan: Of the run.
        step: The pass.
        block: Of the pass.
        area: Where labels are wanted.

    Returns:
        One set a stage; all empty where nothing of the block is wanted.
    """
    finest = step.stages[-1]
    wanted: list[Box] = []
    chosen: list[Cells] = []
    for stage in reversed(step.stages):
        taken = []
        for window in step.windows(block, stage):
            reached = stage.pitch.level0(window.kept.grown(_rim(plan)))
            if _is_wanted(plan, step, block, area, reached) if stage is finest else _meets(reached, wanted):
                taken.append(window)
        chosen.append(frozenset(window.cell for window in taken))
        wanted = [stage.pitch.level0(window.box) for window in taken]
    return tuple(reversed(chosen))


def _is_wanted(plan: Plan, step: Pass, block: Index, area: Area, reached: Box) -> bool:
    """Whether a result of the finest stage of a pass matters that reaches so far."""
    if step is plan.passes[-1]:
        return area.touches(reached.intersection(step.level0(block)))
    return area.touches(reached.grown(_reach(plan, step)))


def _meets(box: Box, others: list[Box]) -> bool:
    return any(box.intersection(other).area for other in others)


def _rim(plan: Plan) -> int:
    """Canvas pixels beyond its own that a value is made of: those of the median or fusion, and a bilinear step's."""
    if plan.settings.method == "grnet":
        # A fused pixel depends on those around it, at the coarser resolution at most.
        return 1 + (1 + REACH) * plan.passes[-1].ratio(plan.stages[-1]).width
    return 1 + plan.settings.score_side // 2


def _reach(plan: Plan, step: Pass) -> int:
    """Level-0 pixels beyond a label that the passes after this one may read of it: a window a stage, and its rim."""
    later = [stage for after in plan.passes[step.number + 1 :] for stage in after.stages]
    return sum(_side(stage, _rim(plan)) for stage in later)


def _side(stage: Stage, rim: int) -> int:
    across = (stage.input.width + rim) * stage.pitch.x
    down = (stage.input.height + rim) * stage.pitch.y
    return ceil(max(across, down))
