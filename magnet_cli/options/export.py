"""Options for other formats in which a finished mask is written."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import NUMBER, SWITCH, WHOLE
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, OptionGroup, Shorthand

ExportFormat = Literal["cog", "ome-tiff", "ome-zarr", "geojson"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
EXPORT_SUFFIXES: dict[ExportFormat, str] = {
    "cog": ".cog.tif",
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
    "geojson": ".geojson",
}
"""Suffix of each export's file name, which replaces the suffix of the mask's name."""


def parse_formats(text: str, *, also: tuple[str, ...] = ()) -> tuple[ExportFormat, ...]:
    """Parse names of formats like `cog,geojson`; return each once, in the order of `EXPORT_FORMATS`.

    Args:
        text: Names with commas between them.
        also: Further names that are accepted but not returned.

    Raises:
        UsageError: A word names no format.
    """
    words = [word.strip().lower() for word in text.split(",")]
    known = (*also, *EXPORT_FORMATS)
    wrong = [word for word in words if word not in known]
    if wrong:
        raise UsageError(
            f"--format is one or more of {', '.join(EXPORT_FORMATS)}",
            value=repr(wrong[0]),
            advice="Write --format cog,geojson",
        )
    # A fixed order makes two spellings of the same formats one value, and one command that repeats the run.
    return tuple(name for name in EXPORT_FORMATS if name in words)


OWN_FORMATS = ("tiff",)
"""Names of the format that every mask has, so that no export is needed for it."""
FORMATS = Form(
    parse=lambda text, _: parse_formats(text, also=OWN_FORMATS),
    spell=",".join,
    types=(tuple, list),
    convert=lambda names: parse_formats(",".join(names)) if names else (),
    metavar="LIST",
)


@dataclass(kw_only=True, unsafe_hash=True)
class ExportOptions(OptionGroup, panel="Outputs"):
    """Other formats in which a mask is written, and the shape of its polygons."""

    formats: ListOption[tuple[ExportFormat, ...]] = ListOption(
        (),
        FORMATS,
        about=f"Other formats to write, with commas between them: {','.join(EXPORT_FORMATS)}.",
        rank=9,
        words=("--format",),
        shown="",
        shorthand=Shorthand(
            name="geojson",
            form=SWITCH,
            about="Also write polygons; short for --format geojson.",
            text=lambda _: "geojson",
            adds=True,
            panel="Outputs",
        ),
    )
    simplify: NumericOption[Fraction] = NumericOption(
        Fraction(0),
        NUMBER,
        about="Distance in pixels by which outlines of polygons may move so that they have fewer corners.",
        shown="",
        needs=("formats", "geojson"),
    )
    """Distance in pixels by which the outline of a polygon may move so that it has fewer corners."""
    min_area: Option[int] = Option(
        0, WHOLE, about="Leave out polygons of fewer pixels than this.", least=0, needs=("formats", "geojson")
    )
    """Polygons of fewer pixels than this are left out."""

    def __post_init__(self) -> None:
        if (self.simplify or self.min_area) and "geojson" not in self.formats:
            raise UsageError(
                "--simplify and --min-area are for polygons",
                value=f"formats {', '.join(self.formats) or 'none'}",
                advice="Add geojson to the formats, or leave them out",
            )


EXPORTS = Form(parse=lambda text, _: ExportOptions(formats=text), types=(ExportOptions,))
