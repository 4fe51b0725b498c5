"""A job without files, which notes what it reads, computes and stores."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from magnet_cli.geometry import LEVEL0, Size
from magnet_cli.images.protocol import ImageInfo, Level
from magnet_cli.masks.spec import MaskClass, MaskSpec
from magnet_cli.plan import Machine, MemoryPlan
from magnet_cli.plan.footprint import no_memory
from magnet_cli.run.clock import Clock
from magnet_cli.run.engine import Engine
from magnet_cli.run.job import Job, Resources, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box
    from magnet_cli.images import Image
    from magnet_cli.masks.spec import GroupId
    from magnet_cli.run.job import RunPass
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results

SIZE = Size(width=4, height=4)
PATIENCE = 60
"""Seconds that a test waits for another thread before it fails."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A pass with some groups."""

    number: int
    groups: int
    what: str = ""


@dataclass
class Memory:
    """A stand-in for a journal that keeps counts and drops values."""

    groups: dict[int, dict[int, dict[str, object]]] = field(default_factory=dict)
    dropped: list[GroupId] = field(default_factory=list)

    def finished(self, pass_index: int) -> dict[int, Mapping[str, object]]:
        return dict(self.groups.get(pass_index, {}))

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        raise NotImplementedError

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:
        raise NotImplementedError

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        raise NotImplementedError

    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        raise NotImplementedError

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        self.groups.setdefault(group.pass_index, {})[group.index] = dict(counts)

    def drop_group(self, group: GroupId) -> None:
        self.dropped.append(group)


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Counting(Job):
    """A job that adds one to the number of each group. Hooks of a test run before reading, computing and storing."""

    steps: tuple[Groups, ...] = (Groups(number=0, groups=6),)
    ahead: int = 2
    batch: int = 4
    device: str = "cpu"
    least: int = 1
    """Smallest batch that the job offers."""
    reading: Callable[[int], object] = _same
    computing: Callable[[int], object] = _same
    storing: Callable[[int], object] = _same
    log: list[tuple[str, int, int]] = field(default_factory=list)
    """The calls: their name, the pass, and the group."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    @override
    def image(self) -> ImageInfo:
        level = Level(size=SIZE, downsample=LEVEL0)
        return ImageInfo(
            path="none", backend="none", size=SIZE, levels=(level,), bands=("grey",), dtype="uint8", resolution=None
        )

    @property
    @override
    def passes(self) -> tuple[Groups, ...]:
        return self.steps

    @property
    @override
    def machine(self) -> Machine:
        return Machine(device=self.device, precision="float32", memory=1 << 30)

    @property
    @override
    def memory(self) -> MemoryPlan:
        return replace(no_memory(self.machine), budget=1 << 40, ahead=self.ahead)

    @property
    @override
    def spec(self) -> MaskSpec:
        return MaskSpec(size=SIZE, classes=(MaskClass(name="one", color="#000000"),))

    @property
    @override
    def fields(self) -> tuple[()]:
        return ()

    @property
    @override
    def noted(self) -> dict[str, int]:
        return {"batch": self.batch}

    @override
    def smaller(self, step: RunPass) -> tuple[Counting, str] | None:
        del step
        if self.batch <= self.least:
            return None
        smaller = Counting(**{**vars(self), "batch": self.batch // 2})
        return smaller, f"{smaller.batch} instead of {self.batch}"

    @override
    def runner(self, step: RunPass, resources: Resources) -> CountingRunner:
        return CountingRunner(self, step.number, resources)

    @override
    def report(self, results: Results, measured: Measured) -> dict[str, object]:
        return {"bundle": None, "computed": measured.computed}

    def note(self, what: str, number: int, group: int) -> None:
        with self.lock:
            self.log.append((what, number, group))

    def done(self, what: str) -> list[int]:
        """Return the groups of which something was done, in order."""
        return [group for name, _, group in self.log if name == what]


class CountingRunner(Runner):
    """The runner of a pass of `Counting`."""

    def __init__(self, job: Counting, number: int, resources: Resources) -> None:
        self._job = job
        self._number = number
        self._resources = resources

    @override
    def read(self, group: int) -> int:
        self._job.note("read", self._number, group)
        self._job.reading(group)
        return group

    @override
    def recall(self, given: int) -> dict[int, Mapping[str, object]] | None:
        self._job.note("recall", self._number, given)
        return None if self._number == 0 else dict(self._resources.results.finished(self._number - 1))

    @override
    def compute(self, given: int, known: Any) -> tuple[int, Any]:
        self._job.note("compute", self._number, given)
        self._job.computing(given)
        return given + 1, known

    @override
    def store(self, group: GroupId, found: tuple[int, Any]) -> dict[str, object]:
        self._job.note("store", self._number, group.index)
        self._job.storing(group.index)
        value, known = found
        return {"value": value, "before": None if known is None else len(known)}


def engine(memory: Memory, *, readers: int, **more: Any) -> Engine:
    """Return an engine that stores into `Memory` and has no image."""
    resources = Resources(image=cast("Image", None), results=memory, sink=memory, clock=Clock())
    return Engine(resources=resources, readers=readers, **more)
