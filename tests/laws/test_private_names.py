"""No output contains a patient's data from files, and with `--private` none names folders or other files either."""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo

from magnet_cli.errors import SourceError
from magnet_cli.segmentation import segment_job
from magnet_cli.system.private_names import PrivateNames
from tests.cli.support import invoke, write_colours_bundle, write_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLANT = "Krankmann"
"""A patient's name that the test writes wherever a format has a place for one."""
EVERYTHING = ("--html", "--overlay", "--probabilities", "--uncertainty", "--format=cog,ome-tiff,ome-zarr,geojson")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 255, (80, 100, 3), dtype=np.uint8)


def svs(folder: Path) -> Path:
    """Return a TIFF of Aperio's with all tags that may say who, when and where."""
    said = (
        f"Aperio Image Library v12\n100x80 (64x64)|AppMag = 20|MPP = 0.5|User = {PLANT}|Date = {PLANT}|Title = {PLANT}"
    )
    tags = [
        *((code, 2, 0, PLANT, True) for code in (269, 271, 272, 285, 306, 315, 316, 33432, 65000)),
        (700, 1, len(PLANT), PLANT.encode(), True),
    ]
    tifffile.imwrite(
        folder / "s.svs",
        pixels(),
        tile=(64, 64),
        photometric="rgb",
        description=said,
        software=PLANT,
        extratags=tags,
        metadata=None,
    )
    return folder / "s.svs"


def ome(folder: Path) -> Path:
    """Return an OME-TIFF with an experimenter, a project and a date."""
    described = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Experimenter ID="Experimenter:0" FirstName="{PLANT}" LastName="{PLANT}" UserName="{PLANT}"/>'
        f'<Image ID="Image:0" Name="{PLANT}"><AcquisitionDate>{PLANT}</AcquisitionDate>'
        f"<Description>{PLANT}</Description>"
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="100" SizeY="80" SizeC="3" '
        'SizeZ="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image>'
        f'<StructuredAnnotations><CommentAnnotation ID="Annotation:0"><Value>{PLANT}</Value></CommentAnnotation>'
        "</StructuredAnnotations></OME>"
    )
    tifffile.imwrite(
        folder / "s.ome.tif", pixels(), tile=(64, 64), photometric="rgb", description=described, metadata=None
    )
    return folder / "s.ome.tif"


def png(folder: Path) -> Path:
    """Return a PNG with text chunks, EXIF and XMP."""
    said, exif = PngInfo(), Picture.Exif()
    for key in ("Author", "Comment", "Creation Time"):
        said.add_text(key, PLANT)
    said.add_itxt("XML:com.adobe.xmp", f"<x>{PLANT}</x>")
    for code in (0x013B, 0x0132, 0x013C, 0x8298, 0x010E):
        exif[code] = PLANT
    Picture.fromarray(pixels()).save(folder / "s.png", pnginfo=said, exif=exif)
    return folder / "s.png"


def jpeg(folder: Path) -> Path:
    """Return a JPEG with EXIF and a comment."""
    exif = Picture.Exif()
    for code in (0x013B, 0x0132, 0x013C, 0x8298, 0x010E):
        exif[code] = PLANT
    Picture.fromarray(pixels()).save(folder / "s.jpg", exif=exif, comment=PLANT.encode(), quality=95)
    return folder / "s.jpg"


def ome_zarr(folder: Path) -> Path:
    """Return an OME-Zarr whose attributes say who, when and where."""
    root = zarr.open_group(str(folder / "s.zarr"), mode="w")
    root.create_array("0", data=np.moveaxis(pixels(), 2, 0).copy(), chunks=(3, 64, 64))
    axes: list[Any] = [{"name": name} for name in "cyx"]
    image: Any = {"version": "0.4", "name": PLANT, "axes": axes, "datasets": [{"path": "0"}], "metadata": {"by": PLANT}}
    root.attrs.update({"multiscales": [image], "patient": PLANT, "omero": {"name": PLANT, "rdefs": {"who": PLANT}}})
    return folder / "s.zarr"


def found_in(folder: Path, word: str) -> list[str]:
    """Return the files below a folder with a word in their name or content, also in deflated parts of PNG and TIFF."""
    hits = []
    for path in sorted(folder.rglob("*")):
        data = b"" if path.is_dir() else path.read_bytes()
        if word.lower() in path.name.lower() or word.encode().lower() in data.lower() or word in unpacked(data):
            hits.append(str(path.relative_to(folder)))
    return hits


def unpacked(data: bytes) -> str:
    """Return the text of every deflated stream in a file."""
    found: list[str] = []
    at = data.find(b"\x78")
    while 0 <= at < len(data) and len(found) < 200:
        with suppress(zlib.error):
            found.append(zlib.decompressobj().decompress(data[at:], 1 << 20).decode("latin1"))
        at = data.find(b"\x78", at + 1)
    return "".join(found)


@pytest.mark.parametrize("write", [svs, ome, png, jpeg, ome_zarr])
def test_what_a_file_says_of_a_patient_reaches_no_output(
    write: Callable[[Path], Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    image, out = write(tmp_path / "in"), tmp_path / "out"
    assert found_in(tmp_path / "in", PLANT), "the test has to plant something"
    words = ("segment", image, "--weights", bundle, "--tissue=none", "-o", out, *EVERYTHING)
    compute = segment_job.SegmentJob.runner

    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(segment_job.SegmentJob, "runner", interrupted)
    said = [invoke("--debug", *words)]
    assert said[0].exit_code == 130
    assert not found_in(out, PLANT)
    monkeypatch.setattr(segment_job.SegmentJob, "runner", compute)
    said += [
        invoke("--debug", *words, "--json"),
        invoke("info", image),
        invoke("info", image, "--json"),
        invoke("plan", image, "--weights", bundle),
        invoke("report", out / "s.tif"),
        invoke("refine", image, out / "s.tif", "--method=guided", "-o", out / "again.tif", "--html"),
    ]
    assert [ended.exit_code for ended in said[1:]] == [0] * 6, said
    assert not found_in(out, PLANT)
    assert not [ended.output for ended in said if PLANT in ended.stdout + ended.stderr]


@pytest.fixture
def study(tmp_path: Path, bundle: Path) -> Path:
    """Return an image and what goes with it, in folders and files of a patient's name."""
    folder = tmp_path / f"{PLANT}-study" / "ward"
    write_image(folder / "slide.tif")
    Picture.fromarray(np.zeros((110, 150), np.uint8)).save(folder / f"{PLANT}-truth.png")
    ring = [[0, 0], [150, 0], [150, 110], [0, 110], [0, 0]]
    (folder / f"{PLANT}-roi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    write_colours_bundle(folder / f"{PLANT}-bundle")
    (folder / f"{PLANT}.csv").write_text(f"image,label\nslide.tif,{PLANT}-truth.png\n")
    assert bundle
    return folder


def test_private_leaves_folders_and_other_files_out_of_everything(study: Path) -> None:
    out = study / "out"
    words = ("segment", study / "slide.tif", "-o", out, "--weights", study / f"{PLANT}-bundle")
    roi = ("--roi", study / f"{PLANT}-roi.geojson")
    plain = invoke(*words, *roi, "--json")
    assert PLANT in plain.stdout
    assert found_in(out, PLANT) == ["slide.json"]
    refused = invoke(*words, *roi, "--private")
    assert refused.exit_code == 5
    assert "without --private" in refused.stderr
    ended = [
        invoke(*words, *roi, "--private", "--overwrite", "--json", *EVERYTHING),
        invoke(*words, *roi, "--private", "--json", *EVERYTHING),
        invoke("report", out / "slide.tif", "--image", study / "slide.tif", "--private", "--json"),
        invoke("refine", study / "slide.tif", out / "slide.tif", "--method=guided", "-o", out / "r.tif", "--private"),
        invoke("evaluate", "--data", study / f"{PLANT}.csv", "--weights", study / f"{PLANT}-bundle", "--private",
               "--methods=patch", "-o", out / "scores", "--json"),
    ]  # fmt: skip
    assert [each.exit_code for each in ended] == [0] * 5, [each.stderr for each in ended]
    assert not found_in(out, PLANT)
    assert not [each.output for each in ended if PLANT in each.stdout + each.stderr]
    report = json.loads((out / "slide.json").read_text())
    assert report["input"]["path"] == "slide.tif"
    assert report["areas"][0]["source"] == "FILE.geojson"
    assert {"slide.tif", "FILE.geojson", "-o"} <= set(report["command"])


def test_private_leaves_folders_out_of_failures(study: Path) -> None:
    (study / "bad.tif").write_bytes((study / "slide.tif").read_bytes()[:3000])
    ended = invoke(
        "segment", study / "bad.tif", "--weights", study / f"{PLANT}-bundle", "--private", "-o", study / "o", "--json"
    )
    assert ended.exit_code == 3
    assert "bad.tif" in ended.stderr
    assert PLANT not in ended.stdout + ended.stderr


def test_the_page_of_an_older_mask_can_leave_names_out(study: Path) -> None:
    out = study / "out"
    words = ("segment", study / "slide.tif", "-o", out, "--weights", study / f"{PLANT}-bundle")
    assert invoke(*words, "--roi", study / f"{PLANT}-roi.geojson").exit_code == 0
    assert invoke("report", out / "slide.tif").exit_code == 0
    assert found_in(out, PLANT) == ["slide.html", "slide.json"]
    assert invoke("report", out / "slide.tif", "--private").exit_code == 0
    assert found_in(out, PLANT) == ["slide.json"]


def test_names_are_taken_out_as_whole_paths_alone() -> None:
    names = PrivateNames(["/data/ward 7/slide.svs", "https://host/x/s.tif?sig=1", "m.tif"], ["/data/roi.geojson", "b"])
    assert names.text("/data/ward 7/slide.svs: done (got '/data/ward 7/x.tif')") == "slide.svs: done (got 'x.tif')"
    assert names.text("read https://host/x/s.tif?***, then") == "read s.tif, then"
    assert names.text("roi /data/roi.geojson of m.tif, abc, b-c") == "roi FILE.geojson of m.tif, abc, b-c"
    error = names.error(SourceError("broken /data/roi.geojson", file="/data/ward 7/slide.svs", value=3))
    assert str(error) == "slide.svs: broken FILE.geojson (got 3)"
    assert isinstance(error, SourceError)
