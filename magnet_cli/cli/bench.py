"""`magnet bench`: memory and speed against image size, beside yardsticks."""

# ruff: noqa: ARG001 - typer makes options of the parameters, words.py takes their values from the context
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli import shared_options as words
from magnet_cli.cli.evaluate import parse_methods
from magnet_cli.cli.outcome import Listing, command, tell
from magnet_cli.errors import OutputError, UsageError, redacted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.bench.result import Row
    from magnet_cli.bench.rounds import Bench
    from magnet_cli.cli.progress import Display
    from magnet_cli.options.segment import Method, RefineMethod

CASCADE: RefineMethod = "cascadepsp"
OF_SEGMENT = (
    *("scales", "points", "patches", "select", "budget", "merge", "median", "margin"),
    *("mpp", "gsd", "level", "mag", "slide_mpp", "batch_size"),
)
"""Options that go with bundles that predict classes."""
OF_REFINE = ("side", "fast", "mask_kind", "objects", "threshold", "min_area", "padding")
"""Options that go with cascades."""
NOTHING_KEPT = "nothing is left behind; sizes that were done are stored for 'magnet plan'"


@command
def bench(
    context: typer.Context,
    image: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="An image to measure on, instead of generated ones.")
    ] = None,
    mask_file: Annotated[
        str | None,
        typer.Argument(metavar="[MASK]", help="A mask of it to sharpen, where --weights names a cascade."),
    ] = None,
    *,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Sides of generated images. Default: 2048,4096,8192 on a CPU, 4096,16384,65536 elsewhere, none with "
            "INPUT. They lie in the folder for temporary files (TMPDIR) meanwhile.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="To measure: magnet, magnet-fast, patch, downsample; of a GRNet grnet, grnet-local; cascadepsp for "
            "refine. Default: magnet, or cascadepsp where --weights names a cascade.",
            show_default=False,
        ),
    ] = None,
    yardsticks: Annotated[
        str, typer.Option(help="To compare with, or none; patching needs the extra 'bench'.")
    ] = "ceiling,patching,naive",
    repeats: Annotated[
        int | None, typer.Option(help="Rounds. Default: 3, and 1 where a run takes over half a minute.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with tables and plots.")] = None,
    weights: words.Weights = None,
    scales: words.Scales = None,
    points: words.Points = None,
    patches: words.Patches = None,
    select: words.SelectOption = None,
    budget: words.Budget = None,
    merge: words.MergeOption = None,
    median: words.Median = None,
    margin: words.Margin = None,
    side: words.Side = None,
    fast: words.Fast = False,
    mask_kind: words.MaskKindOption = words.MaskKind.AUTO,
    objects: words.Objects = None,
    threshold: words.Threshold = None,
    min_area: words.LeastArea = 64,
    padding: words.Padding = "12.5%",
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
    json: words.Json = False,
    no_progress: words.NoProgress = False,
) -> int:
    """Measure memory and speed against image size, beside the ceiling, plain patching and the published arithmetic.

    Of segment; of refine where --weights names a cascade.
    """
    with Listing(json=json) as listing:
        if html is not None and not html.parent.is_dir():
            raise OutputError("the page's folder is missing", value=html.parent, advice="Make it, or choose another")
        from magnet_cli.bench.request import BenchOptions, parse_sizes, parse_yardsticks

        chosen = _methods(methods, weights)
        refines = CASCADE in chosen
        _refuse(context, OF_SEGMENT if refines else OF_REFINE, rule="a cascade" if refines else "predicting classes")
        options = BenchOptions(
            image=image,
            mask=mask_file,
            sizes=None if sizes is None else parse_sizes(sizes),
            methods=chosen,
            yardsticks=parse_yardsticks(yardsticks),
            repeats=repeats,
            options=words.refine_options(context) if refines else words.segment_options(context),
        )
        from magnet_cli.bench.rounds import Bench
        from magnet_cli.cli.progress import Display

        rows = []
        try:
            with Display(enabled=not no_progress) as display, Bench(options, display) as running:
                _greet(running, display)
                for row in running.rows():
                    rows.append(row)
                    listing.add(row.describe(), row.error)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(NOTHING_KEPT) from None
        _tell(running, rows, listing, html=html, json=json)
    return listing.exit_code


def _methods(text: str | None, weights: str | None) -> tuple[Method | RefineMethod, ...]:
    """What is measured; where nobody says, what the bundle is for.

    Raises:
        UsageError: There is no such method, or a cascade's beside others.
        WeightsError: There is no such bundle.
    """
    if text is None:
        return (CASCADE,) if weights is not None and _is_cascade(weights) else ("magnet",)
    if text.strip().lower() == CASCADE:
        return (CASCADE,)
    if CASCADE in text:
        raise UsageError(
            "a bundle predicts classes or sharpens masks",
            value=f"--methods {text}",
            advice=f"Measure {CASCADE} by itself, with its bundle",
        )
    return parse_methods(text)


def _is_cascade(weights: str) -> bool:
    from magnet_cli.models.bundle import CascadeBundle, load_description

    return isinstance(load_description(weights), CascadeBundle)


def _refuse(context: typer.Context, names: tuple[str, ...], *, rule: str) -> None:
    for name in names:
        if words.is_typed(context, name):
            option = next(entry.opts[0] for entry in context.command.params if entry.name == name)
            raise UsageError(f"{option} says nothing about {rule}", advice="Leave it out, or name another --weights")


def _greet(running: Bench, display: Display) -> None:
    setting = running.setting
    for note in setting.notes:
        display.message(f"magnet: {note}")
    display.message(f"magnet: {setting.bundle} on {setting.device_name}, {setting.precision}")


def _tell(running: Bench, rows: Sequence[Row], listing: Listing, *, html: Path | None, json: bool) -> None:
    from magnet_cli.bench.result import quote

    line = quote(running.setting, rows)
    listing.more |= {**running.setting.describe(), "quote": line}
    if not json:
        from magnet_cli.cli.bench_tables import bench_text

        tell(bench_text(rows))
        if line is not None:
            tell(line)
    if html is not None:  # last: a disk that refuses it must not cost what was measured
        from magnet_cli.bench.bench_page import bench_page
        from magnet_cli.system import durable

        durable.write_whole(html, redacted(bench_page(running.setting, rows)).encode())
