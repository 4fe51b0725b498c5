from __future__ import annotations

import json
import tracemalloc
import warnings
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from magnet_cli.geometry import Box, Size
from magnet_cli.images.protocol import Resolution
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.overview import HalvedTiles, halve, halved, level_sizes
from magnet_cli.masks.spec import GroupId, MaskClass, MaskSpec, parts
from magnet_cli.masks.tiff_writer import assemble_mask
from magnet_cli.system.working_files import working_file
from tests.files import pages_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

SIZES = [(1, 1), (511, 511), (512, 512), (513, 513), (1500, 700), (3, 1100)]


def assemble(made: Any, folder: Path, name: str = "m.tif") -> Path:
    with made.run(folder / f"{name}.journal") as journal:
        assemble_into(journal, folder / name, software="magnet")
    return folder / name


def assemble_into(journal: Journal, path: Path, **description: object) -> None:
    with working_file(path) as file:
        assemble_mask(journal, file, folder=path.parent, description=description)


def commonest(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute an overview by counting, pixel by pixel."""
    height, width = ((side + 1) // 2 for side in labels.shape)
    out = np.empty((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            votes = Counter(int(v) for v in labels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel() if v != 255)
            out[y, x] = min(votes, key=lambda label: (-votes[label], label)) if votes else 255
    return out


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_tifffile_reads_labels_and_overviews(
    tmp_path: Path, work: Callable[..., Any], width: int, height: int, compression: str
) -> None:
    made = work(width, height, tile=512, block=600, compression=compression)
    with tifffile.TiffFile(assemble(made, tmp_path)) as tiff:
        sizes = level_sizes(Size(width=width, height=height), tile=512)
        assert [(page.imagewidth, page.imagelength) for page in pages_of(tiff)] == [(s.width, s.height) for s in sizes]
        labels = made.labels
        for level, page in enumerate(pages_of(tiff)):
            assert np.array_equal(page.asarray(), labels)
            assert page.is_reduced == bool(level)
            labels = commonest(labels)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_rasterio_reads_labels_palette_nodata_names_and_overviews(
    tmp_path: Path, work: Callable[..., Any], width: int, height: int
) -> None:
    rasterio = pytest.importorskip("rasterio")
    made = work(width, height, tile=512, block=600)
    path = assemble(made, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            assert np.array_equal(file.read(1), made.labels)
            assert file.nodata == 255
            assert file.colormap(1)[1] == (255, 255, 0, 255)
            assert file.tags(1)["CLASS_1"] == "Gebäude & Höfe"
            levels = len(level_sizes(made.header.spec.size, tile=512))
            assert len(file.overviews(1)) == levels - 1


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_openslide_sees_levels_colours_and_pixel_size(
    tmp_path: Path, work: Callable[..., Any], width: int, height: int
) -> None:
    made = work(width, height, tile=512, block=600)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for label, entry in enumerate(made.header.spec.classes):
        palette[label] = list(entry.rgb)
    with openslide.OpenSlide(str(assemble(made, tmp_path))) as slide:
        sizes = level_sizes(Size(width=width, height=height), tile=512)
        assert slide.level_dimensions == tuple((s.width, s.height) for s in sizes)
        seen = np.asarray(slide.read_region((0, 0), 0, (width, height)))[:, :, :3]
        assert np.array_equal(seen, palette[made.labels])
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert float(slide.properties["openslide.mpp-y"]) == 0.5


def test_equal_work_gives_equal_bytes_however_it_was_cut_up(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(333, 257)
    whole = assemble(made, tmp_path, "whole.tif").read_bytes()
    path = tmp_path / "halting.tif.journal"
    while True:
        journal = made.run(path, stop_after=3)
        done = len(journal.finished(1)) == len(made.groups())
        journal.close()
        if done:
            break
    assert assemble(made, tmp_path, "halting.tif").read_bytes() == whole
    assert assemble(replace(made, block=64), tmp_path, "tiles.tif").read_bytes() == whole
    assert assemble(replace(made, block=1000), tmp_path, "once.tif").read_bytes() == whole


def test_description_resolution_and_copied_tags(tmp_path: Path, work: Callable[..., Any]) -> None:
    made = work(200, 100)
    scale = (33550, 12, 3, (0.5, 0.5, 0.0))
    tie = (33922, 12, 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0))
    keys = (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633))
    tags = (scale, tie, keys, (42113, 2, 2, "7"))
    made = replace(made, header=replace(made.header, spec=replace(made.header.spec, geo_tags=tags)))
    path = assemble(made, tmp_path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        assert [page.tags[code].value for code in (33550, 33922, 34735)] == [scale[3], tie[3], keys[3]]
        assert page.tags[42113].value == "255"
        assert page.tags["XResolution"].value == (40_000, 1)
        assert pages_of(tiff)[1].tags["YResolution"].value == (10_000, 1)
        description = json.loads(page.description)
        assert description["classes"][2] == {"name": "water", "color": "#0000ff"}
        assert description["software"] == "magnet"
        assert not {305, 306} & set(page.tags.keys()), "program and date would differ between equal runs"
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 32633
        assert file.transform.a == 0.5
        assert file.nodata == 255


@pytest.mark.parametrize("side", [Fraction(1, 10**7), Fraction(10**16)])
def test_a_size_of_a_pixel_that_a_tiff_cannot_say_is_left_out(
    tmp_path: Path, work: Callable[..., Any], side: Fraction
) -> None:
    """Who gives metres in place of micrometres learns of it before an hour of work is lost."""
    made = work(200, 100)
    pixel = Resolution(x=Fraction(1, 2), y=side, unit="um")
    made = replace(made, header=replace(made.header, spec=replace(made.header.spec, resolution=pixel)))
    with tifffile.TiffFile(assemble(made, tmp_path)) as tiff:
        assert tiff.pages.first.tags.valueof(296) == tifffile.RESUNIT.NONE


labels_of = st.integers(1, 6).flatmap(
    lambda half: arrays(np.uint8, (2 * half, 2 * half), elements=st.sampled_from([0, 1, 2, 255]))
)


@given(labels=labels_of)
def test_halving_takes_the_commonest_and_invents_no_class(labels: NDArray[np.uint8]) -> None:
    half = halve(labels)
    assert np.array_equal(half, commonest(labels))
    assert set(np.unique(half)) <= set(np.unique(labels))


def test_the_spool_joins_what_lies_below(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (96, 64)).astype(np.uint8)
    with HalvedTiles(tmp_path, size=Size(width=64, height=96), tile=32) as spool:
        for row in range(3):
            for col in range(2):
                spool.put(row, col, halved(labels[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32]))
        assert np.array_equal(spool.joined(0, 0), halve(labels)[:32])
        assert np.array_equal(spool.joined(1, 0)[:16], halve(labels)[32:])
        assert (spool.joined(1, 0)[16:] == 255).all()
    assert list(tmp_path.iterdir()) == []


def test_memory_of_assembly_does_not_grow_with_the_image(tmp_path: Path) -> None:
    peaks = {}
    for side in (512, 4096):
        size = Size(width=side, height=side)
        spec = MaskSpec(size=size, classes=(MaskClass(name="a", color="#102030"),), tile=64)
        path = tmp_path / f"{side}.journal"
        with Journal.open(path, header=JournalHeader(hashes={}, spec=spec)) as journal:
            for index, share in enumerate(parts(Box.whole(size), 500)):
                group = GroupId(pass_index=0, index=index)
                labels = np.zeros((share.box.height, share.box.width), dtype=np.uint8)
                journal.put_labels(group, box=share.box, labels=labels)
                journal.finish_group(group, counts={})
            tracemalloc.start()
            try:
                assemble_into(journal, tmp_path / f"{side}.tif")
                peaks[side] = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    tiles = (4096 // 64) ** 2 - (512 // 64) ** 2
    assert peaks[4096] - peaks[512] < 300 * tiles, "about the offsets and lengths that a TIFF directory holds"
