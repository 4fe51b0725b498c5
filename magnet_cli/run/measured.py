"""What was counted and measured while a run went on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NOTED = ("threads", "batch")
"""Numbers among the counts of a group that say how it was computed: they are equal in all groups and have no sum."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured in a run. It differs from run to run; the mask does not."""

    seconds: Mapping[str, float]
    """Time by activity, and `wall` for the whole, with that of the interrupted runs before."""
    host_peak: int | None
    """Most memory that the host used, in bytes: PSS summed over processes. None where the system does not tell."""
    device_peak: Mapping[str, int]
    """Most memory of a CUDA device, in bytes, by what it was used for; empty elsewhere."""
    computed: int
    """Groups that this run computed."""
    resumed: int
    """Groups that earlier runs had finished."""
    threads: int
    """Threads of each operation on a CPU. All runs that made the mask used as many."""
    notes: tuple[str, ...] = ()
    """What happened in this run that a reader of the report should know."""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts added up over groups."""

    labels: tuple[int, ...] = ()
    """Level-0 pixels by class; empty where no group wrote labels."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Every whole number that groups count by name, such as `nodata` or `changed`."""
    stages: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """What groups count by stage number: windows by what became of them, points, and what a stage changed."""

    @classmethod
    def of(cls, groups: Iterable[Mapping[str, object]]) -> Totals:
        """Add up the counts of groups, as their runners gave them."""
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
