"""Pieces of a mask: journals of a few groups that the parts of a run leave in a folder beside the mask.

A piece gets its name when it is whole, so every piece that is there can be read, and no two parts write the same file.
Equal work gives equal labels, so it does not matter which part has left a piece, or whether two have left the same.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from magnet_cli.errors import OutputError
from magnet_cli.masks.journal import Journal, StoredGroups
from magnet_cli.system import durable
from magnet_cli.system.closing import Closing
from magnet_cli.system.working_files import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box
    from magnet_cli.masks.header import JournalHeader
    from magnet_cli.masks.spec import FieldSpec, GroupId

HEAD = "head.json"
ENDING = ".pieces"
PIECE = re.compile(r"p(\d+)-(\d+)-(\d+)\.piece")
PIECES_SCHEMA = 1
ADVICE = "Run every part with the same program, bundle, options and kind of machine, or delete the folder to begin anew"


def piece_name(pass_index: int, first: int, last: int) -> str:
    """Return the name of the piece that holds the groups from `first` to `last` of a pass."""
    return f"p{pass_index}-{first}-{last}.piece"


def groups_in_piece(path: Path) -> tuple[int, range]:
    """Return the pass and the groups that a piece holds, by its name.

    Raises:
        ValueError: The name is none of a piece.
    """
    found = PIECE.fullmatch(path.name)
    if found is None:
        message = f"{path.name} is no name of a piece"
        raise ValueError(message)
    number, first, last = map(int, found.groups())
    return number, range(first, last + 1)


@dataclass(frozen=True, kw_only=True)
class PieceFolder:
    """The folder in which the parts of one image leave their pieces."""

    path: Path

    @classmethod
    def of(cls, mask: Path) -> Self:
        """Return the folder that belongs to a mask: `x.tif.pieces`."""
        return cls(path=mask.with_name(f"{mask.name}{ENDING}"))

    @property
    def exists(self) -> bool:
        """Whether a part has begun."""
        return (self.path / HEAD).is_file()

    def pieces(self) -> list[Path]:
        """Return the pieces that are whole, sorted by name."""
        with durable.writing(self.path):
            return sorted(entry for entry in self.path.iterdir() if PIECE.fullmatch(entry.name))

    def head(self) -> dict[str, Any]:
        """Return what the first part has noted.

        Raises:
            OutputError: There is no such folder, or it holds something else.
        """
        file = self.path / HEAD
        try:
            found = json.loads(file.read_bytes())
        except FileNotFoundError as exc:
            raise OutputError(
                "no part has left pieces of this mask", file=self.path, advice="Run its parts first, with --num-parts"
            ) from exc
        except (OSError, ValueError, RecursionError) as exc:
            raise OutputError("the notes on the pieces cannot be read", file=file, advice=ADVICE) from exc
        if not isinstance(found, dict) or found.get("schema") != PIECES_SCHEMA or "hashes" not in found:
            raise OutputError("this is no note on pieces that this program reads", file=file, advice=ADVICE)
        return found

    def begin(self, head: Mapping[str, object]) -> dict[str, Any]:
        """Note what all parts have to agree on, unless another part has done so.

        Args:
            head: The note, as JSON values.

        Returns:
            The note of the first part.

        Raises:
            OutputError: The folder cannot be written, or holds something else.
        """
        with durable.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.exists:
                # Several parts may begin at the same time. Each writes a file of its own, so that none reads half a
                # note.
                own = self._own_name(HEAD)
                own.write_bytes(json.dumps({"schema": PIECES_SCHEMA, **head}, indent=1, sort_keys=True).encode())
                durable.sync_file(own)
                publish(own, self.path / HEAD)
        return self.head()

    @contextmanager
    def signed(self) -> Iterator[Path]:
        """Keep an empty file of a new name in the folder, by which other processes verify that they share the folder.

        Raises:
            OutputError: The folder cannot be written.
        """
        with durable.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            path = self._own_name("sign")
            path.touch()
        try:
            yield path
        finally:
            with suppress(OSError):
                path.unlink()
                # A run that began nothing leaves no folder behind.
                self.path.rmdir()

    def agree(self, head: Mapping[str, Any], own: Mapping[str, str]) -> None:
        """Check that this part computes as the first one did.

        Args:
            head: The hashes and facts that the first part has stored.
            own: The same hashes and facts of this part, by name.

        Raises:
            OutputError: Something differs; the message names it.
        """
        first: Mapping[str, str] = head["hashes"]
        differing = [name for name in dict.fromkeys([*own, *first]) if own.get(name) != first.get(name)]
        if differing:
            shown = "; ".join(
                f"{name} {_short(first.get(name))} there, {_short(own.get(name))} here" for name in differing
            )
            raise OutputError(
                f"results of this part would differ from those of the first part: another {', '.join(differing)}",
                value=shown,
                file=self.path,
                advice=ADVICE,
            )

    def remove(self) -> None:
        """Delete the folder: the mask is complete."""
        # The note goes last: a folder without it would be taken for that of a run that has not begun.
        for entry in sorted(self.path.iterdir() if self.path.is_dir() else (), key=lambda entry: entry.name == HEAD):
            with suppress(OSError):
                entry.unlink()
        shutil.rmtree(self.path, ignore_errors=True)

    def drop_late(self, note: Path) -> None:
        """Delete the note of a part, and the folder, if the mask is finished and another process has emptied it.

        That process cannot delete a note that this one writes while the folder is being emptied.
        """
        if self.exists:
            return
        with suppress(OSError):
            note.unlink(missing_ok=True)
            self.path.rmdir()

    def _own_name(self, name: str) -> Path:
        """Return a name for a file that is being written, which no other process uses."""
        return self.path / f"{name}.{uuid.uuid4().hex[:12]}{durable.WORKING}"

    def working(self, name: str) -> Path:
        """Return the path of a piece while it is written."""
        return self._own_name(name)


def _ignore(_: GroupId) -> None:
    """Do nothing: the callback for finished groups of a caller that has none."""


class PieceStore(Closing):
    """The results of all parts so far, and the sink for those of this one. Engines take it for both.

    Args:
        folder: The folder of the pieces.
        header: The header that the pieces must have.
        wanted: The groups that this part needs, of each pass, in the order in which it computes them. Those that a
            piece holds already are left out, also where another part leaves it meanwhile.
        groups: Most groups of a piece.
        check: Called before a piece gets its name. It raises where the piece must not be used.
        known: Finished groups of earlier passes that the caller has read, and closes. None reads all pieces of the
            folder.
        finished: Called with each group that is finished.
    """

    def __init__(
        self,
        folder: PieceFolder,
        header: JournalHeader,
        *,
        wanted: Mapping[int, Sequence[int]],
        groups: int,
        check: Callable[[], None],
        known: StoredGroups | None = None,
        finished: Callable[[GroupId], None] = _ignore,
    ) -> None:
        self._folder = folder
        self._header = header
        self._check = check
        self._finished = finished
        self._is_own = known is None
        self._known = StoredGroups(header) if known is None else known
        self._journal: Journal | None = None
        self._left: set[int] = set()
        self._name = ""
        self._wanted = wanted
        self._groups = groups
        self._runs: dict[tuple[int, int], list[int]] = {}
        self._attached: set[str] = set()
        # Pieces are attached by the thread that asks for groups and by the one that stores them.
        self._attaching = threading.Lock()
        if self._is_own:
            self._attach(folder.pieces())

    def missing(self, number: int) -> Iterator[int]:
        """Yield the groups of a pass that this part has to compute.

        Before each piece is begun, those that other parts have left meanwhile are looked for. That saves work and
        decides nothing: equal work gives equal results, and a group that is computed twice counts once.
        """
        rest: Sequence[int] = self._wanted.get(number, ())
        while True:
            if self._is_own and rest:
                self._attach(self._left_by_others(number, set(rest)))
            finished = self._known.finished(number)
            rest = [group for group in rest if group not in finished]
            run = next(_runs(rest, self._groups), None)
            if run is None:
                return
            rest = rest[len(run) :]
            self._runs |= {(number, group): run for group in run}
            yield from run

    def _left_by_others(self, number: int, wanted: set[int]) -> list[Path]:
        """Return the pieces of a pass that hold wanted groups. Those of other places are not read."""
        pieces = ((path, *groups_in_piece(path)) for path in self._folder.pieces())
        return [path for path, of, groups in pieces if of == number and not wanted.isdisjoint(groups)]

    def _attach(self, paths: Iterable[Path]) -> None:
        with self._attaching:
            new = [path for path in paths if path.name not in self._attached]
            self._known.attach(new, self._header)
            self._attached.update(path.name for path in new)

    def finished(self, pass_index: int) -> Mapping[int, dict[str, object]]:
        """Return the finished groups of a pass that pieces hold, each with its counts."""
        return self._known.finished(pass_index)

    def field(self, name: str) -> FieldSpec:
        """Return the field of this name."""
        return self._known.field(name)

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        """Read a box of a field, joined from all pieces."""
        return self._known.read_field(name, box)

    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        """Read a box of a field in the dtype that is stored."""
        return self._known.read_stored_field(name, box)

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        """Store labels of level 0."""
        self._of(group).put_labels(group, box=box, labels=labels)

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:
        """Store values of a field."""
        self._of(group).put_field(group, name=name, box=box, values=values)

    def drop_group(self, group: GroupId) -> None:
        """Forget what was stored for a group that is not finished."""
        self._of(group).drop_group(group)

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        """Finish a group. The last group of a piece gives the piece its name.

        Raises:
            OutputError: The disk refuses it.
            SourceError: The piece must not be used.
        """
        journal = self._of(group)
        journal.finish_group(group, counts=counts)
        self._left.discard(group.index)
        self._finished(group)
        if not self._left:
            self._check()
            self._journal = None
            path = self._folder.path / self._name
            journal.publish(path)
            if self._is_own:
                self._attach([path])

    def close(self) -> None:
        """Close all files. A piece that is not whole is deleted."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.discard()
        if self._is_own:
            self._known.close()

    def _of(self, group: GroupId) -> Journal:
        """Return the journal of the piece that a group belongs to."""
        if self._journal is None:
            if not self._folder.exists:
                # A worker that is late must not make the folder of a finished mask anew.
                raise OutputError(
                    "the folder of the pieces is gone, as it is when the mask is complete",
                    file=self._folder.path,
                    advice="Run the same command again: it finds the mask, or begins it anew",
                )
            run = self._runs[group.pass_index, group.index]
            self._left = set(run)
            self._name = piece_name(group.pass_index, run[0], run[-1])
            self._journal = Journal.open(self._folder.working(self._name), header=self._header)
        return self._journal


def _runs(groups: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut numbers into runs of numbers that rise without gaps, of a bounded length."""
    rest = iter(groups)
    run = list(islice(rest, 1))
    for group in rest:
        if group != run[-1] + 1 or len(run) >= most:
            yield run
            run = []
        run.append(group)
    if run:
        yield run


def missing_groups(known: StoredGroups, passes: Iterable[tuple[int, int]]) -> int:
    """Return how many groups no piece holds.

    Args:
        known: The pieces.
        passes: Number and groups of each pass.
    """
    return sum(groups - len(known.finished(number)) for number, groups in passes)


def _short(value: str | None) -> str:
    return "nothing" if value is None else value if len(value) <= 16 else f"{value[:12]}..."  # noqa: PLR2004 - a hash
