"""The bundles that the parts of the check run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.make_bundle import write_fpn
from benchmarks.memory import write_bundle_of
from magnet_cli.geometry import Size
from magnet_cli.options.segment import SegmentOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu.part import Setting

ROOT = Path(__file__).resolve().parents[2]
CONVOLUTION_CLASSES = 5
SHORT_SCALES = (512, 256)


def aerial() -> str:
    """Return the folder of the shipped bundle."""
    return str(ROOT / "weights" / "aerial")


def fpn508(folder: Path) -> str:
    """Return the paper's networks with seeded weights, which are written where they are missing."""
    path = folder / "fpn508"
    if not path.exists():
        write_fpn(path)
    return str(path)


def convolution(folder: Path) -> str:
    """Return a bundle of one seeded convolution with five classes."""
    path = folder / "convolution"
    if not path.exists():
        write_bundle_of(path, CONVOLUTION_CLASSES)
    return str(path)


def paper(setting: Setting, **options: Any) -> SegmentOptions:
    """Return options with the paper's networks. A short run has one convolution instead, and blocks of 512 pixels."""
    return _options(setting, fpn508, options)


def shipped(setting: Setting, **options: Any) -> SegmentOptions:
    """Return options with the shipped bundle. A short run has one convolution instead."""
    return _options(setting, lambda _: aerial(), options)


def _options(setting: Setting, bundle: Callable[[Path], str], given: dict[str, Any]) -> SegmentOptions:
    given = {"device": setting.device, **given}
    if not setting.short:
        return SegmentOptions(weights=bundle(setting.folder), **given)
    scales = tuple(Size(width=side, height=side) for side in SHORT_SCALES)
    return SegmentOptions(weights=convolution(setting.folder), scales=scales, **given)
