"""Names of channels as band names: small letters, one name a band, and colours by their whole names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PRIMARY = ("red", "green", "blue")
OTHER_COLOURS = ("hue", "saturation", "lightness", "cyan", "magenta", "ycbcr_y", "ycbcr_cb", "ycbcr_cr")
"""GDAL's names, in small letters, of colours that are neither red, green or blue nor converted to these. Yellow is not
among them, because some satellites have a band of that name."""
LETTERS = {"r": "red", "g": "green", "b": "blue"}


@dataclass(frozen=True, kw_only=True)
class BandNames:
    """What one file calls bands, in small letters, by the position of the band's sample."""

    descriptions: Mapping[int, str] = field(default_factory=dict)
    """Free texts, such as `b8` or `near infrared`."""
    colours: Mapping[int, str] = field(default_factory=dict)
    """Colours by GDAL's interpretation of the bands: those of `PRIMARY` and of `OTHER_COLOURS`."""

    @classmethod
    def of(cls, items: Iterable[tuple[int, str, str]]) -> Self:
        """Sort what a file states by its role.

        Args:
            items: Position of a sample, the role of the text (`description` or `colorinterp`; others are ignored), and
                the text in any letters.
        """
        descriptions, colours = dict[int, str](), dict[int, str]()
        for sample, role, text in items:
            name = text.strip().lower()
            if role == "description" and name:
                descriptions[sample] = name
            elif role == "colorinterp" and name in (*PRIMARY, *OTHER_COLOURS):
                colours[sample] = name
        return cls(descriptions=descriptions, colours=colours)

    def under(self, other: BandNames) -> BandNames:
        """Return the names of both files, where those of the other file have priority over those of the same kind."""
        return BandNames(
            descriptions={**self.descriptions, **other.descriptions}, colours={**self.colours, **other.colours}
        )

    def named(self, bands: Sequence[str], samples: Sequence[int]) -> tuple[str, ...]:
        """Return the bands by what the files call them.

        That a band is red, green or blue says more than a description, B4 for one: bundles call their bands so. A
        description replaces a number, and a colour replaces any name.

        Args:
            bands: Names of the bands by their place, such as `band1`, or `red` where the file says RGB.
            samples: The sample of each band.
        """
        primary = {sample: name for sample, name in self.colours.items() if name in PRIMARY}
        names = {**self.descriptions, **primary}
        return tuple(
            names.get(sample, name) if name.startswith("band") or names.get(sample) in PRIMARY else name
            for sample, name in zip(samples, bands, strict=True)
        )


def scale_note(scales: Iterable[float], offsets: Iterable[float]) -> tuple[str, ...]:
    """Return a note for the user where a file states how its stored values become physical ones.

    Args:
        scales: Factors that the file states for its bands; 1 leaves the values as they are.
        offsets: Numbers that it adds to the products; 0 leaves them as they are.
    """
    scale = next((value for value in scales if value != 1), None)
    offset = next((value for value in offsets if value != 0), None)
    if scale is None and offset is None:
        return ()
    said = [
        *([] if scale is None else [f"a scale of {scale:g}"]),
        *([] if offset is None else [f"an offset of {offset:g}"]),
    ]
    return (
        f"the file states {' and '.join(said)}, which is not applied: --value-range names values as they are stored",
    )


def channel_bands(names: Sequence[str]) -> tuple[str, ...]:
    """Make the names of bands of what a file calls its channels.

    Args:
        names: Names of the channels in stored order. An empty text is a channel without a name.

    Returns:
        A different name for each band: a channel without a name is called `band3` by its number, several channels of
        one name are numbered in their order, such as `dapi 1` and `dapi 2`, and `r`, `g` and `b` together are colours.
        Empty where no channel has a name.
    """
    found = [name.strip().lower() for name in names]
    if not any(found):
        return ()
    # A single channel called `g` may be anything; together with `r` and `b` it is a colour.
    if set(LETTERS) <= set(found) and not set(LETTERS.values()) & set(found):
        found = [LETTERS.get(name, name) for name in found]
    found = [name or f"band{number}" for number, name in enumerate(found, start=1)]
    often, taken = Counter(found), {name for name, count in Counter(found).items() if count == 1}
    following: Counter[str] = Counter()
    for index, name in enumerate(found):
        if often[name] == 1:
            continue
        numbered = ""
        while not numbered or numbered in taken:
            following[name] += 1
            numbered = f"{name} {following[name]}"
        taken.add(numbered)
        found[index] = numbered
    return tuple(found)
