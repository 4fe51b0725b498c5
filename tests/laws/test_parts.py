"""Law 1 for one image that several jobs share: any parts, pieces, kills and orders make the mask of one process."""

from __future__ import annotations

import shutil
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.masks.journal import Journal, StoredGroups
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.part_note import PartNote
from magnet_cli.masks.pieces import PieceFolder
from magnet_cli.masks.targets import Target
from magnet_cli.models.networks import Networks
from magnet_cli.options.parts import JobPart
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.run.mask_run import MaskRun
from magnet_cli.run.readers import Readers
from magnet_cli.segmentation import image_parts
from magnet_cli.segmentation.image_parts import ImageParts, assemble
from magnet_cli.segmentation.image_series import image_run
from magnet_cli.segmentation.part_groups import groups_of_part, in_turn
from magnet_cli.segmentation.segment_model import load_model
from tests.laws.driver import Script, forked
from tests.laws.shared_work import Work, check_equal, made_work
from tests.laws.support import KILLED, magnet, report_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from torch import Tensor

    from magnet_cli.masks.header import JournalHeader
    from magnet_cli.segmentation.image_run import ImageResult

if sys.platform == "win32":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

MANY = 24
"""Number of parts, larger than the number of groups in the last pass."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return made_work(tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize(
    ("count", "groups"),
    [
        *(pytest.param(count, 5, marks=pytest.mark.full) for count in (1, 2)),
        (2, 1),
        (3, 5),
        pytest.param(MANY, 1, marks=pytest.mark.full),
    ],
)
def test_parts_make_the_mask_of_one_process(work: Work, tmp_path: Path, count: int, groups: int) -> None:
    mask = tmp_path / "out" / "m.tif"
    done = [computed(work, mask, JobPart(index=index, count=count), groups) for index in reversed(range(count))]
    last = next(number for number, result in enumerate(done) if result.status == "done")
    # Where there are more parts than groups, some have nothing to do, before the mask is complete or after.
    assert {result.status for result in done[:last]} <= {"part done"}
    assert {result.status for result in done[last + 1 :]} <= {"already done"}
    assert last == count - 1 or count == MANY
    check_equal(work, mask)
    assert computed(work, mask, JobPart(index=0, count=count), groups).status == "already done"


def computed(
    work: Work, mask: Path, part: JobPart, groups: int | None = None, events: Events | None = None
) -> ImageResult:
    options = SegmentOptions(
        weights=work.bundle, scales="512,256,128,64,32", overlap="4", batch_size=1, probabilities=True
    )
    model = load_model(options, Events())
    run = image_run(Target(image=str(work.image), mask=mask), model, options, events or Events())
    return ImageParts(run=run, groups=groups).computed(part)


FAST = (
    "--method=magnet-fast",
    "--scales=128,64,32",
    "--patches=4,2",
    "--overlap=8",
    "--batch-size=1",
    "--num-workers=0",
    "--probabilities",
)


class InTurn:
    """Lets parts compute in one process, of which each runs one forward pass and then waits for the others.

    Args:
        monkeypatch: Puts the turns into the networks.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows = 0
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()
        self._numbers: dict[int, int] = {}
        real = Networks.predict

        def predict(networks: Networks, patches: Tensor, scale: Size) -> Tensor:
            number = self._numbers.get(threading.get_ident())
            if number is not None:
                self.windows += len(patches)
                self._waiting.append(self._waiting.popleft())
                self._await(number)
            return real(networks, patches, scale)

        monkeypatch.setattr(Networks, "predict", predict)
        # The patches by which parts are compared are no windows of the image.
        monkeypatch.setattr(image_parts, "probe", lambda *_, **__: "alike")

    def run(self, parts: Sequence[Callable[[], ImageResult]]) -> list[ImageResult]:
        """Run parts and return their results."""
        self._waiting.extend(range(len(parts)))
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(self._part, range(len(parts)), parts))

    def _part(self, number: int, part: Callable[[], ImageResult]) -> ImageResult:
        self._numbers[threading.get_ident()] = number
        self._await(number)
        try:
            return part()
        finally:
            with self._changed:
                self._waiting.remove(number)
                self._changed.notify_all()

    def _await(self, number: int) -> None:
        with self._changed:
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._waiting[0] == number, timeout=60)


@pytest.mark.full
@pytest.mark.parametrize("count", [2, 4])
def test_parts_that_begin_together_use_what_others_have_left(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages of MagNet-Fast are passes of the same blocks, so parts need coarse results of each other."""
    work = made_work(tmp_path, method=FAST, size=Size(width=900, height=900))
    mask, turns = tmp_path / "out" / "m.tif", InTurn(monkeypatch)
    options = SegmentOptions(
        weights=work.bundle,
        method="magnet-fast",
        scales="128,64,32",
        patches="4,2",
        overlap="8",
        batch_size=1,
        num_workers=0,
        probabilities=True,
    )
    model = load_model(options, Events())
    run = image_run(Target(image=str(work.image), mask=mask), model, options, Events())
    plan = run.plan()
    assert [step.blocks for step in plan.passes] == [plan.passes[0].blocks] * 2
    parts = [partial(ImageParts(run=run).computed, JobPart(index=index, count=count)) for index in range(count)]
    results = turns.run(parts)
    assert sorted(result.status for result in results) == ["done", *["part done"] * (count - 1)]
    check_equal(work, mask)
    report: Any = report_of(mask)
    one = sum(stage["windows_run"] for step in report["passes"] for stage in step["stages"])
    needed = sum(len(groups_of_part(plan, JobPart(index=index, count=count))[0]) for index in range(count))
    assert needed > 1.1 * plan.groups(plan.passes[0])
    assert one <= turns.windows < 1.1 * one


def test_a_part_computes_what_others_need_before_what_it_needs_of_others() -> None:
    groups, own = range(2, 23), range(8, 17)
    assert in_turn(groups, own, most=1)[:9] == [8, 16, 9, 15, 10, 14, 11, 13, 12]
    # What the neighbours come to last: the farthest of those before, and the farthest of those after.
    assert in_turn(groups, own, most=1)[9:] == [*range(2, 8), *range(22, 16, -1)]
    assert in_turn(groups, own, most=4) == [*range(8, 12), 16, *range(12, 16), *range(2, 8), 21, 22, *range(17, 21)]
    assert in_turn([3, 5], range(4), most=2) == [3, 5]
    assert sorted(in_turn(groups, own, most=3)) == list(groups)


@pytest.mark.parametrize(("fault", "at"), [("half a record", 30), ("group not finished", 4), ("before the rename", 1)])
def test_a_part_that_is_killed_is_started_again(work: Work, tmp_path: Path, fault: str, at: int) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    assert magnet(*work.part(mask, 1, 2)).code == 0
    assert forked(Script(words=work.part(mask, 0, 2), log=str(log), fault=fault, at=at)) == KILLED
    assert not mask.exists()
    # It goes on, now as three parts.
    for index in (0, 1, 2):
        assert magnet(*work.part(mask, index, 3)).code == 0
    check_equal(work, mask)


def test_killed_while_pieces_are_joined(work: Work, tmp_path: Path) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    assert magnet(*work.part(mask, 0, 2)).code == 0
    assert forked(Script(words=work.part(mask, 1, 2), log=str(log), fault="before the journal goes")) == KILLED
    assert magnet("assemble", mask).code == 0
    check_equal(work, mask)


def test_a_part_that_runs_twice_does_no_harm(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "out" / "m.tif"
    begin, again = Readers.begin, [True]

    def twice(self: Readers, *words: object) -> None:
        if again and again.pop():
            # Both have read which pieces are missing before either has left one.
            computed(work, mask, JobPart(index=0, count=2), 2)
        begin(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Readers, "begin", twice)
    assert computed(work, mask, JobPart(index=0, count=2), 3).status == "part done"
    assert computed(work, mask, JobPart(index=1, count=2), 3).status == "done"
    check_equal(work, mask)


def test_pieces_are_joined_without_a_network(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "out" / "m.tif"
    computed(work, mask, JobPart(index=0, count=2))
    missing = magnet("assemble", mask)
    assert missing.code == 5
    assert "groups of windows are in no piece" in missing.said
    # The last part has no time left to join them.
    with monkeypatch.context() as patched:
        patched.setattr(ImageParts, "made", lambda self, *_: self.run.done({}))
        computed(work, mask, JobPart(index=1, count=2))
    assert not mask.exists()
    monkeypatch.chdir(tmp_path)
    assert magnet("assemble", Path("out") / "m.tif.pieces").code == 0
    check_equal(work, mask)
    again = magnet("assemble", mask)
    assert again.code == 0
    assert "already done" in again.said


def test_a_second_assembler_is_refused(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "out" / "m.tif"
    with monkeypatch.context() as patched:
        patched.setattr(ImageParts, "made", lambda self, *_: self.run.done({}))
        for index in range(2):
            computed(work, mask, JobPart(index=index, count=2))
    ended, refused = Journal.end, list[str]()

    def second(self: Journal) -> None:
        if not refused and self.path == OutputPaths.of(mask).journal:
            refused.append("")
            with pytest.raises(OutputError) as caught:
                assemble(mask)
            refused.append(str(caught.value))
            # A part that is last sees that another makes the mask, and ends well.
            assert computed(work, mask, JobPart(index=0, count=2)).status == "part done"
        ended(self)

    monkeypatch.setattr(Journal, "end", second)
    assert assemble(mask).status == "done"
    assert "another run is writing this output" in refused[1]
    check_equal(work, mask)


@pytest.mark.parametrize(
    ("name", "value"), [("bundle", "b"), ("input", "i"), ("options", "o"), ("version", "0.0.1"), ("probe", "p")]
)
def test_a_part_that_would_compute_otherwise_is_refused_by_name(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    mask = tmp_path / "out" / "m.tif"
    computed(work, mask, JobPart(index=0, count=2))
    facts = ImageParts.facts
    monkeypatch.setattr(ImageParts, "facts", lambda self, *words: {**facts(self, *words), name: value})
    with pytest.raises(OutputError) as caught:
        computed(work, mask, JobPart(index=1, count=2))
    assert f"another {name}" in str(caught.value)
    assert not mask.exists()


@pytest.mark.parametrize("at", [0, -1])
def test_a_part_whose_networks_give_another_last_bit_is_refused(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    mask = tmp_path / "out" / "m.tif"
    computed(work, mask, JobPart(index=0, count=2))
    predict = Networks.predict

    def odd(self: Networks, patches: Tensor, scale: Size) -> Tensor:
        found = predict(self, patches, scale).clone()
        values = found.view(-1)
        values[at] = torch.nextafter(values[at], values[at] + 1)
        return found

    monkeypatch.setattr(Networks, "predict", odd)
    with pytest.raises(OutputError, match="another probe"):
        computed(work, mask, JobPart(index=1, count=2))
    assert not mask.exists()


def test_parts_take_the_threads_of_the_first(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "out" / "m.tif"
    computed(work, mask, JobPart(index=0, count=2))
    monkeypatch.setattr(image_parts, "usable_cores", lambda: 2)
    assert computed(work, mask, JobPart(index=1, count=2)).status == "done"
    check_equal(work, mask)


def test_an_input_that_changes_leaves_no_piece(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = tmp_path / "changing.tif", tmp_path / "out" / "m.tif"
    image.write_bytes(work.image.read_bytes())
    changed, publish = Work(image=image, bundle=work.bundle, mask=mask), Journal.finish_group

    def touched(self: Journal, *words: object, **more: object) -> None:
        image.touch()
        publish(self, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "finish_group", touched)
    with pytest.raises(SourceError, match="changed while it was read"):
        computed(changed, mask, JobPart(index=0, count=2))
    assert PieceFolder.of(mask).pieces() == []


def test_a_part_that_is_late_takes_the_mask_that_another_has_just_made(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has let go of the journal, and is deleting the pieces."""
    mask, pieces = tmp_path / "out" / "m.tif", PieceFolder.of(tmp_path / "out" / "m.tif").path
    with monkeypatch.context() as patched:
        patched.setattr(ImageParts, "made", lambda self, *_: self.run.done({}))
        for index in range(2):
            computed(work, mask, JobPart(index=index, count=2))
    begin, attach, other = MaskRun._journal, StoredGroups.attach, list[str]()

    def late(self: MaskRun, stack: ExitStack) -> Journal:
        if not other:
            other.append("makes the mask")
            shutil.copytree(pieces, tmp_path / "copy")
            assert assemble(mask).status == "done"
            shutil.copytree(tmp_path / "copy", pieces)
            other.append("deletes the pieces")
        return begin(self, stack)

    def deleted(self: StoredGroups, paths: list[Path], header: JournalHeader) -> None:
        if isinstance(self, Journal) and other[-1:] == ["deletes the pieces"]:
            other.append("is done")
            attach(self, paths[:1], header)
            shutil.rmtree(pieces)
        attach(self, paths, header)

    monkeypatch.setattr(MaskRun, "_journal", late)
    monkeypatch.setattr(StoredGroups, "attach", deleted)
    assert computed(work, mask, JobPart(index=0, count=2)).status == "already done"
    assert other[-1] == "is done"
    check_equal(work, mask)
    assert not OutputPaths.of(mask).journal.exists()


def test_a_note_that_comes_while_the_pieces_are_deleted_leaves_no_folder(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has made the mask, and has listed what it deletes."""
    mask = tmp_path / "out" / "m.tif"
    pieces, end = PieceFolder.of(mask), PartNote.end
    with monkeypatch.context() as patched:
        patched.setattr(ImageParts, "made", lambda self, *_: self.run.done({}))
        for index in range(2):
            computed(work, mask, JobPart(index=index, count=2))
    late = list[PartNote]()

    def listed(path: Path, **_: Any) -> None:
        found = sorted(path.iterdir())
        assert not pieces.exists
        end(late[0])
        for entry in found:
            entry.unlink()
        with suppress(OSError):
            path.rmdir()
        assert path.exists()

    def ended(self: PartNote) -> None:
        late.append(self)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", listed)
            assert assemble(mask).status == "done"

    monkeypatch.setattr(PartNote, "end", ended)
    assert computed(work, mask, JobPart(index=0, count=2)).status == "already done"
    assert late
    assert not pieces.path.exists()
    check_equal(work, mask)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method=magnet-fast", "--budget=30%"), "scores of the whole pass"),
        (("--compat=published", "--overlap=0"), "the image as a whole"),
        (("--overwrite",), "--overwrite"),
        (("--refine=guided",), "--refine"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_reason(
    work: Work, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    found = magnet(*work.part(tmp_path / "m.tif", 0, 2), *more)
    assert found.code == 2
    assert said in found.said
