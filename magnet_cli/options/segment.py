"""Options of `magnet segment` and of exports, parsed and checked without opening a file or a device."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from numbers import Integral, Rational
from pathlib import Path
from typing import Literal, Self, TypeVar, cast

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.options.forms import (
    BUNDLE,
    CLASSES,
    DECIMAL_PATTERN,
    FILE,
    NUMBER,
    SWITCH,
    WHOLE,
    choice,
    exact,
    spell_decimal,
)
from magnet_cli.options.lengths import OTHER_SPELLINGS, UM_OF, UNIT_PATTERN, PhysicalScales, PhysicalSize, in_unit
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, OptionGroup, PathOption, Shorthand
from magnet_cli.options.shared import (
    WEIGHTS_HELP,
    BandOptions,
    MachineOptions,
    RunOptions,
    ViewOptions,
)

Method = Literal["magnet", "magnet-fast", "patch", "downsample", "grnet", "grnet-local"]
Merge = Literal["refiner", "mean", "certainty"]
Compat = Literal["paper", "published", "published-unshifted"]
DeviceKind = Literal["cpu", "cuda", "mps"]
ExportFormat = Literal["cog", "ome-tiff", "ome-zarr", "geojson"]
Tissue = Literal["auto", "otsu", "none"]
RuleKind = Literal["all", "count", "share", "threshold", "budget", "selector"]
RefineMethod = Literal["cascadepsp", "guided", "crf"]
Select = Literal["uncertainty", "change", "both", "ppn"]

OF_GRNETS = ("grnet", "grnet-local")
"""Methods that need the bundle of a GRNet."""
DEFAULT_BUNDLE = "aerial"
"""Bundle that is used where `--weights` is not given."""
DEFAULT_BUNDLE_NOTE = (
    f"Using the default bundle {DEFAULT_BUNDLE} (land cover in aerial photographs). Choose another with --weights."
)
"""Note for a user who gave no `--weights`."""

_SCALE = re.compile(rf"({DECIMAL_PATTERN})(?:x({DECIMAL_PATTERN}))?(?:\s*({UNIT_PATTERN}))?")
_THRESHOLD = re.compile(rf"([quw])>({DECIMAL_PATTERN})")
_SHARE = re.compile(rf"({DECIMAL_PATTERN})(%?)")
_COUNT = re.compile(r"\d{1,18}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How many points or windows of a stage are selected."""

    kind: RuleKind
    values: tuple[Fraction, ...] = ()
    """One value for each refining stage; the last one also holds for the stages after it. Empty for `all` and
    `selector`."""

    def __str__(self) -> str:
        return self.spelled("")

    def spelled(self, letter: str) -> str:
        """Return the rule as short text; `letter` is the quantity that a threshold compares, `q`, `u` or `w`."""
        if self.kind in ("all", "selector"):
            return self.kind
        if self.kind == "count":
            return ",".join(str(value) for value in self.values)
        value = self.values[0]
        if self.kind == "threshold":
            return f"{letter}>{float(value):g}"
        return f"{float(value * 100):g}%" + (" of the image" if self.kind == "budget" else "")

    def value(self, step: int) -> Fraction:
        """Return the value for a refining stage; step 0 is the first refining stage of the run."""
        return self.values[min(step, len(self.values) - 1)]


ALL = Rule(kind="all")
SELECTOR = Rule(kind="selector")
"""A network selects the windows. The rule does not apply to points."""


def parse_points(text: str) -> Rule:
    """Parse the rule for points: `all`, `32768`, `75%`, `0.75` or `q>0.2`.

    Raises:
        UsageError: The text is none of these.
    """
    return _parse_rule(text, option="--points", letters="q", several=False)


def parse_patches(text: str) -> Rule:
    """Parse the rule for windows: `all`, `3`, `4,4,8`, `25%`, `u>0.1`, `w>0.1` or `selector`.

    The limits `u>` and `w>` mean the same: both compare the score that `--select` names.

    Raises:
        UsageError: The text is none of these.
    """
    return _parse_rule(text, option="--patches", letters="uw", several=True)


def limited(select: Select | None) -> str:
    """Return the letter of the score that a limit on windows compares: `u` for uncertainty, `w` for any other."""
    return "u" if select in (None, "uncertainty") else "w"


def spell_rule(rule: Rule, letter: str) -> str:
    """Write a rule as the command line takes it, with all digits of its numbers.

    Args:
        rule: The rule that is written.
        letter: The quantity that a threshold compares, `q`, `u` or `w`.
    """
    if rule.kind in ("all", "count", "selector"):
        return rule.spelled(letter)
    if rule.kind == "threshold":
        return f"{letter}>{spell_decimal(rule.values[0])}"
    return "100%" if rule.values[0] == 1 else spell_decimal(rule.values[0])


def parse_budget(text: str) -> Fraction:
    """Parse a share of an image's windows, written as `20%`, `0.2` or `1`.

    Raises:
        UsageError: The text is no share above 0 and at most 1.
    """
    word = text.strip().replace(" ", "")
    share = Fraction(1) if word == "1" else _share(word)
    if share is None:
        raise _no_budget(repr(text))
    return share


def budget_share(given: Rational | float) -> Fraction:
    """Check a budget that is a number, and return it as it is: a rounded share may buy a window less.

    Raises:
        UsageError: The number is no share above 0 and at most 1.
    """
    share = exact(given)
    if not 0 < share <= 1:
        raise _no_budget(repr(spell_decimal(share)))
    return share


def _no_budget(value: str) -> UsageError:
    return UsageError("--budget is a share of the image's windows", value=value, advice="Write --budget 20%")


def _parse_rule(text: str, *, option: str, letters: str, several: bool) -> Rule:
    word = text.strip().lower().replace(" ", "")
    if word == "all":
        return ALL
    if word == "selector" and several:
        return SELECTOR
    threshold = _THRESHOLD.fullmatch(word)
    if threshold and threshold[1] in letters and Fraction(threshold[2]) < 1:
        return Rule(kind="threshold", values=(Fraction(threshold[2]),))
    share = _share(word)
    if share is not None:
        return Rule(kind="share", values=(share,))
    parts = word.split(",") if several else [word]
    if all(_COUNT.fullmatch(part) and int(part) >= 1 for part in parts):
        return Rule(kind="count", values=tuple(Fraction(int(part)) for part in parts))
    example = "all, 3, 4,4,8, 25%, u>0.1, w>0.1 or selector" if several else "all, 32768, 75%, 0.75 or q>0.2"
    raise UsageError(f"{option} is one of {example}", value=repr(text), advice="Write one of these forms")


def _share(word: str) -> Fraction | None:
    match = _SHARE.fullmatch(word)
    if match is None:
        return None
    value = Fraction(match[1])
    if match[2]:
        return value / 100 if 0 < value <= 100 else None  # noqa: PLR2004 - percent
    return value if 0 < value < 1 else None


def parse_scales(text: str) -> tuple[Size, ...] | PhysicalScales | Literal["auto", "full"]:
    """Parse window sides in any order: `625,1250`, `256x128,512x256`, `320um,0.64mm`, `auto` or `full`.

    Returns:
        The sides, coarsest first, in working-grid pixels or with their units; or the word `auto` or `full`.

    Raises:
        UsageError: A side is no number, is smaller than a pixel, or occurs twice; of two windows neither holds the
            other; or some sides have a unit and others have none.
    """
    word = text.strip().lower()
    if word in ("auto", "full"):
        return cast("Literal['auto', 'full']", word)
    found = [_scale(part.strip(), text) for part in word.split(",")]
    physical = [size for size in found if isinstance(size, PhysicalSize)]
    if not physical:
        return tuple(_descending([size for size in found if isinstance(size, Size)]))
    if len(physical) < len(found):
        raise UsageError(
            "scales are all in pixels or all in units of length",
            value=repr(text),
            advice="Write --scales 625,1250 or --scales 320um,640um",
        )
    return PhysicalScales(sizes=tuple(_descending(physical)))


SizeT = TypeVar("SizeT", Size, PhysicalSize)


def _descending(sizes: list[SizeT]) -> list[SizeT]:
    """Sort window sizes, coarsest first.

    Raises:
        UsageError: Two sizes are the same, or neither holds the other.
    """
    ordered = sorted(sizes, key=lambda size: -size.width * size.height)
    for coarse, fine in pairwise(ordered):
        same = (coarse.width, coarse.height) == (fine.width, fine.height)
        if coarse.width < fine.width or coarse.height < fine.height or same:
            raise UsageError(
                "each scale must differ from the others and be at least as wide and as high as the next finer one",
                value=f"{coarse} beside {fine}",
                advice="List each window side once",
            )
    return ordered


def as_scales(given: PhysicalScales | tuple[Size | int, ...] | list[Size | int]) -> tuple[Size, ...] | PhysicalScales:
    """Convert window sides from Python to sizes in pixels, coarsest first; a whole number means a square.

    Raises:
        TypeError: A side is neither a size nor a whole number.
        UsageError: Two sizes are the same, or neither holds the other.
    """
    if isinstance(given, PhysicalScales):
        return given
    return tuple(_descending([_square(side) for side in given]))


def _square(side: object) -> Size:
    """Return the size of a square window for a whole number; a size is returned unchanged."""
    if isinstance(side, Size):
        return side
    if not isinstance(side, Integral) or isinstance(side, bool):
        raise TypeError(side)
    if int(side) < 1:
        raise UsageError("a scale is at least one pixel", value=side)
    return Size(width=int(side), height=int(side))


def spell_scales(scales: tuple[Size, ...] | PhysicalScales | str) -> str:
    """Write window sides as `parse_scales` reads them, with all their digits."""
    if isinstance(scales, str):
        return scales
    if isinstance(scales, PhysicalScales):
        return ",".join(map(_spell_physical, scales.sizes))
    return ",".join(map(str, scales))


def _spell_physical(size: PhysicalSize) -> str:
    width, height = (spell_decimal(in_unit(side, size.unit)) for side in (size.width, size.height))
    return f"{width}x{height}{size.unit}"


def _scale(part: str, text: str) -> Size | PhysicalSize:
    match = _SCALE.fullmatch(part)
    advice = "Write window sides in pixels or with a unit, like --scales 625,1250,2500, 256x128,512x256 or 320um,640um"
    if match is None:
        value = repr(part) if part == text.strip().lower() else f"{part!r} in {text!r}"
        raise UsageError("--scales takes numbers, WIDTHxHEIGHT pairs, auto or full", value=value, advice=advice)
    width, height = Fraction(match[1]), Fraction(match[2] or match[1])
    if match[3]:
        return _physical(width, height, OTHER_SPELLINGS.get(match[3], match[3]), part)
    if width < 1 or height < 1:
        raise UsageError("a scale is at least one pixel", value=part, advice=advice)
    if width.denominator != 1 or height.denominator != 1:
        raise UsageError("a scale is a whole number of pixels", value=part, advice=advice)
    return Size(width=int(width), height=int(height))


def _physical(width: Fraction, height: Fraction, unit: str, part: str) -> PhysicalSize:
    if not width or not height:
        raise UsageError("a scale is a positive length", value=part, advice="Write --scales 320um,640um")
    return PhysicalSize(width=width * UM_OF[unit], height=height * UM_OF[unit], unit=unit)


EXPORT_FORMATS: tuple[ExportFormat, ...] = ("cog", "ome-tiff", "ome-zarr", "geojson")
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
class ExportOptions(OptionGroup):
    """Other formats in which a mask is written, and the shape of its polygons."""

    formats: ListOption[tuple[ExportFormat, ...]] = ListOption(
        (),
        FORMATS,
        about=f"Other formats to write, with commas between them: {','.join(EXPORT_FORMATS)}.",
        panel="Outputs",
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
        panel="Outputs",
        shown="",
        needs=("formats", "geojson"),
    )
    """Distance in pixels by which the outline of a polygon may move so that it has fewer corners."""
    min_area: Option[int] = Option(
        0,
        WHOLE,
        about="Leave out polygons of fewer pixels than this.",
        panel="Outputs",
        least=0,
        needs=("formats", "geojson"),
    )
    """Polygons of fewer pixels than this are left out."""

    def __post_init__(self) -> None:
        if (self.simplify or self.min_area) and "geojson" not in self.formats:
            raise UsageError(
                "--simplify and --min-area are for polygons",
                value=f"formats {', '.join(self.formats) or 'none'}",
                advice="Add geojson to the formats, or leave them out",
            )


def parse_roi(text: str) -> Box | Path:
    """Parse a region: `x,y,width,height` in pixels of level 0, or the path of a GeoJSON file.

    Raises:
        UsageError: The text is neither a box nor the name of a GeoJSON file, or the box has no pixel.
    """
    parts = [part.strip() for part in text.split(",")]
    if text.lower().removesuffix(".gz").endswith((".geojson", ".json")):
        return Path(text)
    if len(parts) != 4 or not all(_COUNT.fullmatch(part) for part in parts):  # noqa: PLR2004 - sides of a box
        raise UsageError(
            "--roi is x,y,width,height in pixels of the full resolution, or a .geojson file",
            value=repr(text),
            advice="Write one of these forms, like --roi 1000,2000,512,512",
        )
    x, y, width, height = map(int, parts)
    if not width or not height:
        raise UsageError("a region has at least one pixel", value=f"--roi {text}")
    return Box(x=x, y=y, width=width, height=height)


READING = ("mpp", "gsd", "level", "mag")
"""Options for the pixel size at which images are read; at most one of them may be given."""
LARGEST_MAGNIFICATION = 1000
"""Largest magnification that is accepted. Light cannot resolve more, so a larger number is a typing error."""
CASCADE = ("refine", "cascadepsp")
"""The option and the value that the options of a cascade as the last stage need."""


def parse_batch_size(text: str, option: str = "--batch-size") -> int | None:
    """Parse a number of patches; `auto` gives None.

    Raises:
        UsageError: The text is neither `auto` nor a whole number.
    """
    if text == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"{option} is auto or a whole number", value=repr(text), advice="Write -b 4")
    return int(text)


def _number_text(given: Rational | float) -> str:
    """Write a number as text: a whole number as a count, a number below one as a share.

    A float of one or more keeps its decimal point, so that the parser refuses 1.0, which could mean either.
    """
    return repr(given) if isinstance(given, float) and given >= 1 else spell_decimal(exact(given))


def _spell_roi(roi: Box | Path) -> str:
    return str(roi) if isinstance(roi, Path) else f"{roi.x},{roi.y},{roi.width},{roi.height}"


def _spell_patches(rule: Rule, options: SegmentOptions) -> str:
    return spell_rule(rule, limited(options.select))


SCALES = Form(
    parse=lambda text, _: parse_scales(text),
    spell=spell_scales,
    types=(PhysicalScales, tuple, list),
    convert=as_scales,
    metavar="LIST",
)
POINTS = Form(
    parse=lambda text, _: parse_points(text),
    spell=lambda rule: spell_rule(rule, "q"),
    types=(Rule, Rational, float),
    convert=lambda given: given if isinstance(given, Rule) else parse_points(_number_text(given)),
    metavar="RULE",
)
PATCHES = Form(
    parse=lambda text, _: parse_patches(text),
    types=(Rule, Rational, float),
    convert=lambda given: given if isinstance(given, Rule) else parse_patches(_number_text(given)),
    metavar="RULE",
)
BUDGET = Form(
    parse=lambda text, _: parse_budget(text),
    spell=lambda share: "100%" if share == 1 else spell_decimal(share),
    types=(Rational, float),
    convert=budget_share,
    metavar="SHARE",
)
REGION = Form(parse=lambda text, _: parse_roi(text), spell=_spell_roi, types=(Box, Path), metavar="BOX|FILE")
BATCH_SIZE = Form(parse=parse_batch_size, types=(Integral,), convert=int, metavar="N")
EXPORTS = Form(
    parse=lambda text, _: ExportOptions(formats=text),
    types=(ExportOptions,),
)


@dataclass(kw_only=True, unsafe_hash=True)
class SegmentOptions(BandOptions, MachineOptions, RunOptions, ViewOptions):
    """All options of `segment`. None leaves the choice to the bundle or the machine.

    Each option accepts a value, or the text that the command line takes: `SegmentOptions(scales="625,1250")`.
    """

    weights: PathOption[str | None] = PathOption(None, BUNDLE, about=WEIGHTS_HELP, panel="Method", rank=1)
    """Name of a shipped bundle, or path of a bundle's folder. None uses `DEFAULT_BUNDLE`, with a message."""
    scales: ListOption[tuple[Size, ...] | PhysicalScales | Literal["auto", "full"] | None] = ListOption(
        None,
        SCALES,
        about="Window sides in any order, in pixels or with a unit: 625,1250, 256x128,512x256 or 320um,640um; or "
        "auto, or full. Default: the bundle's.",
        panel="Method",
        rank=2,
    )
    method: Option[Method] = Option("magnet", choice(Method), about="How images are segmented.", panel="Method", rank=3)
    points: NumericOption[Rule | None] = NumericOption(
        None, POINTS, about="Pixels that a stage may change: all, 32768, 75% or q>0.2.", panel="Method"
    )
    patches: NumericOption[Rule | None] = NumericOption(
        None,
        PATCHES,
        about="Windows that a stage of magnet-fast computes: all, 3, 4,4,8, 25%, u>0.1 or w>0.1; for grnet: selector "
        "or all.",
        panel="Method",
        spelled=_spell_patches,
    )
    select: Option[Select | None] = Option(
        None,
        choice(Select),
        about="Score by which magnet-fast ranks windows: uncertainty, change in the last stage, both, or ppn (the "
        "bundle's selector).",
        panel="Method",
    )
    """Score by which windows are ranked: the mean uncertainty of the probabilities so far, the change of the
    probabilities in the last stage, the product of both, or the score of the bundle's selector (a patch proposal
    network)."""
    budget: NumericOption[Fraction | None] = NumericOption(
        None, BUDGET, about="Share of all windows that magnet-fast computes, coarse stages first.", panel="Method"
    )
    """Share of the windows of all stages of the whole image that is computed. Coarse stages are filled first; in a
    stage that cannot be filled, the windows with the highest score by `select` are computed."""
    merge: Option[Merge | None] = Option(
        None,
        choice(Merge),
        about="How a stage joins its result with the one before: by the refiner network, the mean, or the mean "
        "weighted by certainty.",
        panel="Method",
    )
    median: Option[int | None] = Option(
        None, WHOLE, about="Odd side of the points' median filter, in network pixels.", panel="Method", least=1
    )
    margin: Option[int | None] = Option(
        None, WHOLE, about="Width of a patch's rim that is discarded, in network pixels.", panel="Method", least=0
    )
    compat: Option[Compat | None] = Option(
        None, choice(Compat), about="Compute as the paper says, or as the published program does.", panel="Method"
    )
    mpp: NumericOption[Fraction | None] = NumericOption(
        None, NUMBER, about="Read at this pixel size in um.", panel="What to read", rival="reading"
    )
    """Pixel size in um at which every image is read. At most one option of `READING` may be given."""
    gsd: NumericOption[Fraction | None] = NumericOption(
        None, NUMBER, about="Read at this pixel size on the ground, in m.", panel="What to read", rival="reading"
    )
    """Pixel size on the ground in m at which every image is read."""
    level: Option[int | None] = Option(
        None,
        WHOLE,
        about="Read at the pixel size of this stored level; 0 is the finest.",
        panel="What to read",
        least=0,
        rival="reading",
    )
    """Stored level at whose pixel size every image is read. Level 0 is the full resolution."""
    mag: NumericOption[Fraction | None] = NumericOption(
        None, NUMBER, about="Read at this magnification, like 20.", panel="What to read", rival="reading"
    )
    """Magnification of the objective at which every image is read."""
    slide_mpp: NumericOption[Fraction | None] = NumericOption(
        None,
        NUMBER,
        about="Pixel size of the image in um (m on maps), where the file lacks it or has a wrong one.",
        panel="What to read",
        rank=4,
    )
    """Size of a level-0 pixel in um, or in m for images of the ground. It replaces the size that the file states."""
    roi: PathOption[Box | Path | None] = PathOption(
        None,
        REGION,
        about="Segment only this region: x,y,width,height or a .geojson file.",
        panel="Where to look",
        rank=5,
    )
    """Region that is segmented: a box in pixels of level 0, or a GeoJSON file of polygons. None means everywhere."""
    mask: PathOption[Path | None] = PathOption(
        None, FILE, about="Segment only where this raster, of any size, is not zero.", panel="Where to look"
    )
    """Raster of the image's shape and any size. Only places where it is not zero are segmented."""
    tissue: Option[Tissue] = Option(
        "auto",
        choice(Tissue),
        about="Segment only tissue: auto does so on slides, otsu on every image, none on no image.",
        panel="Where to look",
    )
    """Images on which only tissue is segmented: `auto` means slides, `otsu` every image, `none` no image."""
    batch_size: Option[int | None] = Option(
        None,
        BATCH_SIZE,
        about="Patches in a forward pass, or auto; the number is lowered where memory is short.",
        panel="Machine",
        words=("-b", "--batch-size"),
        shown="auto",
        least=1,
    )
    """Patches in a forward pass. None leaves the number to the program. It is halved where memory runs out before
    anything is finished."""
    probabilities: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Also write class probabilities.",
        panel="Outputs",
    )
    uncertainty: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Also write the uncertainty.",
        panel="Outputs",
    )
    refine: Option[RefineMethod | None] = Option(
        None,
        choice(RefineMethod),
        about="Refine the finished mask by a cascade's bundle or a classical tool; the mask before refinement is kept "
        "as NAME.unrefined.tif.",
        panel="More",
    )
    """Method that refines the finished mask. The mask before refinement is kept beside it. None does not refine."""
    refine_weights: PathOption[str | None] = PathOption(
        None, BUNDLE, about="Bundle for --refine cascadepsp: a name or a folder.", panel="More", needs=CASCADE
    )
    """Bundle that `cascadepsp` uses."""
    refine_only: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Classes whose objects --refine cascadepsp refines, as names or indices, like building. Pixels that "
        "they lose get the next most probable class. Default: all.",
        panel="More",
        shown="",
        needs=CASCADE,
    )
    """Names or indices of the classes whose objects `cascadepsp` refines. Empty means all."""
    exports: Option[ExportOptions] = Option(
        ExportOptions(), EXPORTS, about="Formats besides the mask's own.", panel="Outputs", group=ExportOptions
    )
    """Formats besides the mask's own. They are made from the finished mask, which does not depend on them."""

    def __post_init__(self) -> None:
        if self.median is not None and self.median % 2 == 0:
            raise UsageError("--median is odd", value=self.median, advice="A median needs a centre: take one more")
        for option, value, unit in (
            ("--mpp", self.mpp, "um"),
            ("--gsd", self.gsd, "m"),
            ("--slide-mpp", self.slide_mpp, "um, or m on maps"),
        ):
            if value is not None and not 0 < value < 10**6:
                raise UsageError(f"{option} is a positive size in {unit}", value=float(value))
        if self.mag is not None and not 0 < self.mag <= LARGEST_MAGNIFICATION:
            raise UsageError("--mag is a positive magnification", value=float(self.mag), advice="Write --mag 20")
        for option, is_given, what in (
            ("--refine-weights", self.refine_weights is not None, "the bundle"),
            ("--refine-only", bool(self.refine_only), "the classes"),
        ):
            if is_given and self.refine != "cascadepsp":
                raise UsageError(
                    f"{option} names {what} of --refine cascadepsp",
                    value=f"--refine {self.refine or 'left out'}",
                    advice="Leave it out, or add --refine cascadepsp",
                )
        given = [f"--{name} {float(getattr(self, name)):g}" for name in READING if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                "--mpp, --gsd, --level and --mag each say at which size of a pixel to read",
                value=" and ".join(given),
                advice="Give one of them, here or in the environment",
            )

    @property
    def reading(self) -> str | None:
        """The option that sets the pixel size at which images are read, as text of the command line; None if unset."""
        name = next((name for name in READING if getattr(self, name) is not None), None)
        return None if name is None else f"--{name} {float(getattr(self, name)):g}"


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The options that a stage needs, with every default filled in."""

    method: Method
    merge: Merge
    points: Rule
    patches: Rule
    median: int
    margin: int
    compat: Compat = "paper"
    select: Select = "uncertainty"

    @property
    def refines(self) -> bool:
        """Whether later stages change the result of earlier ones."""
        return self.method in ("magnet", "magnet-fast", "grnet")

    @property
    def ranks(self) -> bool:
        """Whether points or windows are ranked against each other inside a block."""
        return self.points.kind in ("count", "share") or self.patches.kind in ("count", "share")

    @property
    def score_side(self) -> int:
        """Side of the median filter that the selection of points needs; 1 where every point is selected."""
        return 1 if self.points.kind == "all" else self.median

    def describe(self) -> dict[str, object]:
        """The settings as JSON values."""
        return {
            "method": self.method,
            "merge": self.merge,
            "points": self.points.spelled("q"),
            "patches": self.patches.spelled(limited(self.select)),
            "select": self.select,
            "median": self.median,
            "margin": self.margin,
            "compat": self.compat,
        }


@dataclass(frozen=True, kw_only=True)
class BundleDefaults:
    """Values that a bundle recommends for options that are not given."""

    scales: tuple[Size, ...] = field(default=())
    merge: Merge = "mean"
    points: Rule = ALL
    patches: Rule = ALL
    median: int = 11
    margin: int = 0

    @classmethod
    def parse(cls, *, scales: tuple[Size, ...], magnet: dict[str, object]) -> Self:
        """Create the defaults from a bundle's scales and from the `magnet` object of its `bundle.json`."""
        return cls(
            scales=scales,
            merge=cast("Merge", magnet.get("merge", "mean")),
            points=parse_points(str(magnet.get("points", "all"))),
            patches=parse_patches(str(magnet.get("patches", "all"))),
            median=int(str(magnet.get("median", 11))),
            margin=int(str(magnet.get("margin", 0))),
        )
