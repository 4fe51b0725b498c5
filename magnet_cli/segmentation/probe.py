"""A probe of a machine's arithmetic: parts that compute other bits must not share a mask."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from magnet_cli.plan import Plan
    from magnet_cli.segmentation.computer import Predictor


@torch.inference_mode()
def probe(networks: Predictor, plan: Plan, *, bands: int) -> str:
    """Return a SHA-256 of the networks' output on fixed patches, with the run's batch, threads and precision.

    Another number of threads, another processor or another library may change the last bits of a sum. The name of a
    processor says less: two models may give the same bits, and one model may give others with other settings.

    Args:
        networks: The networks. The number of threads is pinned already.
        plan: The plan, which has the batch and the size of a patch.
        bands: Bands of a patch.
    """
    stage = plan.stages[-1]
    generator = torch.Generator().manual_seed(0)
    shape = (plan.batch, bands, stage.input.height, stage.input.width)
    patches = torch.randn(shape, generator=generator).to(networks.device)
    own = networks.predict(patches, stage.scale)
    digest = hashlib.sha256(own.cpu().numpy().tobytes())
    if networks.has_refiner:
        digest.update(networks.refine(own, own.flip(0), stage.scale).cpu().numpy().tobytes())
    return digest.hexdigest()
