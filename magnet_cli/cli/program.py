"""The entry of the program: signals are handled before anything else is imported, which takes a while."""

from __future__ import annotations

from magnet_cli.cli import signals


def main() -> None:
    """Run the program on the words of the command line, and exit with its code."""
    signals.start()
    from magnet_cli.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
