"""Colours of an image for display: the bands and values that the network read become red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CUT = (2, 98)
"""Percentiles of a band that become black and white, as in QGIS, where bands do not have 8 bits and no range of values
is known."""
TINY = float(np.finfo(np.float32).tiny)
RGB = ("red", "green", "blue")
WIDE = ("bundle", "dtype")
"""Value ranges that are not used for display, because they may be so wide that all values would be black."""


@dataclass(frozen=True, kw_only=True)
class ColourMapping:
    """The bands that are shown, and the values of each that become black and white."""

    bands: tuple[int, ...]
    """The positions of the bands: three are shown as red, green and blue, one as grey."""
    spans: tuple[tuple[float, float], ...] | None = None
    """The values that become black and white, for each band; None chooses them from the image."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """Return the colours for a mask's image: the network's red, green and blue, else its first three bands or one.

        Raises:
            KeyError, TypeError, ValueError: The report has another form than this version writes.
        """
        seen = report["options"]["bands"]
        names = [str(entry["name"]).casefold() for entry in seen]
        if all(name in names for name in RGB):
            seen = [seen[names.index(name)] for name in RGB]
        seen = seen[: len(RGB)] if len(seen) >= len(RGB) else seen[:1]
        given = report["options"]["value_range"] not in WIDE
        return cls(
            bands=tuple(int(entry["band"]) - 1 for entry in seen),
            spans=tuple((float(entry["low"]), float(entry["high"])) for entry in seen) if given else None,
        )

    def colours(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return `(height, width, bands)` stored values, of the bands shown, as 0 to 255.

        `valid` has shape `(height, width)`.
        """
        # Values of 8 bits are most often made for display. Stretched, they would differ from what other viewers show.
        if self.spans is None and values.dtype == np.uint8:
            return values
        seen = np.zeros(values.shape, np.uint8)
        for band in range(values.shape[2]):
            plane = values[:, :, band].astype(np.float64)
            low, high = _cut(plane[valid & np.isfinite(plane)]) if self.spans is None else self.spans[band]
            # A band of one value has no span. The smallest normal number keeps the division finite and maps the value
            # to black.
            scaled = (plane - low) / max(high - low, TINY)
            seen[:, :, band] = np.rint(np.nan_to_num(scaled.clip(0, 1)) * 255)
        return seen


def _cut(known: NDArray[np.float64]) -> tuple[float, float]:
    if not known.size:
        return 0, 1
    low, high = np.percentile(known, CUT)
    return float(low), float(high)
