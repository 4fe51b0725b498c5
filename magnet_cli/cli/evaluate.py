"""`magnet evaluate` compares a mask with the truth, or the methods of a bundle on labelled images."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.outcome import Listing, command, print_lines
from magnet_cli.cli.parameters import Given, Group, Json, NoProgress, is_typed, takes
from magnet_cli.errors import OutputError, UsageError, redacted
from magnet_cli.options.evaluate import EvaluationOptions, RadiusRule, ScoreOptions
from magnet_cli.options.option import Panel
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.system.address_space import check_address_space
from magnet_cli.system.private_names import PrivateNames
from magnet_cli.system.written_files import WrittenFile, refuse_collisions, refuse_unwritable

if TYPE_CHECKING:
    from magnet_cli.evaluation.method_scores import ImageScore, Scores

PLOT = "distribution.png"
SCORES = "scores.json"
SCORES_HEAD = re.compile(rb'\{\n "schema": \d+,\n "images": ')
NOTHING_KEPT = "without -o no mask is kept: give -o a folder, and the same command goes on from there"
OF_A_MASK = ("mask", "truth", "names", "roi")
"""Names of the parameters that need MASK TRUTH."""
OF_DATA = ("methods", "output", "plot", "iou_threshold", "no_progress")
"""Names of the parameters that need --data, besides the options of segmentation."""
COMPARED: Panel = "What to compare"


@command
@takes(
    counting=Group(options=EvaluationOptions, without=("boundary",)),
    scores=Group(options=ScoreOptions),
    options=Group(
        options=SegmentOptions,
        without=(
            *("foreign", "method", "roi", "mask", "tissue", "probabilities", "uncertainty"),
            *("refine", "refine_weights", "refine_only", "overlay", "html", "exports", "resume"),
        ),
    ),
)
def evaluate(
    context: typer.Context,
    mask: Annotated[
        str | None, typer.Argument(metavar="MASK", help="Predicted classes: a raster of class indices, a file or URL.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Argument(
            metavar="TRUTH",
            help="True classes: a raster of the same size, a file or URL, or a .geojson file of polygons, in which "
            "pixels count.",
        ),
    ] = None,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Instead of MASK TRUTH: a CSV file of images to segment, with the columns image and label, and "
            "optionally name, roi (a raster) and corrections (a .geojson file over the label). Paths are relative to "
            "the file.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help=f"Folder for the masks of --data, so that the same command can resume, for {SCORES}, and for {PLOT} "
            "unless --plot names another file.",
            rich_help_panel="Outputs",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file for a plot of the scores of --data.", rich_help_panel="Outputs")
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="BOX|FILE",
            help="Count only pixels of this region: x,y,width,height, a .geojson file, or a raster of the mask's size "
            "whose first band is not 0 inside.",
            rich_help_panel=COMPARED,
        ),
    ] = None,
    counting: Given[EvaluationOptions],
    scores: Given[ScoreOptions],
    mba: Annotated[
        bool | None,
        typer.Option(
            "--mba/--no-mba",
            help="Compute the mean boundary accuracy; the default with --data and with --mba-radii.",
            show_default=False,
            rich_help_panel=COMPARED,
        ),
    ] = None,
    mba_radii: Annotated[
        RadiusRule | None,
        typer.Option(
            help="Radii of boundary accuracy. fixed: 3 to 13.65 pixels; paper, published: also those of the paper, "
            "which grow with the image (as does the time), or of the published program. Default: paper; with --data "
            "fixed.",
            show_default=False,
            rich_help_panel=COMPARED,
        ),
    ] = None,
    options: Given[SegmentOptions],
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Compare a mask with the truth, or a bundle's methods with each other: IoU, F1, pixel and boundary accuracy.

    A class that neither MASK nor TRUTH has is left out of the mean; a class that only MASK has counts as 0. Pixels of
    MASK that were not computed (255) are wrong where TRUTH is labelled.
    """
    with Listing(json=json) as listing:
        if mba is False and mba_radii is not None:
            raise UsageError(
                "--mba-radii names the radii of an accuracy that --no-mba leaves out",
                value=f"--no-mba --mba-radii {mba_radii}",
                advice="Leave out --no-mba or --mba-radii",
            )
        if data is not None:
            check_address_space()
            _refuse(context, OF_A_MASK, rule="goes with MASK TRUTH, not with --data")
            # Scores are of whole images, so the default of slides, to skip glass, does not apply.
            chosen = scores.value(
                segment=options.value(tissue="none"),
                evaluation=counting.value(boundary=None if mba is False else mba_radii or "fixed"),
            )
            _score_methods(data, output, plot, chosen, listing, json=json, progress=not no_progress)
            return listing.exit_code
        beside = [name for name in options.names() if name != "weights"]
        _refuse(context, (*OF_DATA, *beside), rule="goes with --data")
        if mask is None or truth is None:
            raise UsageError(
                "MASK and TRUTH, or --data, are missing",
                advice="Write magnet evaluate MASK TRUTH; 'magnet evaluate --help' explains the rest",
            )
        names = _names(counting, options)
        counted = counting.value(boundary=mba_radii or ("paper" if mba else None), **names)
        _score_mask(mask, truth, counted, listing, roi=roi, json=json)
    return 0


def _score_mask(
    mask: str, truth: str, options: EvaluationOptions, listing: Listing, *, roi: str | None, json: bool
) -> None:
    """Score a mask, and print the scores."""
    from magnet_cli.cli.score_text import evaluation_lines
    from magnet_cli.evaluation import mask_scores as evaluation

    scored = evaluation.evaluate(mask, truth, options, roi=roi)
    listing.add({"mask": mask, "truth": truth, **scored.describe()})
    if not json:
        print_lines(*evaluation_lines(scored))


def _score_methods(
    data: Path,
    output: Path | None,
    plot: Path | None,
    chosen: ScoreOptions,
    listing: Listing,
    *,
    json: bool,
    progress: bool,
) -> None:
    """Score the methods of a bundle over a data set, print the scores, and write them and their plot."""
    plotted = _plot(plot, output)
    files = _score_files(data, output, plotted)
    found = _compare_methods(data, output, chosen, listing, files=files, progress=progress)
    if not json:
        from magnet_cli.cli.score_text import scores_lines

        print_lines(*scores_lines(found))
    _keep(found, listing, output=output, plot=plotted)


def _refuse(context: typer.Context, names: Sequence[str], *, rule: str) -> None:
    for name in names:
        if is_typed(context, name):
            entry = next(each for each in context.command.params if each.name == name)
            word = name.upper() if entry.param_type_name == "argument" else max(entry.opts, key=len)
            raise UsageError(f"{word} {rule}", advice=f"Leave {word} out; 'magnet evaluate --help' explains it")


def _compare_methods(
    data: Path,
    output: Path | None,
    options: ScoreOptions,
    listing: Listing,
    *,
    files: Sequence[WrittenFile],
    progress: bool,
) -> Scores:
    from magnet_cli.cli.progress import Display
    from magnet_cli.evaluation import method_scores as scoring

    rows: list[ImageScore] = []
    # Scores of an earlier run do not describe the masks that this run replaces.
    for file in files:
        with suppress(OSError):
            file.path.unlink()
    try:
        with Display(enabled=progress) as display:
            for row in scoring.score_each(data, output, options, events=display):
                rows.append(row)
                listing.add(_private_names(data, [row], options).table(row.describe()), row.error)
    except KeyboardInterrupt:
        if output is None:
            raise KeyboardInterrupt(NOTHING_KEPT) from None
        raise
    found = scoring.Scores.of(rows, options)
    listing.more |= _private_names(data, rows, options).table(found.describe())
    return found


def _score_files(data: Path, output: Path | None, plot: Path | None) -> list[WrittenFile]:
    """Return the files of scores and of their plot, none of which is read or another program's.

    Raises:
        UsageError: One of these files would replace a file that is read.
        OutputError: A file of another program is in the way.
    """
    from magnet_cli.images.dataset import read_dataset
    from magnet_cli.system.own_pictures import is_own_picture

    files = []
    if output is not None:
        files.append(WrittenFile(path=output / SCORES, kind="score file", owner=str(data), is_ours=_is_scores))
    if plot is not None:
        files.append(WrittenFile(path=plot, kind="plot", owner=str(data), is_ours=is_own_picture))
    samples = read_dataset(data)
    read = [path for one in samples for path in (one.image, one.label, one.roi, one.corrections) if path is not None]
    refuse_collisions(files, [data, *read])
    refuse_unwritable(files)
    return files


def _is_scores(path: Path) -> bool:
    """Return whether a file begins as the scores of this command do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return SCORES_HEAD.match(file.read(len('{\n "schema": 1,\n "images": '))) is not None


def _private_names(data: Path, rows: Sequence[ImageScore], options: ScoreOptions) -> PrivateNames:
    """Return the names that scores leave out with `--private`: folders, and all files but images and masks."""
    if not options.segment.private:
        return PrivateNames([])
    own = [path for row in rows for path in (row.sample.image, row.mask) if path is not None]
    files = ((row.sample.label, row.sample.roi, row.sample.mask, row.sample.corrections) for row in rows)
    return PrivateNames(own, [data, *(path for paths in files for path in paths if path is not None)])


def _plot(named: Path | None, output: Path | None) -> Path | None:
    """Return the path of the plot, or None where there is none.

    Raises:
        OutputError: Its folder does not exist and is not the one that the masks' run creates.
    """
    if named is None:
        return output and output / PLOT
    if named.parent != output and not named.parent.is_dir():
        raise OutputError(
            "the plot's folder is missing",
            value=named.parent,
            advice="Make the folder of the plot, or choose another --plot",
        )
    return named


def _keep(scores: Scores, listing: Listing, *, output: Path | None, plot: Path | None) -> None:
    """Write the scores beside the masks, and their plot, if at least one image has scores."""
    if not any(score.found for score in scores.methods):
        return
    from magnet_cli.system import durable

    if output is not None:
        text = redacted(json_format.dumps(listing.describe(), indent=1) + "\n")
        durable.write_whole(output / SCORES, text.encode())
    if plot is not None:
        from magnet_cli.evaluation.plot import draw_distributions

        durable.write_whole(plot, draw_distributions(scores))


def _names(counting: Given[EvaluationOptions], options: Given[SegmentOptions]) -> dict[str, tuple[str, ...]]:
    """Return the class names of the bundle that is typed on the command line, if one is.

    A bundle that the environment names is ignored: it is meant for segmentation.

    Raises:
        UsageError: The class names are given by `--classes` as well.
        WeightsError: The bundle does not exist.
    """
    if not options.typed("weights"):
        return {}
    if counting.given("names") is not None:
        raise UsageError(
            "class names are given by --classes or by --weights", advice="Give --classes or --weights, not both"
        )
    from magnet_cli.models.bundle import load_bundle

    return {"names": tuple(entry.name for entry in load_bundle(options.given("weights")).classes)}
