"""The training loop has the right arithmetic and checkpoints, and ends as it should."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from math import cos, pi
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.models.networks import channels_last
from magnet_cli.models.registry import build_backbone
from magnet_cli.system.durable import writing
from magnet_cli.train.config import LoopConfig
from magnet_cli.train.loop import Files, Tick, Trainer, class_weights, counted
from magnet_cli.train.losses import PixelObjective
from magnet_cli.train.snapshots import write_checkpoint
from magnet_cli.train.validation import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from magnet_cli.train.precision import Arithmetic

WEIGHTS = torch.tensor([0.7, 1.9])
LOOP = LoopConfig(iterations=8, batch=2, rate=0.05, average=0.5, log_every=1, save_every=100, device="cpu")


def network() -> nn.Module:
    torch.manual_seed(2)
    return build_backbone("conv", classes=2, bands=3, options={"kernel": 3})


def test_ignored_pixels_are_not_counted() -> None:
    counts = [np.bincount([0, 1, 255], minlength=256), np.bincount([1], minlength=256)]
    assert counted(counts, classes=2, ignore=255).tolist() == [1, 2]
    assert counted(counts, classes=2, ignore=0).tolist() == [0, 2]


def batch(index: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(0, 2, (2, 6, 7), generator=generator)
    labels[0, :2] = 255
    return torch.randn((2, 3, 6, 7), generator=generator), labels


def trainer(loop: LoopConfig = LOOP, **options: Any) -> Trainer:
    objective = PixelObjective(weights=WEIGHTS, config=loop, ignore=255)
    return Trainer(network(), batches=batch, config=loop, objective=objective, **options)


def scores(*values: float) -> Callable[[nn.Module, Arithmetic], Score]:
    """Return a validation that gives these mean IoUs, one after the other."""
    left = list(values)
    return lambda _network, _arithmetic: Score(miou=left.pop(0), cross_entropy=1.0)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_usual_settings_are_this_arithmetic_to_the_bit(precision: str) -> None:
    """Published trainings were made with this arithmetic, so new settings must not change it."""
    mine = channels_last(network())
    average = copy.deepcopy(mine)
    optimizer = torch.optim.AdamW(mine.parameters(), lr=0.05, weight_decay=0.02)
    expected = []
    for index in range(8):
        optimizer.param_groups[0]["lr"] = 0.05 if index == 0 else 0.05 * (1 + cos(pi * ((index - 1) / 7))) / 2
        inputs, labels = batch(index)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = mine(inputs.contiguous(memory_format=torch.channels_last))
        total = torch.nn.functional.cross_entropy(logits.float(), labels, WEIGHTS, ignore_index=255, reduction="sum")
        loss = total / int((labels != 255).sum())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 5.0)
        optimizer.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), mine.parameters(), strict=True):
                kept.lerp_(new, 1 - min(0.5, (index + 1) / (index + 10)))
        expected.append(float(loss.detach()))
    fitted = trainer(replace(LOOP, precision=precision))
    ticks: list[Tick] = []
    assert_same(fitted.fit(each=ticks.append), average)
    assert [tick.loss for tick in ticks] == expected
    assert_same(fitted.network, mine)


def test_a_scaled_loss_is_the_same_training(tmp_path: Path) -> None:
    """Powers of two scale float32 exactly, if gradients are scaled back before they are clipped."""
    files = Files(folder=tmp_path)
    first, second = trainer(files=files), trainer(files=files)
    for scaled in (first, second):
        scaled.arithmetic.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    first.fit(until=3)
    assert_same(second.fit(), trainer().fit())
    assert second.arithmetic.scaler.get_scale() == 2.0**14


def test_validation_changes_nothing_but_the_choice() -> None:
    plain, looking = trainer(), trainer(replace(LOOP, validate_every=1), validate=scores(*[0.1] * 7, 0.2))
    assert_same(plain.fit(), looking.fit())


def test_the_best_weights_are_kept_and_patience_ends_it(tmp_path: Path) -> None:
    loop = replace(LOOP, validate_every=2, patience=2, iterations=100)
    files = Files(folder=tmp_path / "t")
    lines: list[dict[str, float]] = []
    fitted = trainer(loop, files=files, validate=scores(0.3, 0.5, 0.5, 0.4))
    result = fitted.fit(progress=lines.append)
    assert fitted.done
    assert fitted.iteration == 8
    seen = [(line["validation_miou"], line["best_iteration"]) for line in lines if "validation_miou" in line]
    assert seen == [(0.3, 2), (0.5, 4), (0.5, 4), (0.4, 4)]
    assert [json.loads(line) for line in files.log.read_text().splitlines()] == lines
    short = trainer(replace(loop, patience=0), validate=scores(0.1, 0.2))
    short.fit(until=4)
    assert_same(result, short.average.network)
    again = trainer(loop, files=files, validate=scores())
    assert_same(again.fit(each=lambda _: pytest.fail("went on")), result)


def test_the_last_iteration_is_validated_too() -> None:
    lines: list[dict[str, float]] = []
    trainer(replace(LOOP, validate_every=3), validate=scores(0.1, 0.2, 0.3)).fit(progress=lines.append)
    assert [line["iteration"] for line in lines if "validation_miou" in line] == [3, 6, 8]


def test_to_validate_needs_scenes() -> None:
    with pytest.raises(UsageError, match="held-out scenes"):
        trainer(replace(LOOP, validate_every=2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_checkpoint_to_go_on_from(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(tick: Tick) -> None:
        if tick.iteration == 3:
            signal.raise_signal(number)

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    files = Files(folder=tmp_path)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer(files=files).fit(each=interrupt)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert torch.load(files.checkpoint)["iteration"] == 3
    assert files.curves.exists()
    ticks: list[Tick] = []
    assert_same(trainer(files=files).fit(each=ticks.append), trainer().fit())
    assert ticks[0].iteration == 4


class Killed(BaseException):
    """An exception that stands for the end of a process that cannot clean up."""


def log_of(files: Files) -> list[dict[str, float]]:
    """Return the lines of a log without their times."""
    lines = [json.loads(line) for line in files.log.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_training_that_was_killed_writes_the_log_of_one_that_was_not(tmp_path: Path) -> None:
    """A checkpoint between two lines of the log holds the sums of which the next line shows the mean."""

    def kill(tick: Tick) -> None:
        if tick.iteration == 6:
            raise Killed

    loop = replace(LOOP, log_every=4, save_every=3)
    whole, cut = Files(folder=tmp_path / "whole"), Files(folder=tmp_path / "cut")
    trainer(loop, files=whole).fit()
    with pytest.raises(Killed):
        trainer(loop, files=cut).fit(each=kill)
    assert torch.load(cut.checkpoint)["iteration"] == 3
    trainer(loop, files=cut).fit()
    assert log_of(cut) == log_of(whole)


def test_curves_that_a_killed_training_has_not_drawn_are_drawn_by_the_next(tmp_path: Path) -> None:
    def kill(*_: object, **__: object) -> None:
        raise Killed

    whole, cut = Files(folder=tmp_path / "whole"), Files(folder=tmp_path / "cut")
    trainer(files=whole).fit()
    killed = trainer(files=cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magnet_cli.train.loop.draw_curves", kill)
        with pytest.raises(Killed):
            killed.fit()
    trainer(files=cut).fit()
    assert cut.curves.read_bytes() == whole.curves.read_bytes()


def test_a_second_interruption_does_not_wait(tmp_path: Path) -> None:
    def twice(_tick: Tick) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(files=Files(folder=tmp_path)).fit(each=twice)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_thread_can_train() -> None:
    found: list[nn.Module] = []
    thread = threading.Thread(target=lambda: found.append(trainer().fit()))
    thread.start()
    thread.join()
    assert_same(found[0], trainer().fit())


@pytest.mark.parametrize(
    ("loop", "about", "message"),
    [
        (replace(LOOP, rate=0.1), {"data": {"jitter": 1.4}}, r"\[loop\] rate was 0\.05"),
        (replace(LOOP, seed=1, iterations=9), {"data": {"jitter": 1.4}}, r"iterations was 8; \[loop\] seed was 0"),
        (LOOP, {"data": {"jitter": 2.0}}, r"\[data\] jitter was 1\.4"),
        (LOOP, {}, r"\[data\] jitter was 1\.4"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, loop: LoopConfig, about: dict[str, dict[str, object]], message: str
) -> None:
    files = Files(folder=tmp_path)
    trainer(files=files, about={"data": {"jitter": 1.4}}).fit(until=2)
    with pytest.raises(UsageError, match=f"checkpoint does not fit this training: .*{message}"):
        trainer(loop, files=files, about=about).fit()


def test_a_checkpoint_that_says_less_or_differs_in_what_is_harmless_is_taken(tmp_path: Path) -> None:
    files = Files(folder=tmp_path)
    trainer(files=files).fit(until=2)
    state = torch.load(files.checkpoint)
    for key in ("configuration", "scaler", "best"):
        del state[key]
    torch.save(state, files.checkpoint)
    trainer(files=files).fit(until=4)
    other = replace(LOOP, threads=3, log_every=2, save_every=5, device="auto")
    changed = trainer(other, files=files, about={"data": {"added later": 1}})
    assert_same(changed.fit(), trainer().fit())


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    files = Files(folder=tmp_path)
    files.checkpoint.write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"checkpoint\.pt: the checkpoint does not fit"):
        trainer(files=files).fit()


def test_a_folder_that_takes_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"checkpoint\.pt"):
        write_checkpoint(tmp_path / "file" / "checkpoint.pt", {})


def test_rare_classes_weigh_more_and_the_mean_is_one() -> None:
    counts = np.array([90, 10, 0])
    weights = class_weights(counts, balance=0.5)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert float((weights[:2] * torch.tensor([0.9, 0.1])).sum()) == pytest.approx(1)
    assert class_weights(counts, balance=0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_folder_that_is_removed_ends_the_training(tmp_path: Path, *, comes_back: bool) -> None:
    files = Files(folder=tmp_path / "t.training")

    def each(tick: Tick) -> None:
        if tick.iteration == 3:
            shutil.rmtree(files.folder)
            if comes_back:
                files.folder.mkdir()

    with pytest.raises(OutputError, match="was removed or replaced while the training ran"):
        trainer(files=files).fit(each=each)
    assert not list(tmp_path.rglob("*.*l"))


def test_a_disk_that_is_full_is_named_where_torch_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() > 64:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    @contextmanager
    def full(target: Path) -> Iterator[Full]:
        with writing(target):
            yield Full()

    monkeypatch.setattr("magnet_cli.train.snapshots.working_file", full)
    with pytest.raises(OutputError, match="No space left"):
        write_checkpoint(tmp_path / "checkpoint.pt", {"network": network().state_dict()})
