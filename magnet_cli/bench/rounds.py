"""The rounds of a bench: contenders run one after the other, each in its own process, and are compared by round."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from magnet_cli.bench.result import Mark, Row
from magnet_cli.bench.task import Task, command_of, for_drawn, mask_beside
from magnet_cli.bench.worker_process import Process
from magnet_cli.errors import MagnetError, SourceError, UsageError
from magnet_cli.events import Step
from magnet_cli.options.bench import CPU_SIZES, GPU_SIZES
from magnet_cli.system.closing import Closing
from magnet_cli.system.durable import writing
from magnet_cli.system.scratch import scratch_folder
from magnet_cli.system.speeds import Figure, format_seconds, store_figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.bench.conditions import Setting
    from magnet_cli.bench.task import Ready, Took
    from magnet_cli.events import Events
    from magnet_cli.options.bench import BenchOptions, Yardstick

SHORT = 30.0
"""The longest run in seconds for which there are three rounds if the user names no number."""
ROUNDS = 3
LARGEST_WARM = 4096
"""Side in pixels of the largest image that contenders run once before anything is measured."""
MODELS: dict[Yardstick, tuple[str | None, ...]] = {
    "ceiling": (None,),
    "patching": ("model as loaded", "same model object"),
    "naive": (None,),
}
"""The networks that each yardstick is measured with. None stands for its only way."""


@dataclass(kw_only=True)
class _Contender:
    """A yardstick while its row is measured."""

    kind: Yardstick
    model: str | None
    process: Process
    ready: Ready | None = None
    runs: list[Took] = field(default_factory=list)
    error: MagnetError | None = None

    @property
    def can_run(self) -> bool:
        """Whether the contender takes part in the next round."""
        return self.error is None and self.ready is not None and self.ready.refusal is None

    def run(self, program: Took) -> None:
        """Take part in a round."""
        try:
            self.runs.append(self.process.run(self.model or "", program))
        except MagnetError as error:
            self.error = error

    def mark(self) -> Mark:
        """Return the contender's mark of a row."""
        return Mark(kind=self.kind, model=self.model, ready=self.ready, runs=tuple(self.runs), error=self.error)


class Bench(Closing):
    """Measures images one after the other, as a context; nothing stays of what it wrote to measure.

    Args:
        options: What to measure.
        events: Receives what is done, and about how long it will take.
        image: A file to measure on, instead of generated images unless the options name sizes.
        mask: The mask of the image, where a mask is refined.

    Raises:
        UsageError: The mask is missing where a mask is refined, or is given where none is.
        MagnetError: Nothing could be measured, which is raised on entering.
    """

    def __init__(
        self, options: BenchOptions, events: Events, *, image: str | None = None, mask: str | None = None
    ) -> None:
        if options.refines and image is not None and mask is None:
            raise UsageError(
                "a cascade sharpens a mask of the image", value=image, advice="Name the mask after the image"
            )
        if not options.refines and mask is not None:
            raise UsageError(
                "a mask is what a cascade sharpens, and this bundle predicts classes",
                value=mask,
                advice="Leave the mask out, or name a cascade with --weights",
            )
        self._image = image
        self._mask = mask
        self._options = options
        self._events = events
        self._stack = ExitStack()
        self._speeds: dict[str, float] = {}
        self._command = command_of(options.measured)

    def __enter__(self) -> Self:
        for file in (self._image, self._mask):
            if file is not None and not Path(file).exists():
                raise SourceError("there is no such file", file=file, advice="Check the path")
        with ExitStack() as stack:
            with Process("studio", self._options.measured, self._command) as studio:
                self.setting: Setting = studio.ask("setting")
            self._folder = stack.enter_context(scratch_folder("bench"))
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """Remove the images and the masks."""
        self._stack.close()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the images that are generated."""
        if self._options.sizes is not None:
            return self._options.sizes
        if self._image is not None:
            return ()
        return CPU_SIZES if self.setting.device == "cpu" else GPU_SIZES

    def rows(self) -> Iterator[Row]:
        """Yield each image by each method once it is measured: the smallest image first, the user's file last."""
        for side in self.sizes:
            path = self._folder / f"generated-{side}.tif"
            label = f"{side:,} px"
            self._events.message(f"magnet: {label}: making the image")
            try:
                warm = self._drawn(side, path)
            except MagnetError as error:
                yield from (Row(label=label, image=None, method=method, error=error) for method in self._methods)
                continue
            for method in self._methods:
                yield self._row(self._task(path, warm, method, drawn=True), label=label)
            for file in (path, mask_beside(path)):
                file.unlink(missing_ok=True)
        if self._image is not None:
            name = self._image
            warm = self._drawn(LARGEST_WARM, None)
            for method in self._methods:
                yield self._row(self._task(name, warm, method), label=Path(name).name, image=name)

    @property
    def _methods(self) -> tuple[str, ...]:
        return self._options.chosen_methods

    def _drawn(self, side: int, path: Path | None) -> Path:
        """Make the image of a side, and a small one beside it, whose path is returned."""
        warm = self._folder / "warm.tif"
        with writing(self._folder), Process("studio", self._options.measured, self._command) as studio:
            studio.ask("draw_warm", warm, side)
            if path is not None:
                # Drawing keeps memory, so its process ends before anything is measured.
                studio.ask("draw", path, side)
        return warm

    def _task(self, image: str | Path, warm: Path, method: str, *, drawn: bool = False) -> Task[Any]:
        measured: Any = self._options.measured
        refines = self._command == "refine"
        options: Any = replace(measured, method=method) if refines else measured.of_method(method, among=self._methods)
        mask = str(mask_beside(Path(image))) if drawn and refines else self._mask
        return Task(
            image=str(image),
            mask=mask,
            options=for_drawn(options) if drawn else options,
            folder=self._folder,
            warm=str(warm),
            warm_mask=str(mask_beside(warm)) if refines else None,
        )

    def _row(self, task: Task[Any], *, label: str, image: str | None = None) -> Row:
        method = task.options.method
        draft = Row(label=label, image=image, mask=None if image is None else task.mask, method=method)
        try:
            row = self._measured(task, draft)
        except MagnetError as error:
            self._events.failed(f"{label}, {method}", error)
            return replace(draft, error=error)
        self._keep(row)
        return row

    def _measured(self, task: Task[Any], draft: Row) -> Row:
        with ExitStack() as stack:
            program = stack.enter_context(Process("program", task, self._command))
            ready = program.prepare()
            self._announce(draft, ready)
            # The first run comes before other processes start, because pages of libraries count in parts to all the
            # processes that share them.
            first = program.run()
            repeats = self._options.repeats or (ROUNDS if first.seconds <= SHORT else 1)
            self._events.message(f"magnet: {_name(draft)}: {format_seconds(first.seconds)} a run, {_rounds(repeats)}")
            contenders = [one for kind in self._options.yardsticks for one in self._started(kind, task, stack)]
            runs = [first]
            for number in range(repeats):
                if number:
                    self._step(draft, f"round {number + 1} of {repeats}, magnet", number * (len(contenders) + 1))
                    runs.append(program.run())
                self._round(draft, contenders, runs[-1], number=number, repeats=repeats)
        return replace(draft, ready=ready, runs=tuple(runs), marks=tuple(one.mark() for one in contenders))

    def _round(self, draft: Row, contenders: list[_Contender], ours: Took, *, number: int, repeats: int) -> None:
        total = repeats * (len(contenders) + 1)
        for index, one in enumerate(contenders):
            if one.can_run:
                name = f"round {number + 1} of {repeats}, {one.kind}"
                self._step(draft, name, number * (len(contenders) + 1) + index + 1, total)
                one.run(ours)

    def _started(self, kind: Yardstick, task: Task[Any], stack: ExitStack) -> list[_Contender]:
        """Start a yardstick in one process, and return it with each of the networks that it is measured with."""
        # The budget of the device is the program's; a yardstick is refused by what there is.
        task = replace(task, options=replace(task.options, gpu_memory=None))
        process = stack.enter_context(Process(kind, task, self._command))
        found = [_Contender(kind=kind, model=model, process=process) for model in MODELS[kind]]
        ready, failure = None, None
        try:
            ready = process.prepare()
        except MagnetError as error:
            failure = error
        for one in found:
            one.ready, one.error = ready, failure
        if not found[0].can_run:
            process.close()
            self._events.message(f"magnet: {task.options.method}: no {kind}: {found[0].mark().reason}")
        return found

    def _announce(self, draft: Row, ready: Ready) -> None:
        """Report what comes next, and how long it takes where a smaller image was measured before."""
        speed = self._speeds.get(draft.method)
        about = "" if speed is None else f", about {format_seconds(ready.windows / speed)} a run"
        self._events.message(f"magnet: {_name(draft)}: at most {ready.windows:,} windows{about}")
        self._step(draft, "first run", 0)

    def _step(self, draft: Row, what: str, done: int, total: int = 0) -> None:
        self._events.step(Step(image=_name(draft), what=what, done=done, total=max(total, done + 1)))

    def _keep(self, row: Row) -> None:
        """Store the speed for `magnet plan`; a folder that refuses it does not spoil the bench."""
        self._speeds[row.method] = row.windows_per_second
        if row.ready is None or row.ready.case is None or not row.windows:
            return
        figure = Figure(case=row.ready.case, pixels=row.pixels, windows_per_second=row.speed)
        try:
            store_figure(figure)
        except MagnetError as error:
            self._events.message(f"magnet: the speed was not kept for 'magnet plan': {error}")


def _name(row: Row) -> str:
    return f"{row.label}, {row.method}"


def _rounds(repeats: int) -> str:
    return f"{repeats} round{'s'[: repeats != 1]}"
