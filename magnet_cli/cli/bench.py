"""`magnet bench` measures memory and speed against image size, and compares them with yardsticks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.outcome import Listing, command, print_lines
from magnet_cli.cli.parameters import Given, Group, Json, NoProgress, takes
from magnet_cli.errors import OutputError, UsageError, redacted
from magnet_cli.options.bench import CASCADE, BenchOptions, parse_measured
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.system.address_space import check_address_space
from magnet_cli.system.written_files import WrittenFile, refuse_collisions, refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.bench.api import BenchResult
    from magnet_cli.bench.conditions import Setting
    from magnet_cli.cli.progress import Display

SEGMENT = Group(
    options=SegmentOptions,
    without=(
        *("series", "foreign"),
        *("method", "compat", "roi", "mask", "tissue", "probabilities", "uncertainty"),
        *("refine", "refine_weights", "refine_only", "overlay", "html", "exports", "overwrite", "resume", "private"),
    ),
)
REFINE = Group(
    options=RefineOptions,
    without=("series", "method", "evidence", "only", "stuff", "compat", "overwrite", "resume", "private"),
)
NOTHING_KEPT = "nothing is left behind; the speeds of finished sizes are stored for 'magnet plan'"


@command
@takes(measuring=Group(options=BenchOptions), segment=SEGMENT, refine=REFINE)
def bench(
    image: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="An image to measure on, instead of generated ones.")
    ] = None,
    mask_file: Annotated[
        str | None,
        typer.Argument(metavar="[MASK]", help="A mask of INPUT to refine, where --weights names a cascade."),
    ] = None,
    *,
    measuring: Given[BenchOptions],
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
        check_address_space()
        if html is not None:
            _check_page(html, read=[image, mask_file])
        refines = _refines(measuring.given("methods"), segment.given("weights"))
        if refines:
            _refuse(segment, beside=refine, rule="a cascade")
        else:
            _refuse(refine, beside=segment, rule="a bundle that predicts classes")
        # A bench measures the work on all of an image, and generated images have no tissue.
        options = measuring.value(measured=refine.value() if refines else segment.value(tissue="none"))
        from magnet_cli.bench.api import BenchResult
        from magnet_cli.bench.rounds import Bench
        from magnet_cli.cli.progress import Display

        rows = []
        try:
            with (
                Display(enabled=not no_progress) as display,
                Bench(options, display, image=image, mask=mask_file) as running,
            ):
                _greet(running.setting, display)
                for row in running.rows():
                    rows.append(row)
                    listing.add(row.describe(), row.error)
        except KeyboardInterrupt:
            # The message says what a second start finds, which differs from command to command.
            raise KeyboardInterrupt(NOTHING_KEPT) from None
        _print_result(BenchResult(setting=running.setting, rows=tuple(rows)), listing, html=html, json=json)
    return listing.exit_code


def _refines(methods: str | None, weights: str | None) -> bool:
    """Return whether `refine` is measured. Without `--methods` this follows from the kind of the bundle.

    Raises:
        UsageError: A method does not exist, or `cascadepsp` is named together with others.
        WeightsError: The bundle does not exist.
    """
    if methods is not None:
        return CASCADE in parse_measured(methods)
    return weights is not None and _is_cascade(weights)


def _is_cascade(weights: str) -> bool:
    from magnet_cli.models.bundle import CascadeBundle, load_description

    return isinstance(load_description(weights), CascadeBundle)


def _refuse(given: Given[Any], *, beside: Given[Any], rule: str) -> None:
    """Refuse options that are typed on the command line and that only the other kind of bundle has.

    Raises:
        UsageError: An option of the other kind of bundle is typed.
    """
    for entry in given.entries():
        if given.typed(entry.name) and not beside.has(entry.name):
            raise UsageError(
                f"{entry.word} has no effect with {rule}", advice=f"Leave {entry.word} out, or name another --weights"
            )


def _greet(setting: Setting, display: Display) -> None:
    for note in setting.notes:
        display.message(f"magnet: {note}")
    display.message(f"magnet: {setting.bundle} on {setting.device_name}, {setting.engine}, {setting.precision}")


def _check_page(html: Path, *, read: Sequence[str | None]) -> None:
    """Check that the page can be written and replaces no other file.

    Raises:
        UsageError: The page would replace a file that is read.
        OutputError: Its folder is missing, or a file of another program is in the way.
    """
    if not html.parent.is_dir():
        raise OutputError(
            "the page's folder is missing", value=html.parent, advice="Make the folder of the page, or choose another"
        )
    from magnet_cli.report.page import is_page

    page = WrittenFile(path=html, kind="page", owner="this bench", is_ours=is_page)
    refuse_collisions([page], [path for path in read if path is not None])
    refuse_unwritable([page])


def _print_result(result: BenchResult, listing: Listing, *, html: Path | None, json: bool) -> None:
    line = result.quote
    listing.more |= {**result.setting.describe(), "quote": line}
    if not json:
        from magnet_cli.cli.bench_tables import bench_lines

        print_lines(*bench_lines(result.rows))
        if line is not None:
            print_lines(line)
    if html is not None:  # The page comes last, so that a full disk does not lose the printed figures.
        from magnet_cli.system import durable

        durable.write_whole(html, redacted(result.page()).encode())
