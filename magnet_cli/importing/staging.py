"""A bundle's folder that appears complete or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.system.working_files import working_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CARD = "README.md"
UNKNOWN_LICENCE = "unknown; ask whoever published the checkpoints"


def check_output(output: Path, *, overwrite: bool) -> None:
    """Accept a folder that is not there, or a bundle that may be replaced.

    Raises:
        OutputError: It is there and may not be replaced.
    """
    if not output.exists():
        return
    if not overwrite:
        raise OutputError("the bundle's folder exists", file=output, advice="Choose another, or add --overwrite")
    if not (output / DESCRIPTION).is_file():
        raise OutputError(f"only a folder with a {DESCRIPTION} is replaced", file=output, advice="Choose another")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside the output that takes its place when the block ends, and vanishes where it fails.

    Raises:
        OutputError: A folder cannot be written.
    """
    with working_folder(output.absolute()) as staging:
        yield staging
