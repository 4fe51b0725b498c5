"""Paths of neighbouring tiles are joined to chains, and chains to rings. Memory grows only with the open ends."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.exports.outlines import LEFT, RIGHT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.exports.corner_spool import CornerSpool
    from magnet_cli.exports.outlines import Path


@dataclass(kw_only=True, slots=True, eq=False)
class Chain:
    """An outline whose two ends are open."""

    entry: int
    exit: int
    pieces: array[int] = field(default_factory=lambda: array("Q"))
    """Numbers of its parts in the spool, in the order of the walk."""


class Chains:
    """Joins the paths of tiles that come row by row, each from left to right."""

    def __init__(self, spool: CornerSpool) -> None:
        self._spool = spool
        self._awaiting_exit: dict[int, Chain] = {}
        """Chains that lack the part before them, by the port where that part will leave its tile."""
        self._awaiting_entry: dict[int, Chain] = {}
        """Chains that lack the part behind them, by the port where that part will enter its tile."""

    def __len__(self) -> int:
        """Return the number of open ends."""
        return len(self._awaiting_exit) + len(self._awaiting_entry)

    def add(self, path: Path) -> NDArray[np.int32] | None:
        """Join a path to the chains whose ends it meets.

        Returns:
            The corners of a ring, `(n, 2)` int32, where the path closes one; else None.
        """
        chain = Chain(entry=path.entry, exit=path.exit)
        if len(path.points):
            chain.pieces.append(self._spool.put(path.points))
        chain = self._behind(chain)
        return self._closed(chain)

    def _behind(self, chain: Chain) -> Chain:
        """Return the chain with the part before it, which is known where it comes from the left or from above."""
        if chain.entry % 4 > RIGHT + 1:
            self._awaiting_exit[chain.entry] = chain
            return chain
        before = self._awaiting_entry.pop(chain.entry)
        # Only the numbers of pieces move. Corners stay in the spool, so memory grows with the open ends alone.
        before.pieces.extend(chain.pieces)
        before.exit = chain.exit
        return before

    def _closed(self, chain: Chain) -> NDArray[np.int32] | None:
        if chain.exit % 4 < LEFT:
            self._awaiting_entry[chain.exit] = chain
            return None
        after = self._awaiting_exit.pop(chain.exit)
        # The chain has met its own beginning: the outline is complete.
        if after is chain:
            return np.concatenate([self._spool.get(piece) for piece in chain.pieces])
        chain.pieces.extend(after.pieces)
        chain.exit = after.exit
        self._awaiting_entry[chain.exit] = chain
        return None
