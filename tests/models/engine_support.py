"""What tests of engines share: an image, options, engines in the tests' process, and a network of the caller's own."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch

from magnet_cli.models.engines import engine_memory, exported_graphs
from magnet_cli.models.python_network import NetworkDescription
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from magnet_cli.models.bundle import Bundle


def write_squares(path: Path) -> Path:
    """Write an image of plain squares of 8 x 8 pixels in random colours, whose sides no tile divides."""
    pixels = np.random.default_rng(0).integers(0, 255, (25, 33, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    tifffile.imwrite(path, pixels[:197, :259], tile=(64, 64), photometric="rgb")
    return path


def options_of(bundle: Bundle, **more: Any) -> SegmentOptions:
    return SegmentOptions(**{"weights": str(bundle.folder), "tissue": "none", "num_workers": 0, **more})


def engines_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export and measure in this process, because another one takes seconds to start."""
    monkeypatch.setattr(exported_graphs, "_export", exported_graphs.export_bundle)
    monkeypatch.setattr(
        engine_memory,
        "_measured",
        lambda bundle, device, precision, engine: asdict(
            engine_memory.measured_here(bundle, device=device, precision=precision, engine=engine)
        ),
    )


def segment_by_own_network(image: Path, mask: Path, **more: Any) -> None:
    """Segment an image by a convolution that the caller hands in."""
    options = SegmentOptions(tissue="none", **more)
    description = NetworkDescription(classes=2, size=32)
    segment(image, mask, options, network=torch.nn.Conv2d(3, 2, 1), description=description)
