"""`magnet view` shows an image and its masks in the browser."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.outcome import command, print_json, print_lines, print_note
from magnet_cli.cli.parameters import FIRST, Json, NoProgress
from magnet_cli.system.addresses import local_path

if TYPE_CHECKING:
    from magnet_cli.images import ImageInfo

SCHEMA = 1
TUNNEL = "SSH_CONNECTION"
"""The SSH server sets this environment variable in a session."""
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
TERMINAL_BROWSERS = frozenset({"www-browser", "links", "elinks", "lynx", "w3m", "browsh"})
"""Browsers that draw into the terminal, which this program uses itself. They run no scripts of a page either."""
BROWSER_SECONDS = 2.0
"""A browser that has not ended after this time was started."""


@command
def view(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image, a file or URL.")],
    masks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MASK...",
            help="Masks of the image: those of magnet, also while they are computed, or any raster of class indices, "
            "such as the truth.",
        ),
    ] = None,
    *,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="Port on this machine; 0 takes a free one.",
            envvar="MAGNET_PORT",
            rich_help_panel=FIRST,
        ),
    ] = 0,
    no_browser: Annotated[
        bool,
        typer.Option(
            "--no-browser",
            help="Print the address, and open no browser.",
            envvar="MAGNET_NO_BROWSER",
            rich_help_panel=FIRST,
        ),
    ] = False,
    regions: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="GeoJSON file whose areas the page draws and lists by name.",
            envvar="MAGNET_REGIONS",
            rich_help_panel=FIRST,
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME",
            help="Image to show from a file that holds several, by number (from 0) or name, as info lists them.",
            envvar="MAGNET_SERIES",
            rich_help_panel=FIRST,
        ),
    ] = None,
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Show an image and its masks in the browser, from the whole down to single pixels. Ctrl-C ends it."""
    del no_progress
    from magnet_cli.report.viewer.server import check_packages, serve

    check_packages()
    from magnet_cli.areas.features import read_named_areas
    from magnet_cli.report.viewer.exhibit import NamedRegion, open_exhibit

    def find_regions(info: ImageInfo) -> list[NamedRegion]:
        found = [] if regions is None else read_named_areas(regions, info)
        return [NamedRegion(name=area.name, rings=area.rings) for area in found]

    def ready(address: str) -> None:
        if json:
            print_json({"schema": SCHEMA, "address": address})
        else:
            print_lines(address)
        sys.stdout.flush()
        _advise(address, opened=not no_browser and _open(address))

    rule = "masks that are viewed lie on a disk, where their corrections are written beside them"
    paths = [local_path(mask, rule=rule) for mask in masks or []]
    with open_exhibit(image, paths, series=series, find_regions=find_regions) as exhibit:
        try:
            serve(exhibit, port=port, ready=ready)
        except KeyboardInterrupt:
            print_note("magnet: the page is closed")
    return 0


def _open(address: str) -> bool:
    """Open the address in a browser where there is a screen, and return whether a browser was started."""
    # Without a screen a browser for terminals would start in the terminal of this program.
    if os.environ.get(TUNNEL) or (sys.platform == "linux" and not any(map(os.environ.get, DISPLAYS))):
        return False
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    # Beside a screen there may still be no other browser than one for terminals.
    if Path(getattr(browser, "name", None) or "").name in TERMINAL_BROWSERS:
        return False
    # A command in the variable BROWSER is waited for until it ends, and the page has to be served meanwhile.
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(browser.open(address)), daemon=True)
    thread.start()
    thread.join(BROWSER_SECONDS)
    return found[0] if found else thread.is_alive()


def _advise(address: str, *, opened: bool) -> None:
    """Print on standard error how the page is opened and closed."""
    if opened:
        print_note("The page is open in your browser. Press Ctrl-C here to close it.")
        return
    print_note("Open this address in a browser. Press Ctrl-C here to close the page.")
    if os.environ.get(TUNNEL):
        port = address.split("/")[2].rpartition(":")[2]
        print_note(f"From another machine, first run there: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE")
