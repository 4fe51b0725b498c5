"""Segment images far larger than memory, coarse to fine.

    import magnet_cli

    results = magnet_cli.segment(["slide.tif"], "masks/")
    plans = magnet_cli.plan_images(["slide.tif"])
    facts = magnet_cli.info("slide.tif")
    checked = magnet_cli.verify("masks/slide.tif")
    made = magnet_cli.export(["masks/slide.tif"], magnet_cli.ExportOptions(formats=("cog", "geojson")))
    found = magnet_cli.evaluate("masks/slide.tif", "truth.tif")
    scores = magnet_cli.score("test.csv")
    sharper = magnet_cli.refine_mask("slide.tif", "coarse.tif", "sharp.tif")

Names are loaded when they are asked for, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magnet_cli.errors import MagnetError
    from magnet_cli.evaluation.mask_scores import evaluate
    from magnet_cli.evaluation.method_scores import score
    from magnet_cli.events import Events
    from magnet_cli.exports.formats import Export, export
    from magnet_cli.images import ImageInfo
    from magnet_cli.images import inspect as info
    from magnet_cli.masks.verification import Verification
    from magnet_cli.masks.verification import verify_mask as verify
    from magnet_cli.options.evaluate import EvaluationOptions, ScoreOptions
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.options.segment import ExportOptions, SegmentOptions
    from magnet_cli.plan import Plan
    from magnet_cli.refinement.api import RefineResult, refine_mask
    from magnet_cli.segmentation.api import ImageResult, plan_images, segment

__version__ = "0.1.0"

__all__ = [
    "EvaluationOptions",
    "Events",
    "Export",
    "ExportOptions",
    "ImageInfo",
    "ImageResult",
    "MagnetError",
    "Plan",
    "RefineOptions",
    "RefineResult",
    "ScoreOptions",
    "SegmentOptions",
    "Verification",
    "evaluate",
    "export",
    "info",
    "plan_images",
    "refine_mask",
    "score",
    "segment",
    "verify",
]

_PLACES = {
    "EvaluationOptions": ("options.evaluate", "EvaluationOptions"),
    "Events": ("events", "Events"),
    "Export": ("exports.formats", "Export"),
    "ExportOptions": ("options.segment", "ExportOptions"),
    "ImageInfo": ("images.protocol", "ImageInfo"),
    "ImageResult": ("segmentation.api", "ImageResult"),
    "MagnetError": ("errors", "MagnetError"),
    "Plan": ("plan", "Plan"),
    "RefineOptions": ("options.refine", "RefineOptions"),
    "RefineResult": ("refinement.api", "RefineResult"),
    "ScoreOptions": ("options.evaluate", "ScoreOptions"),
    "SegmentOptions": ("options.segment", "SegmentOptions"),
    "Verification": ("masks.verification", "Verification"),
    "evaluate": ("evaluation.mask_scores", "evaluate"),
    "export": ("exports.formats", "export"),
    "info": ("images.backends", "inspect"),
    "plan_images": ("segmentation.api", "plan_images"),
    "refine_mask": ("refinement.api", "refine_mask"),
    "score": ("evaluation.method_scores", "score"),
    "segment": ("segmentation.api", "segment"),
    "verify": ("masks.verification", "verify_mask"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    module, attribute = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
