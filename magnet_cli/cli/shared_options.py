"""The options that commands share, spelled once, each with its environment variable."""

from __future__ import annotations

import re
from enum import StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from magnet_cli.errors import UsageError
from magnet_cli.options.refine import OF_CASCADE, RefineOptions, parse_classes, parse_padding
from magnet_cli.options.segment import (
    READING,
    ExportOptions,
    SegmentOptions,
    parse_budget,
    parse_formats,
    parse_patches,
    parse_points,
    parse_roi,
    parse_scales,
)
from magnet_cli.options.values import parse_bands, parse_value_range
from magnet_cli.system.memory import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from magnet_cli.options import refine as refining
    from magnet_cli.options import segment as options

T = TypeVar("T")


class Method(StrEnum):
    """How stages follow one another."""

    MAGNET = "magnet"
    MAGNET_FAST = "magnet-fast"
    PATCH = "patch"
    DOWNSAMPLE = "downsample"
    GRNET = "grnet"
    GRNET_LOCAL = "grnet-local"


class Merge(StrEnum):
    """How a stage's prediction and the field become one."""

    REFINER = "refiner"
    MEAN = "mean"
    CERTAINTY = "certainty"


class Compat(StrEnum):
    """Whose arithmetic."""

    PAPER = "paper"
    PUBLISHED = "published"
    PUBLISHED_UNSHIFTED = "published-unshifted"


class Precision(StrEnum):
    """Of what happens inside the networks."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Tissue(StrEnum):
    """Where tissue is looked for."""

    AUTO = "auto"
    OTSU = "otsu"
    NONE = "none"


class Select(StrEnum):
    """What windows are compared by."""

    UNCERTAINTY = "uncertainty"
    CHANGE = "change"
    BOTH = "both"
    PPN = "ppn"


class Refine(StrEnum):
    """What sharpens a finished mask."""

    CASCADEPSP = "cascadepsp"
    GUIDED = "guided"
    CRF = "crf"


class MaskKind(StrEnum):
    """How the values of a mask are read."""

    AUTO = "auto"
    BINARY = "binary"
    LABELS = "labels"
    PROBABILITY = "probability"


class OnError(StrEnum):
    """What a failed image does to those after it."""

    SKIP = "skip"
    FAIL = "fail"


Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, folders, glob patterns or URLs.")]
Weights = Annotated[str | None, typer.Option(help="A shipped bundle's name or a folder.", envvar="MAGNET_WEIGHTS")]
Scales = Annotated[
    str | None,
    typer.Option(
        help="Window sides in pixels or with a unit, any order: 625,1250, 256x128,512x256, 320um,640um; auto; full. "
        "Default: the bundle's.",
        envvar="MAGNET_SCALES",
    ),
]
MethodOption = Annotated[Method, typer.Option("--method", help="Which windows are looked at.", envvar="MAGNET_METHOD")]
Points = Annotated[
    str | None, typer.Option(help="Pixels a stage may change: all, 32768, 75%, q>0.2.", envvar="MAGNET_POINTS")
]
Patches = Annotated[
    str | None,
    typer.Option(
        help="Windows a stage of magnet-fast looks at: all, 3, 4,4,8, 25%, u>0.1, w>0.1; of grnet: selector, all.",
        envvar="MAGNET_PATCHES",
    ),
]
SelectOption = Annotated[
    Select | None,
    typer.Option(
        "--select",
        help="How magnet-fast compares windows; change: by what the last stage did; ppn: by the bundle's selector.",
        envvar="MAGNET_SELECT",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Share of an image's windows for magnet-fast, coarse ones first.", envvar="MAGNET_BUDGET"),
]
MergeOption = Annotated[
    Merge | None,
    typer.Option(
        "--merge", help="The refiner network, the mean of both, or their mean by certainty.", envvar="MAGNET_MERGE"
    ),
]
Median = Annotated[int | None, typer.Option(help="Side of the score's median, odd.", envvar="MAGNET_MEDIAN")]
Margin = Annotated[
    int | None, typer.Option(help="Rim of a patch that is thrown away, in network pixels.", envvar="MAGNET_MARGIN")
]
CompatOption = Annotated[
    Compat | None,
    typer.Option("--compat", help="The paper's method, or the published program's.", envvar="MAGNET_COMPAT"),
]
Mpp = Annotated[str | None, typer.Option(help="Read at this pixel size in um.", envvar="MAGNET_MPP")]
Gsd = Annotated[str | None, typer.Option(help="Read at this pixel size on the ground, in m.", envvar="MAGNET_GSD")]
Level = Annotated[
    int | None, typer.Option(min=0, help="Read at the pixel size of this stored level.", envvar="MAGNET_LEVEL")
]
Mag = Annotated[str | None, typer.Option(help="Read at this magnification, like 20.", envvar="MAGNET_MAG")]
SlideMpp = Annotated[
    str | None,
    typer.Option(
        help="Pixel size of the file in um (m on maps), where it lacks it or is wrong.", envvar="MAGNET_SLIDE_MPP"
    ),
]
Roi = Annotated[
    str | None, typer.Option(help="Look only here: x,y,width,height or a .geojson file.", envvar="MAGNET_ROI")
]
Mask = Annotated[
    Path | None, typer.Option(help="Look only where this raster of any size is not zero.", envvar="MAGNET_MASK")
]
TissueOption = Annotated[
    Tissue,
    typer.Option("--tissue", help="Look only at tissue: auto is on slides, otsu anywhere.", envvar="MAGNET_TISSUE"),
]
Bands = Annotated[
    str | None,
    typer.Option(
        help="The image's bands in the bundle's order, by number (from 1) or name: 4,3,2. Default: by name or count.",
        envvar="MAGNET_BANDS",
    ),
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        help="Stored values for the ends of the bundle's range: 0,10000; percentiles of each band: 2%,98%; or dtype. "
        "Default: the bundle's.",
        envvar="MAGNET_VALUE_RANGE",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="MAGNET_DEVICE")]
Gpu = Annotated[int | None, typer.Option(min=0, help="Short for --device cuda:N.", envvar="MAGNET_GPU")]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Of the networks' arithmetic.", envvar="MAGNET_PRECISION")
]
BatchSize = Annotated[
    str,
    typer.Option(
        "-b",
        "--batch-size",
        help="Patches a forward pass, or auto; fewer where memory is short.",
        envvar="MAGNET_BATCH_SIZE",
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        help="Threads that read ahead; 0 reads in turn. Default: 2, or for a GPU as many as there are cores, up to 16.",
        envvar="MAGNET_NUM_WORKERS",
        show_default=False,
    ),
]
GpuMemory = Annotated[str | None, typer.Option(help="Device memory, like 4GiB.", envvar="MAGNET_GPU_MEMORY")]
Memory = Annotated[str | None, typer.Option(help="Host memory, like 8GiB.", envvar="MAGNET_MEMORY")]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="Also write class probabilities.", envvar="MAGNET_PROBABILITIES")
]
Uncertainty = Annotated[
    bool, typer.Option("--uncertainty", help="Also write the uncertainty.", envvar="MAGNET_UNCERTAINTY")
]
RefineOption = Annotated[
    Refine | None,
    typer.Option(
        "--refine",
        help="Refine the finished mask by a cascade's bundle or a classical tool; the mask before is kept as "
        "NAME.unrefined.tif.",
        envvar="MAGNET_REFINE",
    ),
]
RefineWeights = Annotated[
    str | None,
    typer.Option(help="The bundle of --refine cascadepsp: a name or a folder.", envvar="MAGNET_REFINE_WEIGHTS"),
]
RefineOnly = Annotated[
    str | None,
    typer.Option(
        help="Classes whose objects --refine cascadepsp refines, as names or indices: building. What they give up goes "
        "to the next most probable class. Default: all.",
        envvar="MAGNET_REFINE_ONLY",
    ),
]
MaskKindOption = Annotated[
    MaskKind,
    typer.Option(
        "--mask-kind",
        help="How the mask's values are read; auto says what it took them for.",
        envvar="MAGNET_MASK_KIND",
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(help="Of a probability: above it is the object. Default: 0.5.", envvar="MAGNET_THRESHOLD"),
]
Side = Annotated[
    int | None,
    typer.Option(
        "--L",
        help="Side in pixels at which objects and windows are looked at. Default: the bundle's.",
        envvar="MAGNET_L",
    ),
]
Fast = Annotated[
    bool, typer.Option("--fast", help="Look at objects as a whole alone, at --L pixels.", envvar="MAGNET_FAST")
]
LeastArea = Annotated[int, typer.Option("--min-area", min=0, help="Objects of fewer pixels are left as they are.")]
Padding = Annotated[
    str, typer.Option(help="What is looked at around an object, a share of its size.", envvar="MAGNET_PADDING")
]
Objects = Annotated[
    str | None,
    typer.Option(
        "--object",
        help="Classes of a mask of several that are the object together, as names or indices: building. All "
        "else is what is around it, and the result is a mask of the two.",
        envvar="MAGNET_OBJECT",
    ),
]
Overlay = Annotated[
    bool,
    typer.Option("--overlay", help="Also draw the mask over the image, as NAME.overlay.png.", envvar="MAGNET_OVERLAY"),
]
Html = Annotated[bool, typer.Option("--html", help="Also write a page to look at, as NAME.html.", envvar="MAGNET_HTML")]
Simplify = Annotated[
    str | None,
    typer.Option(help="Pixels by which polygons may move to have fewer corners.", envvar="MAGNET_SIMPLIFY"),
]
MinArea = Annotated[
    int, typer.Option(min=0, help="Leave out polygons of fewer pixels than this.", envvar="MAGNET_MIN_AREA")
]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where an interrupted run stopped, or begin again.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.", envvar="MAGNET_JSON")]
NoProgress = Annotated[
    bool, typer.Option("--no-progress", help="No progress bar, on a terminal either.", envvar="MAGNET_NO_PROGRESS")
]


def number(text: str, option: str) -> Fraction:
    """An exact decimal number.

    Raises:
        UsageError: It is none.
    """
    if not re.fullmatch(r"\d{1,9}(\.\d{0,30})?|\.\d{1,30}", text.strip()):
        raise UsageError(f"{option} is a positive decimal number", value=repr(text), advice=f"Write {option} 0.5")
    return Fraction(text.strip())


def batch_size(text: str) -> int | None:
    """`auto` or a whole number.

    Raises:
        UsageError: It is neither.
    """
    if text == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError("--batch-size is auto or a whole number", value=repr(text), advice="Write -b 4")
    return int(text)


def device_name(context: typer.Context) -> str:
    """The device that `--device` and `--gpu` name; the command line beats the environment.

    Raises:
        UsageError: Both are given, and in the same place.
    """
    device, gpu = context.params.get("device"), context.params.get("gpu")
    if gpu is None:
        return device or "auto"
    if device is not None and is_typed(context, "device") == is_typed(context, "gpu"):
        raise UsageError(
            "--gpu N is short for --device cuda:N",
            value=f"--device {device} and --gpu {gpu}",
            advice="Give one of them, here or in MAGNET_DEVICE and MAGNET_GPU",
        )
    return device if device is not None and is_typed(context, "device") else f"cuda:{gpu}"


def simplification(text: str | None) -> Fraction:
    """Pixels, 0 where nothing is given.

    Raises:
        UsageError: It is no number.
    """
    return Fraction(0) if text is None else number(text, "--simplify")


def polygon_options(context: typer.Context, formats: tuple[options.ExportFormat, ...]) -> ExportOptions:
    """Formats, and how polygons are written: from the environment only where there are any.

    Raises:
        UsageError: The command line says something of polygons and asks for none, or a word cannot be understood.
    """
    simplify, min_area = (
        context.params.get(name) if "geojson" in formats or is_typed(context, name) else None
        for name in ("simplify", "min_area")
    )
    return ExportOptions(formats=formats, simplify=simplification(simplify), min_area=min_area or 0)


def export_options(context: typer.Context) -> ExportOptions:
    """The formats that a finished mask is written in besides its own.

    Raises:
        UsageError: A word cannot be understood, or says nothing about the formats asked for.
    """
    given = context.params
    formats = parse_formats(given.get("format_") or "tiff", also=("tiff",))
    if given.get("geojson") and "geojson" not in formats:
        formats = (*formats, "geojson")
    return polygon_options(context, formats)


def segment_options(context: typer.Context) -> SegmentOptions:
    """The options of `segment`, `plan`, `evaluate` and `bench` from their words; a command may lack some of them.

    Raises:
        UsageError: A word cannot be understood; the message says how it is written.
    """
    given = context.params
    return SegmentOptions(
        weights=given["weights"],
        scales=_maybe(parse_scales, given["scales"]),
        method=cast("options.Method", str(given.get("method", Method.MAGNET))),
        points=_maybe(parse_points, given["points"]),
        patches=_maybe(parse_patches, given["patches"]),
        select=cast("options.Select | None", _maybe(str, given.get("select"))),
        budget=_maybe(parse_budget, given.get("budget")),
        merge=cast("options.Merge | None", _maybe(str, given["merge"])),
        median=given["median"],
        margin=given["margin"],
        compat=cast("options.Compat | None", _maybe(str, given.get("compat"))),
        **_reading(context),
        slide_mpp=_maybe(partial(number, option="--slide-mpp"), given["slide_mpp"]),
        bands=_maybe(parse_bands, given["bands"]),
        value_range=_maybe(parse_value_range, given["value_range"]),
        roi=_maybe(parse_roi, given.get("roi")),
        mask=given.get("mask"),
        # A comparison with the truth is about every pixel that the truth labels.
        tissue=cast("options.Tissue", str(given.get("tissue", Tissue.NONE))),
        device=device_name(context),
        precision=cast("options.Precision", str(given["precision"])),
        batch_size=batch_size(given["batch_size"]),
        num_workers=given["num_workers"],
        gpu_memory=_maybe(partial(parse_bytes, option="--gpu-memory"), given["gpu_memory"]),
        memory=_maybe(partial(parse_bytes, option="--memory"), given["memory"]),
        probabilities=given.get("probabilities", False),
        uncertainty=given.get("uncertainty", False),
        refine=cast("options.RefineMethod | None", _maybe(str, given.get("refine"))),
        refine_weights=_of_cascade(context, "refine_weights"),
        refine_only=parse_classes(_of_cascade(context, "refine_only"), "--refine-only"),
        overlay=given.get("overlay", False),
        html=given.get("html", False),
        exports=export_options(context),
        overwrite=given.get("overwrite", False),
        resume=given.get("resume", True),
    )


def refine_options(context: typer.Context) -> RefineOptions:
    """The options of `refine` and `bench` from their words; a command may lack some of them.

    Raises:
        UsageError: A word cannot be understood; the message says how it is written.
    """
    given = context.params
    method = str(given.get("method", Refine.CASCADEPSP))
    if method != Refine.CASCADEPSP:
        # What the environment says of cascades is none of a classical tool's business.
        given = given | {
            str(entry.name): entry.default
            for entry in context.command.params
            if entry.name in OF_CASCADE and not is_typed(context, entry.name)
        }
    classes = _chosen_classes(context, given)
    return RefineOptions(
        method=cast("options.RefineMethod", method),
        evidence=given.get("evidence"),
        weights=given["weights"],
        side=given["side"],
        fast=given["fast"],
        mask_kind=cast("refining.MaskKindOption", str(given["mask_kind"])),
        threshold=_maybe(partial(number, option="--threshold"), given["threshold"]),
        objects=parse_classes(classes.get("objects"), "--object"),
        only=parse_classes(classes.get("only"), "--only"),
        stuff=parse_classes(given.get("stuff"), "--stuff"),
        min_area=given["min_area"],
        padding=parse_padding(given["padding"]),
        bands=_maybe(parse_bands, given["bands"]),
        value_range=_maybe(parse_value_range, given["value_range"]),
        compat=cast("refining.CompatOption | None", _maybe(str, given.get("compat"))),
        device=device_name(context),
        precision=cast("options.Precision", str(given["precision"])),
        num_workers=given["num_workers"],
        gpu_memory=_maybe(partial(parse_bytes, option="--gpu-memory"), given["gpu_memory"]),
        memory=_maybe(partial(parse_bytes, option="--memory"), given["memory"]),
        overwrite=given.get("overwrite", False),
        resume=given.get("resume", True),
    )


def _reading(context: typer.Context) -> dict[str, Any]:
    """At which size of a pixel to read; the command line beats the environment."""
    given = {name: context.params[name] for name in READING if context.params.get(name) is not None}
    typed = {name: value for name, value in given.items() if is_typed(context, name)}
    return {
        name: number(value, f"--{name}") if isinstance(value, str) else value
        for name, value in (typed or given).items()
    }


def _chosen_classes(context: typer.Context, given: Mapping[str, Any]) -> dict[str, str]:
    """Which classes are the object, or are refined alone; what is typed beats what the environment says otherwise."""
    found = {name: given[name] for name in ("objects", "only") if given.get(name) is not None}
    typed = {name: value for name, value in found.items() if is_typed(context, name)}
    is_one = given["mask_kind"] in (MaskKind.BINARY, MaskKind.PROBABILITY) and is_typed(context, "mask_kind")
    return typed if typed or is_one else found


def _of_cascade(context: typer.Context, name: str) -> str | None:
    """An option of a cascade as the last stage: from the environment only where there is such a stage."""
    counts = context.params.get("refine") is Refine.CASCADEPSP or is_typed(context, name)
    return context.params.get(name) if counts else None


def _maybe(parse: Callable[[str], T], text: str | None) -> T | None:
    return None if text is None else parse(text)


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, rather than in the environment or nowhere."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
