"""The last stage of `segment`: its own mask, finished and kept, refined into another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.masks.header import digest_of
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.spec import PROBABILITIES
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.image_view import seen_of_plan
from magnet_cli.refinement.mask_kinds import class_indices
from magnet_cli.refinement.method_loader import load_method
from magnet_cli.refinement.refinement_run import opened_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.options.segment import RefineMethod, SegmentOptions
    from magnet_cli.plan import Plan
    from magnet_cli.refinement.method import Foreseen, Method

OBJECT_AND_REST = 2
"""Classes of a mask that is read as one object."""
REPLACED = ("classes", "not_computed")
"""Sections of `segment`'s report that are about the mask alone."""


@dataclass(frozen=True, kw_only=True)
class LastStage:
    """A method and how it is used after `segment`."""

    method: Method
    options: RefineOptions
    notes: tuple[str, ...] = ()
    """What a user should know before it runs."""

    @classmethod
    def load(cls, method: RefineMethod, options: SegmentOptions, events: Events) -> Self:
        """A method as the options of `segment` ask for it.

        Raises:
            WeightsError, DeviceError, UsageError: It cannot be had.
        """
        own = RefineOptions(
            method=method,
            weights=options.refine_weights,
            only=options.refine_only,
            domain=options.domain,
            device=options.device,
            precision=options.precision,
            num_workers=options.num_workers,
            gpu_memory=options.gpu_memory,
            memory=options.memory,
            overwrite=options.overwrite,
            resume=options.resume,
        )
        return cls(method=load_method(own, events, "--refine-weights"), options=own)

    def after(self, classes: Sequence[str], *, base: int) -> Self:
        """The same behind a bundle.

        Args:
            classes: That the bundle predicts, by label.
            base: Bytes of the host that are in use before a run.

        Raises:
            UsageError: There is no class that is named, or one has to be.
        """
        class_indices(self.options.only, classes, option="--refine-only")
        several = len(classes) > OBJECT_AND_REST
        notes = self.method.check_classes(classes, option="--refine-only") if several else ()
        return replace(self, method=self.method.based(base), notes=notes)

    def digest(self) -> str:
        """SHA-256 over everything of this stage that the mask depends on."""
        values = {"method": self.options.method, **self.method.hashes()}
        return digest_of(values)

    def before(self, options: SegmentOptions, compat: str) -> SegmentOptions:
        """The options of the mask that this stage starts from.

        Args:
            options: As given.
            compat: Whose arithmetic they come to; the published one keeps no probabilities.

        Raises:
            UsageError: The stage could do nothing with such a mask.
        """
        keeps = self.method.wants_probabilities and compat == "paper"
        if self.method.needs_doubt and not keeps:
            raise UsageError(
                f"{self.method.seer.title} needs probabilities, and the published arithmetic writes the mask alone",
                value=f"--compat {compat} and --refine {self.options.method}",
                advice="Take --compat paper, or --refine guided",
            )
        if self.options.only and not keeps:
            raise UsageError(
                "what objects of a class give up goes to the next most probable one, and the published arithmetic "
                "writes the mask alone",
                value=f"--compat {compat} and --refine-only {','.join(self.options.only)}",
                advice="Take --compat paper",
            )
        return replace(
            options,
            refine=None,
            refine_weights=None,
            refine_only=(),
            probabilities=options.probabilities or keeps,
            overlay=False,
            html=False,
            exports=ExportOptions(),
        )

    def foresee(self, plan: Plan) -> Foreseen:
        """What this stage will do after a plan.

        Raises:
            UsageError, SourceError, WeightsError: The image does not fit.
            DeviceError: It would take more memory than it may.
        """
        wanted = self.method.wants_probabilities and plan.probabilities
        found = self.method.foresee(
            seen_of_plan(plan, self.method.seer),
            classes=plan.classes,
            kept=plan.passes[-1].stages[-1].pitch if wanted else None,
            workers=self.method.machine.readers(self.options.num_workers),
        )
        return replace(found, lines=(*found.lines, *self.notes))

    def run(
        self,
        plan: Plan,
        unrefined: Path,
        paths: OutputPaths,
        *,
        hashes: dict[str, str],
        command: list[str],
        events: Events,
    ) -> dict[str, object]:
        """Refine a finished mask; the report of the refined one.

        Args:
            plan: Of `segment`.
            unrefined: Its mask.
            paths: Of the output.
            hashes: Of everything that the output depends on.
            command: That makes it again.
            events: Hears about messages and progress.

        Raises:
            MagnetError: What was finished is kept.
        """
        seen, method = seen_of_plan(plan, self.method.seer), self.method
        if method.wants_probabilities and plan.probabilities:
            method = method.starting_from(_kept(unrefined))
        own = read_report(OutputPaths.of(unrefined).report)
        with opened_run(method, seen, unrefined, self.options, paths=paths, hashes=hashes, events=events) as (_, run):
            return run.finish(lambda found: {**combined(own, found), "command": command})


def _kept(unrefined: Path) -> Path:
    found = OutputPaths.of(unrefined).field(PROBABILITIES)
    if not found.is_dir():
        raise SourceError(
            "the probabilities that were kept with this mask are gone",
            file=found,
            advice=f"Delete {unrefined} and run the same command again",
        )
    return found


def combined(own: Mapping[str, object], found: Mapping[str, object]) -> dict[str, object]:
    """The report of `segment` where a last stage has made another mask of its own.

    Args:
        own: The report of the mask before.
        found: The report of the last stage.
    """
    first, last = cast("Mapping[str, Any]", own), cast("Mapping[str, Any]", found)
    seconds = {
        name: round(first["seconds"].get(name, 0) + last["seconds"].get(name, 0), 3)
        for name in (*first["seconds"], *(name for name in last["seconds"] if name not in first["seconds"]))
    }
    kept = {key: value for key, value in first.items() if key not in ("hashes", "mask", "digest")}
    return {
        **kept,
        **{key: last[key] for key in REPLACED},
        "options": {**first["options"], "refine": _settings(last)},
        "refined": {
            **last["refined"],
            "bundle": last["bundle"],
            "objects": last.get("objects"),
            "passes": last["passes"],
            "groups": last["groups"],
        },
        "seconds": seconds,
        "memory": _most(first["memory"], last["memory"]),
        "notes": list(dict.fromkeys([*first["notes"], *last["notes"]])),
    }


def _settings(last: Mapping[str, Any]) -> dict[str, object]:
    return {key: value for key, value in last["options"].items() if key not in ("bands", "value_range")}


def _most(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, object]:
    """The larger of each number of bytes; one after the other they were used."""
    found: dict[str, object] = {}
    for key in first:
        one, other = first[key], last.get(key)
        if isinstance(one, dict) or isinstance(other, dict):
            found[key] = _most({**(other or {}), **(one or {})}, other or {})
        else:
            found[key] = max((value for value in (one, other) if value is not None), default=None)
    return found
