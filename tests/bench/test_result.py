"""Ratios are computed within a round, and the table follows from them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast
from xml.etree import ElementTree as ET

import pytest

from magnet_cli.bench.bench_page import bench_page
from magnet_cli.bench.cascades.cascade_studio import CascadeStudio
from magnet_cli.bench.conditions import Setting
from magnet_cli.bench.result import Mark, Row, quote
from magnet_cli.bench.studio import Studio
from magnet_cli.bench.table import HEAD, SPLIT_HEAD, cells, split_cells
from magnet_cli.bench.task import Ready, Took
from magnet_cli.cli.bench_tables import bench_lines
from magnet_cli.errors import DeviceError
from magnet_cli.geometry import Size
from magnet_cli.models import device
from magnet_cli.models.engines import graph_engine
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions

SETTING = Setting(
    bundle="aerial", digest="ab", notes=(), device="cpu", device_name="Some <CPU>, 2 cores",
    engine="openvino", precision="bfloat16", cores=2, machine={"system": "Linux", "memory": 8 << 30},
)  # fmt: skip
REPORT = {"options": {"batch": 4, "engine": "openvino", "precision": "bfloat16"}, "memory": {"host_planned": 5}}


def took(seconds: float, windows: int = 100, *, peak: int = 900 << 20) -> Took:
    parts = {"read": 0.1, "forward": seconds / 2, "wall": seconds}
    return Took(seconds=seconds, windows=windows, host_peak=peak, parts=parts, by_stage={"1": windows}, report=REPORT)


def row(side: int = 65536) -> Row:
    runs = (took(1000.0), took(2000.0), took(4000.0))
    ceiling = Mark(kind="ceiling", model=None, ready=Ready(), runs=(took(900.0), took(1600.0), took(3600.0)))
    patching = Mark(
        kind="patching", model="model as loaded", ready=Ready(), runs=tuple(took(s, 50) for s in (1500, 3000, 6400))
    )
    refused = Ready(refusal="refused", reason="needs 1 TiB", needs=1 << 40, available=8 << 30)
    return Row(
        label=f"{side:,} px",
        image=None,
        method="magnet",
        ready=Ready(loaded=1 << 28, size=Size(width=side, height=side), windows=100),
        runs=runs,
        marks=(ceiling, patching, Mark(kind="naive", model=None, ready=refused)),
    )


def test_ratios_are_of_pairs_and_their_median_counts() -> None:
    found = row()
    ceiling, patching = (mark for mark in found.marks if mark.runs)

    assert found.time_ratio(ceiling).values == (0.9, 0.8, 0.9)
    assert found.time_ratio(ceiling).median == 0.9
    assert found.time_ratio(patching).values == (1.5, 1.5, 1.6)
    assert found.window_ratio(patching).values == (3.0, 3.0, 3.2)


def test_a_yardstick_that_failed_in_a_round_is_compared_in_those_before() -> None:
    found = row()
    mark = Mark(kind="naive", model=None, ready=Ready(), runs=(took(3000.0),), error=DeviceError("out of memory"))

    assert found.time_ratio(mark).values == (3.0,)
    assert mark.describe(found)["status"] == "failed"
    assert mark.describe(found)["reason"] == "out of memory"


def test_the_json_names_what_a_refused_yardstick_needs() -> None:
    found = row().describe()

    marks = found["yardsticks"]
    assert isinstance(marks, list)
    assert [mark["status"] for mark in marks] == ["measured", "measured", "refused"]
    assert marks[2]["needs"] == 1 << 40
    assert found["windows_per_second"] == 0.05
    assert found["megapixels_per_second"] == pytest.approx(65536**2 / 1e6 / 2000, rel=1e-3)


def test_the_line_to_quote_is_about_the_largest_image() -> None:
    line = quote(SETTING, [row(1024), row(), row(4096)])

    assert line == (
        "aerial in openvino on 2 CPU cores: 65,536 x 65,536 px (4,295 Mpx) in 33 min, 2.1 Mpx/s, 0.90 of the ceiling, "
        "peak 900 MiB"
    )
    assert quote(SETTING, [Row(label="1 px", image=None, method="patch", error=DeviceError("no"))]) is None


def test_cells_fit_their_heads() -> None:
    found = row()

    assert len(cells(found)) == len(HEAD)
    assert len(split_cells(found)) == len(SPLIT_HEAD)
    assert cells(found)[2] == "openvino, bfloat16"
    assert cells(found)[6] == "0.90 [0.80..0.90]"
    assert cells(found)[9] == "refused, needs 1.00 TiB"


def test_every_output_names_the_engine_that_computed_the_networks() -> None:
    text, page = "\n".join(bench_lines([row()])), bench_page(SETTING, [row()])
    assert re.search(r"method +engine +a run", text)
    assert re.search(r"65,536 px +magnet +openvino, bfloat16 +33 min", text)
    assert "<td>openvino, bfloat16</td>" in page
    assert "<dt>engine</dt><dd>openvino</dd>" in page
    assert SETTING.describe()["engine"] == "openvino"
    assert cast("dict[str, str]", row().describe()["options"])["engine"] == "openvino"
    plain = replace(SETTING, engine="torch")
    assert str(quote(plain, [row()])).startswith("aerial on 2 CPU cores")


def test_the_setting_has_the_engine_and_the_precision_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # A bundle that agrees in bfloat16, on a processor that computes it: PyTorch takes it, a named engine does not.
    monkeypatch.setattr(device, "_agrees", lambda *_: True)
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: True)
    monkeypatch.setattr(graph_engine, "check_modules", lambda *_, **__: None)
    named = Studio(SegmentOptions(weights="aerial", engine="onnxruntime", device="cpu")).setting()
    assert (named.engine, named.precision) == ("onnxruntime", "float32")
    plain = Studio(SegmentOptions(weights="aerial", device="cpu")).setting()
    assert (plain.engine, plain.precision) == ("torch", "bfloat16")
    cascade = CascadeStudio(RefineOptions(weights="roofs-cascade", engine="openvino", device="cpu")).setting()
    assert (cascade.engine, cascade.precision) == ("openvino", "float32")


def test_the_terminal_gets_tables_and_reasons() -> None:
    text = "\n".join(bench_lines([row(1024), row()]))

    assert "65,536 px" in text
    assert "naive refused: needs 1 TiB" in text
    assert "device allocated" not in text  # nothing to say without a device
    assert "[lowest..highest] of the repeats" in text
    assert "[lowest" not in "\n".join(bench_lines([replace(row(), marks=())])), "nothing to explain"


def test_the_page_needs_nothing_beside_it_and_holds_the_figures() -> None:
    failed = Row(label="2 px", image=None, method="patch", error=DeviceError("no <memory>"))
    page = bench_page(SETTING, [row(1024), row(), failed])

    assert "Some &lt;CPU&gt;" in page
    assert "no &lt;memory&gt;" in page
    assert re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"", page) == []
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        ET.fromstring(chart)  # noqa: S314 - made by ourselves a line above
    assert "megapixels per second" in charts[0]
    assert "refused" in charts[1]
    for cell in cells(row()):
        assert cell in page


def test_a_page_of_nothing_says_so() -> None:
    page = bench_page(SETTING, [Row(label="2 px", image=None, method="patch", error=DeviceError("no memory"))])

    assert "Nothing could be measured" in page
    assert "no memory" in page
