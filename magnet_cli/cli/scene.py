"""`magnet scene` draws an image of any size to try the program on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from magnet_cli.cli.outcome import Listing, command, print_note
from magnet_cli.cli.parameters import Json, NoProgress
from magnet_cli.errors import OutputError, UsageError
from magnet_cli.geometry import Size
from magnet_cli.system.written_files import WrittenFile, refuse_collisions, refuse_unwritable

LARGEST_SEED = (1 << 31) - 1
SUFFIXES = (".tif", ".tiff")


@command
def scene(
    output: Annotated[Path, typer.Argument(help="Path of the image, a pyramidal TIFF.")],
    *,
    size: Annotated[
        str, typer.Option(help="Width and height in pixels, like 20000x20000.", envvar="MAGNET_SIZE")
    ] = "8192x8192",
    seed: Annotated[int, typer.Option(help="Each number gives another scene.", envvar="MAGNET_SEED")] = 0,
    landscape: Annotated[
        Literal["countryside", "desert"],
        typer.Option(
            help="What is drawn: green fields and villages, or a desert city in the colours of the training of aerial.",
            envvar="MAGNET_LANDSCAPE",
        ),
    ] = "countryside",
    labels: Annotated[Path | None, typer.Option(help="Also write the true classes to this file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: Json = False,
    no_progress: NoProgress = False,
) -> None:
    """Write a made-up aerial scene of any size, and its true classes."""
    with Listing(json=json) as listing:
        made_size = parse_size(size)
        if abs(seed) > LARGEST_SEED:
            raise UsageError(f"--seed is a number of at most {LARGEST_SEED}", advice="Write --seed 1")
        paths = [output] if labels is None else [output, labels]
        _check_names(paths)
        for path in paths:
            if path.exists() and not overwrite:
                raise OutputError("the file exists", file=path, advice="Choose another name, or add --overwrite")
        from magnet_cli.cli.progress import showing
        from magnet_cli.scene import LANDSCAPES, Scene, write_scene
        from magnet_cli.scene.scene_writer import is_scene

        files = [WrittenFile(path=path, kind="scene", owner="this scene", is_ours=is_scene) for path in paths]
        refuse_collisions(files, [])
        refuse_unwritable(files)

        with showing(output, "drawing", enabled=not no_progress):
            drawn = Scene(size=made_size, seed=seed, landscape=LANDSCAPES[landscape])
            write_scene(output, drawn, labels_path=labels)
        print_note(f"{output}: {made_size} pixels")
        shape = {"width": made_size.width, "height": made_size.height}
        files_written = {"image": str(output), "labels": labels and str(labels)}
        listing.add({**files_written, "size": shape, "seed": seed, "landscape": landscape})


def parse_size(text: str) -> Size:
    """Parse a size in pixels like `20000x10000`, width first.

    Raises:
        UsageError: The text is no such pair of whole numbers.
    """
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text.strip().lower())
    if found is None:
        raise UsageError("--size is WIDTHxHEIGHT in pixels", value=repr(text), advice="Write --size 20000x10000")
    return Size(width=int(found[1]), height=int(found[2]))


def _check_names(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"a scene is written as {' or '.join(SUFFIXES)}",
                value=path,
                advice=f"Give the file a name that ends in {' or '.join(SUFFIXES)}",
            )
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError(
            "the image and its classes go to two files", value=paths[0], advice="Give --labels another name"
        )
