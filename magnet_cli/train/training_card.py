"""The card of a bundle: its data, training, scores and limits, which a user should know before trusting it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.encoder_weights import EncoderOrigin
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.scenes import LabelledScene


def card(
    bundle: Bundle,
    config: TrainConfig,
    *,
    network: nn.Module,
    scenes: Sequence[LabelledScene],
    origin: EncoderOrigin | None,
    iterations: int,
    best: int | None,
) -> str:
    """Return the text of a card, in Markdown, of everything that a training knows about its bundle.

    Args:
        bundle: The bundle that the training has written.
        config: The configuration of the training.
        network: The trained backbone.
        scenes: The scenes that it was trained on.
        origin: The source of the encoder's first weights; None where they were random.
        iterations: The iterations that were computed; fewer than planned where patience ran out.
        best: The iteration whose weights the bundle has, as its validation was the best; None for the last one.
    """
    spec, loop = bundle.input, config.loop
    parameters = sum(weight.numel() for weight in network.parameters())
    low, high = spec.range
    start = "random weights" if origin is None else str(origin)
    facts = {
        "domain": bundle.domain or "none is stated, so that every image is taken",
        "classes": ", ".join(item.name for item in bundle.classes),
        "input": f"{', '.join(spec.bands)}; {spec.size} pixels; stored values from {low:g} to {high:g}",
        "scales": ", ".join(map(str, bundle.scales)),
        "size of a pixel": "not stated: images are read 1:1" if bundle.resolution is None else _size(bundle),
        "backbone": f"`{bundle.backbone.architecture}`, {parameters:,} parameters",
        "encoder begins with": start,
        "licence": bundle.licence or "none is stated",
        "source": bundle.source or "none is stated",
    }
    lines = [f"# {bundle.name}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "## Data", "", f"The network was trained on {len(scenes)} scenes:", ""]
    lines += [f"- {scene.name}, {scene.size} pixels" for scene in scenes]
    held = ", ".join(config.data.validation)
    early = "" if iterations == loop.iterations else f" (of {loop.iterations}, until patience ran out)"
    chosen = "" if best is None else f"The weights are those of iteration {best}, whose validation was the best. "
    lines += [
        "",
        f"It was validated on {held}." if held else "No scene was held out, so that the training gives no score.",
        "`magnet evaluate` scores its masks on scenes that it has not seen.",
        "",
        "## Training",
        "",
        (
            f"{iterations} iterations{early} of {loop.batch} windows, {loop.optimizer}, highest rate {loop.rate:g} "
            f"(encoder {loop.rate * loop.encoder_rate:g}), {loop.loss}, seed {loop.seed}. {chosen}"
            "`train.toml` is the whole configuration; the same command with it gives the same weights on a CPU."
        ),
        "",
    ]
    return "\n".join(lines)


def _size(bundle: Bundle) -> str:
    size = bundle.resolution
    return "" if size is None else f"{float(size.value):g} {size.unit}"
