"""The files that a run may write: none of them may be a file that it reads, or one that another program wrote."""

from __future__ import annotations

import errno
import os
import tempfile
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Inode = tuple[int, int]
"""Device and number of a file."""
FEW = 200
"""Largest number of entries of a folder that are tried for another spelling."""


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file or folder that a run may write."""

    path: Path
    kind: str
    """The kind of the file as a word: mask, report, journal, field, picture, page, export."""
    owner: str
    """The image or mask that the file is made for, as the user named it."""
    is_ours: Callable[[Path], bool]
    """Whether the file that is there already was written by this program. Others are never replaced."""

    @property
    def names(self) -> tuple[Path, ...]:
        """The path, and the names that it has while it is written and replaced."""
        return (self.path, *(durable.working_path(self.path, end) for end in (durable.WORKING, durable.REPLACED)))


class PathIndex:
    """Resolves folders and names of paths, to find paths to the same file, also where the file does not exist yet."""

    def __init__(self) -> None:
        self._parents: dict[Path, str] = {}
        self._blind: dict[str, bool] = {}

    def place(self, path: Path) -> tuple[str, str]:
        """Return the folder of a path, without symbolic links, and the name in that folder."""
        # macOS takes a letter with an accent and the letter followed by the accent for the same name.
        return self._folder(path.parent), unicodedata.normalize("NFC", path.name)

    def folded(self, path: Path) -> tuple[str, str]:
        """Return the folder and the name of a path in a spelling that does not depend on capital letters."""
        folder, name = self.place(path)
        return folder.casefold(), name.casefold()

    def is_case_blind(self, path: Path) -> bool:
        """Return whether the folder of a path ignores case, so that `A.tif` and `a.tif` in it are one file."""
        folder = self._folder(path.parent)
        if folder not in self._blind:
            there = next(place for place in (Path(folder), *Path(folder).parents) if place.is_dir())
            self._blind[folder] = is_case_blind(there)
        return self._blind[folder]

    def _folder(self, folder: Path) -> str:
        if folder not in self._parents:
            self._parents[folder] = os.path.realpath(folder)
        return self._parents[folder]


def is_case_blind(folder: Path) -> bool:
    """Return whether a folder ignores case, so that `A.tif` and `a.tif` in it are one file.

    An entry of the folder is looked up in the other case. Where no entry has a letter, a temporary file is made for it.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry, _ in zip(entries, range(FEW), strict=False):
            if entry.name.swapcase() != entry.name:
                return _is_same(folder / entry.name, folder / entry.name.swapcase())
    with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder, prefix="magnet-case-") as probe:
        return _is_same(Path(probe.name), folder / Path(probe.name).name.swapcase())
    return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def inode(path: Path) -> Inode | None:
    """Return device and number of the file that a path leads to; None where there is none."""
    try:
        found = path.stat()
    # ValueError: the name holds a zero byte, which no system takes.
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


class ReadFiles:
    """The files that a run reads, and the folders that they lie in.

    Args:
        paths: Files and folders; those that do not exist are left out.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = tuple(dict.fromkeys(Path(path) for path in paths))

    @cached_property
    def by_inode(self) -> dict[Inode, Path]:
        """The file that is read, by its own device and number and by those of each folder above it."""
        found: dict[Inode, Path] = {}
        above: set[Path] = set()
        for path in self.paths:
            key = inode(path)
            if key is None:
                continue
            found.setdefault(key, path)
            for folder in Path(os.path.realpath(path)).parents:
                if folder in above:
                    break
                above.add(folder)
                key = inode(folder)
                if key is not None:
                    found.setdefault(key, path)
        return found


def refuse_collisions(written: Iterable[WrittenFile], read: Iterable[str | Path]) -> None:
    """Check that no output is also an input, and that no two outputs are the same file.

    Files are compared by what they are and not by name: links are followed, and capital letters do not count in folders
    that do not tell them apart.

    Raises:
        UsageError: Two of them are the same file.
    """
    places, inputs = PathIndex(), ReadFiles(read).by_inode
    exact: dict[tuple[str, str], WrittenFile] = {}
    folded: dict[tuple[str, str], WrittenFile] = {}
    for file in written:
        for path in file.names:
            key = inode(path)
            if key is not None and key in inputs:
                raise _of_an_input(file, path, inputs[key])
            other = exact.setdefault(places.place(path), file)
            if other is file:
                # Whether capital letters count is asked of the folder only where two names differ in them, because the
                # answer may need a file that is made for it.
                other = folded.setdefault(places.folded(path), file)
                if other is not file and not places.is_case_blind(path):
                    other = file
            if other is not file:
                raise _of_each_other(other, file)


def _of_an_input(file: WrittenFile, path: Path, read: Path) -> UsageError:
    article = "an" if file.kind[0] in "aeiou" else "a"
    shown = f"{path}" if path == read else f"{path}, which is {read}"
    return UsageError(f"{article} {file.kind} may not replace an input", value=shown, advice="Choose another -o")


def _of_each_other(one: WrittenFile, other: WrittenFile) -> UsageError:
    if one.kind != other.kind or one.owner == other.owner:
        return UsageError(
            f"a run would write the same file as {one.kind} and as {other.kind}",
            value=f"{one.path} for {one.owner} and {other.path} for {other.owner}",
            advice="Choose another -o",
        )
    what = "masks" if one.kind == "export" else "images"
    return UsageError(
        f"two {what} would get the same {one.kind}",
        value=f"{one.owner} and {other.owner} both to {other.path}",
        advice="Rename one of the inputs, or write into different folders",
    )


def refuse_unwritable(written: Sequence[WrittenFile]) -> None:
    """Check that the file system takes all names, and each file that is there already was written by this program.

    Raises:
        UsageError: A name is too long.
        OutputError: Another program's file is in the way.
    """
    refuse_long_names(written)
    refuse_foreign(written)


def refuse_foreign(written: Iterable[WrittenFile]) -> None:
    """Check that each file that is there already was written by this program; empty files count as such.

    Raises:
        OutputError: Another program's file is in the way, or one that the system denies access to.
    """
    for file in written:
        refuse_link_loop(file.path.parent)
        if _is_free(file.path):
            continue
        with durable.looking_at(file.path):
            is_ours = file.is_ours(file.path)
        if not is_ours:
            article = "an" if file.kind[0] in "aeiou" else "a"
            raise OutputError(
                f"this file is in the way of {article} {file.kind}, and magnet has not written it: it is not replaced, "
                "not even with --overwrite",
                file=file.path,
                advice="Move it away, or choose another output",
            )


def refuse_link_loop(folder: Path) -> None:
    """Check that no symbolic link on the way to a folder leads to itself.

    Raises:
        OutputError: A link leads to itself, so that the folder can be neither read nor made.
    """
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutputError(
                "the folder is a symbolic link that leads to itself", file=folder, advice="Choose another output"
            ) from error


def refuse_long_names(written: Iterable[WrittenFile]) -> None:
    """Check that the file system takes the name of every file.

    Raises:
        UsageError: A name is too long.
    """
    for file in written:
        limit = longest_name(file.path.parent)
        length = len(os.fsencode(file.path.name))
        if length > limit:
            raise UsageError(
                f"the {file.kind} would get a name of {length} bytes, and names here have at most {limit}",
                value=f"{file.path.name[:80]}...",
                advice="Choose a shorter name with -o",
            )


def longest_name(folder: Path) -> int:
    """Return the bytes that a name has at most in a folder, which may not be there yet."""
    for place in (folder, *folder.absolute().parents):
        with suppress(OSError, AttributeError, ValueError):
            return os.pathconf(place, "PC_NAME_MAX")
    return durable.LONGEST_NAME


def _is_free(path: Path) -> bool:
    """Return whether a path holds nothing that could be lost: nothing, an empty file, or a dangling link."""
    try:
        return path.is_file() and path.stat().st_size == 0 if path.exists() else True
    except OSError:
        return True
