"""The picture and the page are written when they should be, and a failure of theirs never harms the mask."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

import magnet_cli
from magnet_cli import ViewOptions
from magnet_cli.errors import OutputError, UsageError
from magnet_cli.masks.report_file import write_report
from magnet_cli.masks.verification import verify_mask
from magnet_cli.system import durable
from tests.cli.support import invoke, invoke_json, write_image
from tests.files import tree


def names() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_segment_writes_both_beside_the_mask(image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "--html", "--overlay")
    assert result.exit_code == 0
    assert names() == {"s.tif", "s.mask.tif", "s.mask.json", "s.mask.html", "s.mask.overlay.png"}
    assert "s.mask.html: done" in result.stderr


def test_they_do_not_change_the_mask(image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "plain.tif").exit_code == 0
    assert invoke("segment", image, "--weights", bundle, "-o", "shown.tif", "--html", "--overlay").exit_code == 0
    assert Path("plain.tif").read_bytes() == Path("shown.tif").read_bytes()
    reports = [json.loads(Path(name).read_text()) for name in ("plain.json", "shown.json")]
    assert reports[0]["hashes"] == reports[1]["hashes"]
    assert reports[0]["maps"] == reports[1]["maps"]


def test_a_finished_mask_gets_what_is_missing(image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, "-o", "m.tif")
    assert invoke(*words).exit_code == 0
    before = Path("m.tif").stat().st_mtime_ns
    assert "m.html: done" in invoke(*words, "--html").stderr
    assert "m.html" not in invoke(*words, "--html").stderr
    os.utime("m.html", ns=(before - 10**9, before - 10**9))
    assert "m.html: done" in invoke(*words, "--html").stderr
    assert Path("m.tif").stat().st_mtime_ns == before


def test_a_failed_page_keeps_the_mask(image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole = durable.write_whole

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".html":
            raise OutputError("the disk is full", file=path)
        write_whole(path, data)

    words = ("segment", image, "--weights", bundle, "-o", "m.tif", "--html")
    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_whole", full)
        result = invoke(*words)
    assert result.exit_code == 5
    assert "the mask is complete" in result.stderr
    assert "the disk is full" in result.stderr
    assert verify_mask(Path("m.tif")).ok
    assert names() == {"s.tif", "m.tif", "m.json"}
    again = invoke(*words)
    assert again.exit_code == 0
    assert "already done" in again.stderr
    assert Path("m.html").is_file()


def test_a_folder_that_holds_its_own_output_is_segmented_once(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "s.tif")
    words = ("segment", "in", "--weights", bundle, "-o", "in/masks", "--overlay", "--html")
    assert len(invoke_json(*words)["images"]) == 1
    before = tree(here)
    assert len(invoke_json(*words)["images"]) == 1
    assert tree(here) == before


def test_report_shows_a_mask_that_exists(image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    assert invoke("report", "m.tif").stdout == "m.html\n"
    assert invoke_json("report", "m.tif", "--overlay") == {
        "schema": 1,
        "images": [{"mask": "m.tif", "written": ["m.overlay.png"]}],
    }
    first = Path("m.html").read_bytes()
    image.rename("moved.tif")
    gone = invoke("report", "m.tif")
    assert gone.exit_code == 3
    assert "s.tif" in gone.stderr
    assert "--image" in gone.stderr
    assert invoke("report", "m.tif", "--image", "moved.tif", "--html", "--overlay").exit_code == 0
    assert Path("m.html").read_bytes() == first


def test_report_refuses_another_image(image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    write_image(Path("other.tif"), seed=9)
    result = invoke("report", "m.tif", "--image", "other.tif")
    assert result.exit_code == 3
    assert "another image" in result.stderr
    assert not Path("m.html").exists()
    assert invoke("report", "m.tif", "m.tif", "--image", "other.tif").exit_code == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("maps", {"stages": [{"stage": 1}], "uncertainty": None}),
        ("classes", [{"name": "a", "color": "red;}</style>", "pixels": 1, "share": 1, "area": None, "unit": None}]),
        ("input", {"size": {"width": 0, "height": 5}, "path": "s.tif"}),
        ("seconds", {"read": "long"}),
        ("command", None),
        ("hashes", 5),
    ],
)
def test_a_report_that_says_something_else_is_refused(image: Path, bundle: Path, key: str, value: object) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    write_report(Path("m.json"), {**json.loads(Path("m.json").read_text()), key: value})
    result = invoke("report", "m.tif")
    assert result.exit_code == 5
    assert (
        "m.json: Compute the mask again with --overwrite\n  Why: the report does not describe this mask"
        in result.stderr
    )
    assert not Path("m.html").exists()


def test_a_mask_that_is_no_mask_is_refused(image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    whole = Path("m.tif").read_bytes()
    tifffile.imwrite("m.tif", np.zeros((20, 20), np.uint8))
    assert "this TIFF is no mask" in invoke("report", "m.tif").stderr
    Path("m.tif").write_bytes(whole[:200] + bytes(len(whole) - 200))
    assert invoke("report", "m.tif").exit_code == 5
    Path("m.tif").unlink()
    assert "no such mask" in invoke("report", "m.tif").stderr


def test_python_makes_what_the_command_makes(image: Path, bundle: Path) -> None:
    for name in ("masks/a.tif", "masks/b.tif"):
        assert invoke("segment", image, "--weights", bundle, "-o", name).exit_code == 0
    assert invoke("report", "masks", "--html", "--overlay").exit_code == 0
    made = [Path("masks") / f"{name}{end}" for name in "ab" for end in (".overlay.png", ".html")]
    before = [path.read_bytes() for path in made]
    for path in made:
        path.unlink()
    assert magnet_cli.make_report("masks", ViewOptions(overlay=True, html=True)) == made
    assert [path.read_bytes() for path in made] == before
    assert magnet_cli.make_report(Path("masks/a.tif")) == [Path("masks/a.html")]
    assert magnet_cli.make_report(["masks/a.tif"], ViewOptions(overlay=True), image=image) == made[:1]
    with pytest.raises(UsageError, match="belongs to one mask"):
        magnet_cli.make_report("masks", image=image)
    with pytest.raises(OutputError, match="no such mask"):
        magnet_cli.make_report("masks/c.tif")
