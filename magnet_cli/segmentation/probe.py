"""A probe of a machine's arithmetic: parts that compute other bits must not share a mask."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from magnet_cli.arithmetic.merge import merge
from magnet_cli.run.guards import naming_shortage

if TYPE_CHECKING:
    from magnet_cli.plan import Plan
    from magnet_cli.segmentation.computer import Predictor


@torch.inference_mode()
def probe(networks: Predictor, plan: Plan, *, bands: int) -> str:
    """Return a SHA-256 of the networks' output on fixed patches, with the run's batch, threads and precision.

    Another number of threads, another processor or another library may change the last bits of a sum, and of the
    logarithms and powers of a geometric mean, which is therefore part of it where stages are merged so. The name of a
    processor says less: two models may give the same bits, and one model may give others with other settings.

    Args:
        networks: The networks. The number of threads is pinned already.
        plan: The plan, which has the batch and the size of a patch.
        bands: Bands of a patch.

    Raises:
        MemoryShortageError: There is no memory for one batch of patches.
    """
    stage = plan.stages[-1]
    generator = torch.Generator().manual_seed(0)
    shape = (plan.batch, bands, stage.input.height, stage.input.width)
    with naming_shortage("the arithmetic of this machine was measured", plan.image.path):
        patches = torch.randn(shape, generator=generator).to(networks.device)
        own = networks.predict(patches, stage.scale)
        digest = hashlib.sha256(own.cpu().numpy().tobytes())
        if networks.has_refiner:
            digest.update(networks.refine(own, own.flip(0), stage.scale).cpu().numpy().tobytes())
        how = plan.settings.merge
        if how == "geometric" and plan.settings.refines:
            # Windows are merged one after another on a processor.
            one = own[:1]
            merged = merge(one, one.flip(-1), how=how, networks=networks, scale=stage.scale)
            digest.update(merged.cpu().numpy().tobytes())
    return digest.hexdigest()
