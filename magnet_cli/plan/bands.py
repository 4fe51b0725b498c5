"""The bands of an image that the network reads, and the stored values that stand for the ends of its range."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import numpy as np

from magnet_cli import images
from magnet_cli.errors import SourceError, UsageError, WeightsError
from magnet_cli.images.contents import positions_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.images.protocol import Image, ImageInfo
    from magnet_cli.options.shared import BandOptions
    from magnet_cli.options.values import ValueRange

Span = tuple[float, float]
"""Stored values, the lower one first."""

MOST_LISTED = 12
"""Largest number of bands that a message names one by one."""
WHOLE_SPAN = 127
"""A range of whole numbers as wide as this is one of integers; a narrower one, like 0 to 1, is one of real numbers."""
INTEGERS = (("uint8", "int8"), ("uint16", "int16"), ("uint32", "int32"), ("uint64", "int64"))
"""The integer types by the width of a value: one, two, four and eight bytes."""
BY_HAND = "Give the stored values at the ends of that range by --value-range: LOW,HIGH, 2%,98%"


class InputFacts(Protocol):
    """A model that reads an image: a bundle's networks, or a classical tool."""

    @property
    def title(self) -> str:
        """The name of the model in messages."""

    @property
    def bands(self) -> tuple[str, ...]:
        """The names of the bands that the model needs."""

    @property
    def value_range(self) -> Span:
        """Range of values for which the model was made."""


def check_bands(info: ImageInfo, facts: InputFacts, named: Sequence[str] | None = None) -> tuple[int, ...]:
    """Return the bands that the network gets, in its order: those that are named, else by name, else by count.

    Args:
        info: The info of the image.
        facts: The facts of the model that reads the image.
        named: A number (the first is 1) or a name for each of the bundle's bands.

    Raises:
        UsageError: Another number of bands is named than the bundle has.
        SourceError: The image lacks a band that is named, or has several of that name.
        WeightsError: No band is named, and neither names nor count agree.
    """
    if named is not None:
        if len(named) != len(facts.bands):
            count = f"{len(facts.bands)} band{'s'[: len(facts.bands) > 1]}"
            raise UsageError(
                f"{facts.title} reads {count}, {_listed(facts.bands)}, and --bands names {len(named)}",
                value=f"--bands {','.join(named)}",
                advice="Name the image's band for each of them, in that order",
            )
        return tuple(_position(info, word) for word in named)
    # Names go before positions: a file with the bands in another order would give a plausible mask from wrong colours.
    positions = positions_by_name(info, facts.bands)
    if positions is not None:
        return positions
    if len(info.bands) == len(facts.bands):
        return tuple(range(len(facts.bands)))
    raise WeightsError(
        f"{facts.title} needs bands {_listed(facts.bands)} and the image has {_listed(info.bands)}",
        file=info.path,
        advice="Name the image's bands in the bundle's order with --bands, by number or name, or take another bundle",
    )


def positions_by_name(info: ImageInfo, bands: Sequence[str], *, advice: str | None = None) -> tuple[int, ...] | None:
    """Return where an image has bands of these names, in their order; None where it lacks one.

    Args:
        info: The info of the image.
        bands: The names.
        advice: What the user can do where the image has several bands of one name; None says it of `--bands`.

    Raises:
        SourceError: The image has all of them, and several of one name.
    """
    found = {name: positions_of(name, info.bands) for name in bands}
    if not all(found.values()):
        return None
    for name, places in found.items():
        if len(places) > 1 and advice is not None:
            raise SourceError(_none_such(info, len(places)), value=name, file=info.path, advice=advice)
    return tuple(found[name][0] if len(found[name]) == 1 else _position(info, name) for name in bands)


def inspect_bands(image: str | Path, options: BandOptions) -> ImageInfo:
    """Return the facts about an image that is read by these options: an alpha channel that they name is a band.

    Raises:
        SourceError: It is missing, no image, or damaged; or it holds no such series.
    """
    with examine_bands(image, options) as opened:
        return opened.info


def examine_bands(image: str | Path, options: BandOptions) -> Image:
    """Open an image for its facts, as `inspect_bands` reads it.

    Raises:
        SourceError: It is missing, no image, or damaged; or it holds no such series.
    """
    opened = images.examine(image, series=options.series, alpha=options.alpha)
    info = opened.info
    if info.alpha != "mask" or options.alpha is not None or options.bands is None:
        return opened
    # Only a name that no other band has shows that the alpha channel is meant. Otherwise it stays the mask it mostly
    # is.
    with ExitStack() as stack:
        stack.callback(opened.close)
        as_band = images.examine(image, series=options.series, alpha="band")
        stack.pop_all()
    is_band = _has(as_band.info, options.bands) and not _has(info, options.bands)
    (opened if is_band else as_band).close()
    return as_band if is_band else opened


def _has(info: ImageInfo, words: Sequence[str]) -> bool:
    """Return whether an image has all bands that are named."""
    try:
        for word in words:
            _position(info, word)
    except SourceError:
        return False
    return True


def _position(info: ImageInfo, word: str) -> int:
    """Return the position of a band; a number beyond the image's bands may still be a name, such as a wavelength."""
    if word.isdecimal() and 1 <= int(word) <= len(info.bands):
        return int(word) - 1
    found = positions_of(word, info.bands)
    if len(found) == 1:
        return found[0]
    raise SourceError(
        _none_such(info, len(found)),
        value=f"--bands {word}",
        file=info.path,
        advice="Name bands by number, the first being 1, or by one of these names",
    )


def _none_such(info: ImageInfo, count: int) -> str:
    """Return what is wrong where so many bands of an image have a name that only one may have."""
    rule = f"has {count} bands of that name" if count else "has no such band"
    return f"the image {rule}; its bands are 1 to {len(info.bands)}: {_listed(info.bands)}"


def check_values(
    info: ImageInfo, facts: InputFacts, given: ValueRange | None, *, measured: Sequence[Span] | None = None
) -> tuple[Span, ...]:
    """Return the stored values that stand for the ends of the bundle's range, for each band that the network reads.

    Where the user gives no range, the stored values are the bundle's own, and the image's type has to be the one in
    which such values are stored: the narrowest integers that hold them, or, for a range of real numbers, floats.

    Args:
        info: The info of the image.
        facts: The facts of the model that reads the image.
        given: The range that the user gives.
        measured: The percentiles of each band, where the user gives percentiles.

    Raises:
        WeightsError: Nothing is given, and the image's type is not one for the bundle's range.
        UsageError: The range is `dtype` and the image stores floats, or the type can store no value of the range.
        SourceError: The percentiles of a band are one value.
    """
    if given is None:
        _check_type(info, facts)
        return (facts.value_range,) * len(facts.bands)
    if given.kind == "percentiles":
        if measured is None:
            message = "percentiles are sampled before there is a plan"
            raise ValueError(message)
        return tuple(_rising(info, given, name, span) for name, span in zip(facts.bands, measured, strict=True))
    limits = stored_values(info.dtype)
    if given.kind == "values":
        low, high = float(given.low), float(given.high)
        if limits is not None and (high <= limits[0] or low >= limits[1]):
            raise UsageError(
                f"the image stores {_typed(info.dtype)}: nothing lies in the range",
                value=f"--value-range {given}",
                file=info.path,
                advice="Give stored values, not those that a scale and an offset would make of them",
            )
        return ((low, high),) * len(facts.bands)
    if limits is None:
        raise UsageError(
            f"the image stores {info.dtype}, whose values have no end",
            value="--value-range dtype",
            file=info.path,
            advice="Give --value-range LOW,HIGH or 2%,98%",
        )
    return (limits,) * len(facts.bands)


def describe_bands(info: ImageInfo, names: Sequence[str], bands: Sequence[int], spans: Sequence[Span]) -> list[object]:
    """Return the bands that a network gets as JSON values: its name, the image's band and the range of each."""
    return [
        {"name": name, "band": position + 1, "of_image": info.bands[position], "low": low, "high": high}
        for name, position, (low, high) in zip(names, bands, spans, strict=True)
    ]


def band_notes(
    info: ImageInfo, bands: Sequence[int], spans: Sequence[Span], given: ValueRange | None
) -> tuple[str, ...]:
    """Return a note for the user about a range that was measured."""
    if given is None or given.kind != "percentiles":
        return ()
    found = [f"{info.bands[band]} {low:g} to {high:g}" for band, (low, high) in zip(bands, spans, strict=True)]
    return (f"--value-range {given} of this image: {', '.join(found)}",)


def stored_values(dtype: str) -> Span | None:
    """Return the least and the largest value that integers of this type can have; None for floats."""
    if np.dtype(dtype).kind not in "ui":
        return None
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def needs_clamp(info: ImageInfo, spans: Sequence[Span]) -> bool:
    """Return whether stored values may lie outside the range of their band."""
    limits = stored_values(info.dtype)
    return limits is None or any(limits[0] < low or limits[1] > high for low, high in spans)


def stored_as(span: Span) -> tuple[str, ...]:
    """Return the types that store values of a range: the narrowest integers, or none for real numbers."""
    low, high = span
    if low != int(low) or high != int(high) or high - low < WHOLE_SPAN:
        return ()
    # Only the narrowest type is accepted, because wider files mostly hold other values: of 16 bits, nearly all would be
    # cut to the upper end of a range from 0 to 255.
    for names in INTEGERS:
        limits = [(name, np.iinfo(name)) for name in names]
        if found := tuple(name for name, limit in limits if limit.min <= low and high <= limit.max):
            return found
    return ()


def _check_type(info: ImageInfo, facts: InputFacts) -> None:
    types, whole = stored_as(facts.value_range), stored_values(info.dtype) is not None
    if info.dtype in types or not (types or whole):
        return
    low, high = facts.value_range
    raise WeightsError(
        f"{facts.title} needs values from {low:g} to {high:g}, stored as {' or '.join(types) or 'floats'}, and "
        f"the image stores {_typed(info.dtype)}",
        file=info.path,
        advice=f"{BY_HAND}{' or dtype' if whole else ''}; or take a bundle for such images",
    )


def _rising(info: ImageInfo, given: ValueRange, name: str, span: Span) -> Span:
    if span[0] < span[1]:
        return span
    raise SourceError(
        f"the percentiles {given} of the band for {name} are both {span[0]:g}",
        file=info.path,
        advice="Give --value-range LOW,HIGH",
    )


def _typed(dtype: str) -> str:
    limits = stored_values(dtype)
    return dtype if limits is None else f"{dtype}, {limits[0]:.0f} to {limits[1]:.0f}"


def _listed(bands: Sequence[str]) -> str:
    return ", ".join(bands) if len(bands) <= MOST_LISTED else f"{bands[0]} to {bands[-1]}, {len(bands)} in all"
