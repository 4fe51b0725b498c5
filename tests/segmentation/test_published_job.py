"""With `--compat published`, pixels without data get no label, and batches and windows have the planned counts."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import numpy as np
import pytest

from magnet_cli.arithmetic.published.stages import PublishedSettings
from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.values import ValueRange
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.published_job import PublishedJob, windows_run
from tests.segmentation.support import (
    MACHINE,
    ArrayImage,
    CodedNetworks,
    MemorySink,
    coded,
    engine_over,
    facts,
    job_of,
    sides,
)


def published(valid: np.ndarray, *, mpp: str | None, batch: int = 3, high: int = 255) -> tuple[MemorySink, list[int]]:
    labels = np.random.default_rng(0).integers(0, 3, valid.shape, dtype=np.uint8)
    image, model, networks = (
        ArrayImage(coded(labels), valid=valid, resolution=0.5),
        facts(3, input_side=32),
        (CodedNetworks(3)),
    )
    options = SegmentOptions(
        scales=sides(64, 32),
        median=3,
        compat="published",
        batch_size=batch,
        mpp=Fraction(mpp) if mpp else None,
        value_range=ValueRange(kind="values", high=Fraction(high)),
    )
    sink = MemorySink(image.info.size, 3)
    plan = make_plan(image.info, model, options, MACHINE)
    engine_over(image, sink).run(job_of(plan, networks, kind=PublishedJob))
    return sink, networks.batches


@pytest.mark.parametrize("mpp", [None, "1"])
def test_pixels_without_data_have_no_label_at_any_pixel_size(mpp: str | None) -> None:
    valid = np.ones((64, 64), np.bool_)
    valid[10:30, 20:50] = False
    sink, _ = published(valid, mpp=mpp)
    np.testing.assert_array_equal(sink.labels == 255, ~valid)


def test_the_only_group_notes_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only group keeps the seconds of work for a run that ends before the mask is finished."""
    monkeypatch.setattr("magnet_cli.run.clock.NOTED_EVERY", 0.0)
    sink, _ = published(np.ones((64, 64), np.bool_), mpp=None)
    (group,) = (counts for groups in sink.groups.values() for counts in groups.values())
    assert set(cast("dict[str, float]", group["seconds"])) >= {"forward", "wall"}


def test_batches_are_those_of_the_plan() -> None:
    _, batches = published(np.ones((64, 64), np.bool_), mpp=None)
    assert batches == [1, 3, 1]


@pytest.mark.parametrize(("patches", "run"), [(-1, [1, 4, 20]), ((3, 30), [1, 3, 20]), ((0, 1), [1, 0, 1])])
def test_windows_are_counted_as_they_are_run(patches: int | tuple[int, ...], run: list[int]) -> None:
    square = Size(width=10, height=10)
    settings = PublishedSettings(
        stages=(square, Size(width=20, height=20), Size(width=45, height=40)),
        crop=square,
        input=square,
        points=1.0,
        patches=patches,
        median=1,
    )
    counts = [windows_run(settings, index) for index in range(3)]
    assert [row["windows"] for row in counts] == [1, 4, 20]
    assert [row["run"] for row in counts] == run


def test_another_range_of_values_is_refused() -> None:
    with pytest.raises(WeightsError, match="values from 0 to 255"):
        published(np.ones((64, 64), np.bool_), mpp=None, high=65535)
