"""The classes of the values that label maps store, where masks of this program are among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.images.labels import open_labels
from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def classes_of_values(path: str | Path, values: Mapping[int, int], *, names: Sequence[str] | None) -> Mapping[int, int]:
    """Return the classes of stored values, as they were given for several label maps, that one of them has.

    A mask of this program stores classes: where they have these names, no value stands for another one. Its 255 is
    never a class.

    Args:
        path: The label map.
        values: Classes by stored value.
        names: The names of the classes, by label; None where they are not known.

    Raises:
        SourceError: The label map cannot be read.
    """
    if not values:
        return values
    with open_labels(path) as labels:
        own = labels.names
    if own is None:
        return values
    known = names is not None and own == tuple(names)
    return {} if known else {stored: label for stored, label in values.items() if stored != NODATA}
