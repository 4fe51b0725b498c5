"""Images are found, their outputs get names, and a change of an image is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images import find_images, fingerprint, stem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.tif",
        "a.PNG",
        "sub/c.ome.tif",
        "sub/deep/d.svs",
        "a.mask.tif",
        "a.mask.json",
        "x.journal",
        ".hidden.tif",
        "n.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    zarr.create_array(tmp_path / "z.zarr", shape=(4, 4), dtype="uint8", zarr_format=2)
    return tmp_path


def names(inputs: list[Path | str]) -> list[str]:
    return [image.place.as_posix() for image in find_images([str(text) for text in inputs])]


def test_a_folder_gives_its_images_with_subfolders(folder: Path) -> None:
    assert names([folder]) == ["a.PNG", "b.tif", "sub/c.ome.tif", "sub/deep/d.svs", "z.zarr"]


def test_patterns_and_files(folder: Path) -> None:
    assert names([f"{folder}/*.tif"]) == ["b.tif"]
    assert names([f"{folder}/**/*.svs"]) == ["sub/deep/d.svs"]
    assert names([folder / "b.tif", f"{folder}/*.tif"]) == ["b.tif"]
    assert names([folder / "z.zarr"]) == ["z.zarr"]
    assert names([folder / "n.txt"]) == ["n.txt"]


def dicom(path: Path, series: str, size: int) -> None:
    value = series.encode() + b"\0" * (len(series) % 2)
    tag = b"\x20\x00\x0e\x00UI" + len(value).to_bytes(2, "little") + value
    path.write_bytes(bytes(128) + b"DICM" + tag + bytes(size))


def test_a_dicom_slide_is_one_image(tmp_path: Path) -> None:
    for name, series, size in (("a0.dcm", "1.2.3", 900), ("a1.dcm", "1.2.3", 5000), ("b.dcm", "1.2.31", 10)):
        dicom(tmp_path / name, series, size)
    (tmp_path / "c.dcm").write_bytes(b"no DICOM")
    (tmp_path / "d.dcm").write_bytes(b"no DICOM either")
    assert names([tmp_path]) == names([f"{tmp_path}/*.dcm"]) == ["a1.dcm", "b.dcm", "c.dcm", "d.dcm"]
    assert names([tmp_path / "a0.dcm", tmp_path / "a1.dcm"]) == ["a0.dcm", "a1.dcm"]


def test_nothing_found_is_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="no image"):
        find_images([str(folder / "empty")])
    with pytest.raises(UsageError, match="no image"):
        find_images([f"{folder}/*.jpg"])
    with pytest.raises(SourceError, match="no such file"):
        find_images([str(folder / "gone.tif")])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b/slide.svs", "slide"),
        ("x.ome.tif", "x"),
        ("x.OME.TIFF", "x"),
        ("v1.2.tif", "v1.2"),
        ("y.zarr.zip", "y"),
        ("y.ome.zarr", "y"),
        ("noext", "noext"),
        ("data.v2", "data.v2"),
        (".tif", ".tif"),
    ],
)
def test_the_stem_lacks_one_known_suffix(name: str, expected: str) -> None:
    assert stem(name) == expected


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(b"abc")
    first = fingerprint(path)
    path.rename(tmp_path / "other.bin")
    assert fingerprint(tmp_path / "other.bin") == first
    (tmp_path / "other.bin").write_bytes(b"abd")
    assert fingerprint(tmp_path / "other.bin") != first
    with pytest.raises(SourceError):
        fingerprint(path)


@pytest.mark.parametrize("place", [100, -100])
def test_a_large_file_is_sampled_at_both_ends(tmp_path: Path, place: int) -> None:
    path = tmp_path / "large.bin"
    data = bytearray(np.random.default_rng(0).bytes(17 << 20))
    path.write_bytes(bytes(data))
    first = fingerprint(path)
    os.utime(path, (0, 0))
    assert fingerprint(path) == first
    data[place] ^= 1
    path.write_bytes(bytes(data))
    assert fingerprint(path) != first


def test_a_zarr_folder_has_a_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "z.zarr"
    array = zarr.create_array(path, shape=(64, 64), chunks=(8, 8), dtype="uint8", zarr_format=2)
    array[:] = 1
    first = fingerprint(path)
    path.rename(tmp_path / "renamed.zarr")
    assert fingerprint(tmp_path / "renamed.zarr") == first
    (tmp_path / "renamed.zarr").rename(path)
    array[:8, :8] = 2
    assert fingerprint(path) != first


def test_a_mask_alone_needs_no_library_of_what_may_follow_it() -> None:
    """Scripts start the program once for each small image, so that each import counts."""
    later = ("matplotlib", "zarr", "scipy.ndimage", "skimage", "shapely", "jinja2", "pyvips", "openslide")
    code = f"import sys, magnet_cli.segmentation.api; print([name for name in {later} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_refinement_needs_zarr_for_kept_probabilities_alone() -> None:
    """The GPU check refines on a machine without zarr."""
    code = "import sys, magnet_cli.refinement.api, magnet_cli.refinement.planner; print('zarr' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_importing_the_package_imports_no_reader() -> None:
    readers = ("tifffile", "zarr", "pyvips", "openslide", "imagecodecs", "torch")
    code = f"import sys, magnet_cli.images; print([name for name in {readers} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_of_the_pieces_of_a_multi_file_ome_tiff_one_is_taken(tmp_path: Path) -> None:
    names = [f"scan_{index}.ome.tif" for index in range(3)]
    planes = "".join(
        f'<TiffData IFD="0" FirstC="{index}" PlaneCount="1"><UUID FileName="{name}">u{index}</UUID></TiffData>'
        for index, name in enumerate(names)
    )
    for index, name in enumerate(names):
        text = (
            f'<OME xmlns="x" UUID="u{index}"><Image><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="8" '
            f'SizeC="3" SizeZ="1" SizeT="1">{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / name, np.full((8, 8), index, np.uint8), description=text, metadata=None)
    tifffile.imwrite(tmp_path / "z.ome.tif", np.zeros((8, 8), np.uint8))
    found = find_images([str(tmp_path)])
    assert [image.place.name for image in found] == ["scan_0.ome.tif", "z.ome.tif"]
    before = fingerprint(tmp_path / names[0])
    (tmp_path / names[2]).write_bytes((tmp_path / names[2]).read_bytes() + b"\0")
    assert fingerprint(tmp_path / names[0]) != before
