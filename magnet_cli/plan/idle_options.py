"""Options that were given and change nothing: they are refused, or noted where the bundle or the image is the reason.

What a user writes never does nothing without a word. Two options that do not go together are refused, because the user
can correct them. Whether the bundle takes every point, or how many stages an image has, may differ between the bundles
and the images for which the same options are given, so these options are accepted, and a note says that they are idle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.options.rules import ALL, SELECTOR, threshold_letter
from magnet_cli.options.segment import OF_GRNETS, OF_ONE_STAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.options.method_settings import MethodSettings
    from magnet_cli.options.segment import SegmentOptions


def refuse_idle(options: SegmentOptions) -> None:
    """Refuse options that another given option keeps from having an effect.

    Args:
        options: The options that the user gave.

    Raises:
        UsageError: An option would change nothing.
    """
    if options.method in OF_ONE_STAGE and (given := _of_later_stages(options, "points", "patches", "merge", "median")):
        other = "magnet-fast" if "--patches" in given else "magnet"
        raise UsageError(
            f"--method {options.method} computes every window of a single stage, which chooses and merges nothing",
            value=_listed([f"{word} {value}" for word, value in given.items()]),
            advice=f"Leave {_listed(list(given))} out, or take --method "
            f"{'grnet' if options.patches == SELECTOR and len(given) == 1 else other}",
        )
    if options.select is not None and (options.patches == ALL or options.budget == 1):
        word, everything = ("--patches", "all") if options.patches == ALL else ("--budget", "100%")
        raise UsageError(
            f"--select {options.select} ranks windows so that some are left out, and {word} {everything} "
            "leaves none out",
            value=f"--select {options.select} and {word} {everything}",
            advice=f"Leave --select out, or choose another {word}",
        )
    if options.overlap is None:
        return
    if options.overlap.values[0] and options.compat not in (None, "paper"):
        raise UsageError(
            f"--compat {options.compat} places windows as the published program does",
            value=f"--overlap {options.overlap.spelled('')}",
            advice="Leave --overlap out, or take --compat paper",
        )
    if not options.overlap.values[0] and options.blend not in (None, "none"):
        raise UsageError(
            "--overlap 0 has no windows to join",
            value=f"--blend {options.blend}",
            advice="Leave --blend out, or choose a larger --overlap",
        )


def idle_notes(options: SegmentOptions, settings: MethodSettings, *, stages: int) -> list[str]:
    """Return notes on given options that have no effect with this bundle or on this image.

    Args:
        options: The options that the user gave.
        settings: The settings of the run, with every default filled in.
        stages: The number of all stages.
    """
    notes = []
    if options.compat is None and settings.compat != "paper" and options.overlap and options.overlap.values[0]:
        why = f"--compat {settings.compat}, which the bundle recommends, places windows as the published program does"
        notes.append(f"--overlap {options.overlap.spelled('')} has no effect: {why}")
    if not settings.refines or options.method in OF_GRNETS:
        return notes
    # The default overlap grows with the rim that a median of chosen points needs.
    but = " but on the default overlap" if options.overlap is None and settings.compat == "paper" else ""
    if stages == 1:
        given = _of_later_stages(options, "points", "patches", "select", "budget", "merge", "median")
        rim = but if {"--points", "--median"} & set(given) else ""
        have = "has" if len(given) == 1 else "have"
        words = _listed([f"{word} {value}" for word, value in given.items()])
        why = "the run has one stage, which chooses and merges nothing"
        return [*notes, *([f"{words} {have} no effect{rim}: {why}"] if given else [])]
    if options.median is not None and settings.points == ALL:
        why = "the median filters the score by which points are chosen, and every point is taken (--points all)"
        notes.append(f"--median {options.median} has no effect{but}: {why}")
    refining = stages - 1
    if options.patches is not None and len(options.patches.values) > refining:
        count = len(options.patches.values)
        notes.append(
            f"--patches {options.patches.spelled('')} names {count} stages, and the run has {refining} after the "
            f"first: what it says of the others has no effect"
        )
    return notes


def _of_later_stages(options: SegmentOptions, *names: str) -> dict[str, str]:
    """Return the given ones of some options that concern stages after the first: words, and values as text.

    That everything is taken may be said of any stage, and so `all` does not count as given.
    """
    points, patches = options.points or ALL, options.patches or ALL
    texts = {
        "points": None if points == ALL else points.spelled("q"),
        "patches": None if patches == ALL else patches.spelled(threshold_letter(options.select)),
        "select": options.select,
        "budget": None if options.budget is None else f"{float(options.budget):g}",
        "merge": options.merge,
        "median": None if options.median is None else str(options.median),
    }
    return {f"--{name}": text for name in names if (text := texts[name]) is not None}


def _listed(words: Sequence[str]) -> str:
    """Return words as a list of a sentence: `a`, `a and b`, or `a, b and c`."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]]) if words else ""
