"""The last stage of `segment --refine`: it refines the finished mask, which is kept, into another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images import InputStates
from magnet_cli.images.input_states import changed
from magnet_cli.masks.header import digest_of
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.spec import PROBABILITIES
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.option import options_in, values_of
from magnet_cli.options.refine import CASCADE, RefineOptions
from magnet_cli.options.shared import EngineOptions, MachineOptions, RunOptions
from magnet_cli.refinement.image_view import view_of_plan
from magnet_cli.refinement.mask_kinds import class_indices
from magnet_cli.refinement.method_loader import load_method
from magnet_cli.refinement.refinement_run import opened_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.options.segment import RefineMethod, SegmentOptions
    from magnet_cli.plan import Plan
    from magnet_cli.refinement.method import Method, RefinePreview
    from magnet_cli.system.private_names import PrivateNames

OBJECT_AND_REST = 2
"""Classes of a mask that is read as one object."""
OF_NETWORKS = frozenset(entry.name for entry in options_in(RefineOptions) if entry.needs == CASCADE)
"""Options of `refine` that have a meaning with networks alone."""
REPLACED = ("classes", "not_computed")
"""Sections of `segment`'s report that are about the mask alone."""


@dataclass(frozen=True, kw_only=True)
class LastStage:
    """A refinement method with its options, as it is used after `segment`."""

    method: Method
    options: RefineOptions
    notes: tuple[str, ...] = ()
    """Notes for the user, which are reported before the first image."""

    @classmethod
    def load(cls, method: RefineMethod, options: SegmentOptions, events: Events) -> Self:
        """Load a method with the options of `segment`.

        Raises:
            WeightsError, DeviceError, UsageError: The bundle, the device or the library cannot be used.
        """
        shared = values_of(options, EngineOptions, MachineOptions, RunOptions)
        if method != "cascadepsp":
            # These concern the networks of `segment`. Classical methods have none, and refuse them.
            shared = {name: value for name, value in shared.items() if name not in OF_NETWORKS}
        own = RefineOptions(
            method=method,
            weights=options.refine_weights,
            only=options.refine_only,
            domain=options.domain,
            **shared,
        )
        return cls(method=load_method(own, events, "--refine-weights"), options=own)

    def after(self, classes: Sequence[str], *, base: int) -> Self:
        """Return the stage adapted to the bundle that segments before it.

        Args:
            classes: Names of the classes that the bundle predicts, by label.
            base: Host memory in use before a run, in bytes.

        Raises:
            UsageError: `--refine-only` names an unknown class, or is missing although the method needs it.
        """
        class_indices(self.options.only, classes, option="--refine-only")
        several = len(classes) > OBJECT_AND_REST
        notes = self.method.check_classes(classes, option="--refine-only") if several else ()
        return replace(self, method=self.method.based(base), notes=notes)

    def digest(self) -> str:
        """Return a SHA-256 over everything in this stage that the mask depends on."""
        values = {"method": self.options.method, **self.method.hashes()}
        return digest_of(values)

    def before(self, options: SegmentOptions, compat: str) -> SegmentOptions:
        """Return the options for the unrefined mask.

        Args:
            options: The options of the whole run.
            compat: The arithmetic that results from them. The published one keeps no probabilities.

        Raises:
            UsageError: The method needs probabilities that are not kept.
        """
        keeps = self.method.wants_probabilities and compat == "paper"
        if self.method.needs_doubt and not keeps:
            raise UsageError(
                f"{self.method.input_facts.title} needs probabilities, which the published arithmetic does not keep",
                value=f"--compat {compat} and --refine {self.options.method}",
                advice="Use --compat paper, or --refine guided",
            )
        if self.options.only and not keeps:
            raise UsageError(
                "pixels that objects lose get the next most probable class, and the published arithmetic writes the "
                "mask alone",
                value=f"--compat {compat} and --refine-only {','.join(self.options.only)}",
                advice="Use --compat paper",
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

    def preview(self, plan: Plan) -> RefinePreview:
        """Preview what this stage will do to the mask of a plan.

        Raises:
            UsageError, SourceError, WeightsError: The image does not fit the method.
            DeviceError: The memory budget is too small.
        """
        wanted = self.method.wants_probabilities and plan.probabilities
        found = self.method.preview(
            view_of_plan(plan, self.method.input_facts),
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
        private: PrivateNames | None,
        events: Events,
    ) -> dict[str, object]:
        """Refine a finished mask, and return the report of the refined one.

        Args:
            plan: The plan of the segmentation.
            unrefined: The path of the finished mask.
            paths: The files that are written.
            hashes: SHA-256 of everything that the output depends on, by name.
            command: The words of the command line that makes the output again.
            private: Names that the report leaves out; None without `--private`.
            events: Receives messages and progress.

        Raises:
            MagnetError: The refinement failed. Finished groups are kept.
        """
        view, method = view_of_plan(plan, self.method.input_facts), self.method
        if method.wants_probabilities and plan.probabilities:
            method = method.starting_from(_kept(unrefined))
        own = read_report(OutputPaths.of(unrefined).report)
        image = plan.image.path
        inputs = InputStates.of((image, unrefined))
        if inputs.digest(image) != hashes["input"]:
            raise changed(image, "its content is another since the mask before the last stage was begun")
        with opened_run(
            method,
            view,
            unrefined,
            self.options,
            paths=paths,
            hashes=hashes,
            inputs=inputs,
            private=private,
            events=events,
        ) as (_, run):
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
    """Combine the reports of the segmentation and of the refinement into that of the refined mask.

    Args:
        own: The report of the unrefined mask.
        found: The report of the refinement.
    """
    first, last = cast("Mapping[str, Any]", own), cast("Mapping[str, Any]", found)
    seconds = {
        name: round(first["seconds"].get(name, 0) + last["seconds"].get(name, 0), 3)
        for name in (*first["seconds"], *(name for name in last["seconds"] if name not in first["seconds"]))
    }
    # The refined mask has hashes and a file section of its own.
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
    """Return the larger of each number of bytes, because the two stages run one after the other."""
    found: dict[str, object] = {}
    for key in first:
        one, other = first[key], last.get(key)
        if isinstance(one, dict) or isinstance(other, dict):
            found[key] = _most({**(other or {}), **(one or {})}, other or {})
        else:
            found[key] = max((value for value in (one, other) if value is not None), default=None)
    return found
