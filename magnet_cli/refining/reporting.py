"""The report of a refined mask, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magnet_cli.refining.plan import LevelPass
from magnet_cli.report import class_table, input_facts, memory_facts, program_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from magnet_cli.models.bundle import CascadeBundle
    from magnet_cli.refining.plan import RefinePass, RefinePlan
    from magnet_cli.report import Measured

COUNTED = ("wholes", "windows", "nodata", "changed")


@dataclass(kw_only=True)
class PassTotals:
    """Counts of a pass, added up over its groups."""

    labels: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Iterable[Mapping[str, object]]) -> PassTotals:
        """Add up the counts of groups."""
        found = cls()
        for group in groups:
            for key in COUNTED:
                if key in group:
                    found.counts[key] = found.counts.get(key, 0) + int(str(group[key]))
            labels = group.get("labels")
            if isinstance(labels, list):
                found.labels = [a + b for a, b in zip(found.labels or [0] * len(labels), labels, strict=True)]
        return found


def make_report(
    plan: RefinePlan, bundle: CascadeBundle, totals: Mapping[int, PassTotals], measured: Measured
) -> dict[str, object]:
    """The report of a finished run: pixels and boxes at level 0, bytes, seconds.

    Args:
        plan: Of the run.
        bundle: Whose network it was.
        totals: By pass.
        measured: While it ran.
    """
    last = totals[plan.passes[-1].number]
    classes = plan.reading.classes
    return {
        **program_facts(measured),
        "input": input_facts(plan.image),
        "refined": {
            "path": plan.mask,
            "read_as": plan.reading.kind,
            "because": plan.reading.why,
            "stuff": [classes[label].name for label in plan.stuff],
            "changed_pixels": last.counts.get("changed", 0),
        },
        "bundle": {"name": bundle.name, "digest": bundle.digest, "licence": bundle.licence},
        "options": {
            "method": "cascadepsp",
            **plan.settings.describe(),
            **plan.describe_seen(),
            "device": plan.machine.device,
            "precision": plan.machine.precision,
        },
        "objects": plan.describe_objects(),
        "passes": [_pass(step, totals[step.number]) for step in plan.passes],
        "groups": {"computed": measured.computed, "resumed": measured.resumed},
        "seconds": dict(measured.seconds),
        "memory": memory_facts(plan.memory, measured),
        "classes": class_table(classes, last.labels or [0] * len(classes), plan.image.resolution),
        "maps": {"stages": [], "uncertainty": None},
        "not_computed": {"pixels": last.counts.get("nodata", 0)},
        "notes": [*plan.notes, *measured.notes],
    }


def _pass(step: RefinePass, totals: PassTotals) -> dict[str, object]:
    found: dict[str, object] = {"pass": step.number + 1, "what": step.what, "groups": step.groups, "stages": []}
    if isinstance(step, LevelPass):
        size = step.level.size
        found |= {"pixel": float(step.level.pitch.x), "size": {"width": size.width, "height": size.height}}
        found["windows_planned"] = step.windows
    if "windows" in totals.counts:
        found |= {"wholes_run": totals.counts["wholes"], "windows_run": totals.counts["windows"]}
    return found
