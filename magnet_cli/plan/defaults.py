"""Defaults of a run, which follow from the bundle and the image, and the refusal of contradicting options."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.options.lengths import PhysicalScales
from magnet_cli.options.method_settings import BundleDefaults, MethodSettings
from magnet_cli.options.rules import ALL, SELECTOR, Rule, threshold_letter
from magnet_cli.options.segment import DEFAULT_BLEND, OF_GRNETS, SegmentOptions
from magnet_cli.plan.grnet_defaults import given_margin, grnet_scales, grnet_settings
from magnet_cli.plan.windows import needed_margin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.options.segment import Compat, Merge
    from magnet_cli.plan.segmentation_plan import ModelFacts

FAST_PATCHES = 3
"""Windows a stage of MagNet-Fast (paper, section 4.3) where neither user nor bundle says."""


def resolve_settings(options: SegmentOptions, facts: ModelFacts, scales: Sequence[Sequence[Size]]) -> MethodSettings:
    """Fill options that the user left open from the bundle, and refuse options that contradict each other.

    Args:
        options: The options that the user gave.
        facts: The facts of the bundle.
        scales: The scales of each pass.

    Raises:
        UsageError: The method and the rules do not go together.
        WeightsError: The merge needs a refiner that the bundle lacks.
    """
    defaults = facts.defaults
    compat = options.compat or facts.compat
    merge = _merge(options, facts, compat)
    _check_selection(options, facts, compat)
    if options.method in OF_GRNETS:
        _check_tta(options, facts, compat)
        found = grnet_settings(options, facts, margin=_default_margin(facts, scales, ALL, defaults.median))
        _check_margin(found.margin, facts.input)
        return found
    if merge == "refiner" and options.method in ("magnet", "magnet-fast") and not facts.has_refiner:
        raise WeightsError(f"bundle {facts.name} has no refiner", value="--merge refiner", advice="Take --merge mean")
    if options.patches == SELECTOR:
        raise UsageError(
            "--patches selector is for --method grnet",
            value=f"--method {options.method}",
            advice="Add --method grnet, or choose another --patches",
        )
    points = options.points or defaults.points
    fallback = _fast_patches(defaults) if options.method == "magnet-fast" else defaults.patches
    patches = _budget(options) or options.patches or fallback
    if options.method == "magnet" and patches.kind != "all" and options.patches is not None:
        raise UsageError(
            "--method magnet computes every window",
            value=f"--patches {patches.spelled('u')}",
            advice="Take --method magnet-fast",
        )
    median = options.median or defaults.median
    _check_tta(options, facts, compat)
    if options.blend is not None and compat != "paper":
        raise UsageError(
            f"--compat {compat} averages overlapping windows as the published program does",
            value=f"--blend {options.blend}",
            advice="Leave --blend out, or take --compat paper",
        )
    margin = given_margin(options, facts)
    if margin is None:
        margin = _default_margin(facts, scales, points, median) if compat == "paper" else 0
    _check_margin(margin, facts.input)
    return MethodSettings(
        method=options.method,
        merge=merge,
        points=points,
        patches=ALL if options.method == "magnet" else patches,
        median=median,
        margin=margin,
        compat=compat,
        blend=(options.blend or DEFAULT_BLEND) if compat == "paper" else "none",
        tta=options.tta,
        select=options.select or "uncertainty",
    )


def _check_tta(options: SegmentOptions, facts: ModelFacts, compat: Compat) -> None:
    """Refuse mirror images that a method does not compute, or that a network cannot take.

    Raises:
        UsageError: The method or the network does not fit `--tta`.
    """
    if options.tta != "none" and (options.method == "grnet" or compat != "paper"):
        what = "--method grnet" if options.method == "grnet" else f"--compat {compat}"
        raise UsageError(f"{what} computes no mirror images", value=f"--tta {options.tta}", advice="Leave --tta out")
    if options.tta == "8" and facts.input.width != facts.input.height:
        raise UsageError(
            "--tta 8 turns windows by a quarter, so the network's input has to be a square",
            value=facts.input,
            advice="Take --tta 4",
        )


def _budget(options: SegmentOptions) -> Rule | None:
    return None if options.budget is None else Rule(kind="budget", values=(options.budget,))


def _check_selection(options: SegmentOptions, facts: ModelFacts, compat: Compat) -> None:
    """Refuse options for the selection of windows where none are selected, or where two of them do the same.

    Raises:
        UsageError: The options contradict each other.
        WeightsError: The options name a selector, and the bundle has none.
    """
    given = [name for name in ("select", "budget") if getattr(options, name) is not None]
    if given and options.method != "magnet-fast":
        raise UsageError(
            f"--{given[0]} is for magnet-fast: --method {options.method} selects no windows",
            advice=f"Take --method magnet-fast, or leave --{given[0]} out",
        )
    if given and compat != "paper":
        raise UsageError(
            f"--compat {compat} selects windows as the published program does", value=f"--{given[0]}",
            advice="Take --compat paper",
        )  # fmt: skip
    if options.select == "ppn" and facts.selector is None:
        raise WeightsError(
            f"bundle {facts.name} has no selector", value="--select ppn",
            advice="Train one with 'magnet train selector', or take --select uncertainty",
        )  # fmt: skip
    if options.budget is not None and options.patches is not None:
        patches = options.patches.spelled(threshold_letter(options.select))
        raise UsageError(
            "--budget and --patches both say how many windows are computed",
            value=f"--budget {float(options.budget):g} and --patches {patches}",
            advice="Leave --budget or --patches out",
        )


def _merge(options: SegmentOptions, facts: ModelFacts, compat: Compat) -> Merge:
    if compat == "paper":
        return options.merge or facts.defaults.merge
    if options.merge not in (None, "refiner"):
        raise UsageError(
            f"--compat {compat} merges with the refiner",
            value=f"--merge {options.merge}",
            advice="Leave --merge out, or take --compat paper",
        )
    return "refiner" if facts.has_refiner else facts.defaults.merge


def _default_margin(facts: ModelFacts, scales: Sequence[Sequence[Size]], points: Rule, median: int) -> int:
    """Return the margin that the bundle, the blocks and the score need; without a score about the same as with one.

    With the 2 pixels that `all` needs, a network that sees 3 pixels to each side already gave a seventh more label
    changes at the borders of cells than inside them.
    """
    used = 1 if points.kind == "all" else median
    needed, wanted = (max(needed_margin(group, side) for group in scales) for side in (used, median))
    # Beyond what is needed it is an eighth of the input at most: a wider margin makes cells smaller and windows more.
    return max(facts.defaults.margin, needed, min(wanted, min(facts.input.width, facts.input.height) // 8))


def _fast_patches(defaults: BundleDefaults) -> Rule:
    if defaults.patches.kind != "all":
        return defaults.patches
    return Rule(kind="count", values=(Fraction(FAST_PATCHES),))


def _check_margin(margin: int, size: Size) -> None:
    largest = (min(size.width, size.height) - 1) // 2
    if margin > largest:
        raise UsageError(
            f"windows overlap by at most {2 * largest} pixels for a network input of {size}, so that each has a cell",
            value=f"--overlap {2 * margin}",
            advice=f"Take --overlap {2 * largest} or less, or a smaller --median",
        )


def resolve_scales(
    options: SegmentOptions, facts: ModelFacts, working_size: Size, *, fitted: tuple[Size, ...] | None = None
) -> tuple[Size, ...]:
    """Return the scales of a run, coarsest first.

    Args:
        options: `--scales` and `--method`.
        facts: The facts of the bundle.
        working_size: The image on the working grid.
        fitted: Scales that were given with a unit, on the working grid.

    Raises:
        UsageError: Scales have a unit and are not fitted.
    """
    scales = options.scales if options.scales is not None else facts.defaults.scales
    if isinstance(scales, PhysicalScales):
        if fitted is None:
            raise UsageError(
                "scales with a unit need an image whose pixels have a size", advice="Give --scales in pixels"
            )
        scales = fitted
    if scales == "auto":
        coarsest = max(facts.trained, key=lambda size: size.pixels, default=facts.input)
        scales = _doubling(facts.input, until=coarsest, beyond=False)
    elif scales == "full":
        scales = _doubling(facts.input, until=working_size, beyond=True)
    # The command line orders them; Python's users may not.
    scales = tuple(sorted(scales, key=lambda size: size.pixels, reverse=True))
    if options.method in OF_GRNETS:
        return grnet_scales(options, facts)
    if options.method == "patch":
        return scales[-1:]
    return scales[:1] if options.method == "downsample" else scales


def _doubling(start: Size, *, until: Size, beyond: bool) -> tuple[Size, ...]:
    """Return doubled scales, coarsest first: the last of at most `until` a side, or the first to cover it."""
    scales = [start]
    while scales[0].width < until.width or scales[0].height < until.height:
        double = Size(width=2 * scales[0].width, height=2 * scales[0].height)
        if not beyond and (double.width > until.width or double.height > until.height):
            break
        scales.insert(0, double)
    return tuple(scales)
