"""The groups of windows that a part of an image has to compute: its share of the last pass, and what lies under it."""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

from magnet_cli.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magnet_cli.options.parts import JobPart
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Pass


def groups_of_part(plan: Plan, part: JobPart) -> dict[int, list[int]]:
    """Return the groups that a part of an image computes, by the number of their pass.

    The groups of the last pass are shared out. Those of earlier passes are computed by every part that reads them, so
    that no part waits for another. They are few where a later pass has blocks of its own, and many where its blocks are
    the same.

    Args:
        plan: The plan of the image.
        part: The part.
    """
    wanted = list(part.span(plan.groups(plan.passes[-1])))
    found = {plan.passes[-1].number: wanted}
    for step in reversed(plan.passes[1:]):
        wanted = groups_below(plan, step, wanted)
        found[step.number - 1] = wanted
    return found


def groups_below(plan: Plan, step: Pass, groups: Iterable[int]) -> list[int]:
    """Return the groups of the pass before whose field is read by groups of a pass, in rising order."""
    before, first = plan.passes[step.number - 1], step.stages[0]
    found: set[int] = set()
    for group in groups:
        for block in plan.blocks(step, group):
            box = field_box(step, before, step.canvas(block, first))
            found.update(number // plan.group[before.number] for number in blocks_touching(before, box))
    return sorted(found)


def field_box(step: Pass, before: Pass, need: Box) -> Box:
    """Return the box of a pass's field that a block of the next pass reads: one pixel more than its windows cover.

    Args:
        step: The pass that reads.
        before: The pass that has left the field.
        need: The box that the windows of the block's first stage cover, on the grid of that stage.
    """
    coarse = before.stages[-1]
    box = coarse.pitch.around(need, step.stages[0].pitch).grown(1)
    return box.intersection(Box.whole(coarse.extent))


def blocks_touching(step: Pass, box: Box) -> Iterable[int]:
    """Yield the row-major numbers of the blocks that have a share in a box of the pass's last canvas."""
    if not box.area:
        return
    stage, ratio = step.stages[-1], step.ratio(step.stages[-1])
    width, height = ratio.width * stage.cell.width, ratio.height * stage.cell.height
    blocks = step.blocks
    left, right = _between(box.x - step.fade, box.right - 1 + step.fade, width, blocks.width)
    top, bottom = _between(box.y - step.fade, box.bottom - 1 + step.fade, height, blocks.height)
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            yield row * blocks.width + column


def _between(first: int, last: int, side: int, count: int) -> tuple[int, int]:
    """Return the first and the last of some intervals of one length that hold a pixel of a range."""
    return max(0, floor(first / side)), min(count - 1, floor(last / side))
