"""Masks scored against polygons that somebody has drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.evaluation.mask_scores import check_inputs, evaluate
from magnet_cli.evaluation.method_scores import score_each
from magnet_cli.geometry import Box
from magnet_cli.options.evaluate import EvaluationOptions, ScoreOptions
from tests.areas.drawn import annotation, square, write_drawn
from tests.exports.support import make_labels, write_mask

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WATER, URBAN = "water", "urban"


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    return make_labels(300, 141)


def test_a_mask_is_scored_where_something_was_drawn(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None)
    drawn = write_drawn(
        tmp_path / "m.corrections.geojson",
        annotation(WATER, square(100, 50, 180, 90)),
        annotation(URBAN, square(160, 50, 220, 90)),
    )
    found = evaluate(mask, drawn)
    assert found.labelled == 120 * 40
    expected = np.where(np.arange(100, 220) < 160, 2, 0)[None].repeat(40, axis=0)
    inside = labels[50:90, 100:220]
    assert found.right == int((inside == expected).sum())
    for entry in found.classes:
        both = ((inside == entry.index) & (expected == entry.index)).sum()
        either = ((inside == entry.index) | (expected == entry.index)).sum()
        assert entry.iou == (both / either if either else None)
    # A region narrows it further.
    assert evaluate(mask, drawn, roi=Box(x=0, y=50, width=110, height=91)).labelled == 10 * 40


def test_corrections_count_in_place_of_the_truth(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None)
    tifffile.imwrite(tmp_path / "truth.tif", labels, photometric="minisblack")
    drawn = write_drawn(tmp_path / "c.geojson", annotation(WATER, square(100, 50, 180, 90)))
    assert evaluate(mask, tmp_path / "truth.tif").accuracy == 1
    found = evaluate(mask, tmp_path / "truth.tif", corrections=drawn)
    wrong = int((labels[50:90, 100:180] != 2).sum())
    assert found.labelled - found.right == wrong > 0


def test_polygons_of_a_slide_lie_where_qupath_drew_them(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    """Coordinates of QuPath, also those of `--roi`, begin at the corner of the scanned part, which the mask states."""
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None, bounds=Box(x=40, y=20, width=200, height=100))
    drawn = write_drawn(tmp_path / "c.geojson", annotation(WATER, square(10, 10, 60, 60)))
    found = evaluate(mask, drawn)
    assert found.labelled == 2500
    assert found.right == int((labels[30:80, 50:100] == 2).sum())
    tifffile.imwrite(tmp_path / "truth.tif", np.full(labels.shape, 2, np.uint8), photometric="minisblack")
    assert evaluate(mask, tmp_path / "truth.tif", roi=drawn).right == found.right


def test_classes_are_those_of_the_options_or_of_the_mask(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    tifffile.imwrite(tmp_path / "m.tif", labels, photometric="minisblack")
    drawn = write_drawn(tmp_path / "c.geojson", annotation(WATER, square(100, 50, 180, 90)))
    with pytest.raises(SourceError, match="no class that is known"):
        evaluate(tmp_path / "m.tif", drawn)
    found = evaluate(tmp_path / "m.tif", drawn, EvaluationOptions(names=(URBAN, "x", WATER)))
    assert found.right == int((labels[50:90, 100:180] == 2).sum())
    with pytest.raises(SourceError, match="no pixel of the truth is labelled"):
        evaluate(tmp_path / "m.tif", write_drawn(tmp_path / "none.geojson"))


def test_polygons_are_checked_before_any_work(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    tifffile.imwrite(tmp_path / "i.tif", labels, photometric="minisblack")
    drawn = write_drawn(tmp_path / "c.geojson", annotation("forest", square(0, 0, 9, 9)))
    for truth, corrections in ((drawn, None), (tmp_path / "i.tif", drawn)):
        with pytest.raises(SourceError, match="got forest"):
            check_inputs(tmp_path / "i.tif", truth, roi=None, corrections=corrections, names=(WATER,))
        check_inputs(tmp_path / "i.tif", truth, roi=None, corrections=corrections, names=("forest",))


def test_stored_values_of_polygons_have_no_meaning(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    mask = write_mask(tmp_path / "m.tif", labels, resolution=None)
    drawn = write_drawn(tmp_path / "c.geojson", annotation(URBAN, square(100, 50, 180, 90)))
    with pytest.raises(UsageError, match=r"--truth-values.*file of polygons"):
        evaluate(mask, drawn, EvaluationOptions(truth_values={255: 1}))
    (tmp_path / "d.csv").write_text("image,label\nm.tif,c.geojson\n", encoding="utf-8")
    counting = EvaluationOptions(truth_values={255: 1})
    with pytest.raises(UsageError, match=r"--truth-values.*file of polygons"):
        next(score_each(tmp_path / "d.csv", options=ScoreOptions(evaluation=counting)))
    # A drawn truth of class 0 alone needs no advice about stored values, and neither does one without a pixel.
    assert not any("truth-values" in note for note in evaluate(mask, drawn).notes)
    with pytest.raises(SourceError, match="no pixel of the truth is labelled") as caught:
        evaluate(mask, write_drawn(tmp_path / "none.geojson"))
    assert "Draw polygons" in str(caught.value.advice)
    assert "truth-values" not in str(caught.value.advice)
