"""Interpretation of a mask's values: one object, classes, or a probability.

The choice is reported with its reason, and values that allow several interpretations are refused.
"""

from __future__ import annotations

import colorsys
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.spec import MaskClass

if TYPE_CHECKING:
    from collections.abc import Sequence

MaskKind = Literal["binary", "labels", "probability"]

MOST_UNNAMED = 64
"""Largest value of a grey raster that is taken for class indices without `--mask-kind`. A larger one may be a
probability."""
GOLDEN = 0.618034
"""Step of hue from one class to the next, in turns: the golden ratio, so that classes of close indices differ."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The facts of a raster from which its interpretation is decided."""

    path: str
    dtype: str
    values: tuple[int, ...]
    """The values that occur, in rising order. Empty for floating point."""
    classes: tuple[tuple[str, str], ...] | None
    """Name and colour of each class. None if the file does not have them."""
    indexed: bool
    """Whether the file has a palette."""

    def named(self, names: Sequence[str]) -> Stored:
        """Return the facts with names of classes, unless the file names them or cannot hold class indices."""
        if not names or self.classes is not None or self.is_floating or self.is_full_scale:
            return self
        return replace(self, classes=tuple((name, class_color(label)) for label, name in enumerate(names)))

    @property
    def is_zero_and_one(self) -> bool:
        """Whether the file names no classes and holds only 0 and 1, like a mask of one object."""
        return self.classes is None and set(self.values) <= {0, 1}

    @property
    def is_full_scale(self) -> bool:
        """Whether the file names no classes and holds only 0 and 255, like a picture of an object."""
        return self.classes is None and NODATA in self.values and set(self.values) <= {0, NODATA}

    @property
    def is_floating(self) -> bool:
        """Whether the values are floating-point numbers."""
        return np.dtype(self.dtype).kind == "f"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The interpretation of a raster."""

    kind: MaskKind
    why: str
    """The reason, as text for the user."""
    classes: tuple[MaskClass, ...]
    """The classes by label: background and object for a binary mask and a probability."""
    nodata: bool
    """Whether the value 255 stands for a pixel that was not computed."""
    objects: tuple[int, ...] = ()
    """Values that together are the object of a binary mask, if the raster has several classes. If empty, all values but
    0 are the object."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return tuple(entry.name for entry in self.classes)


def decide(
    stored: Stored,
    wanted: MaskKind | Literal["auto"],
    objects: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
) -> Reading:
    """Decide the interpretation of a raster: the one that the user asks for, or the only one that its values allow.

    Args:
        stored: The facts of the raster.
        wanted: The interpretation that the user asks for.
        objects: Names or indices of classes that together are the object. All others are the background.
        only: Names or indices of classes that are refined while the others stay.

    Raises:
        SourceError: The values allow several interpretations, or not the one that was asked for.
        UsageError: A class is unknown.
    """
    if objects or only:
        option = "--object" if objects else "--only"
        if wanted == "auto":
            _refuse_one_object(stored, option)
        labels = _labels(stored, f"{option} {','.join(objects or only)}")
        return _some_classes(labels, objects) if objects else labels
    kind, why = _recognised(stored) if wanted == "auto" else (wanted, f"--mask-kind {wanted}")
    if kind == "labels":
        return _labels(stored, why)
    named = stored.classes if stored.classes is not None and len(stored.classes) == 2 else None  # noqa: PLR2004
    names = named or (("background", "#000000"), ("object", "#ffffff"))
    # 255 means not computed only where 1 is the object. In a mask of 0 and 255 it is the object itself.
    ones = 1 in stored.values and set(stored.values) <= {0, 1, NODATA}
    return Reading(
        kind=kind,
        why=why,
        classes=tuple(MaskClass(name=name, color=color) for name, color in names),
        nodata=kind == "binary" and (named is not None or ones),
    )


def _recognised(stored: Stored) -> tuple[MaskKind, str]:
    if stored.is_floating:
        return "probability", f"values are {stored.dtype}"
    present = set(stored.values)
    if stored.classes is not None:
        if len(stored.classes) == 2:  # noqa: PLR2004 - an object and what is around it
            return "binary", f"it has two classes; '{stored.classes[1][0]}' is the object"
        return "labels", f"it names {len(stored.classes)} classes"
    if present <= {0, 1} or present <= {0, NODATA}:
        return "binary", f"its values are {_listed(stored.values)}"
    if stored.indexed:
        return "labels", f"it has a palette and the values {_listed(stored.values)}"
    # 255 counts as not computed in a mask of classes, so it does not make the values too large for one.
    largest = max(present - {NODATA})
    if largest <= MOST_UNNAMED:
        return "labels", f"its values are {_listed(stored.values)}"
    raise SourceError(
        f"a grey mask of {stored.dtype} with values up to {max(present)} may hold classes or a probability",
        file=stored.path,
        advice="Give --mask-kind labels, --mask-kind probability, or --mask-kind binary if all but 0 is the object",
    )


def _refuse_one_object(stored: Stored, option: str) -> None:
    """Refuse to choose classes if the values can only be those of one object."""
    if stored.is_floating:
        raise UsageError(
            f"{option} takes classes out of a mask of labels, and {stored.path} holds {stored.dtype}: a probability",
            value=option,
            advice=f"Leave {option} out, or save class indices as whole numbers (uint8)",
        )
    if stored.is_full_scale:
        raise UsageError(
            f"{option} takes classes out of a mask of several, and {stored.path} holds 0 and 255: one object",
            value=option,
            advice=f"Leave {option} out, or give --mask-kind labels if 255 means not computed",
        )


def _labels(stored: Stored, why: str) -> Reading:
    if stored.is_floating:
        raise SourceError(
            "class indices are whole numbers",
            value=stored.dtype,
            file=stored.path,
            advice="Save class indices as whole numbers (uint8)",
        )
    present = [value for value in stored.values if value != NODATA]
    least, largest = min(present, default=0), max(present, default=0)
    if largest > NODATA or least < 0:
        raise SourceError(
            f"a class index is 0 to {NODATA - 1}",
            value=largest if largest > NODATA else least,
            file=stored.path,
            advice="Export the mask again with class indices from 0 to 254",
        )
    names = stored.classes or ()
    if largest >= len(names) > 0:
        raise SourceError(
            f"the mask names {len(names)} classes and holds the label {largest}",
            file=stored.path,
            advice="Export the mask again with a name for each class",
        )
    names = names or tuple((f"class {label}", class_color(label)) for label in range(largest + 1))
    return Reading(
        kind="labels",
        why=why,
        classes=tuple(MaskClass(name=name, color=color) for name, color in names),
        nodata=True,
    )


def _some_classes(labels: Reading, objects: tuple[str, ...]) -> Reading:
    chosen = class_indices(objects, labels.names, option="--object")
    named = [labels.classes[label] for label in chosen]
    one = MaskClass(name=" and ".join(entry.name for entry in named), color=named[0].color)
    around = MaskClass(name="background", color="#000000")
    why = f"--object {','.join(objects)}"
    return Reading(kind="binary", why=why, classes=(around, one), nodata=True, objects=chosen)


def class_indices(words: Sequence[str], names: Sequence[str], *, option: str) -> tuple[int, ...]:
    """Translate names or indices of classes into indices, in rising order.

    Raises:
        UsageError: A class is unknown.
    """
    found = set()
    for word in words:
        # Names come first, because a class may be named by a number that is the index of another one.
        if word in names:
            found.add(names.index(word))
        # `int` would also accept digits of other scripts, underscores and signs.
        elif re.fullmatch("[0-9]{1,3}", word) and int(word) < len(names):
            found.add(int(word))
        else:
            raise UsageError(
                f"{option} names classes of the mask: {', '.join(names[:12])}",
                value=repr(word),
                advice="Write names or indices with commas between them",
            )
    return tuple(sorted(found))


def class_color(label: int) -> str:
    """Return a colour for a class that has none, `#rrggbb`. The first class is black."""
    if label == 0:
        return "#000000"
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.65, 0.95)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _listed(values: tuple[int, ...]) -> str:
    few = 6
    return ", ".join(map(str, values)) if len(values) <= few else f"{values[0]} to {values[-1]}"
