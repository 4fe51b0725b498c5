"""Law 1: the mask is a function of the image, the weights and the method; never of workers or memory."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.geometry import Size
from magnet_cli.images import reading_processes
from magnet_cli.options.rules import parse_patches, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import GROUP, make_plan
from magnet_cli.plan.footprint import HEAP
from magnet_cli.segmentation import image_planner
from magnet_cli.system import memory
from tests.laws.support import (
    METHODS_OF_ONE_PASS,
    blurry_bundle,
    digest,
    labels_in,
    number,
    part,
    scene_pixels,
    segment,
    sides,
    write_tiled,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Region
    from magnet_cli.plan import Plan

SIZE = Size(width=239, height=203)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blurry_bundle(tmp_path_factory.mktemp("bundle") / "blurry", scales=(32, 64, 128))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Write two images, and return them by whether pixels are missing."""
    folder = tmp_path_factory.mktemp("images")
    return {
        nodata: write_tiled(folder / f"{nodata}.tif", scene_pixels(SIZE, nodata=nodata), nodata=0 if nodata else None)
        for nodata in (False, True)
    }


METHODS = {
    **METHODS_OF_ONE_PASS,
    "patch": SegmentOptions(method="patch"),
    "two passes": SegmentOptions(scales=sides(512, 256, 128, 64, 32), probabilities=True, uncertainty=True),
    "not nested": SegmentOptions(scales=sides(150, 100, 50), points=parse_points("q>0.02")),
}


WITHOUT_HOLES = ("all", "budget", "two passes")
"""Methods that also run over an image with data everywhere in the default suite. With holes all of them do."""
CASES = [
    pytest.param(name, nodata, marks=() if nodata or name in WITHOUT_HOLES else pytest.mark.full)
    for name in METHODS
    for nodata in (False, True)
]


@pytest.mark.parametrize(("name", "nodata"), CASES)
def test_workers_do_not_change_a_byte(
    bundle: Path, images: dict[bool, Path], name: str, tmp_path: Path, *, nodata: bool
) -> None:
    options = replace(METHODS[name], weights=str(bundle))
    found = {}
    for workers in (0, 2):
        mask = tmp_path / f"w{workers}" / "m.tif"
        report = segment(images[nodata], mask, replace(options, num_workers=workers))
        fields = {
            str(file.relative_to(mask.parent)): digest(file) for file in mask.parent.rglob("c/*/*/*") if file.is_file()
        }
        found[workers] = (digest(mask), report["hashes"], report["mask"], report["passes"], fields)
    assert found[0] == found[2]
    assert bool((labels_in(tmp_path / "w0" / "m.tif") == 255).any()) is nodata
    assert bool(found[0][-1]) is options.probabilities


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(SegmentOptions(budget=Fraction(2, 5), scales=sides(128, 64, 32)), marks=pytest.mark.full),
        SegmentOptions(patches=parse_patches("w>0.3"), scales=sides(150, 100, 50)),
    ],
)
def test_workers_do_not_change_what_a_selector_says(
    images: dict[bool, Path], tmp_path: Path, options: SegmentOptions
) -> None:
    bundle = blurry_bundle(tmp_path / "bundle", selector=True)
    found = []
    for workers in (0, 2):
        mask = tmp_path / f"w{workers}.tif"
        asked = replace(options, method="magnet-fast", select="ppn", num_workers=workers, weights=str(bundle))
        report = segment(images[True], mask, asked)
        found.append((digest(mask), report["passes"]))
    assert found[0] == found[1]
    other = replace(options, method="magnet-fast", num_workers=0, weights=str(bundle))
    assert segment(images[True], tmp_path / "other.tif", other)["passes"] != found[0][1]


@pytest.mark.parametrize("nodata", [False, True])
@pytest.mark.parametrize("name", [pytest.param("all", marks=pytest.mark.full), "two passes"])
def test_processes_that_read_do_not_change_a_byte(
    bundle: Path, images: dict[bool, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, nodata: bool
) -> None:
    """Large images are read by processes. Here a small one is as well."""
    options = replace(METHODS[name], weights=str(bundle), num_workers=4)
    threads = segment(images[nodata], tmp_path / "threads.tif", options)
    asked = []
    original = reading_processes.ImageProcesses._read

    def read(self: reading_processes.ImageProcesses, *given: Any) -> list[Region]:
        asked.append(given)
        return original(self, *given)

    def waiting(self: reading_processes.ImageProcesses) -> Any:
        """Wait until the processes have started, because threads would read this small image before that."""
        while (reader := free(self)) is None:
            time.sleep(0.02)
        return reader

    free = reading_processes.ImageProcesses._free_reader
    monkeypatch.setattr(reading_processes.ImageProcesses, "_free_reader", waiting)

    monkeypatch.setattr(reading_processes.ImageProcesses, "_read", read)
    monkeypatch.setattr(reading_processes, "LEAST_PIXELS", 1)
    processes = segment(images[nodata], tmp_path / "processes.tif", options)
    assert digest(tmp_path / "processes.tif") == digest(tmp_path / "threads.tif")
    assert processes["hashes"] == threads["hashes"]
    assert asked


def test_methods_differ(bundle: Path, images: dict[bool, Path], tmp_path: Path) -> None:
    """Equal bytes mean something only if options that name the method do change the mask."""
    masks: list[NDArray[np.uint8]] = []
    for name, options in METHODS.items():
        mask = tmp_path / f"{name}.tif"
        segment(images[False], mask, replace(options, weights=str(bundle), num_workers=0))
        masks.append(labels_in(mask))
    for index, labels in enumerate(masks):
        assert len(np.unique(labels)) > 2
        assert not any(np.array_equal(labels, other) for other in masks[:index])


@pytest.mark.parametrize("name", ["all", "fast", "two passes"])
def test_groups_of_several_blocks_are_the_same_for_any_workers(
    bundle: Path, images: dict[bool, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks share their forward passes, as on a GPU. Another group may change roundings, but hardly a label."""
    options = replace(METHODS[name], weights=str(bundle))
    alone = segment(images[True], tmp_path / "1.tif", replace(options, batch_size=1))
    assert blocks_sharing(alone) == {1}
    monkeypatch.setitem(GROUP, "cpu", 3)
    for workers in (0, 2):
        report = segment(images[True], tmp_path / f"3-{workers}.tif", replace(options, num_workers=workers))
        assert min(blocks_sharing(report)) >= 3
    assert digest(tmp_path / "3-0.tif") == digest(tmp_path / "3-2.tif")
    assert (labels_in(tmp_path / "3-0.tif") == labels_in(tmp_path / "1.tif")).mean() > 0.9995


def blocks_sharing(report: dict[str, object]) -> set[int]:
    """Return the number of blocks in a group, for each pass."""
    found = part(report, "options", "group")
    assert isinstance(found, list)
    return set(found)


@pytest.mark.usefixtures("resident_memory")
@pytest.mark.parametrize("points", [pytest.param("all", marks=pytest.mark.full), "q>0.02"])
def test_memory_does_not_change_a_byte_and_is_kept(
    points: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not memory.host_memory():
        pytest.skip("this system does not say how much memory a process uses")
    size = Size(width=1300, height=700)
    image = write_tiled(tmp_path / "s.tif", scene_pixels(Size(width=650, height=350)).repeat(2, axis=0).repeat(2, 1))
    weights = blurry_bundle(tmp_path / "bundle", side=128, scales=(128, 256, 512), kernel=1)
    plans: list[Plan] = []

    def remembered(*arguments: Any, **named: Any) -> Plan:
        plans.append(make_plan(*arguments, **named))
        return plans[-1]

    monkeypatch.setattr(image_planner, "make_plan", remembered)
    options = SegmentOptions(weights=str(weights), points=parse_points(points), overlap=24, memory=16 << 30)
    masks, peaks = [], []
    for groups in (6.0, 1.5):
        mask = tmp_path / f"{groups}.tif"
        report = segment(image, mask, options)
        plan = plans[-1].memory
        masks.append((digest(mask), report["hashes"], report["mask"]))
        peaks.append(number(report, "memory", "host_peak"))
        assert peaks[-1] <= number(report, "memory", "host_budget")
        assert plan.total <= plan.budget
        # The first run also warms up what is loaded once; the second gets room for one group and a half.
        fixed = plan.total - plan.group * (1 + plan.ahead) - plan.base + HEAP
        base = memory.host_memory() or 0
        options = replace(options, memory=int(base + fixed + plan.group * 1.5))
    assert plans[0].image.size == size
    assert [plan.memory.ahead for plan in plans] == [2, 0]
    assert masks[0] == masks[1]
