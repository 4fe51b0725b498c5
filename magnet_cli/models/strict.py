"""Reading a JSON object key by key, so that a missing, unknown or wrong value is named with its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 2**20
"""Bytes of a description; more than any honest one has."""

MISSING = object()
"""A default that says: there is none."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different."""
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        message = f"key given twice: {next(key for key in keys if keys.count(key) > 1)}"
        raise ValueError(message)
    return table


def refused(word: str) -> NoReturn:
    """JSON has no NaN and no infinity, though Python would read them."""
    message = f"not a number of JSON: {word}"
    raise ValueError(message)


def parse_object(data: bytes, *, file: Path) -> Table:
    """The JSON object that a file holds.

    Raises:
        WeightsError: It is too large, no JSON, or no object.
    """
    if len(data) > LARGEST:
        raise WeightsError("a description is at most 1 MiB", value=len(data), file=file)
    try:
        table = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refused)
    except (ValueError, RecursionError) as exc:
        raise WeightsError(f"not a JSON description: {exc}", file=file) from exc
    if not isinstance(table, dict):
        raise WeightsError("the description must be a JSON object", value=type(table).__name__, file=file)
    return Table(table, file=file)


class Table:
    """A JSON object being read; `done` complains of the keys that nobody asked for.

    Args:
        table: The object.
        file: Where it stands, for messages.
        where: Its place in the file, as `networks.backbone`.
    """

    def __init__(self, table: dict[str, Any], *, file: Path, where: str = "") -> None:
        self.table, self.file, self.where = table, file, where
        self.asked: set[str] = set()

    def fail(self, key: str, rule: str, value: object = None) -> WeightsError:
        """An error that names the key's place."""
        return WeightsError(f"{self.place(key)} {rule}", value=value, file=self.file)

    def place(self, key: str) -> str:
        """The key's place in the file."""
        return f"{self.where}.{key}" if self.where else key

    def take(self, key: str, default: Any = MISSING) -> Any:
        """The value as JSON gave it."""
        self.asked.add(key)
        if key not in self.table and default is MISSING:
            raise self.fail(key, "is missing")
        return self.table.get(key, default)

    def text(self, key: str, default: Any = MISSING) -> str:
        """A string."""
        value = self.take(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "must be a string", value)
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: Any = MISSING) -> str:
        """One of a few strings."""
        value = self.text(key, default)
        if value not in choices:
            raise self.fail(key, f"must be one of {', '.join(choices)}", value)
        return value

    def integer(self, key: str, *, least: int) -> int:
        """A whole number."""
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.fail(key, f"must be a whole number of at least {least}", value)
        return value

    def items(self, key: str, default: Any = MISSING) -> list[Any]:
        """An array."""
        value = self.take(key, default)
        if not isinstance(value, list):
            raise self.fail(key, "must be an array", value)
        return value

    def numbers(self, key: str, *, count: int | None = None) -> tuple[float, ...]:
        """An array of numbers."""
        value = self.items(key)
        if not all(is_number(item) for item in value) or (count is not None and len(value) != count):
            rule = "must be an array of numbers" if count is None else f"must be an array of {count} numbers"
            raise self.fail(key, rule, value)
        return tuple(float(item) for item in value)

    def nested(self, key: str) -> Table:
        """An object."""
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.fail(key, "must be an object", value)
        return Table(value, file=self.file, where=self.place(key))

    def tables(self, key: str, default: Any = MISSING) -> list[Table]:
        """An array of objects."""
        value = self.items(key, default)
        if not all(isinstance(item, dict) for item in value):
            raise self.fail(key, "must be an array of objects")
        return [Table(item, file=self.file, where=f"{self.place(key)}[{index}]") for index, item in enumerate(value)]

    def size(self) -> Size:
        """The object itself as a width and a height."""
        size = Size(width=self.integer("width", least=1), height=self.integer("height", least=1))
        self.done()
        return size

    def done(self) -> None:
        """Check that every key was asked for.

        Raises:
            WeightsError: Some were not; it names them.
        """
        if unknown := [self.place(key) for key in self.table if key not in self.asked]:
            raise WeightsError(
                "unknown keys in the description",
                value=", ".join(unknown),
                file=self.file,
                advice="Correct their spelling, or use a version of this program that knows them.",
            )


def is_number(value: object) -> bool:
    """Whether JSON gave a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
