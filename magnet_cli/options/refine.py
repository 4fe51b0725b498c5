"""What a user may choose of `magnet refine`: one frozen value, no files and no devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from pathlib import Path  # noqa: TC003 - part of the values' types
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import BUNDLE, CLASSES, FILE, NUMBER, SWITCH, WHOLE, choice, exact, spell_decimal
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, PathOption, options_in
from magnet_cli.options.segment import RefineMethod
from magnet_cli.options.shared import WEIGHTS_HELP, BandOptions, MachineOptions, RunOptions

MaskKindOption = Literal["auto", "binary", "labels", "probability"]
CompatOption = Literal["paper", "published"]

PADDING = Fraction(1, 8)
"""Padding around an object as a share of its width and height, added on each side. The paper uses 12.5 %."""
THRESHOLD = Fraction(1, 2)
LEAST_SIDE, MOST_SIDE = 66, 4096
"""Limits of L: windows are at least so wide that they can overlap."""
CASCADE = ("method", "cascadepsp")
"""The option, and its word, without which the options of a cascade mean nothing."""
ONE_OBJECT = ("mask_kind", ("binary", "probability"))
"""Masks whose classes nobody can choose among."""


def parse_padding(text: str) -> Fraction:
    """`12.5%` or `0.125`: a share of an object's width and height.

    Raises:
        UsageError: It is neither.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{0,30})?|\.\d{1,30})(%?)", text.strip())
    if found is None:
        raise UsageError("--padding is a share of an object's size", value=repr(text), advice="Write --padding 12.5%")
    return Fraction(found[1]) / (100 if found[2] else 1)


def _spell_padding(share: Fraction) -> str:
    return spell_decimal(share)


PADDING_SHARE = Form(
    parse=lambda text, _: parse_padding(text),
    spell=_spell_padding,
    types=(Rational, float),
    convert=exact,
    metavar="SHARE",
)


@dataclass(kw_only=True, unsafe_hash=True)
class RefineOptions(BandOptions, MachineOptions, RunOptions):
    """Everything that `refine` can be told; None leaves the choice to the bundle or the machine.

    Each option takes a value, or the text that the command line takes: `RefineOptions(memory="4GiB")`.
    """

    method: Option[RefineMethod] = Option(
        "cascadepsp",
        choice(RefineMethod),
        about="A cascade's bundle, or a classical tool.",
        panel="Method",
        rank=2,
        variable="MAGNET_REFINE_METHOD",
    )
    """The network of a bundle, or a classical tool: the guided filter or the dense CRF."""
    evidence: PathOption[Path | None] = PathOption(
        None,
        FILE,
        about="NAME.probabilities.zarr, which segment --probabilities has kept: guided and crf start from it, and "
        "pixels that an object gives up become its next most probable class. Default: the mask alone.",
        panel="What to read",
        variable="",
    )
    """The class probabilities that `segment` has kept. A classical tool starts from them, and they say which class a
    pixel becomes that its object gives up. None takes the mask alone."""
    weights: PathOption[str | None] = PathOption(
        None, BUNDLE, about=WEIGHTS_HELP, panel="Method", rank=1, needs=CASCADE
    )
    """The bundle of `cascadepsp`, which has to name one."""
    side: Option[int | None] = Option(
        None,
        WHOLE,
        about="Side in pixels at which objects and windows are looked at. Default: the bundle's.",
        panel="Method",
        words=("--L",),
        needs=CASCADE,
    )
    """L: the longer side at which an object is looked at as a whole, and the side of the local step's windows."""
    fast: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Look at objects as a whole alone, at --L pixels.",
        panel="Method",
        needs=CASCADE,
    )
    """The global step alone."""
    mask_kind: Option[MaskKindOption] = Option(
        "auto",
        choice(MaskKindOption),
        about="How the mask's values are read; auto says what it took them for.",
        panel="What to read",
        rank=3,
    )
    threshold: NumericOption[Fraction | None] = NumericOption(
        None,
        NUMBER,
        about="Probability above which a pixel belongs to the object. Default: 0.5.",
        panel="What to read",
    )
    """Probability above which a pixel belongs to the object. None is one half."""
    objects: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Classes of a mask of several that are the object together, as names or indices: building. All "
        "else is what is around it, and the result is a mask of the two.",
        panel="Where to look",
        words=("--object",),
        shown="",
        rival="classes",
        unless=ONE_OBJECT,
    )
    """Names or indices of classes of a mask that are the object together; all else is what is around it."""
    only: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Classes whose objects are refined in a mask of several, as names or indices: building. Pixels that "
        "no object gains or gives up keep their class. Default: all.",
        panel="Where to look",
        shown="",
        rival="classes",
        unless=ONE_OBJECT,
        needs=CASCADE,
    )
    """Names or indices of the classes whose objects are refined in a mask of several; none: of all."""
    stuff: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Classes that must be nearly certain to win a pixel, as names or indices: sky,water.",
        panel="Where to look",
        shown="",
        needs=CASCADE,
    )
    """Names or indices of classes that must be nearly certain to win a pixel from another one."""
    min_area: Option[int] = Option(
        64,
        WHOLE,
        about="Objects of fewer pixels are left as they are.",
        panel="Where to look",
        variable="",
        least=0,
        needs=CASCADE,
    )
    """Objects of fewer pixels are left as they are."""
    padding: NumericOption[Fraction] = NumericOption(
        PADDING,
        PADDING_SHARE,
        about="What is looked at around an object, a share of its size.",
        panel="Method",
        shown="12.5%",
        needs=CASCADE,
    )
    """Padding around an object as a share of its width and height."""
    compat: Option[CompatOption | None] = Option(
        None,
        choice(CompatOption),
        about="The paper's method, or the published program's.",
        panel="Method",
        needs=CASCADE,
    )

    def __post_init__(self) -> None:
        self._check_method()
        if self.side is not None and not LEAST_SIDE <= self.side <= MOST_SIDE:
            raise UsageError(f"--L is {LEAST_SIDE} to {MOST_SIDE} pixels", value=self.side)
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
        given = [
            entry.word
            for entry in options_in(type(self))
            if entry.needs == CASCADE and getattr(self, entry.name) != entry.default
        ]
        if given:
            raise UsageError(
                f"--method {self.method} has no network and no objects",
                value=", ".join(given),
                advice="Leave it out, or take --method cascadepsp",
            )
