"""The workers of a cluster segment one image together.

This process owns the lock, the journal and the outputs. The workers leave pieces, which it reads where they lie.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from magnet_cli import __version__
from magnet_cli.errors import DeviceError
from magnet_cli.events import Step
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.pieces import PieceFolder, groups_in_piece, piece_name
from magnet_cli.options.spelling import option_words
from magnet_cli.run.workload import Workload
from magnet_cli.segmentation.cluster.carried_errors import delivered
from magnet_cli.segmentation.cluster.crew import Shift
from magnet_cli.segmentation.cluster.group_spans import GroupSpan, GroupSpans
from magnet_cli.segmentation.image_parts import (
    ImageParts,
    absolute_image,
    check_options,
    check_plan,
    segment_job,
    with_absolute_paths,
)
from magnet_cli.segmentation.segment_model import facts_of_run
from magnet_cli.segmentation.window_budget import BudgetCells
from magnet_cli.system.memory import own_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from magnet_cli.masks.journal import Journal
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.options.shared import EngineName
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Pass
    from magnet_cli.run.mask_run import MaskRun
    from magnet_cli.segmentation.cluster.crew import Answer, Crew, Question
    from magnet_cli.segmentation.image_run import ImageResult, ImageRun
    from magnet_cli.segmentation.segment_model import Model

ALIKE = ("device", "precision", "engine")
"""All workers have to agree on these facts of their first answers before an image is planned."""


def worded(options: SegmentOptions) -> list[str]:
    """Return the words of a command line for options, such that they mean the same in any folder."""
    options = with_absolute_paths(options)
    weights = [] if options.weights is None else ["--weights", options.weights]
    return [*weights, *option_words(options)]


def introduction(options: SegmentOptions) -> Question:
    """Return the question that makes a worker load the networks and report its version, device and precision."""
    words = worded(options)
    return {"what": "introduce", "words": words, "model": words, "private": options.private}


def introduced(crew: Crew, options: SegmentOptions) -> dict[str, Answer]:
    """Let all workers load the networks, refuse those that differ from most others, and return the facts of the rest.

    Raises:
        DeviceError: There is no worker.
    """
    found = crew.ask_all(lambda _: introduction(options))
    for worker, answered in list(found.items()):
        if answered["version"] != __version__:
            crew.refuse(worker, f"its version is {answered['version']}, and here it is {__version__}")
            del found[worker]
    most = _most(map(arithmetic, found.values()))
    for worker, answered in list(found.items()):
        reason = other_arithmetic(answered, most)
        if reason is not None:
            crew.refuse(worker, reason)
            del found[worker]
    if not found:
        raise DeviceError(
            "no worker of the cluster can take part",
            value=f"{len(crew.refused)} refused",
            advice="The messages above name the reason for each",
        )
    return found


def arithmetic(found: Answer) -> tuple[str, ...]:
    """Return the kind of device, the precision and the engine of a worker."""
    return tuple(str(found[name]).partition(":")[0] for name in ALIKE)


def other_arithmetic(found: Answer, most: tuple[str, ...]) -> str | None:
    """Return why a worker cannot take part that computes otherwise than most others; None where it does not."""
    own = arithmetic(found)
    return None if own == most else f"it computes by {', '.join(own)}, and most others by {', '.join(most)}"


def _most(values: Iterator[Any]) -> Any:
    """Return the most common value, and of several the one that came first; None without values."""
    return next((value for value, _ in Counter(values).most_common(1)), None)


def shared_threads(crew: Crew, found: Mapping[str, Answer]) -> int:
    """Return the threads of an operation: the fewest with which a worker was started.

    The number of cores would make the mask depend on how many workers are there when a run begins.
    """
    return min(crew.threads[worker] for worker in found)


def planning_model(model: Model, found: Mapping[str, Answer]) -> Model:
    """Return a model that plans as the workers do, whose networks are not run.

    Args:
        model: The model of this process, on the processor.
        found: The facts that the workers have reported.
    """
    first = next(iter(found.values()))
    device, precision, engine = (str(first[name]) for name in ALIKE)
    machine = replace(
        model.machine,
        device=device,
        precision=precision,
        engine=engine,
        gpu_memory=None if device == "cpu" else 1 << 50,
        # Workers of `local:N` are descendants of this process, and each plans with a share of its own.
        base=own_memory() or 0,
    )
    own = model.machine.device == device and model.machine.precision == precision and model.machine.engine == engine
    facts = (
        model.facts
        if own
        else facts_of_run(model.bundle, device=device, precision=precision, engine=cast("EngineName", engine))
    )
    return replace(model, machine=machine, facts=facts, notes=model.notes)


@dataclass(kw_only=True)
class ClusterImage:
    """Segments one image by the workers of a cluster."""

    run: ImageRun
    crew: Crew
    threads: int
    """Each operation takes this number of threads, unless an earlier run has chosen another."""
    release: Callable[[], None]
    """The function ends workers that this process has started. They are not needed while the mask is written."""
    groups: int | None = None
    """The number of groups of each task. None chooses a number that suits the workers."""

    def computed(self) -> ImageResult:
        """Compute the mask of the image, and return the result.

        Raises:
            UsageError: The image cannot be shared with these options.
            OutputError: Another run makes this mask, or something cannot be written.
            DeviceError: No worker can compute it.
            MagnetError: The run failed. Pieces are kept, and the same command goes on from there.
        """
        self.run.check_outputs()
        check_options(self.run)
        plan = self.run.plan()
        check_plan(plan, passes_wait=True)
        run = self.run.run(plan)
        folder = PieceFolder.of(self.run.target.mask)
        if run.is_done():
            folder.remove()
            return self.run.completed(self.run.done(run.report(), was_done=True))
        self.run.report_notes(plan)
        # The plan holds how the workers compute. Work that is left for this process is done on its processor.
        job = replace(segment_job(run), plan=replace(plan, machine=replace(plan.machine, device="cpu")))
        last = replace(run, job=job, pieces=folder, elsewhere=lambda journal: self._shared(plan, run, folder, journal))
        command = self.run.command(plan)
        report = last.finish(lambda report: {**report, "command": command})
        return self.run.completed(self.run.done(report))

    def _shared(self, plan: Plan, run: MaskRun, folder: PieceFolder, journal: Journal) -> None:
        """Let the workers compute what is missing of the journal."""
        if self.run.options.overwrite or not self.run.options.resume:
            folder.remove()
        with folder.signed() as sign:
            passes = SharedPasses.begun(self, plan=plan, run=run, folder=folder, journal=journal, sign=sign.name)
            for step in plan.passes:
                passes.compute(step)
        self.release()


@dataclass(kw_only=True)
class SharedPasses:
    """The passes of an image while workers compute them: the work of one crew."""

    image: ClusterImage
    plan: Plan
    folder: PieceFolder
    journal: Journal
    run: MaskRun
    job: Question
    """The description of the image that the workers need."""
    facts: dict[str, str]
    """The facts on which all workers agree."""
    admitted: set[str]
    header: JournalHeader
    cells: str | None = None
    """The windows of the pass that a budget selects, packed; None without a budget and in the first pass."""
    sent: set[str] | None = None
    """The workers that have the cells of the pass."""
    seconds: float = 0.0
    """The seconds that workers have computed in all passes so far."""
    worked: float = 0.0
    """The work that they have done in that time, in the unit of `Job.work`."""

    @classmethod
    def begun(
        cls, image: ClusterImage, *, plan: Plan, run: MaskRun, folder: PieceFolder, journal: Journal, sign: str
    ) -> Self:
        """Let all workers plan the image, refuse those with other results, and attach earlier pieces.

        Raises:
            OutputError: Earlier pieces were computed otherwise, or the folder cannot be written.
            DeviceError: No worker is left.
        """
        head = folder.head() if folder.exists else None
        own = {**run.hashes, "version": __version__, "batch": str(plan.batch)}
        threads = _noted_threads(journal, plan) or image.threads
        if head is not None:
            # Pieces of other options are no fault of the workers, which would all be refused.
            folder.agree(head, {**head["hashes"], **own})
            threads = int(head["hashes"].get("threads", 1))
        own["threads"] = str(threads)
        options = image.run.options
        job: Question = {
            "image": absolute_image(image.run.target.image),
            "mask": str(image.run.target.mask.absolute()),
            "words": worded(options),
            "model": worded(options),
            "private": options.private,
            "threads": threads,
            "sign": sign,
        }
        answers = image.crew.ask_all(lambda _: {"what": "join", "job": job, **_named(job)})
        probes = (found["facts"]["probe"] for found in answers.values() if not _differing(own, found["facts"]))
        facts = {**own, "probe": _most(probes)} if head is None else dict(head["hashes"])
        passes = cls(
            image=image,
            plan=plan,
            folder=folder,
            journal=journal,
            run=run,
            job=job,
            facts=facts,
            admitted=set(),
            header=JournalHeader(hashes=facts, spec=run.job.spec, fields=run.job.fields),
        )
        for worker, found in answers.items():
            reason = passes.objection(worker, found)
            if reason is None:
                passes.admitted.add(worker)
            else:
                image.crew.refuse(worker, reason)
        if not passes.admitted:
            raise DeviceError(
                "no worker of the cluster can compute this image",
                value=f"{len(image.crew.refused)} refused",
                file=image.run.target.image,
                advice="The messages above name the reason for each",
            )
        folder.agree(folder.begin(ImageParts(run=image.run).head(plan, facts)), {**facts, **own})
        journal.attach(folder.pieces(), passes.header)
        return passes

    def greeting(self, worker: str) -> Question:
        """Return the question that makes a worker plan the image."""
        del worker
        return {"what": "join", "job": self.job, **_named(self.job)}

    def objection(self, worker: str, found: Answer) -> str | None:
        """Return the reason to refuse a worker whose results would differ; None where it is admitted."""
        del worker
        differing = _differing(self.facts, found["facts"])
        if not differing:
            return None
        return f"its results would differ: another {', '.join(differing)}"

    def question(self, worker: str, task: GroupSpan) -> Question:
        """Return the question that gives a task to a worker."""
        found: Question = {
            "what": "compute",
            "job": self.job,
            "facts": self.facts,
            "pass": task.step,
            "first": task.first,
            "last": task.last,
            "budget": self.cells is not None,
            **_named(self.job),
        }
        if self.cells is not None and self.sent is not None and worker not in self.sent:
            self.sent.add(worker)
            found["cells"] = self.cells
        return found

    def compute(self, step: Pass) -> None:
        """Let the workers compute what is missing of a pass.

        Raises:
            MagnetError: A group failed. Pieces are kept.
        """
        number, total = step.number, self.plan.groups(step)
        self.cells, self.sent = self._packed_cells(step), set()
        missing = self._missing(step)
        work = Workload.of(self.run.job).passes[number] / max(1, total)
        before = work * self.seconds / self.worked if self.worked else None
        spans = GroupSpans(number, missing, groups=self.image.groups, before=before)
        done = total - len(missing)
        self.advance(number, done, total)
        shift: Shift[GroupSpan] = Shift(
            crew=self.image.crew,
            work=self,
            following=spans.following,
            admitted=self.admitted,
            expected=spans.seconds,
        )
        for task, worker, found in shift.results():
            if "error" in found:
                raise delivered(found["error"])
            if "lacks" in found or "differs" in found:
                self._reject(worker, found)
                shift.again(task, worker)
                continue
            self.journal.attach([self.folder.path / piece_name(*task)], self.header)
            if not found["existed"]:
                wall = float(found["seconds"]["wall"])
                spans.note(task.groups, wall)
                self.seconds, self.worked = self.seconds + wall, self.worked + task.groups * work
                self.run.clock.add(found["seconds"])
            done += task.groups
            self.advance(number, done, total)
        self._check_input()

    def _reject(self, worker: str, found: Answer) -> None:
        """Handle the answer of a worker that another run has used in the meantime."""
        if self.sent is not None:
            self.sent.discard(worker)
        if "differs" in found:
            self.image.crew.refuse(worker, self.objection(worker, {"facts": found["differs"]}) or "it has changed")

    def _check_input(self) -> None:
        change = self.run.inputs.change(quick=True)
        if change is not None:
            raise change

    def _missing(self, step: Pass) -> Sequence[int]:
        """Return the groups of a pass that workers have to compute, in rising order."""
        if step is self.plan.passes[-1]:
            finished = self.journal.finished(step.number)
            return [group for group in range(self.plan.groups(step)) if group not in finished]
        # Workers read the fields of earlier passes from pieces alone, and not from the journal of this process.
        pieces = map(groups_in_piece, self.folder.pieces())
        left = {group for number, groups in pieces if number == step.number for group in groups}
        return [group for group in range(self.plan.groups(step)) if group not in left]

    def _packed_cells(self, step: Pass) -> str | None:
        """Return the cells of a pass that a budget selects, then those that it has compared, one bit each, as text."""
        if self.plan.settings.patches.kind != "budget" or step.number == 0:
            return None
        found = BudgetCells.of(self.plan, step, self.journal.finished(step.number - 1))
        return b64encode(np.packbits(np.stack((found.cells, found.known))).tobytes()).decode("ascii")

    def advance(self, number: int, done: int, total: int) -> None:
        """Report how many groups of a pass are done."""
        what = f"pass {number + 1} of {len(self.plan.passes)}"
        share = Workload.of(self.run.job).share(number, done / max(1, total))
        name = self.image.run.target.mask.name
        self.image.run.events.step(Step(image=name, what=what, done=done, total=total, share=share))


def _named(job: Question) -> Question:
    return {"image": job["image"]}


def _differing(facts: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names of the facts that differ between two processes and have to agree."""
    return [
        f"{name} ({str(other.get(name))[:12]} there, {str(value)[:12]} here)"
        for name, value in facts.items()
        if other.get(name) != value
    ]


def _noted_threads(journal: Journal, plan: Plan) -> int | None:
    """Return the threads of an interrupted run whose groups the journal holds; None where it holds none."""
    for step in plan.passes:
        for counts in journal.finished(step.number).values():
            return int(str(counts.get("threads", 1)))
    return None
