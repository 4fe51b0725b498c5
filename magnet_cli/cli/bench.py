"""`magnet bench` measures memory and speed against image size, and compares them with yardsticks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.outcome import Listing, command, tell
from magnet_cli.cli.parameters import Given, Group, Json, NoProgress, takes
from magnet_cli.errors import OutputError, UsageError, redacted
from magnet_cli.options.evaluate import parse_methods
from magnet_cli.options.option import Panel
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.bench.result import Row
    from magnet_cli.bench.rounds import Bench
    from magnet_cli.cli.progress import Display
    from magnet_cli.options.segment import Method, RefineMethod

CASCADE: RefineMethod = "cascadepsp"
SEGMENT = Group(
    options=SegmentOptions,
    without=(
        "series",
        *("method", "compat", "roi", "mask", "tissue", "probabilities", "uncertainty"),
        *("refine", "refine_weights", "refine_only", "overlay", "html", "exports", "overwrite", "resume"),
    ),
)
REFINE = Group(
    options=RefineOptions, without=("series", "method", "evidence", "only", "stuff", "compat", "overwrite", "resume")
)
MEASURED: Panel = "What to measure"
NOTHING_KEPT = "nothing is left behind; the speeds of finished sizes are stored for 'magnet plan'"


@command
@takes(segment=SEGMENT, refine=REFINE)
def bench(
    image: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="An image to measure on, instead of generated ones.")
    ] = None,
    mask_file: Annotated[
        str | None,
        typer.Argument(metavar="[MASK]", help="A mask of INPUT to refine, where --weights names a cascade."),
    ] = None,
    *,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Sides of the generated images. Default: 2048,4096,8192 on a CPU, 4096,16384,65536 elsewhere, none "
            "with INPUT. The images are kept in the folder for temporary files (TMPDIR) during the bench.",
            show_default=False,
            rich_help_panel=MEASURED,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods to measure: magnet, magnet-fast, patch, downsample; with a GRNet's bundle grnet, "
            "grnet-local; with a cascade cascadepsp. Default: magnet, or cascadepsp where --weights names a cascade.",
            show_default=False,
            rich_help_panel=MEASURED,
        ),
    ] = None,
    yardsticks: Annotated[
        str,
        typer.Option(
            help="Yardsticks to compare with, or none; patching needs the extra 'bench'.", rich_help_panel=MEASURED
        ),
    ] = "ceiling,patching,naive",
    repeats: Annotated[
        int | None,
        typer.Option(
            help="Number of rounds. Default: 3, or 1 where a run takes over half a minute.", rich_help_panel=MEASURED
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with tables and plots.", rich_help_panel="Outputs")
    ] = None,
    segment: Given[SegmentOptions],
    refine: Given[RefineOptions],
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Measure memory and speed against image size, beside the ceiling, plain patching and the published arithmetic.

    The bench measures segment, or refine where --weights names a cascade.
    """
    with Listing(json=json) as listing:
        if html is not None and not html.parent.is_dir():
            raise OutputError("the page's folder is missing", value=html.parent, advice="Make it, or choose another")
        from magnet_cli.bench.request import BenchOptions, parse_sizes, parse_yardsticks

        chosen = _methods(methods, segment.given("weights"))
        refines = CASCADE in chosen
        if refines:
            _refuse(segment, beside=refine, rule="a cascade")
        else:
            _refuse(refine, beside=segment, rule="a bundle that predicts classes")
        options = BenchOptions(
            image=image,
            mask=mask_file,
            sizes=None if sizes is None else parse_sizes(sizes),
            methods=chosen,
            yardsticks=parse_yardsticks(yardsticks),
            repeats=repeats,
            options=refine.value() if refines else segment.value(tissue="none"),
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
    """Return the methods to measure. Without `--methods` they follow from the kind of the bundle.

    Raises:
        UsageError: A method does not exist, or `cascadepsp` is named together with others.
        WeightsError: The bundle does not exist.
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


def _refuse(given: Given[Any], *, beside: Given[Any], rule: str) -> None:
    """Refuse options that are typed on the command line and that only the other kind of bundle has.

    Raises:
        UsageError: There is such an option.
    """
    for entry in given.entries():
        if given.typed(entry.name) and not beside.has(entry.name):
            raise UsageError(
                f"{entry.word} has no effect with {rule}", advice="Leave it out, or name another --weights"
            )


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
    if html is not None:  # The page comes last, so that a full disk does not lose the printed figures.
        from magnet_cli.bench.bench_page import bench_page
        from magnet_cli.system import durable

        durable.write_whole(html, redacted(bench_page(running.setting, rows)).encode())
