"""The module finds out whether a bucket has the outputs of an image, and writes finished local files to it.

Nothing is computed or assembled in a bucket, which can neither append nor lock nor rename. A run works in a local
folder that stands for the bucket, and writes each file to the bucket when it is finished, the report last.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.masks.output import DAMAGED, OVERWRITE_ADVICE, OutputPaths, OutputState, difference, output_state
from magnet_cli.masks.report_file import parse_report
from magnet_cli.system import durable
from magnet_cli.system.bucket import WORK, Bucket, StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.DOTALL)
"""The pattern matches an address, also one that lost a slash when it was made a path."""
SUM, RUN, BESIDE = "magnet", "magnet-run", "magnet-outputs"
"""The tags of an object have these names: SHA-256 of its bytes, of the run that made it, and of the options of outputs
beside the mask. Each object that magnet writes has the first one, and only a report has the last one."""
ROOT = "zarr.json"
"""This object of a Zarr is written last, because readers find no Zarr without it."""
LARGEST_REPORT = 1 << 30
"""A report of more bytes than this is not read."""
AT_ONCE = 4
"""At most this many objects of a Zarr are written at the same time, because each holds a part in memory."""


@dataclass(frozen=True, kw_only=True)
class BucketFolder:
    """A bucket folder joins a bucket to the local folder in which its outputs are made."""

    bucket: Bucket
    folder: Path
    """The local folder that stands for the root of the bucket."""

    @classmethod
    def of(cls, output: str | Path, work: Path = WORK) -> tuple[Self, Path] | None:
        """Return the bucket that an output names, with the output's local path; None where it is a local path itself.

        Args:
            output: A path, or `s3://BUCKET/FOLDER/`.
            work: The folder that holds the outputs of all buckets before they are complete.

        Raises:
            UsageError: The output is an address of another kind, or names a bucket as no bucket can be named.
        """
        found = ADDRESS.fullmatch(str(output))
        if found is None:
            return None
        if found["scheme"].lower() != "s3":
            raise UsageError(
                "outputs are written to a local path, or to a bucket as s3://BUCKET/FOLDER/",
                value=f"{found['scheme']}://",
                advice="Write them to a local folder, and copy them",
            )
        name, _, key = found["rest"].partition("/")
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts[:-1]) or parts[-1] in (".", "..") or "\0" in key:
            raise UsageError(
                "the folders of an address have names, other than . and ..",
                value=str(output),
                advice="Write s3://BUCKET/FOLDER/",
            )
        place = cls(bucket=Bucket.open(name), folder=work / name)
        path = place.folder / key
        if key.endswith("/") or not key:
            # A path with a dot names a file or a folder; only the folder itself tells them apart.
            with durable.writing(path):
                path.mkdir(parents=True, exist_ok=True)
        return place, path

    def key(self, path: Path) -> str:
        """Return the key of the object that a local file becomes."""
        key = path.relative_to(self.folder).as_posix()
        try:
            key.encode()
        except UnicodeEncodeError:
            rule = "the key of an object is UTF-8, and the name of this file is not"
            raise OutputError(rule, file=path, advice="Rename the image") from None
        return key

    def address(self, path: Path) -> str:
        """Return the address of the object that a local file becomes."""
        return self.bucket.address(self.key(path))

    def ours(self, key: str) -> StoredObject | None:
        """Return the facts about an object that magnet has written; None where there is no object.

        Raises:
            OutputError: Another program has written the object.
        """
        found = self.bucket.state(key)
        if found is not None and SUM not in found.tags:
            raise OutputError(
                "this object is in the way, and magnet has not written it: it is not replaced, not even with "
                "--overwrite",
                file=self.bucket.address(key),
                advice="Move it away, or choose another output",
            )
        return found

    def refuse_foreign(self, paths: Iterable[Path]) -> None:
        """Pass where every object that is there already was written by magnet.

        Args:
            paths: The local files that become the objects. Those that end in `.zarr` are folders.

        Raises:
            OutputError: Another program has written one of the objects.
        """
        for path in paths:
            key = self.key(path)
            if path.suffix != ".zarr":
                self.ours(key)
            elif self.ours(f"{key}/{ROOT}") is None:
                # A killed upload has left objects without a root here, or another program has written its own.
                for first in islice(self.bucket.keys(f"{key}/"), 1):
                    self.ours(first)

    def put(self, path: Path, tags: Mapping[str, str]) -> None:
        """Write a file to the bucket, unless it is there already.

        Args:
            path: The local file.
            tags: The tags of the object besides the hash of its bytes.

        Raises:
            OutputError: An object of another program is in the way, or the service fails.
        """
        key, tags = self.key(path), {SUM: _sum(path), **tags}
        found = self.ours(key)
        if found is None or found.tags != tags or found.size != path.stat().st_size:
            self.bucket.put(key, path, tags, is_new=found is None)

    def move(self, path: Path) -> None:
        """Write a file to the bucket, and delete the local file."""
        self.put(path, {})
        path.unlink()


@dataclass(frozen=True, kw_only=True)
class BucketOutput:
    """Bucket outputs are the mask of an image in a bucket, its report and the other outputs beside it."""

    place: BucketFolder
    mask: Path
    """The local file that becomes the mask."""
    beside: Sequence[Path]
    """Local files and folders that a run may write besides the mask and its report."""
    hashes: Mapping[str, str]
    """SHA-256 of everything that the mask depends on, by name."""
    outputs: str
    """SHA-256 of the options for files beside the mask."""
    overwrite: bool
    """Whether outputs of other inputs or options are replaced."""

    @property
    def report(self) -> Path:
        """Return the local file that becomes the report."""
        return OutputPaths.of(self.mask).report

    def refuse_foreign(self) -> None:
        """Pass where every object that is there already was written by magnet.

        Raises:
            OutputError: Another program has written one of the objects.
        """
        self.place.refuse_foreign((self.mask, self.report, *self.beside))

    def finished(self) -> dict[str, object] | None:
        """Return the report of outputs that an earlier run has finished; None where there is something to do.

        Where only outputs beside the mask are missing, the mask is copied to the local folder, so that the run finds
        it there.

        Raises:
            OutputError: The mask in the bucket was made of other inputs or options, and is not to be replaced.
        """
        mask, report = (self.place.ours(self.place.key(path)) for path in (self.mask, self.report))
        if report is None or mask is None:
            other = next((found for found in (mask, report) if found is not None), None)
            # An interrupted upload of this run or of another one has left one without the other.
            if other is not None and other.tags.get(RUN) != self._run and not self.overwrite:
                raise self._other("it belongs to another run, which was interrupted")
            return None
        try:
            content = self._content()
            reason = difference(content, self.hashes, size=mask.size)
        except OutputError:
            content, reason = {}, DAMAGED
        if reason is not None:
            if self.overwrite:
                return None
            raise self._other(reason)
        if report.tags.get(BESIDE) == self.outputs:
            return content
        self._fetch(content)
        return None

    def upload(self) -> None:
        """Write the finished local files to the bucket, the report last, and delete them here.

        What is there already is not written again. Until the report is there the outputs count as unfinished.

        Raises:
            OutputError: An object of another program is in the way, or the service fails. The same command goes on.
        """
        for path in self.beside:
            if path.is_dir():
                # An object of another program ends the run here, before anything of the old outputs is removed.
                for key in self._stale(path):
                    self.place.ours(key)
        report = self.place.ours(self.place.key(self.report))
        if report is not None and report.tags.get(SUM) != _sum(self.report):
            # The old report belongs to the mask that is replaced.
            self.place.bucket.remove([self.place.key(self.report)])
        tags = {RUN: self._run}
        for path in (*self.beside, self.mask):
            if path.is_dir():
                self._put_folder(path, tags)
            elif path.exists():
                self.place.put(path, tags)
            elif path.suffix != ".zarr" and self.place.ours(self.place.key(path)) is not None:
                # The mask that is replaced had this file, and the new one has none.
                self.place.bucket.remove([self.place.key(path)])
        self.place.put(self.report, {**tags, BESIDE: self.outputs})
        self._discard()

    def discard_done(self) -> None:
        """Delete the local files of outputs that are finished in the bucket, which a killed run has left."""
        paths = OutputPaths.of(self.mask)
        if self.mask.exists() and output_state(paths, hashes=self.hashes, overwrite=True) is OutputState.DONE:
            self._discard()

    @property
    def _run(self) -> str:
        return hashlib.sha256(repr(sorted(self.hashes.items())).encode()).hexdigest()

    def _content(self) -> dict[str, object]:
        data = self.place.bucket.content(self.place.key(self.report), LARGEST_REPORT)
        return parse_report(data, self.place.address(self.report))

    def _other(self, reason: str) -> OutputError:
        return OutputError(
            f"the output exists already: {reason}", file=self.place.address(self.mask), advice=OVERWRITE_ADVICE
        )

    def _fetch(self, content: Mapping[str, object]) -> None:
        """Copy a finished mask and its report to the local folder, unless a mask is there."""
        if self.mask.exists():
            return
        for path in (self.report, self.mask):
            self.place.bucket.fetch(self.place.key(path), path)
        section = content["mask"]
        if not isinstance(section, dict) or _sum(self.mask) != section.get("sha256"):
            self.mask.unlink()
            raise OutputError(
                "the mask is not as its report describes it",
                file=self.place.address(self.mask),
                advice="Restore it from a copy, or compute it again with --overwrite",
            )

    def _put_folder(self, folder: Path, tags: Mapping[str, str]) -> None:
        """Write a Zarr: first the objects below its root, then the root's metadata."""
        bucket, root = self.place.bucket, folder / ROOT
        found = self.place.ours(self.place.key(root))
        if found is not None and found.tags == {SUM: _sum(root), **tags}:
            return
        if found is not None:
            bucket.remove([self.place.key(root)])
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != root]
        # A chunk without a label is not stored, so that one of the old mask would show in the new one.
        bucket.remove([key for key in self._stale(folder) if self.place.ours(key) is not None])
        with ThreadPoolExecutor(AT_ONCE, "upload") as pool:
            try:
                for done in [pool.submit(self.place.put, path, tags) for path in files]:
                    done.result()
            except BaseException:  # An interruption ends the run as well: uploads that wait are cancelled.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self.place.put(root, tags)

    def _stale(self, folder: Path) -> list[str]:
        """Return the keys of objects below a folder that no local file of it becomes."""
        own = {self.place.key(path) for path in folder.rglob("*") if path.is_file()}
        return [key for key in self.place.bucket.keys(f"{self.place.key(folder)}/") if key not in own]

    def _discard(self) -> None:
        for path in (*self.beside, self.mask, self.report):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
