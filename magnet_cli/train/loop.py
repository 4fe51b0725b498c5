"""The fitting of a network: schedule, averaged weights, checkpoints, log lines."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.models.networks import channels_last
from magnet_cli.train.sampling import ahead

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.train.config import LoopConfig

Progress = Callable[[dict[str, float]], None]
"""Called with each log line: `iteration`, `loss`, `rate`, `seconds`."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where a training keeps what it needs to go on."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Everything that an exact continuation needs."""
        return self.folder / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.folder / "log.jsonl"


def rate_at(iteration: int, config: LoopConfig) -> float:
    """Learning rate: a linear rise, then a cosine to zero."""
    rise = max(1, round(config.warmup * config.iterations))
    if iteration < rise:
        return config.rate * (iteration + 1) / rise
    done = (iteration - rise) / max(1, config.iterations - rise)
    return config.rate * (1 + cos(pi * min(1.0, done))) / 2


def class_weights(counts: NDArray[np.int64], *, balance: float) -> Tensor:
    """Share to the power of minus `balance`, scaled so that the mean over pixels is one; 1 for a class not seen."""
    share = torch.from_numpy(counts).double() / max(1, int(counts.sum()))
    weights = torch.where(share > 0, share.clamp_min(1e-4) ** -balance, torch.ones_like(share))
    return (weights / max(1e-12, float((weights * share).sum()))).float()


class Average:
    """A running average of a network's weights and buffers."""

    def __init__(self, network: nn.Module, *, momentum: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.momentum = momentum

    @torch.no_grad()
    def update(self, network: nn.Module, *, iteration: int) -> None:
        """Move towards the network's present weights, faster in the beginning."""
        momentum = min(self.momentum, (iteration + 1) / (iteration + 10))
        for mine, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs, 1 - momentum)
            else:
                mine.copy_(theirs)


class Trainer:
    """Fits one network to batches that a function of the iteration gives.

    Args:
        network: Maps the batch's first tensor to logits `(n, classes, h, w)`.
        batches: Iteration to (input, labels).
        config: How.
        weights: Of the classes.
        files: Checkpoint and log; None keeps neither.
        ignore: The label that says nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        batches: Callable[[int], tuple[Tensor, Tensor]],
        config: LoopConfig,
        weights: Tensor,
        files: Files | None = None,
        ignore: int = 255,
    ) -> None:
        self.network = channels_last(network)
        self.batches, self.config, self.files, self.ignore = batches, config, files, ignore
        self.weights = weights
        self.average = Average(network, momentum=config.average)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
        self.iteration = 0

    def fit(self, *, progress: Progress | None = None, until: int | None = None) -> nn.Module:
        """Go on from the last checkpoint, if there is one, to the last iteration; give the averaged network.

        Args:
            progress: Told each log line.
            until: Stop there with a checkpoint, as an interruption would.
        """
        self.restore()
        end = self.config.iterations if until is None else min(until, self.config.iterations)
        self.network.train()
        begun, total, lines = time.monotonic(), 0.0, 0
        for batch in ahead(self.batches, range(self.iteration, end)):
            total += self.step(*batch)
            lines += 1
            if self.iteration % self.config.log_every == 0 or self.iteration == end:
                self.tell(loss=total / lines, seconds=time.monotonic() - begun, progress=progress)
                total, lines = 0.0, 0
            if self.iteration % self.config.save_every == 0 or self.iteration == end:
                self.save()
        return self.average.network

    def step(self, inputs: Tensor, labels: Tensor) -> float:
        """One iteration; gives its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.iteration, self.config)
        half = self.config.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = self.network(inputs.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(
            logits.float(), labels, self.weights, ignore_index=self.ignore, reduction="sum"
        ) / max(1, int((labels != self.ignore).sum()))
        if not torch.isfinite(loss):
            raise SourceError("the loss is no longer a number", value=self.iteration, advice="Lower [loop] rate.")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.average.update(self.network, iteration=self.iteration)
        self.iteration += 1
        return float(loss.detach())

    def tell(self, *, loss: float, seconds: float, progress: Progress | None) -> None:
        """Write and hand on one log line."""
        line = {
            "iteration": self.iteration,
            "loss": round(loss, 5),
            "rate": rate_at(self.iteration - 1, self.config),
            "seconds": round(seconds, 1),
        }
        if self.files is not None:
            self.files.folder.mkdir(parents=True, exist_ok=True)
            with self.files.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if progress is not None:
            progress(line)

    def save(self) -> None:
        """Write the checkpoint, complete or not at all."""
        if self.files is None:
            return
        self.files.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.files.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.files.checkpoint)  # noqa: PTH105  atomic on every platform

    def restore(self) -> None:
        """Take up the checkpoint, if there is one."""
        if self.files is None or not self.files.checkpoint.exists():
            return
        try:
            state = cast("dict[str, Any]", torch.load(self.files.checkpoint, weights_only=True))
            self.network.load_state_dict(state["network"])
            self.average.network.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (OSError, KeyError, ValueError, RuntimeError) as exc:
            raise UsageError(
                f"the checkpoint does not fit this training: {exc}",
                file=self.files.checkpoint,
                advice="Remove it, or give the configuration that it was made with.",
            ) from exc
        self.iteration = int(state["iteration"])


def seeded(seed: int, *, threads: int = 0) -> None:
    """Set the generator that initial weights come from, and the threads within operations (0: leave them)."""
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)


def counted(labels: Sequence[NDArray[np.uint8]], *, classes: int) -> NDArray[np.int64]:
    """Pixels of each class over label maps."""
    import numpy as np  # noqa: PLC0415

    return sum((np.bincount(one.ravel(), minlength=256)[:classes] for one in labels), np.zeros(classes, np.int64))
