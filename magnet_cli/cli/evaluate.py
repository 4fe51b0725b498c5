"""`magnet evaluate`: a mask against the truth, or the masks of a bundle's methods."""

# ruff: noqa: ARG001 - typer makes options of the parameters, words.py takes their values from the context
from __future__ import annotations

import json as json_format
import re
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from magnet_cli.cli import shared_options as words
from magnet_cli.cli.outcome import Listing, command, tell
from magnet_cli.errors import OutputError, UsageError, redacted

if TYPE_CHECKING:
    from magnet_cli.evaluation.boundary import RadiusRule
    from magnet_cli.evaluation.mask_scores import EvaluationOptions
    from magnet_cli.evaluation.method_scores import Scores
    from magnet_cli.options.segment import Method

PLOT = "distribution.png"
SCORES = "scores.json"
NOTHING_KEPT = "without -o no mask is kept: give -o a folder, and the same command goes on from there"
OF_A_MASK = ("mask", "truth", "classes", "roi")
"""What goes with MASK TRUTH alone."""
OF_DATA = (
    *("methods", "output", "plot", "iou_threshold", "overwrite", "no_progress"),
    *("scales", "points", "patches", "select", "budget", "merge", "median", "margin", "compat"),
    *("mpp", "gsd", "level", "mag", "slide_mpp", "bands", "value_range"),
    *("device", "gpu", "precision", "batch_size", "num_workers", "gpu_memory", "memory"),
)
"""What goes with --data alone."""


class Radii(StrEnum):
    """Within which boundary accuracy is measured."""

    FIXED = "fixed"
    PAPER = "paper"
    PUBLISHED = "published"


@command
def evaluate(
    context: typer.Context,
    mask: Annotated[
        Path | None, typer.Argument(metavar="MASK", help="Predicted classes: a raster of class indices.")
    ] = None,
    truth: Annotated[Path | None, typer.Argument(metavar="TRUTH", help="True classes, of the same size.")] = None,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Instead of MASK TRUTH: a CSV file, columns image, label, and name, roi where wanted, paths relative "
            "to it. Its images are segmented."
        ),
    ] = None,
    methods: Annotated[str, typer.Option(help="To compare, with --data.")] = "downsample,patch,magnet-fast,magnet",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help=f"Folder that keeps the masks of --data, so that the same command goes on, {SCORES}, and {PLOT} "
            "unless --plot names another file.",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of how the scores of --data spread.")] = None,
    iou_threshold: Annotated[
        float, typer.Option(help="An image's IoU below this counts as 0 in the thresholded mean.")
    ] = 0.65,
    ignore: Annotated[
        list[int] | None,
        typer.Option(help="Value of TRUTH that is not labelled, beside 255, which never is. Repeatable."),
    ] = None,
    exclude_class: Annotated[
        list[int] | None, typer.Option(help="Class left out of the mean, its pixels still count. Repeatable.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names in order: land,water,road.")] = None,
    weights: words.Weights = None,
    truth_values: Annotated[
        str | None, typer.Option(help="Classes of TRUTH stored otherwise, STORED=CLASS: 255=1.")
    ] = None,
    roi: Annotated[Path | None, typer.Option(help="Raster of that size: count where its first band is not 0.")] = None,
    mba: Annotated[
        bool | None,
        typer.Option("--mba/--no-mba", help="Mean boundary accuracy, on with --data.", show_default=False),
    ] = None,
    mba_radii: Annotated[
        Radii | None,
        typer.Option(
            help="Beside that within 3 to 13.65 pixels also within the paper's radii, which grow with the image as "
            "does the time for a pixel, or the published program's; fixed: neither. Default: paper, with --data fixed.",
            show_default=False,
        ),
    ] = None,
    scales: words.Scales = None,
    points: words.Points = None,
    patches: words.Patches = None,
    select: words.SelectOption = None,
    budget: words.Budget = None,
    merge: words.MergeOption = None,
    median: words.Median = None,
    margin: words.Margin = None,
    compat: words.CompatOption = None,
    mpp: words.Mpp = None,
    gsd: words.Gsd = None,
    level: words.Level = None,
    mag: words.Mag = None,
    slide_mpp: words.SlideMpp = None,
    bands: words.Bands = None,
    value_range: words.ValueRange = None,
    device: words.Device = None,
    gpu: words.Gpu = None,
    precision: words.PrecisionOption = words.Precision.AUTO,
    batch_size: words.BatchSize = "auto",
    num_workers: words.NumWorkers = None,
    gpu_memory: words.GpuMemory = None,
    memory: words.Memory = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks of other images or made with other options.")
    ] = False,
    json: words.Json = False,
    no_progress: words.NoProgress = False,
) -> int:
    """Compare a mask with the truth, or a bundle's methods with each other: IoU, F1, pixel and boundary accuracy.

    A class that neither has is left out of the mean; one that only the mask has counts as 0. Pixels of MASK that were
    not computed (255) are wrong where TRUTH is labelled.
    """
    with Listing(json=json) as listing:
        _refuse(context, OF_A_MASK if data is not None else OF_DATA, with_data=data is not None)
        if data is not None:
            return _evaluate_data(context, data, listing)
        if mask is None or truth is None:
            raise UsageError("needs MASK and TRUTH, or --data", advice="See magnet evaluate --help")
        options = _counting(context, mba=bool(mba), radii="paper", names=_names(context))
        from magnet_cli.cli.score_text import evaluation_text
        from magnet_cli.evaluation import mask_scores as evaluation

        found = evaluation.evaluate(mask, truth, options, roi=roi)
        listing.add({"mask": str(mask), "truth": str(truth), **found.describe()})
        if not json:
            tell(evaluation_text(found))
    return 0


def _refuse(context: typer.Context, names: tuple[str, ...], *, with_data: bool) -> None:
    for name in names:
        if words.is_typed(context, name):
            word = name.upper() if name in ("mask", "truth") else f"--{name.replace('_', '-')}"
            rule = "goes with MASK TRUTH, not with --data" if with_data else "goes with --data"
            raise UsageError(f"{word} {rule}", advice="See magnet evaluate --help")


def _counting(
    context: typer.Context, *, mba: bool, radii: RadiusRule, names: tuple[str, ...] | None
) -> EvaluationOptions:
    """What counts; `radii` are those that are taken where the command line names none."""
    given = context.params
    named: Radii | None = given["mba_radii"]
    values = parse_values(given["truth_values"] or "")
    from magnet_cli.evaluation.mask_scores import EvaluationOptions

    return EvaluationOptions(
        ignore=tuple(given["ignore"] or ()),
        exclude=tuple(given["exclude_class"] or ()),
        names=names,
        truth_values=values,
        boundary=(named.value if named else radii) if mba else None,
    )


def _evaluate_data(context: typer.Context, data: Path, listing: Listing) -> int:
    given = context.params
    methods = parse_methods(given["methods"])
    segment = words.segment_options(context)
    output: Path | None = given["output"]
    plot = _plot(given["plot"], output)
    counting = _counting(context, mba=given["mba"] is not False, radii="fixed", names=None)
    from magnet_cli.cli.progress import Display
    from magnet_cli.cli.score_text import scores_text
    from magnet_cli.evaluation import method_scores as scoring

    options = scoring.ScoreOptions(
        methods=methods, segment=segment, evaluation=counting, iou_threshold=given["iou_threshold"]
    )
    rows = []
    if output is not None:
        # Those of an earlier run say nothing of masks that this one replaces.
        for name in (SCORES, PLOT):
            with suppress(OSError):
                (output / name).unlink()
    try:
        with Display(enabled=not given["no_progress"]) as display:
            for row in scoring.score_each(data, output, options, events=display):
                rows.append(row)
                listing.add(row.describe(), row.error)
    except KeyboardInterrupt:
        if output is None:
            raise KeyboardInterrupt(NOTHING_KEPT) from None
        raise
    scores = scoring.Scores.of(rows, options)
    listing.more |= scores.describe()
    if not given["json"]:
        tell(scores_text(scores))
    if any(score.found for score in scores.methods):
        if output is not None:
            _keep(listing, output / SCORES)
        if plot is not None:
            _draw(scores, plot)
    return listing.exit_code


def _plot(named: Path | None, output: Path | None) -> Path | None:
    """Where the picture goes; its folder has to be there before any work, unless it is made for the masks."""
    if named is None:
        return output and output / PLOT
    if named.parent != output and not named.parent.is_dir():
        raise OutputError(
            "the plot's folder is missing", value=named.parent, advice="Make it, or choose another --plot"
        )
    return named


def _keep(listing: Listing, path: Path) -> None:
    from magnet_cli.system import durable

    durable.write_whole(path, redacted(json_format.dumps(listing.describe(), indent=1) + "\n").encode())


def _draw(scores: Scores, plot: Path) -> None:
    from magnet_cli.evaluation.plot import draw_distributions
    from magnet_cli.system import durable

    durable.write_whole(plot, draw_distributions(scores))


def parse_methods(text: str) -> tuple[Method, ...]:
    """`downsample,patch`: names of methods, in their order.

    Raises:
        UsageError: There is no such method, or it is named twice.
    """
    known = [method.value for method in words.Method]
    names = [part.strip().lower().replace("_", "-") for part in text.split(",")]
    if len(set(names)) < len(names) or not set(names) <= set(known):
        raise UsageError(f"--methods takes some of {', '.join(known)}, each once", value=repr(text))
    return cast("tuple[Method, ...]", tuple(names))


def parse_values(text: str) -> dict[int, int]:
    """`255=1,0=0`: label by stored value.

    Raises:
        UsageError: It is written otherwise, or names a value twice.
    """
    found: dict[int, int] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*(\d{1,3})\s*=\s*(\d{1,3})\s*", part)
        if match is None or int(match[1]) in found:
            raise UsageError("--truth-values takes pairs STORED=CLASS", value=repr(text), advice="Write 255=1,127=2")
        found[int(match[1])] = int(match[2])
    return found


def _names(context: typer.Context) -> tuple[str, ...] | None:
    """The names that the command line gives; a bundle of the environment is for segmenting."""
    classes: str | None = context.params["classes"]
    weights: str | None = context.params["weights"] if words.is_typed(context, "weights") else None
    if classes is not None and weights is not None:
        raise UsageError("class names are given by --classes or by --weights", advice="Give one of them")
    if weights is not None:
        from magnet_cli.models.bundle import load_bundle

        return tuple(entry.name for entry in load_bundle(weights).classes)
    if classes is None:
        return None
    names = tuple(name.strip() for name in classes.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError("--classes takes different names with commas between", value=repr(classes))
    return names
