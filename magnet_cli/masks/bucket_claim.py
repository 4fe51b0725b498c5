"""A claim keeps two commands apart that write one output to a bucket, which has no locks."""

from __future__ import annotations

import hashlib
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.masks.bucket_folder import ATTEMPTS, SUM
from magnet_cli.system.bucket import ChangedObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from magnet_cli.masks.bucket_folder import BucketFolder
    from magnet_cli.system.bucket import StoredObject

CLAIM = "magnet-claim"
"""The tag of this name tells the claims of commands apart."""


@dataclass(frozen=True, kw_only=True)
class OutputClaim:
    """A claim is an object beside an output that names the one command which may write the output.

    A command that begins to write replaces the claim of any other. So nothing has to expire: what a killed command has
    left keeps nobody out, and a command that goes on after its claim was replaced ends at its next object.
    """

    place: BucketFolder
    path: Path
    """The local path that stands for the object. No file is there."""
    token: str

    def take(self, tags: Mapping[str, str], *, attempts: int = ATTEMPTS) -> None:
        """Write the claim in place of any other.

        Args:
            tags: Tags of the object besides its own.
            attempts: The claim is written at most so often, where others write theirs at the same time.

        Raises:
            OutputError: An object of another program is in the way, or the service fails.
        """
        key = self.place.key(self.path)
        # Claims have different bytes, because services compare contents in conditional requests.
        body = self.token.encode()
        every = {SUM: hashlib.sha256(body).hexdigest(), **tags, CLAIM: self.token}
        try:
            self.place.bucket.put_bytes(key, body, every, replaces=self.place.ours(key))
        except ChangedObjectError:
            if attempts == 1:
                raise
            self.take(tags, attempts=attempts - 1)

    def check(self) -> None:
        """Pass as long as no other command has claimed the output.

        Raises:
            OutputError: Another command has.
        """
        if not self.is_held():
            raise OutputError(
                "another command has begun to write this output to the bucket, and this one stops",
                file=self.place.address(self.path.with_suffix("")),
                advice="Give each command an output of its own. The files stay in the work folder",
            )

    def is_held(self) -> bool:
        """Return whether this claim is the last one."""
        return self._found() is not None

    def release(self) -> None:
        """Remove the claim, unless another command has replaced it."""
        found = self._found()
        if found is not None:
            self.place.bucket.remove({self.place.key(self.path): found})

    def _found(self) -> StoredObject | None:
        found = self.place.ours(self.place.key(self.path))
        return found if found is not None and found.tags.get(CLAIM) == self.token else None


def claim_path(report: Path) -> Path:
    """Return the local path that stands for the claim of the outputs that a report belongs to."""
    return report.with_name(f"{report.name}.upload")


@contextmanager
def claimed(place: BucketFolder, report: Path, tags: Mapping[str, str]) -> Iterator[OutputClaim]:
    """Claim the outputs that a report belongs to until the block ends.

    Args:
        place: The bucket.
        report: The local file of the report.
        tags: Tags of the claim besides its own.

    Raises:
        OutputError: An object of another program is in the way, or the service fails.
    """
    claim = OutputClaim(place=place, path=claim_path(report), token=uuid.uuid4().hex)
    claim.take(tags)
    try:
        yield claim
    finally:
        # A claim that stays keeps nobody out, and the failure of the block is the one to report.
        with suppress(OutputError):
            claim.release()
