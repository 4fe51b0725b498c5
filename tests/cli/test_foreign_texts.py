"""Names that come from outside reach the terminal as one line each and forge none."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
import tifffile
import zarr

from magnet_cli.cli.outcome import print_json
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from tests.cli.support import ROOT, environment, invoke, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result
    from zarr.core.common import JSON

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file names there have no control characters")

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
EVIL = "\x1b]0;owned\x07\r\n/etc/x.tif: done\u202e\udc9b\u2028"
"""Part of a name that would set the terminal's title, forge a line and reverse its direction. It is no valid UTF-8."""
CLASS = EVIL.replace("\udc9b", "\x00</Item>&")
"""A class name of that kind. JSON can hold it and XML cannot."""


def clean(result: Result, *, lines: int | None = None) -> str:
    """Return both streams of a command.

    They must hold no control sequence, and standard error must have as many lines as `lines` says.
    """
    found = result.stdout_bytes + result.stderr_bytes
    for bad in (b"\x1b", b"\r", b"\x07", "\u202e".encode(), "\u2028".encode()):
        assert bad not in found
    text = found.decode("utf-8", "surrogateescape")
    assert not [line for line in text.splitlines() if line.startswith("/etc")]
    if lines is not None:
        assert len(result.stderr.splitlines()) == lines
    return text


def test_file_names_forge_no_line(here: Path, bundle: Path) -> None:
    folder = here / f"in{EVIL.replace('/', '_')}"
    write_image(folder / "good.tif")
    (folder / "bad.tif").write_bytes(b"II*\x00 nothing")
    assert "bad.tif" in clean(invoke("segment", folder, "--weights", bundle, "-o", here / "out"))
    moved = here / f"m{EVIL.replace('/', '_')}.tif"
    assert "done" in clean(invoke("segment", folder / "good.tif", "--weights", bundle, "-o", moved, "--html"))
    clean(invoke("info", folder))
    clean(invoke("plan", folder, "--weights", bundle))
    clean(invoke("verify", moved))
    clean(invoke("export", moved, "--format", "cog,geojson"))
    clean(invoke("evaluate", moved, moved))
    clean(invoke("segment", here / EVIL.replace("/", "_"), "--weights", bundle), lines=2)
    listing = json.loads(invoke("info", folder, "--json").stdout)
    assert {row["image"] for row in listing["images"]} == {str(folder / "bad.tif"), str(folder / "good.tif")}


def test_words_of_the_command_line_forge_no_line() -> None:
    for words in (
        (EVIL,),
        (f"--{EVIL}",),
        ("segment", "x.tif", f"--{EVIL}=1"),
        ("segment", "x.tif", f"-{EVIL}"),
        ("segment", "x.tif", "--method", EVIL),
        ("segment", "x.tif", "--blend", EVIL),
        ("evaluate", "a", "b", EVIL),
        ("weights", EVIL),
        ("train", "backbone", "x", f"--{EVIL}"),
    ):
        result = invoke(*words)
        assert (result.exit_code, words) == (2, words)
        assert r"\x1b" in clean(result)
    result = invoke("segment", "x.tif", env={"MAGNET_METHOD": EVIL})
    assert result.exit_code == 2
    assert r"\x1b]0;owned\x07" in clean(result)


def check_files(folder: Path) -> None:
    """Check that XML and JSON of a mask and its exports are well-formed, and that pages hold no signs of direction."""
    for name in ("m.tif", "m.cog.tif", "m.ome.tif"):
        with tifffile.TiffFile(folder / name) as file:
            tags = file.pages.first.tags
            described = file.pages.first.description
            if name == "m.ome.tif":
                texts = [entry.text or "" for entry in ET.fromstring(described).iter(f"{{{SCHEMA}}}M")]  # noqa: S314
                assert any(r"\x1b]0;owned\x07" in text for text in texts)
            else:
                assert json.loads(described)["classes"][1]["name"] == f"{CLASS}1"
            if name != "m.ome.tif":
                items = ET.fromstring(str(tags.valueof(42112))).findall("Item")  # noqa: S314
                assert r"\x1b]0;owned\x07" in str(items[0].text)
                assert r"\x00&lt;/Item&gt;" in str(items[0].text)
    assert ET.parse(folder / "m.cog.tif.aux.xml").find(".//Category") is not None  # noqa: S314
    page = (folder / "m.html").read_text(encoding="utf-8")
    assert not set(page) & set("\x00\x07\x1b\u202e\u2028")
    assert r"\u202e" in page
    assert json.loads((folder / "m.json").read_text())["classes"][0]["name"] == f"{CLASS}0"
    assert json.loads((folder / "m.ome.zarr" / "labels" / "classes" / "zarr.json").read_text())
    json.loads((folder / "m.geojson").read_text())


def test_names_in_files_and_bundles_forge_no_line(here: Path) -> None:
    root = zarr.open_group(str(here / "s.zarr"), mode="w")
    evil = EVIL.replace("\udc9b", "")
    for name in ("0", "1"):
        root.create_array(f"{name}/0", shape=(2, 64, 64), chunks=(1, 64, 64), dtype="u1")
        axes: list[JSON] = [{"name": axis} for axis in "cyx"]
        channels: list[JSON] = [{"label": f"{evil}{index}"} for index in range(2)]
        multiscale: JSON = {"version": "0.4", "name": f"{evil}{name}", "axes": axes, "datasets": [{"path": "0"}]}
        root[name].attrs.update({"multiscales": [multiscale], "omero": {"channels": channels}})
    assert "forge" not in clean(invoke("info", here / "s.zarr"), lines=0)
    network = build_backbone("conv", classes=2, bands=2, options={})
    described = describe(name=f"b{evil}", classes=2, size=32) | {"licence": evil, "source": evil}
    described["classes"] = [{"name": f"{CLASS}{index}", "color": "#00FF00"} for index in range(2)]
    described["input"]["bands"] = [f"{evil}{index}" for index in range(2)]
    described["input"] |= {"mean": [0.5, 0.5], "std": [0.5, 0.5]}
    write_bundle(here / "b", described, {"backbone.safetensors": network})
    clean(invoke("weights", "show", here / "b"), lines=0)
    clean(invoke("plan", here / "s.zarr", "--weights", here / "b"))
    clean(invoke("segment", here / "s.zarr", "--weights", here / "b", "-o", here / "m.tif", "--html", "--overlay"))
    clean(invoke("export", here / "m.tif", "--format", "cog,ome-tiff,ome-zarr,geojson"))
    check_files(here)
    clean(invoke("weights", "verify", here / "b"))


def test_a_bug_and_a_warning_are_printed_in_lines_without_controls(here: Path) -> None:
    program = (
        "import sys, warnings, logging\n"
        "from magnet_cli.cli import app, queries\n"
        "from magnet_cli.masks import targets\n"
        "def broken(*a, **k):\n"
        "    warnings.warn('warned \\x1b[31m\\nforged')\n"
        "    logging.getLogger('lib').warning('logged \\x1b[31m\\nforged')\n"
        "    raise ZeroDivisionError('odd \\x1b[31m\\rforged')\n"
        "targets.input_images = broken\n"
        "sys.argv = ['magnet', 'info', 'x']\n"
        "app.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=here, env=environment(), capture_output=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert b"\x1b" not in done.stderr
    assert b"\r" not in done.stderr
    text = done.stderr.decode()
    assert "UserWarning: warned \\x1b[31m\\nforged" in text
    assert "lib: logged \\x1b[31m\\nforged" in text
    assert "ZeroDivisionError: odd \\x1b[31m\\rforged" in text
    assert str(ROOT) in text


def test_json_objects_have_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), 1.5, (float("inf"),)], "b": {"c": -float("inf"), "d": "\ud800"}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, [None]], "b": {"c": None, "d": "\ud800"}}
