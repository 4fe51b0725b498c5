"""The numbers of a report are those of the mask."""

from __future__ import annotations

from fractions import Fraction

from magnet_cli.images import Resolution
from magnet_cli.masks.spec import MaskClass
from magnet_cli.report.run_report import _changed, class_table

CLASSES = (MaskClass(name="water", color="#0000FF"), MaskClass(name="land", color="#00FF00"))


def test_classes_have_a_share_of_the_computed_pixels_and_an_area() -> None:
    pixel = Resolution(x=Fraction(1, 2), y=Fraction(1, 4), unit="m")
    rows = class_table(CLASSES, [1, 3], pixel)
    assert [row["share"] for row in rows] == [0.25, 0.75]
    assert [(row["pixels"], row["area"], row["unit"]) for row in rows] == [(1, 0.125, "m2"), (3, 0.375, "m2")]


def test_a_mask_without_a_computed_pixel_has_shares_of_0_and_no_area_without_a_size_of_a_pixel() -> None:
    rows = class_table(CLASSES, [0, 0], None)
    assert [(row["share"], row["area"], row["unit"]) for row in rows] == [(0, None, None)] * 2


def test_changes_of_a_stage_are_means_over_the_compared_pixels() -> None:
    assert _changed({"compared": 400, "changed": 100, "moved_thousandths": 50_000}) == {
        "labels": 0.25,
        "probabilities": 0.125,
    }
    assert _changed({"compared": 0}) is None
