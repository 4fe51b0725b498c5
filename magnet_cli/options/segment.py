"""What a user may choose, parsed and checked: one frozen value an option, no files and no devices."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeVar, cast

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.options.lengths import OTHER_SPELLINGS, UM_OF, UNIT_PATTERN, PhysicalScales, PhysicalSize

if TYPE_CHECKING:
    from magnet_cli.options.values import ValueRange

Method = Literal["magnet", "magnet-fast", "patch", "downsample", "grnet", "grnet-local"]
Merge = Literal["refiner", "mean", "certainty"]
Compat = Literal["paper", "published", "published-unshifted"]
Precision = Literal["float32", "bfloat16", "float16"]
DeviceKind = Literal["cpu", "cuda", "mps"]
ExportFormat = Literal["cog", "ome-tiff", "ome-zarr", "geojson"]
Tissue = Literal["auto", "otsu", "none"]
RuleKind = Literal["all", "count", "share", "threshold", "budget", "selector"]
RefineMethod = Literal["cascadepsp", "guided", "crf"]
Select = Literal["uncertainty", "change", "both", "ppn"]

OF_GRNETS = ("grnet", "grnet-local")
"""Methods for the bundles of GRNets alone."""
DEFAULT_BUNDLE = "aerial"
"""What `--weights` is where nobody says."""

# Numbers are short: Python refuses to parse a few thousand digits, and an exponent could ask for any amount of memory.
_DECIMAL = r"\d{1,9}(?:\.\d{0,30})?|\.\d{1,30}"
_SCALE = re.compile(rf"({_DECIMAL})(?:x({_DECIMAL}))?(?:\s*({UNIT_PATTERN}))?")
_THRESHOLD = re.compile(rf"([quw])>({_DECIMAL})")
_SHARE = re.compile(rf"({_DECIMAL})(%?)")
_COUNT = re.compile(r"\d{1,18}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How many points or windows of a stage are chosen."""

    kind: RuleKind
    values: tuple[Fraction, ...] = ()
    """One for every refining stage (the last serves the stages after it); empty for `all` and `selector`."""

    def __str__(self) -> str:
        return self.spelled("")

    def spelled(self, letter: str) -> str:
        """As the command line spells it; `letter` is what a threshold compares, `q`, `u` or `w`."""
        if self.kind in ("all", "selector"):
            return self.kind
        if self.kind == "count":
            return ",".join(str(value) for value in self.values)
        value = self.values[0]
        if self.kind == "threshold":
            return f"{letter}>{float(value):g}"
        return f"{float(value * 100):g}%" + (" of the image" if self.kind == "budget" else "")

    def value(self, step: int) -> Fraction:
        """The value for a refining stage, 0 being the first of the run."""
        return self.values[min(step, len(self.values) - 1)]


ALL = Rule(kind="all")
SELECTOR = Rule(kind="selector")
"""Windows alone: a network chooses."""


def parse_points(text: str) -> Rule:
    """`all`, `32768`, `75%`, `0.75` or `q>0.2`.

    Raises:
        UsageError: The text is none of these.
    """
    return _parse_rule(text, option="--points", letters="q", several=False)


def parse_patches(text: str) -> Rule:
    """`all`, `3`, `4,4,8`, `25%`, `u>0.1`, `w>0.1` or `selector`; both limits are of what `--select` names.

    Raises:
        UsageError: The text is none of these.
    """
    return _parse_rule(text, option="--patches", letters="uw", several=True)


def limited(select: Select | None) -> str:
    """The letter of what a limit on windows compares: `u`, their uncertainty, or `w`, another worth."""
    return "u" if select in (None, "uncertainty") else "w"


def parse_budget(text: str) -> Fraction:
    """`20%`, `0.2` or `1`: a share of an image's windows.

    Raises:
        UsageError: The text is neither.
    """
    word = text.strip().replace(" ", "")
    share = Fraction(1) if word == "1" else _share(word)
    if share is None:
        raise UsageError("--budget is a share of the image's windows", value=repr(text), advice="Write --budget 20%")
    return share


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
    """`625,1250`, `256x128,512x256`, `320um,0.64mm`, `auto` or `full`; in any order.

    Returns:
        The sides, coarsest first, in working-grid pixels or with their units; or the word.

    Raises:
        UsageError: Not a number, smaller than a pixel, repeated, neither larger nor smaller than another, or some with
            a unit and some without.
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
    """Coarsest first.

    Raises:
        UsageError: Two are the same, or neither holds the other.
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


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{option} is at least {least}", value=value)


EXPORT_FORMATS: tuple[ExportFormat, ...] = ("cog", "ome-tiff", "ome-zarr", "geojson")
EXPORT_SUFFIXES: dict[ExportFormat, str] = {
    "cog": ".cog.tif",
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
    "geojson": ".geojson",
}
"""What an export's name ends in, after the mask's name without its suffix."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which other formats a mask is written in, and how."""

    formats: tuple[ExportFormat, ...] = ()
    simplify: Fraction = Fraction(0)
    """Of polygons: how far, in pixels, an outline may move so that it has fewer corners."""
    min_area: int = 0
    """Of polygons: smaller ones, in pixels, are left out."""

    def __post_init__(self) -> None:
        _at_least("--min-area", self.min_area, 0)
        if (self.simplify or self.min_area) and "geojson" not in self.formats:
            raise UsageError(
                "--simplify and --min-area are for polygons",
                value=f"formats {', '.join(self.formats) or 'none'}",
                advice="Add geojson to the formats, or leave them out",
            )


def parse_formats(text: str, *, also: tuple[str, ...] = ()) -> tuple[ExportFormat, ...]:
    """`cog,geojson`: each format once, in the order of `EXPORT_FORMATS`.

    Args:
        text: Words with commas between them.
        also: Further words that are understood, and left out of what is returned.

    Raises:
        UsageError: A word names no format.
    """
    words = [word.strip().lower() for word in text.split(",")]
    known = (*also, *EXPORT_FORMATS)
    wrong = [word for word in words if word not in known]
    if wrong:
        raise UsageError(
            f"--format is one or more of {', '.join(known)}", value=repr(wrong[0]), advice="Write --format cog,geojson"
        )
    return tuple(name for name in EXPORT_FORMATS if name in words)


def parse_roi(text: str) -> Box | Path:
    """`x,y,width,height` in pixels of level 0, or the path of a GeoJSON file.

    Raises:
        UsageError: Neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if text.lower().endswith((".geojson", ".json")):
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
"""Options of which one at most says at which size of a pixel images are read."""
LARGEST_MAGNIFICATION = 1000
"""Beyond what light can show; a slip of the finger."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Everything that `segment` can be told; None leaves the choice to the bundle or the machine."""

    weights: str | None = None
    """None takes `DEFAULT_BUNDLE`, and says so."""
    scales: tuple[Size, ...] | PhysicalScales | Literal["auto", "full"] | None = None
    method: Method = "magnet"
    points: Rule | None = None
    patches: Rule | None = None
    select: Select | None = None
    """What windows are compared by: the mean uncertainty of what is known of them, how far the last step changed that,
    the product of both, or what the bundle's selector says (a patch proposal network)."""
    budget: Fraction | None = None
    """Of every stage after the first, compute this share of the windows of the whole image, the best by `select`."""
    merge: Merge | None = None
    median: int | None = None
    margin: int | None = None
    compat: Compat | None = None
    mpp: Fraction | None = None
    """Read every image at this size of a pixel, in um. One of `READING` alone may be given."""
    gsd: Fraction | None = None
    """Read every image at this size of a pixel on the ground, in m."""
    level: int | None = None
    """Read every image at the pixel size of this stored level, 0 being the full resolution."""
    mag: Fraction | None = None
    """Read every image as through an objective of this magnification."""
    slide_mpp: Fraction | None = None
    """The size of a level-0 pixel where the file lacks it or is wrong, in um, or in m for images of the ground."""
    roi: Box | Path | None = None
    """Look only here: a box of level 0, or a GeoJSON file of polygons."""
    mask: Path | None = None
    """Look only where this raster of the image's shape is not zero."""
    tissue: Tissue = "auto"
    """Look only at tissue: `auto` on slides, `otsu` on any image, `none` nowhere."""
    device: str = "auto"
    precision: Precision | Literal["auto"] = "auto"
    batch_size: int | None = None
    """Patches a forward pass, None for the bundle's; halved where memory runs out before anything is finished."""
    num_workers: int | None = None
    """Threads that read ahead; None for 2, and for as many as there are cores, up to 16, beside an accelerator."""
    gpu_memory: int | None = None
    """Bytes."""
    memory: int | None = None
    """Bytes."""
    probabilities: bool = False
    uncertainty: bool = False
    refine: RefineMethod | None = None
    """What the finished mask is refined by; the mask before is kept beside it."""
    refine_weights: str | None = None
    """The bundle of `cascadepsp`."""
    refine_only: tuple[str, ...] = ()
    """Names or indices of the classes whose objects `cascadepsp` refines; none: of all."""
    bands: tuple[str, ...] | None = None
    """For each of the bundle's bands one of the image's, by number (the first is 1) or name; None matches them."""
    value_range: ValueRange | None = None
    """The stored values that stand for the ends of the bundle's range; None takes them as the bundle has them."""
    overlay: bool = False
    """Beside the mask a picture of the image under the mask's colours; the mask does not depend on it."""
    html: bool = False
    """Beside the mask a page that shows what was found and how; the mask does not depend on it."""
    exports: ExportOptions = ExportOptions()
    """Formats besides the mask's own; made of the finished mask, which does not depend on them."""
    overwrite: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        _at_least("--batch-size", self.batch_size, 1)
        _at_least("--num-workers", self.num_workers, 0)
        _at_least("--margin", self.margin, 0)
        _at_least("--median", self.median, 1)
        if self.median is not None and self.median % 2 == 0:
            raise UsageError("--median is odd", value=self.median, advice="A median needs a centre: take one more")
        _at_least("--level", self.level, 0)
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
        """The option that says at which size of a pixel to read, as the command line spells it."""
        name = next((name for name in READING if getattr(self, name) is not None), None)
        return None if name is None else f"--{name} {float(getattr(self, name)):g}"


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The options that a stage needs, all of them resolved."""

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
        """Whether later stages change what earlier ones said."""
        return self.method in ("magnet", "magnet-fast", "grnet")

    @property
    def ranks(self) -> bool:
        """Whether points or windows are ranked against each other inside a block."""
        return self.points.kind in ("count", "share") or self.patches.kind in ("count", "share")

    @property
    def score_side(self) -> int:
        """Side of the median that a choice of points needs; 1 where every point is taken."""
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
    """What a bundle recommends where an option is left out."""

    scales: tuple[Size, ...] = field(default=())
    merge: Merge = "mean"
    points: Rule = ALL
    patches: Rule = ALL
    median: int = 11
    margin: int = 0

    @classmethod
    def parse(cls, *, scales: tuple[Size, ...], magnet: dict[str, object]) -> Self:
        """From the `magnet` object of a bundle."""
        return cls(
            scales=scales,
            merge=cast("Merge", magnet.get("merge", "mean")),
            points=parse_points(str(magnet.get("points", "all"))),
            patches=parse_patches(str(magnet.get("patches", "all"))),
            median=int(str(magnet.get("median", 11))),
            margin=int(str(magnet.get("margin", 0))),
        )
