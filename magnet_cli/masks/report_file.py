"""A report on disk: JSON written in one way only, with a digest, so that any changed byte is found."""

from __future__ import annotations

import hashlib
import json
import re
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import TYPE_CHECKING, cast

from magnet_cli.errors import OutputError
from magnet_cli.system import durable, regular_files
from magnet_cli.system.regular_files import is_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


MISSING_ADVICE = "A mask that magnet has written has its report beside it: name such a mask, or bring the report back"
OUR_REPORT = re.compile(rb'"program":\s*\{\s*"name":\s*"magnet"')
SEARCHED = 1 << 20
"""Bytes that are searched at a time: the JSON beside an image may be another program's, and of any size."""


def is_report(path: Path) -> bool:
    """Return whether a file contains the mark of a report of this program. It may be damaged elsewhere."""
    if not is_file(path):
        return False
    before = b""
    with path.open("rb") as file:
        while part := file.read(SEARCHED):
            if OUR_REPORT.search(before + part):
                return True
            # The words may lie across two parts, so the end of one is searched again with the next.
            before = part[-100:]
    return False


def canonical(value: Mapping[str, object]) -> bytes:
    """Return the one spelling of a JSON object: keys sorted, two spaces of indent, ASCII, a newline at the end.

    Raises:
        ValueError: A number is not finite.
    """
    return _joined({key: _spelled(key, item) for key, item in value.items()})


def _spelled(key: str, value: object) -> str:
    """Return the lines of a key and its value in the canonical spelling."""
    return f"  {encode_basestring_ascii(key)}: {_value(value, 1)}"


def _value(value: object, depth: int) -> str:
    """Return a value as `json.dumps` with sorted keys and two spaces of indent spells it at some depth of an object.

    That function takes longer, because with an indent it yields each part of the text through all depths.
    """
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(cast("str", value))
    if value is None:
        return "null"
    if kind is int or (kind is float and isfinite(cast("float", value))):
        return repr(value)
    if isinstance(value, dict) and value and all(type(key) is str for key in value):
        parts = [f"{encode_basestring_ascii(key)}: {_value(value[key], depth + 1)}" for key in sorted(value)]
        return _lines("{", parts, "}", depth)
    if isinstance(value, list | tuple) and value:
        return _lines("[", [_value(item, depth + 1) for item in value], "]", depth)
    # What is left is rare: true and false, empty values, keys that are no texts, and what JSON does not know.
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False)
    return text.replace("\n", "\n" + "  " * depth) if isinstance(value, dict) else text


def _lines(begin: str, parts: Sequence[str], end: str, depth: int) -> str:
    within = "  " * (depth + 1)
    inside = f",\n{within}".join(parts)
    return f"{begin}\n{within}{inside}\n{'  ' * depth}{end}"


def _joined(spelled: Mapping[str, str]) -> bytes:
    """Return the canonical spelling of an object from that of its keys."""
    lines = ",\n".join(spelled[key] for key in sorted(spelled))
    return (f"{{\n{lines}\n}}\n" if spelled else "{}\n").encode()


def with_digest(report: Mapping[str, object]) -> bytes:
    """Return the canonical spelling of a report with its `digest`, SHA-256 of the spelling without that key.

    Raises:
        ValueError: A number is not finite.
    """
    # The values are spelled once for both, because spelling takes a while for the summary of many images.
    spelled = {key: _spelled(key, value) for key, value in report.items() if key != "digest"}
    digest = hashlib.sha256(_joined(spelled)).hexdigest()
    return _joined({**spelled, "digest": _spelled("digest", digest)})


def write_report(path: Path, report: Mapping[str, object]) -> dict[str, object]:
    """Write a report with its `digest`, complete or not at all, and return it as `read_report` will.

    Raises:
        OutputError: The folder refuses it.
    """
    data = with_digest(report)
    durable.write_whole(path, data)
    content: dict[str, object] = json.loads(data)
    return content


def read_report(path: Path) -> dict[str, object]:
    """Return the content of a report, digest included.

    Raises:
        OutputError: It is missing, unreadable, or not byte for byte what was written.
    """
    try:
        data = regular_files.content(path)
    except OSError as exc:
        raise OutputError("the report cannot be read", value=exc.strerror, file=path, advice=MISSING_ADVICE) from exc
    return parse_report(data, path)


def parse_report(data: bytes, path: str | Path) -> dict[str, object]:
    """Return the content of a report, digest included.

    Args:
        data: The bytes of the report.
        path: Its path or address, for the error.

    Raises:
        OutputError: The report is not byte for byte what was written.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _damaged(path) from exc
    if not isinstance(content, dict):
        raise _damaged(path)
    try:
        same = with_digest(content) == data
    except (ValueError, RecursionError) as exc:
        raise _damaged(path) from exc
    if not same:
        raise _damaged(path)
    return content


def _damaged(path: str | Path) -> OutputError:
    return OutputError(
        "the report is damaged: it is not what was written",
        file=path,
        advice="Restore it from a copy, or compute the mask again with --overwrite.",
    )
