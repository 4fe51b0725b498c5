"""Counts and measurements of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NOTED = ("threads", "batch")
"""Counts of a group that say how it was computed. They are equal in all groups, so they are not summed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of a run. They differ from run to run; the mask does not."""

    seconds: Mapping[str, float]
    """Seconds by activity, and `wall` for the whole. Interrupted runs before this one are included."""
    host_peak: int | None
    """Most host memory in use, in bytes: PSS summed over processes. None where the system cannot measure it."""
    device_peak: Mapping[str, int]
    """Most memory in use on a CUDA device, in bytes: allocated, reserved, and of the process. Empty elsewhere."""
    computed: int
    """Groups that this run computed."""
    resumed: int
    """Groups that earlier runs had finished."""
    threads: int
    """Threads of each operation on a CPU. All runs that computed groups of the mask used as many."""
    notes: tuple[str, ...] = ()
    """Notes on this run for the report, such as that memory was short."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts summed over groups."""

    labels: tuple[int, ...] = ()
    """Level-0 pixels by class. Empty if no group stored labels."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Sums of the integers among the counts, by name, such as `nodata` or `changed`."""
    stages: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Sums by stage number: windows by status, points, and changed pixels."""

    @classmethod
    def of(cls, groups: Iterable[Mapping[str, object]]) -> Totals:
        """Sum the counts that runners returned for their groups."""
        labels: list[int] = []
        counts: dict[str, int] = {}
        stages: dict[int, dict[str, int]] = {}
        for group in groups:
            for key, value in group.items():
                if isinstance(value, int) and key not in NOTED:
                    counts[key] = counts.get(key, 0) + value
            found = group.get("labels")
            if isinstance(found, list):
                labels = [a + b for a, b in zip(labels or [0] * len(found), found, strict=True)]
            by_stage = group.get("stages")
            for number, values in by_stage.items() if isinstance(by_stage, dict) else ():
                total = stages.setdefault(int(number), {})
                for key, value in values.items():
                    total[key] = total.get(key, 0) + value
        return cls(labels=tuple(labels), counts=counts, stages=stages)
