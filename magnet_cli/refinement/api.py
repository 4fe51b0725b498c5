"""Entry point of `magnet refine`: refine the mask of one image, or plan its refinement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.errors import MagnetError
from magnet_cli.events import Events
from magnet_cli.masks.output import OutputState, output_state
from magnet_cli.masks.report_file import read_report
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.spelling import as_path, option_words
from magnet_cli.refinement.method_loader import load_method
from magnet_cli.refinement.origins import check_origins
from magnet_cli.refinement.pairs import Pair, check_pair, open_input_mask
from magnet_cli.refinement.refinement_run import opened_run
from magnet_cli.run.guards import naming_shortage
from magnet_cli.run.mask_run import check_private
from magnet_cli.run.private_events import PrivateEvents
from magnet_cli.system.private_names import PrivateNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magnet_cli.images import ImageInfo
    from magnet_cli.refinement.method import MaskJob, MaskPlan, Method


@dataclass(frozen=True, kw_only=True)
class RefineResult:
    """The result of refining one mask."""

    image: str
    mask: str
    report: dict[str, object]
    """The report that lies beside the output."""
    output: Path
    was_done: bool = False
    """Whether an earlier run had already finished the output."""
    private: PrivateNames | None = None
    """Names that `describe` leaves out."""

    def describe(self) -> dict[str, object]:
        """Return the result as JSON values."""
        found: dict[str, object] = {
            "image": self.image,
            "refined": self.mask,
            "mask": str(self.output),
            "status": "already done" if self.was_done else "done",
            "report": self.report,
        }
        return found if self.private is None else self.private.table(found)


def refine(
    image: str | Path,
    mask: str | Path,
    output: str | Path | None = None,
    options: RefineOptions | None = None,
    *,
    events: Events | None = None,
) -> RefineResult:
    """Refine a mask that another program made, and write the refined mask and a report.

    Args:
        image: A file or URL in a format that `segment` reads.
        mask: A mask of the image's size: 0 and another value, class indices, or probabilities.
        output: The file to write, a folder, or None for `<mask's name>.refined.tif` in the current folder.
        options: Options of the run. Fields that are left out take the bundle's defaults.
        events: Receives messages and progress.

    Raises:
        SourceError: The mask or the probabilities were made of another image (`check_origins`).
        UsageError, SourceError, WeightsError, OutputError, DeviceError: The run failed. Finished groups are kept, and
            the same call resumes the run.
    """
    options, events = options or RefineOptions(), events or Events()
    pair = Pair.open(image, mask, output, options=options)
    # A mask of another image of the same size would be refined without an error, so the origin is checked before the
    # networks load.
    check_origins(pair.info, mask, options.evidence)
    names = private_names(pair, options)
    if names is None:
        return refine_pair(pair, load_method(options, events), options, events)
    try:
        return refine_pair(pair, load_method(options, events), options, PrivateEvents(events, names))
    except MagnetError as error:
        raise names.error(error) from error.__cause__


def private_names(pair: Pair, options: RefineOptions) -> PrivateNames | None:
    """Return the names that the outputs of a refinement leave out; None without `--private`."""
    if not options.private:
        return None
    folder = options.weights if options.weights is not None and Path(options.weights).exists() else None
    return PrivateNames([pair.image, pair.mask, pair.paths.mask], filter(None, (options.evidence, folder)))


def refine_pair(pair: Pair, method: Method, options: RefineOptions, events: Events) -> RefineResult:
    """Refine a mask as `refine` does, with a loaded method."""
    paths, names = pair.paths, private_names(pair, options)
    inputs = images.InputStates.of((pair.image, pair.mask, options.evidence))
    hashes = {**inputs.image_hashes(pair.info), "refined": inputs.digest(pair.mask)}
    hashes |= method.hashes()
    # A finished output is recognised by its hashes alone, before the mask is surveyed.
    done = _finished(pair, hashes, options, events)
    if done is not None:
        return done
    view = method.view(pair.info)
    with opened_run(
        method, view, pair.mask, options, paths=paths, hashes=hashes, inputs=inputs, private=names, events=events
    ) as (job, run):
        # The survey of a large mask takes minutes, in which another command may have finished the same output.
        done = _finished(pair, hashes, options, events)
        if done is not None:
            return done
        for note in job.plan.notes:
            events.message(f"{pair.image}: {note}" if note in pair.info.notes else note)
        command = refine_words(job.plan, paths.mask, options, method)
        report = run.finish(lambda found: {**found, "command": command})
    events.message(f"{paths.mask}: done")
    return RefineResult(image=pair.image, mask=pair.mask, output=paths.mask, report=report, private=names)


def _finished(pair: Pair, hashes: Mapping[str, str], options: RefineOptions, events: Events) -> RefineResult | None:
    """Return the result that an earlier run has finished; None where there is none."""
    paths, names = pair.paths, private_names(pair, options)
    if output_state(paths, hashes=hashes, overwrite=options.overwrite) is not OutputState.DONE:
        return None
    events.message(f"{paths.mask}: already done")
    if names is not None:
        check_private(paths)
    report = read_report(paths.report)
    return RefineResult(
        image=pair.image, mask=pair.mask, output=paths.mask, report=report, was_done=True, private=names
    )


def plan_refine(
    image: str | Path, mask: str | Path, options: RefineOptions | None = None, *, events: Events | None = None
) -> MaskJob:
    """Plan what `refine` would do. The mask is read to count its objects; nothing is computed or written.

    Raises:
        MagnetError: The mask cannot be refined with these options.
    """
    options, events = options or RefineOptions(), events or Events()
    info = check_pair(image, mask, options=options)
    check_origins(info, mask, options.evidence)
    return plan_pair(info, mask, load_method(options, events), options, events)


def plan_pair(info: ImageInfo, mask: str | Path, method: Method, options: RefineOptions, events: Events) -> MaskJob:
    """Plan as `plan_refine` does, with a loaded method; `info` describes the image."""
    with naming_shortage("the mask was surveyed", info.path), open_input_mask(mask, options) as opened:
        return method.job(method.view(info), opened, workers=method.machine.readers(options.num_workers), events=events)


def refine_words(plan: MaskPlan, output: Path, options: RefineOptions, method: Method) -> list[str]:
    """Return the words of the command line that makes a mask again."""
    files = [as_path(plan.view.info.path), as_path(plan.mask), "-o", as_path(str(output))]
    return ["magnet", "refine", *files, *method.words(), *option_words(options)]
