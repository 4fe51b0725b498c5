"""The index of a journal, which knows where the pieces of each tile lie: a few bytes a piece, no payloads."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from magnet_cli.geometry import Box


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A stored part of a tile or chunk. Ordered by group, then by age, so that joining does not depend on timing."""

    pass_index: int
    group: int
    start: int
    """Offset of its record."""
    box: Box
    """The piece's box, counted from the tile's first pixel."""
    whole: bool
    """Whether the payload is the whole tile as the mask's file holds it."""


class PieceIndex:
    """The pieces of every cell of a grid; grows by about thirty bytes a piece and eight a cell."""

    def __init__(self, cells: int) -> None:
        self._newest = array("q", [-1]) * cells
        self._older = array("q")
        self._start = array("q")
        self._group = array("Q")
        self._box = array("Q")

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._start)

    @property
    def nbytes(self) -> int:
        """Memory that the index holds."""
        columns = (self._newest, self._older, self._start, self._group, self._box)
        return sum(column.itemsize * len(column) for column in columns)

    def add(self, cell: int, piece: Piece) -> None:
        """Note a piece; the caller keeps two threads from doing so at once."""
        box = piece.box
        self._start.append(piece.start)
        # Fields are packed into 64-bit numbers: an object a piece would take hundreds of bytes, and a gigapixel run has
        # millions of pieces.
        self._group.append(piece.pass_index << 33 | piece.group << 1 | piece.whole)
        self._box.append(box.x << 48 | box.y << 32 | box.width << 16 | box.height)
        self._older.append(self._newest[cell])
        self._newest[cell] = len(self._start) - 1

    def at(self, cell: int, *, within: Box | None = None) -> list[Piece]:
        """Return the pieces of a cell in the order in which they are to be laid down.

        Args:
            cell: Number of the cell, counted row by row.
            within: Pieces that have no pixel in this box, counted from the cell's own first pixel, are left out.
        """
        pieces = []
        row = self._newest[cell]
        while row >= 0:
            if within is None or self._touches(row, within):
                pieces.append(self._piece(row))
            row = self._older[row]
        # The order in which groups were finished depends on threads and interruptions. Sorted pieces make the mask
        # independent of it.
        return sorted(pieces, key=lambda piece: (piece.pass_index, piece.group, piece.start)) if pieces[1:] else pieces

    def _touches(self, row: int, box: Box) -> bool:
        """Return whether a piece has a pixel in a box; hundreds of pieces are asked where blocks are small."""
        own = self._box[row]
        x, y = own >> 48, own >> 32 & 0xFFFF
        return (
            x < box.x + box.width
            and y < box.y + box.height
            and box.x < x + (own >> 16 & 0xFFFF)
            and box.y < y + (own & 0xFFFF)
        )

    def _piece(self, row: int) -> Piece:
        group, box = self._group[row], self._box[row]
        return Piece(
            pass_index=group >> 33,
            group=group >> 1 & 0xFFFFFFFF,
            start=self._start[row],
            box=Box(x=box >> 48, y=box >> 32 & 0xFFFF, width=box >> 16 & 0xFFFF, height=box & 0xFFFF),
            whole=bool(group & 1),
        )
