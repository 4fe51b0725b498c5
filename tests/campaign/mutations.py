"""Changes of files: of bytes, of text, of JSON values, and of the tags of a TIFF."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

EXTREMES: Final = (
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    -1,
)
"""Whole numbers at which programs err."""
TEXTS: Final = (
    *("0", "-1", "1", "1e308", "1e-320", "NaN", "Infinity", "9" * 400, "2147483648", "18446744073709551616"),
    *('""', "null", "true", "[]", "{}", '"\\u0000"', '"\\ud800"', '"' + "x" * 5000 + '"', "\x1b[31m", "\ufeff"),
)
"""Words that take the place of a number or a word of a text."""
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, 1, 3, 1 << 31, 1 << 63, 10**300, 0.5, -1e308, float("nan"), float("inf")),
    *("", "x", "\0", "../../etc/passwd", "x" * 5000, "\u001b]0;t\u0007", [], {}, [[]], [0], {"": 0}),
)
"""Values that take the place of a value of JSON."""
HEAD: Final = 512
"""Bytes at the beginning of a file, where most formats describe it."""

Mutate = Callable[[bytes, "np.random.Generator"], bytes]


def _place(data: bytes, random: np.random.Generator) -> int:
    """Return a position, in one half of the cases among the first bytes."""
    limit = min(len(data), HEAD) if random.random() < 0.5 else len(data)
    return int(random.integers(0, max(1, limit)))


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """Change between 1 and 16 bits."""
    found = bytearray(data)
    for _ in range(int(random.integers(1, 17))):
        if found:
            found[_place(data, random)] ^= 1 << int(random.integers(0, 8))
    return bytes(found)


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """Keep the beginning alone, or lose it."""
    at = int(random.integers(0, max(1, len(data))))
    return data[:at] if random.random() < 0.8 else data[at:]


def spliced(data: bytes, random: np.random.Generator) -> bytes:
    """Copy a range over another, insert it elsewhere, remove it, or fill it with one value."""
    start = int(random.integers(0, max(1, len(data))))
    length = int(random.integers(1, max(2, min(4096, len(data)))))
    part, to = data[start : start + length], _place(data, random)
    how = int(random.integers(0, 4))
    if how == 0:
        return data[:to] + part + data[to + len(part) :]
    if how == 1:
        return data[:to] + part + data[to:]
    if how == 2:
        return data[:start] + data[start + length :]
    return data[:start] + bytes([int(random.integers(0, 256))]) * len(part) + data[start + length :]


def renumbered(data: bytes, random: np.random.Generator) -> bytes:
    """Set up to three numbers of 1, 2, 4 or 8 bytes to extremes."""
    found = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        width = (1, 2, 4, 8)[int(random.integers(0, 4))]
        value = EXTREMES[int(random.integers(0, len(EXTREMES)))] & ((1 << 8 * width) - 1)
        at = _place(data, random)
        order: Any = "little" if random.random() < 0.5 else "big"
        found[at : at + width] = value.to_bytes(width, order)
    return bytes(found[: max(len(data), 1)])


def appended(data: bytes, random: np.random.Generator) -> bytes:
    """Add random bytes at the end."""
    return data + random.bytes(int(random.integers(1, 4096)))


BYTES: Final[tuple[Mutate, ...]] = (flipped, flipped, cut, spliced, renumbered, renumbered, appended)


def reworded(data: bytes, random: np.random.Generator) -> bytes:
    """Replace numbers and words of a text."""
    text = data.decode("utf-8", "replace")
    for _ in range(int(random.integers(1, 4))):
        words = list(re.finditer(r"-?\d+(\.\d+)?|\"[^\"]*\"|\w+", text))
        if not words:
            break
        word = words[int(random.integers(0, len(words)))]
        text = text[: word.start()] + TEXTS[int(random.integers(0, len(TEXTS)))] + text[word.end() :]
    return text.encode("utf-8", "surrogatepass")


def relined(data: bytes, random: np.random.Generator) -> bytes:
    """Repeat, remove or swap lines of a text."""
    lines = data.splitlines(keepends=True) or [b""]
    one, other = (int(random.integers(0, len(lines))) for _ in range(2))
    how = int(random.integers(0, 3))
    if how == 0:
        lines.insert(other, lines[one])
    elif how == 1:
        del lines[one]
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


TEXT: Final[tuple[Mutate, ...]] = (reworded, reworded, reworded, relined, flipped, cut, spliced, appended)


def revalued(data: bytes, random: np.random.Generator) -> bytes:
    """Change, remove, rename or nest values of a JSON document."""
    try:
        document = json.loads(data)
    except ValueError:
        return reworded(data, random)
    for _ in range(int(random.integers(1, 4))):
        places = list(_places(document))
        if not places:
            break
        holder, key = places[int(random.integers(0, len(places)))]
        how = int(random.integers(0, 5))
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[f"{key}{'x' * int(random.integers(0, 2))} "] = holder.pop(key)
        elif how == 2:
            holder[key] = [copy.deepcopy(holder[key]) for _ in range(int(random.integers(1, 4)))]
        elif how == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * (-1, 2, 1000, 1 << 20)[int(random.integers(0, 4))] + int(random.integers(0, 2))
        else:
            holder[key] = copy.deepcopy(VALUES[int(random.integers(0, len(VALUES)))])
    return json.dumps(document, ensure_ascii=bool(random.random() < 0.5)).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every holder and key of a document."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        found += _places(inner)
    return found


JSON: Final[tuple[Mutate, ...]] = (revalued, revalued, revalued, reworded, flipped, cut, spliced)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How numbers stand in a TIFF: classic or Big, little or big endian."""

    order: str
    big: bool

    @property
    def entry(self) -> int:
        """Bytes of a directory's entry."""
        return 20 if self.big else 12

    @property
    def word(self) -> str:
        """The format of an offset."""
        return self.order + ("Q" if self.big else "I")


def directories(data: bytes) -> tuple[Form, list[tuple[int, int]]] | None:
    """Return where the first entry of each directory lies and how many it has, those below `SubIFDs` among them."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    form = Form(order=order, big=struct.unpack_from(f"{order}H", data, 2)[0] == 43)
    count = f"{order}{'Q' if form.big else 'H'}"
    todo = [struct.unpack_from(form.word, data, 8 if form.big else 4)[0]]
    found: list[tuple[int, int]] = []
    while todo and len(found) < 64:
        at = todo.pop()
        if not 0 < at < len(data) - 8:
            continue
        (entries,) = struct.unpack_from(count, data, at)
        first = at + struct.calcsize(count)
        end = first + entries * form.entry
        if end + struct.calcsize(form.word) > len(data):
            continue
        found.append((first, entries))
        todo.append(struct.unpack_from(form.word, data, end)[0])
        for number in range(entries):
            tag, _ = struct.unpack_from(f"{order}HH", data, first + number * form.entry)
            values = struct.unpack_from(form.word, data, first + number * form.entry + 4 + (8 if form.big else 4))[0]
            if tag == 330:
                todo.append(values)
                todo += struct.unpack_from(form.word, data, values) if 0 < values < len(data) - 8 else ()
    return form, found


def retagged(data: bytes, random: np.random.Generator) -> bytes:
    """Change the number, type, count, value or order of tags of a TIFF, or where the next directory lies."""
    read = directories(data)
    if read is None or not read[1]:
        return renumbered(data, random)
    form, found = read
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        first, entries = found[int(random.integers(0, len(found)))]
        at = first + int(random.integers(0, max(1, entries))) * form.entry
        wide = struct.calcsize(form.word)
        extreme = EXTREMES[int(random.integers(0, len(EXTREMES)))] & ((1 << 8 * wide) - 1)
        how = int(random.integers(0, 7))
        if how == 0:
            struct.pack_into(f"{form.order}H", changed, at, int(random.integers(254, 340)))
        elif how == 1:
            struct.pack_into(f"{form.order}H", changed, at + 2, int(random.integers(0, 19)))
        elif how == 2:
            struct.pack_into(form.word, changed, at + 4, extreme)
        elif how == 3:
            struct.pack_into(form.word, changed, at + 4 + wide, extreme)
        elif how == 4:
            (old,) = struct.unpack_from(form.word, changed, at + 4 + wide)
            struct.pack_into(form.word, changed, at + 4 + wide, (old + int(random.integers(-3, 4))) % (1 << 8 * wide))
        elif how == 5:
            other = first + int(random.integers(0, max(1, entries))) * form.entry
            changed[other : other + form.entry] = changed[at : at + form.entry]
        else:
            target = found[int(random.integers(0, len(found)))][0] - (8 if form.big else 2)
            struct.pack_into(form.word, changed, first + entries * form.entry, target)
    return bytes(changed)


TIFF: Final[tuple[Mutate, ...]] = (retagged, retagged, retagged, flipped, cut, spliced, renumbered)
