"""Reading a field out of a journal: any box, joined from the chunks of finished groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec
from magnet_cli.masks.spec import FieldSpec, Part, parts
from magnet_cli.system.byte_cache import ByteCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box
    from magnet_cli.masks.index import Piece
    from magnet_cli.masks.journal_files import JournalFiles
    from magnet_cli.masks.replay import Catalogue


class FieldReader:
    """Joins chunks; keeps the latest decoded ones, up to a number of bytes."""

    def __init__(
        self, store: JournalFiles, *, catalogue: Catalogue, fields: tuple[FieldSpec, ...], cache_bytes: int
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._fields = fields
        self.cache: ByteCache[NDArray[np.generic]] = ByteCache(cache_bytes, size=lambda values: values.nbytes)

    def read(self, number: int, *, box: Box) -> NDArray[np.generic]:
        """Return the stored values in a box inside a field's grid, `(bands, height, width)`.

        Places without stored values have NaN or 255.
        """
        entry = self._fields[number]
        dtype = np.dtype(entry.dtype)
        out = np.full((entry.bands, box.height, box.width), NODATA if dtype == np.uint8 else np.nan, dtype=dtype)
        for part in parts(box, entry.side):
            pieces = self._catalogue.pieces(number, part.row, part.col, within=part.inner)
            share = out[:, *part.box.shifted(x=-box.x, y=-box.y).slices] if pieces else out
            for piece in pieces:
                self._lay(piece, part=part, entry=entry, out=share)
        return out

    def _lay(self, piece: Piece, *, part: Part, entry: FieldSpec, out: NDArray[np.generic]) -> None:
        """Copy the values of a piece into `out`, which holds the wanted part of a chunk.

        Args:
            piece: A stored piece of the chunk, which overlaps the wanted part.
            part: The wanted part of the chunk.
            entry: The field.
            out: The values of the wanted part, `(bands, height, width)`, which are changed.
        """
        held, wanted = piece.box, part.inner
        common = held.intersection(wanted)
        left, top, right, bottom = common.x, common.y, common.right, common.bottom
        values = self._decoded(piece, entry=entry)[:, top - held.y : bottom - held.y, left - held.x : right - held.x]
        target = out[:, top - wanted.y : bottom - wanted.y, left - wanted.x : right - wanted.x]
        if entry.join == "largest":
            # 255 stands for nothing known; one more wraps it to 0, below every value.
            wins = values.astype(np.uint8) + np.uint8(1) > target.astype(np.uint8) + np.uint8(1)
            values = np.where(wins, values, target)
        target[:] = values

    def _decoded(self, piece: Piece, *, entry: FieldSpec) -> NDArray[np.generic]:
        def decode() -> NDArray[np.generic]:
            payload = self._store.read(piece.start).payload
            shape = (entry.bands, piece.box.height, piece.box.width)
            return codec.decode_chunk(payload, shape=shape, dtype=entry.dtype)

        # The offset identifies a record for the life of the journal: records are never moved or overwritten.
        return self.cache.get(piece.start, decode)
