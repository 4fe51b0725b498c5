"""The request of a bench: images, methods, yardsticks and repeats."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import Method, RefineMethod, SegmentOptions

Yardstick = Literal["ceiling", "patching", "naive"]
YARDSTICKS: tuple[Yardstick, ...] = ("ceiling", "patching", "naive")

CPU_SIZES = (2048, 4096, 8192)
"""Default sides of the images: on a CPU each takes minutes, once the program and once or twice each yardstick."""
GPU_SIZES = (4096, 16384, 65536)
MOST_PIXELS = 1_000_000
"""The most pixels of a side. No scanner makes more, so more is a typing error."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The request; the method in `options` is replaced by each of `methods`."""

    image: str | None = None
    """A file to bench on, instead of generated images unless `sizes` are given too."""
    mask: str | None = None
    """The mask of the image, where a mask is refined."""
    sizes: tuple[int, ...] | None = None
    """Sides of generated images; None takes those that suit the device, or none where there is an image."""
    methods: tuple[Method | RefineMethod, ...] = ("magnet",)
    yardsticks: tuple[Yardstick, ...] = YARDSTICKS
    repeats: int | None = None
    """Rounds; None takes three of short runs and one of long ones."""
    options: SegmentOptions | RefineOptions = field(default_factory=SegmentOptions)
    """The options of the command that is measured."""

    def __post_init__(self) -> None:
        refines = isinstance(self.options, RefineOptions)
        if refines and self.image is not None and self.mask is None:
            raise UsageError(
                "a cascade sharpens a mask of the image", value=self.image, advice="Name the mask after the image"
            )
        if not refines and self.mask is not None:
            raise UsageError(
                "a mask is what a cascade sharpens, and this bundle predicts classes",
                value=self.mask,
                advice="Leave it out, or name a cascade with --weights",
            )
        if self.repeats is not None and self.repeats < 1:
            raise UsageError("--repeats is at least 1", value=self.repeats)


def parse_sizes(text: str) -> tuple[int, ...]:
    """`4096,16384`: sides of square images in pixels, smallest first.

    Raises:
        UsageError: One is no whole number of pixels, zero, absurdly large, or named twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d{1,7}", word) and 1 <= int(word) <= MOST_PIXELS for word in words):
        raise UsageError(
            f"--sizes are sides of square images, whole numbers from 1 to {MOST_PIXELS}",
            value=repr(text),
            advice="Write --sizes 4096,16384",
        )
    sizes = tuple(sorted(int(word) for word in words))
    if len(set(sizes)) < len(sizes):
        raise UsageError("--sizes names each side once", value=repr(text))
    return sizes


def parse_yardsticks(text: str) -> tuple[Yardstick, ...]:
    """`ceiling,patching,naive`, any of them, or `none`.

    Raises:
        UsageError: There is no such yardstick.
    """
    names = {word.strip() for word in text.split(",")}
    chosen = tuple(name for name in YARDSTICKS if name in names)
    if text.strip() == "none":
        return ()
    if names != set(chosen):
        raise UsageError(
            f"--yardsticks are {', '.join(YARDSTICKS)}, or none", value=repr(text), advice="Separate them by commas"
        )
    return chosen
