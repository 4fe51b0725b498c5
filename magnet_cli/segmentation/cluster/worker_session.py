"""A worker loads the networks once, plans an image as the coordinator does, and computes groups of its windows."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from typing_extensions import override

from magnet_cli import __version__
from magnet_cli.errors import OutputError
from magnet_cli.events import Events
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import StoredGroups
from magnet_cli.masks.pieces import PieceFolder, PieceStore, groups_in_piece, missing_groups, piece_name
from magnet_cli.masks.targets import Target
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.spelling import options_of_words
from magnet_cli.run.clock import Clock
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.cluster.carried_errors import carried
from magnet_cli.segmentation.image_parts import ImageParts, segment_job
from magnet_cli.segmentation.image_run import ACTIVITIES
from magnet_cli.segmentation.image_series import image_run, segment_target
from magnet_cli.segmentation.segment_job import SegmentJob
from magnet_cli.segmentation.segment_model import Model, load_model
from magnet_cli.segmentation.window_budget import BudgetCells
from magnet_cli.system.durable import BUSY
from magnet_cli.system.memory import default_budget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Pass
    from magnet_cli.run.job import RunPass
    from magnet_cli.run.mask_run import MaskRun
    from magnet_cli.run.results import Results

Question = dict[str, Any]
Answer = dict[str, object]
LISTING = 90.0
"""A folder has to show its pieces within this many seconds; NFS may list an earlier state for 60 (`acdirmax`)."""
LEAVING = 60.0
"""A worker that is lost to the scheduler has to release the journal of its image within this many seconds."""
PAUSE = 1.0
"""Two attempts lie this many seconds apart."""


@dataclass(frozen=True, kw_only=True)
class TaskJob(SegmentJob):
    """A task job is the part of a segmentation that one task computes: groups of one pass."""

    number: int
    """The number of the pass."""
    cells: BudgetCells | None = None
    """The windows of the pass that a budget selects. None without a budget and in the first pass."""

    @property
    @override
    def passes(self) -> Sequence[RunPass]:
        return [step for step in super().passes if step.number == self.number]

    @property
    @override
    def work(self) -> Sequence[float]:
        return [work for step, work in zip(super().passes, super().work, strict=True) if step.number == self.number]

    @override
    def bound(self, number: int, results: Results) -> BoundPass:
        step = self.plan.passes[number]
        return BoundPass(plan=self.plan, step=step, device=self.networks.device, area=self.area, budget=self.cells)

    @classmethod
    def of(cls, job: SegmentJob, number: int, cells: BudgetCells | None) -> Self:
        """Return the job of a task over groups of a pass."""
        return cls(
            plan=job.plan,
            bundle=job.bundle,
            networks=job.networks,
            normalisation=job.normalisation,
            is_shared=True,
            number=number,
            cells=cells,
        )


@dataclass(kw_only=True)
class Session:
    """A session is one image whose groups this worker computes."""

    parts: ImageParts
    plan: Plan
    run: MaskRun
    threads: int
    facts: dict[str, str]
    known: StoredGroups
    """Groups of earlier passes, whose fields the tasks read."""
    attached: set[str] = field(default_factory=set)
    cells: dict[int, BudgetCells] = field(default_factory=dict)
    """The windows that a budget selects, by the number of their pass."""

    @classmethod
    def begin(cls, job: Question, neighbours: int) -> Self:
        """Plan an image.

        Args:
            job: The coordinator's description of the image: `image`, `mask`, `words`, `private`, `threads` and `sign`.
            neighbours: Workers on this machine, which share its memory.

        Raises:
            OutputError: This worker cannot find the folder of the pieces.
            MagnetError: The image cannot be segmented here.
        """
        target = Target(image=job["image"], mask=Path(job["mask"]))
        folder = PieceFolder.of(target.mask)
        if not (folder.path / job["sign"]).is_file():
            raise OutputError(
                "the worker does not see the folder of the output",
                file=folder.path,
                advice="Write to a folder that all workers share under one name",
            )
        model, options = _model(job, neighbours)
        parts = ImageParts(run=image_run(target, model, options, Events()))
        plan = parts.run.plan()
        run = parts.run.run(plan)
        facts = parts.facts(plan, run, job["threads"])
        header = JournalHeader(hashes=facts, spec=run.job.spec, fields=run.job.fields)
        return cls(parts=parts, plan=plan, run=run, threads=job["threads"], facts=facts, known=StoredGroups(header))

    def computed(self, number: int, first: int, last: int) -> Answer:
        """Compute groups of a pass and write them as a piece, unless it exists.

        Raises:
            MagnetError: The groups cannot be computed, or the piece cannot be written.
        """
        folder = PieceFolder.of(self.parts.run.target.mask)
        path = folder.path / piece_name(number, first, last)
        clock = Clock(ACTIVITIES, noting=False)
        existed = path.is_file()
        if not existed:
            self._attach(folder, number)
            job = TaskJob.of(segment_job(self.run), number, self.cells.get(number))
            wanted = range(first, last + 1)
            with PieceStore(
                folder,
                self.known.header,
                wanted={number: wanted},
                groups=len(wanted),
                check=self._check,
                known=self.known,
            ) as store:
                replace(self.run, job=job, clock=clock).leave_pieces(store, threads=self.threads)
        return {
            "piece": path.name,
            "bytes": path.stat().st_size,
            "groups": last - first + 1,
            "existed": existed,
            "seconds": clock.seconds(),
        }

    def _attach(self, folder: PieceFolder, number: int) -> None:
        """Read the pieces of the passes before a pass, which are complete by then.

        Raises:
            OutputError: The folder does not show all of them to this worker, or one is damaged.
        """
        if number == 0 or f"pass {number}" in self.attached:
            return
        totals = [(step.number, self.plan.groups(step)) for step in self.plan.passes if step.number < number]
        until = time.monotonic() + LISTING
        while True:
            for path in folder.pieces():
                if path.name not in self.attached and groups_in_piece(path)[0] < number:
                    self.known.attach([path], self.known.header)
                    self.attached.add(path.name)
            missing = missing_groups(self.known, totals)
            if not missing:
                break
            # A missing field reads as not computed, from which a mask would follow that differs.
            if time.monotonic() >= until:
                raise OutputError(
                    "the worker does not see all pieces of the passes before",
                    value=f"{missing} of {sum(groups for _, groups in totals)} groups of windows are missing",
                    file=folder.path,
                    advice="Check that all workers see the same folder; the same command goes on from what is finished",
                )
            time.sleep(PAUSE)
        self.attached.add(f"pass {number}")

    def _check(self) -> None:
        change = self.run.inputs.change(quick=True)
        if change is not None:
            raise change

    def close(self) -> None:
        """Close the pieces of earlier passes."""
        self.known.close()


_models: dict[str, Model] = {}
"""The networks that were loaded last, by the words of the options and the share of the machine."""
_sessions: dict[str, Session] = {}
"""The image that was begun last, by the coordinator's description of it."""


def _model(question: Mapping[str, Any], neighbours: int) -> tuple[Model, SegmentOptions]:
    """Return the networks, loaded once, and the options of a question."""
    given: Mapping[str, Any] = options_of_words(SegmentOptions, question["words"])
    options = SegmentOptions(**given, private=bool(question["private"]))
    # Machines differ. Where the user names no budget, each worker takes its share of its own machine's memory.
    options = replace(options, memory=(options.memory or default_budget()) // neighbours)
    # Options of single images do not change the networks.
    key = json.dumps([question["model"], neighbours])
    if key not in _models:
        _models.clear()
        _models[key] = load_model(options, Events())
    return _models[key], options


def introduced(question: Question) -> Answer:
    """Load the networks, and return the version, device, precision and engine of this worker."""
    model, _ = _model(question, question["neighbours"])
    machine = model.machine
    return {
        "version": __version__,
        "device": machine.device,
        "precision": machine.precision,
        "engine": machine.engine,
    }


def joined(question: Question) -> Answer:
    """Plan an image anew, and return the hashes and facts by which this worker computes it."""
    _close_sessions()
    session = Session.begin(question["job"], question["neighbours"])
    _sessions[_key(question)] = session
    return {"facts": session.facts}


def computed(question: Question) -> Answer:
    """Compute a task: groups of a pass of an image."""
    key, number = _key(question), question["pass"]
    if key not in _sessions:
        # Another run has used this worker in the meantime.
        _close_sessions()
        session = Session.begin(question["job"], question["neighbours"])
        if session.facts != question["facts"]:
            session.close()
            return {"differs": session.facts}
        _sessions[key] = session
    session = _sessions[key]
    if question.get("cells") is not None:
        session.cells[number] = _unpacked(session.plan.passes[number], question["cells"])
    if question["budget"] and number not in session.cells:
        return {"lacks": "cells"}
    return session.computed(number, question["first"], question["last"])


def segmented(question: Question) -> Answer:
    """Segment one image, whose journal and outputs this worker owns."""
    _close_sessions()
    model, options = _model(question, question["neighbours"])
    options = replace(options, overwrite=question["overwrite"], resume=question["resume"])
    target = Target(image=question["image"], mask=Path(question["mask"]))
    model = replace(model, threads=question["threads"])
    until = time.monotonic() + (LEAVING if question["again"] else 0)
    result = segment_target(target, model, options, Events())
    while result.error is not None and result.error.rule == BUSY and time.monotonic() < until:
        time.sleep(PAUSE)
        result = segment_target(target, model, options, Events())
    if result.error is not None:
        return {"error": carried(result.error, file=target.image)}
    return {"was_done": result.was_done, "exports": [export.describe() for export in result.exports]}


ANSWERS: dict[str, Callable[[Question], Answer]] = {
    "introduce": introduced,
    "join": joined,
    "compute": computed,
    "segment": segmented,
}
"""The function that answers each question to a worker, by the question's name."""


def _key(question: Question) -> str:
    return json.dumps(question["job"], sort_keys=True)


def _close_sessions() -> None:
    while _sessions:
        _sessions.popitem()[1].close()


def _unpacked(step: Pass, text: str) -> BudgetCells:
    """Return the cells that a coordinator has packed, one bit each: those that are selected, then those compared."""
    cells = step.stages[0].cells
    bits = np.unpackbits(np.frombuffer(b64decode(text), np.uint8), count=2 * cells.pixels)
    selected, known = bits.reshape(2, cells.height, cells.width).astype(np.bool_)
    return BudgetCells(cells=selected, known=known)
