"""The program `magnet`. Each command parses its words, calls the library, and returns an exit code."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from magnet_cli import __version__
from magnet_cli.cli.assemble import assemble
from magnet_cli.cli.bench import bench
from magnet_cli.cli.command_group import CommandGroup
from magnet_cli.cli.doctor import doctor
from magnet_cli.cli.evaluate import evaluate
from magnet_cli.cli.export import export
from magnet_cli.cli.outcome import DEBUG, flushed, print_failure, print_message, print_notices, unwritten
from magnet_cli.cli.parameters import PanelCommand
from magnet_cli.cli.queries import info, plan, verify
from magnet_cli.cli.refine import refine
from magnet_cli.cli.report import report
from magnet_cli.cli.scene import scene
from magnet_cli.cli.segment import segment
from magnet_cli.cli.train import train_app
from magnet_cli.cli.view import view
from magnet_cli.cli.volume import speaking
from magnet_cli.cli.weights import weights_app
from magnet_cli.errors import BugError, OutputError, trace_of
from magnet_cli.system.memory import keep_heap_steady
from magnet_cli.system.threads import wait_briefly

# This comes before any import of torch, because OpenMP reads the environment once, when it is loaded.
wait_briefly(os.environ)

FIRST_STEPS = """\b
First steps:
  magnet doctor                            what this machine has, and what it lacks
  magnet info IMAGE                        what the file says about itself
  magnet segment IMAGE -o masks --html     a mask, a report and a page to look at
  magnet help segment                      the options of a command
"""
"""The end of the help of the program."""

app = typer.Typer(
    name="magnet",
    cls=CommandGroup,
    help="Segment images far larger than memory, coarse to fine.",
    epilog=FIRST_STEPS,
    # Typer's own tracebacks print local variables, which hold paths and pixels.
    pretty_exceptions_enable=False,
    # Help texts contain brackets, which would be taken for markup.
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        # Neighbouring tools spell their options with underscores; those are understood too.
        "token_normalize_func": lambda word: word.replace("_", "-"),
    },
)
app.command(cls=PanelCommand)(speaking(segment))
app.command(cls=PanelCommand)(speaking(assemble))
app.command(cls=PanelCommand)(speaking(refine))
app.command(cls=PanelCommand)(speaking(plan, has_more=False))
app.command(cls=PanelCommand)(speaking(info, has_more=False))
app.command(cls=PanelCommand)(speaking(verify, has_more=False))
app.command(cls=PanelCommand)(speaking(report))
app.command(cls=PanelCommand)(speaking(view))
app.command(cls=PanelCommand)(speaking(export))
app.command(cls=PanelCommand)(speaking(scene, has_more=False))
app.command(cls=PanelCommand)(speaking(evaluate))
app.command(cls=PanelCommand)(speaking(bench))
app.command(cls=PanelCommand)(speaking(doctor, has_more=False))
app.add_typer(train_app, name="train")
app.add_typer(weights_app, name="weights")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"magnet {__version__}")
        raise typer.Exit


def _debug(*, wanted: bool) -> None:
    if wanted:
        os.environ[DEBUG] = "1"
    else:
        os.environ.pop(DEBUG, None)


@app.callback()
def _root(
    *,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", callback=_debug, envvar=DEBUG, help="Print the traceback of a bug that ended one image's work."
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del debug, version


def _bug(error: Exception) -> int:
    """Print the traceback of a bug, line by line, and return its exit code."""
    for line in trace_of(error).rstrip().split("\n"):
        print_message(line)
    return BugError.exit_code


def main() -> None:
    """Run the program on the words of the command line, and exit with its code.

    Click prints help and version itself, so the error of a standard output that cannot be written is handled here. The
    traceback of a bug is printed here, too, so that nothing in it is obeyed by the terminal.
    """
    # The limits of the heap hold for what is allocated from now on, so they come before the first large block.
    keep_heap_steady()
    print_notices()
    try:
        app(prog_name="magnet")
    except OSError as error:
        # A text longer than the buffer leaves nothing in it. Writing one more line shows whether the output fails.
        written = False
        with suppress(OSError):
            sys.stdout.write("\n")
            written = True
        # Without a buffer it is the writing that fails, and the flush that has nothing to do.
        if flushed(sys.stdout) and written:
            sys.exit(_bug(error))
        print_failure(unwritten(error))
        sys.exit(OutputError.exit_code)
    except Exception as error:  # noqa: BLE001 - a bug ends here, with its traceback and exit code 1
        sys.exit(_bug(error))
    finally:
        flushed(sys.stdout)
        flushed(sys.stderr)


if __name__ == "__main__":
    main()
