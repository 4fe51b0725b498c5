"""What the readers make of a folder of files: the tables of docs/formats.md.

    python benchmarks/formats.py ../shared/data/formats

Opens each file, reads all of it at about 1024 pixels and a corner of it in full, and writes the tables between the
marks in docs/formats.md. `--json` prints the rows instead.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.images import CacheBudget, Request, open_image
from magnet_cli.images.inputs import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.images import Image, ImageInfo

DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"
BEGIN, END = "<!-- made by benchmarks/formats.py -->", "<!-- end -->"
TEXTS = (
    "README",
    "README.txt",
    "README.rst",
    "rasterio_README.rst",
    "COPYRIGHT",
    "Entries",
    "Root",
    "genimages",
    "summary.txt",
)
"""Names of files that are no images."""
OVERVIEW, CORNER = 1024, 256


@dataclass(frozen=True, kw_only=True)
class Row:
    """The facts of one file."""

    file: str
    reader: str = ""
    size: str = ""
    levels: str = ""
    """Downsamples of the levels."""
    bands: str = ""
    dtype: str = ""
    pixel: str = ""
    """Physical size of a pixel."""
    crs: str = ""
    refusal: str = ""
    """Message of the error, where the file was refused."""


def find(folder: Path) -> Iterator[Path]:
    """Yield files and Zarr folders in the order of their names."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not is_zarr(entry):
            yield from find(entry)
        elif entry.name not in TEXTS:
            yield entry


def look(path: Path, root: Path) -> Row:
    """Return what the readers find in a file."""
    name = path.relative_to(root).as_posix()
    with tempfile.TemporaryDirectory() as work:
        try:
            with open_image(path, cache=CacheBudget(folder=Path(work), max_bytes=1 << 32)) as image:
                read(image)
                return row(name, image.info)
        except SourceError as error:
            parts = SourceError(error.rule, value=error.value, advice=error.advice)
            return Row(file=name, refusal=str(parts).replace(str(path), path.name))


def read(image: Image) -> None:
    """Read all of the image at low resolution, and a corner at full resolution."""
    size = image.info.size
    pitch = Pitch.square(max(1, -(-max(size.width, size.height) // OVERVIEW)))
    corner = Box.whole(size).intersection(Box(x=0, y=0, width=CORNER, height=CORNER))
    image.read([Request(pitch=pitch, box=Box.whole(pitch.cover(size))), Request(pitch=LEVEL0, box=corner)])


def crs_name(crs: str | None) -> str:
    """Return the code of a reference system, or the name of one that is known by its definition alone."""
    if crs is None:
        return ""
    quoted = crs.partition('["')[2].partition('"')[0]
    return f"{quoted} (WKT)" if quoted else crs


def row(name: str, info: ImageInfo) -> Row:
    """Return the facts of an image that opened."""
    pixel = info.resolution
    shown = ", ".join(info.bands) if len(info.bands) <= 4 else f"{len(info.bands)} bands"
    return Row(
        file=name,
        reader=info.backend,
        size=str(info.size),
        levels=", ".join(f"{float(level.downsample.x):g}" for level in info.levels),
        bands=shown,
        dtype=info.dtype,
        pixel="" if pixel is None else f"{float(pixel.x):.4g} x {float(pixel.y):.4g} {pixel.unit}",
        crs=crs_name(info.crs),
    )


def tables(rows: list[Row]) -> str:
    """Write the rows as Markdown: files that opened, files that were refused, and damaged files."""
    damaged = [one for one in rows if one.file.startswith("corrupt/")]
    whole = [one for one in rows if one not in damaged]
    opened, refused = ([one for one in whole if bool(one.refusal) is no] for no in (False, True))
    return "\n\n".join(
        [
            f"## Opened ({len(opened)} files)",
            opened_table(opened),
            f"## Refused ({len(refused)} files)",
            refused_table(refused),
            f"## Damaged and hostile files ({len(damaged)}): readable after all, or refused",
            opened_table([one for one in damaged if not one.refusal]),
            refused_table([one for one in damaged if one.refusal]),
        ]
    )


def opened_table(rows: list[Row]) -> str:
    """Write a table with a line for each file that opened."""
    lines = ["| file | reader | size | levels | bands | type | pixel size | CRS |", "|---|---|---|---|---|---|---|---|"]
    for one in rows:
        facts = (one.file, one.reader, one.size, one.levels, one.bands, one.dtype, one.pixel, one.crs)
        lines.append("| " + " | ".join(map(escaped, facts)) + " |")
    return "\n".join(lines)


def refused_table(rows: list[Row]) -> str:
    """Write a table with a line for each file that was refused."""
    lines = [f"| {escaped(one.file)} | {escaped(one.refusal)} |" for one in rows]
    return "\n".join(["| file | message |", "|---|---|", *lines])


def escaped(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return "".join(f"\\{letter}" if letter in "|<>*_`\\" else letter for letter in text)


def main() -> None:
    """Write the tables into the page, or print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    rows = [look(path, words.folder) for path in find(words.folder)]
    if words.json:
        print(json.dumps([asdict(one) for one in rows], indent=1))
        return
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
