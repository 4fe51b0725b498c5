"""Every wrong use gives one line with the rule, the value and the next step, the right exit code, and no change."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tifffile

from tests.cli.support import invoke, invoke_json, one_failure, write_colours_bundle, write_image
from tests.files import tree

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = [
    (["--scales", "0.5"], ["a scale is at least one pixel", "0.5", "--scales 625,1250,2500"]),
    (["--scales", "1.5"], ["whole number of pixels", "1.5"]),
    (["--scales", "many"], ["--scales takes numbers", "'many'", "auto or full"]),
    (["--scales", "64,abc"], ["'abc' in '64,abc'", "WIDTHxHEIGHT"]),
    (["--scales", ""], ["--scales takes numbers"]),
    (["--scales", "64,64"], ["must differ", "64x64 beside 64x64", "once"]),
    (["--scales", "64x128,128x64"], ["must differ"]),
    (["--memory", "4"], ["--memory takes a size with a binary unit", "'4'", "4GiB"]),
    (["--gpu-memory", "4GB"], ["--gpu-memory takes a size with a binary unit", "'4GB'", "4GiB"]),
    (
        ["--gpu", "0", "--device", "cpu"],
        ["--gpu is short for --device", "--device cpu and --gpu 0", "Give --gpu or --device, not both"],
    ),
    (["--device", "tpu"], ["--device is auto, cpu, cuda, cuda:N or mps", "'tpu'"]),
    (["--points", "0"], ["--points is one of all, 32768, 75%, 0.75 or q>0.2", "'0'"]),
    (["--points", "1e-999999999"], ["--points is one of"]),
    (["--points", "\N{SUPERSCRIPT TWO}"], ["--points is one of"]),
    (["--patches", "q>0.1"], ["--patches is one of", "u>0.1"]),
    (["--patches", "3"], ["--method magnet computes every window", "--patches 3", "--method magnet-fast"]),
    (["--median", "4"], ["--median is odd", "4"]),
    (["--overlap", "32"], ["at most 30 pixels for a network input of 32x32", "--overlap 32", "--overlap 30 or less"]),
    (["--overlap", "2"], ["need an overlap of at least 4 pixels", "--overlap 2", "Take --overlap 4"]),
    (["--batch-size", "few"], ["--batch-size is auto or a whole number", "'few'", "-b 4"]),
    (["-b", "0"], ["--batch-size is at least 1", "0"]),
    (["--mpp", "fine"], ["--mpp is a positive decimal number", "'fine'", "--mpp 0.5"]),
    (["--gsd", "0"], ["--gsd is a positive size in m", "0"]),
    (["--mag", "20x"], ["--mag is a positive decimal number", "'20x'", "--mag 0.5"]),
    (
        ["--mpp", "0.5", "--mag", "20"],
        ["--mpp, --gsd, --level and --mag each", "--mpp 0.5 and --mag 20", "Give only one of"],
    ),
    (["--level", "1", "--gsd", "3"], ["--gsd 3 and --level 1"]),
    (["--scales", "64,64um"], ["all in pixels or all in units of length", "'64,64um'", "320um,640um"]),
    (["--scales", "0um"], ["a scale is a positive length", "0um"]),
    (
        ["--precision", "int8"],
        ["--precision int8 is computed by the engines", "--engine auto", "Add --engine openvino"],
    ),
    (["--slide-mpp", "0"], ["--slide-mpp is a positive size", "0"]),
]


@pytest.mark.parametrize(("words", "parts"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
def test_words_that_cannot_be_carried_out(image: Path, bundle: Path, words: list[str], parts: list[str]) -> None:
    result = invoke("segment", image, "--weights", bundle, *words)
    assert result.exit_code == 2
    said = one_failure(result)
    assert [part for part in parts if part not in said] == []
    assert [path.name for path in Path().iterdir()] == ["s.tif"]


@pytest.mark.parametrize(
    "words",
    [["--gpu", "-1"], ["--gpu", "first"], ["--method", "fast"], ["--median", "x"], ["--on-error", "x"], ["--no-such"]],
    ids=" ".join,
)
def test_words_that_are_no_options(image: Path, bundle: Path, words: list[str]) -> None:
    result = invoke("segment", image, "--weights", bundle, *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
    assert result.stdout == ""


def test_nothing_to_segment(here: Path) -> None:
    assert invoke("segment").exit_code == 2
    (here / "empty" / "sub").mkdir(parents=True)
    (here / "empty" / "notes.txt").write_text("no image")
    result = invoke("segment", "empty")
    assert result.exit_code == 2
    said = "magnet: empty: Name a folder with images, or a file\n  Why: the folder holds no image"
    assert one_failure(result) == said
    result = invoke("segment", "nothing-*.tif")
    assert result.exit_code == 2
    assert "the pattern matches no image (got nothing-*.tif)" in one_failure(result)


def test_an_image_that_is_missing_or_none(here: Path, image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "gone.tif", "--weights", bundle)
    assert result.exit_code == 3
    assert one_failure(result) == "magnet: gone.tif: Check the path\n  Why: there is no such file or folder"
    (here / "note.tif").write_text("no image at all")
    (here / "empty.tif").touch()
    cut = here / "cut.tif"
    cut.write_bytes(image.read_bytes()[:200])
    for name in ("note.tif", "empty.tif", "cut.tif"):
        result = invoke("segment", name, "--weights", bundle)
        assert result.exit_code == 3
        assert f"magnet: {name}: " in one_failure(result)
    assert not list(here.glob("*.mask.*"))


def test_pixels_that_cannot_be_decoded(here: Path, image: Path, bundle: Path) -> None:
    damaged = here / "damaged.tif"
    tifffile.imwrite(damaged, tifffile.imread(image), photometric="rgb", tile=(64, 64), compression="zlib")
    data = damaged.read_bytes()
    with tifffile.TiffFile(damaged) as tiff:
        page = tiff.pages.first
        tile, length = page.dataoffsets[0], page.databytecounts[0]
    damaged.write_bytes(data[:tile] + bytes(length) + data[tile + length :])
    result = invoke("segment", damaged.name, "--weights", bundle)
    assert result.exit_code == 3
    assert "magnet: damaged.tif: " in result.stderr
    assert "  Why: block " in result.stderr
    assert sorted(path.name for path in here.iterdir()) == ["damaged.tif", "s.tif"]
    damaged.write_bytes(data)
    assert invoke("segment", damaged.name, "--weights", bundle).exit_code == 0


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--level", "1"], ["s.tif: ", "the image has 1 levels, numbered from 0", "--level 1", "magnet info"]),
        (["--mag", "20"], ["s.tif: ", "--mag needs the magnification", "--slide-mpp"]),
        (["--gsd", "0.5"], ["s.tif: ", "--gsd needs the physical size", "--slide-mpp"]),
        (
            ["--scales", "8um,16um"],
            ["s.tif: ", "scales with a unit need the physical size", "16um, 8um", "--slide-mpp"],
        ),
    ],
)
def test_a_size_that_the_image_cannot_be_read_at(image: Path, bundle: Path, words: list[str], parts: list[str]) -> None:
    for command in ("segment", "plan"):
        result = invoke(command, image, "--weights", bundle, *words)
        assert result.exit_code == 3
        assert [part for part in parts if part not in one_failure(result)] == []


def test_an_unknown_bundle_names_the_shipped_ones(image: Path) -> None:
    result = invoke("segment", image, "--weights", "nowhere")
    assert result.exit_code == 4
    assert "nowhere" in one_failure(result)
    assert "Name a bundle that magnet has (aerial, fundus, " in result.stderr


def test_weights_that_are_not_the_described_ones(image: Path, tmp_path: Path) -> None:
    folder = write_colours_bundle(tmp_path / "wrong")
    weights = folder / "backbone.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    result = invoke("segment", image, "--weights", folder)
    assert result.exit_code == 4
    assert "sha256" in one_failure(result)
    assert str(weights) in result.stderr


def test_a_bundle_that_is_damaged(image: Path, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(bundle, folder)
    description = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**description, "colour": 1}))
    result = invoke("segment", image, "--weights", folder)
    assert result.exit_code == 4
    assert "unknown keys" in one_failure(result)
    assert "colour" in result.stderr


def test_bands_that_the_bundle_does_not_know(here: Path, bundle: Path) -> None:
    write_image(here / "grey.tif", bands=1)
    result = invoke("segment", "grey.tif", "--weights", bundle)
    assert result.exit_code == 4
    said = one_failure(result)
    assert said.startswith("magnet: grey.tif: ")
    assert "  Why: bundle colours needs bands red, green, blue and the image has" in said


def test_a_refiner_that_the_bundle_lacks(image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "--merge", "refiner")
    assert result.exit_code == 4
    said = "Take --merge mean\n  Why: bundle colours has no refiner (got --merge refiner)"
    assert said in one_failure(result)


def test_a_device_that_is_missing(image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "--gpu", "99")
    assert result.exit_code == 6
    assert "there is no GPU 99" in one_failure(result)


def test_too_little_memory_names_what_is_needed(here: Path, image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "--memory", "10MiB")
    assert result.exit_code == 6
    line = one_failure(result)
    assert "s.tif: Raise --memory" in line
    assert "the run needs at least" in line
    assert "--memory 10MiB" in line
    assert [path.name for path in here.iterdir()] == ["s.tif"]


@pytest.mark.parametrize("output", ["o.png", "o.zarr", "o.v2"])
def test_an_output_of_another_kind(image: Path, bundle: Path, output: str) -> None:
    result = invoke("segment", image, "--weights", bundle, "-o", output)
    assert result.exit_code == 2
    assert f"a mask is written as .tif or .tiff (got -o {output})" in one_failure(result)


def test_an_output_that_is_an_input(here: Path, image: Path, bundle: Path) -> None:
    (here / "link.tif").symlink_to(image)
    before = tree(here)
    for output in ("s.tif", "./s.tif", str(here / "s.tif"), "."):
        result = invoke("segment", image, "--weights", bundle, "-o", output)
        assert result.exit_code == 2, output
        assert "a mask may not replace an input" in one_failure(result)
    assert invoke("segment", "link.tif", "--weights", bundle, "-o", "s.tif").exit_code == 2
    assert tree(here) == before


def test_two_images_with_one_mask(here: Path, bundle: Path) -> None:
    for name in ("a/s.tif", "b/s.tif"):
        write_image(here / name)
    for output in (["-o", "out"], []):
        result = invoke("segment", "a", "b", "--weights", bundle, *output)
        assert result.exit_code == 2
        assert "two images would get the same mask (got a/s.tif and b/s.tif both to" in one_failure(result)
    result = invoke("segment", "a", "b", "--weights", bundle, "-o", "one.tif")
    assert result.exit_code == 2
    assert "several images need a folder for their masks (got 2 images and -o one.tif)" in one_failure(result)
    assert sorted(tree(here)) == ["a/s.tif", "b/s.tif"]


def test_an_output_folder_that_cannot_be_written(here: Path, image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "-o", "s.tif/out")
    assert result.exit_code == 5
    assert "s.tif/out" in result.stderr
    assert "the output cannot be written" in result.stderr
    assert [path.name for path in here.iterdir()] == ["s.tif"]


@pytest.mark.parametrize(
    ("output", "locked"),
    [("out/locked", "out/locked"), ("locked/s.tif", "locked/s.tif"), ("locked", "locked/s.tif"), ("m.tif", "m.json")],
)
def test_an_output_that_the_system_denies_access_to(
    image: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, output: str, locked: str
) -> None:
    """The tests may run as root, whom no rights of files stop."""
    if output == "m.tif":
        assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    stat, opened = Path.stat, Path.open

    def refused(path: Path) -> None:
        if str(path) == locked or output in map(str, path.parents):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def denied(path: Path, **more: bool) -> os.stat_result:
        if output != "m.tif":
            refused(path)
        return stat(path, **more)

    def closed(path: Path, *words: Any, **more: Any) -> Any:
        refused(path)
        return opened(path, *words, **more)

    monkeypatch.setattr(Path, "stat", denied)
    monkeypatch.setattr(Path, "open", closed)
    result = invoke("segment", image, "--weights", bundle, "-o", output)
    assert result.exit_code == 5
    said = "Choose an output folder that you may write to\n  Why: the output cannot be reached (got Permission denied)"
    assert f"{locked}: {said}" in one_failure(result)


def test_a_scene_does_not_replace_a_file(here: Path, image: Path) -> None:
    before = tree(here)
    result = invoke("scene", image, "--size", "64x64")
    assert result.exit_code == 5
    said = "s.tif: Choose another name, or add --overwrite\n  Why: the file exists"
    assert said in one_failure(result)
    result = invoke("scene", "t.tif", "--labels", image)
    assert result.exit_code == 5
    assert tree(here) == before


def test_a_scene_is_named_in_json(here: Path) -> None:
    (row,) = invoke_json("scene", "t.tif", "--size", "96x64", "--labels", "l.tif")["images"]
    assert row == {
        "image": "t.tif",
        "labels": "l.tif",
        "size": {"width": 96, "height": 64},
        "seed": 0,
        "landscape": "countryside",
    }
    assert "the file exists" in invoke_json("scene", "t.tif", code=5)["error"]
    assert sorted(tree(here)) == ["l.tif", "t.tif"]


@pytest.mark.parametrize(
    "words",
    [["t.tif", "--size", "64"], ["t.tif", "--size", "0x64"], ["t.png"], ["t.tif", "--labels", "./t.tif"]],
    ids=" ".join,
)
def test_a_scene_that_cannot_be_written(here: Path, words: list[str]) -> None:
    result = invoke("scene", *words)
    assert result.exit_code == 2
    one_failure(result)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["info", "LONG"],
        ["info", "LONG*"],
        ["segment", "LONG", "--weights", "BUNDLE"],
        ["segment", "s.tif", "--weights", "LONG"],
        ["segment", "s.tif", "--weights", "BUNDLE", "-o", "LONG"],
        ["verify", "LONG"],
        ["report", "LONG"],
        ["export", "LONG", "--format", "cog"],
        ["evaluate", "LONG", "LONG"],
        ["weights", "show", "LONG"],
        ["scene", "LONG.tif"],
    ],
)
def test_names_that_are_too_long(image: Path, bundle: Path, words: list[str]) -> None:
    assert image.exists()
    result = invoke(*(word.replace("LONG", "a" * 300).replace("BUNDLE", str(bundle)) for word in words))
    assert f"the name is longer than this system allows (got {'a' * 80}...)" in one_failure(result)
    assert result.exit_code == 2


def test_a_folder_that_may_not_be_listed(here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    write_image(here / "in" / "s.tif")
    (here / "in" / "locked").mkdir()
    monkeypatch.setattr(Path, "iterdir", refused)
    found = invoke_json("segment", "in", "--weights", bundle, "-o", "out", code=3)
    rule = "in/locked: the system refuses access (got Permission denied)"
    assert found["error"] == f"{rule}. Check that you may read it, or name what you may read"
    assert not (here / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="wants named pipes")
@pytest.mark.parametrize("words", ["info pipe.tif", "segment pipe.tif -o out", "evaluate pipe.tif truth.tif"])
def test_a_pipe_is_no_image(here: Path, image: Path, bundle: Path, words: str) -> None:
    os.mkfifo(here / "pipe.tif")
    image.rename(here / "truth.tif")
    weights = ["--weights", str(bundle)] if "segment" in words else []
    result = invoke(*words.split(), *weights)
    assert "pipe.tif: " in result.stderr
    assert "a pipe" in result.stderr
    assert result.exit_code == 3


def test_a_region_outside_the_image_is_refused_with_what_it_means(image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, "--roi", "9000,0,10,10", "-o", "m.tif")
    assert result.exit_code == 3
    line = one_failure(result)
    assert "the region lies outside the image" in line
    assert "--roi 9000,0,10,10" in line
    assert "--roi X,Y,WIDTH,HEIGHT in pixels of the full resolution" in line
