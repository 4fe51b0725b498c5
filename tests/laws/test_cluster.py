"""Law 1 for the workers of a cluster: any workers, tasks, kills and orders make the mask of one process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli import __version__
from magnet_cli.errors import DeviceError, OutputError, UsageError
from magnet_cli.events import Events, Step
from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.pieces import PieceFolder
from magnet_cli.masks.store_file import StoreFile, SyncPolicy
from magnet_cli.masks.targets import Target
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.spelling import options_of_words
from magnet_cli.run.readers import Readers
from magnet_cli.scene import Scene, write_scene
from magnet_cli.segmentation.cluster import connection, crew, worker_session
from magnet_cli.segmentation.cluster.cluster_image import planning_model, worded
from magnet_cli.segmentation.cluster.cluster_run import run_on_workers
from magnet_cli.segmentation.cluster.cluster_series import ClusterSeries
from magnet_cli.segmentation.cluster.crew import Crew, Shift, known_workers
from magnet_cli.segmentation.cluster.worker_session import Session
from magnet_cli.segmentation.cluster.worker_tasks import answer
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.durable import BUSY
from tests.laws.driver import Script, forked
from tests.laws.shared_work import Work, check_equal, made_work
from tests.laws.support import KILLED, digest, magnet

dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client, LocalCluster

    from magnet_cli.segmentation.image_run import ImageResult

if sys.platform == "win32":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

SIZE = Size(width=600, height=400)
PATIENCE = 60
"""Seconds in which a worker has to come or go, also on a busy machine."""
BUDGET = ("--method=magnet-fast", "--budget=40%", "--scales=128,64", "--overlap=4", "--batch-size=1", "--probabilities")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return made_work(tmp_path_factory.mktemp("cluster"), size=SIZE)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[LocalCluster]:
    """Return a cluster in this process, whose workers come and go."""
    from benchmarks.scheduler import local_cluster  # noqa: PLC0415 - it imports an extra

    with local_cluster(1) as cluster:
        yield cluster


@dataclass
class Heard(Events):
    """Events that keep the messages of a run, and do something once when a share of it is done."""

    texts: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    once: list[Callable[[], None]] = field(default_factory=list)

    def message(self, text: str) -> None:
        self.texts.append(text)

    def step(self, step: Step) -> None:
        self.steps.append(step)
        if self.once and step.done > 1:
            self.once.pop()()


def made(
    work: Work,
    mask: Path,
    scheduler: LocalCluster,
    *,
    workers: int = 1,
    groups: int | None = None,
    events: Events | None = None,
    private: bool = False,
    memory: int | None = None,
) -> ImageResult:
    """Make the mask over workers."""
    options = SegmentOptions(**given(work), private=private, memory=memory)
    target = Target(image=str(work.image), mask=mask)
    with distributed.Client(scheduler, set_as_default=False) as client:
        scheduler.scale(workers)
        client.wait_for_workers(workers, timeout=PATIENCE)
        # Workers that an earlier run had beside these would take a task with them when they leave.
        end = time.monotonic() + PATIENCE
        while len(known_workers(client)) != workers:
            assert time.monotonic() < end
            time.sleep(0.02)
        found = run_on_workers(
            [target], options, events or Heard(), client, lambda: None, groups=groups, added=lambda *_: None
        )
        return next(iter(list(found)))


def given(work: Work) -> dict[str, Any]:
    return {"weights": work.bundle, **options_of_words(SegmentOptions, work.spaced())}


@pytest.mark.parametrize(
    ("workers", "groups"),
    [(1, 5), (2, 1), pytest.param(3, 5, marks=pytest.mark.full), pytest.param(2, None, marks=pytest.mark.full)],
)
def test_workers_make_the_mask_of_one_process(
    work: Work, tmp_path: Path, scheduler: LocalCluster, workers: int, groups: int | None
) -> None:
    mask, heard = tmp_path / "out" / "m.tif", Heard()
    result = made(work, mask, scheduler, workers=workers, groups=groups, events=heard)
    assert result.error is None
    assert result.status == "done"
    check_equal(work, mask)
    assert not [text for text in heard.texts if "refused" in text or "lost" in text]
    assert made(work, mask, scheduler).status == "already done"


@pytest.mark.full
def test_a_budget_over_workers_selects_what_one_process_selects(tmp_path: Path, scheduler: LocalCluster) -> None:
    work, mask = made_work(tmp_path, method=BUDGET, size=SIZE), tmp_path / "out" / "m.tif"
    assert made(work, mask, scheduler, workers=2, groups=5).error is None
    check_equal(work, mask)


def test_a_killed_coordinator_is_started_again(work: Work, tmp_path: Path, scheduler: LocalCluster) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    words = work.words(mask, f"--cluster={scheduler.scheduler_address}")
    assert forked(Script(words=words, log=str(log), fault="tasks of a cluster", at=4)) == KILLED
    left = {path.name for path in PieceFolder.of(mask).pieces()}
    assert left
    assert not mask.exists()
    # It goes on with another cutting, and computes nothing twice.
    asked: list[str] = []
    heard = Heard(once=[lambda: asked.extend(path.name for path in PieceFolder.of(mask).pieces())])
    assert made(work, mask, scheduler, groups=2, events=heard).error is None
    assert left <= set(asked)
    check_equal(work, mask)


def test_the_parts_of_a_killed_run_over_workers_are_assembled(
    work: Work, tmp_path: Path, scheduler: LocalCluster
) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    words = work.words(mask, f"--cluster={scheduler.scheduler_address}")
    assert forked(Script(words=words, log=str(log), fault="before the rename")) == KILLED
    assert magnet("assemble", mask).code == 0
    check_equal(work, mask)


def test_a_task_that_runs_twice_does_no_harm(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, begin, asked = tmp_path / "out" / "m.tif", Readers.begin, list[dict[str, Any]]()
    compute = worker_session.ANSWERS["compute"]

    def heard(question: dict[str, Any]) -> dict[str, object]:
        asked.append(question)
        return compute(question)

    def twice(self: Readers, *words: object) -> None:
        if len(asked) == 1:
            question = asked[0]
            asked.append({})
            # Both have found that the piece is missing before either has left it.
            other = Session.begin(question["job"], 1)
            assert not other.computed(question["pass"], question["first"], question["last"])["existed"]
            other.close()
        begin(self, *words)  # type: ignore[arg-type]

    monkeypatch.setitem(worker_session.ANSWERS, "compute", heard)
    monkeypatch.setattr(Readers, "begin", twice)
    assert made(work, mask, scheduler, groups=3).error is None
    assert asked[1] == {}
    check_equal(work, mask)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell PSS")
def test_the_command_does_not_plan_with_the_memory_of_its_workers(work: Work) -> None:
    large = 300 << 20
    worker = f"held = b'x' * {large}; print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        model = load_model(SegmentOptions(**given(work)), Events())
        planned = planning_model(model, {"tcp://x": {"device": "cpu", "precision": "float32", "engine": "torch"}})
        process.communicate("\n")
    assert planned.machine.base > 0
    assert model.machine.base - planned.machine.base > large // 2


def test_workers_of_one_machine_share_its_memory(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets, begin = list[int](), Session.begin

    def begun(job: dict[str, Any], neighbours: int) -> Session:
        session = begin(job, neighbours)
        budgets.append(session.plan.memory.budget)
        return session

    monkeypatch.setattr(Session, "begin", begun)
    assert made(work, tmp_path / "out" / "m.tif", scheduler, workers=2, memory=16 << 30).error is None
    assert len(budgets) >= 2
    assert set(budgets) == {8 << 30}


@pytest.mark.full
def test_all_processes_together_keep_within_the_memory_of_a_run(work: Work, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    budget, mask, highest, together = 3 << 30, tmp_path / "out" / "m.tif", dict[int, int](), [0]
    words = [sys.executable, "-m", "magnet_cli", *work.words(mask, "--cluster=local:2", f"--memory={budget}B")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        family = psutil.Process(process.pid)
        while process.poll() is None:
            now = dict[int, int]()
            # A process may end while it is looked at.
            with suppress(psutil.Error):
                for each in (family, *family.children(recursive=True)):
                    now[each.pid] = each.memory_full_info().pss
            together.append(sum(now.values()))
            highest = {pid: max(highest.get(pid, 0), now.get(pid, 0)) for pid in highest | now}
            time.sleep(0.1)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    check_equal(work, mask)
    # The command and two workers; what else belongs to them is smaller than a process that has loaded PyTorch.
    assert sum(used > 200 << 20 for used in highest.values()) == 3
    assert all(used <= budget // 2 for used in highest.values())
    assert max(together) <= budget


class Held:
    """A task that its worker holds back until the test lets go of it."""

    question: dict[str, Any] | None = None
    go_on = threading.Event()
    ended = threading.Event()


def answer_late(text: str) -> str:
    """Answer a question as workers do, the first task of the second pass late."""
    question = json.loads(text)
    if question["what"] != "compute" or question["pass"] != 1 or Held.question is not None:
        return answer(text)
    Held.question = question
    Held.go_on.wait(PATIENCE)
    try:
        return answer(text)
    finally:
        Held.ended.set()


def test_a_late_task_is_given_to_a_second_worker_whose_answer_counts(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = tmp_path / "out" / "m.tif"
    monkeypatch.setattr(crew, "answer", answer_late)
    assert made(work, mask, scheduler, workers=2, groups=2).error is None
    assert Held.question is not None
    assert not Held.ended.is_set()
    check_equal(work, mask)
    # What the late worker does after all leaves nothing behind.
    left = sorted(path.name for path in mask.parent.iterdir())
    Held.go_on.set()
    assert Held.ended.wait(PATIENCE)
    assert sorted(path.name for path in mask.parent.iterdir()) == left


def test_a_second_coordinator_is_refused(work: Work, tmp_path: Path, scheduler: LocalCluster) -> None:
    mask, second = tmp_path / "out" / "m.tif", list[Any]()
    heard = Heard(once=[lambda: second.append(made(work, mask, scheduler))])
    assert made(work, mask, scheduler, groups=2, events=heard).error is None
    assert isinstance(second[0].error, OutputError)
    assert "another run is writing this output" in str(second[0].error)
    check_equal(work, mask)


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.full) for name in ("bundle", "version", "threads")), "input", "probe"],
)
def test_a_worker_that_would_compute_otherwise_is_refused_by_name(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mask, heard = tmp_path / "out" / "m.tif", Heard()
    join, odd = worker_session.joined, list[str]()

    def answered(question: dict[str, Any]) -> dict[str, object]:
        found: dict[str, Any] = json.loads(json.dumps(join(question)))
        # One fact that all agree on is not enough where most of them would give other bits.
        if not odd or odd == [distributed.get_worker().address]:
            odd[:] = [distributed.get_worker().address]
            found["facts"][name] = "other"
        return found

    monkeypatch.setitem(worker_session.ANSWERS, "join", answered)
    result = made(work, mask, scheduler, workers=3, groups=5, events=heard)
    assert result.error is None
    refusals = [text for text in heard.texts if "refused" in text]
    assert len(refusals) == 1
    assert odd[0] in refusals[0]
    assert f"another {name}" in refusals[0]
    check_equal(work, mask)


def test_no_worker_that_sees_the_folder(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, heard, begin = tmp_path / "out" / "m.tif", Heard(), Session.begin

    def elsewhere(job: dict[str, Any], neighbours: int) -> Session:
        return begin({**job, "mask": str(tmp_path / "elsewhere" / "m.tif")}, neighbours)

    monkeypatch.setattr(Session, "begin", elsewhere)
    error = made(work, mask, scheduler, events=heard).error
    assert isinstance(error, DeviceError)
    assert "does not see the folder" in "".join(heard.texts)
    # Nothing is left behind by a run that has computed nothing.
    assert not PieceFolder.of(mask).path.exists()
    assert not mask.exists()


def test_what_workers_report_names_no_folder_of_a_private_run(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, heard, begin = tmp_path / "out" / "m.tif", Heard(), Session.begin

    def unsigned(job: dict[str, Any], neighbours: int) -> Session:
        return begin({**job, "sign": "none"}, neighbours)

    monkeypatch.setattr(Session, "begin", unsigned)
    assert isinstance(made(work, mask, scheduler, events=heard, private=True).error, DeviceError)
    text = "".join(heard.texts)
    assert "does not see the folder" in text
    assert str(tmp_path) not in text


def test_a_finished_image_of_a_private_folder_is_named_without_its_folder(folder: Path) -> None:
    heard = Heard()
    series = series_of(heard, SegmentOptions(private=True))
    target = Target(image=str(folder / "in" / "sub" / "0.tif"), mask=folder / "one" / "sub" / "0.tif")
    series._targets = [target]
    series._result(0, {"was_done": True, "exports": []})
    assert heard.texts == ["0.tif: already done"]


@pytest.mark.parametrize("hashes", [{"bundle": "other", "threads": "1"}, {}])
def test_pieces_of_other_options_are_no_fault_of_the_workers(
    work: Work, tmp_path: Path, scheduler: LocalCluster, hashes: dict[str, str]
) -> None:
    mask, heard = tmp_path / "out" / "m.tif", Heard()
    PieceFolder.of(mask).begin({"hashes": hashes})
    error = made(work, mask, scheduler, events=heard).error
    assert isinstance(error, OutputError)
    assert "another" in str(error)
    assert "bundle" in str(error)
    assert not [text for text in heard.texts if "refused" in text]


DEADLY = """
import os, signal
from magnet_cli.masks.pieces import PieceStore


def dask_setup(worker, finish=PieceStore.finish_group):
    os.sched_getaffinity = lambda process=0: {0}

    def finish_group(self, group, **counts):
        finish(self, group, **counts)
        try:
            os.unlink(MARK)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    PieceStore.finish_group = finish_group
"""
"""A module that workers load. The worker that first finds a file dies after the first group of its task."""


@pytest.mark.full
def test_a_worker_that_is_killed_takes_nothing_with_it(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No other worker takes the task as a late one and has finished it before the loss is known.
    monkeypatch.setattr(crew, "LATE", 1e9)
    mask, mark, preload, heard = tmp_path / "out" / "m.tif", tmp_path / "mark", tmp_path / "deadly.py", Heard()
    preload.write_text(f"MARK = {str(mark)!r}\n{DEADLY}", encoding="utf-8")
    mark.touch()
    own = {"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MALLOC_TRIM_THRESHOLD_": 65536}}
    with (
        dask.config.set(own),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            memory_limit="300MiB",
            preload=[str(preload)],
        ) as cluster,
    ):
        assert made(work, mask, cluster, workers=2, groups=1, events=heard).error is None
    assert not mark.exists()
    assert [text for text in heard.texts if "is lost" in text]
    check_equal(work, mask)


@pytest.fixture(scope="module")
def folder(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three images, one of which cannot be read, and make their masks by one process."""
    found = tmp_path_factory.mktemp("images")
    (found / "in" / "sub").mkdir(parents=True)
    for number in range(2):
        size = Size(width=200 + number, height=150)
        write_scene(found / "in" / "sub" / f"{number}.tif", Scene(size=size, seed=number, plain=True))
    (found / "in" / "bad.tif").write_bytes(b"II*\0nothing")
    assert magnet(*of_folder(work, found, "one")).code == 7
    return found


def of_folder(work: Work, folder: Path, output: str, *more: str) -> tuple[str, ...]:
    return (
        "segment",
        str(folder / "in"),
        f"--weights={work.bundle}",
        "--scales=64,32",
        "--format=geojson",
        "-o",
        str(folder / output),
        *more,
    )


def test_images_over_workers_are_those_of_one_process(
    work: Work, folder: Path, scheduler: LocalCluster, tmp_path: Path
) -> None:
    scheduler.scale(2)
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": scheduler.scheduler_address}), encoding="utf-8")
    ended = magnet(*of_folder(work, folder, "many", f"--scheduler-file={file}"))
    assert ended.code == 7
    assert "bad.tif" in ended.said
    written = sorted(path.relative_to(folder / "one") for path in (folder / "one").rglob("*") if path.is_file())
    assert Path("sub/1.geojson") in written
    assert written == sorted(
        path.relative_to(folder / "many") for path in (folder / "many").rglob("*") if path.is_file()
    )
    for path in written:
        if path.suffix == ".tif":
            assert digest(folder / "one" / path) == digest(folder / "many" / path)
    one, many = (json.loads((folder / name / "run.json").read_bytes()) for name in ("one", "many"))
    for key in ("state", "counts", "classes", "list"):
        assert many[key] == one[key], key
    assert [(row["status"], row.get("exit_code")) for row in many["images"]] == [
        (row["status"], row.get("exit_code")) for row in one["images"]
    ]
    again = magnet(*of_folder(work, folder, "many", f"--cluster={scheduler.scheduler_address}"))
    assert again.code == 7
    assert again.said.count("already done") >= 2


@pytest.mark.full
def test_a_last_stage_of_several_images_runs_on_their_workers(
    work: Work, folder: Path, scheduler: LocalCluster
) -> None:
    scheduler.scale(2)
    more = ("--refine=guided", f"--cluster={scheduler.scheduler_address}")
    assert magnet(*of_folder(work, folder, "refined", *more[:1])).code == 7
    assert magnet(*of_folder(work, folder, "shared", *more)).code == 7
    masks = sorted((folder / "refined").rglob("*.tif"))
    assert len(masks) == 4
    for path in masks:
        assert digest(path) == digest(folder / "shared" / path.relative_to(folder / "refined"))


def test_a_run_over_workers_stops_at_a_failure_where_that_is_asked_for(
    work: Work, folder: Path, scheduler: LocalCluster
) -> None:
    scheduler.scale(1)
    words = of_folder(work, folder, "stopped", f"--cluster={scheduler.scheduler_address}", "--on-error=fail")
    assert magnet(*words).code == 3
    assert json.loads((folder / "stopped" / "run.json").read_bytes())["state"] == "stopped"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--compat=published", "--overlap=0"), "the image as a whole"),
        (("--refine=guided",), "--refine"),
    ],
)
def test_what_workers_cannot_share_is_refused_with_the_reason(
    work: Work, tmp_path: Path, scheduler: LocalCluster, more: tuple[str, ...], said: str
) -> None:
    found = magnet(*work.words(tmp_path / "m.tif", f"--cluster={scheduler.scheduler_address}"), *more)
    assert found.code == 2
    assert said in found.said
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_is_not_there(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTING", 0.2)
    found = magnet(*work.words(tmp_path / "m.tif", "--cluster=tcp://127.0.0.1:9"))
    assert found.code == 6
    assert "no Dask scheduler answers" in found.said
    # The lines that Dask would log of it would stand beside the message.
    assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR)


def test_a_scheduler_without_the_encryption_that_dask_requires(
    work: Work, tmp_path: Path, scheduler: LocalCluster
) -> None:
    with dask.config.set({"distributed.comm.require-encryption": True}):
        found = magnet(*work.words(tmp_path / "m.tif", f"--cluster={scheduler.scheduler_address}"))
    assert found.code == 6
    assert "encryption required" in found.said


def test_a_python_program_names_no_scheduler_that_anybody_can_reach() -> None:
    with pytest.raises(UsageError, match="can run programs as you"), connection.connected("tcp://10.0.0.7:8786"):
        pass


def test_a_scheduler_file_whose_address_anybody_can_reach(work: Work, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": "tcp://10.0.0.7:8786"}), encoding="utf-8")
    found = magnet(*work.words(tmp_path / "m.tif", f"--scheduler-file={file}"))
    assert found.code == 2
    assert "--scheduler-file" in found.said
    assert "--protocol tls" in found.said
    file.write_text("{}", encoding="utf-8")
    assert "holds no address" in magnet(*work.words(tmp_path / "m.tif", f"--scheduler-file={file}")).said


def test_a_scheduler_with_tls_needs_certificates(work: Work, tmp_path: Path) -> None:
    found = magnet(*work.words(tmp_path / "m.tif", "--cluster=tls://127.0.0.1:9"))
    assert found.code == 2
    assert "needs a certificate" in found.said
    file = str(tmp_path / "none.pem")
    with dask.config.set({"distributed.comm.tls.ca-file": file, "distributed.comm.tls.client.cert": file}):
        found = magnet(*work.words(tmp_path / "m.tif", "--cluster=tls://127.0.0.1:9"))
    assert found.code == 2
    assert "No such file" in found.said


def test_a_scheduler_that_listens_everywhere_is_refused(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler without --host is reached on loopback as well as from other machines."""
    monkeypatch.setattr(
        distributed.Client, "scheduler_info", lambda *_, **__: {"address": "tcp://10.0.0.7:8786", "workers": {}}
    )
    found = magnet(*work.words(tmp_path / "m.tif", f"--cluster={scheduler.scheduler_address}"))
    assert found.code == 2
    assert "tcp://10.0.0.7:8786" in found.said


@dataclass
class Errand:
    """Work that has one task, whichever worker answers first."""

    what: str

    def greeting(self, worker: str) -> dict[str, Any]:
        return {"what": "greet", "worker": worker}

    def objection(self, worker: str, found: dict[str, Any]) -> None:
        assert found == {"worker": worker}

    def question(self, worker: str, task: int) -> dict[str, Any]:
        return {"what": self.what, "worker": worker, "task": task}


def errand(client: Client, what: str) -> Shift[int]:
    tasks = iter([0])
    return Shift(crew=Crew(client=client, events=Heard()), work=Errand(what), following=lambda _: next(tasks, None))


def test_workers_are_counted_although_dask_has_stored_none(
    scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.scale(1)
    with distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        crew = Crew(client=client, events=Heard())

        # Dask's periodic query may end between a question of ours and the reading of its answer.
        async def updated(self: Client, n_workers: int = 0) -> None:
            del n_workers
            self._scheduler_identity = {"workers": {}}

        monkeypatch.setattr(distributed.Client, "_update_scheduler_info", updated)
        crew.refresh()
        assert crew.hosts


def test_a_scheduler_that_is_gone_ends_a_run_with_its_own_error(
    scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.scale(1)
    with distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)

        def closing(question: dict[str, Any]) -> dict[str, Any]:
            client.close()
            return question

        monkeypatch.setitem(worker_session.ANSWERS, "greet", lambda question: {"worker": question["worker"]})
        monkeypatch.setitem(worker_session.ANSWERS, "close", closing)
        shift = errand(client, "close")
        with pytest.raises(DeviceError, match="does not answer any more"):
            list(shift.results())
        with pytest.raises(DeviceError, match="does not answer any more"):
            shift.crew.submit(next(iter(shift.crew.hosts)), {})


def test_a_task_that_is_given_again_says_so(scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler.scale(1)
    asked: list[bool] = []

    def failing_once(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question["again"])
        return {"lost": True} if len(asked) == 1 else {"done": True}

    monkeypatch.setitem(worker_session.ANSWERS, "greet", lambda question: {"worker": question["worker"]})
    monkeypatch.setitem(worker_session.ANSWERS, "fail", failing_once)
    with distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        assert [found for _, _, found in errand(client, "fail").results()] == [{"done": True}]
    assert asked == [False, True]


@pytest.mark.parametrize("again", [True, False])
def test_an_image_that_is_given_again_waits_for_the_worker_before(
    work: Work, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    image, mask = str(folder / "in" / "sub" / "0.tif"), tmp_path / "m.tif"
    held = StoreFile.own(OutputPaths.of(mask).journal, sync=SyncPolicy())
    monkeypatch.setattr(worker_session, "PAUSE", 0.01)
    monkeypatch.setattr(time, "sleep", lambda _: held.close())
    words = worded(SegmentOptions(weights=work.bundle, scales=(64, 32), device="cpu"))
    question = {"image": image, "mask": str(mask), "words": words, "model": words, "again": again, "neighbours": 1}
    found: dict[str, Any] = worker_session.segmented(
        {**question, "private": False, "overwrite": False, "resume": True, "threads": 1}
    )
    held.close()
    if again:
        assert found == {"was_done": False, "exports": []}
    else:
        assert found["error"]["rule"] == BUSY


def test_a_worker_whose_listing_lacks_a_piece_of_the_pass_before_computes_nothing(
    work: Work, tmp_path: Path, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, pieces, listings = tmp_path / "out" / "m.tif", PieceFolder.pieces, list[Path]()
    attach = Session._attach

    def listed(self: PieceFolder) -> list[Path]:
        listings.append(self.path)
        return [path for path in pieces(self) if len(listings) > 2 or not path.name.startswith("p0-")]

    def stale(self: Session, folder: PieceFolder, number: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(PieceFolder, "pieces", listed)
            attach(self, folder, number)

    monkeypatch.setattr(worker_session, "LISTING", 0.0)
    monkeypatch.setattr(Session, "_attach", stale)
    error = made(work, mask, scheduler, groups=5).error
    assert isinstance(error, OutputError)
    assert "does not see all pieces" in str(error)
    assert len(listings) == 1
    # The listing is renewed while the worker waits.
    monkeypatch.setattr(worker_session, "LISTING", PATIENCE)
    monkeypatch.setattr(worker_session, "PAUSE", 0.01)
    assert made(work, mask, scheduler, groups=5).error is None
    assert len(listings) >= 3
    check_equal(work, mask)


def series_of(events: Events, options: SegmentOptions) -> ClusterSeries:
    """Return a series whose workers compute by CUDA, and which asks none of them."""
    return ClusterSeries(
        crew=Crew(client=distributed.Client, events=events),
        options=options,
        events=events,
        threads=1,
        arithmetic=("cuda", "float32", "torch"),
        admitted=set(),
        added=lambda *_: None,
    )


def test_a_late_worker_of_a_folder_computes_by_what_the_others_do() -> None:
    found = {"version": __version__, "device": "cuda:1", "precision": "float32", "engine": "torch"}
    series = series_of(Heard(), SegmentOptions())
    assert series.objection("w", found) is None
    assert "cpu, float32, torch" in str(series.objection("w", {**found, "device": "cpu"}))
    assert "its version" in str(series.objection("w", {**found, "version": "0"}))


def test_a_mask_that_only_its_worker_sees_is_the_failure_of_its_image(tmp_path: Path) -> None:
    heard = Heard()
    series = series_of(heard, SegmentOptions())
    series._targets = [Target(image="a.tif", mask=tmp_path / "a.tif")]
    found = series._result(0, {"was_done": False, "exports": []})
    assert isinstance(found.error, OutputError)
    assert "Write to a folder that all workers share under one name" in str(found.error)
    assert found.status == "failed"
    assert not [text for text in heard.texts if "done" in text]


def test_an_answer_that_cannot_be_fetched_is_that_of_a_lost_worker() -> None:
    class Gone:
        status = "finished"

        def result(self, timeout: float) -> str:
            raise TimeoutError(timeout)

    gone: Any = Gone()
    assert Crew.read(gone) == {"lost": True}


def test_workers_that_cannot_be_started_are_no_bug(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**_: object) -> None:
        message = "Nanny failed to start."
        raise RuntimeError(message)

    monkeypatch.setattr(distributed, "LocalCluster", failing)
    found = magnet(*work.words(tmp_path / "m.tif", "--cluster=local:2"))
    assert found.code == 6
    assert "2 workers of this machine could not be started" in found.said


def test_without_dask_one_line_names_the_extra(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    found = magnet(*work.words(tmp_path / "m.tif", "--cluster=local:2"))
    assert found.code == 2
    assert "pip install 'magnet-cli[dask]'" in found.said
    assert len(found.said.splitlines()) == 2
