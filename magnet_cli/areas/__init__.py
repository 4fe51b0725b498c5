"""Areas of an image that are segmented: regions of interest, masks and tissue, asked by boxes of level 0.

Pixels outside get label 255 and are not computed, but networks still read them around the pixels inside.
"""

from __future__ import annotations

from magnet_cli.areas.area import Area
from magnet_cli.areas.specification import open_area, open_roi, specify, specify_roi

__all__ = ["Area", "open_area", "open_roi", "specify", "specify_roi"]
