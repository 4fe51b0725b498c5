"""A mask that is still being computed, read from its journal and from the pieces of its parts without a lock."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from magnet_cli.errors import OutputError
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.masks import records
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import StoredGroups
from magnet_cli.masks.our_files import is_journal
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.pieces import PieceFolder, groups_in_piece
from magnet_cli.masks.records import MAGIC, Kind, Record
from magnet_cli.masks.replay import LABELS
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY, GroupId
from magnet_cli.system import durable
from magnet_cli.system.closing import Closing, undone_on_failure

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.masks.spec import FieldSpec, MaskSpec

OTHER_VERSION = "Use the version of magnet that computes the mask, or wait until its run has ended"
BEGUN_ADVICE = "Try again in a moment"
PASS_FIELD = re.compile(r"pass(\d{1,9})(-[01]{2})?")
"""Names of the fields in which `segment` keeps the blocks of a pass."""


@dataclass(frozen=True, kw_only=True)
class MaskProgress:
    """How far the computation of a mask has come."""

    finished: tuple[int, ...]
    """The number of finished groups in each pass, as far as the number of passes is known."""
    groups: tuple[int, ...] | None
    """The number of groups in each pass. None until a group is finished, and for runs of older versions."""
    is_ended: bool
    """Whether every group is finished, so that only the file of the mask is missing."""
    is_running: bool | None
    """Whether a process of this machine writes the journal. None where the system does not say."""
    changed_at: float
    """The time of the last change of the files, in seconds since the epoch."""
    problem: str | None
    """A sentence about damage that was met; None without any."""


@dataclass(frozen=True, kw_only=True)
class FieldChunk:
    """A chunk of a field for which something was stored."""

    name: str
    """The name of the field."""
    box: Box
    """The chunk's box on the field's grid. It may reach beyond the grid."""
    level0: Box
    """The level-0 pixels under it. They may reach beyond the image."""


@dataclass(frozen=True, kw_only=True)
class CoarsePass:
    """A pass before the last one, which leaves probabilities in fields and no labels."""

    number: int
    """Number of the pass, 0 being the first (coarsest) of the run."""
    scale: str
    """The finest scale of the pass, as `--scales` takes it."""
    fields: tuple[str, ...]
    """The names of the fields that hold its blocks. No two blocks of a field have a pixel in common."""
    size: Size
    """The size of their grid."""
    pitch: Pitch
    """Level-0 pixels that a value of the grid covers."""


def is_unfinished(mask: Path) -> bool:
    """Return whether a mask has no file yet, and has the journal or the pieces of a run that computes it."""
    return not mask.exists() and (is_journal(OutputPaths.of(mask).journal) or PieceFolder.of(mask).exists)


def pass_of(field: str) -> int | None:
    """Return the number of the pass whose blocks a field holds, by its name; None for a field of another kind."""
    found = PASS_FIELD.fullmatch(field)
    return None if found is None else int(found[1])


class UnfinishedMask(Closing):
    """The groups of a mask that are finished so far. `refresh` reads what was added since.

    Tiles may be read by several threads, also during `refresh`, which one thread calls at a time.

    Args:
        mask: The path that the mask will have.
    """

    def __init__(self, mask: Path) -> None:
        self.path = mask
        self._paths = OutputPaths.of(mask)
        self._folder = PieceFolder.of(mask)
        self._groups = self._opened()
        self._before: list[_GrowingGroups] = []

    @classmethod
    def open(cls, mask: Path) -> Self:
        """Open what there is of a mask, without reading it yet.

        Raises:
            OutputError: No part of the mask exists yet, or its files are of another version, damaged or unreadable.
        """
        return cls(mask)

    @property
    def header(self) -> JournalHeader:
        """What the journal belongs to; the tags of the mask's place are missing in it."""
        return self._groups.header

    @property
    def spec(self) -> MaskSpec:
        """The mask that will be made."""
        return self._groups.spec

    def tile(self, row: int, col: int) -> NDArray[np.uint8]:
        """Return the labels of a tile, `(tile, tile)` uint8; 255 where no finished group has stored any.

        Raises:
            OutputError: A record is damaged.
        """
        return self._groups.tile(row, col)

    def coarse_passes(self) -> tuple[CoarsePass, ...]:
        """Return the passes before the last one whose fields the journal has.

        It is empty until a group is finished, and for the runs of older versions, which do not name their scales.
        """
        found = []
        for number, scale in enumerate(self._groups.noted("scales")[:-1]):
            fields = [each for each in self.header.fields if pass_of(each.name) == number]
            if fields and all(each.size == fields[0].size for each in fields):
                names = tuple(each.name for each in fields)
                first = fields[0]
                found.append(
                    CoarsePass(number=number, scale=str(scale), fields=names, size=first.size, pitch=first.pitch)
                )
        return tuple(found)

    def kept_field(self, name: str) -> FieldSpec | None:
        """Return a field that the run keeps beside the mask; None where it keeps none of this name."""
        found = next((each for each in self.header.fields if each.name == name), None)
        return found if self.is_kept(name) else None

    @staticmethod
    def is_kept(field: str) -> bool:
        """Return whether a field of this name stays beside the finished mask."""
        return field in (PROBABILITIES, UNCERTAINTY)

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        """Return the values of a field in a box of its grid, as `StoredGroups.read_field` does."""
        return self._groups.read_field(name, box)

    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        """Return the values of a field in a box of its grid in the stored type, 255 for no value where it is uint8."""
        return self._groups.read_stored_field(name, box)

    def changed_chunks(self) -> set[FieldChunk]:
        """Return the chunks of fields for which something was stored since the last call, as `refresh` has read it."""
        return self._groups.changed_chunks()

    def refresh(self, seconds: float) -> tuple[set[tuple[int, int]], bool]:
        """Read what was added to the files, for a limited time.

        Returns:
            The row and column of each tile with new labels, and whether everything was read that is there.

        Raises:
            OutputError: The run was begun anew with another mask, so that this object has to be opened again; or a file
                cannot be read.
        """
        until = time.monotonic() + seconds
        changed: set[tuple[int, int]] = set()
        if self._is_replaced():
            groups = self._opened()
            mine, other = self.header.facts(), groups.header.facts()
            if any(mine[key] != other[key] for key in ("mask", "fields")):
                groups.close()
                raise OutputError(
                    "the run was begun anew with another mask", file=self.path, advice="View the mask again"
                )
            # Other threads may be reading a tile from the old journal, so it is closed with this object.
            self._before.append(self._groups)
            changed = self._groups.stored
            groups.chunks |= self._groups.stored_chunks
            self._groups = groups
        is_whole = self._groups.follow(until)
        is_whole = self._groups.attach_pieces(self._pieces(), until) and is_whole
        return changed | self._groups.changes(), is_whole

    def progress(self) -> MaskProgress:
        """Return how far the computation has come, as `refresh` has read it."""
        totals = self._groups.totals()
        counts = self._groups.counts()
        passes = len(totals) if totals else max(counts, default=-1) + 1
        return MaskProgress(
            finished=tuple(counts[number] for number in range(passes)),
            groups=totals,
            is_ended=self._groups.is_ended or (bool(totals) and sum(counts.values()) >= sum(totals or ())),
            is_running=self._groups.is_locked(),
            changed_at=self._changed_at(),
            problem=self._groups.problem,
        )

    @override
    def close(self) -> None:
        """Close the files."""
        for groups in (*self._before, self._groups):
            groups.close()

    def _opened(self) -> _GrowingGroups:
        journal, pieces = self._paths.journal, self._pieces()
        if is_journal(journal):
            file = _GrowingFile.open(journal)
            with undone_on_failure(file.close):
                first = file.header()
                return _GrowingGroups(
                    JournalHeader.parse(first.payload, file=journal), facts=first.payload, file=file, start=first.end
                )
        for path in pieces:
            with _GrowingFile.open(path) as file:
                payload = file.header().payload
            return _GrowingGroups(JournalHeader.parse(payload, file=path), facts=payload)
        raise OutputError("the run of this mask has only begun", file=self.path, advice=BEGUN_ADVICE)

    def _pieces(self) -> list[Path]:
        return self._folder.pieces() if self._folder.exists else []

    def _is_replaced(self) -> bool:
        return is_journal(self._paths.journal) and not self._groups.is_of(self._paths.journal)

    def _changed_at(self) -> float:
        found = self._groups.changed_at()
        try:
            pieces = self._folder.path.stat().st_mtime
        except OSError:
            pieces = 0.0
        return max(found, pieces)


class _GrowingFile(Closing):
    """A journal that another process may be writing, opened for reading."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._is_closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        try:
            return cls(path, durable.open_for_reading(path))
        except OSError as exc:
            raise OutputError(
                "the journal cannot be read", value=exc.strerror, file=path, advice="Check who may read it"
            ) from exc

    def header(self) -> Record:
        """Return the first record.

        Raises:
            OutputError: The record is not there yet, damaged, or of another version.
        """
        head = durable.read_at(self.descriptor, len(MAGIC), 0)
        if head != MAGIC and not MAGIC.startswith(head.rstrip(b"\0")):
            raise OutputError(
                "this journal was written by another version of magnet, whose form this one does not read",
                value=f"version {head[-1]}, and this one reads {MAGIC[-1]}",
                file=self.path,
                advice=OTHER_VERSION,
            )
        record = records.read(self.descriptor, len(MAGIC)) if head == MAGIC else None
        if record is None and (head != MAGIC or records.torn(self.descriptor, len(MAGIC))):
            raise OutputError("the run of this mask has only begun", file=self.path, advice=BEGUN_ADVICE)
        if record is None or record.kind is not Kind.HEADER or not record.intact:
            raise OutputError(
                "the header of this journal is damaged",
                file=self.path,
                advice="Check the disk; compute the mask again with --no-resume",
            )
        return record

    def read(self, start: int) -> Record:
        """Return the record at an offset.

        Raises:
            OutputError: Its checksum does not hold.
        """
        record = records.read(self.descriptor, start)
        if record is None or not record.intact:
            raise OutputError(
                "the journal is damaged",
                value=f"record at byte {start}",
                file=self.path,
                advice="Check the disk; compute the mask again with --no-resume",
            )
        return record

    @override
    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self.descriptor)


class _GrowingGroups(StoredGroups):
    """The finished groups of one journal and of the pieces beside it.

    Args:
        header: What they belong to.
        facts: The header as it is stored.
        file: The journal; None where there are only pieces. It is closed with this object.
        start: The offset behind the header.
    """

    def __init__(
        self, header: JournalHeader, *, facts: bytes, file: _GrowingFile | None = None, start: int = 0
    ) -> None:
        super().__init__(header, file)
        self.problem: str | None = None
        self.stored: set[tuple[int, int]] = set()
        """The row and column of each tile of which something was read."""
        self.chunks: set[tuple[int, int]] = set()
        """Field and cell of each chunk with new values that nobody has asked for yet."""
        self.stored_chunks: set[tuple[int, int]] = set()
        """Field and cell of each chunk of which something was read."""
        self._catalogue.changed = set()
        self._facts: dict[str, Any] = json.loads(facts)
        self._file = file
        self._end = start
        self._last = (0, b"") if file is None else (len(MAGIC), self._head(len(MAGIC)))
        self._known: set[str] = set()
        self._notes: dict[str, Any] | None = None

    @property
    def is_ended(self) -> bool:
        """Whether the journal says that every group is finished."""
        return self._catalogue.ended

    def is_of(self, path: Path) -> bool:
        """Return whether the journal at a path is this one, and still holds what was read of it."""
        if self._file is None:
            # The part that is last opens a journal for what the pieces hold, which adds nothing to see.
            return True
        start, head = self._last
        return durable.names(path, self._file.descriptor) and self._head(start) == head

    def follow(self, until: float) -> bool:
        """Read records that were appended to the journal, until a time of the monotonic clock.

        Returns:
            Whether all were read that can be.
        """
        if self._file is None:
            return True
        while time.monotonic() < until:
            record = records.read(self._file.descriptor, self._end)
            if record is None:
                return True
            if record.intact:
                with self._changing:
                    self._catalogue.take(replace(record, payload=b""))
            elif records.read(self._file.descriptor, record.end) is None:
                # The bytes of the last record may become visible one after another. Only what stands before another
                # record is damaged.
                return True
            else:
                self.problem = f"A record of the journal is damaged, at byte {record.start}."
            self._last = (record.start, self._head(record.start))
            self._end = record.end
        return False

    def attach_pieces(self, paths: list[Path], until: float) -> bool:
        """Read pieces that are new, until a time of the monotonic clock, and return whether all were read."""
        for path in paths:
            if path.name in self._known:
                continue
            if time.monotonic() >= until:
                return False
            number, groups = groups_in_piece(path)
            keys = [GroupId(pass_index=number, index=group) for group in groups]
            # The journal may just be storing one of these groups itself, and its records would be counted together.
            if any(self._catalogue.count(key) for key in keys):
                continue
            self._known.add(path.name)
            try:
                self._attach_piece(path)
            except OutputError as error:
                self.problem = f"A piece of the mask cannot be used: {error}."
                for key in keys:
                    self._catalogue.drop(key)
        return True

    def _attach_piece(self, path: Path) -> None:
        for number, record in enumerate(self._files.add(path)):
            if number == 0:
                self._check_piece(record, path)
            elif record.kind is not Kind.END:
                with self._changing:
                    self._catalogue.take(replace(record, payload=b""))

    def _check_piece(self, record: Record, path: Path) -> None:
        found = json.loads(record.payload) if record.kind is Kind.HEADER else {}
        known = self._facts["hashes"]
        hashes = found.get("hashes", {})
        differs = any(hashes[name] != known[name] for name in hashes.keys() & known.keys())
        if differs or any(found.get(name) != self._facts[name] for name in ("schema", "mask", "fields")):
            raise OutputError(
                "it belongs to another run", file=path, advice="Move it away, or wait until its run has ended"
            )

    def changes(self) -> set[tuple[int, int]]:
        """Return the row and column of each tile that got labels since the last call."""
        columns = self.spec.tiles.width
        with self._changing:
            changed = self._catalogue.changed or set()
            self._catalogue.changed = set()
            chunks = {(layer, cell) for layer, cell in changed if layer != LABELS}
            self.chunks |= chunks
            self.stored_chunks |= chunks
        found = {divmod(cell, columns) for layer, cell in changed if layer == LABELS}
        self.stored |= found
        return found

    def changed_chunks(self) -> set[FieldChunk]:
        """Return the chunks of fields that got values since the last call, as far as `changes` has noted them."""
        with self._changing:
            chunks, self.chunks = self.chunks, set()
        found = set()
        for number, cell in chunks:
            entry = self._header.fields[number]
            row, column = divmod(cell, entry.chunks.width)
            box = Box(x=column * entry.side, y=row * entry.side, width=entry.side, height=entry.side)
            found.add(FieldChunk(name=entry.name, box=box, level0=entry.pitch.level0(box)))
        return found

    def totals(self) -> tuple[int, ...] | None:
        """Return the number of groups in each pass, which each group names; None where it is not known."""
        found = self.noted("groups")
        return tuple(each for each in found if isinstance(each, int)) or None

    def noted(self, key: str) -> tuple[object, ...]:
        """Return a list that every group's record holds; empty where it is not known, or no group is finished."""
        if self._notes is None:
            with self._changing:
                start = next(iter(self._catalogue.finished.values()), None)
            if start is None:
                return ()
            self._notes = json.loads(self._files.read(start).payload)
        found = self._notes.get(key)
        return tuple(found) if isinstance(found, list) else ()

    def counts(self) -> Counter[int]:
        """Return the number of finished groups in each pass."""
        with self._changing:
            return Counter(key.pass_index for key in self._catalogue.finished)

    def is_locked(self) -> bool | None:
        """Return whether a process of this machine owns the journal; None where that is not known."""
        return None if self._file is None else durable.is_locked(self._file.descriptor)

    def changed_at(self) -> float:
        """Return the time of the journal's last change, in seconds since the epoch."""
        return 0.0 if self._file is None else os.fstat(self._file.descriptor).st_mtime

    @override
    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()

    def _head(self, start: int) -> bytes:
        assert self._file is not None  # noqa: S101 - callers have checked it
        return durable.read_at(self._file.descriptor, records.HEAD.size, start)
