"""Options of `magnet bench`: images, methods, yardsticks and rounds that are measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.evaluate import parse_methods
from magnet_cli.options.forms import WHOLE
from magnet_cli.options.option import Form, ListOption, Option, OptionGroup
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import Method, RefineMethod, SegmentOptions

Yardstick = Literal["ceiling", "patching", "naive"]
YARDSTICKS: tuple[Yardstick, ...] = ("ceiling", "patching", "naive")

CASCADE: RefineMethod = "cascadepsp"
"""The only method of `magnet refine` that can be measured."""
CPU_SIZES = (2048, 4096, 8192)
"""Default sides of the images: on a CPU each takes minutes, once the program and once or twice each yardstick."""
GPU_SIZES = (4096, 16384, 65536)
MOST_PIXELS = 1_000_000
"""Largest side in pixels. No scanner makes larger images, so a larger number is a typing error."""


def parse_sizes(text: str) -> tuple[int, ...]:
    """Parse the sides of square images in pixels, like `4096,16384`, and sort them, the smallest first.

    Raises:
        UsageError: A side is no whole number of pixels, zero, absurdly large, or named twice.
    """
    words = [word.strip() for word in text.split(",")]
    # The pattern comes first and limits the digits: `int` refuses thousands of them with an error of its own.
    if not all(re.fullmatch(r"\d{1,7}", word) and 1 <= int(word) <= MOST_PIXELS for word in words):
        raise UsageError(
            f"--sizes are sides of square images, whole numbers from 1 to {MOST_PIXELS}",
            value=repr(text),
            advice="Write --sizes 4096,16384",
        )
    sizes = tuple(sorted(int(word) for word in words))
    if len(set(sizes)) < len(sizes):
        raise UsageError(
            "--sizes names each side once", value=repr(text), advice="Write each side once, such as --sizes 1024,2048"
        )
    return sizes


def parse_yardsticks(text: str) -> tuple[Yardstick, ...]:
    """Parse `ceiling,patching,naive`, some of them, or `none`.

    Raises:
        UsageError: There is no such yardstick.
    """
    names = {word.strip() for word in text.split(",")}
    chosen = tuple(name for name in YARDSTICKS if name in names)
    if text.strip() == "none":
        return ()
    if names != set(chosen):
        raise UsageError(
            f"--yardsticks are {', '.join(YARDSTICKS)}, or none",
            value=repr(text),
            advice="Separate the values by commas",
        )
    return chosen


def parse_measured(text: str) -> tuple[Method | RefineMethod, ...]:
    """Parse the methods that are measured: some methods of `segment`, or `cascadepsp` by itself.

    Raises:
        UsageError: A method does not exist, occurs twice, or `cascadepsp` is named together with others.
    """
    if text.strip().lower() == CASCADE:
        return (CASCADE,)
    if CASCADE in text:
        raise UsageError(
            "a bundle predicts classes or sharpens masks",
            value=f"--methods {text}",
            advice=f"Measure {CASCADE} by itself, with its bundle",
        )
    return parse_methods(text)


def _joined(values: tuple[object, ...] | list[object]) -> str:
    return ",".join(map(str, values))


_SIZES = Form(
    parse=lambda text, _: parse_sizes(text),
    types=(tuple, list),
    convert=lambda value: parse_sizes(_joined(value)),
    metavar="LIST",
)
_METHODS = Form(
    parse=lambda text, _: parse_measured(text),
    types=(tuple, list),
    convert=lambda value: parse_measured(_joined(value)),
    metavar="LIST",
)
_YARDSTICKS = Form(
    parse=lambda text, _: parse_yardsticks(text),
    types=(tuple, list),
    convert=lambda value: parse_yardsticks(_joined(value) or "none"),
    metavar="LIST",
)


@dataclass(kw_only=True, unsafe_hash=True)
class BenchOptions(OptionGroup, panel="What to measure", variables=False):
    """Options of a bench."""

    sizes: ListOption[tuple[int, ...] | None] = ListOption(
        None,
        _SIZES,
        about="Sides of the generated images. Default: 2048,4096,8192 on a CPU, 4096,16384,65536 elsewhere, none with "
        "INPUT. The images are kept in the folder for temporary files (TMPDIR) during the bench.",
        shown="",
    )
    """Sides of generated square images in pixels. None takes those that suit the device, or none beside an image."""
    methods: ListOption[tuple[Method | RefineMethod, ...] | None] = ListOption(
        None,
        _METHODS,
        about="Methods to measure: magnet, magnet-fast, patch, downsample; with a GRNet's bundle grnet, grnet-local; "
        "with a cascade cascadepsp. Default: magnet, or cascadepsp where --weights names a cascade.",
        shown="",
    )
    """Methods that are measured. None means `cascadepsp` where `measured` are options of `refine`, else `magnet`."""
    yardsticks: ListOption[tuple[Yardstick, ...]] = ListOption(
        YARDSTICKS,
        _YARDSTICKS,
        about="Yardsticks to compare with, or none; patching needs the extra 'bench'.",
        shown=",".join(YARDSTICKS),
    )
    repeats: Option[int | None] = Option(
        None, WHOLE, about="Number of rounds. Default: 3, or 1 where a run takes over half a minute.", shown="", least=1
    )
    """Number of rounds. None takes three of short runs and one of long ones."""
    measured: SegmentOptions | RefineOptions = field(default_factory=partial(SegmentOptions, tissue="none"))
    """Options of the command that is measured: of `segment`, or of `refine` with a cascade's bundle. Their `method` is
    ignored, because `methods` names it."""

    def __post_init__(self) -> None:
        if self.methods is not None and (CASCADE in self.methods) is not self.refines:
            raise UsageError(
                f"{CASCADE} is measured with options of refine, and other methods with options of segment",
                value=f"{', '.join(self.methods)} with {type(self.measured).__name__}",
                advice="Give measured=RefineOptions(...) for a cascade's bundle, else measured=SegmentOptions(...)",
            )

    @property
    def refines(self) -> bool:
        """Whether `refine` is measured, and not `segment`."""
        return isinstance(self.measured, RefineOptions)

    @property
    def chosen_methods(self) -> tuple[Method | RefineMethod, ...]:
        """The methods that are measured."""
        return self.methods or ((CASCADE,) if self.refines else ("magnet",))
