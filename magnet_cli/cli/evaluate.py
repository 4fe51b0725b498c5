"""`magnet evaluate`: a mask against the truth."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli import words
from magnet_cli.cli.ending import Listing, command, tell
from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from magnet_cli.evaluation import Evaluation


class Radii(StrEnum):
    """Within which boundary accuracy is measured."""

    PAPER = "paper"
    PUBLISHED = "published"


@command
def evaluate(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Predicted classes: a raster of class indices.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="True classes, of the same size.")],
    *,
    ignore: Annotated[
        list[int] | None,
        typer.Option(help="Value of TRUTH that is not labelled, beside 255, which never is. Repeatable."),
    ] = None,
    exclude_class: Annotated[
        list[int] | None, typer.Option(help="Class left out of the mean, its pixels still count. Repeatable.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names in order: land,water,road.")] = None,
    weights: Annotated[str | None, typer.Option(help="Take the class names of this bundle.")] = None,
    truth_values: Annotated[
        str | None, typer.Option(help="Classes of TRUTH stored otherwise, STORED=CLASS: 255=1.")
    ] = None,
    roi: Annotated[Path | None, typer.Option(help="Raster of that size: count where its first band is not 0.")] = None,
    mba: Annotated[bool, typer.Option("--mba", help="Also mean boundary accuracy.")] = False,
    mba_radii: Annotated[
        Radii, typer.Option(help="Five radii from 3 pixels up, or the published program's, from 1 up.")
    ] = Radii.PAPER,
    json: words.Json = False,
) -> None:
    """Compare a mask with the truth: mean IoU, IoU by class, pixel accuracy, boundary accuracy.

    A class that neither has is left out of the mean; one that only the mask has counts as 0. Pixels of MASK that were
    not computed (255) are wrong where TRUTH is labelled.
    """
    with Listing(json=json) as listing:
        values = parse_values(truth_values or "")
        names = _names(classes, weights)
        from magnet_cli import evaluation

        options = evaluation.EvaluationOptions(
            ignore=tuple(ignore or ()),
            exclude=tuple(exclude_class or ()),
            names=names,
            truth_values=values,
            boundary=mba_radii.value if mba else None,
        )
        found = evaluation.evaluate(mask, truth, options, roi=roi)
        listing.add({"mask": str(mask), "truth": str(truth), **found.describe()})
        if not json:
            tell(evaluation_text(found))


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


def _names(classes: str | None, weights: str | None) -> tuple[str, ...] | None:
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


def evaluation_text(found: Evaluation) -> str:
    """Scores in lines, percentages."""
    width = max(len(entry.name) for entry in found.classes)
    lines = [f"{'':>3}  {'class':{width}}  {'IoU':>6}  {'true pixels':>14}  {'mask pixels':>14}"]
    for entry in found.classes:
        iou = "absent" if entry.iou is None else f"{100 * entry.iou:6.2f}"
        out = "" if entry.in_mean or entry.iou is None else "  not in the mean"
        lines.append(f"{entry.index:>3}  {entry.name:{width}}  {iou}  {entry.truth:>14,}  {entry.mask:>14,}{out}")
    lines += ["", f"mean IoU            {_percent(found.miou)}", f"pixel accuracy      {_percent(found.accuracy)}"]
    if found.boundary is not None:
        radii = ", ".join(f"{radius:g}" for radius in found.boundary.radii)
        lines.append(f"boundary accuracy   {_percent(found.boundary.mean)}  (mean over radii {radii} pixels)")
    total = found.size.pixels
    lines.append(f"labelled pixels     {found.labelled:,} of {total:,} ({100 * found.labelled / total:.2f} %)")
    if found.not_computed:
        lines.append(f"not computed        {found.not_computed:,} of them, counted as wrong")
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "  none" if value is None else f"{100 * value:6.2f}"
