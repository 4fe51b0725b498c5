"""Options of `magnet segment`, parsed and checked without opening a file or a device."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args

from magnet_cli.errors import UsageError
from magnet_cli.options.export import EXPORTS, ExportOptions
from magnet_cli.options.foreign_network import FOREIGN, NetworkOptions
from magnet_cli.options.forms import BUNDLE, CLASSES, NUMBER, RASTER, SWITCH, WHOLE, choice
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, PathOption
from magnet_cli.options.regions import REGION
from magnet_cli.options.rules import BUDGET, OVERLAP, PATCHES, POINTS, Rule, Select, spell_rule, threshold_letter
from magnet_cli.options.scales import SCALES
from magnet_cli.options.shared import WEIGHTS_HELP, BandOptions, EngineOptions, MachineOptions, RunOptions, ViewOptions

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    from magnet_cli.geometry import Box, Size
    from magnet_cli.options.lengths import PhysicalScales

Method = Literal["magnet", "magnet-fast", "patch", "downsample", "grnet", "grnet-local"]
Merge = Literal["refiner", "mean", "certainty", "geometric"]
Blend = Literal["linear", "spline", "none"]
Tta = Literal["none", "2", "4", "8"]
Compat = Literal["paper", "published", "published-unshifted"]
DeviceKind = Literal["cpu", "cuda", "mps"]
Tissue = Literal["auto", "otsu", "none"]
RefineMethod = Literal["cascadepsp", "guided", "crf"]
OF_GRNETS = ("grnet", "grnet-local")
"""Methods that need the bundle of a GRNet."""
OF_ONE_STAGE = ("patch", "downsample")
"""Methods that compute every window of a single stage, so that there is nothing to choose and nothing to merge."""
USED_BY: dict[str, tuple[Method, ...]] = {
    "points": ("magnet", "magnet-fast"),
    "patches": ("magnet-fast", "grnet"),
    "select": ("magnet-fast",),
    "budget": ("magnet-fast",),
    "merge": ("magnet", "magnet-fast"),
    "median": ("magnet", "magnet-fast"),
}
"""Methods on whose masks an option has an effect, for options that do not concern every method."""
DEFAULT_BLEND: Blend = "linear"
"""Weights of overlapping windows where `--blend` is not given."""
DEFAULT_BUNDLE = "aerial"
"""Bundle that is used where `--weights` is not given."""
DEFAULT_BUNDLE_NOTE = (
    f"Using the default bundle {DEFAULT_BUNDLE} (land cover in aerial photographs). Choose another with --weights."
)
"""Note for a user who gave no `--weights`."""
READING = ("mpp", "gsd", "level", "mag")
"""Options for the pixel size at which images are read; at most one of them may be given."""
LARGEST_MAGNIFICATION = 1000
"""Largest magnification that is accepted. Light cannot resolve more, so a larger number is a typing error."""
LAST_LEVEL = 1000
"""Largest level that is accepted."""
CASCADE = ("refine", "cascadepsp")
"""The option and the value that the options of a cascade as the last stage need."""


def _parse_batch_size(text: str, option: str) -> int | None:
    """Parse a number of patches; `auto` gives None.

    Raises:
        UsageError: The text is neither `auto` nor a whole number.
    """
    if text == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"{option} is auto or a whole number", value=repr(text), advice="Write -b 4")
    return int(text)


def _not_of(name: str) -> tuple[str, tuple[str, ...]]:
    """Return when the environment variable of an option is ignored: where a method is typed that does not use it."""
    return "method", tuple(method for method in get_args(Method) if method not in USED_BY[name])


def _spell_patches(rule: Rule, options: SegmentOptions) -> str:
    return spell_rule(rule, threshold_letter(options.select))


BATCH_SIZE = Form(parse=_parse_batch_size, types=(Integral,), convert=int, metavar="N")


@dataclass(kw_only=True, unsafe_hash=True)
class SegmentOptions(BandOptions, EngineOptions, MachineOptions, RunOptions, ViewOptions, panel="Method"):
    """All options of `segment`. None leaves the choice to the bundle or the machine.

    Each option accepts a value, or the text that the command line takes: `SegmentOptions(scales="625,1250")`.
    """

    weights: PathOption[str | None] = PathOption(None, BUNDLE, about=WEIGHTS_HELP, rank=1, rival="model")
    """Name of a shipped bundle, or path of a bundle's folder. None uses `DEFAULT_BUNDLE`, with a message."""
    foreign: Option[NetworkOptions] = Option(
        NetworkOptions(),
        FOREIGN,
        about="A network from elsewhere.",
        panel="Network from elsewhere",
        group=NetworkOptions,
    )
    """A network that another library saved, in place of a bundle, and the facts that its files may lack."""
    scales: ListOption[tuple[Size, ...] | PhysicalScales | Literal["auto", "full"] | None] = ListOption(
        None,
        SCALES,
        about="Window sides in any order, in pixels or with a unit: 625,1250, 256x128,512x256 or 320um,640um; or "
        "auto, or full. Default: the bundle's.",
        rank=2,
    )
    method: Option[Method] = Option("magnet", choice(Method), about="How images are segmented.", rank=3)
    points: NumericOption[Rule | None] = NumericOption(
        None, POINTS, about="Pixels that a stage may change: all, 32768, 75% or q>0.2.", unless=_not_of("points")
    )
    patches: NumericOption[Rule | None] = NumericOption(
        None,
        PATCHES,
        about="Windows that a stage of magnet-fast computes: all, 3, 4,4,8, 25%, u>0.1 or w>0.1; for grnet: selector "
        "or all.",
        spelled=_spell_patches,
        unless=_not_of("patches"),
    )
    select: Option[Select | None] = Option(
        None,
        choice(Select),
        about="Score by which magnet-fast ranks windows: uncertainty, change in the last stage, both, or ppn (the "
        "bundle's selector).",
        unless=_not_of("select"),
    )
    """Score by which windows are ranked: the mean uncertainty of the probabilities so far, the change of the
    probabilities in the last stage, the product of both, or the score of the bundle's selector (a patch proposal
    network)."""
    budget: NumericOption[Fraction | None] = NumericOption(
        None,
        BUDGET,
        about="Share of all windows that magnet-fast computes, coarse stages first.",
        unless=_not_of("budget"),
    )
    """Share of the windows of all stages of the whole image that is computed. Coarse stages are filled first; in a
    stage that cannot be filled, the windows with the highest score by `select` are computed."""
    merge: Option[Merge | None] = Option(
        None,
        choice(Merge),
        about="How a stage joins its result with the one before: by the refiner network, the mean, the mean "
        "weighted by certainty, or the geometric mean.",
        unless=_not_of("merge"),
    )
    median: Option[int | None] = Option(
        None,
        WHOLE,
        about="Odd side of the points' median filter, in network pixels.",
        least=1,
        unless=_not_of("median"),
    )
    overlap: NumericOption[Rule | None] = NumericOption(
        None,
        OVERLAP,
        about="How far neighbouring windows overlap: a share of the window, as 12.5%, or network pixels, as 32.",
        unless=("compat", ("published", "published-unshifted")),
    )
    blend: Option[Blend | None] = Option(
        None,
        choice(Blend),
        about="Shape of the weights with which overlapping windows are joined; none gives each pixel to one window.",
        unless=("overlap", ("0", "0%")),
    )
    tta: Option[Tta] = Option(
        "none",
        choice(Tta),
        about="Average the backbone's result over mirror images: 2 (left to right), 4 (also top to bottom) or 8 (also "
        "transposed).",
    )
    """Test-time augmentation. Each window takes as many forward passes."""
    compat: Option[Compat | None] = Option(
        None, choice(Compat), about="Compute as the paper says, or as the published program does."
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
    mask: PathOption[Path | str | None] = PathOption(
        None, RASTER, about="Segment only where this raster, of any size, is not zero.", panel="Where to look"
    )
    """Path or URL of a raster of the image's shape and any size. Only places where it is not zero are segmented."""
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
        default=False, form=SWITCH, about="Also write class probabilities.", panel="Outputs"
    )
    uncertainty: Option[bool] = Option(default=False, form=SWITCH, about="Also write the uncertainty.", panel="Outputs")
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
            raise UsageError(
                "--median is odd",
                value=self.median,
                advice=f"Write --median {self.median + 1}: a median needs a centre",
            )
        for option, value, unit in (
            ("--mpp", self.mpp, "um"),
            ("--gsd", self.gsd, "m"),
            ("--slide-mpp", self.slide_mpp, "um, or m on maps"),
        ):
            if value is not None and not 0 < value < 10**6:
                raise UsageError(
                    f"{option} is a positive size in {unit}",
                    value=float(value),
                    advice="Write a positive number, such as 0.5",
                )
        if self.mag is not None and not 0 < self.mag <= LARGEST_MAGNIFICATION:
            raise UsageError("--mag is a positive magnification", value=float(self.mag), advice="Write --mag 20")
        if self.level is not None and self.level > LAST_LEVEL:
            raise UsageError(f"--level is at most {LAST_LEVEL}", advice="Write --level 2")
        for option, is_given, what in (
            ("--refine-weights", self.refine_weights is not None, "the bundle"),
            ("--refine-only", bool(self.refine_only), "the classes"),
        ):
            if is_given and self.refine != "cascadepsp":
                raise UsageError(
                    f"{option} names {what} of --refine cascadepsp",
                    value=f"--refine {self.refine or 'left out'}",
                    advice=f"Leave {option} out, or add --refine cascadepsp",
                )
        given = [f"--{name} {float(getattr(self, name)):g}" for name in READING if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                "--mpp, --gsd, --level and --mag each say at which size of a pixel to read",
                value=" and ".join(given),
                advice="Give only one of --mpp, --gsd, --level and --mag, here or in the environment",
            )

    @property
    def reading(self) -> str | None:
        """The option that sets the pixel size at which images are read, as text of the command line; None if unset."""
        name = next((name for name in READING if getattr(self, name) is not None), None)
        return None if name is None else f"--{name} {float(getattr(self, name)):g}"

    def of_method(self, method: Method, *, among: tuple[Method, ...]) -> SegmentOptions:
        """Return the options by which one of several methods segments, without those that concern others of them alone.

        An option that concerns none of the methods stays, and the run refuses it.

        Args:
            method: The method.
            among: All methods for which the options are given.
        """
        idle: dict[str, Any] = {
            name: None for name, users in USED_BY.items() if method not in users and set(users) & set(among)
        }
        return replace(self, method=method, **idle)
