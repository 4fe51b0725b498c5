"""Count the windows that parts of one image compute together, where all of them begin at the same time.

    python -m benchmarks.part_windows --side 16000 --parts 2,4,8

No network is run. The plan, the shares, the order of groups and the folder of pieces are the program's own; a group
takes as long as its windows and its pixels are work (`magnet_cli/run/workload.py`), and `--speeds 1,0.5` gives every
other part half the speed. `alone` is what the parts compute if none sees what another has left.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from magnet_cli.geometry import LEVEL0, Size
from magnet_cli.images.protocol import ImageInfo, Level
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.pieces import PieceFolder, PieceStore
from magnet_cli.masks.spec import GroupId, MaskClass, MaskSpec
from magnet_cli.options.parts import JobPart
from magnet_cli.options.rules import ALL
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import windows_selected
from magnet_cli.run.workload import PASSING_A_PIXEL
from magnet_cli.segmentation.image_parts import turns_of_part
from magnet_cli.segmentation.image_planner import Planner, plan_image
from magnet_cli.segmentation.part_groups import groups_of_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from magnet_cli.plan import Plan


def plan_of(side: int, options: SegmentOptions) -> Plan:
    """Return the plan of a square image in red, green and blue that is not there."""
    size, planner = Size(width=side, height=side), Planner.of(options)
    level = Level(size=size, downsample=LEVEL0)
    info = ImageInfo(
        path="none.tif", backend="tiff", size=size, levels=(level,), bands=("red", "green", "blue"), dtype="uint8"
    )
    return plan_image("none.tif", planner.facts, options, planner.machine, info=info)


def windows_of(plan: Plan, number: int, group: int) -> int:
    """Return the windows of a group of a pass."""
    step, found = plan.passes[number], 0
    for block in plan.blocks(step, group):
        for stage in step.stages:
            rule = ALL if plan.is_first(step, stage) else plan.settings.patches
            found += windows_selected(
                rule,
                total=sum(1 for _ in step.windows(block, stage)),
                full=step.ratio(stage).pixels,
                step=plan.rule_step(stage),
            )
    return found


def seconds_of(plan: Plan, number: int, group: int) -> float:
    """Return how long a group takes, in a unit of its own."""
    step = plan.passes[number]
    pixels = sum(step.own(block, stage).area for block in plan.blocks(step, group) for stage in step.stages)
    return windows_of(plan, number, group) * plan.stages[0].input.pixels + PASSING_A_PIXEL * pixels


@dataclass(kw_only=True)
class SimulatedPart:
    """A part that computes nothing, and leaves pieces."""

    plan: Plan
    store: PieceStore
    speed: float
    windows: int = 0
    _now: GroupId | None = None
    _ahead: deque[GroupId] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._passes = iter([self._groups(step.number) for step in self.plan.passes])
        self._rest = next(self._passes)

    def _groups(self, number: int) -> Iterator[GroupId]:
        return (GroupId(pass_index=number, index=group) for group in self.store.missing(number))

    def turn(self) -> float | None:
        """Finish the group that was computed, and return how long the next one takes; None after the last."""
        if self._now is not None:
            self.store.finish_group(self._now, counts={})
            self._now = None
        while not self._fill():
            following = next(self._passes, None)
            if following is None:
                return None
            self._rest = following
        self._now = self._ahead.popleft()
        self.windows += windows_of(self.plan, self._now.pass_index, self._now.index)
        return seconds_of(self.plan, self._now.pass_index, self._now.index) / self.speed

    def _fill(self) -> bool:
        """Ask for as many groups as the engine, which reads ahead."""
        while len(self._ahead) < self.plan.memory.ahead + 2:
            group = next(self._rest, None)
            if group is None:
                break
            self._ahead.append(group)
        return bool(self._ahead)


def windows_together(plan: Plan, count: int, folder: Path, speeds: Sequence[float]) -> int:
    """Return the windows that all parts of an image compute, if they begin at the same time."""
    spec = MaskSpec(size=plan.image.size, classes=(MaskClass(name="one", color="#000000"),))
    header, pieces = JournalHeader(hashes={}, spec=spec, fields=()), PieceFolder(path=folder / str(count))
    pieces.begin({"hashes": {}})
    parts = []
    for index in range(count):
        turns, groups = turns_of_part(plan, JobPart(index=index, count=count))
        store = PieceStore(pieces, header, wanted=turns, groups=groups, check=lambda: None)
        parts.append(SimulatedPart(plan=plan, store=store, speed=speeds[index % len(speeds)]))
    due = [(0.0, index) for index in range(count)]
    while due:
        now, index = heapq.heappop(due)
        spent = parts[index].turn()
        if spent is not None:
            heapq.heappush(due, (now + spent, index))
    for part in parts:
        part.store.close()
    return sum(part.windows for part in parts)


def windows_alone(plan: Plan, count: int) -> int:
    """Return the windows that all parts compute if none sees what another has left."""
    shares = (groups_of_part(plan, JobPart(index=index, count=count)) for index in range(count))
    return sum(windows_of(plan, number, group) for share in shares for number, of in share.items() for group in of)


def main() -> None:
    """Print a line of JSON for each number of parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=16000, help="side of the image in pixels")
    parser.add_argument("--parts", default="2,4,8", help="numbers of parts")
    parser.add_argument("--speeds", default="1", help="speeds of the parts, in turn")
    parser.add_argument("--method", default="magnet-fast")
    given = parser.parse_args()
    options = SegmentOptions(weights="aerial", method=given.method, device="cpu", memory=8 << 30)
    plan = plan_of(given.side, options)
    one = sum(windows_of(plan, step.number, group) for step in plan.passes for group in range(plan.groups(step)))
    speeds = [float(speed) for speed in given.speeds.split(",")]
    with TemporaryDirectory() as folder:
        for count in map(int, given.parts.split(",")):
            together = windows_together(plan, count, Path(folder), speeds)
            found = {"parts": count, "one": one, "together": together, "share": round(together / one, 3)}
            print(json.dumps({**found, "alone": round(windows_alone(plan, count) / one, 3)}), flush=True)


if __name__ == "__main__":
    main()
