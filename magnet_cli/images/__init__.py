"""Images of any size behind one protocol: facts, and boxes read at several pitches.

The libraries that read the formats are imported when a file needs them.
"""

from __future__ import annotations

from magnet_cli.images.backends import examine, inspect, open_image, reopen
from magnet_cli.images.cache import CacheBudget
from magnet_cli.images.fingerprint import fingerprint
from magnet_cli.images.geotransform import check_fits, check_place, system_label
from magnet_cli.images.identity import ImageIdentity
from magnet_cli.images.input_states import FileState, InputStates
from magnet_cli.images.inputs import FoundImage, SkippedFile, find_images, skipped_notes, stem
from magnet_cli.images.percentiles import sample_percentiles
from magnet_cli.images.protocol import Alpha, Image, ImageInfo, Level, Region, Request, Resolution

__all__ = [
    "Alpha",
    "CacheBudget",
    "FileState",
    "FoundImage",
    "Image",
    "ImageIdentity",
    "ImageInfo",
    "InputStates",
    "Level",
    "Region",
    "Request",
    "Resolution",
    "SkippedFile",
    "check_fits",
    "check_place",
    "examine",
    "find_images",
    "fingerprint",
    "inspect",
    "open_image",
    "reopen",
    "sample_percentiles",
    "skipped_notes",
    "stem",
    "system_label",
]
