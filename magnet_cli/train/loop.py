"""The fitting of a network: averaged weights, checkpoints, validation, log lines."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.models.networks import channels_last
from magnet_cli.system.durable import writing
from magnet_cli.train.batches import ahead
from magnet_cli.train.curves import draw_curves
from magnet_cli.train.destination import CHECKPOINT
from magnet_cli.train.encoder_start import encoders_of, refuse_idle_rate
from magnet_cli.train.interruption import Interruption
from magnet_cli.train.log import Line, append_line, cut_log
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.snapshots import State, identity, read_checkpoint, write_checkpoint
from magnet_cli.train.validation import BestScore, better

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.train.config import LoopConfig
    from magnet_cli.train.losses import Objective
    from magnet_cli.train.validation import Score


def rate_at(iteration: int, config: LoopConfig) -> float:
    """Return the learning rate of an iteration, counted from 0: a linear rise, then a cosine to zero or steps."""
    rise = max(1, round(config.warmup * config.iterations))
    if iteration < rise:
        return config.rate * (iteration + 1) / rise
    if config.schedule == "step":
        taken = sum(iteration >= round(share * config.iterations) for share in config.steps)
        return config.rate * config.step_factor**taken
    done = (iteration - rise) / max(1, config.iterations - rise)
    return config.rate * (1 + cos(pi * min(1.0, done))) / 2


Progress = Callable[[Line], None]
Message = Callable[[str], None]
"""Called with each log line."""
Validate = Callable[[nn.Module, Arithmetic], "Score"]
"""Scores a network in eval mode."""

SHARE = "share"
"""The key of an optimizer's group that holds its learning rate as a share of the loop's."""
REDRAW = 60.0
"""Seconds between two drawings of the curves, at least."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One iteration that is over."""

    iteration: int
    """Counted from 1."""
    iterations: int
    loss: float
    rate: float


Each = Callable[[Tick], None]
"""Called after each iteration."""


class Watch(TypedDict, total=False):
    """The functions that follow a training, and where it stops."""

    progress: Progress | None
    """Receives each log line; those of the folds' backbones first."""
    until: int | None
    """Stop at that iteration with a checkpoint, as an interruption would."""
    each: Each | None
    """Is called after each iteration."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files that a training needs to be continued."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Everything that an exact continuation needs."""
        return self.folder / CHECKPOINT

    @property
    def log(self) -> Path:
        """The path of the log, which has one JSON object a line; see `Line`."""
        return self.folder / "log.jsonl"

    @property
    def curves(self) -> Path:
        """The path of the picture of the log's curves."""
        return self.folder / "curves.png"


def class_weights(counts: NDArray[np.int64], *, balance: float) -> Tensor:
    """Return the weight of each class: its share to the power of minus `balance`, with a mean over pixels of one.

    A class without pixels has the weight 1.
    """
    share = torch.from_numpy(counts).double() / max(1, int(counts.sum()))
    # The bound keeps a class of a few pixels at a hundred times the weight of all, with the default `balance`.
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
        # A full momentum from the start would keep the random first weights in the average for hundreds of iterations.
        momentum = min(self.momentum, (iteration + 1) / (iteration + 10))
        for mine, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs, 1 - momentum)
            else:
                # Batch norms count their batches in whole numbers, which have no average.
                mine.copy_(theirs)


def optimizer_of(network: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """Return the optimizer that a loop names, over all weights of a network.

    Those of encoders have a rate of their own.
    """
    own = {id(weight) for encoder in encoders_of(network) for weight in encoder.parameters()}
    weights: list[dict[str, Any]] = [
        {"params": [weight for weight in network.parameters() if id(weight) not in own], SHARE: 1.0},
        {"params": [weight for weight in network.parameters() if id(weight) in own], SHARE: config.encoder_rate},
    ]
    # An optimizer refuses an empty group.
    weights = [group for group in weights if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=config.rate, momentum=config.momentum, weight_decay=config.decay)
    if config.optimizer == "adam":
        return torch.optim.Adam(weights, lr=config.rate, weight_decay=config.decay)
    return torch.optim.AdamW(weights, lr=config.rate, weight_decay=config.decay)


class Trainer:
    """Fits one network to batches that a function of the iteration gives.

    Args:
        network: The network that is fitted.
        batches: Iteration to (inputs, labels).
        config: The configuration of the loop.
        objective: The objective that is lowered.
        files: Checkpoint, log and curves; None keeps none of them.
        validate: Scores the averaged network on held-out scenes; needed where the loop validates.
        about: Further facts on which the training depends, by table and key, as JSON values. A checkpoint with others
            is refused.

    Raises:
        DeviceError: This machine has no such device.
        UsageError: The loop validates, but on nothing; or it has a rate for encoders, and the network none; or the
            device cannot do the precision.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        batches: Callable[[int], tuple[Tensor, Tensor]],
        config: LoopConfig,
        objective: Objective,
        files: Files | None = None,
        validate: Validate | None = None,
        about: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        if config.validate_every and validate is None:
            raise UsageError(
                "validate_every needs held-out scenes",
                value=config.validate_every,
                advice="Name scenes in validation, or leave validate_every out",
            )
        refuse_idle_rate(network, config)
        self.arithmetic = Arithmetic(config)
        self.network = channels_last(network.to(self.arithmetic.device))
        self.batches, self.config, self.files, self.objective = batches, config, files, objective
        self.validate = validate
        self.configuration = identity(config, about or {})
        self.average = Average(self.network, momentum=config.average)
        self.optimizer = optimizer_of(self.network, config)
        self.iteration = 0
        self.unlogged: defaultdict[str, list[float]] = defaultdict(list)
        """Values since the last log line, by key. The next line has their means. Checkpoints hold them."""
        self.best: BestScore | None = None
        self.begun = self.drawn = time.monotonic()
        self.held: int | None = None
        """Descriptor of the folder of the training's files while it runs."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to fit: the last iteration is over, or patience has run out."""
        patience, best = self.config.patience, self.best
        stopped = patience > 0 and best is not None and best.since >= patience
        return stopped or self.iteration >= self.config.iterations

    def fit(self, *, progress: Progress | None = None, until: int | None = None, each: Each | None = None) -> nn.Module:
        """Fit from the last checkpoint, if there is one, to the end.

        SIGINT, and SIGTERM where Python handles it, wait until the iteration at hand is over and in a checkpoint.

        Args:
            progress: Receives each log line.
            until: Stop there with a checkpoint, as an interruption would.
            each: Function that is called after each iteration.

        Returns:
            The network in host memory with averaged weights: the best validated, else the last.
        """
        self.restore()
        end = self.config.iterations if until is None else min(until, self.config.iterations)
        self.network.train()
        self.begun = time.monotonic()
        losses = self.unlogged["loss"]
        with self.holding_folder(), Interruption() as interruption:
            for batch in ahead(self.batches, range(self.iteration, self.iteration if self.done else end)):
                losses.append(self.step(*batch))
                rate = rate_at(self.iteration - 1, self.config)
                if each is not None:
                    total = self.config.iterations
                    each(Tick(iteration=self.iteration, iterations=total, loss=losses[-1], rate=rate))
                if self.iteration % self.config.log_every == 0 or self.iteration == end:
                    self.log({"loss": round(sum(losses) / len(losses), 5), "rate": rate}, progress)
                    losses.clear()
                self.compare(progress)
                ends = self.done or self.iteration == end
                if ends or interruption.asked or self.iteration % self.config.save_every == 0:
                    # The checkpoint comes last: what a killed training has not drawn is drawn when it goes on.
                    self.draw(now=ends or interruption.asked is not None)
                    self.save()
                interruption.deliver()
                if ends:
                    break
        return self.result()

    def step(self, inputs: Tensor, labels: Tensor) -> float:
        """Run one iteration and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = group[SHARE] * rate_at(self.iteration, self.config)
        inputs, labels = self.arithmetic.moved(inputs), self.arithmetic.moved(labels)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        loss = self.objective(self.network, inputs, labels, self.arithmetic)
        if not torch.isfinite(loss):
            raise SourceError("the loss is no longer a number", value=self.iteration, advice="Lower [loop] rate.")
        scaler = self.arithmetic.scaler
        # This sets gradients to None, and an optimizer leaves weights without a gradient alone: those of a network that
        # takes no part in this iteration do not decay.
        self.optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        # The norm is that of the true gradients, so the scale of the loss is taken out before they are clipped.
        scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        scaler.step(self.optimizer)
        scaler.update()
        self.average.update(self.network, iteration=self.iteration)
        self.iteration += 1
        return float(loss.detach())

    def compare(self, progress: Progress | None) -> None:
        """Score the averaged network if it is time, and keep the better one."""
        every = self.config.validate_every
        due = every and (self.iteration % every == 0 or self.iteration == self.config.iterations)
        if not due or self.validate is None:
            return
        score = self.validate(self.average.network, self.arithmetic)
        # The averaged weights are scored, because they are what the bundle gets.
        self.best = better(self.best, score, self.average.network, iteration=self.iteration)
        line: Line = {
            "validation_miou": round(score.miou, 5),
            "validation_cross_entropy": round(score.cross_entropy, 5),
            "best_miou": round(self.best.score.miou, 5),
            "best_iteration": self.best.iteration,
            **{f"validation_{key}": round(value, 5) for key, value in score.others.items()},
        }
        self.log(line, progress)

    def log(self, line: Line, progress: Progress | None) -> None:
        """Write and hand on one log line."""
        line = {"iteration": self.iteration, **line, "seconds": round(time.monotonic() - self.begun, 1)}
        if self.files is not None:
            self.check_folder()
            append_line(self.files.log, line)
        if progress is not None:
            progress(line)

    def draw(self, *, now: bool) -> None:
        """Draw the curves, if that was not done a moment ago or it has to be `now`."""
        if self.files is not None and (now or time.monotonic() - self.drawn > REDRAW):
            self.check_folder()
            draw_curves(self.files.log, self.files.curves)
            self.drawn = time.monotonic()

    def save(self) -> None:
        """Write the checkpoint, complete or not at all."""
        if self.files is None:
            return
        state: State = {
            "configuration": self.configuration,
            "iteration": self.iteration,
            "unlogged": dict(self.unlogged),
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.arithmetic.scaler.state_dict(),
            "best": None if self.best is None else self.best.state(),
        }
        self.check_folder()
        write_checkpoint(self.files.checkpoint, state)

    @contextmanager
    def holding_folder(self) -> Iterator[None]:
        """Make the folder of the training's files, if there are any, and hold it open, so that its loss is noticed.

        Raises:
            OutputError: The folder cannot be made.
        """
        if self.files is None:
            yield
            return
        with writing(self.files.folder):
            self.files.folder.mkdir(parents=True, exist_ok=True)
            # Windows opens no folder, and removes none in which files are open.
            self.held = None if sys.platform == "win32" else os.open(self.files.folder, os.O_RDONLY)
        try:
            yield
        finally:
            if self.held is not None:
                os.close(self.held)
                self.held = None

    def check_folder(self) -> None:
        """Check that the folder of the training's files is still the one that it began with.

        Raises:
            OutputError: The folder is another one, or gone.
        """
        if self.files is None or self.held is None:
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(self.files.folder.stat(), os.fstat(self.held)):
                return
        raise OutputError(
            "the folder was removed or replaced while the training ran, and what was computed is lost with it",
            file=self.files.folder,
            advice="Check that the output folder is still there, then run the same command again",
        )

    def restore(self) -> None:
        """Take up the checkpoint, if there is one, whichever device it was made on.

        Raises:
            UsageError: The checkpoint is of another training.
        """
        if self.files is None:
            return
        if self.files.checkpoint.exists():
            read_checkpoint(self.files.checkpoint, configuration=self.configuration, load=self.load_state)
        # Lines after the checkpoint belong to iterations that are computed again.
        cut_log(self.files.log, iteration=self.iteration)

    def load_state(self, state: State) -> None:
        """Take over the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The state of a scaler that is switched off is empty and cannot be loaded.
        if self.arithmetic.scaler.is_enabled():
            self.arithmetic.scaler.load_state_dict(state["scaler"])
        self.best = BestScore.restored(state.get("best"))
        self.iteration = int(state["iteration"])
        self.unlogged.clear()
        self.unlogged.update(state.get("unlogged", {}))

    def result(self) -> nn.Module:
        """Return the averaged network in host memory, of the best validation if there was one."""
        # A copy, because `Module.cpu` moves the network itself, and a training may go on after its result was taken.
        network = copy.deepcopy(self.average.network).cpu()
        if self.best is not None:
            network.load_state_dict(self.best.weights)
        return network


def seeded(seed: int, *, threads: int = 0) -> None:
    """Set the generator that initial weights come from, and the threads within operations (0: leave them)."""
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)


def counted(counts: Sequence[NDArray[np.int64]], *, classes: int, ignore: int) -> NDArray[np.int64]:
    """Return the pixels of each class, from counts of each value `(256,)`; those of the label `ignore` are left out."""
    total: NDArray[np.int64] = np.sum(counts, axis=0)[:classes].astype(np.int64)
    if ignore < classes:
        total[ignore] = 0
    return total
