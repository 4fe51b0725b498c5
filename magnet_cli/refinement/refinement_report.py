"""The report of a refined mask as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.refinement.refinement_plan import LevelPass
from magnet_cli.report.run_report import run_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magnet_cli.models.bundle import CascadeBundle
    from magnet_cli.refinement.method import MaskPlan
    from magnet_cli.refinement.refinement_plan import RefinePass, RefinePlan
    from magnet_cli.refinement.squares import SquarePlan
    from magnet_cli.run.measured import Measured, Totals


def make_report(
    plan: RefinePlan, bundle: CascadeBundle, totals: Mapping[int, Totals], measured: Measured
) -> dict[str, object]:
    """Return the report of a cascade's finished run: pixels and boxes at level 0, bytes, seconds.

    Args:
        plan: The plan of the run.
        bundle: The bundle of the network.
        totals: The summed counts of each pass, by its number.
        measured: The measurements of the run.
    """
    classes = plan.reading.classes
    return {
        **_shared(plan, totals[plan.passes[-1].number], measured),
        "refined": {
            **_refined(plan, totals[plan.passes[-1].number]),
            "stuff": [classes[label].name for label in plan.stuff],
        },
        "bundle": {"name": bundle.name, "digest": bundle.digest, "licence": bundle.licence},
        "options": {
            "method": "cascadepsp",
            **plan.settings.describe(),
            **plan.describe_evidence(),
            **plan.view.describe(),
            "device": plan.machine.device,
            "precision": plan.machine.precision,
            "engine": plan.machine.engine,
        },
        "objects": plan.describe_objects(),
        "passes": [_pass(step, totals[step.number]) for step in plan.passes],
    }


def make_square_report(plan: SquarePlan, totals: Totals, measured: Measured) -> dict[str, object]:
    """Return the report of a classical tool's finished run: pixels at level 0, bytes, seconds.

    Args:
        plan: The plan of the run.
        totals: The summed counts of its only pass.
        measured: The measurements of the run.
    """
    step = plan.step
    return {
        **_shared(plan, totals, measured),
        "refined": _refined(plan, totals),
        "bundle": None,
        "options": {
            **plan.settings.describe(),
            **plan.describe_evidence(),
            **plan.view.describe(),
            "device": plan.machine.device,
        },
        "passes": [
            {
                "pass": step.number + 1,
                "what": step.what,
                "groups": step.groups,
                "looked_at": totals.counts.get("looked", 0),
                "stages": [],
            }
        ],
    }


def _shared(plan: MaskPlan, totals: Totals, measured: Measured) -> dict[str, object]:
    """Return the sections that reports of all methods share; `totals` are those of the pass that stores labels."""
    facts = run_facts(
        plan.view.info,
        classes=plan.reading.classes,
        memory=plan.memory,
        totals=totals,
        measured=measured,
        notes=plan.notes,
    )
    # A refinement has no stages. The page of a mask expects these keys in every report.
    return {**facts, "maps": {"stages": [], "uncertainty": None}}


def _refined(plan: MaskPlan, totals: Totals) -> dict[str, object]:
    return {
        "path": plan.mask,
        "read_as": plan.reading.kind,
        "because": plan.reading.why,
        "changed_pixels": totals.counts.get("changed", 0),
    }


def _pass(step: RefinePass, totals: Totals) -> dict[str, object]:
    found: dict[str, object] = {"pass": step.number + 1, "what": step.what, "groups": step.groups, "stages": []}
    if isinstance(step, LevelPass):
        size = step.level.size
        found |= {"pixel": float(step.level.pitch.x), "size": {"width": size.width, "height": size.height}}
        found["windows_planned"] = step.windows
    if "windows" in totals.counts:
        found |= {"wholes_run": totals.counts["wholes"], "windows_run": totals.counts["windows"]}
    return found
