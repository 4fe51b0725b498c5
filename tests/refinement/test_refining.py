"""Masks are refined from file to file: geometry is exact, thin objects stay, and wrong pixels are corrected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import shift

from magnet_cli.errors import DeviceError, OutputError, SourceError, UsageError, WeightsError
from magnet_cli.masks.verification import verify_mask
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.values import parse_value_range
from magnet_cli.refinement.api import refine
from magnet_cli.refinement.survey import Survey
from tests.refinement.support import SIDE, Bright, Echo, Swallow, discs, labels_in, use, write_grey, write_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.refinement.survey import MaskObject


LARGE = (330, 351)
"""A side with more pixels than a unit: an object as wide as the image is refined level by level."""
SMALL = (150, 131)


@dataclass
class Alike(Echo):
    """A cascade that returns the same value for every pixel."""

    value: float = 0.1

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        del images
        return torch.full_like(inside, self.value)


def thin(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask of discs, specks, and lines of one pixel in three directions, one across the whole image."""
    found = discs(shape, (shape[0] // 3, shape[1] // 3, shape[0] // 5), (shape[0] - 30, shape[1] - 31, 17))
    found[shape[0] // 2] = True
    found[5 : shape[0] - 9, 7] = True
    for step in range(min(shape) - 20):
        found[10 + step, shape[1] - 12 - step] = True
    found[3::17, shape[1] // 2 :: 23] = True
    return found


def classes(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a mask of four classes, one of them a net of lines, and pixels that were not computed."""
    labels = np.ones(shape, np.uint8)
    labels[discs(shape, (shape[0] // 3, shape[1] // 3, shape[0] // 5))] = 2
    labels[thin(shape)] = 3
    labels[:, -9:] = 0
    labels[:20, :33] = 255
    return labels


def inputs(shape: tuple[int, int]) -> dict[str, tuple[NDArray[Any], NDArray[np.uint8]]]:
    """Return stored values and the labels that they mean, by kind."""
    binary = thin(shape).astype(np.uint8)
    return {
        "0/1": (binary, binary),
        "0/255": (binary * 255, binary),
        "labels": (classes(shape), classes(shape)),
        "probability": (np.where(binary, 0.7, 0.2).astype(np.float32), binary),
    }


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["0/1", "0/255", "labels", "probability"])
def test_a_network_that_changes_nothing_gives_the_mask_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shape: tuple[int, int], *, fast: bool
) -> None:
    stored, expected = inputs(shape)[kind]
    network = use(monkeypatch, Echo())
    image, mask = write_image(tmp_path / "i.tif", thin(shape)), write_grey(tmp_path / "m.tif", stored)
    options = RefineOptions(fast=fast, min_area=1 if shape == SMALL else 64)
    result = refine(image, mask, tmp_path / "out.tif", options)
    assert np.array_equal(labels_in(result.output), expected)
    assert network.calls > 0
    assert network.largest <= SIDE**2
    refined = cast("dict[str, Any]", result.report["refined"])
    assert refined["changed_pixels"] == 0
    objects = cast("dict[str, Any]", result.report["objects"])
    assert bool(objects["large"]) == (shape == LARGE)
    assert verify_mask(result.output).ok


@pytest.mark.parametrize("kind", ["binary", "labels"])
@pytest.mark.parametrize("large", [False, True])
def test_a_wrong_border_is_moved_to_where_the_image_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, large: bool
) -> None:
    shape = LARGE if large else (220, 240)
    circles = ((160, 170, 150),) if large else ((60, 70, 40), (150, 160, 55))
    truth = discs(shape, *circles)
    wrong = shift(truth.astype(np.float32), (3, -2), order=0) > 0.5
    use(monkeypatch, Bright())
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", wrong.astype(np.uint8))
    result = refine(image, mask, tmp_path / "out.tif", RefineOptions(mask_kind=cast("Any", kind)))
    found = labels_in(result.output)
    before, after = np.count_nonzero(wrong != truth), np.count_nonzero(found != truth)
    assert after < 0.03 * before
    refined = cast("dict[str, Any]", result.report["refined"])
    assert refined["changed_pixels"] == np.count_nonzero(found != wrong)


def test_blocks_of_a_level_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level in several blocks is that in one, but for the 254 steps in which the journal keeps probabilities."""
    truth = discs(LARGE, (160, 170, 145))
    wrong = shift(truth.astype(np.float32), (3, -2), order=0) > 0.5
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", wrong.astype(np.uint8))
    found = {}
    for sides in (1, 3):
        network = use(monkeypatch, Bright())
        monkeypatch.setattr("magnet_cli.refinement.refinement_plan.BLOCK_SIDES", sides)
        result = refine(image, mask, tmp_path / f"{sides}.tif")
        last = cast("list[dict[str, Any]]", result.report["passes"])[-2]
        found[sides] = labels_in(result.output), last["groups"], network.calls
    assert found[1][1] > found[3][1] == 1
    assert found[1][2] == found[3][2]
    assert np.count_nonzero(found[1][0] != found[3][0]) <= 2


@pytest.mark.parametrize("value", [0.1, 0.9])
@pytest.mark.parametrize("kind", ["binary", "labels"])
@pytest.mark.parametrize("side", [SIDE, 700])
def test_nothing_is_claimed_where_the_image_holds_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, kind: Any, value: float
) -> None:
    """This holds for objects that fit in memory and for large ones, also far from every border."""
    shape, bad = (400, 400), np.zeros((400, 400), bool)
    bad[150:250, 150:250] = True
    labels = np.zeros(shape, np.uint8)
    labels[20:380, 20:380] = 1
    if value > 0.5:
        labels[120:280, 120:280] = 0
    pixels = np.random.default_rng(1).integers(1, 60, (*shape, 3), dtype=np.uint8)
    pixels[bad] = 0
    nodata = [(42113, "s", 0, "0", True)]  # GDAL_NODATA
    tifffile.imwrite(tmp_path / "i.tif", pixels, tile=(64, 64), photometric="rgb", extratags=nodata)
    mask = write_grey(tmp_path / "m.tif", labels)
    use(monkeypatch, Alike(value=value), side=side)
    result = refine(tmp_path / "i.tif", mask, tmp_path / "out.tif", RefineOptions(mask_kind=kind))
    objects = cast("dict[str, Any]", result.report["objects"])
    assert bool(objects["large"]) == (side == SIDE)
    found = labels_in(result.output)
    assert np.array_equal(found[bad], labels[bad])
    assert (found != labels)[~bad].any() or (kind == "labels" and value < 0.5)


def test_small_objects_and_what_was_not_computed_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = discs(SMALL, (70, 70, 40))
    wrong = shift(truth.astype(np.float32), (3, 0), order=0) > 0.5
    labels = wrong.astype(np.uint8)
    labels[3:6, 3:6] = 1  # a speck, dark in the image
    labels[30:36, 60:80] = 255
    use(monkeypatch, Bright())
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", labels)
    found = labels_in(refine(image, mask, tmp_path / "out.tif").output)
    assert (found[3:6, 3:6] == 1).all()
    assert np.array_equal(found == 255, labels == 255)
    rest = (labels != 255) & ~discs(SMALL, (5, 5, 6))
    assert np.count_nonzero((found != truth)[rest]) < 10


def test_specks_are_held_across_the_squares_in_which_claims_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.ones(SMALL, np.uint8)
    labels[40:42, 20:50] = 2
    labels[100, 10:80] = 3
    dark = discs(SMALL, (0, 0, 1))
    image, mask = write_image(tmp_path / "i.tif", dark), write_grey(tmp_path / "m.tif", labels)
    use(monkeypatch, Swallow())
    monkeypatch.setattr("magnet_cli.refinement.refinement_plan.SQUARE", 32)
    found = labels_in(refine(image, mask, tmp_path / "out.tif").output)
    assert (found[40:42, 20:50] == 2).all()
    assert (found[100] == 1).all()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = discs(SMALL, (30, 30, 20), (90, 40, 25), (70, 100, 22))
    labels = np.roll(truth, 3, axis=0).astype(np.uint8)
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", labels)
    command = "from tests.refinement.support import killed_run; killed_run()"
    output = tmp_path / "cut" / "m.tif"
    ended = subprocess.run(
        [sys.executable, "-c", command, image, mask, output, "3"],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == -signal.SIGKILL
    assert not output.exists()
    use(monkeypatch, Bright())
    cut, whole = refine(image, mask, output), refine(image, mask, tmp_path / "whole" / "m.tif")
    # The third was computed, and the second may have been on its way to the disk.
    assert cast("dict[str, int]", cut.report["groups"])["resumed"] in (1, 2)
    assert whole.output.read_bytes() == cut.output.read_bytes()


@pytest.mark.parametrize("fail_at", [2, 4, 30])
def test_interrupted_and_resumed_equals_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    truth = discs(LARGE, (160, 170, 145), (20, 20, 16), (305, 330, 14))
    labels = (shift(truth.astype(np.float32), (3, -2), order=0) > 0.5).astype(np.uint8)
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", labels)
    options = RefineOptions(num_workers=0, fast=fail_at == 2)
    use(monkeypatch, Bright())
    whole = refine(image, mask, tmp_path / "whole" / "m.tif", options)
    use(monkeypatch, Bright(fail_at=fail_at))
    with pytest.raises(KeyboardInterrupt):
        refine(image, mask, tmp_path / "cut" / "m.tif", options)
    assert not (tmp_path / "cut" / "m.tif").exists()
    use(monkeypatch, Bright())
    cut = refine(image, mask, tmp_path / "cut" / "m.tif", options)
    groups = cast("dict[str, int]", cut.report["groups"])
    assert groups["resumed"] > 0
    assert groups["resumed"] + groups["computed"] == cast("dict[str, int]", whole.report["groups"])["computed"]
    assert whole.output.read_bytes() == cut.output.read_bytes()
    again = refine(image, mask, tmp_path / "cut" / "m.tif", options)
    assert again.was_done


def test_a_mask_that_another_command_has_made_during_the_survey_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, objects, others = Bright(), Survey.objects, list[bytes]()
    use(monkeypatch, network)
    truth = discs(SMALL, (60, 70, 30))
    files = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", truth.astype(np.uint8))
    out = tmp_path / "out.tif"

    def surveyed(survey: Survey) -> Iterator[MaskObject]:
        if not others:
            others.append(b"")
            assert not refine(*files, out).was_done
            others.append(out.read_bytes())
        yield from objects(survey)

    monkeypatch.setattr(Survey, "objects", surveyed)
    assert refine(*files, out).was_done
    assert network.calls == 1
    assert out.read_bytes() == others[-1]
    assert not list(tmp_path.glob("*.journal"))


def test_readers_threads_and_budgets_do_not_show_in_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = discs(SMALL, (40, 40, 30), (100, 90, 25))
    labels = classes(SMALL)
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", labels)
    use(monkeypatch, Bright())
    found = [
        refine(image, mask, tmp_path / f"{workers}.tif", RefineOptions(num_workers=workers, min_area=1)).output
        for workers in (0, 3)
    ]
    assert found[0].read_bytes() == found[1].read_bytes()


def test_stuff_hardly_wins_a_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = discs(SMALL, (70, 70, 40))
    labels = np.where(shift(truth.astype(np.float32), (3, 0), order=0) > 0.5, 1, 2).astype(np.uint8)
    image, mask = write_image(tmp_path / "i.tif", ~truth), write_grey(tmp_path / "m.tif", labels)
    use(monkeypatch, Bright())
    free = labels_in(refine(image, mask, tmp_path / "a.tif").output)
    held = labels_in(refine(image, mask, tmp_path / "b.tif", RefineOptions(stuff=("class 2",))).output)
    assert np.count_nonzero(held == 2) < np.count_nonzero(free == 2)


def test_a_mask_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Echo())
    image = write_image(tmp_path / "i.tif", discs(SMALL, (20, 20, 9)))
    mask = write_grey(tmp_path / "m.tif", np.zeros((75, 65), np.uint8))
    with pytest.raises(SourceError, match="131x150"):
        refine(image, mask, tmp_path / "out.tif")
    with pytest.raises(UsageError, match="may not replace"):
        refine(image, mask, mask)


def test_wrong_words_and_small_budgets_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = use(monkeypatch, Echo())
    image = write_image(tmp_path / "i.tif", discs(SMALL, (20, 20, 9)))
    mask = write_grey(tmp_path / "m.tif", discs(SMALL, (20, 20, 9)).astype(np.uint8))
    with pytest.raises(UsageError, match="--stuff"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(stuff=("sky",)))
    with pytest.raises(UsageError, match="--threshold"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(threshold=cast("Any", 0.25)))
    with pytest.raises(UsageError, match="--L"):
        RefineOptions(side=8)
    assert network.calls == 0
    refine(image, mask, tmp_path / "out.tif")
    with pytest.raises(OutputError, match="other"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(min_area=5))
    monkeypatch.setattr("magnet_cli.refinement.planner.HEAP", 5 << 30)
    with pytest.raises(DeviceError, match="host memory"):
        refine(image, mask, tmp_path / "out2.tif")


def test_a_faint_probability_is_never_an_empty_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Echo())
    faint = discs(SMALL, (20, 20, 9)) * np.float32(0.3)
    image, mask = write_image(tmp_path / "i.tif", faint > 0), write_grey(tmp_path / "m.tif", faint)
    with pytest.raises(SourceError, match=r"0\.3"):
        refine(image, mask, tmp_path / "out.tif")
    options = RefineOptions(threshold=cast("Any", 0.25))
    assert np.array_equal(labels_in(refine(image, mask, tmp_path / "out.tif", options).output), faint > 0)


def test_bands_and_values_are_taken_as_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen bits in another order of bands give the result of eight bits; without options they are refused."""
    use(monkeypatch, Bright())
    truth = discs(SMALL, (70, 60, 40))
    mask = write_grey(tmp_path / "mask.tif", shift(truth.astype(np.uint8), (3, 2), order=0))
    plain = write_image(tmp_path / "plain.tif", truth)
    pixels = tifffile.imread(plain)
    other = tmp_path / "other.tif"
    stored = np.concatenate(
        [pixels[..., ::-1].astype(np.uint16) * 40 + 100, np.full((*SMALL, 1), 9, np.uint16)], axis=2
    )
    tifffile.imwrite(other, stored, planarconfig="contig", photometric="minisblack", tile=(64, 64))
    refine(plain, mask, tmp_path / "a.tif")
    with pytest.raises(WeightsError, match="--bands"):
        refine(other, mask, tmp_path / "b.tif")
    with pytest.raises(WeightsError, match="--value-range"):
        refine(other, mask, tmp_path / "b.tif", RefineOptions(bands=("3", "2", "1")))
    options = RefineOptions(bands=("3", "2", "1"), value_range=parse_value_range("100,10300"))
    report = refine(other, mask, tmp_path / "b.tif", options).report
    np.testing.assert_array_equal(labels_in(tmp_path / "b.tif"), labels_in(tmp_path / "a.tif"))
    assert "--bands 3,2,1 --value-range 100,10300" in " ".join(cast("list[str]", report["command"]))
