"""Several hundred small random pyramids by different programs are read here and by other readers.

Each level's size, downsample and pixels are compared with what OpenSlide, libvips and tifffile read from the same file.
The seeds are fixed, so that a failure can be repeated: `pytest -m full -k ome-17`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from magnet_cli.geometry import Box
from magnet_cli.images import ImageInfo, Request, open_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.full

Array = NDArray[Any]
COUNTS = {"aperio": 80, "ome": 80, "vips": 120, "pages": 80}
APERIO = "Aperio Image Library v12.0.15 \r\n"
EXACT, JPEG, FILLED = 0.0, 1.0, 4.0
"""Mean difference allowed in 8-bit values: none; between two decoders; for a tile from a level compressed apart."""
SHRINKS = ("mean", "median", "nearest", "max", "min")


@dataclass(kw_only=True)
class Level:
    """A level as another reader returns it."""

    size: tuple[int, int]
    """Width and height."""
    pixels: Array | None = None
    """Samples `(height, width, bands)`."""
    valid: NDArray[np.bool_] | None = None
    downsample: float | None = None


@dataclass(kw_only=True)
class Judged:
    """A file, and the levels that have to be read from it."""

    path: Path
    levels: list[Level]
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = EXACT
    series: int | None = None


def scene(rng: np.random.Generator, width: int, height: int, bands: int = 3) -> Array:
    """Return a picture without symmetry, with edges, texture and large flat parts: `(height, width, bands)` uint8."""
    y, x = np.mgrid[:height, :width]
    shapes = np.zeros((height, width))
    for _ in range(6):
        across, down, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(8, 0.4 * width)
        shapes[(x - across) ** 2 + ((y - down) * rng.uniform(0.7, 1.4)) ** 2 < radius**2] = rng.uniform(30, 230)
    channels = [(shapes * rng.uniform(0.5, 1) + 20 * np.sin(x / rng.uniform(5, 20))) % 256 for _ in range(bands)]
    found: Array = np.clip(np.stack(channels, 2) + rng.normal(0, 3, (height, width, bands)), 0, 255).astype(np.uint8)
    return found


def shrunk(array: Array, factor: int) -> Array:
    height, width = max(1, array.shape[0] // factor), max(1, array.shape[1] // factor)
    cut = array[: height * factor, : width * factor]
    blocks = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width, -1)
    found: Array = np.round(blocks.mean(axis=(1, 3))).astype(array.dtype)
    return found


def drawn(rng: np.random.Generator, choices: list[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def size_of(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(150, 700)), int(rng.integers(120, 600))


def emptied(path: Path, page: int, share: float, rng: np.random.Generator) -> None:
    """Remove the bytes of some tiles of a page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        found = file.pages[page].aspage()
        lost = rng.random(len(found.databytecounts)) < share
        counts = [0 if gone else count for gone, count in zip(lost, found.databytecounts, strict=True)]
        found.tags["TileByteCounts"].overwrite(counts)


def by_openslide(path: Path) -> list[Level]:
    levels = []
    with openslide.OpenSlide(str(path)) as slide:
        for index, (size, downsample) in enumerate(zip(slide.level_dimensions, slide.level_downsamples, strict=True)):
            pixels = np.asarray(slide.read_region((0, 0), index, size))
            levels.append(
                Level(size=size, pixels=pixels[:, :, :3], valid=pixels[:, :, 3] > 0, downsample=float(downsample))
            )
    return levels


def by_vips(path: Path, count: int, *, subifd: bool) -> list[Level]:
    """Return the levels that libvips reads: the pages of a file, or one page and its SubIFDs."""
    levels = []
    for index in range(count):
        where: dict[str, int] = ({"subifd": index - 1} if subifd else {"page": index}) if index else {}
        image = pyvips.Image.new_from_file(str(path), **where)
        pixels = image.numpy().reshape(image.height, image.width, image.bands)
        levels.append(Level(size=(image.width, image.height), pixels=pixels))
    return levels


# Aperio slides: OpenSlide is the judge.


def aperio_codec(rng: np.random.Generator, *, holes: bool) -> tuple[str | int, dict[str, Any]]:
    codec = drawn(rng, ["jpeg", "jpeg", "jpeg", 33003, 33005, "lzw"])
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": codec}
    if codec == "jpeg" and holes:
        # What the finer level shows is compared with what the tile held, so both have to be near to what was there.
        return codec, {**options, "compressionargs": {"level": 95}, "subsampling": (1, 1)}
    if codec == "jpeg":
        options["compressionargs"] = {"level": int(rng.integers(60, 96))}
        stored = {"photometric": "ycbcr", "subsampling": drawn(rng, [(1, 1), (2, 1), (2, 2)])}
        options |= drawn(rng, [{}, stored])
    elif codec != "lzw":
        options["compressionargs"] = {"level": 0, "mct": False}
    return codec, options


def as_ycbcr(array: Array) -> Array:
    """Convert colours as Aperio's compression 33003 stores them."""
    with PillowImage.fromarray(array) as image:
        return np.asarray(image.convert("YCbCr"))


def aperio(folder: Path, rng: np.random.Generator) -> Judged:
    width, height = size_of(rng)
    full, side = scene(rng, width, height), drawn(rng, [(64, 64), (128, 128), (240, 240), (256, 256)])
    factors = drawn(rng, [(), (2,), (4,), (2, 4), (4, 16), (2, 4, 8)])
    holes = bool(rng.random() < 0.4)
    codec, options = aperio_codec(rng, holes=holes)
    comma = drawn(rng, ["0.2500", "0,2500"])
    tail = f"|AppMag = 40|User = Jos\u00e9|MPP = {comma}|Left = 2"
    extras = drawn(rng, [(), ("thumbnail",), ("thumbnail", "label", "macro"), ("label", "macro"), ("macro",)])
    path = folder / "slide.svs"
    with tifffile.TiffWriter(path, bigtiff=bool(rng.random() < 0.3)) as writer:
        stored = as_ycbcr if codec == 33003 else np.asarray
        writer.write(
            stored(full), tile=side, description=f"{APERIO}{width}x{height}{tail}".encode("latin-1"), **options
        )
        plain: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": "lzw", "rowsperstrip": 16}
        if "thumbnail" in extras:
            small = shrunk(full, 3)
            text = f"{APERIO}{width}x{height} -> {small.shape[1]}x{small.shape[0]} - {tail}"
            writer.write(small, description=text.encode("latin-1"), **plain)
        for factor in factors:
            level = shrunk(full, factor)
            text = f"{APERIO}{width}x{height} -> {level.shape[1]}x{level.shape[0]} {tail}"
            writer.write(stored(level), tile=side, description=text.encode("latin-1"), **options)
        for name, flag in (("label", 1), ("macro", 9)):
            if name in extras:
                # As high and wide as a level would be, and something else.
                other = shrunk(scene(rng, width, height), drawn(rng, [2, 3, 4]))
                writer.write(other, subfiletype=flag, description=f"{APERIO}{name} 1x1".encode(), **plain)
    levels = by_openslide(path)
    if holes:
        first = 1 + ("thumbnail" in extras)
        for index in range(len(factors)):
            emptied(path, first + index, 0.3, rng)
        # OpenSlide fills a hole by interpolation between few pixels, which is no mean: what it shows there is another
        # thing than what the tile held, and this program is nearer to that.
        for whole, holed in zip(levels, by_openslide(path), strict=True):
            whole.valid = holed.valid
    tolerance = EXACT if codec == "lzw" else JPEG
    said = {"codec": codec, "factors": factors, "extras": extras, "holes": holes, **options}
    return Judged(
        path=path,
        levels=levels,
        options=said,
        tolerance=FILLED if holes else tolerance,
        series=0 if extras else None,
    )


# OME-TIFF with SubIFDs: tifffile is the judge, and libvips where it reads the pages.


def ome(folder: Path, rng: np.random.Generator) -> Judged:
    width, height = size_of(rng)
    kind = drawn(rng, ["rgb", "rgb", "channels", "grey", "planar"])
    bands = {"rgb": 3, "grey": 1, "planar": 3}.get(kind, int(rng.integers(2, 5)))
    dtype = drawn(rng, ["uint8", "uint8", "uint16"])
    codec = drawn(rng, [None, "lzw", "deflate", "zstd", "jpeg", "webp", "jpeg2000", "packbits"])
    if codec == "webp" and (kind != "rgb" or dtype != "uint8"):
        codec = "deflate"
    if codec == "jpeg" and dtype != "uint8":
        codec = "lzw"
    images = []
    for _ in range(drawn(rng, [1, 1, 2, 3])):
        images.append(scene(rng, width, height, bands).astype(dtype) * (257 if dtype == "uint16" else 1))
        width, height = max(90, width * 2 // 3), max(80, height * 2 // 3)
    order = rng.permutation(len(images))
    depth = int(rng.integers(0, 4))
    tile = drawn(rng, [(64, 64), (128, 64), (256, 256), (32, 48)])
    options: dict[str, Any] = {"tile": tile, "compression": codec}
    if codec in ("lzw", "deflate", "zstd") and rng.random() < 0.5:
        options["predictor"] = True
    options |= {"photometric": "rgb" if kind in ("rgb", "planar") else "minisblack"}
    options |= {"planarconfig": "separate"} if kind == "planar" else {}
    axes = {"rgb": "YXS", "channels": "CYX", "grey": "YX", "planar": "SYX"}[kind]
    path = folder / "image.ome.tif"
    with tifffile.TiffWriter(
        path, ome=True, byteorder=drawn(rng, ["<", ">"]), bigtiff=bool(rng.random() < 0.5)
    ) as file:
        for number in order:
            for level in range(depth + 1):
                array = images[number] if level == 0 else shrunk(images[number], 2**level)
                stored = array[:, :, 0] if kind == "grey" else np.moveaxis(array, 2, 0) if axes[-1] == "X" else array
                more: dict[str, Any] = {"subfiletype": 1} if level else {"subifds": depth}
                more |= {} if level else {"metadata": {"axes": axes, "Name": f"image {number}", "PhysicalSizeX": 0.5}}
                file.write(stored, **options, **more)
    chosen = int(np.flatnonzero(order == 0)[0])
    levels = []
    with tifffile.TiffFile(path) as file:
        for part in file.series[chosen].levels:
            pixels = part.asarray()
            pixels = pixels[:, :, None] if kind == "grey" else np.moveaxis(pixels, 0, 2) if axes[-1] == "X" else pixels
            levels.append(Level(size=(pixels.shape[1], pixels.shape[0]), pixels=pixels))
    # The libvips of the wheel has neither codec, and shows black.
    if kind == "rgb" and chosen == 0 and codec not in ("jpeg2000", "zstd"):
        for ours, seen in zip(levels, by_vips(path, depth + 1, subifd=True), strict=True):
            assert seen.pixels is not None
            assert seen.size == ours.size
            assert ours.pixels is not None
            assert np.abs(seen.pixels.astype(float) - ours.pixels).mean() <= JPEG * (257 if dtype == "uint16" else 1)
    said = {"kind": kind, "dtype": dtype, "codec": codec, "depth": depth, "images": len(images), **options}
    return Judged(path=path, levels=levels, options=said, series=chosen if len(images) > 1 else None)


# Pyramids by libvips, which is the judge; and OpenSlide where it takes the file for a slide.


def vips(folder: Path, rng: np.random.Generator) -> Judged:
    width, height = size_of(rng)
    bands = drawn(rng, [3, 3, 3, 4, 1])
    codec = drawn(rng, ["none", "jpeg", "deflate", "lzw", "webp", "packbits"])
    deep = codec in ("none", "deflate", "lzw") and rng.random() < 0.3
    pixels = scene(rng, width, height, bands)
    if bands == 4:
        pixels[:, :, 3] = 255
        pixels[: height // 3, : width // 2, 3] = 0
    if codec in ("webp", "jpeg") and bands == 4:
        codec = "deflate"
    if codec == "webp" and bands == 1:
        codec = "lzw"
    made = pyvips.Image.new_from_array(pixels)
    made = made.copy(interpretation="srgb" if bands >= 3 else "b-w")
    if deep:
        made = (made.cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16" if bands >= 3 else "grey16")
    pyramid = bool(rng.random() < 0.85)
    options: dict[str, Any] = {
        "compression": codec,
        "pyramid": pyramid,
        "tile": True,
        "tile_width": int(drawn(rng, [64, 128, 256, 48])),
        "tile_height": int(drawn(rng, [64, 128, 256])),
        "bigtiff": bool(rng.random() < 0.4),
        "subifd": pyramid and bool(rng.random() < 0.4),
        "region_shrink": drawn(rng, list(SHRINKS)),
        "depth": drawn(rng, ["onetile", "onepixel", "one"]) if pyramid else "onetile",
    }
    options |= {"Q": int(rng.integers(50, 96))} if codec in ("jpeg", "webp") else {}
    options |= {"lossless": bool(rng.random() < 0.5)} if codec == "webp" else {}
    if codec in ("deflate", "lzw") and rng.random() < 0.5:
        options["predictor"] = "horizontal"
    path = folder / "image.tif"
    made.tiffsave(str(path), **options)
    with tifffile.TiffFile(path) as file:
        first = file.pages.first
        count = 1 + len(first.pages or ()) if options["subifd"] else len(file.pages)
    levels = by_vips(path, count, subifd=options["subifd"])
    if openslide.OpenSlide.detect_format(str(path)) == "generic-tiff" and bands == 3 and not deep:
        # OpenSlide does not look into SubIFDs, and refuses WebP.
        for ours, seen in zip(levels, [] if codec == "webp" else by_openslide(path), strict=False):
            assert ours.size == seen.size
            assert np.abs(np.asarray(ours.pixels, float) - np.asarray(seen.pixels)).mean() <= JPEG
            ours.downsample = seen.downsample
    if bands == 4:
        for level in levels:
            assert level.pixels is not None
            level.valid, level.pixels = level.pixels[:, :, 3] > 0, level.pixels[:, :, :3]
    return Judged(path=path, levels=levels, options=options, tolerance=JPEG if codec in ("jpeg", "webp") else EXACT)


# Plain pages: reduced pages marked or not, padded or not, and other pictures beside them.


def pages(folder: Path, rng: np.random.Generator) -> Judged:
    width, height = size_of(rng)
    full, tile = scene(rng, width, height), int(drawn(rng, [32, 64, 128]))
    marked, padded = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    factors = drawn(rng, [(2, 4), (2, 4, 8), (4,), (4, 16), (2,), (3, 9), (5,)])
    if not marked or padded:
        # Of levels that the file does not call so, smaller ones are left out: too little of them can be compared.
        factors = drawn(rng, [(2, 4), (2, 4, 8) if min(width, height) >= 200 else (2,), (4,), (2,)])
    codec = drawn(rng, [None, "deflate", "lzw", "zstd", "jpeg"])
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": codec}
    arrays = [full, *(shrunk(full, factor) for factor in factors)]
    others = drawn(rng, [(), ("scene",), ("strips",), ("scene", "strips")])
    path = folder / "image.tif"
    with tifffile.TiffWriter(path, byteorder=drawn(rng, ["<", ">"])) as writer:
        for index, array in enumerate(arrays):
            stored = array
            if padded and index:
                edges = ((0, -array.shape[0] % tile), (0, -array.shape[1] % tile), (0, 0))
                stored = np.pad(array, edges, constant_values=int(drawn(rng, [0, 255])))
            writer.write(stored, tile=(tile, tile), subfiletype=int(marked and index > 0), **options)
        other = scene(rng, width, height)[::-1]
        if "scene" in others:
            writer.write(shrunk(other, 2 ** len(factors) * 2), tile=(tile, tile), **options)
        if "strips" in others:
            writer.write(shrunk(other, 3), rowsperstrip=16, **options)
    levels = []
    with tifffile.TiffFile(path) as file:
        for index, array in enumerate(arrays):
            factor = 1 if index == 0 else factors[index - 1]
            stored = file.pages[index].asarray()
            # A side that padding made as long as rounding up would have is taken whole.
            sides = ((width, stored.shape[1], array.shape[1]), (height, stored.shape[0], array.shape[0]))
            right, bottom = (long if long == -(-whole // factor) else true for whole, long, true in sides)
            stored = stored[:bottom, :right]
            levels.append(Level(size=(right, bottom), pixels=stored, downsample=float(factor)))
    said = {"marked": marked, "padded": padded, "factors": factors, "others": others, "tile": tile, **options}
    series = 0 if others or (not marked and len(arrays) > 1) else None
    return Judged(path=path, levels=levels, options={**said, "size": (width, height)}, series=series)


KINDS: dict[str, Callable[[Path, np.random.Generator], Judged]] = {
    "aperio": aperio,
    "ome": ome,
    "vips": vips,
    "pages": pages,
}


@pytest.mark.filterwarnings("ignore:.*invalid ASCII.*")
@pytest.mark.parametrize(
    ("kind", "seed"),
    [pytest.param(kind, seed, id=f"{kind}-{seed}") for kind, count in COUNTS.items() for seed in range(count)],
)
def test_every_level_is_what_other_readers_see(tmp_path: Path, kind: str, seed: int) -> None:
    judged = KINDS[kind](tmp_path, np.random.default_rng([list(KINDS).index(kind), seed]))
    with open_image(judged.path) as image:
        info, problems = image.info, []
        if len(info.levels) != len(judged.levels):
            problems.append(f"{len(info.levels)} levels, not {[level.size for level in judged.levels]}")
        for index, (ours, level) in enumerate(zip(info.levels, judged.levels, strict=False)):
            problems += [f"level {index}: {problem}" for problem in placed_wrongly(info, index, level)]
            (region,) = image.read([Request(pitch=ours.downsample, box=Box.whole(ours.size))])
            problems += [f"level {index}: {text}" for text in differing(region.pixels, region.valid, level, judged)]
    if info.series != judged.series:
        problems.append(f"series {info.series}, not {judged.series}")
    assert not problems, f"{judged.options}: {problems}; {info.notes}"


def placed_wrongly(info: ImageInfo, index: int, level: Level) -> list[str]:
    found = info.levels[index]
    problems = []
    if (found.size.width, found.size.height) != level.size:
        problems.append(f"{found.size} pixels, not {level.size}")
    for step, full, stored in (
        (found.downsample.x, info.size.width, level.size[0]),
        (found.downsample.y, info.size.height, level.size[1]),
    ):
        # A level of n pixels reaches to the image's edge, up to one of its pixels.
        if abs(float(step) * stored - full) >= float(step):
            problems.append(f"downsample {float(step):g}, and {stored} pixels for {full}")
    # OpenSlide takes the mean of both axes' ratios, each of which is off by the rounding of a pixel.
    stated = float(found.downsample.x) if level.downsample is None else level.downsample
    if abs(float(found.downsample.x) - stated) * min(level.size) > 1.01 * stated:
        problems.append(f"downsample {float(found.downsample.x):g}, not {stated:g}")
    return problems


def differing(pixels: Array, valid: NDArray[np.bool_] | None, level: Level, judged: Judged) -> list[str]:
    assert level.pixels is not None
    if pixels.shape != level.pixels.shape:
        return [f"shape {pixels.shape}, not {level.pixels.shape}"]
    problems, everywhere = [], np.ones(pixels.shape[:2], np.bool_)
    one, other = (everywhere if each is None else each for each in (valid, level.valid))
    if (one != other).any():
        problems.append(f"valid differs in {(one != other).sum()} pixels")
    both = one & other
    difference = np.abs(pixels.astype(float) - level.pixels)[both].mean() if both.any() else 0.0
    if difference > judged.tolerance:
        problems.append(f"pixels differ by {difference:.3f}, not at most {judged.tolerance}")
    return problems
