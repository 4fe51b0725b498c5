"""State of one block between the stages of a pass: its probabilities, and the statuses and counts of its windows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.report.maps import NO_DATA, OUTSIDE, RUN, SETTLED, UNPAID, UNSELECTED
from magnet_cli.segmentation.changes import Changes
from magnet_cli.segmentation.window_scores import window_score

if TYPE_CHECKING:
    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.geometry import Box
    from magnet_cli.plan.windows import Index, Stage
    from magnet_cli.segmentation.bound_pass import BoundPass
    from magnet_cli.segmentation.changes import Sample
    from magnet_cli.segmentation.group_reader import BlockPixels
    from magnet_cli.segmentation.selection import Selection
    from magnet_cli.segmentation.window_scores import Known


@dataclass(kw_only=True)
class StageCount:
    """Numbers of a stage's windows that were computed or left out, by reason, and of points that were taken."""

    windows: int = 0
    """All windows of the stage."""
    run: int = 0
    """Windows that were computed."""
    nodata: int = 0
    """Windows of which no pixel holds data."""
    outside: int = 0
    """Windows on which no label in the area depends."""
    unselected: int = 0
    """Windows left out because others, or a limit, scored higher."""
    unpaid: int = 0
    """Windows left out because the budget was spent on others."""
    settled: int = 0
    """Windows left out because no point of them could be taken."""
    points: int = 0
    """Canvas pixels of the block's own part that took the stage's result. Rims are not counted."""

    @classmethod
    def of(cls, selection: Selection) -> StageCount:
        """Count the windows of a stage by their statuses."""
        found = Counter(selection.statuses)
        return cls(
            windows=len(selection.statuses),
            run=found[RUN],
            nodata=found[NO_DATA],
            outside=found[OUTSIDE],
            unselected=found[UNSELECTED],
            unpaid=found[UNPAID],
            settled=found[SETTLED],
        )

    def describe(self) -> dict[str, int]:
        """Return the counts as JSON values."""
        return dict(vars(self))


@dataclass(kw_only=True)
class BlockState:
    """A block of a pass. Each of its stages is a `BlockStage`, which replaces what is known when it is finished."""

    bound: BoundPass
    pixels: BlockPixels
    known: Known | None
    """Result of the stage before or, for the first stage, of the pass before. None where the run starts here."""
    counts: dict[int, StageCount] = field(default_factory=dict)
    """Counts of windows and points, by the number of the stage."""
    statuses: dict[int, str] = field(default_factory=dict)
    """Statuses of the windows of all cells, by the number of the stage: one letter of `report/maps.py` a cell,
    row-major."""
    samples: dict[int, Sample] = field(default_factory=dict)
    """Sampled pixels before and after each stage, by its number. A stage that starts the run or computes no window has
    no sample."""
    flagged: frozenset[Index] = frozenset()
    """Cells of the next stage that a GRNet's selector chose."""

    @property
    def canvas(self) -> Canvas:
        """The probabilities after the last finished stage.

        Raises:
            RuntimeError: No stage is finished and the block has no earlier pass.
        """
        if self.known is None:
            message = "a block has a canvas once a stage is finished"
            raise RuntimeError(message)
        return self.known.canvas

    def score(self, own: Box, stage: Stage) -> float:
        """Return the score by which `--select` compares the windows of the next stage.

        Args:
            own: The window's own part, on the next stage's grid.
            stage: The next stage.

        Raises:
            RuntimeError: No stage is finished and the block has no earlier pass.
        """
        if self.known is None:
            message = "a window has a score once the stage before it is finished"
            raise RuntimeError(message)
        return window_score(self.known, own, stage.pitch, by=self.bound.settings.select)

    def has_data(self, own: Box, stage: Stage) -> bool:
        """Return whether any pixel under a box of the next stage's grid holds data."""
        valid = self.pixels.kept_valid
        if self.pixels.is_empty or valid is None or self.known is None:
            return not self.pixels.is_empty
        rows, columns = (taps.reach for taps in self.known.canvas.taps(own, stage.pitch))
        return bool(valid[rows, columns].any())

    def changes(self) -> dict[int, Changes]:
        """Return the changes that each sampled stage made, by its number. The calling thread waits for the device."""
        # Samples stay on the device until here, so that no stage waits for a copy to the host. The engine calls this in
        # the writer's thread, while the next group is computed.
        step, found = self.bound.step, {}
        for stage in step.stages:
            sample = self.samples.get(stage.number)
            if sample is not None:
                cells = step.cells(self.pixels.block, stage)
                shape = cells[-1].row - cells[0].row + 1, cells[-1].column - cells[0].column + 1
                run = np.array([status == RUN for status in self.statuses[stage.number]]).reshape(shape)
                own = step.own(self.pixels.block, stage)
                found[stage.number] = Changes.of(sample, run, own=own, stage=stage)
        return found
