"""Inputs of a run as they were when it began, so that one that changes while it is read is found out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from magnet_cli.errors import SourceError
from magnet_cli.images.fingerprint import InputFiles, fingerprint, is_hashed_whole
from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from magnet_cli.images.protocol import ImageInfo

CHANGED = "the input changed while it was read"
SETTLING = 2_000_000_000
"""Nanoseconds after which a change of a file has another time than the one before. Clocks of file systems tick every
few milliseconds, and some only every two seconds."""
ADVICE = "Wait until the file is copied whole and nothing writes to it, then run the same command again"


@dataclass(frozen=True, kw_only=True)
class FileState:
    """The state of a file as the file system reports it."""

    size: int
    modified: int
    """Time of the last change, in nanoseconds."""
    identity: tuple[int, ...] | None = field(default=None, compare=False)
    """Device and number of the file, and the time of the last change of its content, name or rights, which no program
    can set. None where the system has no such time, and for a file that has just changed."""

    @classmethod
    def of(cls, file: Path) -> Self | None:
        """Return the state of a file; None where there is no such file."""
        try:
            found = file.stat()
        except OSError:
            return None
        is_known = sys.platform != "win32" and time.time_ns() >= found.st_ctime_ns + SETTLING
        identity = (found.st_dev, found.st_ino, found.st_ctime_ns) if is_known else None
        return cls(size=found.st_size, modified=found.st_mtime_ns, identity=identity)


@dataclass(frozen=True, kw_only=True)
class InputState:
    """An input with all files from which it is read: siblings, sidecars, the files of a mosaic, sampled chunks."""

    source: str
    files: Mapping[Path, FileState | None]
    """Files of the input; empty for a URL."""
    digest: str | None
    """Fingerprint of the input; for a URL it includes size and version as the server states them. None where only what
    the file system says is compared."""
    is_hashed_whole: bool = False
    """Whether the fingerprint depends on each byte of all files."""

    @classmethod
    def of(cls, source: str | Path, *, content: bool = True) -> Self:
        """Note the state of an input.

        Args:
            source: Path or URL of the input.
            content: Whether its fingerprint is noted, too.

        Raises:
            SourceError: The input cannot be read.
        """
        text = str(source)
        found = None if is_url(text) else InputFiles.of(Path(text))
        states = {} if found is None else {file: FileState.of(file) for file in found.paths}
        return cls(
            source=text,
            files=states,
            digest=fingerprint(text, found) if content else None,
            is_hashed_whole=content and is_hashed_whole(text, found),
        )

    def is_untouched(self) -> bool:
        """Return whether all bytes of the input were hashed, and nothing has written to, replaced or renamed a file.

        False where the system does not say so.
        """
        if not (self.is_hashed_whole and self.files):
            return False
        for file, before in self.files.items():
            now = FileState.of(file)
            if now is None or now != before or now.identity is None or now.identity != before.identity:
                return False
        return True

    def _has_same_files(self) -> bool:
        """Return whether the input has the files that it had, all of them untouched: its fingerprint is the same."""
        try:
            return self.is_untouched() and set(InputFiles.of(Path(self.source)).paths) == set(self.files)
        except SourceError:
            return False

    def difference(self, *, quick: bool = False) -> str:
        """Return in words what has changed since; an empty text where nothing has.

        Args:
            quick: Whether only the file system is asked, and no content is read.
        """
        touched = ""
        for file, before in self.files.items():
            now = FileState.of(file)
            if now == before:
                continue
            if now is None or before is None:
                return f"{file.name} was {'removed' if now is None else 'added'}"
            if now.size != before.size:
                return f"{file.name} had {before.size:,} bytes and has {now.size:,}"
            touched = touched or f"{file.name} was written to"
        if quick or self.digest is None or self._has_same_files():
            return touched
        try:
            # A new time of change alone is no change of the content, where all of the content is hashed: tools touch
            # files.
            if (touched and not is_hashed_whole(self.source)) or fingerprint(self.source) != self.digest:
                return touched or "its content is another"
        except SourceError as error:
            return f"it can no longer be read: {error.rule}"
        return ""


@dataclass(frozen=True, kw_only=True)
class InputStates:
    """All inputs of a run, as they were when it began."""

    states: tuple[InputState, ...] = ()

    @classmethod
    def of(cls, sources: Iterable[str | Path | None], *, content: bool = True) -> Self:
        """Note the states of inputs.

        Args:
            sources: Paths and URLs. None stands for an input that the run does not have.
            content: Whether their fingerprints are noted, too.

        Raises:
            SourceError: An input cannot be read.
        """
        given = [source for source in sources if source is not None]
        return cls(states=tuple(InputState.of(source, content=content) for source in given))

    @classmethod
    def joined(cls, several: Iterable[Self]) -> Self:
        """Return the states of all inputs of several, each input once, as it was noted first."""
        found: dict[str, InputState] = {}
        for states in several:
            for state in states.states:
                found.setdefault(state.source, state)
        return cls(states=tuple(found.values()))

    def digest(self, source: str | Path) -> str:
        """Return the fingerprint of an input, which was noted."""
        return next(state.digest or "" for state in self.states if state.source == str(source))

    def is_same_file(self, source: str | Path, before: FileState | None) -> bool:
        """Return whether an input was noted as a single file that was the same before.

        Args:
            source: The path of the input.
            before: The state of that file before it was noted. None where it is no file.
        """
        if before is None or before.identity is None:
            return False
        for state in self.states:
            noted = state.files.get(Path(source))
            if state.source == str(source) and noted is not None:
                return len(state.files) == 1 and noted == before and noted.identity == before.identity
        return False

    def is_untouched(self, source: str | Path) -> bool:
        """Return whether nothing has written to an input since it was noted; False where that is not certain."""
        return any(state.source == str(source) and state.is_untouched() for state in self.states)

    def image_hashes(self, info: ImageInfo) -> dict[str, str]:
        """Return hashes that identify an image: of its input, which was noted, and of a chosen series or alpha."""
        found = {"input": self.digest(info.path)}
        if info.series is not None:
            found["series"] = str(info.series)
        if info.alpha == "band":
            found["alpha"] = info.alpha
        return found

    def change(self, *, quick: bool = False) -> SourceError | None:
        """Return an error that names the first input that has changed since; None where none has.

        Args:
            quick: Whether only the file system is asked, and no content is read.
        """
        for state in self.states:
            found = state.difference(quick=quick)
            if found:
                return changed(state.source, found)
        return None

    def refuse_change(self) -> None:
        """Refuse inputs that have changed since.

        Raises:
            SourceError: An input has changed.
        """
        error = self.change()
        if error is not None:
            raise error


def changed(source: str, value: str) -> SourceError:
    """Return the error of an input that has changed while it was read."""
    return SourceError(CHANGED, value=value, file=source, advice=ADVICE)
