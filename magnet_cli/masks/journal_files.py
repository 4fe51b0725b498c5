"""The file of a journal and files that other parts of the same run have left, read as one."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from magnet_cli.errors import OutputError
from magnet_cli.masks import records
from magnet_cli.masks.store_file import DAMAGED_ADVICE
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magnet_cli.masks.records import Record

SPAN = 1 << 44
"""Offsets that each file has: the record at byte b of file n has the offset `n * SPAN + b`. File 0 is the own one."""
MOST_OPEN = 32
"""Files of other parts that are open at a time."""


class RecordFile(Protocol):
    """An opened file of records."""

    def read(self, start: int) -> Record:
        """Return the record at an offset.

        Raises:
            OutputError: Its checksum does not hold.
        """


class JournalFiles:
    """Records of several files by their offsets. Every method is safe from several threads.

    Args:
        own: The file that the journal writes, or that grows while it is read; None where there are only those of
            others, which are whole.
    """

    def __init__(self, own: RecordFile | None) -> None:
        self._own = own
        self._paths: list[Path] = []
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, path: Path) -> Iterator[Record]:
        """Add a file, and yield its records with their offsets among those of all files.

        Raises:
            OutputError: The file cannot be read, or is no whole journal.
        """
        with self._lock:
            self._paths.append(path)
            number = len(self._paths)
        with durable.writing(path), self._lock:
            size = os.fstat(self._descriptor(number)).st_size
        end = len(records.MAGIC)
        while end < size:
            record = self._read(number, end)
            end = record.end
            yield replace(record, start=number * SPAN + record.start)

    def read(self, start: int) -> Record:
        """Return the record at an offset.

        Raises:
            OutputError: Its checksum does not hold.
        """
        number, offset = divmod(start, SPAN)
        if number or self._own is None:
            return self._read(number, offset)
        return self._own.read(offset)

    def close(self) -> None:
        """Close the files of other parts."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def _read(self, number: int, offset: int) -> Record:
        path = self._paths[number - 1]
        # The lock is held while a record is read, or another thread might close the file.
        with durable.writing(path), self._lock:
            record = records.read(self._descriptor(number), offset)
        if record is None or not record.intact:
            raise OutputError(
                "the piece is damaged", value=f"record at byte {offset}", file=path, advice=DAMAGED_ADVICE
            )
        return record

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            while len(self._open) >= MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = durable.open_for_reading(self._paths[number - 1])
        self._open.move_to_end(number)
        return self._open[number]
