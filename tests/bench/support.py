"""A bench small enough for a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.bench.task import Task
from magnet_cli.geometry import Size
from magnet_cli.options import SegmentOptions
from magnet_cli.scene import write_repeated
from tests.laws.support import blurry_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.options import Method

SIDE = 150
"""Of the image: no multiple of anything."""
SCALES = (32, 64, 128)


def task(folder: Path, *, method: Method = "magnet", side: int = SIDE, timed: bool = False) -> Task:
    """A task on a generated image, with a bundle of one-convolution networks."""
    bundle = blurry_bundle(folder / "bundle", scales=SCALES)
    write_repeated(folder / "image.tif", size=Size(width=side, height=side))
    write_repeated(folder / "warm.tif", size=Size(width=64, height=64))
    scratch = folder / "scratch"
    scratch.mkdir()
    options = SegmentOptions(weights=str(bundle), method=method, device="cpu")
    return Task(
        image=str(folder / "image.tif"), options=options, folder=scratch, warm=str(folder / "warm.tif"), timed=timed
    )
