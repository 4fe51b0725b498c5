"""What a method sees of an image: which bands, and which of their stored values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli import images
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images import Request
from magnet_cli.plan import check_bands, check_values, describe_seen, needs_clamp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.images import Image, ImageInfo
    from magnet_cli.options.values import ValueRange
    from magnet_cli.plan import Plan, Seer

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Three bands of an image, brought to the range that a method was made for."""

    info: ImageInfo
    names: tuple[str, ...]
    """What the method calls them."""
    bands: tuple[int, ...]
    """Their positions in the image."""
    spans: tuple[Span, ...]
    """Of each, the stored values that stand for the ends of the method's range."""
    value_range: Span
    """The method's own."""
    source: str
    """Who says so: `bundle`, or `--value-range` as it is spelled."""

    def read(self, image: Image, box: Box, *, pitch: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The bands in a box, `(height, width, 3)`, and which pixels hold data; None where all do."""
        region = image.read([Request(pitch=Pitch.square(pitch), box=box, bands=self.bands)])[0]
        return self._in_range(region.pixels), region.valid

    def _in_range(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Stored values as those of the method's range, cut to it."""
        low, high = self.value_range
        if not needs_clamp(self.info, self.spans) and set(self.spans) == {(low, high)}:
            return pixels
        first, last = (np.array(ends, np.float32) for ends in zip(*self.spans, strict=True))
        share = np.nan_to_num((pixels.astype(np.float32) - first) / (last - first)).clip(0, 1)
        return share * np.float32(high - low) + np.float32(low)

    def describe(self) -> dict[str, object]:
        """As JSON values; bands are numbered from 1."""
        return {
            "bands": describe_seen(self.info, self.names, self.bands, self.spans),
            "value_range": self.source,
        }


def seen_of_plan(plan: Plan, seer: Seer) -> Seen:
    """What a method sees of an image that a bundle has seen before it, by the same bands and values.

    The method's bands are those of the bundle that have their names; three bands, or one, are taken as they are.

    Args:
        plan: Of the bundle's run.
        seer: The bands and values that the refining method expects.

    Raises:
        UsageError: The bundle sees none of that.
    """
    names = [name.casefold() for name in plan.band_names]
    if all(name.casefold() in names for name in seer.bands):
        order = [names.index(name.casefold()) for name in seer.bands]
    elif len(names) in (1, len(seer.bands)):
        order = list(range(len(seer.bands))) if len(names) > 1 else [0] * len(seer.bands)
    else:
        raise UsageError(
            f"{seer.title} sees {', '.join(seer.bands)}, and the bundle sees {', '.join(plan.band_names)}",
            file=plan.image.path,
            advice="Leave --refine out, and call 'magnet refine' with the bands that it is to see",
        )
    return Seen(
        info=plan.image,
        names=seer.bands,
        bands=tuple(plan.bands[index] for index in order),
        spans=tuple(plan.value_range[index] for index in order),
        value_range=seer.value_range,
        source=plan.value_source,
    )


def see(info: ImageInfo, seer: Seer, *, bands: tuple[str, ...] | None, value_range: ValueRange | None) -> Seen:
    """What a method sees of an image where the user says so or nothing; percentiles are sampled.

    Args:
        info: Of the image.
        seer: What the method wants.
        bands: As `--bands` names them.
        value_range: As `--value-range` gives it.

    Raises:
        UsageError, SourceError, WeightsError: The image does not fit; see `check_bands` and `check_values`.
    """
    positions, measured = check_bands(info, seer, bands), None
    if value_range is not None and value_range.kind == "percentiles":
        with images.reopen(info) as opened:
            measured = images.sample_percentiles(opened, positions, (float(value_range.low), float(value_range.high)))
    return Seen(
        info=info,
        names=seer.bands,
        bands=positions,
        spans=check_values(info, seer, value_range, measured=measured),
        value_range=seer.value_range,
        source="bundle" if value_range is None else str(value_range),
    )
