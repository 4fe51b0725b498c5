"""Options of `magnet evaluate`: which pixels and classes count, and which methods are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Rational
from typing import Literal, cast, get_args

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import choice
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, OptionGroup
from magnet_cli.options.segment import Method, SegmentOptions

RadiusRule = Literal["fixed", "paper", "published"]
LABELS = 256
"""Number of values that an 8-bit label can have."""
METHODS: tuple[Method, ...] = ("downsample", "patch", "magnet-fast", "magnet")


def parse_methods(text: str) -> tuple[Method, ...]:
    """Parse the names of methods, like `downsample,patch`, and keep their order.

    Raises:
        UsageError: A name is not that of a method, or occurs twice.
    """
    known = get_args(Method)
    names = [part.strip().lower().replace("_", "-") for part in text.split(",")]
    if len(set(names)) < len(names) or not set(names) <= set(known):
        raise UsageError(
            f"--methods takes some of {', '.join(known)}, each once",
            value=repr(text),
            advice="Write different methods, such as --methods downsample,magnet",
        )
    return cast("tuple[Method, ...]", tuple(names))


def parse_values(text: str) -> dict[int, int]:
    """Parse pairs like `255=1,0=0` into a dictionary from stored values to labels.

    Raises:
        UsageError: A part is not such a pair, or a stored value occurs twice.
    """
    found: dict[int, int] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*(\d{1,3})\s*=\s*(\d{1,3})\s*", part)
        if match is None or int(match[1]) in found:
            raise UsageError("--truth-values takes pairs STORED=CLASS", value=repr(text), advice="Write 255=1,127=2")
        found[int(match[1])] = int(match[2])
    return found


def parse_names(text: str) -> tuple[str, ...]:
    """Parse the names of all classes in the order of their indices, like `land,water,road`.

    Raises:
        UsageError: A name is empty, or occurs twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(
            "--classes takes different names with commas between",
            value=repr(text),
            advice="Write different names, such as --classes background,building",
        )
    return names


def _parse_labels(text: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,3}", part) for part in parts):
        raise UsageError(
            f"{option} takes labels, numbers from 0 to 255", value=repr(text), advice="Write numbers, such as 3,4"
        )
    return tuple(map(int, parts))


def _parse_share(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{option} is a number from 0 to 1", value=repr(text), advice="Write a number from 0 to 1, such as 0.5"
        ) from None


_LABELS = Form(parse=_parse_labels, types=(tuple, list), convert=tuple, annotation=list[int], metavar="N")
_NAMES = Form(parse=lambda text, _: parse_names(text), types=(tuple, list), convert=tuple, metavar="NAMES")
_VALUES = Form(parse=lambda text, _: parse_values(text), types=(Mapping,), metavar="PAIRS")
_METHODS = Form(parse=lambda text, _: parse_methods(text), types=(tuple, list), convert=tuple, metavar="LIST")
_SHARE = Form(parse=_parse_share, types=(Rational, float), convert=float, annotation=float, metavar="NUMBER")


@dataclass(kw_only=True, unsafe_hash=True)
class EvaluationOptions(OptionGroup, panel="What to compare"):
    """Options on the pixels and classes that count in a comparison of a mask with the truth."""

    ignore: ListOption[tuple[int, ...]] = ListOption(
        (),
        _LABELS,
        about="Ignore pixels of TRUTH that have this value; 255 is always ignored. Repeatable.",
        variable="",
        shown="",
    )
    """Values of the truth that mark unlabelled pixels, in addition to 255, which always marks them."""
    exclude: ListOption[tuple[int, ...]] = ListOption(
        (),
        _LABELS,
        about="Leave this class out of the mean; its pixels still count for the other classes. Repeatable.",
        words=("--exclude-class",),
        variable="",
        shown="",
    )
    """Classes left out of the mean IoU; their pixels stay in the unions of the others."""
    names: ListOption[tuple[str, ...] | None] = ListOption(
        None,
        _NAMES,
        about="Names of the classes in the order of their indices, like land,water,road.",
        words=("--classes",),
        variable="",
    )
    """Names of the classes. A label without a name is then an error. None shows the names that the mask holds."""
    truth_values: Option[Mapping[int, int] | None] = Option(
        None, _VALUES, about="Classes of the values that TRUTH stores, as pairs STORED=CLASS, like 255=1.", variable=""
    )
    """Labels of those stored values of the truth that differ from their label. None takes all values as labels."""
    boundary: Option[RadiusRule | None] = Option(None, choice(RadiusRule), about="Radii of the mean boundary accuracy.")
    """Radii of the mean boundary accuracy. The fixed radii are always used; another rule adds its own. None leaves the
    accuracy out."""

    def __post_init__(self) -> None:
        values = self.truth_values or {}
        for value in (*self.ignore, *self.exclude, *values, *values.values()):
            if not 0 <= value < LABELS:
                raise UsageError("a label is a number from 0 to 255", value=value, advice="Choose labels from 0 to 255")
        self.check_excluded(self.names)

    def check_excluded(self, names: tuple[str, ...] | None) -> None:
        """Check that every class that is left out of the mean exists.

        Args:
            names: Names of the classes. None, where they are not known, accepts any class.

        Raises:
            UsageError: A class that is left out of the mean does not exist.
        """
        strays = [label for label in self.exclude if names is not None and label >= len(names)]
        if strays:
            known = ", ".join(f"{label} ({name})" for label, name in enumerate(names or ()))
            raise UsageError("there is no such class to leave out of the mean", value=strays[0], advice=f"Give {known}")


@dataclass(kw_only=True, unsafe_hash=True)
class ScoreOptions(OptionGroup, panel="What to compare", variables=False):
    """Methods that are compared on a data set, how they segment its images, and which pixels and classes count."""

    methods: ListOption[tuple[Method, ...]] = ListOption(
        METHODS, _METHODS, about="Methods that --data compares.", shown=",".join(METHODS)
    )
    segment: SegmentOptions = field(default_factory=partial(SegmentOptions, tissue="none"))
    """Options by which images are segmented. Its `method` is ignored, because `methods` names them. Whole images are
    segmented, so `tissue="auto"` means `none`, and `roi` and `mask` are refused."""
    evaluation: EvaluationOptions = field(default_factory=lambda: EvaluationOptions(boundary="fixed"))
    """Pixels and classes that count. Where it names no classes, the names of the bundle's classes are used."""
    iou_threshold: NumericOption[float] = NumericOption(
        0.65, _SHARE, about="An image's IoU below this counts as 0 in the thresholded mean."
    )
    """Mean IoU of an image below this counts as 0 in the thresholded mean; ISIC 2018 took 0.65."""

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise UsageError(
                "methods are named once each", value=", ".join(self.methods) or "none", advice="Name each method once"
            )
        if not 0 <= self.iou_threshold <= 1:
            raise UsageError(
                "a threshold of IoU is from 0 to 1",
                value=self.iou_threshold,
                advice="Choose a threshold from 0 to 1, such as 0.5",
            )
