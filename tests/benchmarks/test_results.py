"""The scores in the accuracy tables equal direct arithmetic, and the pages agree with the files of results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks import memory
from benchmarks.accuracy import cells as module
from benchmarks.accuracy.budget_tables import Curve, Run, curves
from benchmarks.accuracy.cells import Boundary, Cell, ious, load_cells, mba, miou, row_cells, save_cell
from benchmarks.accuracy.page import PAGE, PAGES, TABLES, filled
from benchmarks.accuracy.refined_tables import method_table, tiles_table
from benchmarks.accuracy.segmented_tables import interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
BUNDLES = (ROOT / "docs" / "bundles.md").read_text(encoding="utf-8")
FILES = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
CLASSES = 4


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder of results."""
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def scene(seed: int, shape: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES - 1, shape).astype(np.uint8)
    mask = np.where(rng.random(shape) < 0.7, truth, rng.integers(0, CLASSES - 1, shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.1] = 255
    return mask, truth


def cell(mask: NDArray[np.uint8], truth: NDArray[np.uint8], **more: Any) -> Cell:
    known = truth != 255
    counted = {"truth": truth[known], "mask": mask[known], "both": truth[known & (truth == mask)]}
    counts = {key: tuple(np.bincount(values, minlength=256)[:CLASSES]) for key, values in counted.items()}
    lists: dict[str, Any] = {key: tuple(map(int, values)) for key, values in counts.items()}
    return Cell(**{"row": "r", "scene": "s", **lists, **more})


def test_pooled_scores_are_those_of_the_scenes_side_by_side() -> None:
    first, second = scene(1, (30, 40)), scene(2, (50, 20))
    mask, truth = (np.concatenate([a.ravel(), b.ravel()]) for a, b in zip(first, second, strict=True))
    known = truth != 255
    expected = [
        np.sum(known & (mask == label) & (truth == label)) / np.sum(known & ((mask == label) | (truth == label)))
        for label in range(CLASSES - 1)
    ]
    found = ious([cell(*first), cell(*second)])
    assert found[:-1] == pytest.approx(expected)
    assert np.isnan(found[-1]), "a class that no scene has is no zero"
    assert miou([cell(*first), cell(*second)]) == pytest.approx(100 * np.mean(expected))


def test_boundary_pixels_are_pooled() -> None:
    near = [
        Boundary(radii=(3.0, 5.0), near=(10, 20), right=(5, 20)),
        Boundary(radii=(3.0, 5.0), near=(30, 20), right=(30, 10)),
    ]
    made = [cell(*scene(3, (8, 8)), boundary=one) for one in near]
    assert mba(made) == pytest.approx(100 * np.mean([35 / 40, 30 / 40]))
    assert mba([*made, cell(*scene(4, (8, 8)))]) is None


def test_a_cell_survives_its_file_and_replaces_its_own_line_alone(results: Path) -> None:
    near = Boundary(radii=(3.0,), near=(4,), right=(2,))
    first = cell(*scene(5, (9, 9)), boundary=near, windows=7, gmac=1.5, more={"host_peak": 3})
    other = cell(*scene(6, (9, 9)), scene="elsewhere")
    for one in (first, other):
        save_cell("t", one)
    assert list(load_cells("t").values()) == [first, other]
    again = cell(*scene(7, (9, 9)), windows=8)
    save_cell("t", again)
    assert load_cells("t") == {("r", "s"): again, ("r", "elsewhere"): other}
    assert [path.name for path in results.iterdir()] == ["t.jsonl"], "nothing is left beside the file"
    assert row_cells("t", "r", ["s", "elsewhere"]) == [again, other]
    assert row_cells("t", "r", ["s", "nowhere"]) is None
    assert load_cells("unmeasured") == {}


def test_the_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)


def test_a_curve_is_straight_between_its_runs() -> None:
    runs = [
        Run(windows=windows, truth=(10, 10), mask=(10, 10), both=(right, right))
        for windows, right in ((10, 10), (1, 5), (5, 8))
    ]
    curve = Curve(windows=10, runs=tuple(runs))
    low, middle = 100 * 5 / 15, 100 * 8 / 12
    assert [curve.miou(share) for share in (0.0, 0.1, 0.3, 1.0)] == pytest.approx([low, low, (low + middle) / 2, 100])


def rows(table: str) -> list[list[str]]:
    return [[text.strip() for text in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.mark.usefixtures("results")
def test_a_table_of_refined_masks_has_what_was_measured_and_how_it_differs() -> None:
    truth = np.where(scene(8, (40, 40))[1] == 1, 1, 0).astype(np.uint8)
    near = [Boundary(radii=(3.0,), near=(100,), right=(right,)) for right in (60, 90)]
    save_cell("refined-vessel", cell(np.roll(truth, 1), truth, row="patch-input", scene="one", boundary=near[0]))
    save_cell("refined-vessel", cell(truth, truth, row="patch-crf", scene="one", boundary=near[1]))
    before, after = rows(method_table("refined-vessel", ("one",))())
    assert before[0] == "**patch**"
    assert before[2:] == ["60.0", "", ""]
    assert after == ["+ dense CRF", "100.0", "90.0", f"{100 - float(before[1]):+.1f}", "+30.0"]


@pytest.mark.usefixtures("results")
def test_tiles_and_trainings_are_told_apart() -> None:
    truth = np.where(scene(9, (40, 40))[1] == 1, 1, 0).astype(np.uint8)
    for row, mask in (
        ("patch-input", np.roll(truth, 2)), ("patch-cascade", truth), ("patch-cascade-seed2", np.roll(truth, 1)),
    ):  # fmt: skip
        near = Boundary(radii=(3.0,), near=(10,), right=(5,))
        save_cell("refined-building", cell(mask, truth, row=row, scene="tile6", boundary=near))
    found = rows(tiles_table())
    assert [line[:2] for line in found] == [["tile 6, patch", "1"], ["tile 6, patch", "2"]]
    assert found[0][3] == "100.0"
    assert float(found[1][3]) < 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_the_results_say(page: Path) -> None:
    text, tables = page.read_text(encoding="utf-8"), PAGES[page]
    assert filled(text, tables) == text, "run python -m benchmarks.accuracy.page"
    assert set(re.findall(r"<!-- table: ([a-z-]+) -->", text)) == set(tables)


class Opened:
    """A folder of results that notes the files that are opened in it."""

    def __init__(self) -> None:
        self.folder = module.RESULTS
        self.names: set[str] = set()

    def __truediv__(self, name: str) -> Path:
        self.names.add(name)
        return self.folder / name


@pytest.mark.full
def test_results_are_few_files_and_the_page_needs_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(module.RESULTS.iterdir())
    assert all(path.suffix == ".jsonl" for path in files)
    assert len(files) <= 15
    made, needed = {}, {}
    for name, table in TABLES.items():
        opened = Opened()
        with monkeypatch.context() as patched:
            patched.setattr(module, "RESULTS", opened)
            curves.cache_clear()
            made[name] = table()
        needed[name] = opened.names
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    for missing in files:
        if missing.stem in ("memory", "gpu-h200", "reliability"):
            continue  # the tables of files and memory and of the page on performance, below
        for path in files:
            if path != missing:
                shutil.copy(path, tmp_path)
        (tmp_path / missing.name).unlink(missing_ok=True)
        curves.cache_clear()
        tables = [name for name in TABLES if missing.name in needed[name]]
        assert any(TABLES[name]() != made[name] for name in tables), f"no table of the page is made from {missing.name}"
    curves.cache_clear()


def test_figures_of_the_bundles_are_those_of_the_page_on_accuracy() -> None:
    tables = PAGE.read_text(encoding="utf-8")
    rows = [line for line in BUNDLES.splitlines() if line.startswith("| ") and "`--m" in line]
    assert len(rows) == 10
    for row in rows:
        figures = [text.strip() for text in row.split("|")[2:-1]]
        assert any(all(f" {one} " in line for one in figures) for line in tables.splitlines()), row


def test_the_memory_table_is_the_measured_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["memory.py", "--table"])
    memory.main()
    assert capsys.readouterr().out.strip() in FILES


def test_the_memory_that_was_measured_is_flat_and_inside_its_budget() -> None:
    lines = (ROOT / "benchmarks" / "results" / "memory.jsonl").read_text(encoding="utf-8").splitlines()
    measured = [json.loads(line) for line in lines]
    for classes in {row["classes"] for row in measured}:
        small, large = (row for row in sorted(measured, key=lambda row: row["side"]) if row["classes"] == classes)
        assert large["pixels"] == 400 * small["pixels"]
        assert large["peak"] - small["peak"] <= 64 << 20
    assert all(row["peak"] <= row["budget"] for row in measured)


def test_figures_of_the_gpu_are_those_of_its_runs() -> None:
    lines = [json.loads(line) for line in (module.RESULTS / "gpu-h200.jsonl").read_text(encoding="utf-8").splitlines()]
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").split("## On a GPU")[1]
    first, second = (
        {row["what"]: row for line in lines if line["run"] == run for row in line.get("rows", ())} for run in (1, 2)
    )
    assert all(f"{line['machine']['cores']} cores" in page for line in lines if "machine" in line)
    ways = ("magnet", "magnet-fast", "patch")
    for precision in ("bfloat16", "float16"):
        shares = [second[f"aerial, {way}, {precision}: labels equal to the CPU's"]["share"] for way in ways]
        assert ", ".join(f"{share:.2%}".rstrip("%") for share in shares) + " %" in page
    for found in (first, second):
        for precision in ("float32", "bfloat16"):
            for kind in ("reserved", "process"):
                value = found[f"fpn508, -b 1, {precision}: {kind}"]["value"]
                assert value in page or value == "700 MB", "the page says by how much more"
    for found, rate, seconds in ((first, 26, 380), (second, 63, 159)):
        assert found["100,000 px, magnet"]["value"] == f"{rate} megapixels/s, {seconds} s the whole"
        assert f"{rate} megapixels/s, {seconds} s" in page
    for what, cell in (
        ("bfloat16, backbone, as the program runs it, batch 16", "11.6 (118)"),
        ("bfloat16, backbone, torch.compile", "6.2 (221)"),
        ("bfloat16, refiner, as the program runs it, batch 16", "18.6 (39)"),
        ("float32, backbone, TF32", "15.8 (87)"),
    ):
        milliseconds, teraflops = cell.rstrip(")").split(" (")
        assert f"{second[what]['seconds'] * 1e3:.1f}" == milliseconds
        assert f" {teraflops} TFLOP/s" in second[what]["value"]
        assert cell in page
