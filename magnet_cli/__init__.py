"""Segment images far larger than memory, coarse to fine.

    import magnet_cli

    results = magnet_cli.segment("slide.tif", "masks/")
    labels = magnet_cli.segment_array(pixels, magnet_cli.SegmentOptions(scales="256,512"))
    sharper = magnet_cli.refine("slide.tif", "coarse.tif", "sharp.tif")
    plans = magnet_cli.plan_segment("slide.tif")
    facts = magnet_cli.info("slide.tif")
    checked = magnet_cli.verify("masks/slide.tif")
    made = magnet_cli.export("masks/slide.tif", options=magnet_cli.ExportOptions(formats="cog,geojson"))
    found = magnet_cli.evaluate("masks/slide.tif", "truth.tif")
    scores = magnet_cli.evaluate_methods("test.csv")
    written = magnet_cli.make_report("masks/slide.tif", magnet_cli.ViewOptions(overlay=True))
    figures = magnet_cli.run_bench(options=magnet_cli.BenchOptions(sizes="2048,4096"))
    with magnet_cli.open_image("slide.tif") as image:
        region = image.read("1000,2000,512,512", pixel_size="0.5um")

Functions are named as the commands; arguments come in the order inputs, output, options; options take values or the
text of the command line. docs/python.md shows all of it. Names are loaded when they are asked for, so that importing
the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magnet_cli.bench.api import BenchResult, run_bench
    from magnet_cli.errors import (
        DeviceError,
        MagnetError,
        MemoryShortageError,
        OutputError,
        SourceError,
        UsageError,
        WeightsError,
    )
    from magnet_cli.evaluation.mask_scores import Evaluation, evaluate
    from magnet_cli.evaluation.method_scores import Scores, evaluate_methods
    from magnet_cli.events import Events
    from magnet_cli.exports.formats import Export, export
    from magnet_cli.geometry import Box, Pitch, Size
    from magnet_cli.images import ImageInfo
    from magnet_cli.images import inspect as info
    from magnet_cli.images.array_reader import ImageArray, OpenImage
    from magnet_cli.images.array_reader import open_arrays as open_image
    from magnet_cli.masks.verification import Verification
    from magnet_cli.masks.verification import verify_mask as verify
    from magnet_cli.models.bundle import Bundle, load_bundle
    from magnet_cli.models.python_network import NetworkDescription
    from magnet_cli.options.bench import BenchOptions
    from magnet_cli.options.evaluate import EvaluationOptions, ScoreOptions
    from magnet_cli.options.export import ExportOptions
    from magnet_cli.options.lengths import PhysicalScales, PhysicalSize
    from magnet_cli.options.parts import JobPart
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.options.rules import Rule
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.options.shared import ViewOptions
    from magnet_cli.options.values import ValueRange
    from magnet_cli.plan import Plan
    from magnet_cli.refinement.api import RefineResult, plan_refine, refine
    from magnet_cli.report.files import make_report
    from magnet_cli.segmentation.api import segment
    from magnet_cli.segmentation.array import segment_array
    from magnet_cli.segmentation.image_parts import assemble
    from magnet_cli.segmentation.image_planner import plan_segment
    from magnet_cli.segmentation.image_run import ImageResult

__version__ = "0.2.0"

_PLACES = {
    "BenchOptions": ("options.bench", "BenchOptions"),
    "BenchResult": ("bench.api", "BenchResult"),
    "Box": ("geometry", "Box"),
    "Bundle": ("models.bundle", "Bundle"),
    "DeviceError": ("errors", "DeviceError"),
    "Evaluation": ("evaluation.mask_scores", "Evaluation"),
    "EvaluationOptions": ("options.evaluate", "EvaluationOptions"),
    "Events": ("events", "Events"),
    "Export": ("exports.formats", "Export"),
    "ExportOptions": ("options.export", "ExportOptions"),
    "ImageArray": ("images.array_reader", "ImageArray"),
    "ImageInfo": ("images.protocol", "ImageInfo"),
    "ImageResult": ("segmentation.image_run", "ImageResult"),
    "JobPart": ("options.parts", "JobPart"),
    "MagnetError": ("errors", "MagnetError"),
    "MemoryShortageError": ("errors", "MemoryShortageError"),
    "NetworkDescription": ("models.python_network", "NetworkDescription"),
    "OpenImage": ("images.array_reader", "OpenImage"),
    "OutputError": ("errors", "OutputError"),
    "PhysicalScales": ("options.lengths", "PhysicalScales"),
    "PhysicalSize": ("options.lengths", "PhysicalSize"),
    "Pitch": ("geometry", "Pitch"),
    "Plan": ("plan", "Plan"),
    "RefineOptions": ("options.refine", "RefineOptions"),
    "RefineResult": ("refinement.api", "RefineResult"),
    "Rule": ("options.rules", "Rule"),
    "ScoreOptions": ("options.evaluate", "ScoreOptions"),
    "Scores": ("evaluation.method_scores", "Scores"),
    "SegmentOptions": ("options.segment", "SegmentOptions"),
    "Size": ("geometry", "Size"),
    "SourceError": ("errors", "SourceError"),
    "UsageError": ("errors", "UsageError"),
    "ValueRange": ("options.values", "ValueRange"),
    "Verification": ("masks.verification", "Verification"),
    "ViewOptions": ("options.shared", "ViewOptions"),
    "WeightsError": ("errors", "WeightsError"),
    "assemble": ("segmentation.image_parts", "assemble"),
    "evaluate": ("evaluation.mask_scores", "evaluate"),
    "evaluate_methods": ("evaluation.method_scores", "evaluate_methods"),
    "export": ("exports.formats", "export"),
    "info": ("images.backends", "inspect"),
    "load_bundle": ("models.bundle", "load_bundle"),
    "make_report": ("report.files", "make_report"),
    "open_image": ("images.array_reader", "open_arrays"),
    "plan_refine": ("refinement.api", "plan_refine"),
    "plan_segment": ("segmentation.image_planner", "plan_segment"),
    "refine": ("refinement.api", "refine"),
    "run_bench": ("bench.api", "run_bench"),
    "segment": ("segmentation.api", "segment"),
    "segment_array": ("segmentation.array", "segment_array"),
    "verify": ("masks.verification", "verify_mask"),
}

__all__ = [
    "BenchOptions",
    "BenchResult",
    "Box",
    "Bundle",
    "DeviceError",
    "Evaluation",
    "EvaluationOptions",
    "Events",
    "Export",
    "ExportOptions",
    "ImageArray",
    "ImageInfo",
    "ImageResult",
    "JobPart",
    "MagnetError",
    "MemoryShortageError",
    "NetworkDescription",
    "OpenImage",
    "OutputError",
    "PhysicalScales",
    "PhysicalSize",
    "Pitch",
    "Plan",
    "RefineOptions",
    "RefineResult",
    "Rule",
    "ScoreOptions",
    "Scores",
    "SegmentOptions",
    "Size",
    "SourceError",
    "UsageError",
    "ValueRange",
    "Verification",
    "ViewOptions",
    "WeightsError",
    "assemble",
    "evaluate",
    "evaluate_methods",
    "export",
    "info",
    "load_bundle",
    "make_report",
    "open_image",
    "plan_refine",
    "plan_segment",
    "refine",
    "run_bench",
    "segment",
    "segment_array",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    # Importing all of them here would load torch and every reader, which takes seconds even for `magnet --help`.
    module, attribute = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
