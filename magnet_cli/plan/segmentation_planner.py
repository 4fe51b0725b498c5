"""The plan of an image, made from a bundle, a machine and the options."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.plan.bands import band_notes, check_bands, check_values
from magnet_cli.plan.defaults import resolve_scales, resolve_settings
from magnet_cli.plan.domains import check_domain
from magnet_cli.plan.footprint import no_memory, with_memory
from magnet_cli.plan.grid import with_pixel_size, working_grid
from magnet_cli.plan.grnet_defaults import as_one_block
from magnet_cli.plan.idle_options import idle_notes, refuse_idle
from magnet_cli.plan.segmentation_plan import (
    AreaSpec,
    Machine,
    ModelFacts,
    Plan,
    budget_share,
    windows_selected,
)
from magnet_cli.plan.windows import Pass, Stage, group_scales, needed_margin, nests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.geometry import Pitch
    from magnet_cli.images.protocol import ImageInfo
    from magnet_cli.options.method_settings import MethodSettings
    from magnet_cli.options.rules import Rule
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan.bands import Span

BATCH = {"cpu": 4, "mps": 8, "cuda": 16}
"""Patches of a forward pass by kind of device, where the bundle states none. They are part of the plan, so that
memory never changes the mask."""
BATCH_BYTES = 8 << 20
"""Largest bytes of a batch's probabilities on a CPU. Larger batches take memory and save no time."""
GROUP = {"cpu": 1, "mps": 2, "cuda": 4}
"""Fewest blocks that share their forward passes, unless a pass takes fewer patches. Each block in work holds canvases:
with the paper's network and one patch a pass, those of four blocks took most of a GPU's memory."""
MOST_SHARING = 32
"""Most blocks that share forward passes where a budget leaves most of them alone."""
ONE_SCALE = (
    "the network was trained at one scale, so each window is computed once, at that scale; --scales auto also computes "
    "windows of twice the side"
)
"""Note on the default scales of a network from elsewhere."""
MOST_STRETCH = Fraction(1, 50)
"""Largest difference of the factors by which a window is made narrower and lower that needs no note: sides are whole
numbers."""
LARGEST_SPAN = 4
"""Most windows along the side of a block, where a run has one stage and compares no window with another."""
SPAN_BYTES = 32 << 20
"""Largest canvas of such a block, in bytes."""
IDLE = Fraction(1, 20)
"""Largest number of forward passes beyond full ones, as a share of those; blocks join a group until it is met. Where
a pass has one stage, a block has a single window and fills no batch; with four stages one block is enough."""


def make_plan(
    info: ImageInfo,
    facts: ModelFacts,
    options: SegmentOptions,
    machine: Machine,
    areas: tuple[AreaSpec, ...] = (),
    *,
    measured: tuple[Span, ...] | None = None,
) -> Plan:
    """Decide everything about a run over one image.

    Args:
        info: The info of the image.
        facts: The facts of the bundle.
        options: The options that the user gave.
        machine: The machine of the run.
        areas: The areas that the run keeps to.
        measured: The percentiles that `--value-range` asks for, for each band that the network reads.

    Raises:
        UsageError: Options that contradict each other or the image.
        SourceError, WeightsError: Image and bundle do not fit.
        DeviceError: The memory budget is too small; the message says what is needed.
    """
    refuse_idle(options)
    of_domain = check_domain(
        info,
        facts.name,
        facts.domain,
        insisted=options.domain,
        is_default=options.weights is None and options.foreign.network is None,
    )
    bands = check_bands(info, facts, options.bands)
    spans = check_values(info, facts, options.value_range, measured=measured)
    info = with_pixel_size(info, facts, options)
    # The size of a pixel comes first: scales, areas and passes are counted in working-grid pixels.
    grid = working_grid(info, facts, options)
    options = as_one_block(options, facts, grid.pitch.cover(info.size))
    scales = resolve_scales(options, facts, grid.pitch.cover(info.size), fitted=grid.scales)
    grouped = group_scales(scales) if options.budget is None else _stage_by_stage(scales)
    settings = resolve_settings(options, facts, grouped)
    passes = _passes(grouped, facts, info, grid.pitch, settings)
    if settings.compat == "paper":
        _check_selector(passes, settings, facts)
        # A stage that begins a pass of its own reads blended results of all blocks, whatever its parent's rim holds.
        passes = _split_at_selection(passes, settings)
        _check_blocks(passes, settings)
    batch = options.batch_size or default_batch(facts, machine)
    least = min(GROUP[machine.kind], batch)
    draft = Plan(
        image=info,
        settings=settings,
        working=grid.pitch,
        reading=options.reading,
        pixel=grid.pixel,
        passes=passes,
        classes=facts.classes,
        bands=bands,
        band_names=facts.bands,
        value_range=spans,
        value_source="bundle" if options.value_range is None else str(options.value_range),
        resample=facts.resample,
        batch=batch,
        group=tuple(_sharing(step, passes, settings, batch=batch, least=least) for step in passes),
        machine=machine,
        memory=no_memory(machine),
        probabilities=options.probabilities,
        uncertainty=options.uncertainty,
        selector=facts.selector if settings.select == "ppn" else None,
        areas=areas,
        notes=(
            *(*info.notes, *of_domain, *grid.notes, *band_notes(info, bands, spans, options.value_range)),
            *(note for area in areas for note in area.notes),
            *idle_notes(options, settings, stages=len(scales)),
            *([ONE_SCALE] if facts.is_single_scale and options.scales is None else []),
            *stretch_notes([scale for scales in grouped for scale in scales], facts.input),
        ),
    )
    return with_memory(draft, facts, options)


def stretch_notes(scales: Sequence[Size], taken: Size) -> list[str]:
    """Return a note on each scale whose windows have another shape than the network's input, which distorts them.

    Args:
        scales: Sides of windows.
        taken: Size of the network's input.
    """
    found = []
    for scale in scales:
        across, down = Fraction(scale.width, taken.width), Fraction(scale.height, taken.height)
        if abs(across / down - 1) > MOST_STRETCH:
            kept = Size(width=round(taken.width * across), height=round(taken.height * across))
            found.append(
                f"windows of {scale} are resized to {float(1 / across):.3g} of their width and {float(1 / down):.3g} "
                f"of their height for the network's input of {taken}: --scales {kept} would keep the shape of objects"
            )
    return found


def _stage_by_stage(scales: Sequence[Size]) -> list[list[Size]]:
    """Return each scale in a pass of its own, because a budget selects windows by scores of the finished pass before.

    Raises:
        UsageError: A scale is no multiple of the next: a cell would lie in several blocks.
    """
    for coarse, fine in pairwise(scales):
        if not nests(coarse, fine):
            raise UsageError(
                "--budget needs scales of which each is a multiple of the next", value=f"{coarse} and {fine}",
                advice="Take --scales whose sides double",
            )  # fmt: skip
    return [[scale] for scale in scales]


def _sharing(step: Pass, passes: Sequence[Pass], settings: MethodSettings, *, batch: int, least: int) -> int:
    if settings.patches.kind != "budget" or step.number == 0:
        return sharing(step, batch=batch, least=least)
    # Few of the blocks have their window computed: as many share forward passes as fill them on the average.
    stages = [other.stages[0] for other in passes]
    share = budget_share(settings.patches.values[0], stages, step.stages[0])
    return max(least, min(ceil(batch / share), MOST_SHARING)) if share else MOST_SHARING


def default_batch(facts: ModelFacts, machine: Machine) -> int:
    """Return the patches a forward pass, by bundle and kind of device alone, so that memory never changes the mask."""
    if (machine.kind, machine.precision) in facts.batches:
        return facts.batches[machine.kind, machine.precision]
    batch = BATCH[machine.kind]
    if machine.kind != "cpu":
        return batch
    # Bundle and kind of device alone decide. The free memory must not: another batch may change the last bits of a
    # mask.
    return max(1, min(batch, BATCH_BYTES // (facts.classes * facts.input.pixels * 4)))


def sharing(step: Pass, *, batch: int, least: int) -> int:
    """Return the blocks of a pass that share forward passes: as few as leave hardly a place in them empty.

    Args:
        step: The pass whose blocks are grouped.
        batch: Patches a forward pass.
        least: The fewest blocks of a group.
    """
    windows = [step.ratio(stage).pixels for stage in step.stages]
    for blocks in range(least, batch):
        # Exact fractions: a rounded share could group blocks differently on another machine, and with them the batches.
        full = Fraction(blocks * sum(windows), batch)
        if sum(ceil(blocks * count / batch) for count in windows) <= full * (1 + IDLE):
            return blocks
    return max(least, batch)


def _passes(
    grouped: Sequence[Sequence[Size]], facts: ModelFacts, info: ImageInfo, working: Pitch, settings: MethodSettings
) -> tuple[Pass, ...]:
    passes: list[Pass] = []
    number, is_only = 0, sum(len(scales) for scales in grouped) == 1
    for index, scales in enumerate(grouped):
        stages = []
        for scale in scales:
            number += 1
            stages.append(
                Stage(
                    number=number,
                    scale=scale,
                    input=facts.input,
                    margin=settings.margin,
                    image=info.size,
                    working=working,
                    blend=settings.blend,
                )
            )
        passes.append(Pass(number=index, stages=tuple(stages), span=_span(stages, facts, is_only=is_only)))
    return tuple(passes)


def _split_at_selection(passes: Sequence[Pass], settings: MethodSettings) -> tuple[Pass, ...]:
    """Begin a pass, of the same blocks, before each stage that leaves out windows of several blocks.

    Windows of a stage that are all computed hide that neighbouring blocks were not blended before it. Where windows are
    left out, coarse results remain, and a blend of their width needs the neighbour's result of the stage before.
    """
    found: list[Pass] = []
    for step in passes:
        spans = [step.ratio(stage) for stage in step.stages]
        is_whole = step.blocks.pixels == 1 or not step.stages[-1].fade
        if is_whole or any(span.width != span.height for span in spans):
            found.append(replace(step, number=len(found)))
            continue
        later = list(enumerate(zip(step.stages, spans, strict=True)))[1:]
        begins = [0, *(index for index, (stage, among) in later if _leaves_out(settings.patches, stage, among))]
        for begin, end in pairwise([*begins, len(spans)]):
            found.append(Pass(number=len(found), stages=step.stages[begin:end], span=spans[begin].width))
    return tuple(found)


def _leaves_out(rule: Rule, stage: Stage, among: Size) -> bool:
    """Return whether a rule may leave out windows of a refining stage, of which a block has `among`."""
    if rule.kind not in ("count", "share"):
        return rule.kind == "threshold"
    # A rule that lists one value a stage begins with the second stage.
    return windows_selected(rule, total=among.pixels, full=among.pixels, step=stage.number - 2) < among.pixels


def _span(stages: Sequence[Stage], facts: ModelFacts, *, is_only: bool) -> int:
    """Return the cells of the coarsest stage along a block's side.

    A run of one stage takes several, because a block of one window would have little inside: what lies near the border
    of blocks is kept as probabilities until neighbours can be blended, half of a window and a tenth of four by four.
    Where later stages compare windows or points, a block is one cell, the paper's image.
    """
    if not is_only or not stages[0].fade:
        return 1
    for span in range(LARGEST_SPAN, 1, -1):
        side = Size(width=span * facts.input.width, height=span * facts.input.height)
        if side.pixels * facts.classes * 2 <= SPAN_BYTES:
            return span
    return 1


def _check_selector(passes: Sequence[Pass], settings: MethodSettings, facts: ModelFacts) -> None:
    """Refuse a selector that compares windows with the whole image where no block holds it.

    Raises:
        UsageError: The bundle has such a selector.
    """
    if settings.select != "ppn" or facts.selector is None or facts.selector.against == "constant":
        return
    later = sum(len(step.stages) for step in passes[1:])
    if passes[0].blocks.pixels > 1 or later > (settings.patches.kind == "budget"):
        raise UsageError(
            f"the selector of bundle {facts.name} compares windows with the whole image, so an image is one block of "
            "one pass",
            value=f"{passes[0].blocks.pixels} blocks in the first of {len(passes)} passes",
            advice='Take a bundle whose selector has against = "constant", or --select uncertainty',
        )


def _check_blocks(passes: Sequence[Pass], settings: MethodSettings) -> None:
    if not settings.refines or sum(len(step.stages) for step in passes) == 1:
        return
    for step in passes:
        needed = needed_margin([stage.scale for stage in step.stages], settings.score_side)
        if step.blocks.pixels > 1 and settings.margin < needed:
            raise UsageError(
                f"the image has {step.blocks.pixels} blocks, which need an overlap of at least {2 * needed} pixels "
                "so that none depends on its neighbours",
                value=f"--overlap {2 * settings.margin}",
                advice=f"Take --overlap {2 * needed} or leave the option out",
            )
