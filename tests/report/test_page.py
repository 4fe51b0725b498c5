"""The page beside a mask looks in a browser as it should."""

from __future__ import annotations

import json
import os
import re
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.geometry import Size
from magnet_cli.masks.report_file import write_report
from magnet_cli.scene import Pyramid, Scene, write_scene
from tests.cli.support import invoke, invoke_json, write_image
from tests.refinement.support import Bright, use
from tests.report.browser import Browser, Element, find_browser, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOSTILE_FILE = """a "b" & <img src=x onerror=document.title='owned'> $(touch owned) 'c'.tif"""
HOSTILE_CLASS = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>\"'&"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return find_browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the page and the report of a generated scene that the bundle `aerial` has segmented."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(folder / "city.tif", Scene(size=Size(width=600, height=450), seed=4), pyramid=Pyramid(tile=256))
    words = ("--weights", "aerial", "--slide-mpp", "0.5", "--method", "magnet-fast", "--patches", "u>0.6")
    with pytest.MonkeyPatch.context() as patch:
        # The tests run on one core, and the last bits of sums depend on the number of threads.
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        found = invoke_json("segment", folder / "city.tif", *words, "-o", folder / "m.tif", "--html")
    return folder / "m.html", found["images"][0]["report"]


def cells(table: Element) -> list[list[str]]:
    return [[cell.text for cell in row.children if cell.tag in ("td", "th")] for row in table.one("tbody").all("tr")]


def numbers(row: Sequence[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in row if re.fullmatch(r"[\d,.]+", cell)]


def test_the_page_shows_what_the_report_says(browser: Browser, scene: tuple[Path, dict[str, Any]]) -> None:
    page, report = scene
    shown = browser.dom(page)
    assert shown.one("h1").text == "city.tif"
    rows = cells(shown.one("table", id="classes"))
    assert [row[0] for row in rows] == [*(entry["name"] for entry in report["classes"]), "not computed"]
    for row, entry in zip(rows, report["classes"], strict=False):
        pixels, area = numbers(row)[:2]
        assert pixels == entry["pixels"]
        assert area == pytest.approx(entry["area"], rel=1e-3)
        assert "%" in row[3]
    assert "area, µm²" in shown.one("table", id="classes").one("thead").text
    stages = [stage for step in report["passes"] for stage in step["stages"]]
    rows = cells(shown.one("table", id="stages"))
    assert len(rows) == len(stages) == 4
    for row, stage in zip(rows, stages, strict=True):
        expected = [stage["scale"]["width"], stage["windows"], stage["windows_run"]]
        not_run = stage["not_run"]
        passed_over = sum(not_run[why] for why in ("unselected", "unpaid", "settled"))
        change = [] if stage["changed"] is None else [round(stage["changed"]["probabilities"], 3)]
        counted = [not_run["nodata"], not_run["outside"], passed_over, stage["points"], *change]
        assert numbers(row)[1:] == [*expected, *counted]
    assert len(cells(shown.one("table", id="seconds"))) == len(report["seconds"])
    assert "host peak" in [row[0] for row in cells(shown.one("table", id="memory"))]
    text = shown.one("main").text
    for value in (*report["hashes"].values(), report["mask"]["sha256"], report["digest"], report["versions"]["torch"]):
        assert value in text


def test_the_controls_work(browser: Browser, scene: tuple[Path, dict[str, Any]]) -> None:
    page, _ = scene
    shown = browser.dom(page)
    assert shown.one("use", id="layer-mask").attributes["opacity"] == "0.5"
    boxes = shown.all("input", type="checkbox")
    layers = ["layer-uncertainty", *(f"layer-stage-{number}" for number in range(1, 5))]
    layers += [f"layer-changes-{number}" for number in range(2, 5)]
    assert [box.attributes["data-layer"] for box in boxes] == layers
    assert all("none" in shown.one("use", id=layer).attributes["style"] for layer in layers)
    script = """
    slider.value = 85; slider.dispatchEvent(new Event("input"));
    document.querySelector("input[data-layer=layer-stage-2]").click();
    """
    changed = browser.dom(page, script=script)
    assert changed.one("use", id="layer-mask").attributes["opacity"] == "0.85"
    assert changed.one("output").text == "85 %"
    assert [layer for layer in layers if "none" not in changed.one("use", id=layer).attributes["style"]] == [
        "layer-stage-2"
    ]


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_sticks_out(browser: Browser, scene: tuple[Path, dict[str, Any]], width: int) -> None:
    measure = "document.title = [document.documentElement.scrollWidth, innerWidth].join(' ')"
    content, window = browser.dom(scene[0], width=width, script=measure).one("head").one("title").text.split()
    assert int(content) <= int(window)
    assert int(window) == width


def test_the_picture_has_the_colours_of_the_mask(browser: Browser, scene: tuple[Path, dict[str, Any]]) -> None:
    page, report = scene
    only_mask = page.with_name("opaque.html")
    text = page.read_text(encoding="utf-8").replace('value="50"', 'value="100"')
    only_mask.write_text(text, encoding="utf-8")
    seen = browser.screenshot(only_mask, height=900)
    view = seen[200:700, 60:900].reshape(-1, 3).astype(int)
    for entry in report["classes"]:
        colour = np.frombuffer(bytes.fromhex(entry["color"][1:]), np.uint8).astype(int)
        share = (abs(view - colour).max(axis=1) < 6).mean()
        if entry["share"] > 0.05:
            assert share > 0.2 * entry["share"], entry["name"]


def test_the_command_gives_the_mask_again(scene: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    page, report = scene
    words = shlex.split(parse(page.read_text(encoding="utf-8")).one("pre", id="command").text)
    assert words == report["command"]
    words[words.index("-o") + 1] = str(tmp_path / "again.tif")
    again = invoke_json(*words[1:])["images"][0]["report"]
    assert again["mask"]["sha256"] == report["mask"]["sha256"]
    assert (tmp_path / "again.html").is_file()


def test_the_page_needs_nothing_else(scene: tuple[Path, dict[str, Any]]) -> None:
    page = parse(scene[0].read_text(encoding="utf-8"))
    links = [
        value for element in page.all("*") for name, value in element.attributes.items() if name in ("href", "src")
    ]
    assert len(links) > 10
    assert {link[:5] for link in links if not link.startswith("#")} == {"data:"}
    assert not re.search(r"url\((?!#)|@import", scene[0].read_text(encoding="utf-8"))
    assert "default-src 'none'" in page.all("meta")[2].attributes["content"]


def test_every_picture_and_control_has_a_name(scene: tuple[Path, dict[str, Any]]) -> None:
    page = parse(scene[0].read_text(encoding="utf-8"))
    pictures = page.all("svg", role="img")
    assert len(pictures) == 1 + 1 + 1 + 4 + 3
    assert all(picture.attributes["aria-label"] for picture in pictures)
    hidden = [svg for svg in page.all("svg") if svg.attributes.get("role") != "img"]
    assert all(svg.attributes.get("aria-hidden") == "true" for svg in hidden)
    labelled = [box for label in page.all("label") for box in label.all("input")]
    assert len(labelled) == len(page.all("input", type="checkbox"))
    assert page.one("label", **{"for": "opacity"}).text.startswith("Opacity of the mask")
    assert page.one("html").attributes["lang"] == "en"


def test_hostile_names_stay_text(browser: Browser, here: Path, bundle: Path) -> None:
    described = json.loads((bundle / "bundle.json").read_text())
    described["classes"][0]["name"] = HOSTILE_CLASS
    hostile = here / "bundle"
    hostile.mkdir()
    for file in bundle.iterdir():
        (hostile / file.name).write_bytes(file.read_bytes())
    (hostile / "bundle.json").write_text(json.dumps(described))
    write_image(here / HOSTILE_FILE)
    result = invoke("segment", HOSTILE_FILE, "--weights", hostile, "-o", "m.tif", "--html", "--overlay")
    assert result.exit_code == 0, result.stderr
    shown = browser.dom(here / "m.html")
    assert shown.one("head").one("title").text == f"{HOSTILE_FILE}: segmented by magnet"
    assert shown.one("h1").text == HOSTILE_FILE
    assert cells(shown.one("table", id="classes"))[0][0] == HOSTILE_CLASS
    assert len(shown.all("script")) == 1
    assert shown.all("img") == []
    assert [e for e in shown.all("*") if any(name.startswith("on") for name in e.attributes)] == []
    words = shlex.split(shown.one("pre", id="command").text)
    assert words[2] == HOSTILE_FILE
    assert (here / "m.overlay.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_what_refining_did(
    here: Path, image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Bright())
    words = ("--weights", bundle, "--probabilities", "-o", "m.tif", "--html", "--refine", "cascadepsp")
    (row,) = invoke_json("segment", image, *words)["images"]
    page, changed = parse((here / "m.html").read_text(encoding="utf-8")), row["report"]["refined"]["changed_pixels"]
    found = page.one("p", id="refined").text
    assert re.fullmatch(
        rf"Refined by stand-in: {changed:,} pixels \(.*%\) have another class than in m\.unrefined\.tif\. "
        r"Objects: \d+ one by one.*\.",
        found,
    )
    assert "Uncertainty of the mask before it was refined" in page.one("figure", id="figure-uncertainty").text
    options = {row[0]: row[1] for row in cells(page.one("main").all("table")[-3])}
    assert "L 128" in options["refine"]
    assert "stuff" not in options["refine"], "an empty list says nothing"
    words = ("refine", image, "m.unrefined.tif", "-o", "again.tif", "--only", "0", "--html")
    report = invoke_json(*words)["images"][0]["report"]
    page = parse((here / "again.html").read_text(encoding="utf-8"))
    changed = report["refined"]["changed_pixels"]
    assert page.one("p", id="refined").text.startswith(f"Refined by stand-in: {changed:,} pixels")
    assert "Objects of r: " in page.one("p", id="refined").text
    words = ("refine", image, "m.unrefined.tif", "-o", "one.tif", "--object", "1,b", "--html")
    assert invoke(*words).exit_code == 0
    found = parse((here / "one.html").read_text(encoding="utf-8")).one("p", id="refined").text
    assert "have another class than in m.unrefined.tif, read as one object. Objects of g and b: " in found
    invoke("segment", image, "--weights", bundle, "-o", "plain.tif", "--html")
    page = parse((here / "plain.html").read_text(encoding="utf-8"))
    assert page.all("p", id="refined") == []
    assert "Uncertainty of the result" in page.one("figure", id="figure-uncertainty").text


def test_a_page_without_maps(here: Path, image: Path, bundle: Path) -> None:
    """With `--compat published`, windows are drawn where that mode places them, by a rule of its own."""
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    report = json.loads((here / "m.json").read_text())
    report["maps"] = {"stages": [], "uncertainty": None}
    write_report(here / "m.json", report)
    assert invoke("report", "m.tif").exit_code == 0
    page = parse((here / "m.html").read_text(encoding="utf-8"))
    assert page.all("input", type="checkbox") == []
    assert len(cells(page.one("table", id="stages"))) == 3
    assert "does not state the size of a pixel" in page.one("main").text


def test_sides_of_a_pixel_are_its_width_and_its_height(here: Path, image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    for pixel, shown in (((0.5, 0.25), "0.5 × 0.25 µm"), ((10, 10), "10 µm")):  # noqa: RUF001
        report = json.loads((here / "m.json").read_text())
        report["input"]["pixel"] = {"x": pixel[0], "y": pixel[1], "unit": "um"}
        write_report(here / "m.json", report)
        assert invoke("report", "m.tif").exit_code == 0
        assert shown in parse((here / "m.html").read_text(encoding="utf-8")).one("body").text
