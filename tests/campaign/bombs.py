"""Crafted files: small ones that ask for much."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import tifffile
import torch

from tests.campaign.child import fork, typed
from tests.campaign.mutants import EXCESS, HANG
from tests.campaign.specimens import segment_words, with_bundle, with_mask, with_polygons
from tests.campaign.verdict import Verdict
from tests.train.support import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLOW: Final = 3.0
"""Times `HANG` that a bomb may take to end: the time of a new process on a busy machine is in it."""
GIB: Final = 1 << 30
GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
"""The window bits for which zlib writes the header of gzip."""


@dataclass(frozen=True, kw_only=True)
class Bomb:
    """A crafted file, and the command that meets it."""

    name: str
    make: Callable[[Path], object]
    """Write it into a folder that has an image `s.tif` and a bundle `colours`."""
    words: Callable[[Path], tuple[str | Path, ...]]
    codes: tuple[int, ...]
    """The exit codes that name the failure."""


def names() -> list[str]:
    """Return the cases of all bombs."""
    return [f"bombs/{bomb.name}/0" for bomb in BOMBS]


def detonate(case: str, folder: Path, *, hang: float = HANG) -> Verdict:
    """Let the program meet a bomb in a folder `bomb` below `folder`; it may take `SLOW` times `hang` seconds."""
    bomb = next(each for each in BOMBS if each.name == case.split("/")[1])
    place = folder / "bomb"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()

    def prepare() -> int:
        with_bundle(place)
        bomb.make(place)
        return 0

    made = fork(prepare, folder=place, limit=300)
    if made.status:
        raise RuntimeError(f"{bomb.name} could not be made: {made.errors}")
    idle = fork(lambda: typed(["--version"]), folder=place, limit=60)
    end = fork(lambda: typed([str(word) for word in bomb.words(place)]), folder=place, limit=SLOW * hang)
    faults = []
    if end.status is None:
        faults.append(f"it did not end within {SLOW * hang:.0f} s")
    elif end.status not in bomb.codes:
        faults.append(f"it ended with {end.status}")
    if end.traceback:
        faults.append("it printed a traceback")
    if end.status and "magnet: " not in end.errors:
        faults.append("no line says what happened")
    if end.peak - idle.peak > EXCESS:
        faults.append(f"it took {(end.peak - idle.peak) >> 20} MiB of memory")
    return Verdict(case=case, outcomes=(f"exit {end.status}",), faults=tuple(faults), evidence=end.errors[-3000:])


def info(name: str) -> Callable[[Path], tuple[str | Path, ...]]:
    """Return the words that show an image."""
    return lambda folder: ("info", folder / name)


def segment(name: str) -> Callable[[Path], tuple[str | Path, ...]]:
    """Return the words that segment an image."""
    return lambda folder: ("segment", folder / name, *segment_words(folder)[2:])


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"\0") -> bytes:
    """Return a PNG of RGB pixels that declares a size, whatever its rows hold."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def inflating(total: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Return a deflate stream that inflates to `total` zero bytes: of zlib, or of another container by `wbits`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(total >> 20)) + packer.flush()


def bytecode(path: Path, tile: bytes, *, side: int = 256, declared: tuple[int, int] = (256, 256)) -> None:
    """Write a deflate TIFF of one tile that holds given bytes."""
    with tifffile.TiffWriter(path) as writer:
        options = {"tile": (side, side), "compression": "deflate", "photometric": "rgb", "metadata": None}
        writer.write(np.zeros((*declared, 3), np.uint8), **options)  # type: ignore[arg-type]
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        offsets, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
    struct.pack_into("<I", data, offsets.valueoffset, len(data))
    struct.pack_into("<I", data, counts.valueoffset, len(tile))
    path.write_bytes(bytes(data) + tile)


def cyclic(path: Path) -> None:
    """Write a TIFF whose directory names itself as the next one."""
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None)
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(bytes(data))


def long_chain(path: Path, pages: int) -> None:
    """Write a TIFF of very many directories without pixels."""
    data = bytearray(b"II*\0" + struct.pack("<I", 8))
    for number in range(pages):
        entries = [(256, 4, 1, 1), (257, 4, 1, 1), (273, 4, 1, 8), (279, 4, 1, 1)]
        following = 0 if number == pages - 1 else len(data) + 2 + 12 * len(entries) + 4
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<I", following)
    path.write_bytes(bytes(data))


def counted(path: Path, tag: str) -> None:
    """Write a TIFF of which one tag claims to have 2^32 - 1 values."""
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", description="x" * 50, metadata=None)
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[tag].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, offset + 4, 0xFFFFFFFF)
    path.write_bytes(bytes(data))


def sized(path: Path, *, big: int) -> None:
    """Write a TIFF that claims to be `big` pixels wide and high, with one tile."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((256, 256, 3), np.uint8), tile=(256, 256), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[name].overwrite(big)


def laughs() -> str:
    """Return XML whose entities grow to 10^9 words."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY l0 "lol">{entities}]>'


def ome(path: Path, text: str) -> None:
    """Write a TIFF with a description that is OME-XML."""
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", description=text, metadata=None)


def nested(depth: int, *, opening: str = "[", closing: str = "]") -> str:
    """Return brackets in brackets."""
    return opening * depth + closing * depth


def zarr3(folder: Path, *, shape: list[int], chunks: list[int], codecs: list[object], data: bytes = b"") -> None:
    """Write a Zarr array of one chunk by hand."""
    folder.mkdir()
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": None,
        "storage_transformers": [],
    }
    (folder / "zarr.json").write_text(json.dumps(metadata))
    if data:
        place = folder / "c" / "/".join("0" * len(shape))
        place.parent.mkdir(parents=True)
        place.write_bytes(data)


def deep(folder: Path) -> None:
    """Write a Zarr image with nested metadata."""
    (folder / "b.zarr").mkdir()
    (folder / "b.zarr" / "zarr.json").write_text(nested(200_000))


RAW: Final = {"name": "bytes"}
GZIP: Final = {"name": "gzip", "configuration": {"level": 9}}


def zipped(path: Path, total: int) -> None:
    """Write a Zarr array into a ZIP whose metadata inflate to `total` bytes."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zarr.json", "w") as file:
        for _ in range(total >> 20):
            file.write(b" " * (1 << 20))
    path.write_bytes(held.getvalue())


def with_description(folder: Path, **changes: object) -> None:
    """Change values of bundle.json, by path with dots for points."""
    path = folder / "colours" / "bundle.json"
    found = json.loads(path.read_text())
    for key, value in changes.items():
        *holders, last = key.split("__")
        place = found
        for holder in holders:
            place = place[holder]
        place[last] = value
    path.write_text(json.dumps(found))


def tensors(folder: Path, header: bytes, length: int | None = None) -> None:
    """Replace the weights of the bundle by a header of safetensors; no hash says otherwise."""
    (folder / "colours" / "backbone.safetensors").write_bytes(
        struct.pack("<Q", len(header) if length is None else length) + header
    )
    path = folder / "colours" / "bundle.json"
    found = json.loads(path.read_text())
    found["networks"]["backbone"].pop("sha256", None)
    path.write_text(json.dumps(found))


def text(name: str, content: str) -> Callable[[Path], None]:
    """Return a function that writes a text file."""

    def write(folder: Path) -> None:
        (folder / name).write_text(content)

    return write


def data(name: str, content: Callable[[], bytes]) -> Callable[[Path], None]:
    """Return a function that writes a file."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(content())

    return write


def region(content: str) -> Callable[[Path], None]:
    """Return a function that writes a region as GeoJSON."""

    def write(folder: Path) -> None:
        with_polygons(folder)
        (folder / "roi.geojson").write_text(content)

    return write


def polygon(coordinates: str) -> str:
    """Return a GeoJSON polygon with coordinates that are given as text."""
    return f'{{"type":"Feature","properties":{{}},"geometry":{{"type":"Polygon","coordinates":{coordinates}}}}}'


def within(folder: Path) -> tuple[str | Path, ...]:
    """Return the words that segment within a region."""
    return (*segment_words(folder), f"--roi={folder / 'roi.geojson'}", "--method=patch")


def plain(folder: Path) -> tuple[str | Path, ...]:
    """Return the words that segment the image with the bundle."""
    return segment_words(folder)


def reported(content: str) -> Callable[[Path], None]:
    """Return a function that writes a mask with another report."""

    def write(folder: Path) -> None:
        with_mask(folder)
        (folder / "m.json").write_text(content)

    return write


def checkpoint(folder: Path) -> None:
    """Write a checkpoint whose tensor claims 2^40 values of a storage that has one."""
    value = torch.zeros(1).as_strided((1 << 20, 1 << 20), (0, 0))
    torch.save({"conv.weight": value}, folder / "b.pth")


def imported(folder: Path) -> tuple[str | Path, ...]:
    """Return the words that import a checkpoint."""
    words = ("weights", "import", "--preset=cityscapes", "--architecture=conv")
    return (*words, f"--backbone={folder / 'b.pth'}", "-o", folder / "imported")


def trained(folder: Path) -> tuple[str | Path, ...]:
    """Return the words that train a backbone."""
    return ("train", "backbone", folder / "data", "-o", folder / "trained", "--config", folder / "train.toml")


def bomb(
    name: str, make: Callable[[Path], object], words: Callable[[Path], tuple[str | Path, ...]], *codes: int
) -> Bomb:
    """Return a bomb, in one line."""
    return Bomb(name=name, make=make, words=words, codes=codes)


FAR: Final = "9" * 400
BOMBS: Final = (
    bomb("PNG of 2^31 pixels a side", data("b.png", lambda: png(0x7FFFFFFF, 0x7FFFFFFF)), segment("b.png"), 3),
    bomb("PNG of 30,000 pixels a side without rows", data("b.png", lambda: png(30000, 30000)), segment("b.png"), 3),
    bomb(
        "PNG whose text inflates to 1 GiB",
        data("b.png", lambda: png(64, 64, chunk(b"zTXt", b"a\0\0" + inflating(GIB)), rows=bytes(64 * 193))),
        segment("b.png"),
        0,
        3,
    ),
    bomb(
        "PNG whose colour profile inflates to 1 GiB",
        data("b.png", lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + inflating(GIB)), rows=bytes(64 * 193))),
        segment("b.png"),
        0,
        3,
    ),
    bomb("TIFF whose tile inflates to 1 GiB", lambda f: bytecode(f / "b.tif", inflating(GIB)), segment("b.tif"), 0, 3),
    bomb("TIFF of 2^31 pixels a side", lambda f: sized(f / "b.tif", big=0x7FFFFFFF), segment("b.tif"), 3, 5, 6),
    bomb("TIFF whose directory follows itself", lambda f: cyclic(f / "b.tif"), segment("b.tif"), 0, 3),
    bomb("TIFF of 200,000 directories", lambda f: long_chain(f / "b.tif", 200_000), info("b.tif"), 0, 3),
    bomb("TIFF with 2^32 - 1 tile offsets", lambda f: counted(f / "b.tif", "StripOffsets"), segment("b.tif"), 3),
    bomb(
        "TIFF with a description of 4 GiB", lambda f: counted(f / "b.tif", "ImageDescription"), segment("b.tif"), 0, 3
    ),
    bomb(
        "OME-TIFF whose entities grow",
        lambda f: ome(f / "b.ome.tif", f"{laughs()}<OME>&l9;</OME>"),
        info("b.ome.tif"),
        0,
        3,
    ),
    bomb(
        "OME-TIFF of elements 100,000 deep",
        lambda f: ome(
            f / "b.ome.tif", '<?xml version="1.0"?><OME>' + nested(100_000, opening="<a>", closing="</a>") + "</OME>"
        ),
        info("b.ome.tif"),
        0,
        3,
    ),
    bomb("VRT whose entities grow", text("b.vrt", f"{laughs()}<VRTDataset>&l9;</VRTDataset>"), info("b.vrt"), 3),
    bomb(
        "VRT of itself",
        text(
            "b.vrt",
            '<VRTDataset rasterXSize="64" rasterYSize="64">'
            + "".join(
                f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">b.vrt'
                f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
                for band in (1, 2, 3)
            )
            + "</VRTDataset>",
        ),
        segment("b.vrt"),
        2,
        3,
    ),
    bomb(
        "VRT of 2^31 pixels a side",
        text(
            "b.vrt",
            '<VRTDataset rasterXSize="2147483647" rasterYSize="2147483647">'
            + "".join(f'<VRTRasterBand dataType="Byte" band="{band}"/>' for band in (1, 2, 3))
            + "</VRTDataset>",
        ),
        segment("b.vrt"),
        3,
        5,
        6,
    ),
    bomb(
        "Zarr of 2^31 x 2^31 pixels in one chunk",
        lambda f: zarr3(f / "b.zarr", shape=[3, 1 << 31, 1 << 31], chunks=[3, 1 << 31, 1 << 31], codecs=[RAW]),
        segment("b.zarr"),
        3,
        5,
        6,
    ),
    bomb(
        "Zarr of 2^31 x 150 pixels in one chunk",
        lambda f: zarr3(f / "b.zarr", shape=[3, 150, 1 << 31], chunks=[3, 150, 1 << 31], codecs=[RAW]),
        segment("b.zarr"),
        3,
        5,
        6,
    ),
    bomb(
        "Zarr whose chunk inflates to 1 GiB",
        lambda f: zarr3(
            f / "b.zarr", shape=[3, 64, 64], chunks=[3, 64, 64], codecs=[RAW, GZIP], data=inflating(GIB, GZIP_WBITS)
        ),
        segment("b.zarr"),
        3,
    ),
    bomb(
        "Zarr in a ZIP whose metadata inflate to 1 GiB", lambda f: zipped(f / "b.zarr.zip", GIB), info("b.zarr.zip"), 3
    ),
    bomb(
        "Zarr with nested metadata",
        deep,
        info("b.zarr"),
        3,
    ),
    bomb("GeoJSON nested 200,000 deep", region(nested(200_000)), within, 2, 3),
    bomb("GeoJSON with a number of 400 digits", region(polygon(f"[[[0,0],[{FAR},0],[9,{FAR}],[0,0]]]")), within, 2, 3),
    bomb("GeoJSON with a point at 1e308", region(polygon("[[[0,0],[1e308,0],[1e308,1e308],[0,0]]]")), within, 0, 2, 3),
    bomb(
        "GeoJSON of a million corners",
        region(polygon("[[" + ",".join(f"[{n % 977 / 13},{n % 991 / 15}]" for n in range(1_000_000)) + ",[0,0]]]")),
        within,
        0,
        2,
        3,
    ),
    bomb("bundle.json nested 200,000 deep", text("colours/bundle.json", nested(200_000)), plain, 4),
    bomb("bundle.json of 64 MiB", text("colours/bundle.json", '{"schema": "' + "x" * (64 << 20) + '"}'), plain, 4),
    bomb(
        "bundle with an input of 10^7 pixels a side",
        lambda f: with_description(f, input__size={"width": 10**7, "height": 10**7}),
        plain,
        4,
        6,
    ),
    bomb(
        "bundle with a kernel of 10^7",
        lambda f: with_description(f, networks__backbone__options={"kernel": 10**7 + 1}),
        plain,
        4,
        6,
    ),
    bomb(
        "bundle with a number of 400 digits",
        lambda f: with_description(f, networks__backbone__options={"kernel": int(FAR)}),
        plain,
        4,
    ),
    bomb("safetensors with a header of 2^63 bytes", lambda f: tensors(f, b"{}", 1 << 63), plain, 4),
    bomb("safetensors with a nested header", lambda f: tensors(f, nested(200_000).encode()), plain, 4),
    bomb(
        "safetensors with 2^62 values",
        lambda f: tensors(
            f,
            json.dumps({"conv.weight": {"dtype": "F32", "shape": [1 << 31, 1 << 31], "data_offsets": [0, 4]}}).encode(),
        ),
        plain,
        4,
    ),
    bomb("checkpoint with 2^40 values", checkpoint, imported, 4, 6),
    bomb("report nested 200,000 deep", reported(nested(200_000)), lambda f: ("verify", f / "m.tif"), 3, 5),
    bomb(
        "report with a number of 5,000 digits",
        reported('{"hashes": {}, "mask": {"bytes": ' + "9" * 5000 + "}}"),
        lambda f: ("verify", f / "m.tif"),
        3,
        5,
    ),
    bomb(
        "list of one line of 64 MiB",
        text("l.csv", 'image,label\n"' + "x" * (64 << 20)),
        lambda f: ("evaluate", "--data", f / "l.csv", f"--weights={f / 'colours'}"),
        2,
        3,
    ),
    bomb("TOML nested 20,000 deep", text("train.toml", "a = " + nested(20_000)), trained, 2, 3),
    bomb(
        "TOML with a number of 5,000 digits",
        text("train.toml", CONFIG.replace("iterations = 40", "iterations = " + "9" * 5000)),
        trained,
        2,
        3,
    ),
)
