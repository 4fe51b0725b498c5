"""A local folder stands for a bucket: its files become objects, which are recognised by their tags."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.system import durable
from magnet_cli.system.bucket import WORK, Bucket, ChangedObjectError, StoredObject, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.DOTALL)
"""The pattern matches an address, also one that lost a slash when it was made a path."""
SUM = "magnet"
"""Each object that magnet writes has a tag of this name, the SHA-256 of its bytes."""
ATTEMPTS = 4
ROOT = "zarr.json"
"""This object of a Zarr is written last, because readers find no Zarr without it."""


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
                advice="Write the outputs to a local folder, and copy them",
            )
        name, _, key = found["rest"].partition("/")
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts[:-1]) or parts[-1] in (".", "..") or "\0" in key:
            raise UsageError(
                "a folder in the address of an output must have a name, other than . and ..",
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
        """Check that every object that is there already was written by magnet.

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

    def put(
        self, path: Path, tags: Mapping[str, str], *, check: Callable[[], None] = unchecked, attempts: int = ATTEMPTS
    ) -> str:
        """Write a file to the bucket, unless it is there already, and return the version of the object.

        Args:
            path: The local file.
            tags: The tags of the object besides the hash of its bytes.
            check: Is called directly before the object appears. What it raises ends the writing.
            attempts: The object is written at most so often, where others write it at the same time.

        Raises:
            OutputError: An object of another program is in the way, or the service fails.
        """
        key, every = self.key(path), self.tags(path, tags)
        found = self.ours(key)
        if found is not None and found.tags == every and found.size == path.stat().st_size:
            return found.version
        try:
            return self.bucket.put(key, path, every, replaces=found, check=check)
        except ChangedObjectError:
            # Another command has written the object since. If `check` lets this one go on, the other one ends.
            check()
            if attempts == 1:
                raise
        return self.put(path, tags, check=check, attempts=attempts - 1)

    def has(self, path: Path, tags: Mapping[str, str]) -> bool:
        """Return whether an object is the one that `put` writes."""
        found = self.ours(self.key(path))
        return found is not None and found.tags == self.tags(path, tags) and found.size == path.stat().st_size

    @staticmethod
    def tags(path: Path, tags: Mapping[str, str]) -> dict[str, str]:
        """Return all tags of the object that a local file becomes."""
        return {SUM: file_sum(path), **tags}

    def move(self, path: Path) -> None:
        """Write a file to the bucket, and delete the local file."""
        self.put(path, {})
        path.unlink()


def file_sum(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
