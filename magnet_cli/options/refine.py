"""What a user may choose of `magnet refine`: one frozen value, no files and no devices."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path  # noqa: TC003 - part of the values' types
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.segment import Precision, RefineMethod  # noqa: TC001 - part of the values' types
from magnet_cli.options.values import ValueRange  # noqa: TC001 - part of the values' types

MaskKindOption = Literal["auto", "binary", "labels", "probability"]
CompatOption = Literal["paper", "published"]

PADDING = Fraction(1, 8)
"""Of an object's width and height, added on each side; the paper's."""
THRESHOLD = Fraction(1, 2)
LEAST_SIDE, MOST_SIDE = 66, 4096
"""Of L: windows are at least so wide that they can overlap."""
OF_CASCADE = {
    "weights": "--weights",
    "side": "--L",
    "fast": "--fast",
    "only": "--only",
    "stuff": "--stuff",
    "min_area": "--min-area",
    "padding": "--padding",
    "compat": "--compat",
}
"""Options that say nothing to the classical tools."""


@dataclass(frozen=True, kw_only=True)
class RefineOptions:
    """Everything that `refine` can be told; None leaves the choice to the bundle or the machine."""

    method: RefineMethod = "cascadepsp"
    """The network of a bundle, or a classical tool: the guided filter or the dense CRF."""
    evidence: Path | None = None
    """The class probabilities that `segment` has kept, which a classical tool starts from, and which say what a pixel
    is that its object gives up; None takes the mask alone."""
    weights: str | None = None
    """Of `cascadepsp`, which has to name one."""
    side: int | None = None
    """L: the longer side at which an object is looked at as a whole, and the side of the local step's windows."""
    fast: bool = False
    """The global step alone."""
    mask_kind: MaskKindOption = "auto"
    threshold: Fraction | None = None
    """Above which a probability belongs to the object; None is one half."""
    objects: tuple[str, ...] = ()
    """Names or indices of classes of a mask that are the object together; all else is what is around it."""
    only: tuple[str, ...] = ()
    """Names or indices of the classes whose objects are refined in a mask of several; none: of all."""
    stuff: tuple[str, ...] = ()
    """Names or indices of classes that must be nearly certain to win a pixel from another one."""
    min_area: int = 64
    """Objects of fewer pixels are left as they are."""
    padding: Fraction = PADDING
    bands: tuple[str, ...] | None = None
    """The image's red, green and blue, by number (the first is 1) or name."""
    value_range: ValueRange | None = None
    """Which stored values stand for the ends of the bundle's range."""
    compat: CompatOption | None = None
    device: str = "auto"
    precision: Precision | Literal["auto"] = "auto"
    num_workers: int | None = None
    """As of `SegmentOptions`."""
    gpu_memory: int | None = None
    """Bytes."""
    memory: int | None = None
    """Bytes."""
    overwrite: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        self._check_method()
        if self.side is not None and not LEAST_SIDE <= self.side <= MOST_SIDE:
            raise UsageError(f"--L is {LEAST_SIDE} to {MOST_SIDE} pixels", value=self.side)
        for option, value in (("--min-area", self.min_area), ("--num-workers", self.num_workers or 0)):
            if value < 0:
                raise UsageError(f"{option} is at least 0", value=value)
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise UsageError("--threshold is 0 to 1, and less than 1", value=float(self.threshold))
        for option, given in (("--object", self.objects), ("--only", self.only)):
            if given and self.mask_kind in ("binary", "probability"):
                raise UsageError(
                    f"{option} takes classes out of a mask of labels",
                    value=f"--mask-kind {self.mask_kind}",
                    advice="Leave one of them out",
                )
        if self.objects and self.only:
            raise UsageError(
                "--object makes a mask of the object and what is around it, --only keeps all classes",
                value="--object and --only",
                advice="Leave one of them out",
            )
        if not 0 <= self.padding <= 1:
            raise UsageError("--padding is 0% to 100% of an object's size", value=f"{float(self.padding):.0%}")

    def _check_method(self) -> None:
        if self.method == "cascadepsp":
            return
        defaults = {entry.name: entry.default for entry in fields(self)}
        given = [option for name, option in OF_CASCADE.items() if getattr(self, name) != defaults[name]]
        if given:
            raise UsageError(
                f"--method {self.method} has no network and no objects",
                value=", ".join(given),
                advice="Leave it out, or take --method cascadepsp",
            )


def parse_padding(text: str) -> Fraction:
    """`12.5%` or `0.125`: a share of an object's width and height.

    Raises:
        UsageError: It is neither.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{0,30})?|\.\d{1,30})(%?)", text.strip())
    if found is None:
        raise UsageError("--padding is a share of an object's size", value=repr(text), advice="Write --padding 12.5%")
    return Fraction(found[1]) / (100 if found[2] else 1)


def parse_classes(text: str | None, option: str) -> tuple[str, ...]:
    """Names or indices with commas between them.

    Raises:
        UsageError: There is none, which would mean all of them.
    """
    if text is None:
        return ()
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise UsageError(f"{option} names classes", value=repr(text), advice="Name one, or leave it out")
    return found
