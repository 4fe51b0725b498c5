"""Tissue on made-up slides."""

from __future__ import annotations

import numpy as np

from magnet_cli.areas.tissue import RIM, overview_pitch, tissue_of
from magnet_cli.geometry import Size

GLASS, PINK, PALE = (242, 243, 241), (214, 120, 170), (236, 205, 222)


def slide(*, side: int = 400, seed: int = 1) -> np.ndarray:
    """Glass with a little noise."""
    noise = np.random.default_rng(seed).integers(-3, 4, (side, side, 3))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def disk(shape: tuple[int, int], centre: tuple[int, int], radius: int) -> np.ndarray:
    """True where a pixel lies in a disk."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside: np.ndarray = np.hypot(rows - centre[0], columns - centre[1]) < radius
    return inside


def blob(pixels: np.ndarray, *, centre: tuple[int, int], radius: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Paint a disk and say where it is."""
    inside = disk((pixels.shape[0], pixels.shape[1]), centre, radius)
    pixels[inside] = colour
    return inside


def test_tissue_is_found_with_its_holes_and_without_dust() -> None:
    pixels = slide()
    tissue = blob(pixels, centre=(200, 180), radius=90, colour=PINK)
    blob(pixels, centre=(190, 170), radius=6, colour=GLASS)
    blob(pixels, centre=(40, 350), radius=1, colour=PINK)
    found = tissue_of(pixels, None)
    assert found[tissue].all()
    assert not found[:80, 300:].any()
    assert not found[~disk((400, 400), (200, 180), 90 + RIM + 3)].any()


def test_pale_tissue_beside_dark_is_not_lost() -> None:
    pixels = slide()
    dark = blob(pixels, centre=(120, 120), radius=80, colour=(150, 40, 120))
    pale = blob(pixels, centre=(290, 290), radius=80, colour=PALE)
    found = tissue_of(pixels, None)
    assert found[dark].all()
    assert found[pale].all()


def test_a_slide_without_tissue_has_none() -> None:
    assert not tissue_of(slide(), None).any()
    assert not tissue_of(np.full((50, 50, 3), 255, np.uint8), None).any()


def test_pixels_without_data_are_no_tissue_and_do_not_count() -> None:
    pixels = slide()
    tissue = blob(pixels, centre=(200, 180), radius=90, colour=PINK)
    valid = np.ones(tissue.shape, bool)
    valid[:, 300:] = False
    pixels[:, 300:] = (0, 0, 0)
    found = tissue_of(pixels, valid)
    assert found[tissue].all()
    assert not found[:, 300 + RIM :].any()
    assert not tissue_of(pixels, np.zeros_like(valid)).any()


def test_an_overview_is_small_whatever_the_slide() -> None:
    for side, step in ((100, 1), (2048, 1), (2049, 2), (100_000, 64)):
        assert overview_pitch(Size(width=side, height=7)).x == step
