"""On a real GPU the program copies, measures memory, meets shortages and computes as it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch

from benchmarks.memory import write_bundle_of
from magnet_cli import SegmentOptions, segment
from magnet_cli.arithmetic.scores import certainty
from magnet_cli.errors import MemoryShortageError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import (
    SideStream,
    context_memory,
    device_peak,
    is_out_of_memory,
    limit_device_memory,
    release_device_memory,
    reset_device_peak,
)
from magnet_cli.models.networks import load_networks
from magnet_cli.plan.windows import Index
from magnet_cli.scene import write_repeated
from magnet_cli.segmentation.canvas_output import largest
from magnet_cli.segmentation.group_reader import BlockPixels

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda:0"
AERIAL = Path(__file__).parents[2] / "weights" / "aerial"
MIB = 1 << 20


@pytest.fixture
def unlimited() -> Iterator[None]:
    """Remove the limit of the device's memory after the test."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    release_device_memory(DEVICE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write_repeated(path, size=Size(width=4500, height=2300))
    return path


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bundle") / "convolution"
    write_bundle_of(path, 5)
    return str(path)


@pytest.mark.parametrize("classes", [2, 7, 19])
def test_ties_go_to_the_lowest_class_as_on_a_cpu(classes: int) -> None:
    # Few values, so that many pixels have several largest ones or none at all.
    probs = torch.randint(0, 3, (classes, 300, 517), generator=torch.Generator().manual_seed(classes)).float() / 4
    probs[:, :20] = 0
    assert torch.equal(largest(probs.to(DEVICE)).cpu(), largest(probs))
    assert torch.equal(certainty(probs.to(DEVICE)).cpu(), certainty(probs))
    assert torch.equal(certainty(probs.half().to(DEVICE)).cpu(), certainty(probs.half()))


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_probabilities_are_those_of_the_cpu(precision: str, most: float) -> None:
    bundle = load_bundle(str(AERIAL))
    torch.manual_seed(0)
    patches = torch.randn(4, 3, *(bundle.input.size.height, bundle.input.size.width))
    scale = bundle.scales[-1]
    wanted = load_networks(bundle, device="cpu", precision="float32").predict(patches, scale)
    networks = load_networks(bundle, device=DEVICE, precision=precision)
    found = networks.predict(patches.to(DEVICE), scale).cpu()
    assert float((found - wanted).abs().max()) < most
    assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) > 0.99


def test_a_forward_pass_repeats_bit_for_bit() -> None:
    bundle = load_bundle(str(AERIAL))
    networks = load_networks(bundle, device=DEVICE, precision="bfloat16")
    patches = torch.randn(4, 3, *(bundle.input.size.height, bundle.input.size.width), device=DEVICE)
    first = networks.predict(patches, bundle.scales[-1])
    assert all(torch.equal(first, networks.predict(patches, bundle.scales[-1])) for _ in range(3))


def test_pixels_are_pinned_and_copied_whole_while_the_device_is_busy() -> None:
    busy = torch.randn(4096, 4096, device=DEVICE)
    copies, sums = [], []
    for number in range(8):
        pixels = np.full((1500, 1500, 3), number, np.uint8)
        block = BlockPixels(
            block=Index(column=0, row=0), stages=[pixels], valid=(None,), level0_valid=None, kept_valid=None
        ).pinned()
        held = torch.from_numpy(block.stages[0])
        assert held.is_pinned()
        for _ in range(20):
            busy = busy @ busy / 64
        copies.append(held.to(DEVICE, non_blocking=True))
        sums.append(number * pixels.size)
        # Freed while its copy waits behind the products: whoever pins next must not get this memory yet.
        del held, block
    assert [int(copy.sum()) for copy in copies] == sums


def test_a_side_stream_waits_for_what_was_computed_and_not_for_what_follows() -> None:
    side = SideStream(DEVICE)
    values = torch.zeros(1 << 20, device=DEVICE)
    big = torch.randn(8192, 8192, device=DEVICE)
    for _ in range(4):
        big = big @ big / 90
    values += 1
    moment = side.mark()
    for _ in range(400):
        big = big @ big / 90
    after = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch declares no types
    after.record()
    with side.after(moment):
        found = values.cpu()
    waited = after.query()  # type: ignore[no-untyped-call]  # torch declares no types
    assert not waited, "the copy waited for work that was queued after what it reads"
    assert bool((found == 1).all())
    torch.cuda.synchronize()


def test_masks_do_not_depend_on_the_stream_that_fetches_them(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SegmentOptions(weights=str(AERIAL), device=DEVICE, precision="bfloat16")
    segment([scene], tmp_path / "beside.tif", options)
    monkeypatch.setattr(SideStream, "mark", lambda _: None)
    segment([scene], tmp_path / "default.tif", options)
    segment([scene], tmp_path / "alone.tif", replace(options, num_workers=0))
    wanted = tifffile.imread(tmp_path / "default.tif", key=0)
    for name in ("beside", "alone"):
        assert np.array_equal(tifffile.imread(tmp_path / f"{name}.tif", key=0), wanted), name


def test_memory_is_capped_measured_and_given_back(unlimited: None) -> None:
    del unlimited
    reset_device_peak(DEVICE)
    release_device_memory(DEVICE)
    context = context_memory(DEVICE)
    assert 50 * MIB < context < 2048 * MIB
    limit_device_memory(DEVICE, context + 256 * MIB)
    held = torch.zeros(128 * MIB, dtype=torch.uint8, device=DEVICE)
    peak = device_peak(DEVICE)
    assert peak["allocated"] >= 128 * MIB
    assert peak["process"] >= peak["reserved"] + 50 * MIB
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.zeros(256 * MIB, dtype=torch.uint8, device=DEVICE)
    assert is_out_of_memory(raised.value)
    del held
    release_device_memory(DEVICE)
    assert torch.cuda.memory_reserved(DEVICE) < 128 * MIB


def test_memory_that_runs_out_ends_in_a_smaller_batch_or_exit_code_6(
    scene: Path, convolution: str, tmp_path: Path, unlimited: None
) -> None:
    del unlimited
    options = SegmentOptions(weights=convolution, device=DEVICE, precision="float32", batch_size=64)
    reset_device_peak(DEVICE)
    report = segment([scene], tmp_path / "plain.tif", options)[0].report
    assert report is not None
    reserved = torch.cuda.max_memory_reserved(DEVICE)
    release_device_memory(DEVICE)
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(reserved * 0.6 / total, DEVICE)
    result = segment([scene], tmp_path / "short.tif", options)[0]
    if result.error is not None:
        assert isinstance(result.error, MemoryShortageError)
        assert result.error.exit_code == 6
        return
    assert result.report is not None
    fitted = result.report["options"]["batch"]  # type: ignore[index]  # a JSON object
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    segment([scene], tmp_path / "fitted.tif", replace(options, batch_size=fitted))
    found, wanted = (tifffile.imread(tmp_path / f"{name}.tif", key=0) for name in ("short", "fitted"))
    assert np.array_equal(found, wanted)
