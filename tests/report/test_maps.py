"""The maps of a run have every window once, whatever the blocks, passes and interruptions."""

from __future__ import annotations

import json
import zlib
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.geometry import LEVEL0, Size
from magnet_cli.plan.windows import Stage
from magnet_cli.report.maps import MOST, NOTHING, RECORDED, STEPS, Map, _Means, subdivision
from tests.cli.support import invoke_json, write_colours_bundle, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def segmented(folder: Path, *words: str, blank: int = 0) -> dict[str, Any]:
    """Return the report on an image without data in its first columns and with two equal classes in its middle."""
    bundle = write_colours_bundle(folder / "bundle")
    values = tifffile.imread(write_image(folder / "plain.tif", size=(230, 330)))
    values[60:140, 150:230] = (130, 128, 20)
    values[:, :blank] = 0
    tifffile.imwrite(folder / "s.tif", values, photometric="rgb", tile=(64, 64), extratags=[(42113, "s", 0, "0", True)])
    found = invoke_json(
        "segment", folder / "s.tif", "--weights", bundle, "-o", folder / "m.tif", "--uncertainty", *words
    )
    report = found["images"][0]["report"]
    assert isinstance(report, dict)
    return report


def stages(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [stage for step in report["passes"] for stage in step["stages"]]


@pytest.mark.parametrize("scales", ["32,64", "256,128,64,32", "32,512"])
def test_a_map_has_every_window_that_was_counted(tmp_path: Path, scales: str) -> None:
    report = segmented(tmp_path, "--scales", scales, "--method", "magnet-fast", "--patches", "u>0.3", blank=80)
    entries = report["maps"]["stages"]
    assert [entry["stage"] for entry in entries] == [stage["stage"] for stage in stages(report)]
    for entry, counted in zip(entries, stages(report), strict=True):
        values = Map.parse(entry).values
        assert values.size == counted["windows"]
        assert (values == STEPS).sum() == counted["windows_run"]
        assert (values == NOTHING).sum() == counted["not_run"]["nodata"]
        assert (values == 0).sum() == counted["not_run"]["unselected"]
    assert stages(report)[-1]["not_run"]["nodata"] > 0
    assert stages(report)[-1]["not_run"]["unselected"] > 0


def test_windows_lie_where_the_map_says(tmp_path: Path) -> None:
    report = segmented(tmp_path, "--scales", "32,64", "--method", "magnet-fast", "--patches", "u>0.3", blank=80)
    found = Map.parse(report["maps"]["stages"][-1])
    rows, columns = centres(found)
    empty = np.broadcast_to(columns < 80 - 32, found.values.shape)
    assert (found.values[empty] == NOTHING).all()
    inside = (rows[:, None] > 70) & (rows[:, None] < 130) & (columns > 160) & (columns < 220)
    assert inside.sum() >= 4
    assert (found.values[inside] == STEPS).all()
    far = np.broadcast_to(columns > 280, found.values.shape)
    assert (found.values[far] == 0).all()


def centres(found: Map) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the rows and columns of level 0 at the centres of a map's pixels."""
    height, width = found.values.shape
    return (np.arange(height) + 0.5) * found.pixel[1], (np.arange(width) + 0.5) * found.pixel[0]


def test_uncertainty_agrees_with_the_array_beside_the_mask(tmp_path: Path) -> None:
    report = segmented(tmp_path, "--scales", "32,64", blank=80)
    found = Map.parse(report["maps"]["uncertainty"])
    whole = np.asarray(zarr.open_array(tmp_path / "m.uncertainty.zarr", mode="r"))[0]
    exact = whole.astype(np.float64)
    exact[whole == NOTHING] = np.nan
    rows, columns = centres(found)
    inside = (rows[:, None] > 64) & (rows[:, None] < 136) & (columns > 154) & (columns < 226)
    assert (found.values[inside] > 0.8 * STEPS).all()
    assert (found.values[:, columns < 76] == NOTHING).all()
    edges = [
        np.rint(np.arange(count + 1) * side).astype(int)
        for count, side in zip(found.values.shape, found.pixel[::-1], strict=True)
    ]
    compared = 0
    for row, (top, bottom) in enumerate(zip(edges[0], edges[0][1:], strict=False)):
        for column, (left, right) in enumerate(zip(edges[1], edges[1][1:], strict=False)):
            part = exact[top:bottom, left:right]
            if np.isfinite(part).all() and part.size and part.max() - part.min() < 8:
                assert abs(found.values[row, column] - part.mean()) <= 8
                compared += 1
    assert compared > 100


def stage_of(image: Size) -> Stage:
    square = Size(width=256, height=256)
    return Stage(number=1, scale=square, input=square, margin=12, image=image, working=LEVEL0)


def test_a_map_stays_small() -> None:
    stage = stage_of(Size(width=1_000_000, height=300_000))
    assert subdivision(stage) == 1
    grid = _Means(stage.cells)
    half = np.zeros((8, 8))
    half[:, ::2] = 1
    for row in range(0, 40, 8):
        grid.add(row, 0, half, np.ones((8, 8), np.bool_))
    found = grid.map(stage, parts=1)
    assert max(found.values.shape) <= MOST
    assert found.values[0, 0] in range(110, 160)
    assert found.values[-1, -1] == NOTHING
    assert found.pixel[0] * found.values.shape[1] >= 1_000_000
    assert found.pixel[0] == found.cell[0] * (-(-stage.cells.width // MOST))


def test_pixels_of_a_map_are_means_of_what_is_known() -> None:
    """Pieces of any size may share pixels of the map, and some of their values may be unknown."""
    size, rng = Size(width=3 * MOST - 5, height=211), np.random.default_rng(4)
    whole = rng.random((size.height, size.width))
    known = rng.random(whole.shape) < 0.9
    grid = _Means(size)
    for rows, columns in product((slice(0, 100), slice(100, 211)), (slice(0, 7), slice(7, 200), slice(200, 283))):
        grid.add(rows.start, columns.start, whole[rows, columns], known[rows, columns])
    found = grid.map(stage_of(size), parts=1).values
    assert found.shape == (71, 95)
    for row, column in ((0, 0), (33, 2), (33, 66), (70, 94)):
        part = (slice(3 * row, 3 * row + 3), slice(3 * column, 3 * column + 3))
        expected = whole[part][known[part]].mean() * STEPS
        assert abs(int(found[row, column]) - expected) <= 4.001


def test_four_maps_of_noise_take_less_than_a_small_mask() -> None:
    stage = stage_of(Size(width=1024, height=1024))
    parts = subdivision(stage)
    grid = _Means(Size(width=stage.cells.width * parts, height=stage.cells.height * parts))
    noise = np.random.default_rng(0).random((stage.cells.height * parts, stage.cells.width * parts))
    grid.add(0, 0, noise, np.ones(noise.shape, np.bool_))
    found = grid.map(stage, parts=parts)
    assert max(found.values.shape) > MOST // 2
    assert 4 * len(json.dumps(found.describe())) < 32_000


def test_a_small_image_has_a_fine_map() -> None:
    stage = stage_of(Size(width=500, height=2000))
    parts = subdivision(stage)
    assert parts == 32
    assert stage.cells.height * parts <= RECORDED
    assert Fraction(stage.cell.width, parts) >= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": {"width": 10**6, "height": 10**6}},
        {"data": "no base64 !"},
        {"data": "AAAA"},
        {"pixel": {"width": float("nan"), "height": 1}},
        {"size": {"width": 3, "height": 2}},
    ],
)
def test_what_is_no_map_is_refused(wrong: dict[str, object]) -> None:
    good = Map(values=np.zeros((2, 2), np.uint8), pixel=(1.0, 1.0), cell=(1.0, 1.0)).describe()
    np.testing.assert_array_equal(Map.parse(good).values, 0)
    with pytest.raises((ValueError, KeyError, TypeError, zlib.error)):
        Map.parse({**good, **wrong})
