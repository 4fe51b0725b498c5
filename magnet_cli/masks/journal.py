"""Everything a run has finished, in one append-only file beside the target, until the mask is assembled from it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np
from typing_extensions import override

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec
from magnet_cli.masks.compression import by_threads
from magnet_cli.masks.fields import FieldReader
from magnet_cli.masks.header import JournalHeader, check_hashes
from magnet_cli.masks.journal_files import SPAN, JournalFiles
from magnet_cli.masks.records import FIELD_META, GROUP_META, TILE_META, Kind, Record, pack
from magnet_cli.masks.replay import LABELS, Catalogue, find_header, first_record, replay
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskSpec, Part, parts
from magnet_cli.masks.store_file import StoreFile, SyncPolicy
from magnet_cli.system import durable
from magnet_cli.system.closing import Closing, undone_on_failure
from magnet_cli.system.working_files import publish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.masks.journal_files import RecordFile

CACHE_BYTES = 64 << 20


class FinishedGroups(Mapping[int, dict[str, object]]):
    """Counts by group, read from the journal one by one: a gigapixel run has hundreds of thousands.

    Args:
        files: The journal's files.
        starts: The offset of each group's record, by group.
    """

    def __init__(self, files: JournalFiles, *, starts: dict[int, int]) -> None:
        self._files = files
        self._starts = starts

    def __getitem__(self, group: int) -> dict[str, object]:
        counts: dict[str, object] = json.loads(self._files.read(self._starts[group]).payload)
        return counts

    def __iter__(self) -> Iterator[int]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)


def drop_journal(path: Path, *, hashes: Mapping[str, str], overwrite: bool) -> None:
    """Delete the journal that an interrupted run has left at `path`; nothing where none was left.

    Args:
        path: The path of the journal.
        hashes: The hashes of the run, as `JournalHeader` has them.
        overwrite: Whether what a run with other inputs or options left is deleted, too.

    Raises:
        OutputError: Another run owns the journal, or it belongs to other inputs or options.
    """
    if not path.exists():
        return
    store = StoreFile.own(path, sync=SyncPolicy())
    with undone_on_failure(store.close):
        record = None if overwrite else first_record(store)
        if record is not None:
            check_hashes(JournalHeader.parse(record.payload, file=path).hashes, hashes, file=path)
        store.remove()


class StoredGroups(Closing):
    """The finished groups of a run, read from one file or from several. Every method is safe from several threads.

    Args:
        header: The header of the files.
        own: The file that a journal writes, or that grows while it is read; None where all files are whole.
        cache_bytes: Bound of the decoded field chunks kept in memory.
    """

    def __init__(self, header: JournalHeader, own: RecordFile | None = None, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._header = header
        self._files = JournalFiles(own)
        self._catalogue = Catalogue(header)
        self._changing = threading.Lock()
        self._numbers = {entry.name: number for number, entry in enumerate(header.fields)}
        self._fields = FieldReader(
            self._files, catalogue=self._catalogue, fields=header.fields, cache_bytes=cache_bytes
        )

    def attach(self, paths: Iterable[Path], header: JournalHeader) -> None:
        """Read the groups of other journals as if they stood in this one. A group that is known already is left out.

        No group of this journal may be begun and not finished at the time.

        Args:
            paths: Whole journals to which no process writes any more.
            header: The header that they must have.

        Raises:
            OutputError: A file is damaged, or belongs to something else.
        """
        for path in paths:
            for number, record in enumerate(self._files.add(path)):
                if number == 0:
                    header.check(record.payload if record.kind is Kind.HEADER else b"{}", file=path)
                elif record.kind is not Kind.END:
                    with self._changing:
                        self._catalogue.take(replace(record, payload=b""))

    @property
    def header(self) -> JournalHeader:
        """The hashes, the mask and the fields of the run to which the journal belongs."""
        return self._header

    @property
    def spec(self) -> MaskSpec:
        """The mask that will be made of it."""
        return self._header.spec

    @property
    def index_bytes(self) -> int:
        """Memory that the index of pieces holds."""
        return sum(layer.nbytes for layer in self._catalogue.layers.values())

    def field(self, name: str) -> FieldSpec:
        """Return the field of this name; KeyError where the header has none."""
        return self._header.fields[self._numbers[name]]

    def finished(self, pass_index: int) -> Mapping[int, dict[str, object]]:
        """Return the finished groups of a pass, each with its counts, which are read when they are asked for."""
        with self._changing:
            starts = {key.index: at for key, at in self._catalogue.finished.items() if key.pass_index == pass_index}
        return FinishedGroups(self._files, starts=dict(sorted(starts.items())))

    def is_finished(self, group: GroupId) -> bool:
        """Return whether a group's work is complete and need not be done again."""
        return group in self._catalogue.finished

    def stored_tile(self, row: int, col: int) -> bytes | None:
        """Return a tile as the mask's file holds it, where one group stored all of it; otherwise None."""
        pieces = self._catalogue.pieces(LABELS, row, col)
        return self._files.read(pieces[-1].start).payload if pieces and pieces[-1].whole else None

    def tile(self, row: int, col: int) -> NDArray[np.uint8]:
        """Return the labels of a tile, `(tile, tile)` uint8, joined from its pieces; 255 where there are none."""
        side = self.spec.tile
        labels = np.full((side, side), NODATA, dtype=np.uint8)
        for piece in self._catalogue.pieces(LABELS, row, col):
            payload, box = self._files.read(piece.start).payload, piece.box
            if piece.whole:
                labels[:] = codec.decode_tile(payload, side=side, compression=self.spec.compression)
            else:
                labels[box.slices] = codec.decode_fragment(payload, height=box.height, width=box.width)
        return labels

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        """Return the values of a field in a box of its canvas grid, joined from finished groups.

        Args:
            name: The name of the field.
            box: A box of the canvas grid.

        Returns:
            `(bands, height, width)` float16 0..1, NaN where no finished group has stored any.

        Raises:
            OutputError: The journal is damaged.
        """
        stored = self.read_stored_field(name, box)
        return codec.dequantise(stored.astype(np.uint8)) if stored.dtype == np.uint8 else stored.astype(np.float16)

    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        """Read a box like `read_field`, in the stored dtype; for uint8 the value 255 stands for not computed."""
        self._check(box, within=Box.whole(self.field(name).size), shape=(box.height, box.width))
        return self._fields.read(self._numbers[name], box=box)

    def drop_cache(self) -> None:
        """Free the memory of decoded field chunks."""
        self._fields.cache.clear()

    def close(self) -> None:
        """Close the files that were attached."""
        self._files.close()

    @staticmethod
    def _check(box: Box, *, within: Box, shape: tuple[int, ...]) -> None:
        if not within.contains(box) or shape != (box.height, box.width):
            message = f"a box fits its grid and its values, got {box} in {within} for an array of {shape}"
            raise ValueError(message)


class Journal(StoredGroups):
    """The journal of one mask. Every method is safe from several threads; `open` makes it.

    Work of a group becomes visible to readers, and survives, once `finish_group` has returned.
    """

    def __init__(self, store: StoreFile, *, header: JournalHeader, cache_bytes: int, threaded: bool) -> None:
        super().__init__(header, store, cache_bytes=cache_bytes)
        self._store = store
        self._each = by_threads if threaded else map
        self._classes = len(header.spec.classes)
        self.repairs: tuple[str, ...] = ()
        """Sentences about records that were lost to damage; empty for a whole journal or one with a torn tail."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        header: JournalHeader,
        resume: bool = True,
        overwrite: bool = False,
        sync: SyncPolicy | None = None,
        cache_bytes: int = CACHE_BYTES,
        threaded: bool = False,
    ) -> Self:
        """Become the owner of the journal at `path` and replay it, or start a new one.

        Args:
            path: The journal's file beside the target, as `OutputPaths.journal` names it.
            header: The hashes, the mask and the fields of the run.
            resume: False drops what an earlier run left.
            overwrite: Drop what a run with other inputs or options left, instead of refusing it.
            sync: When finished groups are flushed to the disk.
            cache_bytes: Bound of the decoded field chunks kept in memory.
            threaded: Whether several threads compress what is put. Beside networks on the same cores that costs more
                than it saves.

        Raises:
            OutputError: Another run owns the journal, it belongs to other inputs or options, or it cannot be written or
                read.
        """
        store = StoreFile.own(path, sync=sync or SyncPolicy())
        journal = cls(store, header=header, cache_bytes=cache_bytes, threaded=threaded)
        with ExitStack() as undo:
            # If anything below fails, the lock must be released again: this process may go on with the next image.
            undo.callback(store.close)
            record = find_header(store, header=header, overwrite=overwrite) if resume else None
            if record is None:
                undo.callback(store.remove)  # a journal that cannot be begun holds nothing
                store.start(header.encode())
            else:
                journal.repairs = replay(store, journal._catalogue, start=record.end)
            # Groups that the process before has begun and not finished count for nothing from here on. Their records
            # stay in the file, but this run computes those groups again.
            journal._append(Kind.OPENED)
            undo.pop_all()
        return journal

    @property
    def path(self) -> Path:
        """The path of the journal's file."""
        return self._store.path

    @property
    def is_there(self) -> bool:
        """Whether a later run would find the journal under its name."""
        return self._store.is_there

    @property
    def holds_groups(self) -> bool:
        """Whether its own file has finished groups; those of attached files do not count."""
        with self._changing:
            return any(start < SPAN for start in self._catalogue.finished.values())

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        """Store labels of level 0.

        Args:
            group: The group that the labels belong to.
            box: The box of the labels, inside level 0.
            labels: `(height, width)` uint8, each a class or 255.

        Raises:
            OutputError: The disk refuses it.
            ValueError: The box does not fit, or a label is neither a class nor 255.
        """
        self._check(box, within=Box.whole(self.spec.size), shape=labels.shape)
        if labels.dtype != np.uint8 or not ((labels < self._classes) | (labels == NODATA)).all():
            message = f"labels are uint8, a class or {NODATA}, got {labels.dtype} in box {box} of {group}"
            raise ValueError(message)

        def packed(part: Part) -> bytes:
            return self._packed(part, labels[part.box.shifted(x=-box.x, y=-box.y).slices])

        # Compression runs in threads, but records are appended in the order of the parts, so that the same work writes
        # the same journal.
        places = list(parts(box, self.spec.tile))
        for part, payload in zip(places, self._each(packed, places), strict=True):
            meta = TILE_META.pack(group.pass_index, group.index, *_place(part), self.spec.covers(part))
            self._append(Kind.TILE, meta=meta, payload=payload)

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:
        """Store values of a field.

        Args:
            group: The group that the values belong to.
            name: The name of the field.
            box: The box of the values, on the field's canvas grid and inside it.
            values: `(bands, height, width)`, floating 0..1 with NaN for not computed; or, for a uint8 field, uint8 as
                it is stored.

        Raises:
            OutputError: The disk refuses it.
            ValueError: The box or the bands do not fit.
        """
        entry = self.field(name)
        self._check(box, within=Box.whole(entry.size), shape=values.shape[1:])
        if values.shape[0] != entry.bands:
            message = f"field {name} has {entry.bands} bands, got {values.shape[0]}"
            raise ValueError(message)

        def packed(part: Part) -> bytes:
            rows, cols = part.box.shifted(x=-box.x, y=-box.y).slices
            return codec.encode_chunk(_as_stored(values[:, rows, cols], dtype=entry.dtype))

        places = list(parts(box, entry.side))
        for part, payload in zip(places, self._each(packed, places), strict=True):
            meta = FIELD_META.pack(group.pass_index, group.index, self._numbers[name], *_place(part))
            self._append(Kind.FIELD, meta=meta, payload=payload)

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        """Record that all of a group's work is stored. The record is flushed to the disk with the next few.

        Raises:
            OutputError: The disk refuses it.
        """
        # The count of records lets replay notice that one of them was damaged or lost: the group then does not count as
        # finished.
        payload = json.dumps(dict(counts), sort_keys=True).encode()
        with self._changing:
            # Reader threads and the writer use the catalogue at the same time. Offset and catalogue change together, or
            # a reader could find a group whose pieces are not in the index yet.
            meta = GROUP_META.pack(group.pass_index, group.index, self._catalogue.count(group))
            start = self._store.append(pack(Kind.GROUP, meta=meta, payload=payload))
            self._catalogue.finish(group, start=start)
        self._store.flush(force=False)

    def drop_group(self, group: GroupId) -> None:
        """Forget what a group has stored since it was begun, because it failed or will be tried again."""
        self._append(Kind.DROP, meta=GROUP_META.pack(group.pass_index, group.index, 0))

    def end(self) -> None:
        """Record that every group is finished, and flush."""
        self._append(Kind.END)
        self._store.flush()

    @property
    def ended(self) -> bool:
        """Whether every group is finished."""
        return self._catalogue.ended

    def discard(self) -> None:
        """Delete the journal: its mask is complete."""
        self._store.remove()

    def set_aside(self) -> Path:
        """Rename the journal to `x.tif.changed.journal`, so that no run resumes it, and unlock it.

        Returns:
            The path of the file.
        """
        return self._store.set_aside()

    def publish(self, path: Path) -> None:
        """End the journal and give it its name among the pieces of a run, where others read it.

        Raises:
            OutputError: The disk refuses it.
        """
        self.end()
        self.close()
        with durable.writing(path):
            publish(self.path, path)

    @override
    def close(self) -> None:
        """Flush and release the lock; a later run may resume."""
        super().close()
        self._store.close()

    def _packed(self, part: Part, labels: NDArray[np.uint8]) -> bytes:
        """Return the compressed labels of a part of a tile.

        A part that covers its tile is compressed as in the mask's file, so that it can be copied there.
        """
        if not self.spec.covers(part):
            return codec.encode_fragment(labels)
        padded = np.full((self.spec.tile, self.spec.tile), NODATA, dtype=np.uint8)
        padded[part.inner.slices] = labels
        return codec.encode_tile(padded, compression=self.spec.compression)

    def _append(self, kind: Kind, *, meta: bytes = b"", payload: bytes = b"") -> None:
        data = pack(kind, meta=meta, payload=payload)
        with self._changing:
            start = self._store.append(data)
            self._catalogue.take(Record(kind=kind, meta=meta, start=start, payload=b"", intact=True))


def _place(part: Part) -> tuple[int, ...]:
    return part.row, part.col, part.inner.x, part.inner.y, part.inner.width, part.inner.height


def _as_stored(values: NDArray[np.generic], *, dtype: str) -> NDArray[np.generic]:
    if dtype == "uint8" and values.dtype != np.uint8:
        return codec.quantise(values.astype(np.float32))
    return values.astype(dtype, copy=False)
