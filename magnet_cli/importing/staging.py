"""A bundle's folder that appears complete or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError
from magnet_cli.models.description import CARD, DESCRIPTION
from magnet_cli.models.engines.engine_runs import FILE as ENGINES
from magnet_cli.models.engines.quantised_graph import FILE as INT8
from magnet_cli.models.engines.quantised_graph import GRAPH
from magnet_cli.models.foreign.foreign_spec import FOLDER
from magnet_cli.system.working_files import working_folder
from magnet_cli.system.written_files import (
    WrittenFile,
    refuse_collisions,
    refuse_link_loop,
    refuse_long_names,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WEIGHTS = ".safetensors"
PARTS = (DESCRIPTION, CARD, FOLDER, ENGINES, INT8, GRAPH)
"""Files and folders of a bundle, among them what `magnet weights measure` and `quantise` have made of its networks."""
UNKNOWN_LICENCE = "unknown; ask whoever published the checkpoints"


def check_output(output: Path, *, overwrite: bool, read: Sequence[Path]) -> None:
    """Accept a folder that is not there, or a bundle that may be replaced.

    Args:
        output: The folder, which is replaced as a whole.
        overwrite: Whether a bundle that is there may be replaced.
        read: The files that the bundle is made of.

    Raises:
        UsageError: The folder holds a file that is no part of a bundle.
        OutputError: The folder may not be replaced, or cannot be reached.
    """
    for folder in (output.parent, output):
        refuse_link_loop(folder)
    file = WrittenFile(path=output, kind="bundle", owner="this import", is_ours=lambda path: path.is_dir())
    refuse_collisions([file], read)
    refuse_long_names([file])
    # `lexists`, because a link whose target is missing is in the way as well.
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise OutputError("the bundle's folder exists", file=output, advice="Choose another folder, or add --overwrite")
    # The folder is replaced as a whole. Only one that is clearly a bundle may be, or a mistyped path would erase a
    # folder.
    if not (output / DESCRIPTION).is_file():
        raise OutputError(
            f"only a folder with a {DESCRIPTION} is replaced", file=output, advice="Choose another folder"
        )
    for entry in output.iterdir():
        if entry.name not in PARTS and entry.suffix != WEIGHTS:
            raise OutputError(
                "the folder is replaced as a whole, and this file in it is no part of a bundle",
                file=entry,
                advice="Move the file away, or choose another output",
            )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Make a folder beside the output. It takes the output's place when the block ends well, and is removed otherwise.

    Raises:
        OutputError: A folder cannot be written.
    """
    # The staging folder lies beside the output, because a rename is atomic only within one file system.
    with working_folder(output.absolute()) as staging:
        yield staging
