"""The files of one output, whether they are done, and the steps that finish them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Self

from magnet_cli.errors import OutputError
from magnet_cli.images.identity import ImageIdentity
from magnet_cli.masks.layout import describe_mask
from magnet_cli.masks.report_file import read_report, write_report
from magnet_cli.masks.tiff_writer import assemble_mask, ignore_progress
from magnet_cli.system import durable
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zarr.core.common import JSON

    from magnet_cli.masks.journal import Journal

OVERWRITE_ADVICE = "Choose another output, or pass --overwrite."
DAMAGED = "its report is damaged"
"""This is the reason why an output is not the result of some work where its report cannot be read."""


@dataclass(frozen=True, kw_only=True)
class OutputPaths:
    """Everything that one mask puts beside itself, by name."""

    mask: Path
    report: Path
    journal: Path

    @classmethod
    def of(cls, mask: Path) -> Self:
        """Return the paths that belong to a mask: `x.tif` has `x.json` and `x.tif.journal`."""
        return cls(
            mask=mask,
            report=mask.with_name(f"{mask.stem}.json"),
            journal=mask.with_name(f"{mask.name}.journal"),
        )

    def field(self, name: str) -> Path:
        """Return the folder of a field: `x.tif` has `x.probabilities.zarr`."""
        return self.mask.with_name(f"{self.mask.stem}.{name}.zarr")


class OutputState(Enum):
    """The work that is left for an output."""

    DONE = "done"
    """Finished by equal inputs, weights and options."""
    OPEN = "open"
    """The mask is to be begun, resumed or replaced, by opening the journal."""


def output_state(paths: OutputPaths, *, hashes: Mapping[str, str], overwrite: bool = False) -> OutputState:
    """Return whether an output is finished.

    While its journal exists an output is unfinished, whatever else is there: the journal goes last.

    Args:
        paths: The paths of the output.
        hashes: The hashes that `JournalHeader` has; they are compared with the report's `hashes`.
        overwrite: Whether files of other inputs or options may be replaced.

    Raises:
        OutputError: Other work has made files there, and `overwrite` is not set; or the system denies access to them.
    """
    with durable.looking_at(paths.mask):
        return _state(paths, hashes=hashes, overwrite=overwrite)


def _state(paths: OutputPaths, *, hashes: Mapping[str, str], overwrite: bool) -> OutputState:
    unfinished = paths.journal.exists()
    if not paths.mask.exists() and (unfinished or not paths.report.exists()):
        return OutputState.OPEN
    reason = _difference(paths, hashes=hashes)
    if reason is None:
        return OutputState.OPEN if unfinished or not paths.mask.exists() else OutputState.DONE
    if overwrite:
        return OutputState.OPEN
    raise OutputError(f"the output exists already: {reason}", file=paths.mask, advice=OVERWRITE_ADVICE)


def finish_output(
    journal: Journal,
    paths: OutputPaths,
    *,
    report: Mapping[str, object],
    description: Mapping[str, object] | None = None,
    fields: Sequence[str] = (),
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> dict[str, object]:
    """Turn the journal of a completed run into its final files; killed at any point it can be called again.

    The order matters: fields, mask under its working name, report, mask by rename, and only then the journal goes.

    Args:
        journal: Open, its groups all finished; it is deleted.
        paths: The paths of the output.
        report: JSON values; the keys `hashes`, `mask` and `digest` are filled in here.
        description: Facts for the mask's ImageDescription; `assemble_mask` describes them.
        fields: Names of the fields to keep as Zarr.
        on_progress: Called with the number of tiles of the mask that are written, and of all its tiles.

    Returns:
        The report as it was written.

    Raises:
        OutputError: The journal is damaged or the disk refuses something; the journal stays.
    """
    # From here on the journal says that nothing has to be computed. A run that is killed below begins at this function
    # again.
    journal.end()
    if fields:
        from magnet_cli.masks.zarr_writer import write_field  # noqa: PLC0415 - zarr takes a while to load

        for name in fields:
            write_field(journal, name, paths.field(name), attributes=_made_of(journal, report))
    with working_file(paths.mask) as file:
        assemble_mask(journal, file, folder=paths.mask.parent, description=description or {}, on_progress=on_progress)
        # The report gets its checksums from the finished file, not from the data in memory, so that a faulty write is
        # found by `magnet verify`.
        section = describe_mask(durable.working_path(paths.mask))
        # The report comes before the mask. A mask under its final name therefore always has its report; a report
        # without a mask counts as unfinished.
        written = write_report(paths.report, {**report, "hashes": dict(journal.header.hashes), "mask": section})
    # The journal goes last: as long as it exists the output counts as unfinished, whatever else is there.
    journal.discard()
    return written


def _made_of(journal: Journal, report: Mapping[str, object]) -> Mapping[str, JSON]:
    """Return the attributes that say of which image a field is: its report may be replaced by that of a later mask."""
    source, made_of = report.get("input"), ImageIdentity.noted(journal.header.hashes)
    if not isinstance(source, dict) or made_of is None:
        return {}
    found = {"path": str(source["path"]), "fingerprint": made_of.fingerprint, "series": made_of.series}
    return {"image": found}


def _difference(paths: OutputPaths, *, hashes: Mapping[str, str]) -> str | None:
    """Return why what is there is not the result of this work; None where it is."""
    if not paths.report.exists():
        return "it has no report"
    try:
        content = read_report(paths.report)
    except OutputError:
        return DAMAGED
    return difference(content, hashes, size=paths.mask.stat().st_size if paths.mask.exists() else None)


def difference(content: Mapping[str, object], hashes: Mapping[str, str], *, size: int | None) -> str | None:
    """Return why an output is not the result of some work; None where it is.

    Args:
        content: Content of the output's report.
        hashes: Hashes of the work, which are compared with those in the report.
        size: Bytes of the mask. None where there is no mask.
    """
    stored = content.get("hashes")
    found = stored if isinstance(stored, dict) else {}
    differing = [key for key in dict.fromkeys([*hashes, *found]) if found.get(key) != hashes.get(key)]
    if differing:
        return f"it was made with other {', '.join(differing)}"
    section = content.get("mask")
    written = section.get("bytes") if isinstance(section, dict) else None
    # Comparing sizes is cheap and finds copies that were cut. `magnet verify` compares checksums.
    if size is not None and size != written:
        return "it is not the file that its report describes"
    return None
