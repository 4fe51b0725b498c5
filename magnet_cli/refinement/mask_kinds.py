"""How the values of a mask are to be read: as one object, as classes, as a probability. Nothing is guessed silently."""

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
"""Largest value of a grey raster that is taken for class indices unasked; beyond it may be a probability."""
GOLDEN = 0.618034
"""Turns of the colour circle from one class to the next, so that neighbours differ."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is known of a raster's values."""

    path: str
    dtype: str
    values: tuple[int, ...]
    """Those that occur, rising; empty for floating point."""
    classes: tuple[tuple[str, str], ...] | None
    """Name and colour of each, where the file says so."""
    indexed: bool
    """Whether it has a palette."""

    def named(self, names: Sequence[str]) -> Stored:
        """The same with names of its classes, where it has none and may hold class indices."""
        if not names or self.classes is not None or self.is_floating or self.is_full_scale:
            return self
        return replace(self, classes=tuple((name, class_color(label)) for label, name in enumerate(names)))

    @property
    def is_zero_and_one(self) -> bool:
        """Whether it names no classes and holds nothing but 0 and 1, like a mask of one object."""
        return self.classes is None and set(self.values) <= {0, 1}

    @property
    def is_full_scale(self) -> bool:
        """Whether it names no classes and holds nothing but 0 and 255, like a picture of an object."""
        return self.classes is None and NODATA in self.values and set(self.values) <= {0, NODATA}

    @property
    def is_floating(self) -> bool:
        """Whether values are no whole numbers."""
        return np.dtype(self.dtype).kind == "f"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a raster is read."""

    kind: MaskKind
    why: str
    """For people: what was seen, or who said so."""
    classes: tuple[MaskClass, ...]
    """Label = position; background and object for a binary mask and a probability."""
    nodata: bool
    """Whether the value 255 stands for a pixel that was not computed."""
    objects: tuple[int, ...] = ()
    """Of a binary mask: the values that are the object, where the raster has several classes; empty: all but 0."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, by label."""
        return tuple(entry.name for entry in self.classes)


def decide(
    stored: Stored,
    wanted: MaskKind | Literal["auto"],
    objects: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
) -> Reading:
    """How to read a raster: as it was said, or as its type, values and palette allow alone.

    Args:
        stored: The raster.
        wanted: As it was said.
        objects: Names or indices of classes that are the object together; all else is what is around it.
        only: Names or indices of classes that are chosen from others, which stay.

    Raises:
        SourceError: The values allow several readings, or not the one that was asked for.
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
    largest = max(present - {NODATA})
    if largest <= MOST_UNNAMED:
        return "labels", f"its values are {_listed(stored.values)}"
    raise SourceError(
        f"a grey mask of {stored.dtype} with values up to {max(present)} may hold classes or a probability",
        file=stored.path,
        advice="Say which: --mask-kind labels, --mask-kind probability, or binary where all but 0 is the object",
    )


def _refuse_one_object(stored: Stored, option: str) -> None:
    """Refuse to look for classes where the values can only be those of one object."""
    if stored.is_floating:
        raise UsageError(
            f"{option} takes classes out of a mask of labels, and {stored.path} holds {stored.dtype}: a probability",
            value=option,
            advice="Leave it out, or save class indices as whole numbers (uint8)",
        )
    if stored.is_full_scale:
        raise UsageError(
            f"{option} takes classes out of a mask of several, and {stored.path} holds 0 and 255: one object",
            value=option,
            advice="Leave it out, or say --mask-kind labels where 255 was not computed",
        )


def _labels(stored: Stored, why: str) -> Reading:
    if stored.is_floating:
        raise SourceError(
            "class indices are whole numbers",
            value=stored.dtype,
            file=stored.path,
            advice="Save them as such (uint8)",
        )
    present = [value for value in stored.values if value != NODATA]
    largest = max(present, default=0)
    if largest > NODATA or min(present, default=0) < 0:
        raise SourceError(f"a class index is 0 to {NODATA - 1}", value=largest, file=stored.path)
    names = stored.classes or ()
    if largest >= len(names) > 0:
        raise SourceError(f"the mask names {len(names)} classes and holds the label {largest}", file=stored.path)
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
    """Names or indices of classes as indices, rising.

    Raises:
        UsageError: One is unknown.
    """
    found = set()
    for word in words:
        if word in names:
            found.add(names.index(word))
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
    """A colour for a class that has none, `#rrggbb`; the first is black."""
    if label == 0:
        return "#000000"
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.65, 0.95)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _listed(values: tuple[int, ...]) -> str:
    few = 6
    return ", ".join(map(str, values)) if len(values) <= few else f"{values[0]} to {values[-1]}"
