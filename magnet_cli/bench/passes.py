"""The passes through a bundle's networks that windows of a stage need, which the ceiling measures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from magnet_cli.arithmetic.merge import merge
from magnet_cli.arithmetic.mirroring import mean_over_mirrors

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.models.networks import Networks
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Stage


@torch.inference_mode()
def run_passes(plan: Plan, networks: Networks, stage: Stage, *, patches: Tensor, field: Tensor) -> None:
    """Run every network that a run applies to windows of a stage, once, and nothing else.

    Args:
        plan: The plan of the run.
        networks: The networks of its bundle.
        stage: The stage of the plan.
        patches: The patches of some windows, `(n, bands, h, w)` normalised float32, on the device.
        field: The probabilities of the stage before, `(n, classes, h, w)` float32.
    """
    if plan.settings.method == "grnet-local":
        networks.cell_scores(patches, None)
    elif plan.settings.method == "grnet":
        _grnet(plan, networks, stage, patches=patches, field=field)
    else:
        _magnet(plan, networks, stage, patches=patches, field=field)


def _magnet(plan: Plan, networks: Networks, stage: Stage, *, patches: Tensor, field: Tensor) -> None:
    own = mean_over_mirrors(partial(networks.predict, scale=stage.scale), patches, images=plan.settings.images)
    if not plan.is_first(plan.passes[0], stage):
        merge(own, field, how=plan.settings.merge, networks=networks, scale=stage.scale)
    if plan.selector is not None and stage is not plan.stages[-1]:
        networks.score_map(patches, own if plan.selector.sees_field else None)


def _grnet(plan: Plan, networks: Networks, stage: Stage, *, patches: Tensor, field: Tensor) -> None:
    """Run a stage of a GRNet. The fusion at the resolution of F^G counts once for each window of the first stage."""
    if stage is plan.stages[0]:
        scores = networks.scores(patches)
        if plan.settings.patches.kind == "selector":
            networks.selected(patches)
        refined, fuses = scores, networks.fusion == "literal"
    else:
        refined, scores, fuses = networks.cell_scores(patches, field), field, networks.fusion == "detail"
    if fuses:
        networks.aggregate(refined, scores)
