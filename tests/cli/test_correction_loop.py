"""The loop of looking, correcting, evaluating and training, as commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile

from tests.cli.support import SIZE, expected_labels, invoke, invoke_json
from tests.report.viewer.support import draw
from tests.train.support import CONFIG

TWO = 'classes = [{ name = "dark", color = "#000000" }, { name = "light", color = "#FFFFFF" }]'
THREE = """classes = [
    { name = "r", color = "#FF0000" },
    { name = "g", color = "#00FF00" },
    { name = "b", color = "#0000FF" },
]"""


@pytest.fixture
def corrected(image: Path, bundle: Path) -> Path:
    """Segment an image, and return corrections: its red part becomes blue, and its green part is drawn as it is."""
    assert invoke("segment", image, "--weights", bundle, "-o", "masks").exit_code == 0
    height, width = SIZE
    left, middle = ([[x, 0], [x + width // 3, 0], [x + width // 3, height], [x, height]] for x in (0, width // 3))
    draw(image, Path("masks/s.tif"), [{"label": 2, "polygons": [[left]]}, {"label": 1, "polygons": [[middle]]}])
    return Path("masks/s.corrections.geojson")


@pytest.mark.parametrize(
    "line", ["s.tif,masks/s.tif,masks/s.corrections.geojson", "s.tif,masks/s.corrections.geojson,"]
)
def test_what_was_corrected_is_scored_and_learnt(image: Path, corrected: Path, line: str) -> None:
    height, width = SIZE
    (before,) = invoke_json("evaluate", "masks/s.tif", corrected)["images"]
    assert before["labelled"] == height * (width // 3) * 2
    assert before["pixel_accuracy"] == 0.5
    Path("scenes.csv").write_text(f"image,label,corrections\n{line}\n", encoding="utf-8")
    Path("train.toml").write_text(CONFIG.replace(TWO, THREE), encoding="utf-8")
    trained = invoke("train", "backbone", "scenes.csv", "-o", "new", "--config", "train.toml")
    assert trained.exit_code == 0, trained.stderr
    assert invoke("segment", image, "--weights", "new", "-o", "again").exit_code == 0
    (after,) = invoke_json("evaluate", "again/s.tif", corrected)["images"]
    assert after["pixel_accuracy"] > 0.95
    if "masks/s.tif" in line:
        # Beside the corrections, the network has learnt the mask.
        found = tifffile.imread("again/s.tif")[:, width // 3 :]
        assert (found == expected_labels()[:, width // 3 :]).mean() > 0.95


def test_a_data_set_is_scored_with_its_corrections(image: Path, bundle: Path, corrected: Path) -> None:
    tifffile.imwrite("truth.tif", expected_labels(), photometric="minisblack")
    text = f"image,label,corrections\n{image},truth.tif,{corrected}\n"
    Path("data.csv").write_text(text, encoding="utf-8")
    found = invoke_json("evaluate", "--data", "data.csv", "--weights", bundle, "--methods", "patch", "--no-mba")
    (row,) = found["images"]
    assert row["corrections"] == str(corrected)
    _, width = SIZE
    assert row["pixel_accuracy"] == pytest.approx(1 - (width // 3) / width, abs=0.001)
    Path("data.csv").write_text(text.replace(str(corrected), "none.geojson"), encoding="utf-8")
    done = invoke("evaluate", "--data", "data.csv", "--weights", bundle)
    assert done.exit_code == 3
    assert "the corrections of line 2 are missing" in done.stderr
