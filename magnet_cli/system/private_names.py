"""Names of folders and files that are left out of texts: a path often names a patient, a study or a customer."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING

from magnet_cli.errors import MagnetError, redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

OTHER = "FILE"
"""Name that stands for a file of the user's other than the image and its mask; its suffix is kept."""
BEFORE, AFTER = r"(?<![\w/\\.-])", r"(?![\w-])"
"""Patterns of characters that must not come before or after a path, because it would be part of another word."""


class PrivateNames:
    """Removes names of folders, and names of files other than images and masks, from texts.

    Args:
        own: Paths and addresses whose last part may stay, such as that of the image and of its mask.
        other: Paths of which only the suffix may stay, such as those of a region or of a bundle's folder.
    """

    def __init__(self, own: Iterable[object], other: Iterable[object] = ()) -> None:
        found: dict[str, str] = {}
        for path in map(str, own):
            name = _last(path)
            for spelled in _spellings(path):
                found[spelled] = name
                found |= dict.fromkeys(_folders(spelled), "")
        for path in map(str, other):
            name = OTHER + PurePath(_last(path)).suffix
            for spelled in _spellings(path):
                found[spelled] = name
                found |= dict.fromkeys(_folders(spelled), "")
        self._names = {key: name for key, name in found.items() if key != name}
        # Longer ones first: a folder is the beginning of what lies in it.
        parts = sorted(self._names, key=len, reverse=True)
        ends = (re.escape(part) + ("" if part.endswith(("/", os.sep)) else AFTER) for part in parts)
        self._pattern = re.compile(f"{BEFORE}(?:{'|'.join(ends)})") if parts else None

    @classmethod
    def of_report(cls, report: Mapping[str, object]) -> PrivateNames:
        """Return the names that a report has: of its image, of what was refined, and in the command that made it."""
        inside = [report.get(key) for key in ("input", "refined")]
        own = [str(entry["path"]) for entry in inside if isinstance(entry, dict) and entry.get("path")]
        command, areas = report.get("command"), report.get("areas")
        words = [str(word) for word in command] if isinstance(command, list) else []
        own += [word for before, word in pairwise(words) if before == "-o"]
        other = [word for word in words if word not in own and ("/" in word or os.sep in word)]
        if isinstance(areas, list):
            other += [str(area["source"]) for area in areas if isinstance(area, dict) and area.get("kind") != "tissue"]
        return cls(own, other)

    def text(self, text: str) -> str:
        """Return a text without these names."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: self._names[found[0]], text)

    def value(self, value: object) -> object:
        """Return JSON values with these names removed from all texts, at any depth."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def table(self, table: Mapping[str, object]) -> dict[str, object]:
        """Return a table of JSON values with these names removed from all texts, at any depth."""
        return {key: self.value(item) for key, item in table.items()}

    def error(self, error: MagnetError) -> MagnetError:
        """Return the same failure with these names removed from its texts."""
        value, file, advice = (None if part is None else self.text(str(part)) for part in error.parts)
        found = type(error)(self.text(error.rule), value=value, file=file, advice=advice)
        found.trace = None if error.details is None else self.text(error.details)
        return found


def _last(path: str) -> str:
    """Return the last part of a path or an address, without what may be secret."""
    return re.split(r"[/\\]", redacted(path).partition("?")[0].rstrip("/\\"))[-1] or OTHER


def _spellings(path: str) -> Iterator[str]:
    yield path
    yield redacted(path)
    if "://" not in path:
        # Libraries and the system name a file as they have opened it: from the root, or with links followed.
        yield os.path.abspath(path)  # noqa: PTH100 - without following links
        yield os.path.realpath(path)


def _folders(path: str) -> Iterator[str]:
    """Yield the folder of a path with the slash behind it; nothing where it names none, or is the root alone."""
    cut = max(path.rfind("/"), path.rfind("\\"))
    if cut > 0 and not path[: cut + 1].endswith("://"):
        yield path[: cut + 1]
