from __future__ import annotations

import mmap
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.system import memory

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GiB", 4 << 30),
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        (" 2 TiB ", 2 << 40),
        ("1KiB", 1024),
        ("7B", 7),
        ("0.1KiB", 102),
    ],
)
def test_sizes_with_a_unit_are_read_exactly(text: str, count: int) -> None:
    assert memory.parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "4", "4096", "4G", "4GB", "4gib", "-1GiB", "0GiB", "0.1B", "1e3MiB", "nan", "GiB", "1.GiB", "1,5GiB"]
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--gpu-memory takes"):
        memory.parse_bytes(text, option="--gpu-memory")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (97 * MIB, "97.0 MiB"),
        (3 << 29, "1.50 GiB"),
        (-(5 << 40), "-5.00 TiB"),
        (2000 << 40, "2000 TiB"),
    ],
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert memory.format_bytes(count) == text


@given(st.integers(1, 1 << 50))
def test_what_is_written_can_be_read(count: int) -> None:
    assert memory.parse_bytes(memory.format_bytes(count)) == pytest.approx(count, rel=0.006)


@linux
def test_what_there_is_makes_sense() -> None:
    total, available = memory.total_memory(), memory.available_memory()
    assert total is not None
    assert available is not None
    assert 64 * MIB < available < total
    assert 0 < memory.default_budget() < total


FOLLOWING = """
before = memory.host_memory()
# A mapping of its own: a heap may hold enough freed memory already.
with mmap.mmap(-1, 48 << 20) as block:
    block.write(bytes([1]) * (1 << 20) * 48)
    during = memory.host_memory()
print(before, during, memory.host_memory())
"""
GRANDCHILD = "import sys; block = bytearray(b'x') * (40 << 20); print(1, flush=True); sys.stdin.read()"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}], check=True)"
COUNTING = f"""
import subprocess, sys
before = memory.host_memory()
with subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    during = memory.host_memory()
    process.communicate()
print(before, during)
"""
SAMPLING = """
with memory.PeakSampler(interval=0.01) as sampler:
    before = sampler.sample()
    with mmap.mmap(-1, 64 << 20) as block:
        block.write(b"x" * (64 << 20))
        sampler.sample()
peak = sampler.peak
print(before, peak.pss, peak.resident, peak.samples)
"""


def printed_by(program: str) -> list[int]:
    """Return the numbers that a program prints which has loaded the module under test alone.

    A process of the tests shares hundreds of MiB of libraries with its neighbours, and its PSS moves with each of them
    that starts or ends.
    """
    words = [sys.executable, "-c", f"import mmap\nfrom magnet_cli.system import memory\n{program}"]
    return [int(word) for word in subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()]


@linux
def test_use_follows_what_is_allocated() -> None:
    before, during, after = printed_by(FOLLOWING)
    assert 40 * MIB < during - before < 80 * MIB
    assert after < during - 40 * MIB


@linux
def test_use_counts_children_and_their_children() -> None:
    before, during = printed_by(COUNTING)
    assert during - before > 40 * MIB


@linux
def test_the_sampler_sees_a_peak_that_is_over() -> None:
    before, pss, resident, samples = printed_by(SAMPLING)
    assert pss - before > 60 * MIB
    assert resident >= 64 * MIB
    assert samples >= 3


def test_the_sampler_reads_little_while_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory._Latest, "largest", 0)  # another test may have taken more
    with memory.PeakSampler(interval=0.001, rarely=60) as sampler:
        while sampler.peak.samples == 0:
            time.sleep(0.001)
        time.sleep(0.3)
        before = sampler.peak.samples
        with mmap.mmap(-1, 64 * MIB) as block:
            block.write(b"x" * (64 * MIB))
            while sampler.peak.samples == before:
                time.sleep(0.001)
    assert before <= 5
    assert sampler.peak.pss is not None


def test_the_sampler_looks_now_and_then_for_what_children_take() -> None:
    with memory.PeakSampler(interval=0.001, rarely=0.01) as sampler:
        while sampler.peak.samples < 5:
            time.sleep(0.001)
    assert sampler.peak.samples >= 5


def test_a_sampler_begins_with_the_young_reading_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run over many small images would read PSS for each of them, which is slow."""
    resident, read = 900 * MIB, list[int]()

    def host_memory() -> int:
        read.append(1)
        return resident - 100 * MIB

    monkeypatch.setattr(memory, "_resident", lambda: resident)
    monkeypatch.setattr(memory, "host_memory", host_memory)
    monkeypatch.setattr(memory._Latest, "largest", 0)
    with memory.PeakSampler(rarely=60) as first:
        first.sample()
    before = len(read)
    for grown, more in ((0, 0), (3, 0), (-20, 0), (2, 0), (64, 1)):
        resident = (900 + grown) * MIB
        with memory.PeakSampler(interval=0.001, rarely=60) as sampler:
            while sampler.peak.pss is None:
                time.sleep(0.001)
        assert sampler.peak.pss == (800 + grown) * MIB
        assert len(read) - before == more
    monkeypatch.setattr(time, "monotonic", lambda: 1e12)
    with memory.PeakSampler(interval=0.001, rarely=60) as sampler:
        while len(read) - before == 1:
            time.sleep(0.001)


def test_on_a_busy_machine_memory_is_read_by_the_time_that_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds of a clock may hold a tenth of a second of work, and a reading take a tenth of that."""
    now = [1000.0, 50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[1])
    reading = memory._Reading(used=1, resident=1, at=1000.0, computed=50.0, cost=0.01)
    for clock, computed, is_due in ((2, 9, False), (4, 0.5, False), (4, 1.1, True), (29, 0.5, False), (31, 0, True)):
        now = [1000.0 + clock, 50.0 + computed]
        assert reading.is_due(3.0) is is_due, (clock, computed)


def test_a_process_that_was_larger_is_read_again_only_where_it_grows_beyond_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory of an image comes and goes, and the next image would else be read as often as it grows by 4 MiB."""
    resident, read = 900 * MIB, list[int]()

    def host_memory() -> int:
        read.append(resident)
        return resident

    monkeypatch.setattr(memory, "_resident", lambda: resident)
    monkeypatch.setattr(memory, "host_memory", host_memory)
    monkeypatch.setattr(memory._Latest, "largest", 0)
    monkeypatch.setattr(memory._Latest, "reading", None)
    with memory.PeakSampler(rarely=60) as first:
        first.sample()
        resident = 500 * MIB
        first.sample()
    read.clear()
    for size in (600, 890, 500, 903):
        resident = size * MIB
        with memory.PeakSampler(interval=0.001, rarely=60) as sampler:
            while sampler.peak.pss is None:
                time.sleep(0.001)
        assert sampler.peak.pss == resident
    assert not read


def test_the_sampler_ends_with_its_context() -> None:
    with memory.PeakSampler():
        assert "magnet-memory" in {thread.name for thread in threading.enumerate()}
    assert "magnet-memory" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a made-up /proc and /sys/fs/cgroup: a machine with 8 GiB available and no control groups yet."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    (tmp_path / "groups").mkdir()
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    return tmp_path


def write_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def test_without_a_group_the_machine_counts(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/user.slice\n")
    assert memory.available_memory() == 8 << 30
    assert memory.default_budget() == 4 << 30


def test_the_tightest_group_counts_and_its_cache_is_free(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/pod/box\n")
    write_group(machine / "groups/pod", {"memory.max": f"{1 << 30}\n", "memory.current": f"{300 * MIB}\n"})
    write_group(machine / "groups/pod", {"memory.stat": f"anon 5\ninactive_file {100 * MIB}\nfile 7\n"})
    write_group(machine / "groups/pod/box", {"memory.max": "max\n", "memory.current": "5\n"})
    assert memory.total_memory() == 1 << 30
    assert memory.available_memory() == (1 << 30) - 200 * MIB


def test_version_1_groups_count(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("5:cpu:/\n4:memory:/not/visible/here\n0::/\n")
    files = {"memory.limit_in_bytes": str(2 << 30), "memory.usage_in_bytes": str(3 << 30)}
    write_group(machine / "groups/memory", files)
    assert memory.total_memory() == 2 << 30
    assert memory.available_memory() == 0


def test_version_1_groups_without_a_limit_do_not_count(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("4:memory:/\n")
    files = {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "5\n"}
    write_group(machine / "groups/memory", files)
    assert memory.available_memory() == 8 << 30


def test_a_system_that_says_nothing_gets_a_fixed_budget(machine: Path) -> None:
    (machine / "proc/meminfo").unlink()
    assert memory.available_memory() is None
    assert memory.default_budget() == memory.UNKNOWN_BUDGET


def test_without_proc_the_highest_resident_size_is_told(machine: Path) -> None:
    assert not (machine / "proc/self/status").exists()
    use = memory.host_memory()
    if sys.platform == "win32":
        assert use is None
    else:
        assert use is not None
        assert use > 5 * MIB


def test_trimming_is_harmless() -> None:
    assert isinstance(memory.trim(), bool)
    command = "from magnet_cli.system import memory; memory.keep_heap_steady(); x = [bytes(1 << 16) for _ in range(99)]"
    subprocess.run([sys.executable, "-c", command], check=True)


def test_a_run_that_ends_before_the_first_sample_has_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 1000)
    sampler = memory.PeakSampler()
    assert sampler.peak.pss == 1000, "its thread has not been started"
    assert sampler.peak.samples == 1, "a known peak is not measured again"
