"""Machines whose arithmetic gives other bits have another probe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.probe import probe
from tests.segmentation.support import MACHINE, ArrayImage, CodedNetworks, facts, sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.options.segment import Merge, Method


def found(merge: Merge, method: Method) -> str:
    """Return the probe of a run whose bundle merges so, and whose networks give the same bits everywhere."""
    image, model = ArrayImage(np.zeros((100, 100, 3), np.uint8)), facts(3, input_side=32)
    model = replace(model, defaults=replace(model.defaults, merge=merge))
    options = SegmentOptions(scales=sides(64, 32), method=method, overlap=8)
    return probe(CodedNetworks(3), make_plan(image.info, model, options, MACHINE), bands=3)


@pytest.mark.parametrize(
    ("merge", "method", "is_another"),
    [("geometric", "magnet", True), ("mean", "magnet", False), ("geometric", "patch", False)],
)
def test_other_logarithms_give_another_probe_where_stages_are_merged_by_them(
    merge: Merge, method: Method, monkeypatch: pytest.MonkeyPatch, *, is_another: bool
) -> None:
    """NumPy chooses its logarithm by the instructions of the processor."""
    here, log = found(merge, method), np.log

    def odd(values: NDArray[np.float32], *, out: NDArray[np.float32]) -> None:
        log(values, out=out)
        np.nextafter(out, np.float32(0), out=out)

    monkeypatch.setattr("magnet_cli.arithmetic.merge.np.log", odd)
    assert (found(merge, method) != here) == is_another
