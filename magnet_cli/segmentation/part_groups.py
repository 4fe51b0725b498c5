"""The groups of windows that a part of an image has to compute: its share of the last pass, and what lies under it."""

from __future__ import annotations

from collections import deque
from math import floor
from typing import TYPE_CHECKING

from magnet_cli.plan.windows import field_box

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magnet_cli.geometry import Box
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


def in_turn(groups: Sequence[int], own: range, *, most: int) -> list[int]:
    """Return groups of a pass in the order in which a part computes them.

    Parts that begin at the same time need results of each other. Each computes its own share first, from both ends of
    the share inwards, because its neighbours need what lies there. Of what belongs to others it takes the farthest
    first, which they come to last. What they have left by then, it need not compute.

    Args:
        groups: The groups that the part needs, in rising order.
        own: The part's own share of all groups of the pass.
        most: Groups that follow one another in any case, because they are stored together.
    """
    ours = [group for group in groups if group in own]
    inwards = deque(ours[start : start + most] for start in range(0, len(ours), most))
    taken = [inwards.pop() if turn % 2 else inwards.popleft() for turn in range(len(inwards))]
    before = [group for group in groups if group < own.start]
    after = [group for group in groups if group >= own.stop]
    taken += [before[start : start + most] for start in range(0, len(before), most)]
    taken += [after[start : start + most] for start in range(0, len(after), most)][::-1]
    return [group for run in taken for group in run]


def groups_below(plan: Plan, step: Pass, groups: Iterable[int]) -> list[int]:
    """Return the groups of the pass before whose field is read by groups of a pass, in rising order."""
    before, first = plan.passes[step.number - 1], step.stages[0]
    found: set[int] = set()
    for group in groups:
        for block in plan.blocks(step, group):
            box = field_box(step, before, step.canvas(block, first))
            found.update(number // plan.group[before.number] for number in blocks_touching(before, box))
    return sorted(found)


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
