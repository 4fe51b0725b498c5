"""Facts about cascade and machine, and generated images with their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.bench.studio import setting_of
from magnet_cli.bench.task import mask_beside
from magnet_cli.geometry import Size
from magnet_cli.models.device import resolve_device
from magnet_cli.models.engines.engine_choice import choose_cascade_engine
from magnet_cli.refinement.cascade_model import named_bundle
from magnet_cli.scene import Label, write_repeated, write_repeated_mask

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.bench.conditions import Setting
    from magnet_cli.options.refine import RefineOptions

OBJECTS = (Label.BUILDING, Label.ROAD, Label.VEGETATION)
"""Classes of the mask's objects: hundreds of small ones, and a net of roads and hedges through the whole image, so that
a border is near nearly everywhere. All windows of 900 pixels hold one, and of 450 pixels all but 2 in 1000."""


class CascadeStudio:
    """Finds out the setting and draws images."""

    def __init__(self, options: RefineOptions) -> None:
        self._options = options

    def setting(self) -> Setting:
        """Return the bundle, the machine and the device of the bench.

        Raises:
            WeightsError, DeviceError, UsageError: The bench cannot be run.
        """
        bundle, options = named_bundle(self._options.weights), self._options
        device = resolve_device(options.device)
        engine, precision = choose_cascade_engine(
            bundle, engine=options.engine, precision=options.precision, device=device
        )
        return setting_of(bundle, device=device, engine=engine, precision=precision)

    def draw(self, path: Path, side: int) -> int:
        """Write a square image, and beside it the mask of its objects; return their bytes.

        Raises:
            OutputError: The disk has no room for image and mask.
        """
        size = Size(width=side, height=side)
        return write_repeated(path, size=size) + write_repeated_mask(mask_beside(path), size=size, classes=OBJECTS)

    def draw_warm(self, path: Path, side: int) -> int:
        """Write a small image, just large enough for both steps; `side` is the largest side that it may have."""
        return self.draw(path, min(self._options.side or named_bundle(self._options.weights).side, side))
