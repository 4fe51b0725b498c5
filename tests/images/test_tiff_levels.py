"""Some pages of a TIFF are levels of its image, and tiles that a level lacks are filled or marked as missing."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import Region, Request, inspect, open_image
from magnet_cli.images.levels import placements

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Array = NDArray[Any]
APERIO = "Aperio Image Library v12.0.15 \r\n"
DEFLATE: dict[str, Any] = {"compression": "deflate", "photometric": "rgb", "metadata": None}


def scan(width: int, height: int, seed: int = 0) -> Array:
    """Return a picture of glass with tissue and nuclei, without symmetry: `(height, width, 3)` uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    tissue = ((x / width - 0.42) / 0.36) ** 2 + ((y / height - 0.55) / 0.38) ** 2 < 1
    tissue |= (x > 0.8 * width) & (x < 0.97 * width) & (y < 0.3 * height)
    nuclei = tissue & (((x + 3 * (y // 40)) % 37 - 18) ** 2 + (y % 40 - 20) ** 2 < 90)
    colours = np.array([(240, 240, 240), (225, 150, 190), (80, 50, 130)], np.int16)
    pixels = colours[tissue.astype(int) + nuclei] + rng.integers(-4, 5, (height, width, 1))
    found: Array = np.clip(pixels, 0, 255).astype(np.uint8)
    return found


def shrunk(array: Array, factor: int) -> Array:
    height, width = array.shape[0] // factor, array.shape[1] // factor
    blocks = array[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    found: Array = np.round(blocks.mean(axis=(1, 3))).astype(array.dtype)
    return found


def padded(array: Array, tile: int, value: int = 255) -> Array:
    height, width = array.shape[:2]
    return np.pad(array, ((0, -height % tile), (0, -width % tile), (0, 0)), constant_values=value)


def reduced(width: int, height: int, level: Array) -> str:
    size = f"{level.shape[1]}x{level.shape[0]}"
    return f"{APERIO}{width}x{height} [0,0 {width}x{height}] (64x64) -> {size}|AppMag = 40|MPP = 0.25"


def pages(path: Path, *written: tuple[Array, dict[str, Any]]) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for array, options in written:
            writer.write(array, **{**DEFLATE, **options})
    return path


def read(path: Path, pitch: Fraction | int = 1, box: Box | None = None) -> Region:
    grid = Pitch.square(pitch)
    with open_image(path) as image:
        return image.read([Request(pitch=grid, box=box or Box.whole(grid.cover(image.info.size)))])[0]


TILED: dict[str, Any] = {"tile": (64, 64)}
STRIPED: dict[str, Any] = {"rowsperstrip": 16}


def macro_like(array: Array, factor: Fraction) -> Array:
    """Return a picture of a glass slide with the proportions of a scan."""
    height, width = int(array.shape[0] / factor), int(array.shape[1] / factor)
    found = np.full((height, width, 3), 225, np.uint8)
    found[:, : width // 4] = 250
    found[height // 3 : height // 2, width // 20 : width // 5 : 6] = 30
    found[height // 3 : height // 2, width * 7 // 10 : width * 8 // 10] = (225, 150, 190)
    return found


@pytest.mark.parametrize("factor", [Fraction(15, 4), Fraction(4), Fraction(2)])
@pytest.mark.parametrize(
    "options",
    [
        {**STRIPED, "subfiletype": 9, "description": f"{APERIO}macro 300x100"},
        {**STRIPED, "subfiletype": 9},
        {**STRIPED, "subfiletype": 1, "description": f"{APERIO}label 300x100"},
        {**STRIPED, "subfiletype": 1},
        {**STRIPED, "description": f"{APERIO}1200x400 -> 320x106 - |AppMag = 40"},
        {**TILED, "subfiletype": 9, "description": f"{APERIO}macro 300x100"},
        {**TILED, "subfiletype": 9},
        {**TILED, "subfiletype": 1},
        TILED,
    ],
)
def test_no_other_picture_of_a_slide_is_a_level(tmp_path: Path, options: dict[str, Any], factor: Fraction) -> None:
    full = scan(1200, 404)
    described = {**TILED, "description": f"{APERIO}1200x404|AppMag = 40|MPP = 0.25"}
    path = pages(tmp_path / "a.svs", (full, described), (macro_like(full, factor), options))
    info = inspect(path)
    assert len(info.levels) == 1
    other = info.contents[1]
    assert other.size == Size(width=int(1200 / factor), height=int(404 / factor))
    noted = [note for note in info.notes if note.startswith("the file holds 2 images and image 0 (1200x404) is read")]
    assert (other.name in ("label", "macro", "thumbnail")) is not bool(noted)


@pytest.mark.parametrize("said", [True, False])
def test_the_reduced_tiled_pages_of_a_slide_are_its_levels(tmp_path: Path, said: bool) -> None:  # noqa: FBT001 (pytest)
    """Levels without the description that a scanner writes are recognised by their content."""
    full = scan(1200, 804)
    levels = [shrunk(full, 4), shrunk(full, 16)]
    texts = [{"description": reduced(1200, 804, level)} if said else {} for level in levels]
    path = pages(
        tmp_path / "a.svs",
        (full, {**TILED, "description": f"{APERIO}1200x804|AppMag = 40|MPP = 0.25"}),
        (shrunk(full, 2), {**STRIPED, "description": reduced(1200, 804, shrunk(full, 2))}),
        *((level, {**TILED, **text}) for level, text in zip(levels, texts, strict=True)),
    )
    info = inspect(path)
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(4), Pitch.square(16)]
    with openslide.OpenSlide(str(path)) as slide:
        assert [(level.size.width, level.size.height) for level in info.levels] == list(slide.level_dimensions)
    np.testing.assert_array_equal(read(path, 4).pixels[:201, :300], levels[0])


def test_a_second_scene_is_no_level(tmp_path: Path) -> None:
    full, other = scan(640, 512), np.full((256, 320, 3), 240, np.uint8)
    other[:, 160:] = (80, 50, 130)
    path = pages(tmp_path / "pages.tif", (full, TILED), (other, TILED))
    info = inspect(path)
    assert len(info.levels) == 1
    assert any("320x256 pixels has the shape of a reduced level and shows something else" in n for n in info.notes)
    np.testing.assert_array_equal(read(path, 2).pixels, shrunk_up(full, 2))
    mirrored = shrunk(full, 2)[:, ::-1]
    assert len(inspect(pages(tmp_path / "m.tif", (full, TILED), (mirrored, TILED))).levels) == 1


def shrunk_up(array: Array, factor: int) -> Array:
    """Return means of squares, with halves rounded up as the reader does."""
    height, width = array.shape[0] // factor, array.shape[1] // factor
    sums = array.reshape(height, factor, width, factor, -1).astype(int).sum(axis=(1, 3))
    means: Array = (2 * sums + factor**2) // (2 * factor**2)
    return means


def nearest(array: Array, factor: int) -> Array:
    return array[factor // 2 :: factor, factor // 2 :: factor]


@pytest.mark.parametrize("reduce", [shrunk, nearest])
@pytest.mark.parametrize("kind", ["scan", "noise", "flat", "uint16"])
def test_what_looks_like_a_level_is_one(tmp_path: Path, kind: str, reduce: Callable[[Array, int], Array]) -> None:
    full = scan(768, 512)
    if kind == "noise":
        full = np.random.default_rng(0).integers(0, 255, full.shape).astype(np.uint8)
    elif kind == "flat":
        full = np.full_like(full, 200)
    elif kind == "uint16":
        full = full.astype(np.uint16) * 11
    written = [(full, TILED), (reduce(full, 2), TILED), (reduce(reduce(full, 2), 2), TILED)]
    info = inspect(pages(tmp_path / "a.tif", *written))
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    other = scan(768, 512, seed=7)[::-1]
    if kind == "noise":
        other = np.random.default_rng(1).integers(0, 255, full.shape).astype(np.uint8)
    other = other.astype(full.dtype) * (11 if kind == "uint16" else 1)
    assert len(inspect(pages(tmp_path / "b.tif", (full, TILED), (reduce(other, 2), TILED))).levels) == 1


def test_a_reduced_page_in_strips_has_to_look_right(tmp_path: Path) -> None:
    full = scan(768, 512)
    flagged = {**STRIPED, "subfiletype": 1}
    assert len(inspect(pages(tmp_path / "a.tif", (full, TILED), (shrunk(full, 2), flagged))).levels) == 2
    assert len(inspect(pages(tmp_path / "b.tif", (full, TILED), (macro_like(full, Fraction(2)), flagged))).levels) == 1


def test_an_overview_of_the_glass_that_is_marked_as_reduced_is_no_level(tmp_path: Path) -> None:
    """The file has no vendor's description, and the overview's factor is no whole number."""
    full, marked = scan(1200, 404), {**TILED, "subfiletype": 1}
    path = pages(tmp_path / "a.tif", (full, TILED), (macro_like(full, Fraction(15, 4)), marked))
    info = inspect(path)
    assert len(info.levels) == 1
    assert any("shows something else" in note for note in info.notes)
    rows, columns = np.arange(107) * 404 // 107, np.arange(320) * 1200 // 320
    assert len(inspect(pages(tmp_path / "b.tif", (full, TILED), (full[rows][:, columns], marked))).levels) == 2


@pytest.mark.parametrize("rows", [3, 8, 40])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_page_that_lacks_a_thin_piece_of_tissue_is_no_level(tmp_path: Path, rows: int, swapped: bool) -> None:  # noqa: FBT001
    """With an empty page as a level, a needle biopsy would vanish. The reverse would invent one."""
    glass = np.full((808, 2400, 3), 240, np.uint8)
    needle = glass.copy()
    needle[401 : 401 + rows, 200:2200] = (225, 150, 190)
    full, other = (glass, needle) if swapped else (needle, glass)
    assert len(inspect(pages(tmp_path / "a.tif", (full, TILED), (shrunk(other, 2), TILED))).levels) == 1
    assert len(inspect(pages(tmp_path / "b.tif", (full, TILED), (shrunk(full, 2), TILED))).levels) == 2
    assert len(inspect(pages(tmp_path / "c.tif", (full, TILED), (nearest(full, 2), TILED))).levels) == 2


@pytest.mark.parametrize(("fill", "stated"), [(0, True), (255, False)])
@pytest.mark.parametrize("size", [(1000, 752), (1000, 300), (520, 1416)])
def test_a_level_padded_to_whole_tiles_has_the_exact_power(
    tmp_path: Path,
    size: tuple[int, int],
    stated: bool,  # noqa: FBT001 (pytest)
    fill: int,
) -> None:
    full, options = scan(*size), {**TILED, "subfiletype": int(stated)}
    levels = [full, *(shrunk(full, factor) for factor in (2, 4, 8))]
    written = [(full, TILED), *((padded(level, 64, fill), options) for level in levels[1:])]
    path = pages(tmp_path / "a.tif", *written)
    info = inspect(path)
    assert [level.downsample for level in info.levels] == [Pitch.square(2**index) for index in range(4)]
    for index, level in enumerate(levels[1:], 1):
        height, width = level.shape[:2]
        box = Box(x=0, y=0, width=width, height=height)
        np.testing.assert_array_equal(read(path, 2**index, box).pixels, level)
        cover = Pitch.square(2**index).cover(info.size)
        edge = read(path, 2**index, Box(x=cover.width - 1, y=0, width=1, height=height)).pixels[:, 0]
        truth = read(pages(tmp_path / "one.tif", (full, TILED)), 2**index).pixels[:height, -1]
        assert np.abs(edge.astype(int) - truth).mean() < 40


def test_powers_of_four_are_kept_by_padded_levels(tmp_path: Path) -> None:
    full = scan(1100, 900)
    options = {**TILED, "subfiletype": 1}
    written = [(padded(shrunk(full, factor), 64), options) for factor in (4, 16)]
    info = inspect(pages(tmp_path / "a.tif", (full, TILED), *written))
    assert [level.downsample for level in info.levels[1:]] == [Pitch.square(4), Pitch.square(16)]


def test_content_tells_a_padded_level_from_one_of_another_step(tmp_path: Path) -> None:
    full = scan(1000, 750)
    width, height = 256, 192
    columns, rows = np.arange(width) * 1000 // width, np.arange(height) * 750 // height
    stretched = full[rows][:, columns]
    info = inspect(pages(tmp_path / "a.tif", (full, TILED), (stretched, {**TILED, "subfiletype": 1})))
    assert info.levels[1].downsample == Pitch.square(Fraction(1000, 256))
    cut = padded(shrunk(full, 4), 64)
    assert cut.shape == stretched.shape
    info = inspect(pages(tmp_path / "b.tif", (full, TILED), (cut, {**TILED, "subfiletype": 1})))
    assert info.levels[1].downsample == Pitch.square(4)


@pytest.mark.parametrize(
    ("stored", "before", "powers"),
    [
        ((512, 384), (), [4]),
        ((256, 192), (4,), [8]),
        ((300, 225), (), [Fraction(20, 3)]),
        ((200, 150), (), [10]),
        ((64, 64), (2, 4, 8, 16), [32, 64]),
        ((1999, 1500), (), [Fraction(2000, 1999)]),
        ((640, 150), (), []),
    ],
)
def test_where_a_page_may_lie(stored: tuple[int, int], before: tuple[int, ...], powers: list[Fraction]) -> None:
    full, tile = Size(width=2000, height=1500), Size(width=64, height=64)
    found = placements(
        full, Size(width=stored[0], height=stored[1]), tile=tile, before=[Pitch.square(step) for step in before]
    )
    assert [level.downsample.x for level in found][: len(powers)] == powers or not powers
    assert bool(found) == bool(powers)


def emptied(path: Path, page: int, tiles: Callable[[int, int, int], bool]) -> Path:
    """Remove the bytes of the tiles that a function of column, row and number of columns selects."""
    with tifffile.TiffFile(path, mode="r+") as file:
        found = file.pages[page].aspage()
        columns = -(-found.imagewidth // found.tilewidth)
        rows = -(-found.imagelength // found.tilelength)
        counts = list(found.databytecounts)
        for index in range(len(counts)):
            if tiles(index % columns, index // columns % rows, columns):
                counts[index] = 0
        found.tags["TileByteCounts"].overwrite(counts)
    return path


def holed(path: Path, *, planar: bool = False) -> tuple[Path, list[Array]]:
    full = scan(1024, 768)
    levels = [full, shrunk(full, 2), shrunk(full, 4)]
    options: dict[str, Any] = {"planarconfig": "separate" if planar else "contig"}
    stored = [np.moveaxis(level, 2, 0) if planar else level for level in levels]
    pages(path, *((array, {**TILED, **options, "subfiletype": min(index, 1)}) for index, array in enumerate(stored)))
    return path, levels


@pytest.mark.parametrize("planar", [False, True])
def test_a_tile_that_a_reduced_level_lacks_is_read_from_the_finer_one(tmp_path: Path, planar: bool) -> None:  # noqa: FBT001
    path, levels = holed(tmp_path / "a.tif", planar=planar)
    emptied(path, 1, lambda column, row, columns: column == columns - 1 or (column, row) == (3, 2))
    emptied(path, 2, lambda column, row, columns: column == columns - 1 or (column, row) == (1, 1))
    for pitch, level in ((2, levels[1]), (4, levels[2])):
        region = read(path, pitch)
        assert region.valid is None
        assert np.abs(region.pixels.astype(int) - level).max() <= 1
        with open_image(path) as image:
            box = Box(x=50, y=40, width=140, height=100)
            (some,) = image.read([Request(pitch=Pitch.square(pitch), box=box, bands=(2, 0))])
        np.testing.assert_array_equal(some.pixels, region.pixels[box.slices][:, :, [2, 0]])


def test_a_hole_of_a_slide_is_filled_as_openslide_does_it(tmp_path: Path) -> None:
    full = scan(1024, 768)
    level = shrunk(full, 4)
    path = pages(
        tmp_path / "a.svs",
        (full, {**TILED, "compression": "jpeg", "description": f"{APERIO}1024x768|AppMag = 40|MPP = 0.25"}),
        (level, {**TILED, "compression": "jpeg", "description": reduced(1024, 768, level)}),
    )
    emptied(path, 1, lambda column, row, columns: column == columns - 1 and row < 2)
    region = read(path, 4)
    with openslide.OpenSlide(str(path)) as slide:
        seen = np.asarray(slide.read_region((0, 0), 1, (256, 192)))
    assert (seen[:, :, 3] == 255).all()
    assert region.valid is None
    assert np.abs(region.pixels.astype(int) - seen[:, :, :3]).mean() < 1.5
    assert np.abs(region.pixels[:, 192:].astype(int) - level[:, 192:]).mean() < 3


def test_a_tile_that_level_0_lacks_is_no_data_in_every_level_without_it(tmp_path: Path) -> None:
    path, levels = holed(tmp_path / "a.tif")
    emptied(path, 0, lambda column, row, _: (column, row) in ((4, 4), (5, 4), (4, 5), (5, 5)))
    emptied(path, 1, lambda column, row, _: (column, row) == (2, 2))
    region = read(path, 2)
    assert region.valid is not None
    expected = np.ones((384, 512), np.bool_)
    expected[128:192, 128:192] = False
    np.testing.assert_array_equal(region.valid, expected)
    assert np.abs(region.pixels.astype(int) - levels[1])[expected].max() <= 1
    quarter = read(path, 4)
    assert quarter.valid is None
    np.testing.assert_array_equal(quarter.pixels, levels[2])


def test_a_mosaic_without_most_of_its_tiles_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = holed(tmp_path / "a.tif")
    for page in range(3):
        emptied(path, page, lambda column, row, _: (column, row) != (0, 0))
    from magnet_cli.images.holes import FilledStore  # noqa: PLC0415 (this test alone needs it)

    filled: list[Box] = []
    finer = FilledStore._finer

    def counted(self: FilledStore, level: int, box: Box, bands: Any) -> Any:
        filled.append(box)
        return finer(self, level, box, bands)

    monkeypatch.setattr(FilledStore, "_finer", counted)
    region = read(path, 4)
    assert region.valid is not None
    assert region.valid[:64, :64].all()
    assert not region.valid[64:].any()
    assert filled == []


def test_the_padding_of_a_level_that_was_rounded_down_is_not_read(tmp_path: Path) -> None:
    """Level 1 has 161 columns for 323, so column 322 has no full pixel there; the padding beside it is white."""
    full = scan(323, 261)
    full[:] = np.where(full > 230, 120, full)
    level = padded(shrunk(full, 2), 64)
    info = inspect(pages(tmp_path / "a.tif", (full, TILED), (level, {**TILED, "subfiletype": 1})))
    assert (info.levels[1].size, info.levels[1].downsample) == (Size(width=161, height=130), Pitch.square(2))
    assert read(tmp_path / "a.tif", 2).pixels.max() < 240


def test_a_level_of_few_pixels_belongs_to_the_image_that_it_follows(tmp_path: Path) -> None:
    """A later image may have the same shape, and the content of so few pixels does not distinguish them."""
    full, other = scan(218, 288), scan(218, 288, seed=5)[::-1]
    written = [(full, TILED), (shrunk(full, 16), {**TILED, "subfiletype": 1}), (shrunk(other, 8), TILED)]
    info = inspect(pages(tmp_path / "a.tif", *written))
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(16)]
    assert len(inspect(pages(tmp_path / "b.tif", (full, TILED), (shrunk(full, 16), TILED))).levels) == 1


def test_pages_of_an_ome_tiff_beyond_the_first_thousands_are_found(tmp_path: Path) -> None:
    """Where channels are the last axis, their pages lie thousands of pages apart."""
    count = 5000
    planes = np.zeros((2, count, 8, 8), np.uint8)
    planes[1] = 9
    metadata = {"axes": "CZYX"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", planes, ome=True, metadata=metadata, photometric="minisblack", tile=(16, 16)
    )
    region = read(tmp_path / "a.ome.tif")
    assert region.pixels.shape[2] == 2
    assert (region.pixels[:, :, 1] == 9).all()


@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength"])
def test_a_page_without_pixels_is_passed_over(tmp_path: Path, tag: str) -> None:
    path = pages(tmp_path / "a.tif", (scan(218, 288), TILED), (scan(64, 64), STRIPED))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[1].aspage().tags[tag].overwrite(0)
    info = inspect(path)
    assert (info.size, info.contents) == (Size(width=218, height=288), ())


def test_each_directory_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the file is whole, what its pages are and which of them are levels is found from the same pages."""
    with tifffile.TiffWriter(tmp_path / "scan.tif") as tiff:
        for factor in (1, 2, 4, 8):
            tiff.write(shrunk(scan(512, 384), factor), tile=(64, 64), subfiletype=int(factor > 1), **DEFLATE)
    parsed: Counter[object] = Counter()
    real = tifffile.TiffPage.__init__

    def noted(page: tifffile.TiffPage, *words: Any, **more: Any) -> None:
        real(page, *words, **more)
        parsed[page.index] += 1

    monkeypatch.setattr(tifffile.TiffPage, "__init__", noted)
    with open_image(tmp_path / "scan.tif") as image:
        assert len(image.info.levels) == 4
    assert parsed == dict.fromkeys(range(4), 1)
