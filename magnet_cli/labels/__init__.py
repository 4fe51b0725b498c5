"""Label rasters, one class index a pixel, read by region."""

from __future__ import annotations

from magnet_cli.labels.reading import LabelImage, open_labels, open_region

__all__ = ["LabelImage", "open_labels", "open_region"]
