"""The labels that scenes of the accuracy tables are trained on and scored against."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile

from benchmarks.accuracy.scenes import prepare_hrf

if TYPE_CHECKING:
    from pathlib import Path


def test_surroundings_of_a_retina_are_background_in_training_and_have_no_score(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "hrf"
    for name in ("images", "vessels", "fov"):
        (data / name).mkdir(parents=True)
    (data / "images" / "01_h.jpg").write_bytes(imagecodecs.jpeg8_encode(np.zeros((20, 30, 3), np.uint8)))
    seen, vessels = (np.zeros((20, 30), np.uint8) for _ in range(2))
    seen[5:15, 5:25] = 255
    vessels[8:10, 2:20] = 255
    tifffile.imwrite(data / "fov" / "01_h_mask.tif", seen)
    tifffile.imwrite(data / "vessels" / "01_h.tif", vessels)
    prepare_hrf(data, folder)
    labels = {}
    for kind in ("scenes", "whole-scenes"):
        with (folder / f"{kind}.csv").open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert (row["name"], row["image"]) == ("01_h", "01_h.jpg")
        labels[kind] = tifffile.imread(folder / row["label"])
    inside = np.where(vessels > 0, 1, 0)
    np.testing.assert_array_equal(labels["scenes"], np.where(seen > 0, inside, 255))
    np.testing.assert_array_equal(labels["whole-scenes"], np.where(seen > 0, inside, 0))
