"""The module finds out whether a bucket has the outputs of an image, and writes finished local files to it.

Nothing is computed or assembled in a bucket, which can neither append nor lock nor rename. A run works in a local
folder that stands for the bucket, and writes each file to the bucket when it is finished, the report last.
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.masks.bucket_claim import OutputClaim, claim_path, claimed
from magnet_cli.masks.bucket_folder import ROOT, SUM, BucketFolder, file_sum
from magnet_cli.masks.output import DAMAGED, OVERWRITE_ADVICE, OutputPaths, OutputState, difference, output_state
from magnet_cli.masks.report_file import parse_report
from magnet_cli.system.bucket import AGAIN, ChangedObjectError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from magnet_cli.system.bucket import StoredObject

RUN, BESIDE = "magnet-run", "magnet-outputs"
"""The tags of an object have these names: SHA-256 of the run that made it, and of the options of outputs beside the
mask. Only a report has the last one."""
LARGEST_REPORT = 1 << 30
"""A report of more bytes than this is not read."""
AT_ONCE = 4
"""At most this many objects of a Zarr are written at the same time, because each holds a part in memory."""
ROUNDS = 3
"""The outputs are written at most so often, where another command that has lost its claim has changed some of them."""


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
        """Check that every object that is there already was written by magnet.

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
        mask, report = self._found()
        if report is None or mask is None:
            self._refuse_other(mask, report)
            return None
        try:
            content = self._content()
            reason = difference(content, self.hashes, size=mask.size)
        except OutputError:
            content, reason = {}, DAMAGED
        if reason is None and mask.tags.get(RUN) != report.tags.get(RUN):
            reason = "its mask and its report are of different runs"
        if reason is not None:
            if self.overwrite:
                return None
            raise self._other(reason)
        if report.tags.get(BESIDE) == self.outputs:
            return content
        self._fetch(content, {self.report: report, self.mask: mask})
        return None

    def upload(self) -> None:
        """Write the finished local files to the bucket, the report last, and delete them here.

        What is there already is not written again. Until the report is there the outputs count as unfinished.

        Raises:
            OutputError: An object of another program is in the way, the service fails, or another command has begun to
                write the same output. The same command goes on.
        """
        for path in self.beside:
            if path.is_dir():
                # An object of another program ends the run here, before anything of the old outputs is removed.
                for key in self._stale(path):
                    self.place.ours(key)
        # Another run may have been faster, since this one looked at the bucket.
        self._refuse_other(*self._found())
        tags = {RUN: self._run}
        with claimed(self.place, self.report, tags) as claim:
            for _ in range(ROUNDS):
                # A request of a command that has lost its claim may still have been on its way.
                with suppress(ChangedObjectError):
                    if self._written(tags, claim):
                        break
            else:
                raise OutputError(
                    "another command has changed this output in the bucket while this command wrote it",
                    file=self.place.address(self.mask),
                    advice=f"Give each command an output of its own. {AGAIN}",
                )
        self._discard()

    def discard_done(self) -> None:
        """Delete what a killed run has left of outputs that are finished: its local files, and its claim."""
        claim = self.place.key(claim_path(self.report))
        found = self.place.ours(claim)
        if found is not None and found.tags.get(RUN) == self._run:
            self.place.bucket.remove({claim: found})
        paths = OutputPaths.of(self.mask)
        if self.mask.exists() and output_state(paths, hashes=self.hashes, overwrite=True) is OutputState.DONE:
            self._discard()

    @property
    def _all(self) -> tuple[Path, ...]:
        """Return the local files and folders that a run may write, without the report."""
        return (*self.beside, self.mask)

    @property
    def _run(self) -> str:
        return hashlib.sha256(repr(sorted(self.hashes.items())).encode()).hexdigest()

    def _found(self) -> tuple[StoredObject | None, StoredObject | None]:
        """Return the facts about the mask and the report in the bucket. None stands for one that is not there."""
        mask, report = (self.place.ours(self.place.key(path)) for path in (self.mask, self.report))
        return mask, report

    def _refuse_other(self, *found: StoredObject | None) -> None:
        """Check that objects belong to this run, which was interrupted, or may be replaced."""
        runs = {each.tags.get(RUN) for each in found if each is not None}
        if runs - {self._run} and not self.overwrite:
            raise self._other("it belongs to another run")

    def _content(self) -> dict[str, object]:
        data = self.place.bucket.content(self.place.key(self.report), LARGEST_REPORT)
        return parse_report(data, self.place.address(self.report))

    def _other(self, reason: str) -> OutputError:
        return OutputError(
            f"the output exists already: {reason}", file=self.place.address(self.mask), advice=OVERWRITE_ADVICE
        )

    def _fetch(self, content: Mapping[str, object], found: Mapping[Path, StoredObject]) -> None:
        """Copy a finished mask and its report to the local folder, unless a mask is there.

        A damaged mask is removed from the bucket where it may be replaced, so that the run makes it anew.

        Raises:
            OutputError: The mask in the bucket is damaged, and is not to be replaced.
        """
        if self.mask.exists():
            return
        for path in found:
            self.place.bucket.fetch(self.place.key(path), path)
        section = content["mask"]
        if isinstance(section, dict) and file_sum(self.mask) == section.get("sha256"):
            return
        for path in found:
            path.unlink()
        if not self.overwrite:
            raise OutputError(
                "the mask is not as its report describes it",
                file=self.place.address(self.mask),
                advice="Restore it from a copy, or compute it again with --overwrite",
            )
        # The tags of the damaged object are those of the mask to come, by which an upload would take it for written.
        self.place.bucket.remove({self.place.key(path): each for path, each in found.items()})

    def _written(self, tags: Mapping[str, str], claim: OutputClaim) -> bool:
        """Write what the bucket lacks, and the report last, and return whether it was written."""
        report = self.place.ours(self.place.key(self.report))
        if report is not None and report.tags.get(SUM) != file_sum(self.report):
            # The old report belongs to the mask that is replaced.
            self._remove({self.place.key(self.report): report}, claim)
        if not self._is_as_written(self._put_all(tags, claim), tags):
            return False
        self.place.put(self.report, {**tags, BESIDE: self.outputs}, check=claim.check)
        return True

    def _put_all(self, tags: Mapping[str, str], claim: OutputClaim) -> dict[str, str]:
        """Write the mask and what stands beside it, and remove what a replaced mask had beside it.

        Returns:
            The versions of the objects that were written or found, by key.
        """
        versions: dict[str, str] = {}
        for path in self._all:
            key = self.place.key(path)
            if path.is_dir():
                versions |= self._put_folder(path, tags, claim)
            elif path.exists():
                versions[key] = self.place.put(path, tags, check=claim.check)
            elif path.suffix != ".zarr" and (found := self.place.ours(key)) is not None:
                # The mask that is replaced had this file, and the new one has none.
                self._remove({key: found}, claim)
        return versions

    def _is_as_written(self, versions: Mapping[str, str], tags: Mapping[str, str]) -> bool:
        """Return whether the objects are still what was written, and no others are among them."""
        for path in self._all:
            key = self.place.key(path)
            if path.is_dir():
                files = {self.place.key(each): each for each in path.rglob("*") if each.is_file()}
                found = dict(self.place.bucket.versions(f"{key}/"))
                if found.keys() != files.keys():
                    return False
                # Services need not list the versions that they answered a request with.
                differing = [each for each in found if found[each] != versions.get(each, found[each])]
                if not all(self.place.has(files[each], tags) for each in differing):
                    return False
            elif path.exists():
                if not self.place.has(path, tags):
                    return False
            elif path.suffix != ".zarr" and self.place.ours(key) is not None:
                return False
        return True

    def _put_folder(self, folder: Path, tags: Mapping[str, str], claim: OutputClaim) -> dict[str, str]:
        """Write a Zarr: first the objects below its root, then the root's metadata.

        Returns:
            The versions of the objects by key. It has none where the whole Zarr is there already.
        """
        root = folder / ROOT
        found = self.place.ours(self.place.key(root))
        if found is not None and found.tags == self.place.tags(root, tags):
            return {}
        if found is not None:
            self._remove({self.place.key(root): found}, claim)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != root]
        # A shard without a label is not stored, so that one of the old mask would show in the new one.
        stale = {key: each for key in self._stale(folder) if (each := self.place.ours(key)) is not None}
        self._remove(stale, claim)
        with ThreadPoolExecutor(AT_ONCE, "upload") as pool:
            try:
                put = [pool.submit(self.place.put, path, tags, check=claim.check) for path in files]
                versions = {self.place.key(path): each.result() for path, each in zip(files, put, strict=True)}
            except BaseException:  # An interruption ends the run as well: uploads that wait are cancelled.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return {**versions, self.place.key(root): self.place.put(root, tags, check=claim.check)}

    def _remove(self, objects: Mapping[str, StoredObject], claim: OutputClaim) -> None:
        if objects:
            claim.check()
            self.place.bucket.remove(objects)

    def _stale(self, folder: Path) -> list[str]:
        """Return the keys of objects below a folder that no local file of it becomes."""
        own = {self.place.key(path) for path in folder.rglob("*") if path.is_file()}
        return [key for key in self.place.bucket.keys(f"{self.place.key(folder)}/") if key not in own]

    def _discard(self) -> None:
        for path in (*self._all, self.report):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
