"""Even with `--overwrite`, no command replaces a file that it reads or that another program wrote."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.models.registry import build_backbone
from magnet_cli.system import written_files
from tests.cli.support import invoke, one_failure, write_image
from tests.files import tree

PATCH = ("--method", "patch")
NOT_OURS = "magnet has not written it: it is not replaced, not even with --overwrite"


def refused(code: int, *words: str | Path) -> str:
    """Return the message of a command that ends with an exit code and changes no file."""
    before = tree(Path())
    result = invoke(*words)
    assert result.exit_code == code, result.stderr
    assert tree(Path()) == before
    return one_failure(result)


def test_the_picture_of_one_image_is_not_another_input(here: Path, bundle: Path) -> None:
    for name in ("x.png", "x.overlay.png"):
        write_image(here / name)
    words = ("segment", "x.png", "x.overlay.png", "--weights", bundle, "-o", ".")
    assert "a picture may not replace an input (got x.overlay.png)" in refused(2, *words, "--overlay", "--overwrite")
    assert "may not replace an input" in refused(2, *words, "--overlay")


def test_an_input_with_the_name_of_a_working_file_is_read_and_stays(here: Path, bundle: Path) -> None:
    write_image(here / "z.tif.part")
    pixels = (here / "z.tif.part").read_bytes()
    assert invoke("segment", "z.tif.part", "--weights", bundle, *PATCH, "-o", "z.tif").exit_code == 0
    assert (here / "z.tif.part").read_bytes() == pixels
    Path("z.tif.part").rename("y.tif.magnet.part")
    message = refused(2, "segment", "y.tif.magnet.part", "--weights", bundle, "-o", "y.tif")
    assert "a mask may not replace an input" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.html", ["--html"]),
        ("x.overlay.png", ["--overlay"]),
        ("x.json", []),
        ("x.tif", []),
        ("x.tif.journal", []),
        ("x.tif.journal", ["--no-resume"]),
        ("x.probabilities.zarr", ["--probabilities"]),
        ("x.uncertainty.zarr/zarr.json", ["--uncertainty"]),
        ("x.geojson", ["--format", "geojson"]),
        ("x.cog.tif.aux.xml", ["--format", "cog"]),
        ("x.ome.zarr/zarr.json", ["--format", "ome-zarr"]),
        ("x.unrefined.tif", ["--refine", "guided"]),
    ],
)
def test_a_file_of_another_program_stays(here: Path, image: Path, bundle: Path, name: str, words: list[str]) -> None:
    (here / "out" / name).parent.mkdir(parents=True)
    (here / "out" / name).write_text('{"version": "5.0", "shapes": []}')
    for more in ([], ["--overwrite"]):
        message = refused(5, "segment", image, "--weights", bundle, *PATCH, "-o", "out/x.tif", *words, *more)
        assert NOT_OURS in message
        assert str(Path("out", *Path(name).parts[:1])) in message


def test_own_files_are_replaced_and_an_empty_one_is_nobodys(here: Path, image: Path, bundle: Path) -> None:
    made = ("--probabilities", "--overlay", "--html", "--format", "cog,ome-tiff,ome-zarr,geojson")
    words = ("segment", image, "--weights", bundle, "-o", "out/x.tif", *made)
    (here / "out").mkdir()
    for name in ("x.tif", "x.json", "x.html"):
        (here / "out" / name).touch()
    assert invoke(*words, "--overwrite").exit_code == 0
    names = sorted(path.name for path in (here / "out").iterdir())
    result = invoke(*words, "--overlap", "10", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (here / "out").iterdir()) == names


def test_files_that_say_where_to_look_stay(here: Path, image: Path, bundle: Path) -> None:
    common = ("segment", image, "--weights", bundle, *PATCH, "--format", "geojson", "-o", "out/x.tif")
    assert invoke(*common).exit_code == 0
    (here / "link.geojson").symlink_to("out/x.geojson")
    os.link("out/x.tif", "hard.tif")
    for option, file in (("--mask", "out/x.tif"), ("--mask", "hard.tif"), ("--roi", "link.geojson")):
        message = refused(2, *common, option, file, "--overwrite")
        assert "may not replace an input" in message
        assert file in message


def test_a_kept_field_is_not_replaced_by_the_run_that_reads_a_file_in_it(here: Path, image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, *PATCH, "-o", "x.tif", "--probabilities")
    assert invoke(*words).exit_code == 0
    write_image(here / "x.probabilities.zarr" / "s.tif")
    inside = ("segment", "x.probabilities.zarr/s.tif", *words[2:], "--overwrite")
    assert "a field may not replace an input" in refused(2, *inside)


def test_capital_letters_count_only_where_the_folder_tells_them_apart(
    here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A/s.tif", "b/S.tif"):
        write_image(here / name)
    words = ("segment", "A", "b", "--weights", bundle, *PATCH, "-o", "out")
    with monkeypatch.context() as patch:
        patch.setattr(written_files, "is_case_blind", lambda _: True)
        assert "two images would get the same mask (got A/s.tif and b/S.tif both to out/S.tif)" in refused(2, *words)
    assert not written_files.is_case_blind(here)
    assert invoke(*words).exit_code == 0


@pytest.mark.usefixtures("here")
def test_refine_and_its_pictures(image: Path) -> None:
    labels = np.zeros((110, 150), np.uint8)
    labels[20:60, 30:90] = 1
    tifffile.imwrite("m.tif", labels)
    common = ("refine", image, "--method", "guided")
    assert "a mask may not replace an input" in refused(2, *common, "m.tif", "-o", "m.tif", "--overwrite")
    shutil.copy(image, "r.overlay.png")
    words = ("refine", "r.overlay.png", "m.tif", "--method", "guided", "-o", "r.tif", "--overlay")
    assert "a picture may not replace an input" in refused(2, *words)
    Path("q.html").write_text("mine")
    Path("p.json").write_text("{}")
    assert NOT_OURS in refused(5, *common, "m.tif", "-o", "q.tif", "--html", "--overwrite")
    assert NOT_OURS in refused(5, *common, "m.tif", "-o", "p.tif", "--overwrite")


def test_report_replaces_its_own_page_alone(here: Path, image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, *PATCH, "-o", "x.tif").exit_code == 0
    (here / "x.html").write_text("<html>mine</html>")
    assert NOT_OURS in refused(5, "report", "x.tif")
    (here / "x.html").unlink()
    assert invoke("report", "x.tif").exit_code == 0
    assert invoke("report", "x.tif").exit_code == 0


def test_scores_and_plots(here: Path, image: Path, bundle: Path) -> None:
    tifffile.imwrite("truth.tif", np.zeros((110, 150), np.uint8))
    Path("data.csv").write_text(f"image,label\n{image},truth.tif\n")
    words = ("evaluate", "--data", "data.csv", "--weights", bundle, "--methods", "patch", "--no-mba")
    assert "a plot may not replace an input" in refused(2, *words, "--plot", image)
    (here / "out").mkdir()
    for name in ("scores.json", "distribution.png"):
        (here / "out" / name).write_text("mine")
        assert NOT_OURS in refused(5, *words, "-o", "out")
        (here / "out" / name).unlink()
    for _ in range(2):
        assert invoke(*words, "-o", "out").exit_code == 0


def test_imported_bundles(here: Path) -> None:
    torch.save(build_backbone("conv", classes=7, bands=3, options={}).state_dict(), here / "b.pth")
    words = ("weights", "import", "--preset", "deepglobe", "--architecture", "conv", "-o", "globe", "--backbone")
    assert invoke(*words, "b.pth").exit_code == 0
    shutil.copy("b.pth", "globe/b.pth")
    message = refused(2, *words, "globe/b.pth", "--overwrite")
    assert "a bundle may not replace an input (got globe, which is globe/b.pth)" in message
    message = refused(5, *words, "b.pth", "--overwrite")
    assert "globe/b.pth: Move the file away" in message
    assert "the folder is replaced as a whole" in message
    (here / "globe" / "b.pth").unlink()
    assert invoke(*words, "b.pth", "--overwrite").exit_code == 0


def test_scenes_and_pages_of_benches(here: Path, image: Path, bundle: Path) -> None:
    words = ("scene", "--size", "64x64", "--overwrite")
    assert NOT_OURS in refused(5, *words, image)
    assert NOT_OURS in refused(5, *words, "new.tif", "--labels", image)
    for _ in range(2):
        assert invoke(*words, "new.tif", "--labels", "labels.tif").exit_code == 0
    (here / "page.html").write_text("mine")
    assert NOT_OURS in refused(5, "bench", "--weights", bundle, "--html", "page.html")


def test_names_that_only_a_later_file_would_be_too_long_for(here: Path, image: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.tif")
    os.link("in/a.tif", f"in/{'b' * 236}.tif")
    words = ("segment", "--weights", bundle, *PATCH, "--format", "geojson,ome-zarr")
    name = f"{'x' * 236}.tif"
    assert invoke(*words, image, "-o", name).exit_code == 0
    message = refused(2, *words, image, "-o", f"{'x' * 246}.tif")
    assert "the journal would get a name of 258 bytes, and names here have at most 255" in message
    # The folder's other image is not stopped by a name that is too long for its own outputs.
    Path(f"in/{'b' * 236}.tif").rename(f"in/{'b' * 246}.tif")
    result = invoke(*words, "in", "-o", "out")
    assert result.exit_code == 7
    assert "names here have at most 255" in result.stderr
    assert json.loads((here / "out" / "a.json").read_bytes())["mask"]
