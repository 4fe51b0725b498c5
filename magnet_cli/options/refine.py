"""Options of `magnet refine`, parsed and checked without opening a file or a device."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from pathlib import Path  # noqa: TC003 - part of the values' types
from typing import Literal

from magnet_cli.errors import UsageError
from magnet_cli.options.forms import (
    BUNDLE,
    CLASSES,
    DECIMAL_PATTERN,
    FILE,
    NUMBER,
    SWITCH,
    WHOLE,
    choice,
    exact,
    spell_decimal,
)
from magnet_cli.options.option import Form, ListOption, NumericOption, Option, PathOption, needing
from magnet_cli.options.segment import RefineMethod
from magnet_cli.options.shared import (
    WEIGHTS_HELP,
    BandOptions,
    EngineOption,
    EngineOptions,
    MachineOptions,
    PrecisionOption,
    PrivacyOptions,
    RunOptions,
)

MaskKindOption = Literal["auto", "binary", "labels", "probability"]
CompatOption = Literal["paper", "published"]

PADDING = Fraction(1, 8)
"""Padding around an object as a share of its width and height, added on each side. The paper uses 12.5 %."""
THRESHOLD = Fraction(1, 2)
LEAST_SIDE, MOST_SIDE = 66, 4096
"""Limits of L in pixels. Windows are L / 2 - 32 pixels apart, which has to be at least one pixel."""
CASCADE = ("method", "cascadepsp")
"""The option and the value that all options of a cascade need."""
ONE_OBJECT = ("mask_kind", ("binary", "probability"))
"""The option and the values for masks of a single object, which have no classes to choose from."""


def parse_padding(text: str) -> Fraction:
    """Parse a share of an object's width and height, written as `12.5%` or `0.125`.

    Raises:
        UsageError: The text is neither a percentage nor a decimal number.
    """
    found = re.fullmatch(rf"({DECIMAL_PATTERN})(%?)", text.strip())
    if found is None:
        raise UsageError("--padding is a share of an object's size", value=repr(text), advice="Write --padding 12.5%")
    # Exact, because a rounded share could move the corner of an object's box by a pixel.
    return Fraction(found[1]) / (100 if found[2] else 1)


PADDING_SHARE = Form(
    parse=lambda text, _: parse_padding(text),
    spell=spell_decimal,
    types=(Rational, float),
    convert=exact,
    metavar="SHARE",
)


@dataclass(kw_only=True, unsafe_hash=True)
class RefineOptions(BandOptions, EngineOptions, MachineOptions, RunOptions, PrivacyOptions, panel="Method"):
    """All options of `refine`. None leaves the choice to the bundle or the machine.

    Each option accepts a value, or the text that the command line takes: `RefineOptions(memory="4GiB")`.
    """

    method: Option[RefineMethod] = Option(
        "cascadepsp",
        choice(RefineMethod),
        about="Refine by a cascade (--weights), a guided filter or a dense CRF.",
        rank=2,
        variable="MAGNET_REFINE_METHOD",
    )
    """Refinement by the network of a bundle, or by a classical tool: the guided filter or the dense CRF."""
    evidence: PathOption[Path | None] = PathOption(
        None,
        FILE,
        about="NAME.probabilities.zarr from segment --probabilities. guided and crf start from it; pixels that an "
        "object loses get their next most probable class. Default: use the mask alone.",
        panel="What to read",
        variable="",
    )
    """Class probabilities written by `segment --probabilities`. A classical tool starts from them, and they decide
    which class a pixel gets that refinement removes from its object. None uses the mask alone."""
    weights: PathOption[str | None] = PathOption(None, BUNDLE, about=WEIGHTS_HELP, rank=1, needs=CASCADE)
    """Bundle of `cascadepsp`, which needs one."""
    side: Option[int | None] = Option(
        None,
        WHOLE,
        about="Side in pixels at which the network gets objects and windows. Default: the bundle's.",
        words=("--L",),
        needs=CASCADE,
    )
    """L in pixels: the longer side of an object in the global step, and the side of the windows in the local step."""
    fast: Option[bool] = Option(
        default=False,
        form=SWITCH,
        about="Refine each object only as a whole, at --L pixels, and skip the windows at finer levels.",
        needs=CASCADE,
    )
    """Run only the global step."""
    mask_kind: Option[MaskKindOption] = Option(
        "auto",
        choice(MaskKindOption),
        about="Meaning of the mask's values; auto decides from the file and reports its choice.",
        panel="What to read",
        rank=3,
    )
    threshold: NumericOption[Fraction | None] = NumericOption(
        None, NUMBER, about="Probability above which a pixel belongs to the object. Default: 0.5.", panel="What to read"
    )
    """Probability above which a pixel belongs to the object. None means one half."""
    objects: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Classes that form the object in a mask of several classes, as names or indices, like building. All "
        "other classes are its surroundings, and the result is a mask of the two.",
        panel="Where to look",
        words=("--object",),
        shown="",
        rival="classes",
        unless=ONE_OBJECT,
    )
    """Names or indices of the classes that form the object. All other classes of the mask are its surroundings."""
    only: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Refine only objects of these classes in a mask of several classes, as names or indices, like building. "
        "Pixels that no object gains or loses keep their class. Default: all.",
        panel="Where to look",
        shown="",
        rival="classes",
        unless=ONE_OBJECT,
        needs=CASCADE,
    )
    """Names or indices of the classes whose objects are refined in a mask of several classes. Empty means all."""
    stuff: ListOption[tuple[str, ...]] = ListOption(
        (),
        CLASSES,
        about="Classes that gain a pixel only where they are nearly certain, as names or indices, like sky,water.",
        panel="Where to look",
        shown="",
        needs=CASCADE,
    )
    """Names or indices of classes that gain a pixel from another class only where they are nearly certain."""
    min_area: Option[int] = Option(
        64,
        WHOLE,
        about="Leave objects of fewer pixels than this unchanged.",
        panel="Where to look",
        variable="",
        least=0,
        needs=CASCADE,
    )
    """Objects of fewer pixels than this stay unchanged."""
    padding: NumericOption[Fraction] = NumericOption(
        PADDING,
        PADDING_SHARE,
        about="Padding around an object as a share of its width and height.",
        shown="12.5%",
        needs=CASCADE,
    )
    """Padding around an object as a share of its width and height."""
    compat: Option[CompatOption | None] = Option(
        None, choice(CompatOption), about="Compute as the paper says, or as the published program does.", needs=CASCADE
    )

    # The classical tools have no network: nothing of theirs follows from a device, a precision or an engine.
    engine: Option[EngineOption] = needing(EngineOptions, "engine", CASCADE)
    device: Option[str] = needing(MachineOptions, "device", CASCADE)
    precision: Option[PrecisionOption] = needing(MachineOptions, "precision", CASCADE)
    gpu_memory: Option[int | None] = needing(MachineOptions, "gpu_memory", CASCADE)

    def __post_init__(self) -> None:
        self._check_method()
        if self.side is not None and not LEAST_SIDE <= self.side <= MOST_SIDE:
            raise UsageError(
                f"--L is {LEAST_SIDE} to {MOST_SIDE} pixels",
                value=self.side,
                advice=f"Choose --L from {LEAST_SIDE} to {MOST_SIDE}",
            )
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise UsageError(
                "--threshold is 0 to 1, and less than 1",
                value=float(self.threshold),
                advice="Choose --threshold from 0 to less than 1, such as 0.5",
            )
        for option, given in (("--object", self.objects), ("--only", self.only)):
            if given and self.mask_kind in ONE_OBJECT[1]:
                raise UsageError(
                    f"{option} takes classes out of a mask of labels",
                    value=f"--mask-kind {self.mask_kind}",
                    advice=f"Leave {option} or --mask-kind out",
                )
        if self.objects and self.only:
            raise UsageError(
                "--object makes a mask of the object and what is around it, --only keeps all classes",
                value="--object and --only",
                advice="Leave --object or --only out",
            )
        if not 0 <= self.padding <= 1:
            raise UsageError(
                "--padding is 0% to 100% of an object's size",
                value=f"{float(self.padding):.0%}",
                advice="Choose --padding from 0% to 100%",
            )

    def _check_method(self) -> None:
        if self.method == "cascadepsp":
            return
        # Naming what a classical tool does anyway asks for nothing that is not done.
        own = {"--engine": self.engine == "torch", "--device": self.device == "cpu"}
        own["--precision"] = self.precision == "float32"
        given = [word for word in self.given_for(CASCADE) if not own.get(word)]
        if given:
            raise UsageError(
                f"--method {self.method} has no network and no objects, and is computed on the CPU in float32",
                value=", ".join(given),
                advice=f"Leave {' and '.join(given)} out, or take --method cascadepsp",
            )
