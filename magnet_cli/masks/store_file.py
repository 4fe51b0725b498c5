"""The journal as a file: one owner, appending, checked reading, flushing now and then."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from magnet_cli.errors import OutputError
from magnet_cli.masks import records
from magnet_cli.system import durable

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED_ADVICE = "Check the disk; run the same command with --no-resume to compute everything anew."


@dataclass(frozen=True, kw_only=True)
class SyncPolicy:
    """Limits on what may be finished and not yet flushed to the disk, which a power cut could cost."""

    groups: int = 16
    seconds: float = 5.0


class StoreFile:
    """An open, locked file of records. Appending and reading are safe from several threads."""

    def __init__(self, path: Path, *, descriptor: int, sync: SyncPolicy) -> None:
        self.path = path
        self.descriptor = descriptor
        self.end = os.fstat(descriptor).st_size
        self._sync = sync
        self._unsynced = 0
        self._synced_at = time.monotonic()
        self._appending = threading.Lock()
        self._failed = False
        self._closed = False

    @classmethod
    def own(cls, path: Path, *, sync: SyncPolicy) -> Self:
        """Open or make the file at `path` and become its owner.

        Raises:
            OutputError: Another process has locked it, or the folder refuses it.
        """
        with durable.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = durable.open_for_append(path)
                if not _lock(descriptor, path):
                    os.close(descriptor)
                    raise OutputError(
                        durable.BUSY,
                        file=path,
                        advice="Wait until the other run ends, or choose another output.",
                    )
                # The owner before may have removed the file between our opening and our locking it.
                if not durable.names(path, descriptor):
                    os.close(descriptor)
                    continue
                if not records.begins_journal(durable.read_at(descriptor, len(records.MAGIC), 0)):
                    os.close(descriptor)
                    raise OutputError(
                        "this file is in the way of a journal, and magnet has not written it: it is not replaced",
                        file=path,
                        advice="Move it away, or choose another output",
                    )
                return cls(path, descriptor=descriptor, sync=sync)

    def peek(self, length: int) -> bytes:
        """Return the first bytes of the file."""
        with durable.writing(self.path):
            return durable.read_at(self.descriptor, length, 0)

    def cut(self, end: int) -> None:
        """Drop everything from offset `end` on."""
        with durable.writing(self.path):
            os.ftruncate(self.descriptor, end)
            self.end = end

    def start(self, header: bytes) -> None:
        """Begin an empty file with its magic word and header, on the disk when this returns."""
        self.cut(0)
        with durable.writing(self.path):
            durable.write_at(self.descriptor, records.MAGIC, 0)
            self.end = len(records.MAGIC)
            self.append(records.pack(records.Kind.HEADER, payload=header))
            durable.sync_data(self.descriptor)
            # Without the folder a power cut may take the name of the file, although its content is on the disk.
            durable.sync_folder(self.path.parent)

    def append(self, record: bytes) -> int:
        """Write a record behind the last one and return its offset.

        Raises:
            OutputError: The disk refuses it; what stood before is kept and the journal takes no more.
        """
        with self._appending:
            if self._failed:
                raise OutputError(
                    "an earlier write to the journal failed",
                    file=self.path,
                    advice="Check the disk, then run the same command again: what was finished is kept",
                )
            start = self.end
            try:
                with durable.writing(self.path):
                    durable.write_at(self.descriptor, record, start)
            except OutputError:
                self._failed = True
                # A record that was written in part would end what a replay can read. If the cut fails too, replay finds
                # a torn tail.
                with contextlib.suppress(OSError):
                    os.ftruncate(self.descriptor, start)
                raise
            self.end = start + len(record)
        return start

    def read(self, start: int) -> records.Record:
        """Return the record at an offset.

        Raises:
            OutputError: Its checksum does not hold.
        """
        with durable.writing(self.path):
            record = records.read(self.descriptor, start)
        if record is None or not record.intact:
            raise OutputError(
                "the journal is damaged", value=f"record at byte {start}", file=self.path, advice=DAMAGED_ADVICE
            )
        return record

    def flush(self, *, force: bool = True) -> None:
        """Flush appended records to the disk, so that they survive a power cut.

        Args:
            force: Whether the records are flushed now. False counts one more finished group, and flushes only when
                `SyncPolicy` asks for it.

        Raises:
            OutputError: The journal was removed or replaced, or the disk refuses it.
        """
        if not self.is_there:
            raise OutputError(
                "the journal was removed or replaced while the run wrote it, and what was computed is lost with it",
                file=self.path,
                advice="Check that the output folder is still there, then run the same command again",
            )
        with self._appending:
            self._unsynced += 1
            # Flushing after every group would make each one wait for the disk. A kill loses nothing that was written;
            # only a power cut can take the groups since the last flush.
            due = self._unsynced >= self._sync.groups or time.monotonic() - self._synced_at >= self._sync.seconds
            # The flush itself happens outside the lock, so that other threads may append during it.
            if not (due or force):
                return
            self._unsynced = 0
            self._synced_at = time.monotonic()
        with durable.writing(self.path):
            durable.sync_data(self.descriptor)

    @property
    def is_there(self) -> bool:
        """Whether a later run would find the file under its name."""
        try:
            return not self._closed and durable.names(self.path, self.descriptor)
        except OSError:
            return False

    def close(self) -> None:
        """Flush and unlock the file, which stays for a later run."""
        if not self._closed:
            self._closed = True
            try:
                with durable.writing(self.path):
                    durable.sync_data(self.descriptor)
            finally:
                os.close(self.descriptor)

    def set_aside(self) -> Path:
        """Rename the file so that no run resumes it, unlock it, and return its new path."""
        stem = self.path.name.removesuffix(".journal")
        names = (f"{stem}.changed{number}.journal" for number in ("", *range(2, 1000)))
        target = next(path for path in map(self.path.with_name, names) if not path.exists())
        with durable.writing(self.path):
            durable.rename_owned(self.path, target, self.close)
        return target

    def remove(self) -> None:
        """Delete and unlock the file. Another file that has got its name since then stays."""
        if not self.is_there:
            self.close()
        else:
            with durable.writing(self.path):
                durable.remove_owned(self.path, self.close)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        return durable.lock(descriptor)
    except OSError as exc:
        os.close(descriptor)
        raise OutputError(
            "this file system cannot lock the journal",
            value=exc.strerror,
            file=path,
            advice="Write to a local disk and copy the result.",
        ) from exc
