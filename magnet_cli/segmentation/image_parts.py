"""One image shared between jobs: each job leaves pieces of the mask, and the last job makes the mask of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli import __version__
from magnet_cli.errors import OutputError, UsageError, foreseen
from magnet_cli.events import Events
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import StoredGroups
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.part_note import PartNote, note_path
from magnet_cli.masks.pieces import ENDING, PieceFolder, PieceStore, missing_groups
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.targets import ON_DISK, Target
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.spelling import options_of_words
from magnet_cli.run.workload import Workload
from magnet_cli.segmentation.image_run import ImageResult, ImageRun
from magnet_cli.segmentation.image_series import failed, image_run
from magnet_cli.segmentation.part_groups import groups_of_part, in_turn
from magnet_cli.segmentation.probe import probe
from magnet_cli.segmentation.segment_job import SegmentJob
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.addresses import local_path
from magnet_cli.system.durable import BUSY
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magnet_cli.options.parts import JobPart
    from magnet_cli.plan import Plan
    from magnet_cli.run.mask_run import MaskRun
    from magnet_cli.segmentation.segment_model import Model

GROUPS_IN_PIECE = 16
"""Most groups of a piece. A part that is killed computes the groups of one piece again."""
PIECES_OF_PART = 8
"""Pieces that a part is cut into where its groups suffice, so that less is lost when it is killed."""
NAMES = len(("magnet", "segment", "IMAGE", "-o", "MASK"))
"""Words of a command before its options."""
ANY_MEMORY = 1 << 50
"""Device memory in the plan of a mask that is assembled on a machine without the device: nothing is computed there."""
ONE_PROCESS = "Run it in one process, or share a folder of images instead"
BUDGET_ADVICE = "Run it in one process or with --cluster, or share a folder of images instead"


def segment_part(target: Target, model: Model, options: SegmentOptions, events: Events, part: JobPart) -> ImageResult:
    """Compute a part of one image; a failure is in the result. The part that is last makes the mask."""
    try:
        return ImageParts(run=image_run(target, model, options, events)).computed(part)
    # `foreseen` also knows some errors of the system. Everything else is a bug, and is raised again.
    except Exception as error:
        if foreseen(error) is None:
            raise
        return failed(target, error, options, events)


@dataclass(frozen=True, kw_only=True)
class ImageParts:
    """The segmentation of one image in parts."""

    run: ImageRun
    groups: int | None = None
    """Most groups of a piece. None takes a number that suits the part."""

    def computed(self, part: JobPart) -> ImageResult:
        """Compute a part and leave it as pieces. If no other part is missing, make the mask.

        Raises:
            UsageError: The image cannot be shared with these options.
            OutputError: Results of this part would differ from those before it, or something cannot be written.
            MagnetError: The part failed. Its pieces are kept, and the same command goes on from there.
        """
        self.run.check_outputs()
        check_options(self.run)
        if self.run.options.overwrite or not self.run.options.resume:
            raise _no_new_beginning(self.run)
        plan = self.run.plan()
        check_plan(plan)
        run = self.run.run(plan)
        run = replace(run, job=replace(segment_job(run), is_shared=True))
        folder = PieceFolder.of(self.run.target.mask)
        try:
            return self._computed(part, plan, run, folder)
        except OutputError:
            # Another part may have made the mask in the meantime, and deleted the pieces.
            if not run.is_done():
                raise
            return self.run.completed(self.run.done(run.report(), was_done=True))

    def _computed(self, part: JobPart, plan: Plan, run: MaskRun, folder: PieceFolder) -> ImageResult:
        if run.is_done():
            folder.remove()
            return self.run.completed(self.run.done(run.report(), was_done=True))
        self.run.report_notes(plan)
        facts = self._agreed(plan, run, folder)
        header = JournalHeader(hashes=facts, spec=run.job.spec, fields=run.job.fields)
        turns, most = turns_of_part(plan, part, self.groups)

        def check() -> None:
            change = run.inputs.change(quick=True)
            if change is not None:
                raise change

        work = Workload.of(run.job).passes
        note = PartNote(
            path=note_path(folder.path, part.index, part.count),
            work={step.number: work[step.number] / plan.groups(step) for step in plan.passes},
        )
        try:
            with PieceStore(folder, header, wanted=turns, groups=most, check=check, finished=note.add) as store:
                run.leave_pieces(store, threads=int(facts["threads"]))
            note.end()
        finally:
            folder.drop_late(note.path)
        return self.made(plan, run, folder, header, part)

    def made(
        self, plan: Plan, run: MaskRun, folder: PieceFolder, header: JournalHeader, part: JobPart | None
    ) -> ImageResult:
        """Make the mask of the pieces, if none is missing.

        Args:
            plan: The plan of the image.
            run: The run that makes the mask.
            folder: The folder of the pieces.
            header: The header that the pieces must have.
            part: The part that was just computed. None where the mask is wanted, and missing pieces are an error.

        Raises:
            OutputError: Pieces are missing or damaged, another process makes the mask, or it cannot be written.
        """
        mask, total = self.run.target.mask, sum(plan.groups(step) for step in plan.passes)
        with StoredGroups(header) as known:
            known.attach(folder.pieces(), header)
            missing = missing_groups(known, ((step.number, plan.groups(step)) for step in plan.passes))
        if missing and part is None:
            raise OutputError(
                f"{missing} of {total} groups of windows are in no piece",
                file=folder.path,
                advice="Run the parts that have not ended, or all parts again: they compute only what is missing",
            )
        if missing:
            self.run.events.message(f"{mask}: {part} is done; other parts still compute {missing} of {total} groups")
            return self._partial(total - missing, total)
        last = replace(run, pieces=folder, piece_header=header)
        command = self.run.command(plan)
        try:
            report = last.finish(lambda report: {**report, "command": command})
        except OutputError as error:
            if part is None or error.rule != BUSY:
                raise
            self.run.events.message(f"{mask}: {part} is done, and another part makes the mask")
            return self._partial(total, total)
        return self.run.completed(self.run.done(report))

    def _partial(self, found: int, total: int) -> ImageResult:
        target = self.run.target
        return ImageResult(image=target.image, mask=target.mask, pieces=(found, total), private=self.run.private)

    def _agreed(self, plan: Plan, run: MaskRun, folder: PieceFolder) -> dict[str, str]:
        """Return the hashes and facts of this part, which are those of the part that began."""
        # A part takes the number of threads from the first one. It may have more cores, or fewer.
        threads = int(folder.head()["hashes"].get("threads", 1)) if folder.exists else usable_cores()
        facts = self.facts(plan, run, threads)
        head = folder.begin(self.head(plan, facts))
        first = int(head["hashes"].get("threads", 1))
        if first != threads:
            facts = self.facts(plan, run, first)
        folder.agree(head, facts)
        return facts

    def facts(self, plan: Plan, run: MaskRun, threads: int) -> dict[str, str]:
        """Return everything on which all processes that share an image have to agree, by name.

        Args:
            plan: The plan of the image.
            run: The run over the image, which has the hashes.
            threads: Threads of each operation. They are pinned from here on.
        """
        pin_arithmetic(threads)
        bands = len(self.run.model.bundle.input.mean)
        return {
            **run.hashes,
            "version": __version__,
            "threads": str(threads),
            "batch": str(plan.batch),
            "probe": probe(self.run.model.networks, plan, bands=bands),
        }

    def head(self, plan: Plan, facts: Mapping[str, str]) -> dict[str, object]:
        """Return the note on the pieces: what they belong to, and the options that compute the others."""
        return {
            "program": {"name": "magnet", "version": __version__},
            "hashes": dict(facts),
            "image": absolute_image(self.run.target.image),
            "device": plan.machine.device,
            "precision": plan.machine.precision,
            "words": replace(self.run, options=with_absolute_paths(self.run.options)).command(plan)[NAMES:],
            "private": self.run.options.private,
        }


def turns_of_part(plan: Plan, part: JobPart, most: int | None = None) -> tuple[dict[int, list[int]], int]:
    """Return the groups that a part needs in the order in which it computes them, by pass, and the most of a piece.

    Args:
        plan: The plan of the image.
        part: The part.
        most: Most groups of a piece. None takes a number that suits the part.
    """
    wanted = groups_of_part(plan, part)
    most = most or max(1, min(GROUPS_IN_PIECE, len(wanted[plan.passes[-1].number]) // PIECES_OF_PART))
    passes = plan.passes
    return {step.number: in_turn(wanted[step.number], part.span(plan.groups(step)), most=most) for step in passes}, most


def absolute_image(image: str) -> str:
    """Return the name of an image from any folder: an absolute path, or the address as it is."""
    return image if "://" in image else str(Path(image).absolute())


def with_absolute_paths(options: SegmentOptions) -> SegmentOptions:
    """Return options that name the same files from any folder."""
    network = options.foreign.network
    return replace(
        options,
        weights=_absolute(options.weights),
        refine_weights=_absolute(options.refine_weights),
        foreign=options.foreign if network is None else replace(options.foreign, network=_absolute(network)),
        roi=options.roi.absolute() if isinstance(options.roi, Path) else options.roi,
        mask=options.mask.absolute() if isinstance(options.mask, Path) else options.mask,
    )


def _absolute(name: str | None) -> str | None:
    """Return the absolute path of a file or a folder that exists. Other names, such as a shipped bundle's, stay."""
    return str(Path(name).absolute()) if name is not None and Path(name).exists() else name


def segment_job(run: MaskRun) -> SegmentJob:
    """Return the job of a run that is shared, which is never the published program's.

    Raises:
        TypeError: The run has another job.
    """
    if not isinstance(run.job, SegmentJob):
        message = f"only a segmentation is shared between parts, got {type(run.job).__name__}"
        raise TypeError(message)
    return run.job


def check_options(run: ImageRun) -> None:
    """Refuse options with which several processes cannot work on one image.

    Raises:
        UsageError: An option is one of these.
    """
    if run.model.last is not None:
        raise _unshared("--refine", "a refinement begins when the whole mask is there", "Refine it with magnet refine")


def _no_new_beginning(run: ImageRun) -> UsageError:
    word = "--overwrite" if run.options.overwrite else "--no-resume"
    folder = PieceFolder.of(run.target.mask).path
    return _unshared(
        word, "each part would delete what others have left", f"Delete {run.target.mask} and {folder} first"
    )


def check_plan(plan: Plan, *, passes_wait: bool = False) -> None:
    """Refuse plans whose blocks depend on more than their own windows.

    Args:
        plan: The plan of the image.
        passes_wait: Whether no process begins a pass before the pass before is complete.

    Raises:
        UsageError: The plan is such a plan.
    """
    settings = plan.settings
    if settings.compat != "paper":
        raise _unshared(f"--compat {settings.compat}", "it computes the image as a whole", ONE_PROCESS)
    if settings.patches.kind == "budget" and len(plan.passes) > 1 and not passes_wait:
        raise _unshared("--budget", "each pass needs the scores of the whole pass before it", BUDGET_ADVICE)
    if plan.selector is not None and plan.selector.against == "image":
        raise _unshared("--select ppn", "the bundle's selector compares each window with the whole image", ONE_PROCESS)
    if plan.image.cache_bytes:
        raise _unshared(
            plan.image.path,
            "it cannot be read by region, and every process would decode the whole image",
            "Convert it to a tiled TIFF first",
        )


def _unshared(value: str, why: str, advice: str) -> UsageError:
    return UsageError(f"one image cannot be shared between processes, because {why}", value=value, advice=advice)


def assemble(mask: str | Path, *, events: Events | None = None) -> ImageResult:
    """Make the mask of the pieces that the parts of one image have left. No network is run.

    Args:
        mask: The file of the mask, or the folder of its pieces.
        events: Receives messages and progress.

    Raises:
        OutputError: Pieces are missing or damaged, or another process makes the mask.
        MagnetError: The image has changed, or the bundle is not to be found.
    """
    events = events or Events()
    path = local_path(mask, rule=ON_DISK)
    path = path.with_name(path.name.removesuffix(ENDING)) if path.name.endswith(ENDING) else path
    folder = PieceFolder.of(path)
    if path.exists() and not folder.exists:
        # A job that comes after all parts finds the mask that the last of them has made.
        report: Any = read_report(OutputPaths.of(path).report)
        events.message(f"{path}: already done")
        return ImageResult(image=str(report["input"]["path"]), mask=path, report=report, was_done=True)
    head = folder.head()
    given: Mapping[str, Any] = options_of_words(SegmentOptions, head["words"])
    options = SegmentOptions(**given, private=bool(head["private"]))
    # A graph in 8 bits is among what the mask depends on, and has to be the one of the parts.
    own = "int8" if head["precision"] == "int8" else "float32"
    here = replace(options, device="cpu", precision=own)
    model = load_model(here, events)
    device, precision = str(head["device"]), str(head["precision"])
    memory = None if device == "cpu" else ANY_MEMORY
    model = replace(
        model, machine=replace(model.machine, device=device, precision=precision, gpu_memory=memory), notes=()
    )
    run = image_run(Target(image=str(head["image"]), mask=path), model, options, events)
    plan = run.plan()
    found = run.run(plan)
    if found.is_done():
        folder.remove()
        return run.done(found.report(), was_done=True)
    facts: dict[str, str] = head["hashes"]
    folder.agree(head, {**facts, **found.hashes, "version": __version__})
    header = JournalHeader(hashes=facts, spec=found.job.spec, fields=found.job.fields)
    # The plan holds how pieces were computed. Work that is left is done on this machine's processor.
    job = replace(segment_job(found), plan=replace(plan, machine=replace(plan.machine, device="cpu")))
    return ImageParts(run=run).made(plan, replace(found, job=job), folder, header, None)
