"""A run on several devices has a process for each, one mask, and one way to end on signals and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from magnet_cli.cli import device_processes
from magnet_cli.cli.device_processes import (
    HANGING,
    LEAST_HANGING,
    LEAST_HANGING_GROUP,
    UNKNOWN,
    DeviceProcess,
    Doing,
    PartNotes,
    PartSummaries,
    Stalls,
    _wait,
    run_on_devices,
)
from magnet_cli.errors import UsageError
from magnet_cli.events import Events
from magnet_cli.masks import part_note
from magnet_cli.masks.part_note import PartNote, note_path
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.spec import GroupId
from magnet_cli.options.parts import PartOptions
from tests.cli.support import command, environment, invoke, run, write_image

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")
PATCH = ("--method", "patch")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda:0,cuda:1", ("cuda:0", "cuda:1")),
        ("0,2", ("cuda:0", "cuda:2")),
        ("cpu:3", ("cpu", "cpu", "cpu")),
        ("cpu, mps", ("cpu", "mps")),
    ],
)
def test_names_of_devices(text: str, expected: tuple[str, ...]) -> None:
    assert PartOptions(devices=text).devices == expected


@pytest.mark.parametrize("wrong", ["", "gpu", "cpu:0", "cuda", "0,,1", "cuda:0;cuda:1"])
def test_other_words_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="--devices names devices"):
        PartOptions(devices=wrong)


def test_devices_are_not_given_twice(image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, "--devices", "cpu:2")
    assert invoke(*words, "--num-parts", "2", "--part-id", "0").exit_code == 2
    assert invoke(*words, "--device", "cpu").exit_code == 2


@pytest.mark.parametrize("words", [("--gpu", "0,2,1"), ("--gpu", " 0, 2 ,1")])
def test_several_gpus_are_several_devices(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    started: list[tuple[list[str], list[str]]] = []

    def run(devices: list[str], words: list[str], **_: object) -> tuple[list[dict[str, object]], int]:
        started.append((list(devices), list(words)))
        return [], 0

    monkeypatch.setattr("magnet_cli.cli.segment.run_on_devices", run)
    line = ("segment", image, "--weights", bundle)
    assert invoke(*line, *words).exit_code == 0
    assert invoke(*line, "--devices", "cuda:0,cuda:2,cuda:1").exit_code == 0
    assert invoke(*line, env={"MAGNET_GPU": "0,2,1"}).exit_code == 0
    assert [devices for devices, _ in started] == [["cuda:0", "cuda:2", "cuda:1"]] * 3
    assert started[0][1] == started[1][1] == started[2][1]
    assert "--device" not in started[0][1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "0,0"), "--gpu names each GPU once (got '0,0')"),
        (("--gpu", "0,,1"), "--gpu is the number of a GPU from 0, or several"),
        (("--gpu", "cuda:0,cuda:1"), "Write --gpu 1 or --gpu 0,1,2"),
        (("--gpu", "0,1", "--device", "cpu"), "--device cpu and --gpu 0,1"),
        (("--gpu", "0,1", "--devices", "cpu:2"), "--gpu with several numbers is short for --devices"),
        (("--gpu", "0,1", "--num-parts", "2", "--part-id", "0"), "Give --num-parts and --device to each job"),
        (("--gpu", "0,1", "--cluster", "local:2"), "each say who shares a run"),
    ],
)
def test_wrong_lists_of_gpus(image: Path, bundle: Path, words: tuple[str, ...], said: str) -> None:
    result = invoke("segment", image, "--weights", bundle, *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_other_commands_take_one_gpu(image: Path, bundle: Path) -> None:
    result = invoke("plan", image, "--weights", bundle, "--gpu", "0,1")
    assert result.exit_code == 2
    assert "--device is auto, cpu, cuda, cuda:N or mps (got 'cuda:0,cuda:1')" in result.stderr


@pytest.mark.parametrize(
    ("words", "env", "expected"),
    [
        ((), {"MAGNET_DEVICES": "cpu:2"}, ["cpu", "cpu"]),
        (("--devices", "cpu:3"), {"MAGNET_DEVICE": "cuda:0", "MAGNET_CLUSTER": "local:2"}, ["cpu"] * 3),
        (("--devices", "cpu:3"), {"MAGNET_NUM_PARTS": "2", "MAGNET_PART_ID": "1", "MAGNET_GPU": "0"}, ["cpu"] * 3),
        (("--gpu", "0,1"), {"MAGNET_DEVICES": "cpu:2"}, ["cuda:0", "cuda:1"]),
        (("--device", "cpu"), {"MAGNET_DEVICES": "cpu:2"}, None),
        (("--num-parts", "1", "--part-id", "0"), {"MAGNET_DEVICES": "cpu:2", "MAGNET_CLUSTER": "local:2"}, None),
        (("--num-parts", "1"), {"MAGNET_PART_ID": "0"}, None),
    ],
)
def test_words_come_before_variables(
    here: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    words: tuple[str, ...],
    env: dict[str, str],
    expected: list[str] | None,
) -> None:
    """Processes that `MAGNET_DEVICES` starts have the variable, too, and words that name their part."""
    started: list[list[str]] = []

    def run(devices: list[str], _words: list[str], **_: object) -> tuple[list[dict[str, object]], int]:
        started.append(list(devices))
        return [], 0

    monkeypatch.setattr("magnet_cli.cli.segment.run_on_devices", run)
    mask = here / "m.tif"
    found = invoke("segment", write_image(here / "s.tif"), "--weights", bundle, "-o", mask, *words, env=env)
    assert found.exit_code == 0, found.stderr
    assert started == ([] if expected is None else [expected])
    assert mask.exists() is (expected is None)


def answering(rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let processes answer with these rows at once, and return a list that gets the words that start them."""
    started: list[list[str]] = []

    def run(devices: list[str], words: list[str], **_: object) -> tuple[list[dict[str, object]], int]:
        started.extend([words] * len(devices))
        return rows, 0

    monkeypatch.setattr("magnet_cli.cli.segment.run_on_devices", run)
    return started


def test_private_images_of_one_name_stay_two(here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--private` rows have names without folders: here one of `a/x.tif`, and the failed one of `b/x.tif`."""
    for name in ("a", "b"):
        write_image(here / "in" / name / "x.tif")
    one: dict[str, object] = {"image": "x.tif", "mask": "x.tif", "status": "done"}
    other: dict[str, object] = {**one, "status": "failed", "exit_code": 3}
    answering([one, other], monkeypatch)
    words = (
        "segment",
        here / "in",
        "--weights",
        bundle,
        "-o",
        here / "out",
        "--devices",
        "cpu:2",
        "--private",
        "--json",
    )
    found = invoke(*words)
    assert found.exit_code == 7
    assert [row["status"] for row in json.loads(found.stdout)["images"]] == ["done", "failed"]


def test_processes_of_devices_have_the_volume_of_their_command(
    image: Path, bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: Any = {"image": str(image), "mask": "m.tif", "status": "done", "report": None}
    mask = here / "m.tif"
    assert invoke("segment", image, "--weights", bundle, "-o", mask).exit_code == 0
    done["report"] = read_report(here / "m.json")
    started = answering([{**done, "status": "part done", "report": None}, done], monkeypatch)
    line = ("segment", image, "--weights", bundle, "-o", mask, "--devices", "cpu:2")
    loud = invoke(*line, "--verbose", "--log-file", here / "a.log")
    assert started.pop()[-3:] == ["--verbose", "--log-file", str(here / "a.log")]
    assert "m.json is the report" in loud.stderr
    assert "time by activity" in (here / "a.log").read_text()
    quiet = invoke(*line, "--quiet")
    assert started.pop()[-1] == "--quiet"
    assert quiet.stderr == quiet.stdout == ""


def test_wrong_inputs_are_refused_once(here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = answering([], monkeypatch)
    found = invoke("segment", here / "none.tif", "--weights", bundle, "--devices", "cpu:2")
    assert found.exit_code == 3
    assert found.stderr.count("none.tif") == 1
    assert not started


@pytest.mark.full
def test_two_processes_share_images_and_the_blocks_of_one(here: Path, bundle: Path) -> None:
    for number in range(3):
        write_image(here / "in" / f"{number}.tif", seed=number, size=(420, 500))
    (here / "in" / "bad.tif").write_text("no image")
    found = run("segment", "in", "--weights", bundle, "-o", "out", "--devices", "cpu:2", "--json", cwd=here)
    assert found.returncode == 7, found.stderr
    rows = json.loads(found.stdout)["images"]
    assert [(row["image"], row["status"]) for row in rows] == [
        *((f"in/{number}.tif", "done") for number in range(3)),
        ("in/bad.tif", "failed"),
    ]
    assert read_report(here / "out/run.json")["counts"] == {"done": 3, "already done": 0, "failed": 1, "waiting": 0}
    said = found.stderr.splitlines()
    # After what each process says of its own images the command says what became of all.
    whole = next(number for number, line in enumerate(said) if line.startswith("4 images: 3 done, 1 failed; "))
    assert said[whole + 1] == "  failed: in/bad.tif (exit code 3)"
    shares = [float(line.split()[-2]) for line in said[whole + 2 :]]
    assert shares
    assert sum(shares) == pytest.approx(100, abs=0.1)
    one = run("segment", "in/0.tif", "--weights", bundle, "-o", "one/0.tif", "--devices", "cpu:2", "--json", cwd=here)
    assert one.returncode == 0, one.stderr
    assert [row["status"] for row in json.loads(one.stdout)["images"]] == ["done"]
    assert sorted(path.name for path in (here / "one").iterdir()) == ["0.json", "0.tif"]
    assert (here / "one/0.tif").read_bytes() == (here / "out/0.tif").read_bytes()


@posix
@pytest.mark.full
def test_a_signal_ends_all_processes_and_the_run_goes_on(here: Path, bundle: Path) -> None:
    write_image(here / "s.tif", size=(3000, 3000))
    words = ("segment", "s.tif", "--weights", str(bundle), "-b", "1", "-o", "m.tif", "--devices", "cpu:2")
    with subprocess.Popen(command(*words), cwd=here, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        pieces = here / "m.tif.pieces"
        while process.poll() is None and not list(pieces.glob("*.piece")):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        messages = process.communicate(timeout=120)[1]
    assert process.returncode == 130, messages
    assert not (here / "m.tif").exists()
    kept = len(list(pieces.glob("*.piece")))
    assert kept
    again = run(*words, cwd=here)
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in here.glob("m.*")) == ["m.json", "m.tif"]


def doing(**counts: int) -> Doing:
    """Return what a process does whose images are alike, from a summary's counts."""
    images = [["x.tif"] * sum(counts.values())]
    return PartSummaries(Path("none"), images)._done(0, counts)


class Messages(Events):
    """Keeps messages."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def message(self, text: str) -> None:
        self.found.append(text)


def test_a_process_that_finishes_nothing_is_named_after_ten_times_an_image() -> None:
    messages = Messages()
    stalls = Stalls(["cuda:0", "cuda:1"], messages, 0.0)
    for now in range(0, 91, 2):
        for index in range(2):
            # Both finish an image every 30 seconds.
            stalls.note(index, doing(waiting=9 - now // 30, done=now // 30), float(now))
            stalls.name(index, float(now))
    assert messages.found == []
    first = 0
    for now in range(92, 2000, 2):
        stalls.note(0, doing(waiting=max(1, 9 - now // 30), done=min(8, now // 30)), float(now))
        stalls.note(1, doing(waiting=6, done=3), float(now))
        stalls.name(1, float(now))
        if messages.found and len(messages.found) == 1:
            first = now
    # It finished nothing from second 90 on, and is named again after twice the time.
    assert first - 90 >= HANGING * 30
    assert len(messages.found) == 3
    assert all("cuda:1" in text and "Ctrl-C" in text for text in messages.found)


@pytest.mark.parametrize("counts", [{}, {"waiting": 3}], ids=["no summary yet", "nothing done"])
def test_a_process_without_a_first_image_gets_more_time(counts: dict[str, int]) -> None:
    messages = Messages()
    stalls = Stalls(["cpu"], messages, 0.0)
    if counts:
        stalls.note(0, doing(**counts), 0.0)
    for now in (LEAST_HANGING, HANGING * UNKNOWN - 1):
        stalls.name(0, now)
    assert messages.found == []
    stalls.name(0, HANGING * UNKNOWN)
    assert len(messages.found) == 1


def test_a_process_without_images_is_never_named() -> None:
    messages = Messages()
    stalls = Stalls(["cpu"], messages, 0.0)
    stalls.note(0, doing(waiting=0, done=3), 0.0)
    stalls.name(0, 1e6)
    assert messages.found == []


@pytest.mark.parametrize("ended", ["already done", "failed"])
def test_images_that_are_not_computed_say_nothing_about_the_time_of_one(ended: str) -> None:
    messages = Messages()
    stalls = Stalls(["cpu"], messages, 0.0)
    for now in range(10):
        stalls.note(0, doing(**{"waiting": 20 - now, ended: now}), float(now))
    stalls.name(0, 9 + HANGING * UNKNOWN - 1)
    assert messages.found == []
    stalls.name(0, 9 + HANGING * UNKNOWN)
    assert len(messages.found) == 1


def test_a_rise_of_waiting_images_says_nothing_about_the_time_of_one() -> None:
    messages = Messages()
    stalls = Stalls(["cpu"], messages, 0.0)
    stalls.note(0, doing(waiting=5, done=0), 0.0)
    stalls.note(0, doing(waiting=1, done=4), 2000.0)
    stalls.note(0, doing(waiting=5, done=0), 2001.0)
    stalls.name(0, 2001 + HANGING * 500 - 1)
    # An image took 500 seconds: no process is named before 5000 have passed.
    assert messages.found == []
    stalls.name(0, 2001 + HANGING * 500)
    assert len(messages.found) == 1


def test_a_device_says_nothing_about_the_time_of_another_kind() -> None:
    messages = Messages()
    stalls = Stalls(["cuda:0", "cuda:1", "cpu"], messages, 0.0)
    for number in range(1, 101):
        stalls.note(0, Doing(done=number, work=float(number), following=1.0), float(number))
    stalls.name(2, HANGING * UNKNOWN - 1)
    assert messages.found == []
    stalls.name(1, LEAST_HANGING)
    assert "the process on cuda:1 (number 1)" in messages.found.pop()
    for number in (1, 2):
        stalls.note(2, Doing(done=number, work=float(number), following=1.0), 100.0 * number)
    stalls.name(2, 200 + HANGING * 100 - 1)
    assert messages.found == []
    stalls.name(2, 200 + HANGING * 100)
    assert "the process on cpu (number 2)" in messages.found[0]


def test_the_start_of_a_process_says_nothing_about_the_time_of_an_image() -> None:
    messages = Messages()
    stalls = Stalls(["cpu"], messages, 0.0)
    # The program and its networks were loaded in most of the time, and the first image is tiny.
    stalls.note(0, Doing(done=1, work=0.01, following=1.0), 50.0)
    stalls.note(0, Doing(done=2, work=1.01, following=1.0), 70.0)
    stalls.name(0, 70 + HANGING * 20 - 1)
    assert messages.found == []
    stalls.name(0, 70 + HANGING * 20)
    assert len(messages.found) == 1


def test_groups_over_glass_say_little_of_one_over_tissue(tmp_path: Path) -> None:
    notes, messages = PartNotes(tmp_path, 1), Messages()
    stalls = Stalls(["cpu"], messages, 0.0, thing=notes.thing, least=notes.least)
    for number in range(1, 202):
        stalls.note(0, Doing(done=number, work=float(number), following=1.0), 8 + number / 50)
    spent = 8 + 201 / 50
    stalls.name(0, spent + LEAST_HANGING_GROUP - 1)
    assert messages.found == []
    stalls.name(0, spent + LEAST_HANGING_GROUP)
    assert len(messages.found) == 1
    assert LEAST_HANGING_GROUP > LEAST_HANGING


def summary(folder: Path, index: int, **counts: int) -> Path:
    """Write the summary of one of two processes."""
    path = folder / f"run-{index}-of-2.json"
    path.write_text(json.dumps({"counts": counts}))
    return path


def test_what_an_earlier_run_has_left_is_passed_over(tmp_path: Path) -> None:
    old = summary(tmp_path, 0, waiting=0, done=7)
    found = PartSummaries(tmp_path, [["a.tif"] * 8, ["b.tif"] * 8])
    assert found.counts() == {}
    summary(tmp_path, 1, waiting=2, done=1)
    assert found.counts() == {1: {"waiting": 2, "done": 1}}
    # What was written by another machine may bear a time in the past.
    summary(tmp_path, 0, waiting=3, done=0)
    os.utime(old, ns=(1, 1))
    assert found.counts()[0] == {"waiting": 3, "done": 0}


@posix
@pytest.mark.parametrize("is_stale", [False, True])
def test_a_process_that_hangs_in_its_first_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_stale: bool
) -> None:
    if is_stale:
        summary(tmp_path, 0, waiting=0, done=7)
    for name, value in (("POLL", 0.01), ("SHOWN_EVERY", 0.01), ("LEAST_HANGING", 0.05), ("UNKNOWN", 0.005)):
        monkeypatch.setattr(device_processes, name, value)
    messages = Messages()
    summaries = PartSummaries(tmp_path, [["a.tif"] * 8, ["b.tif"] * 8])
    with (
        tempfile.TemporaryFile() as answer,
        subprocess.Popen(["sleep", "10"]) as hanging,
        subprocess.Popen(["true"]) as ended,
    ):

        def heard(text: str) -> None:
            messages.found.append(text)
            hanging.kill()

        monkeypatch.setattr(messages, "message", heard)
        running = [
            DeviceProcess(device=device, process=process, answer=answer)
            for device, process in (("cuda:0", hanging), ("cuda:1", ended))
        ]
        ended.wait()
        _wait(running, summaries, messages)
    assert "the process on cuda:0 (number 0) has finished no image for " in messages.found[0]
    assert not any("cuda:1" in text for text in messages.found)


def test_an_image_that_is_larger_is_given_more_time() -> None:
    """Small images come before large ones in a folder: their time says nothing of a large one unless sizes do."""
    messages = Messages()
    stalls = Stalls(["cpu"], messages, 0.0)
    for number in range(1, 11):
        stalls.note(0, Doing(done=number, work=float(number), following=1.0 if number < 10 else 500.0), 10.0 * number)
    stalls.name(0, 100 + HANGING * 500 * 10 - 1)
    assert messages.found == []
    stalls.name(0, 100 + HANGING * 500 * 10)
    assert "one was expected to take 83 min" in messages.found[0]
    # A small one after it takes no longer than the longest did.
    stalls.note(0, Doing(done=11, work=510.0, following=1.0), 60000.0)
    stalls.name(0, 60000 + 9 * 9900.0)
    assert len(messages.found) == 1


def test_the_sizes_of_files_say_how_large_an_image_is(tmp_path: Path) -> None:
    names = []
    for number, size in enumerate((100, 100, 5000)):
        names.append(str(tmp_path / f"{number}.tif"))
        Path(names[-1]).write_bytes(bytes(size))
    summaries = PartSummaries(tmp_path, [names[:1], names[1:]])
    (tmp_path / "run-1-of-2.json").write_text(json.dumps({"counts": {"waiting": 1, "done": 1}}))
    assert summaries.doing() == {1: Doing(done=1, work=100.0, following=5000.0)}


def test_groups_of_one_image_are_watched_by_the_notes_of_their_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_note, "SELDOM", 1e9)
    old = PartNote(path=note_path(tmp_path, 0, 2), work={0: 1.0, 1: 4.0})
    old.add(GroupId(pass_index=0, index=0))
    notes = PartNotes(tmp_path, 2)
    assert notes.doing() == {}
    new = PartNote(path=note_path(tmp_path, 1, 2), work={0: 1.0, 1: 4.0})
    new.add(GroupId(pass_index=0, index=3))
    assert notes.doing() == {1: Doing(done=1, work=1.0, following=4.0)}
    new.add(GroupId(pass_index=1, index=3))
    # Between two writings lies some time, and the last one is never left out: the part may make the mask from then on.
    assert notes.doing()[1].done == 1
    new.end()
    assert notes.doing() == {1: Doing(done=2, work=5.0, following=0.0)}


@posix
@pytest.mark.full
def test_a_process_that_stops_between_the_blocks_of_an_image_is_named(
    here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process is named soon whether another one has shown how long a group takes or not.
    for name, value in (("SHOWN_EVERY", 0.1), ("LEAST_HANGING_GROUP", 5.0), ("HANGING", 1.0), ("UNKNOWN", 5.0)):
        monkeypatch.setattr(device_processes, name, value)
    write_image(here / "s.tif", size=(1200, 1200))
    messages, stopped = Messages(), list[int]()
    started, doing_of = subprocess.Popen, PartNotes.doing

    def watched(notes: PartNotes) -> dict[int, Doing]:
        found = doing_of(notes)
        if 1 in found and not stopped:
            stopped.append(processes[1].pid)
            os.kill(processes[1].pid, signal.SIGSTOP)
        return found

    def heard(text: str) -> None:
        # With so short times a process that does not hang may be named as well.
        if "(number 1)" in text and stopped:
            messages.found.append(text)
            os.kill(stopped[0], signal.SIGCONT)

    processes: list[subprocess.Popen[bytes]] = []

    def begun(*words: Any, **more: Any) -> subprocess.Popen[bytes]:
        processes.append(started(*words, **more))
        return processes[-1]

    monkeypatch.setattr(PartNotes, "doing", watched)
    monkeypatch.setattr(messages, "message", heard)
    monkeypatch.setattr(subprocess, "Popen", begun)
    words = ["segment", "s.tif", "--weights", str(bundle), "-b", "1", "-o", "m.tif"]
    watch = PartNotes(here / "m.tif.pieces", 2)
    rows, code = run_on_devices(["cpu", "cpu"], words, memory=4 << 30, watch=watch, events=messages)
    assert code == 0, rows
    assert "the process on cpu (number 1) has finished no group of windows for " in messages.found[0]
    assert (here / "m.tif").exists()


def test_one_image_is_watched_by_its_notes_and_several_by_their_summaries(
    image: Path, bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A summary in the folder of a single image is of another run."""
    kinds: list[str] = []

    def run(_devices: list[str], _words: list[str], *, watch: object, **_: object) -> tuple[list[Any], int]:
        kinds.append(type(watch).__name__)
        return [], 0

    monkeypatch.setattr("magnet_cli.cli.segment.run_on_devices", run)
    other = write_image(here / "t.tif")
    for words in ((image, "-o", here / "out"), (image, other, "-o", here / "out"), (image, other)):
        invoke("segment", *words, "--weights", bundle, "--devices", "cpu:2")
    assert kinds == ["PartNotes", "PartSummaries", "NoneType"]
