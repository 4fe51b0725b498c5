"""Tables as the documents have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)) + "\n"


def number(value: float | None, digits: int = 1) -> str:
    """With a fixed number of decimals; a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"
