"""Where memory runs out, less is kept in flight, then batches are smaller, then the run ends and loses nothing."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.errors import MemoryShortageError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.device import is_out_of_memory
from magnet_cli.models.networks import Networks
from magnet_cli.models.registry import build_cascade
from magnet_cli.options.rules import parse_patches
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation import group_reader as reading
from tests.laws.support import blurry_bundle, magnet, number, part, report_of, scene_pixels, segment, sides, write_tiled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


@dataclass
class Scarce:
    """A stand-in for `Networks.predict` on a device that runs out of memory at some calls."""

    fails: Callable[[int, int], bool]
    """Function of the number of the call, from 1, and its patches, that returns whether the call fails."""
    batches: list[int] = field(default_factory=list)
    computed: int = 0
    """Patches of the calls that did not fail."""

    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Scarce:
        real = Networks.predict

        def predict(networks: Networks, patches: Tensor, scale: Size) -> Tensor:
            self.batches.append(len(patches))
            if self.fails(len(self.batches), len(patches)):
                raise torch.OutOfMemoryError
            self.computed += len(patches)
            return real(networks, patches, scale)

        monkeypatch.setattr(Networks, "predict", predict)
        return self


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_tiled(tmp_path / "s.tif", scene_pixels(Size(width=500, height=300)))


@pytest.fixture
def options(tmp_path: Path) -> SegmentOptions:
    bundle = blurry_bundle(tmp_path / "bundle", scales=(32, 64))
    return SegmentOptions(weights=str(bundle), overlap=8, memory=8 << 30)


def notes(report: dict[str, object]) -> str:
    found = part(report, "notes")
    assert isinstance(found, list)
    return "\n".join(found)


def test_a_group_that_did_not_fit_is_computed_alone(
    image: Path, options: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(image, tmp_path / "calm.tif", options)
    Scarce(fails=lambda call, _: call in (7, 30)).installed(monkeypatch)
    report = segment(image, tmp_path / "scarce.tif", options)
    assert (tmp_path / "scarce.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()
    assert notes(report).count("nothing is read or written while a group is computed") == 1
    assert part(report, "options", "batch") == 4


def test_what_filled_the_memory_is_gone_when_a_group_is_tried_again(
    image: Path, options: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Networks.predict, iter(range(10_000))
    held: list[weakref.ref[Tensor]] = []
    left: list[object] = []

    def predict(networks: Networks, patches: Tensor, scale: Size) -> Tensor:
        if next(calls) == 7:
            held.append(weakref.ref(patches))
            raise torch.OutOfMemoryError
        left.extend(reference() for reference in held)
        return real(networks, patches, scale)

    monkeypatch.setattr(Networks, "predict", predict)
    segment(image, tmp_path / "scarce.tif", options)
    assert left
    assert set(left) == {None}


def test_before_anything_is_finished_the_batch_is_halved(
    image: Path, options: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed and resumed keeps the smaller batch, wherever it continues."""
    with monkeypatch.context() as scarce:
        Scarce(fails=lambda _, patches: patches > 1).installed(scarce)
        report = segment(image, tmp_path / "whole.tif", options)
    assert part(report, "options", "batch") == 1
    assert "2 patches a forward pass, not 4" in notes(report)
    assert "1 patches a forward pass, not 2" in notes(report)

    with monkeypatch.context() as scarce:
        Scarce(fails=lambda call, patches: patches > 1 or call > 60).installed(scarce)
        with pytest.raises(MemoryShortageError):
            segment(image, tmp_path / "resumed.tif", options)
    plenty = Scarce(fails=lambda *_: False).installed(monkeypatch)
    resumed = segment(image, tmp_path / "resumed.tif", options)
    assert number(resumed, "groups", "resumed") > 0
    assert set(plenty.batches) == {1}
    assert (tmp_path / "resumed.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_before_anything_of_a_later_pass_is_finished_its_batch_is_halved(
    image: Path, options: SegmentOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed and resumed keeps the smaller batch of its pass, wherever it continues."""
    fast = replace(options, method="magnet-fast", scales=sides(128, 64, 32), patches=parse_patches("4,8"))
    calm = Scarce(fails=lambda *_: False)
    with monkeypatch.context() as watched:
        calm.installed(watched)
        segment(image, tmp_path / "calm.tif", fast)
    first = windows_of_the_first_pass(tmp_path / "calm.tif")
    assert 0 < first < sum(calm.batches)

    def short(scarce: Scarce, patches: int) -> bool:
        # The patches of the first pass fit in any number.
        return patches > 1 and scarce.computed >= first

    with monkeypatch.context() as patched:
        scarce = Scarce(fails=lambda _, patches: short(scarce, patches)).installed(patched)
        report = segment(image, tmp_path / "whole.tif", fast)
    assert "2 patches a forward pass, not 4" in notes(report)
    assert "1 patches a forward pass, not 2" in notes(report)
    assert batches(report) == [4, 1]
    assert number(report, "groups", "resumed") == 0
    assert number(report, "groups", "computed") == number(report_of(tmp_path / "calm.tif"), "groups", "computed")
    # This network does not show by which batches it was computed.
    assert (tmp_path / "whole.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()

    with monkeypatch.context() as patched:
        again = Scarce(fails=lambda _, patches: short(again, patches) or again.computed > first + 40).installed(patched)
        with pytest.raises(MemoryShortageError):
            segment(image, tmp_path / "resumed.tif", fast)
    plenty = Scarce(fails=lambda *_: False).installed(monkeypatch)
    resumed = segment(image, tmp_path / "resumed.tif", fast)
    assert set(plenty.batches) == {1}
    assert plenty.computed < sum(calm.batches) - first
    assert part(resumed, "options", "batch") == 1
    assert batches(resumed) == [4, 1]
    assert (tmp_path / "resumed.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()


def batches(report: dict[str, object]) -> list[int]:
    """Return the patches of a forward pass in each pass."""
    found = part(report, "passes")
    assert isinstance(found, list)
    return [entry["batch"] for entry in found]


def windows_of_the_first_pass(mask: Path) -> int:
    """Return how many windows of the first pass a finished run has computed."""
    found = part(report_of(mask), "passes")
    assert isinstance(found, list)
    assert len(found) > 1
    return sum(stage["windows_run"] for stage in found[0]["stages"])


def test_a_batch_that_was_asked_for_is_halved_too(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = blurry_bundle(tmp_path / "bundle", scales=(32, 64))
    words = ("segment", image, "--weights", bundle, "--overlap", "8", "-b", "3", "-o", tmp_path / "m.tif")
    scarce = Scarce(fails=lambda _, patches: patches > 1).installed(monkeypatch)
    ended = magnet(*words)
    assert ended.code == 0
    assert "memory was short: 1 patches a forward pass, not 3" in ended.said
    assert part(report_of(tmp_path / "m.tif"), "options", "batch") == 1
    ran = len(scarce.batches)
    again = magnet(*words)
    assert "already done" in again.said
    assert len(scarce.batches) == ran


def test_memory_for_not_even_one_patch_ends_the_run_and_leaves_nothing(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = blurry_bundle(tmp_path / "bundle", scales=(32, 64))
    scarce = Scarce(fails=lambda *_: True).installed(monkeypatch)
    ended = magnet("segment", image, "--weights", bundle, "-b", "2", "-o", tmp_path / "m.tif")
    assert ended.code == 6
    assert "out of memory while stage 1, block (0, 0), was computed" in ended.said
    assert not list(tmp_path.glob("m.tif*"))
    assert set(scarce.batches) == {2, 1}


def test_later_the_run_ends_with_6_and_the_same_command_goes_on(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = blurry_bundle(tmp_path / "bundle", scales=(32, 64))
    words = ("segment", image, "--weights", bundle, "--overlap", "8")
    assert magnet(*words, "-o", tmp_path / "calm.tif").code == 0
    with monkeypatch.context() as scarce:
        Scarce(fails=lambda call, _: call > 20).installed(scarce)
        ended = magnet(*words, "-o", tmp_path / "m.tif")
    assert ended.code == 6
    assert "what was finished is kept" in ended.said
    assert magnet(*words, "-o", tmp_path / "m.tif").code == 0
    groups = part(report_of(tmp_path / "m.tif"), "groups")
    assert isinstance(groups, dict)
    assert groups["resumed"] > 0
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()


def test_memory_that_runs_out_while_reading_is_named(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> reading.BlockPixels:
        raise MemoryError

    monkeypatch.setattr(reading, "read_block", full)
    ended = magnet("segment", image, "--weights", blurry_bundle(tmp_path / "b"), "-o", tmp_path / "m.tif")
    assert ended.code == 6
    assert "out of memory while block (0, 0) of pass 1 was read" in ended.said


def test_memory_that_runs_out_while_the_networks_are_loaded_is_named(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    for place in ("segmentation.segment_model.loaded_networks", "refinement.cascade_model.loaded_cascade"):
        monkeypatch.setattr(f"magnet_cli.{place}", full)
    words = ("segment", image, "--weights", blurry_bundle(tmp_path / "b"), "-o", tmp_path / "m.tif")
    write_cascade_bundle(tmp_path / "c", describe_cascade(name="c", side=96), build_cascade("conv", options={}))
    for more in (("--refine", "cascadepsp", "--refine-weights", tmp_path / "c"), ()):
        ended = magnet(*words, *more)
        assert ended.code == 6
        assert "out of memory while the networks were loaded" in ended.said
    assert not list(tmp_path.glob("m.*"))


def test_memory_that_runs_out_before_a_part_has_begun_is_named(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scarce(fails=lambda *_: True).installed(monkeypatch)
    words = ("segment", image, "--weights", blurry_bundle(tmp_path / "b"), "-o", tmp_path / "m.tif")
    ended = magnet(*words, "--part-id", "0", "--num-parts", "2")
    assert ended.code == 6
    assert "out of memory while the arithmetic of this machine was measured" in ended.said
    assert not list(tmp_path.glob("m.*"))


def test_the_hosts_message_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
