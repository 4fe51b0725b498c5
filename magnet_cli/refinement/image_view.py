"""The view of an image that a refinement method reads: three bands, in the method's range of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli import images
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images import Request
from magnet_cli.plan import check_bands, check_values, describe_bands, needs_clamp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.images import Image, ImageInfo
    from magnet_cli.options.values import ValueRange
    from magnet_cli.plan import InputFacts, Plan

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """Three bands of an image, mapped to the range of values that a method was made for."""

    info: ImageInfo
    names: tuple[str, ...]
    """Names of the bands in the method."""
    bands: tuple[int, ...]
    """Positions of the bands in the image."""
    spans: tuple[Span, ...]
    """Stored values that are mapped to the ends of the method's range, for each band."""
    value_range: Span
    """The range of values of the method."""
    source: str
    """Origin of `spans`: `bundle`, or the text of `--value-range`."""

    def read(self, image: Image, box: Box, *, pitch: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read the bands in a box, `(height, width, 3)`, and which pixels hold data; None where all do."""
        region = image.read([Request(pitch=Pitch.square(pitch), box=box, bands=self.bands)])[0]
        return self._in_range(region.pixels), region.valid

    def _in_range(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Map stored values to the method's range, and clamp them to it."""
        low, high = self.value_range
        if not needs_clamp(self.info, self.spans) and set(self.spans) == {(low, high)}:
            # Most images are 8-bit and so is the range: unchanged bytes save a copy in float32, four times as large.
            return pixels
        first, last = (np.array(ends, np.float32) for ends in zip(*self.spans, strict=True))
        # Pixels without data may be NaN. They become the low end, which `valid` marks as unknown.
        share = np.nan_to_num((pixels.astype(np.float32) - first) / (last - first)).clip(0, 1)
        return share * np.float32(high - low) + np.float32(low)

    def describe(self) -> dict[str, object]:
        """Return the bands, numbered from 1, and their ranges as JSON values."""
        return {
            "bands": describe_bands(self.info, self.names, self.bands, self.spans),
            "value_range": self.source,
        }


def view_of_plan(plan: Plan, input_facts: InputFacts) -> ImageView:
    """Return the view of an image that a bundle has segmented, with the bundle's choice of bands and values.

    The method's bands are matched with those of the bundle by name. Three bands, or one, are taken in their order.

    Args:
        plan: The plan of the segmentation.
        input_facts: The bands and values that the method expects.

    Raises:
        UsageError: The bundle reads no bands that the method can use.
    """
    names = [name.casefold() for name in plan.band_names]
    if all(name.casefold() in names for name in input_facts.bands):
        order = [names.index(name.casefold()) for name in input_facts.bands]
    # Without names in common the order of the bands decides; one grey band takes the place of all three.
    elif len(names) in (1, len(input_facts.bands)):
        order = list(range(len(input_facts.bands))) if len(names) > 1 else [0] * len(input_facts.bands)
    else:
        raise UsageError(
            f"{input_facts.title} reads {', '.join(input_facts.bands)}, and the bundle {', '.join(plan.band_names)}",
            file=plan.image.path,
            advice="Leave out --refine, and run 'magnet refine' with --bands",
        )
    return ImageView(
        info=plan.image,
        names=input_facts.bands,
        bands=tuple(plan.bands[index] for index in order),
        spans=tuple(plan.value_range[index] for index in order),
        value_range=input_facts.value_range,
        source=plan.value_source,
    )


def view_of_image(
    info: ImageInfo, input_facts: InputFacts, *, bands: tuple[str, ...] | None, value_range: ValueRange | None
) -> ImageView:
    """Return the view of an image by the options, or by names and types where they are left out.

    Pixels are decoded only for percentiles.

    Args:
        info: The facts of the image.
        input_facts: The bands and values that the method expects.
        bands: The bands that `--bands` names. None matches bands by name or count.
        value_range: The range of `--value-range`. None is the method's own.

    Raises:
        UsageError, SourceError, WeightsError: The image does not fit (`check_bands` and `check_values`).
    """
    positions, measured = check_bands(info, input_facts, bands), None
    if value_range is not None and value_range.kind == "percentiles":
        with images.reopen(info) as opened:
            measured = images.sample_percentiles(opened, positions, (float(value_range.low), float(value_range.high)))
    return ImageView(
        info=info,
        names=input_facts.bands,
        bands=positions,
        spans=check_values(info, input_facts, value_range, measured=measured),
        value_range=input_facts.value_range,
        source="bundle" if value_range is None else str(value_range),
    )
