"""JSON and TOML checked against dataclasses: each refusal names the place, the rule and the value."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import core_schema

from magnet_cli.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import GetCoreSchemaHandler
    from pydantic_core import ErrorDetails

ADVICE = "Correct bundle.json; docs/reference/bundle.md describes its keys"

LARGEST = 2**20
"""Largest number of bytes of a description; usual ones have a few thousand."""
MOST_DIGITS = 13
"""Largest number of digits of a whole number in a description, enough for any number of bytes."""
LARGEST_SIDE = 10**9 - 1
"""Largest side or count: arithmetic with larger ones overflows."""
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Configuration for `__pydantic_config__` of the outermost dataclass: text is no number, and every key is known."""
UNKNOWN = ("unexpected_keyword_argument", "literal_error")
"""pydantic's names for a key that no field has; the second, of a key in a table whose keys are listed."""
RULES = {
    "missing": "is missing",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "tuple_type": "must be an array",
    "dict_type": "must be an object",
    "dataclass_type": "must be an object",
}
"""Rules in words by pydantic's kinds of errors."""

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value."""
Checked = TypeVar("Checked")


@dataclass(frozen=True)
class FieldRule:
    """The rule of a field in an annotation. A message gives it after the field's place."""

    text: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Return a schema whose every error is this rule."""
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="rule", custom_error_message=self.text
        )


Text = Annotated[str, FieldRule("must be a string")]


def no_larger(value: int) -> int:
    """Return a side or a count, if it is not too large to be computed with."""
    if value > LARGEST_SIDE:
        message = f"must be at most {LARGEST_SIDE}"
        raise ValueError(message)
    return value


ByteCount = Annotated[int, Field(ge=0), FieldRule("must be a whole number of at least 0")]
Positive = Annotated[int, Field(ge=1), FieldRule("must be a whole number of at least 1"), AfterValidator(no_larger)]
Natural = Annotated[ByteCount, AfterValidator(no_larger)]


class RefusedTableError(ValueError):
    """A table does not fit its dataclass.

    Args:
        place: Keys and indices that lead to the wrong value.
        rule: The condition that it must fulfil.
        value: The value in the table; None where it is missing.
        unknown: Places of the keys that no field has; where there are any, they alone are reported.
    """

    def __init__(self, place: Place, rule: str, value: object = None, *, unknown: tuple[Place, ...] = ()) -> None:
        super().__init__(f"{spelled(place) or 'the description'} {rule}")
        self.place, self.rule, self.value, self.unknown = place, rule, value, unknown


def checked(kind: type[Checked], table: Mapping[str, Any]) -> Checked:
    """Return the values of a table that was read from JSON or TOML, as a dataclass.

    Args:
        kind: The dataclass. Lists become its tuples and tables its dataclasses.
        table: Keys and values.

    Raises:
        RefusedTableError: A key is missing or unknown, or a value breaks its field's rule.
    """
    try:
        # pydantic takes arrays for tuples and objects for dataclasses only from JSON while it is strict.
        found: Checked = adapter(kind).validate_json(json.dumps(table, default=_no_json))
    except ValidationError as exc:
        raise _refusal(exc.errors(include_url=False)) from exc
    return found


def adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Return the validator of a dataclass. It takes tens of milliseconds to make, so each is made once."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _no_json(value: object) -> NoReturn:
    raise RefusedTableError((), "holds a date or a time, and no key takes one", value)


def _refusal(errors: list[ErrorDetails]) -> RefusedTableError:
    # A misspelt key is unknown and leaves another one missing: the unknown one says more.
    if unknown := tuple(_keys(error) for error in errors if _is_unknown_key(error)):
        return RefusedTableError(unknown[0], "is unknown", unknown=unknown)
    error = errors[0]
    value = None if error["type"] == "missing" else error["input"]
    return RefusedTableError(_keys(error), _rule(error), value)


def _is_unknown_key(error: ErrorDetails) -> bool:
    kind, place = error["type"], error["loc"]
    return kind in UNKNOWN and (kind == UNKNOWN[0] or place[-1] == "[key]")


def _keys(error: ErrorDetails) -> Place:
    return tuple(key for key in error["loc"] if key != "[key]")


def _rule(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "literal_error":
        names = re.findall("'([^']*)'", error["ctx"]["expected"])
        return f"must be one of {', '.join(names)}"
    return RULES.get(error["type"], error["msg"])


def spelled(place: Place) -> str:
    """Return a place as a message names it: `classes[0].color`."""
    keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return "".join(keys).removeprefix(".")


def checked_description(kind: type[Checked], table: Mapping[str, Any], *, file: Path) -> Checked:
    """Return the values of a description, as a dataclass.

    Raises:
        WeightsError: A key is missing or unknown, or a value breaks its field's rule; the message names the file.
    """
    try:
        return checked(kind, table)
    except RefusedTableError as exc:
        if not exc.unknown:
            raise WeightsError(
                str(exc),
                value=exc.value,
                file=file,
                advice=ADVICE,
            ) from exc
        raise WeightsError(
            "unknown keys in the description",
            value=", ".join(map(spelled, exc.unknown)),
            file=file,
            advice="Correct their spelling, or use a version of this program that knows them.",
        ) from exc


def parse_object(data: bytes, *, file: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        WeightsError: The file is too large, no JSON, or no object.
    """
    if len(data) > LARGEST:
        raise WeightsError(
            "a description is at most 1 MiB",
            value=len(data),
            file=file,
            advice=ADVICE,
        )
    try:
        table = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refused, parse_int=whole)
    except (ValueError, RecursionError) as exc:
        raise WeightsError(
            f"not a JSON description: {exc}",
            file=file,
            advice=ADVICE,
        ) from exc
    if not isinstance(table, dict):
        raise WeightsError(
            "the description must be a JSON object",
            value=type(table).__name__,
            file=file,
            advice=ADVICE,
        )
    return table


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys are all different."""
    table = dict(pairs)
    # JSON allows a key twice, and Python would keep the last one without a word.
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        message = f"key given twice: {next(key for key in keys if keys.count(key) > 1)}"
        raise ValueError(message)
    return table


def whole(text: str) -> int:
    """Return a whole number, of no more digits than sizes, counts and bytes have."""
    # Python takes time that grows with the square of the digits, and refuses thousands of them with an error of its
    # own.
    if len(text) > MOST_DIGITS:
        message = f"a whole number has at most {MOST_DIGITS} digits, got {len(text)}"
        raise ValueError(message)
    return int(text)


def refused(word: str) -> NoReturn:
    """Refuse NaN and infinity, which JSON has not, though Python would read them."""
    message = f"not a number of JSON: {word}"
    raise ValueError(message)
