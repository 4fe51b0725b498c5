"""Addresses without what lets their holder read: nothing that is shown or kept may hold a password or a signature."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]+)://([^\s\"'<>]+)")
TRAILING = re.compile(r"[).,:;\]}]*$")
"""Signs that end a sentence or a bracket rather than an address."""
LEFT_OUT = "?***"


def redacted(text: str) -> str:
    """A text whose addresses have lost their user, password and query; host and path stay.

    A question mark in an `s3://` address is a character of its key, and stays.
    """
    return ADDRESS.sub(_without_secrets, text)


def redacted_report(report: Mapping[str, object]) -> dict[str, object]:
    """A report whose texts are `redacted`, at any depth."""
    return {key: _redacted_value(value) for key, value in report.items()}


def _redacted_value(value: object) -> object:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return redacted_report(value)
    if isinstance(value, list | tuple):
        return [_redacted_value(item) for item in value]
    return value


def _without_secrets(match: re.Match[str]) -> str:
    scheme, rest = match[1], match[2]
    ends = TRAILING.search(rest)
    tail = ends[0] if ends else ""
    rest = rest[: len(rest) - len(tail)]
    place, mark, _ = (rest, "", "") if scheme.lower() == "s3" else rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{LEFT_OUT if mark else ''}{tail}"
