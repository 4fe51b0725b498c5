"""Reading a journal back: which groups are finished, where their pieces lie, and where a torn tail begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.geometry import Box
from magnet_cli.masks.index import Piece, PieceIndex
from magnet_cli.masks.records import FIELD_META, GROUP_META, MAGIC, TILE_META, Kind, read, scan, torn
from magnet_cli.masks.spec import GroupId
from magnet_cli.masks.store_file import DAMAGED_ADVICE
from magnet_cli.system import durable

if TYPE_CHECKING:
    from magnet_cli.masks.header import JournalHeader
    from magnet_cli.masks.records import Record
    from magnet_cli.masks.store_file import StoreFile

LABELS = -1
"""Stands for the mask where a field's number would stand."""


class Catalogue:
    """The offsets of all records in a journal. The pieces of a group are readable only once the group is finished.

    One thread at a time may change a catalogue.
    """

    def __init__(self, header: JournalHeader) -> None:
        tiles = header.spec.tiles
        self.layers = {LABELS: PieceIndex(tiles.pixels)}
        self.columns = {LABELS: tiles.width}
        for number, entry in enumerate(header.fields):
            self.layers[number] = PieceIndex(entry.chunks.pixels)
            self.columns[number] = entry.chunks.width
        self.finished: dict[GroupId, int] = {}
        """Offset of the record that ends a group."""
        self.ended = False
        self.changed: set[tuple[int, int]] | None = None
        """Layer and cell of each piece whose group was finished since the set was emptied; None if unused."""
        self._pending: dict[GroupId, list[tuple[int, int, Piece]]] = {}

    def take(self, record: Record) -> None:
        """Take an intact record into the index."""
        match record.kind:
            case Kind.TILE:
                pass_index, group, row, col, x, y, width, height, whole = TILE_META.unpack(record.meta)
                piece = Piece(pass_index, group, record.start, Box(x=x, y=y, width=width, height=height), bool(whole))
                self.add(LABELS, row * self.columns[LABELS] + col, piece)
            case Kind.FIELD:
                pass_index, group, number, row, col, x, y, width, height = FIELD_META.unpack(record.meta)
                piece = Piece(pass_index, group, record.start, Box(x=x, y=y, width=width, height=height), whole=False)
                self.add(number, row * self.columns[number] + col, piece)
            case Kind.GROUP:
                pass_index, group, count = GROUP_META.unpack(record.meta)
                key = GroupId(pass_index=pass_index, index=group)
                # A record of the group was damaged if the numbers differ. The group is then computed again.
                # Another file may have the same group with the same values, after parts were cut anew.
                if self.count(key) == count and key not in self.finished:
                    self.finish(key, start=record.start)
                self.drop(key)
            case Kind.DROP:
                pass_index, group, _ = GROUP_META.unpack(record.meta)
                self.drop(GroupId(pass_index=pass_index, index=group))
            # The process before may have been killed in the middle of groups.
            case Kind.OPENED:
                self._pending.clear()
            case Kind.END:
                self.ended = True

    def add(self, layer: int, cell: int, piece: Piece) -> None:
        """Note a piece of a group that is not finished."""
        key = GroupId(pass_index=piece.pass_index, index=piece.group)
        self._pending.setdefault(key, []).append((layer, cell, piece))

    def count(self, group: GroupId) -> int:
        """Return the pieces noted since the group was begun."""
        return len(self._pending.get(group, ()))

    def finish(self, group: GroupId, *, start: int) -> None:
        """Mark a group as finished, so that its pieces can be read. Its last record lies at the offset `start`."""
        for layer, cell, piece in self._pending.pop(group, []):
            self.layers[layer].add(cell, piece)
            if self.changed is not None:
                self.changed.add((layer, cell))
        self.finished[group] = start

    def drop(self, group: GroupId) -> None:
        """Forget the pieces of a group that is not finished."""
        self._pending.pop(group, None)

    def pieces(self, layer: int, row: int, col: int, *, within: Box | None = None) -> list[Piece]:
        """Return the pieces of a cell, or those of them in a box, in the order in which they are to be laid down."""
        return self.layers[layer].at(row * self.columns[layer] + col, within=within)


def find_header(store: StoreFile, *, header: JournalHeader, overwrite: bool) -> Record | None:
    """Return the header record of a journal that a run with `header` can resume; None where it starts a new journal.

    Raises:
        OutputError: The file is something else or belongs to something else, and must not be overwritten.
    """
    try:
        record = first_record(store)
        if record is not None:
            header.check(record.payload, file=store.path)
    except OutputError:
        if overwrite:
            return None
        raise
    return record


def replay(store: StoreFile, catalogue: Catalogue, *, start: int) -> tuple[str, ...]:
    """Add all records after the offset `start` to a catalogue, and truncate the file where no record can be read.

    Returns:
        Sentences that tell a user which records are damaged. A record that a killed process did not complete is none.
    """
    end, repairs = start, []
    with durable.writing(store.path):
        for record in scan(store.descriptor, start):
            end = record.end
            if record.intact:
                catalogue.take(record)
            else:
                repairs.append(f"{store.path}: record at byte {record.start} is damaged, its group is computed again")
        if end < store.end:
            # A tail without an end is what a kill or a power cut leaves, and needs no message. Anything else is damage
            # to what had been written.
            if not torn(store.descriptor, end):
                repairs.append(f"{store.path}: damaged from byte {end} on, groups stored there are computed again")
            # New records must not stand behind bytes that cannot be read: no later replay would reach them.
            store.cut(end)
    return tuple(repairs)


def first_record(store: StoreFile) -> Record | None:
    """Return the header record; None where the file ends inside it, so that no work is stored behind it.

    Raises:
        OutputError: The file is no journal of this version, or its header is damaged.
    """
    if not MAGIC.startswith(store.peek(len(MAGIC))):
        raise OutputError(
            "this file is no journal of this program's version",
            file=store.path,
            advice="Move it away, or start anew with --overwrite or --no-resume.",
        )
    record = read(store.descriptor, len(MAGIC))
    if record is not None and record.kind is Kind.HEADER and record.intact:
        return record
    if record is not None or not torn(store.descriptor, len(MAGIC)):
        raise OutputError("the journal's header is damaged", file=store.path, advice=DAMAGED_ADVICE)
    return None
