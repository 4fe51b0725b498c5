"""Interfaces to the results of a run: finished groups can be read, and computed ones can be stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from typing_extensions import override

from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Box
    from magnet_cli.masks.spec import FieldSpec, GroupId


class Results(Protocol):
    """The results of a run's finished groups. A journal implements this; `SeveralResults` joins several.

    Every method may be called from several threads.
    """

    def finished(self, pass_index: int) -> Mapping[int, Mapping[str, object]]:
        """Return the counts of each finished group of a pass, by the number of the group."""

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        """Read the values of a field in a box of its grid.

        Returns:
            `(bands, height, width)` float16 in [0, 1]; NaN where no finished group has stored a value.
        """

    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        """Read the values of a field in the dtype that is stored: float16, or uint8 with 0 to 254 and 255 for NaN."""


class Sink(Protocol):
    """Storage for the results of groups. A group is finished, and durable, once `finish_group` has returned."""

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        """Store the labels of a box of level 0, `(height, width)` uint8."""

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:
        """Store the values of a field in a box of its grid: `(bands, height, width)` in [0, 1], NaN if not computed."""

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        """Make everything durable that was stored for a group, together with its counts."""

    def drop_group(self, group: GroupId) -> None:
        """Drop what was stored for a group that is not finished."""


class GroupStore(Results, Sink, Protocol):
    """The results of a run, which takes those of more groups."""


class FieldResults(Results, Protocol):
    """Results that can describe their fields."""

    def field(self, name: str) -> FieldSpec:
        """Return the size, grid and type of the field of this name."""


@dataclass(frozen=True, kw_only=True)
class SeveralResults(Results):
    """The results of one run that lie in several places, as machines that share the groups of a run leave them.

    All places hold the same run: their headers are equal. A group may be finished in more than one of them, with the
    same values. Groups of a field that joins by the later value store boxes that do not overlap, so the order of the
    places does not matter.
    """

    places: Sequence[FieldResults]
    """The results of each place; at least one."""

    @override
    def finished(self, pass_index: int) -> Mapping[int, Mapping[str, object]]:
        found: dict[int, Mapping[str, object]] = {}
        for place in self.places:
            found = {**place.finished(pass_index), **found}
        return dict(sorted(found.items()))

    @override
    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        stored = self.read_stored_field(name, box)
        return codec.dequantise(stored.astype(np.uint8)) if stored.dtype == np.uint8 else stored.astype(np.float16)

    @override
    def read_stored_field(self, name: str, box: Box) -> NDArray[np.generic]:
        # Values of several places are joined as a journal joins those of its groups.
        joined, *others = (place.read_stored_field(name, box) for place in self.places)
        largest = self.places[0].field(name).join == "largest"
        for values in others:
            known = values != NODATA if values.dtype == np.uint8 else ~np.isnan(values.astype(np.float16))
            if largest:
                known = known & ((joined == NODATA) | (values > joined))  # type: ignore[operator]
            joined[known] = values[known]
        return joined
