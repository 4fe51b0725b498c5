"""The libraries that most children of a campaign use, imported once by their parent."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Final

NAMES: Final = (
    *(
        "cv2",
        "imagecodecs",
        "matplotlib.pyplot",
        "openslide",
        "PIL.Image",
        "pyproj",
        "pyvips",
        "rasterio",
        "scipy.ndimage",
    ),
    *("shapely", "skimage.measure", "tifffile", "torch", "zarr", "aiohttp", "fsspec.implementations.http", "wsidicom"),
    *("magnet_cli.evaluation.mask_scores", "magnet_cli.evaluation.method_scores", "magnet_cli.evaluation.plot"),
    *(
        "magnet_cli.exports.formats",
        "magnet_cli.importing",
        "magnet_cli.masks.verification",
        "magnet_cli.masks.zarr_writer",
    ),
    *(
        "magnet_cli.refinement.api",
        "magnet_cli.report.page",
        "magnet_cli.report.picture",
        "magnet_cli.segmentation.api",
    ),
    *("magnet_cli.train.backbone_training", "magnet_cli.train.cascade_training", "magnet_cli.train.grnet_training"),
    *("pydantic.dataclasses", "scipy.linalg", "scipy.spatial", "skimage.filters", "skimage.morphology", "sympy"),
    *("torch._dynamo", "torch.distributed", "torch.fx.experimental.symbolic_shapes", "torch.testing"),
    *(
        "magnet_cli.cli.progress",
        "magnet_cli.cli.training_progress",
        "magnet_cli.images.zarr_image",
        "magnet_cli.images.vips",
    ),
    "magnet_cli.images.openslide",
)


def load() -> None:
    """Import the libraries, of which optional ones may be missing."""
    for name in NAMES:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
