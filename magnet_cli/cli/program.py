"""The entry of the program: signals are handled before anything else is imported, which takes a while."""

from __future__ import annotations

import os

from magnet_cli.cli import signals


def hold_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    The first files that the program opens would else get the numbers of the streams, and a library that prints would
    write into them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def main() -> None:
    """Run the program on the words of the command line, and exit with its code."""
    hold_streams()
    signals.start()
    from magnet_cli.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
