"""Tissue is found on painted slides whose tissue is known."""

from __future__ import annotations

import tracemalloc
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from magnet_cli.areas.specification import specify
from magnet_cli.areas.tissue import overview_pitch, tissue_bytes, tissue_of
from magnet_cli.geometry import Size
from magnet_cli.images import inspect
from magnet_cli.options.segment import SegmentOptions
from tests.areas.painted import BLUE_INK, GLASS, HE, SLIDES, Canvas, Slide

if TYPE_CHECKING:
    from pathlib import Path

MOST_LOST = 0.01
"""Largest share of the tissue that may be missed."""
MOST_GLASS = 0.15
"""Largest share of everything else (glass, pens, frames and dust) that may be taken for tissue."""


@cache
def judged_by_name(name: str) -> tuple[float, float, str]:
    """Return `judged` of a painted slide, which several tests use."""
    return judged(SLIDES[name]())


def judged(slide: Slide) -> tuple[float, float, str]:
    """Return the shares of tissue that is lost and of glass that is taken, and what the log says."""
    found = tissue_of(slide.pixels, None)
    lost = int((slide.tissue & ~found.inside).sum()) / max(1, int(slide.tissue.sum()))
    taken = int((found.inside & ~slide.tissue).sum()) / int((~slide.tissue).sum())
    return lost, taken, found.explained


# `strong H&E` and `pale H&E` lie around the first, `four broad pens` has the inks of the next four, and `silver needle
# biopsy` the stain and the shape of the next two. The others are further stains,
# lamps and kinds of glass, a second each.
FULL = (
    "H&E",
    *(f"pale H&E, {ink} pen" for ink in ("blue", "green", "red", "black")),
    "silver",
    "needle biopsies",
    "DAB",
    "cytology",
    "coverslip edge",
    "dim lamp",
    "yellow glass",
    "pale grey",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in FULL else ()) for name in SLIDES]
)
def test_tissue_is_kept_and_glass_is_left_out(name: str) -> None:
    lost, taken, explained = judged_by_name(name)
    assert lost <= MOST_LOST
    assert taken <= MOST_GLASS
    assert "glass (" in explained


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("four broad pens", "a pen ("),
        ("black frame", "a black frame ("),
        ("white padding", "white where nothing was scanned ("),
        ("empty glass with dust", "glass (9"),
    ],
)
def test_the_log_says_what_was_left_out(name: str, said: str) -> None:
    assert said in judged_by_name(name)[2]


def test_a_pen_over_all_tissue_hides_none_of_it() -> None:
    canvas = Canvas(31)
    canvas.section(canvas.outline(0.5, 0.5, 0.3, 0.05), *HE)
    drawn = canvas.stroke([(0.1, 0.5), (0.9, 0.5)], width=30, colour=BLUE_INK)
    lost, taken, _ = judged(canvas.done())
    assert (drawn & canvas.tissue).mean() > 0.02
    assert lost <= MOST_LOST
    assert taken <= MOST_GLASS


def test_tissue_without_any_glass_is_looked_at_everywhere() -> None:
    canvas = Canvas(32)
    canvas.section(np.ones(canvas.size, bool), (240, 226, 234), (200, 180, 215))
    found = tissue_of(canvas.done().pixels, None)
    assert found.inside.all()
    assert "No glass was recognised" in found.explained


def test_a_dark_background_is_looked_at_everywhere() -> None:
    canvas = Canvas(33, glass=(3, 3, 5))
    canvas.section(canvas.outline(0.5, 0.5, 0.3, 0.3), (20, 70, 40), (30, 40, 200))
    found = tissue_of(canvas.done().pixels, None)
    assert found.inside.all()
    assert "No glass was recognised" in found.explained


@pytest.mark.parametrize("signal", [(240, 240, 240), (180, 180, 190)])
def test_grey_signal_on_a_dark_field_is_no_glass(signal: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 12, (512, 512, 3)).astype(np.uint8)
    y, x = np.mgrid[:512, :512]
    for row, column in rng.integers(40, 470, (40, 2)):
        pixels[(y - row) ** 2 + (x - column) ** 2 < 144] = signal
    found = tissue_of(pixels, None)
    assert found.inside.all()
    assert "No glass was recognised" in found.explained


def test_a_frame_may_be_larger_than_the_slide_in_it() -> None:
    rng = np.random.default_rng(6)
    pixels = rng.integers(0, 12, (600, 700, 3)).astype(np.uint8)
    # Fields of view that are stitched together leave steps.
    pixels[150:400, 200:450] = pixels[180:430, 450:600] = (231, 229, 224)
    pixels[200:330, 240:400] = rng.integers(90, 200, (130, 160, 3))
    found = tissue_of(pixels, None)
    assert found.inside[200:330, 240:400].all()
    assert found.inside.mean() < 0.1
    assert "a black frame (" in found.explained


def test_holes_are_tissue_and_a_speck_is_not() -> None:
    canvas = Canvas(35, width=400, height=400)
    hole = np.hypot(canvas.rows - 200, canvas.columns - 190) < 6
    canvas.section(np.hypot(canvas.rows - 200, canvas.columns - 180) < 90, *HE)
    canvas.pixels[hole] = GLASS
    canvas.pixels[40:42, 350:352] = (120, 120, 120)
    slide = canvas.done()
    found = tissue_of(slide.pixels, None)
    assert found.inside[hole].all()
    assert not found.inside[:80, 300:].any()


def test_a_slide_without_tissue_has_none() -> None:
    assert not tissue_of(Canvas(36).done().pixels, None).inside.any()
    assert not tissue_of(np.full((50, 50, 3), 255, np.uint8), None).inside.any()


def test_colours_without_data_make_no_frame_of_tissue() -> None:
    canvas = Canvas(13)
    canvas.section(canvas.outline(0.5, 0.5, 0.2, 0.05), *HE)
    slide = canvas.done()
    height, width = slide.tissue.shape
    valid = np.zeros_like(slide.tissue)
    valid[height // 10 : -height // 10, width // 12 : -width // 12] = True
    valid[:, :: width // 8] = valid[:, 1 :: width // 8] = False
    found = []
    for colour in (0, 128, 255):
        pixels = np.where(valid[..., None], slide.pixels, np.uint8(colour))
        found.append(tissue_of(pixels, valid).inside)
        assert np.array_equal(found[-1], found[0])
    tissue, glass = slide.tissue & valid, ~slide.tissue & valid
    assert np.count_nonzero(tissue & ~found[0]) <= MOST_LOST * np.count_nonzero(tissue)
    whole = tissue_of(slide.pixels, None).inside
    assert np.count_nonzero(found[0] & glass) <= 1.1 * np.count_nonzero(whole & glass)


def test_pixels_without_data_are_no_tissue_and_do_not_count() -> None:
    slide = SLIDES["pale H&E"]()
    valid = np.ones(slide.tissue.shape, bool)
    valid[:, 600:] = False
    pixels = np.where(valid[..., None], slide.pixels, np.uint8(0))
    found = tissue_of(pixels, valid).inside
    assert found[slide.tissue & valid].mean() > 1 - MOST_LOST
    assert not found[~valid].any()
    assert not tissue_of(pixels, np.zeros_like(valid)).inside.any()


@pytest.mark.parametrize("name", ["four broad pens", "pale fat"])
def test_memory_stays_below_what_is_planned(name: str) -> None:
    slide = SLIDES[name]()
    tissue_of(slide.pixels[:64], None)  # The libraries are loaded once.
    tracemalloc.start()
    try:
        tissue_of(slide.pixels, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < tissue_bytes(Size(width=slide.tissue.shape[1], height=slide.tissue.shape[0]))


def test_an_overview_is_small_whatever_the_slide() -> None:
    for side, step in ((100, 1), (2048, 1), (2049, 2), (100_000, 64)):
        assert overview_pitch(Size(width=side, height=7)).x == step


@pytest.mark.parametrize(
    ("micrometres", "levels", "is_slide"), [(0.5, 2, True), (0.5, 1, False), (None, 2, False), (25, 2, False)]
)
def test_a_pyramid_of_small_pixels_is_a_slide_whatever_wrote_it(
    tmp_path: Path, micrometres: float | None, levels: int, *, is_slide: bool
) -> None:
    pixels = np.full((128, 192, 3), 240, np.uint8)
    size: dict[str, Any] = (
        {} if micrometres is None else {"resolution": (1e4 / micrometres,) * 2, "resolutionunit": "CENTIMETER"}
    )
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for level in range(levels):
            more: dict[str, Any] = {"subifds": levels - 1} if level == 0 else {"subfiletype": 1}
            reduced = pixels[:: 2**level, :: 2**level]
            file.write(reduced, tile=(64, 64), photometric="rgb", metadata=None, **size, **more)
    info = inspect(tmp_path / "a.tif")
    assert len(info.levels) == levels
    assert [spec.kind for spec in specify(SegmentOptions(), info)] == ["tissue"] * is_slide
    assert specify(SegmentOptions(tissue="none"), info) == ()
    assert [spec.kind for spec in specify(SegmentOptions(tissue="otsu"), info)] == ["tissue"]
