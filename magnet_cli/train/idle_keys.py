"""Keys that a configuration states although they have no effect: they are refused, because their author expects one.

Only what the file states counts, not the default of a key. A value that asks for nothing is accepted, such as
`colour = 0.0` where no window is drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, kw_only=True)
class IdleKeys:
    """Keys of a table that have no effect, for one reason."""

    table: str
    """The name of the table, like `folds.loop`."""
    keys: tuple[str, ...]
    why: str
    """The reason: the rest of a sentence that begins with the keys and `no effect`."""
    advice: str = ""
    """What to do instead of removing the keys."""
    neutral: tuple[tuple[str, object], ...] = ()
    """Values that ask for nothing, by key."""


def refuse_idle(given: Mapping[str, Any], idle: Iterable[IdleKeys]) -> None:
    """Refuse keys that have no effect where a configuration states them.

    Args:
        given: The configuration as the file states it.
        idle: Keys without an effect.

    Raises:
        UsageError: The file states such a key, with a value that asks for something.
    """
    for entry in idle:
        table: Any = given
        for name in entry.table.split("."):
            table = table.get(name, {})
        stated = [key for key in entry.keys if key in table and (key, table[key]) not in entry.neutral]
        if stated:
            one = len(stated) == 1
            raise UsageError(
                f"[{entry.table}] {' and '.join(stated)} {'has' if one else 'have'} no effect {entry.why}",
                value=", ".join(f"{key} = {_toml(table[key])}" for key in stated),
                advice=f"Remove the {'key' if one else 'keys'}{entry.advice and ', or '}{entry.advice}",
            )


def _toml(value: object) -> str:
    """Return a value as TOML writes it, or nearly so for tables."""
    return json.dumps(value, ensure_ascii=False, default=str)
