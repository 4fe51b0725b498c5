"""Where memory runs out while a mask is refined, less is kept in flight, then the run ends and loses nothing."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from scipy.ndimage import shift

from magnet_cli.errors import MemoryShortageError
from magnet_cli.masks.journal import Journal
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.api import refine
from magnet_cli.refinement.image_view import ImageView
from tests.cli.support import invoke
from tests.refinement.support import Bright, discs, use, write_grey, write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

SHAPE = (330, 351)
"""Shape of a mask with two small objects, which are the first two calls, and a large one, which takes the others."""


@dataclass
class Scarce(Bright):
    """A cascade that runs out of memory at some calls, which are counted from 1."""

    fails: Callable[[int], bool] = lambda _: False

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        if self.fails(self.calls):
            raise torch.OutOfMemoryError
        return super().sharpened(images, inside)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    truth = discs(SHAPE, (160, 170, 145), (20, 20, 16), (305, 330, 14))
    labels = (shift(truth.astype(np.float32), (3, -2), order=0) > 0.5).astype(np.uint8)
    return write_image(folder / "i.tif", truth), write_grey(folder / "m.tif", labels)


@pytest.fixture(scope="module")
def calm(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the mask of a run that has enough memory."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, Bright())
        made = refine(*pair, tmp_path_factory.mktemp("calm") / "calm.tif")
    assert "out of memory" not in notes(made.report)
    return made.output.read_bytes()


def notes(report: dict[str, object]) -> str:
    return "\n".join(cast("list[str]", report["notes"]))


@pytest.mark.parametrize(
    ("fails", "workers"),
    [
        ((1,), 2),
        ((2, 4), 0),
        ((40, 70), 2),
        *(pytest.param(*case, marks=pytest.mark.full) for case in (((2, 4), 2), ((3,), 2), ((40, 70), 0))),
    ],
)
def test_a_group_that_did_not_fit_is_computed_with_nothing_beside_it(
    pair: tuple[Path, Path],
    calm: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fails: tuple[int, ...],
    workers: int,
) -> None:
    network = use(monkeypatch, Scarce(fails=lambda call: call in fails))
    scarce = refine(*pair, tmp_path / "scarce.tif", RefineOptions(num_workers=workers))
    assert network.calls > max(fails)
    assert scarce.output.read_bytes() == calm
    noted = r"out of memory while group \d+ of \d+ of pass \d was computed: from here on nothing is read or written"
    assert len(re.findall(noted, notes(scarce.report))) == bool(workers)


def test_what_could_not_be_read_is_read_once_more(
    pair: tuple[Path, Path], calm: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Bright())
    original, calls = ImageView.read, iter(range(100))

    def read(*given: Any, **named: Any) -> Any:
        if next(calls) in (1, 3):
            raise MemoryError
        return original(*given, **named)

    monkeypatch.setattr(ImageView, "read", read)
    scarce = refine(*pair, tmp_path / "scarce.tif")
    assert scarce.output.read_bytes() == calm
    assert "out of memory while group 2 of 2 of pass 1 was read" in notes(scarce.report)


@pytest.mark.parametrize("last", [1, pytest.param(3, marks=pytest.mark.full), 30])
def test_the_run_ends_with_6_and_the_same_command_goes_on(
    pair: tuple[Path, Path], calm: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    use(monkeypatch, Scarce(fails=lambda call: call > last))
    words = ("refine", *pair, "-o", tmp_path / "cut.tif")
    ended = invoke(*words)
    assert ended.exit_code == 6
    assert "what was finished is kept" in ended.stderr
    assert not (tmp_path / "cut.tif").exists()
    use(monkeypatch, Bright())
    assert invoke(*words).exit_code == 0
    cut = refine(*pair, tmp_path / "cut.tif")
    assert cast("dict[str, int]", cut.report["groups"])["resumed"] > 0
    assert cut.output.read_bytes() == calm


def test_memory_that_runs_out_while_a_group_is_stored_is_named(
    pair: tuple[Path, Path], calm: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Bright())
    with monkeypatch.context() as scarce:
        scarce.setattr(Journal, "put_labels", _full)
        with pytest.raises(MemoryShortageError, match="stored"):
            refine(*pair, tmp_path / "cut.tif")
    cut = refine(*pair, tmp_path / "cut.tif")
    assert cut.output.read_bytes() == calm


def _full(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    "where", ["magnet_cli.refinement.survey.Survey.objects", "magnet_cli.refinement.input_mask._values"]
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_memory_that_runs_out_while_objects_are_looked_for_is_named(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], where: str
) -> None:
    use(monkeypatch, Bright())
    monkeypatch.setattr(where, _full)
    ended = invoke("refine", *pair, "-o", tmp_path / "out.tif", *more)
    assert ended.exit_code == 6
    assert "i.tif: Run the same command with more memory: what was finished is kept\n" in ended.stderr
    assert "  Why: out of memory while the mask was surveyed" in ended.stderr
    assert not list(tmp_path.glob("out*"))


def test_memory_for_not_even_one_pass_leaves_nothing(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = use(monkeypatch, Scarce(fails=lambda _: True))
    assert invoke("refine", *pair, "-o", tmp_path / "out.tif").exit_code == 6
    assert network.calls == 2
    assert not list(tmp_path.glob("out*"))


def test_what_filled_the_memory_is_gone_when_a_group_is_tried_again(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Tensor]] = []
    left: list[object] = []

    class Watched(Bright):
        def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
            if self.calls == 4:
                held.append(weakref.ref(images))
                raise torch.OutOfMemoryError
            left.extend(reference() for reference in held)
            return super().sharpened(images, inside)

    use(monkeypatch, Watched())
    refine(*pair, tmp_path / "out.tif")
    assert left
    assert set(left) == {None}
