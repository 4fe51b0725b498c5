"""The bundles that the parts run."""

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
    """The shipped bundle."""
    return str(ROOT / "weights" / "aerial")


def fpn508(folder: Path) -> str:
    """The paper's networks with seeded weights, written where they are not there yet."""
    path = folder / "fpn508"
    if not path.exists():
        write_fpn(path)
    return str(path)


def convolution(folder: Path) -> str:
    """One seeded convolution of five classes."""
    path = folder / "convolution"
    if not path.exists():
        write_bundle_of(path, CONVOLUTION_CLASSES)
    return str(path)


def paper(setting: Setting, **options: Any) -> SegmentOptions:
    """Options with the paper's networks; in a short run with one convolution, in blocks of 512 pixels."""
    return _options(setting, fpn508, options)


def shipped(setting: Setting, **options: Any) -> SegmentOptions:
    """Options with the shipped bundle; in a short run likewise with one convolution."""
    return _options(setting, lambda _: aerial(), options)


def _options(setting: Setting, bundle: Callable[[Path], str], given: dict[str, Any]) -> SegmentOptions:
    given = {"device": setting.device, **given}
    if not setting.short:
        return SegmentOptions(weights=bundle(setting.folder), **given)
    scales = tuple(Size(width=side, height=side) for side in SHORT_SCALES)
    return SegmentOptions(weights=convolution(setting.folder), scales=scales, **given)
