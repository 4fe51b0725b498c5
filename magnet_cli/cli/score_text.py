"""Scores as text, in percent, with one table for each kind of score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.evaluation.boundary import BoundaryCounts
    from magnet_cli.evaluation.mask_scores import Evaluation
    from magnet_cli.evaluation.method_scores import Gain, MethodScore, Scores

MOST_LISTED = 50
"""Largest number of images that are listed one by one."""


def evaluation_lines(found: Evaluation) -> list[str]:
    """Return the scores of one mask as lines of text."""
    rows = [["", "class", "IoU", "F1", "true pixels", "mask pixels", ""]]
    for entry in found.classes:
        out = "" if entry.in_mean or entry.iou is None else "not in the mean"
        iou, f1 = ("absent", "") if entry.iou is None else (percent(entry.iou), percent(entry.f1))
        rows.append([str(entry.index), entry.name, iou, f1, f"{entry.truth:,}", f"{entry.mask:,}", out])
    labelled, total = found.labelled, found.size.pixels
    lines = [
        *table(rows, left=(1, 6)),
        "",
        f"mean IoU            {percent(found.miou):>6}",
        f"mean F1             {percent(found.f1):>6}",
        f"pixel accuracy      {percent(found.accuracy):>6}",
        *(_boundary_line(counts) for counts in (found.boundary, found.boundary_beside) if counts is not None),
        f"labelled pixels     {labelled:,} of {total:,} ({100 * labelled / total:.2f} %)",
    ]
    if found.not_computed:
        lines.append(f"not computed        {found.not_computed:,} of them, counted as wrong")
    return lines + [f"note: {note}" for note in found.notes]


def _boundary_line(counts: BoundaryCounts) -> str:
    radii = ", ".join(f"{radius:g}" for radius in counts.radii)
    how = "mean over" if counts.rule == "fixed" else f"mean over the {counts.rule}"
    return f"boundary accuracy   {percent(counts.mba):>6}  ({how} radii {radii})"


def scores_lines(scores: Scores) -> list[str]:
    """Return the scores of several methods over several images as lines of text."""
    parts = [
        [*table(_methods(scores), left=(0,))],
        ["IoU by class, pixels of all images pooled", *table(_classes(scores), left=(0, len(scores.methods) + 1))],
        ["mean IoU of each image", *table(_images(scores), left=(0,)), *_unlisted(scores)],
        ["spread of the images' mean IoU", *table(_spread(scores), left=(0,))],
    ]
    if scores.gains:
        several = len({gain.baseline for gain in scores.gains}) > 1
        gains = [_gain(gain, is_best=gain.is_best_baseline and several) for gain in scores.gains]
        parts.append(["difference of mean IoU in points, mean over images", *gains])
    if scores.notes:
        parts.append([f"note: {note}" for note in scores.notes])
    first, *others = parts
    return [*first, *(line for part in others for line in ("", *part))]


def _methods(scores: Scores) -> list[list[str]]:
    options = scores.methods[0].options
    rule, least = options.evaluation.boundary, options.iou_threshold
    beside = rule not in (None, "fixed")
    device = any(score.cost.device_peak is not None for score in scores.methods)
    head = ["method", "images", "mIoU", "per image", f">={least:g}", "F1", "accuracy", *(["mBA"] if rule else [])]
    head += [
        *([f"mBA {rule}"] if beside else []),
        "windows",
        "MP",
        "seconds",
        "memory",
        *(["device"] if device else []),
    ]
    return [head, *(_method(score, beside=beside, device=device) for score in scores.methods)]


def _method(score: MethodScore, *, beside: bool, device: bool) -> list[str]:
    pooled, cost = score.pooled, score.cost
    shares = [pooled.miou, score.mious.mean, score.thresholded_iou, pooled.f1, pooled.accuracy]
    shares += [pooled.mba] if score.options.evaluation.boundary else []
    shares += [score.mba_beside] if beside else []
    return [
        score.method,
        f"{len(score.found)}/{len(score.rows)}",
        *map(percent, shares),
        f"{cost.windows_run:,}",
        f"{cost.megapixels:,.2f}",
        f"{cost.seconds:,.1f}",
        _bytes(cost.host_peak),
        *([_bytes(cost.device_peak)] if device else []),
    ]


def _classes(scores: Scores) -> list[list[str]]:
    names: dict[int, tuple[str, bool]] = {}
    for score in scores.methods:
        for entry in score.pooled.classes:
            kept = entry.in_mean or entry.iou is None
            names[entry.index] = (entry.name, kept and names.get(entry.index, ("", True))[1])
    ious = [{entry.index: entry.iou for entry in score.pooled.classes} for score in scores.methods]
    return [
        ["class", *(score.method for score in scores.methods), ""],
        *(
            [name, *(percent(found.get(label)) for found in ious), "" if kept else "not in the mean"]
            for label, (name, kept) in sorted(names.items())
        ),
    ]


def _images(scores: Scores) -> list[list[str]]:
    rows = [["image", *(score.method for score in scores.methods)]]
    for line in list(zip(*(score.rows for score in scores.methods), strict=True))[:MOST_LISTED]:
        found = ["failed" if row.evaluation is None else percent(row.evaluation.miou) for row in line]
        rows.append([line[0].sample.name, *found])
    return rows


def _unlisted(scores: Scores) -> list[str]:
    more = len(scores.methods[0].rows) - MOST_LISTED
    return [f"and {more} more; --json lists every one"] if more > 0 else []


def _spread(scores: Scores) -> list[list[str]]:
    marks = ("min", "q25", "median", "q75", "max")
    rows = [["method", "least", "quarter", "median", "three quarters", "most"]]
    for score in scores.methods:
        found = score.mious.describe()
        shares = [value if isinstance(value, float) else None for value in map(found.get, marks)]
        rows.append([score.method, *map(percent, shares)])
    return rows


def _gain(gain: Gain, *, is_best: bool) -> str:
    found = gain.difference
    which = ", the better baseline" if is_best else ""
    line = f"{gain.method} - {gain.baseline}: {100 * found.mean:+.2f}"
    if found.low is None or found.high is None:
        return f"{line}, one image{which}"
    return f"{line}, 95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}, {found.images} images{which}"


def table(rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> list[str]:
    """Return the lines of a table whose columns are aligned to the right, except those that `left` names.

    The first row is the head of the table.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def percent(share: float | None) -> str:
    """Write a share as a percentage with two decimals, or `none` for None."""
    return "none" if share is None else f"{100 * share:.2f}"


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)
