"""Names of channels as band names: small letters, one name a band, and colours by their whole names."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LETTERS = {"r": "red", "g": "green", "b": "blue"}


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
