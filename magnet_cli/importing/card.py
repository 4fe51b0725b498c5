"""The model card of an imported bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.presets import Preset


def card(bundle: Bundle, preset: Preset, *, finding: str, files: Mapping[str, str]) -> str:
    """What a user of the bundle should know, as Markdown.

    Args:
        bundle: As it is written.
        preset: That it was made with.
        finding: How the order of the refiners' inputs was decided.
        files: Checkpoint's name by the name of the file made of it.
    """
    fast = preset.fast
    lines = [
        f"# {bundle.name}",
        "",
        f"Published MagNet weights for {preset.title}, imported.",
        "",
        *(f"- {made}: from {source}" for made, source in files.items()),
        f"- licence: {bundle.licence}",
        f"- {finding}",
        "- scores: none measured here; 'magnet evaluate MASK TRUTH' measures them" + _excluded(bundle, preset),
        "",
        "## Use",
        "",
        "The weights were trained with the published program's arithmetic, so take that on images of one block;",
        "BUNDLE is this folder:",
        "",
        "    magnet segment IMAGE --weights BUNDLE --compat published",
        "",
        "MagNet-Fast, the recommended options:",
        "",
        "    magnet segment IMAGE --weights BUNDLE --compat published --method magnet-fast \\",
        f"        --scales {_words(fast.scales)} --patches {fast.patches} --points {fast.points}",
        "",
        "On larger images leave --compat out; how well that does with these weights was not measured.",
        "",
        "## Where the figures are from",
        "",
        *(f"- {origin}" for origin in preset.origins),
        "- normalisation: ImageNet's, as the published program has it",
        "",
    ]
    return "\n".join(lines)


def _words(scales: Sequence[Size]) -> str:
    return ",".join(str(scale) for scale in scales)


def _excluded(bundle: Bundle, preset: Preset) -> str:
    if not preset.exclude:
        return ""
    names = ", ".join(bundle.classes[index].name for index in preset.exclude)
    return f"; the published mean IoU leaves out {names}: " + " ".join(f"--exclude-class {i}" for i in preset.exclude)
