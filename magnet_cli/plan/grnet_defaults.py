"""The defaults of a run of a GRNet, which follow from its bundle alone."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.options.method_settings import MethodSettings
from magnet_cli.options.rules import ALL, NO_OVERLAP, SELECTOR
from magnet_cli.options.segment import DEFAULT_BLEND, OF_GRNETS
from magnet_cli.plan.windows import PASS_SPAN

if TYPE_CHECKING:
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan.segmentation_plan import ModelFacts


def grnet_scales(options: SegmentOptions, facts: ModelFacts) -> tuple[Size, ...]:
    """Return the scale of a whole image, at which the bundle was trained, and the scale of its cells.

    Only the scale of the cells is returned where each cell is segmented on its own.

    Raises:
        WeightsError: The bundle is no GRNet, or its cells have no whole size.
        UsageError: `--scales` is given.
    """
    if not facts.cells:
        raise WeightsError(
            f"bundle {facts.name} has no local branch",
            value=f"--method {options.method}",
            advice="Name a bundle that 'magnet train grnet' has made",
        )
    if options.scales is not None:
        raise UsageError(
            f"--method {options.method} has the scales of its bundle: the one that it was trained at, and its cells",
            advice="Leave --scales out",
        )
    whole = facts.trained[0]
    if whole.width % facts.cells or whole.height % facts.cells or facts.cells > PASS_SPAN:
        rule = f"a GRNet's scale must be a multiple of its cells, which are at most {PASS_SPAN} a side"
        raise WeightsError(
            rule,
            value=f"{whole}, {facts.cells} cells",
            advice="Use another bundle, or correct the cells of its selector",
        )
    cell = Size(width=whole.width // facts.cells, height=whole.height // facts.cells)
    return (cell,) if options.method == "grnet-local" else (whole, cell)


def as_one_block(options: SegmentOptions, facts: ModelFacts, size: Size) -> SegmentOptions:
    """Set the overlap to 0 where the user gave none and the image fits in one window on the working grid."""
    if options.method not in OF_GRNETS or options.overlap is not None or not facts.trained:
        return options
    whole = facts.trained[0]
    fits = size.width <= whole.width and size.height <= whole.height
    return replace(options, overlap=NO_OVERLAP) if fits else options


def given_margin(options: SegmentOptions, facts: ModelFacts) -> int | None:
    """Return half of the overlap that the user gave, rounded up, in network pixels; None where none was given."""
    if options.overlap is None:
        return None
    value = options.overlap.values[0]
    side = min(facts.input.width, facts.input.height)
    return ceil((value if options.overlap.kind == "count" else value * side) / 2)


def grnet_settings(options: SegmentOptions, facts: ModelFacts, *, margin: int) -> MethodSettings:
    """Return the settings of a GRNet: the selector chooses the cells unless `--patches all` is given.

    Args:
        options: The options that the user gave.
        facts: The facts of the bundle.
        margin: Half of the overlap of windows where the user names none.

    Raises:
        UsageError: An option has no meaning here.
        WeightsError: The bundle has no selector.
    """
    local = options.method == "grnet-local"
    for option, given in (
        ("--points", options.points not in (None, ALL)),
        ("--merge", options.merge is not None),
        ("--median", options.median is not None),
        ("--compat", options.compat not in (None, "paper")),
        ("--patches", options.patches not in ((None, ALL) if local else (None, ALL, SELECTOR))),
    ):
        if given:
            advice = "Take --patches selector or all" if option == "--patches" and not local else f"Leave {option} out"
            raise UsageError(f"--method {options.method} has no such {option}", advice=advice)
    patches = options.patches or (ALL if local or facts.selector is None else SELECTOR)
    if patches == SELECTOR and facts.selector is None:
        raise WeightsError(f"bundle {facts.name} has no selector", advice="Take --patches all")
    wanted = given_margin(options, facts)
    return MethodSettings(
        method=options.method,
        merge="mean",
        points=ALL,
        patches=patches,
        median=facts.defaults.median,
        margin=margin if wanted is None else wanted,
        blend=options.blend or DEFAULT_BLEND,
        tta=options.tta,
    )
