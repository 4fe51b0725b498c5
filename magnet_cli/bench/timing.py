"""Seconds inside networks, and the memory of a piece of work."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.models.device import device_peak, reset_device_peak
from magnet_cli.system.memory import PeakSampler, host_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from magnet_cli.geometry import Size


class TimedNetworks:
    """The networks of a bundle with measured times. All other attributes are those of the networks.

    Args:
        networks: The networks of a bundle.
    """

    def __init__(self, networks: Any) -> None:
        self._networks = networks
        self.windows = 0
        """The number of windows that the backbone or a local branch has computed."""
        self.seconds = {"backbone": 0.0, "refiner": 0.0}
        """Seconds by network; a selector and a local branch appear once they are used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._networks, name)

    def reset(self) -> None:
        """Set the counts and the seconds to zero."""
        self.windows = 0
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """Call `predict` of the networks, timed."""
        self.windows += len(patches)
        return self._timed("backbone", lambda: self._networks.predict(patches, scale))

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """Call `refine` of the networks, timed."""
        return self._timed("refiner", lambda: self._networks.refine(own, field, scale))

    def scores(self, patches: Tensor) -> Tensor:
        """Call `scores` of the networks, timed."""
        self.windows += len(patches)
        return self._timed("backbone", lambda: self._networks.scores(patches))

    def selected(self, patches: Tensor) -> Tensor:
        """Call `selected` of the networks, timed."""
        return self._timed("selector", lambda: self._networks.selected(patches))

    def score_map(self, patches: Tensor, field: Tensor | None) -> Tensor:
        """Call `score_map` of the networks, timed."""
        return self._timed("selector", lambda: self._networks.score_map(patches, field))

    def cell_scores(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        """Call `cell_scores` of the networks, timed."""
        self.windows += len(patches)
        return self._timed("local", lambda: self._networks.cell_scores(patches, probs))

    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        """Call `aggregate` of the networks, timed."""
        return self._timed("local", lambda: self._networks.aggregate(refined, scores))

    def _timed(self, name: str, call: Callable[[], Tensor]) -> Tensor:
        synchronise(self._networks.device)
        start = time.perf_counter()
        result = call()
        synchronise(self._networks.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


def repeated(run: Callable[[int], int], *, batches: int, least: float, device: torch.device) -> tuple[float, int]:
    """Repeat passes for at least so many seconds, and return their seconds and windows; one batch at least is run.

    Args:
        run: Runs the batch of a number and returns its number of windows.
        batches: How many there are to take in turn.
        least: The least time, in seconds.
        device: The device of the passes.
    """
    synchronise(device)
    start, windows = time.perf_counter(), 0
    for number in cycle(range(batches)):
        windows += run(number)
        if number == batches - 1:
            synchronise(device)  # passes are queued on a GPU far faster than it computes them
        if time.perf_counter() - start >= least:
            break
    synchronise(device)
    return time.perf_counter() - start, windows


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its queue; other devices have none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(kw_only=True)
class Measurement:
    """The time and memory of a piece of work."""

    seconds: float = 0.0
    host_base: int | None = None
    host_peak: int | None = None
    device_peak: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def measured(device: torch.device) -> Iterator[Measurement]:
    """Measure time and memory of the block, as a context whose value is complete when the block ends."""
    found = Measurement(host_base=host_memory())
    name = str(device)
    reset_device_peak(name)
    with PeakSampler() as peaks:
        synchronise(device)
        start = time.perf_counter()
        yield found
        synchronise(device)
        found.seconds = time.perf_counter() - start
    found.host_peak, found.device_peak = peaks.peak.pss, device_peak(name)
