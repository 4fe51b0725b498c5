"""The summary of a run over several images: what became of each, in a file beside the masks and in a few lines."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magnet_cli import __version__
from magnet_cli.errors import OutputError, redacted_report
from magnet_cli.masks.report_file import is_report, read_report, write_report
from magnet_cli.system.durable import writing
from magnet_cli.system.speeds import format_seconds
from magnet_cli.system.written_files import WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from magnet_cli.options.parts import JobPart
    from magnet_cli.segmentation.image_run import ImageResult

Row = dict[str, Any]
SUMMARY = "run.json"
SUMMARY_SCHEMA = 1
STATUSES = DONE, ALREADY_DONE, FAILED, WAITING = "done", "already done", "failed", "waiting"
MOST_NAMED = 20
"""Failed images that the lines of a summary name. The file names all of them."""
SELDOM = 100
"""The file is written again once this many times as long has passed as the last writing took: a run of many images
spends at most a hundredth of its time on it."""
AT_LEAST = 1.0
"""Least seconds between two writings of the file, besides the last one."""


def summary_file(folder: Path, part: JobPart | None = None) -> WrittenFile:
    """Return the file that lists the results of the images of a run: `run.json`, or `run-0-of-4.json` for a part."""
    name = SUMMARY if part is None else f"run-{part.index}-of-{part.count}.json"
    return WrittenFile(path=folder / name, kind="summary", owner="the run", is_ours=is_report)


def list_digest(images: Iterable[str]) -> str:
    """Return a SHA-256 of a list of images, whatever its order. All parts of a run have to agree on it.

    Args:
        images: What the list says of each image, as text.
    """
    # On Linux a file name may hold bytes that are no UTF-8, which Python keeps as surrogates.
    return hashlib.sha256("\0".join(sorted(images)).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(kw_only=True)
class RunSummary:
    """Results of the images of a run so far. Several threads may add results."""

    rows: list[Row]
    """A row for each image: its path, the path of its mask, its status, and what is known of it."""
    path: Path | None = None
    """File of the summary. None keeps it in memory."""
    shown: str | None = None
    """The address of the file, where it is written to a bucket at the end. None shows its path."""
    images: str = ""
    """Digest of the list of all images of the run."""
    part: JobPart | None = None
    """The part of the run that the rows belong to. None where the run is not shared."""
    state: str = "running"
    """`running` until the end, then `finished`, or `stopped` where the run was interrupted."""
    _started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next_write: float = 0.0

    def add(self, number: int, result: ImageResult) -> None:
        """Take the result of the image in a row, and write the file if it was not written lately."""
        row = described(result)
        with self._lock:
            self.rows[number] = row
            if time.monotonic() >= self._next_write:
                self._write()

    def end(self, *, finished: bool) -> None:
        """Write the file for the last time.

        Args:
            finished: Whether the run went through all of its images.
        """
        with self._lock:
            self.state = "finished" if finished else "stopped"
            self._write()

    def count(self, status: str) -> int:
        """Return the number of images of a status."""
        return sum(row["status"] == status for row in self.rows)

    def describe(self) -> dict[str, object]:
        """Return the summary as JSON values."""
        return {
            "schema": SUMMARY_SCHEMA,
            "program": {"name": "magnet", "version": __version__},
            "state": self.state,
            "part": None if self.part is None else {"index": self.part.index, "count": self.part.count},
            "list": self.images,
            "seconds": round(time.monotonic() - self._started, 3),
            "counts": {status: self.count(status) for status in STATUSES},
            "classes": class_sums(self.rows),
            "images": self.rows,
        }

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        counts = [f"{count} {status}" for status in STATUSES if (count := self.count(status))]
        share = "" if self.part is None else f"{self.part}: "
        spent = format_seconds(time.monotonic() - self._started)
        count = len(self.rows)
        found = [f"{share}{count} image{'s'[: count != 1]}: {', '.join(counts) or 'nothing to do'}; {spent}"]
        failed = [row for row in self.rows if row["status"] == FAILED]
        found += [f"  failed: {row['image']} (exit code {row['exit_code']})" for row in failed[:MOST_NAMED]]
        if len(failed) > MOST_NAMED:
            found.append(f"  and {len(failed) - MOST_NAMED} more")
        found += class_lines(class_sums(self.rows))
        return [*found, *([] if self.path is None else [f"  {self.shown or self.path} lists every image"])]

    def _write(self) -> None:
        if self.path is None:
            return
        began = time.monotonic()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        write_report(self.path, redacted_report(self.describe()))
        ended = time.monotonic()
        self._next_write = ended + max(AT_LEAST, SELDOM * (ended - began))


def described(result: ImageResult) -> Row:
    """Return the row of an image's result."""
    row: Row = {"image": result.image, "mask": result.shown, "status": result.status}
    if result.error is not None:
        row |= {"error": str(result.error), "exit_code": result.error.exit_code}
    report: Any = result.report
    if report is not None:
        keys = ("name", "pixels", "area", "unit")
        row["seconds"] = report["seconds"]["wall"]
        row["classes"] = [{key: entry[key] for key in keys} for entry in report["classes"]]
        row["not_computed"] = report["not_computed"]["pixels"]
    return row if result.private is None else result.private.table(row)


def row_of_process(found: Row) -> Row:
    """Return the row of an image's result that another process has described, as `ImageResult.describe` does."""
    report: Any = found.get("report")
    return {**found, "classes": [] if report is None else report["classes"]}


def class_sums(rows: Iterable[Row]) -> list[Row]:
    """Return pixels and area of each class over all images.

    The area is None where that of an image is unknown or has another unit.
    """
    sums: dict[str, Row] = {}
    for row in rows:
        for entry in row.get("classes", ()):
            total = sums.setdefault(
                entry["name"], {"name": entry["name"], "pixels": 0, "area": 0.0, "unit": entry["unit"]}
            )
            total["pixels"] += entry["pixels"]
            is_known = total["area"] is not None and entry["area"] is not None and entry["unit"] == total["unit"]
            total["area"] = round(total["area"] + entry["area"], 3) if is_known else None
    return list(sums.values())


def class_lines(classes: Sequence[Row]) -> list[str]:
    """Return share and area of classes as lines of text; no lines where nothing was computed."""
    pixels = sum(entry["pixels"] for entry in classes)
    if not pixels:
        return []
    width = max(len(entry["name"]) for entry in classes)
    return [
        f"  {entry['name']:{width}} {100 * entry['pixels'] / pixels:6.2f} %"
        + ("" if entry["area"] is None or entry["unit"] is None else f"  {entry['area']:,.0f} {entry['unit']}")
        for entry in classes
    ]


def join_summaries(folder: Path, count: int) -> Path | None:
    """Write `run.json` from the summaries of all parts of a run.

    Args:
        folder: The output folder.
        count: Number of the parts.

    Returns:
        The path of the file. None where a part has not finished yet.

    Raises:
        OutputError: The summaries belong to different lists of images, or the folder refuses the file.
    """
    paths = [folder / f"run-{index}-of-{count}.json" for index in range(count)]
    if not all(path.exists() for path in paths):
        return None
    found: list[Any] = [read_report(path) for path in paths]
    if any(summary["state"] != "finished" for summary in found):
        return None
    if len({summary["list"] for summary in found}) > 1:
        raise OutputError(
            "the parts of the run were given different lists of images",
            file=folder,
            advice="Run all parts with the same inputs; delete the summaries of an older run",
        )
    rows = sorted((row for summary in found for row in summary["images"]), key=lambda row: str(row["image"]))
    joined = RunSummary(rows=rows, path=folder / SUMMARY, images=found[0]["list"], state="finished")
    content = {**joined.describe(), "seconds": round(sum(summary["seconds"] for summary in found), 3)}
    write_report(folder / SUMMARY, redacted_report(content))
    return folder / SUMMARY
