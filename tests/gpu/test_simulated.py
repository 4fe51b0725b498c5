"""What the program does on a GPU alone is right on a simulated one, with its memory and its streams."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.errors import MemoryShortageError
from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.masks.targets import Target
from magnet_cli.models.device import SideStream
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement import method_loader
from magnet_cli.refinement.api import refine
from magnet_cli.run.writer import Writer
from magnet_cli.segmentation.block_stage import BlockStage
from magnet_cli.segmentation.image_series import segment_target
from magnet_cli.segmentation.segment_model import Model, load_model
from magnet_cli.train import precision
from magnet_cli.train.config import LoopConfig
from tests.gpu.simulated import DEVICE, NAME, SimulatedCascade, Stream, on_device, simulated
from tests.laws.support import METHODS_OF_ONE_PASS, blurry_bundle, labels_in, scene_pixels, sides, write_tiled
from tests.refinement.support import Bright, discs, model_of, use, write_grey, write_image
from tests.segmentation.test_fields import fast, recalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.gpu.simulated import SimulatedDevice

SIZE = Size(width=131, height=93)


METHODS = {
    **METHODS_OF_ONE_PASS,
    "selector": SegmentOptions(method="magnet-fast", budget=Fraction(2, 5), select="ppn", scales=sides(128, 64, 32)),
    "patch": SegmentOptions(method="patch"),
    "downsample": SegmentOptions(method="downsample"),
    "two passes": SegmentOptions(scales=sides(512, 256, 128, 64, 32), probabilities=True, uncertainty=True),
    "not nested": SegmentOptions(scales=sides(150, 100, 50), points=parse_points("q>0.02")),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle") / "blurry"
    return str(blurry_bundle(folder, scales=(32, 64, 128), selector=True))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiled(tmp_path_factory.mktemp("image") / "holes.tif", scene_pixels(SIZE, nodata=True), nodata=0)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedDevice]:
    with simulated(monkeypatch) as found:
        yield found


def loaded(options: SegmentOptions, bundle: str) -> tuple[Model, SegmentOptions]:
    options = replace(options, weights=bundle, device="cpu", precision="float32", batch_size=options.batch_size or 1)
    return load_model(options, Events()), options


def run(image: Path, mask: Path, model: Model, options: SegmentOptions) -> NDArray[np.uint8]:
    result = segment_target(Target(image=str(image), mask=mask), model, options, Events())
    if result.error is not None:
        raise result.error
    return labels_in(mask)


# `not nested` has a threshold as well, `count` ranks points as `share` does, and `fast` has several passes. The single
# stage of `patch` and `downsample` does on the device what the first stage of the others does.
FULL = ("threshold", "share", "patch", "downsample", "two passes")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in FULL else ()) for name in METHODS]
)
def test_masks_are_those_of_the_cpu_and_no_stream_is_ahead_of_another(
    bundle: str, image: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = loaded(METHODS[name], bundle)
    wanted = run(image, tmp_path / "cpu.tif", model, options)
    with simulated(monkeypatch) as device:
        found = run(image, tmp_path / "gpu.tif", on_device(model, device), options)
    assert len(np.unique(found)) > 2
    assert float(np.mean(found == wanted)) >= 0.9995
    assert device.violations == []
    assert sum(device.operations.values()) > 100
    assert device.pinned_copies > 0
    assert device.used == 0, "tensors are left on the device"


def test_the_host_joins_no_more_of_a_field_than_is_planned(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 2 beside an accelerator: a pass starts from a field that the host joins block by block."""
    plan = fast(NAME)
    most, kept = recalled(plan, plan.passes[1], monkeypatch, DEVICE)
    assert kept <= device.peak < 1.1 * kept
    assert most > 4 * kept
    assert most <= plan.memory.compute < 1.1 * most
    assert plan.memory.total >= plan.memory.compute + plan.memory.base
    assert device.violations == []


def test_a_refined_mask_is_that_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = discs((330, 300), (150, 150, 130), (20, 20, 15))
    image = write_image(tmp_path / "image.tif", truth)
    mask = write_grey(tmp_path / "mask.tif", np.roll(truth, (3, -2), (0, 1)).astype(np.uint8))
    use(monkeypatch, Bright())
    wanted = labels_in(refine(image, mask, tmp_path / "cpu.tif", RefineOptions()).output)
    with simulated(monkeypatch) as device:
        model = model_of(cast("Any", SimulatedCascade(Bright(), device)))
        machine = replace(model.machine, device=NAME, gpu_memory=device.budget)
        monkeypatch.setattr(method_loader, "load_refine_model", lambda *_: replace(model, machine=machine))
        found = refine(image, mask, tmp_path / "gpu.tif", RefineOptions())
    assert 0 < float(np.mean(wanted == tifffile.imread(mask))) < 1
    assert np.array_equal(labels_in(found.output), wanted)
    assert device.violations == []
    assert device.peak > 0
    assert device.used == 0


def test_a_writer_that_does_not_wait_is_found(
    bundle: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This test shows that the simulated device does note violations."""
    put = Writer.put

    def put_and_wait(writer: Writer, store: Callable[[], None], *, is_last: bool) -> None:
        # The next group would wait for the device, and the writer that begins after that finds everything finished.
        put(writer, store, is_last=is_last)
        writer.wait()

    model, options = loaded(METHODS["all"], bundle)
    monkeypatch.setattr(Stream, "wait_event", lambda *_: None)
    monkeypatch.setattr(Writer, "put", put_and_wait)
    with simulated(monkeypatch) as device:
        run(image, tmp_path / "gpu.tif", on_device(model, device), options)
    assert any("still writing" in text for text in device.violations)


def test_a_buffer_that_is_used_again_before_its_copy_has_ended_is_found(
    bundle: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show that the simulated device notices when a reader gets a buffer back too early."""
    on_device_as_it_is = BlockStage._on_device

    def used_again(stage: BlockStage, array: NDArray[Any]) -> torch.Tensor:
        copied = on_device_as_it_is(stage, array)
        array[...] = 0
        return copied

    model, options = loaded(METHODS["patch"], bundle)
    monkeypatch.setattr(BlockStage, "_on_device", used_again)
    with simulated(monkeypatch) as device:
        run(image, tmp_path / "gpu.tif", on_device(model, device), options)
    assert any("memory of the host was written" in text for text in device.violations)


def test_host_memory_may_change_once_its_copy_has_ended(device: SimulatedDevice) -> None:
    for waits in (True, False):
        source = torch.arange(6.0).pin_memory()
        copied = source.to(DEVICE, non_blocking=True)
        if waits:
            torch.cuda.synchronize()
        source.zero_()
        torch.cuda.synchronize()
        assert bool(device.violations) is not waits
        assert float(copied.sum()) == 15
    assert device.pinned_copies == 2


def test_training_copies_batches_from_memory_that_nothing_else_writes(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "resolve_device", lambda _: NAME)
    arithmetic = precision.Arithmetic(LoopConfig(device=NAME, precision="float32"))
    arithmetic.device = DEVICE
    batch = torch.arange(6.0)
    copied = arithmetic.moved(batch)
    batch.zero_()
    torch.cuda.synchronize()
    assert float(copied.sum()) == 15
    assert device.pinned_copies == 1
    assert device.violations == []


def test_a_result_has_no_values_before_its_copy_has_ended(device: SimulatedDevice) -> None:
    values = torch.ones(4, device=DEVICE)
    fetched = values.to("cpu", non_blocking=True)
    assert not torch.equal(fetched, torch.ones(4))
    torch.cuda.synchronize()
    assert torch.equal(fetched, torch.ones(4))
    assert torch.equal(values.cpu(), torch.ones(4))
    assert device.violations == []


def test_memory_that_is_freed_too_early_is_found(device: SimulatedDevice) -> None:
    side = SideStream("cuda:0")
    values = torch.ones(100, device=DEVICE)
    with side.after(side.mark()):
        total = values.sum()
        del values
        assert any("freed" in text for text in device.violations)
        assert float(total) == 100


def test_tensors_of_two_devices_do_not_mix(device: SimulatedDevice) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=DEVICE) + torch.ones(3)
    assert device.used == 0


# The stages of `fast` are passes of their own, and the last takes the most memory. `tests/laws/test_shortage.py` has
# both on a CPU.
@pytest.mark.full
@pytest.mark.parametrize(("name", "expected"), [("all", {"survived", "ended"}), ("fast", {"survived", "ended"})])
def test_wherever_memory_runs_out_the_mask_is_the_same_or_the_run_can_go_on(
    bundle: str, image: Path, name: str, *, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = loaded(replace(METHODS[name], batch_size=4), bundle)
    with simulated(monkeypatch) as device:
        run(image, tmp_path / "plenty.tif", on_device(model, device, work=400_000), options)
        peak = device.peak
    plenty = (tmp_path / "plenty.tif").read_bytes()
    outcomes = set()
    for share in (0.95, 0.6, 0.3, 0.03):
        mask = tmp_path / f"{share}.tif"
        with simulated(monkeypatch, budget=int(peak * share)) as device:
            short = on_device(model, device, work=400_000)
            short = replace(short, machine=replace(short.machine, gpu_memory=1 << 40))
            error = segment_target(Target(image=str(image), mask=mask), short, options, Events()).error
        assert device.violations == []
        assert device.failed
        if error is None:
            outcomes.add("survived")
        else:
            assert isinstance(error, MemoryShortageError)
            assert error.exit_code == 6
            assert not mask.exists()
            outcomes.add("ended")
            with simulated(monkeypatch) as device:
                run(image, mask, on_device(model, device), options)
        # Smaller batches may change the last bits; of this network they change none.
        assert mask.read_bytes() == plenty, share
    assert outcomes == expected
