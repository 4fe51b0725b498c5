"""The model card of an imported bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.importing.presets import Preset
    from magnet_cli.models.bundle import Bundle


def card(bundle: Bundle, preset: Preset, *, finding: str, files: Mapping[str, str], dropped: Sequence[str]) -> str:
    """Return the model card as Markdown.

    Args:
        bundle: The bundle's description.
        preset: The preset that the bundle was made with.
        finding: The decision on the order of the refiners' inputs, with its reason.
        files: Names of the checkpoints by the names of the files that were made of them.
        dropped: A sentence for each part that was left out of the checkpoints.
    """
    lines = [
        f"# {bundle.name}",
        "",
        f"Published MagNet weights for {preset.title}, imported.",
        "",
        *(f"- {made}: from {source}" for made, source in files.items()),
        *(f"- {sentence}" for sentence in dropped),
        f"- domain: {bundle.domain}",
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
        "MagNet-Fast:",
        "",
        *(f"    magnet segment IMAGE --weights BUNDLE --compat published {fast.words}" for fast in preset.fast),
        "",
        "On larger images leave --compat out; how well that does with these weights was not measured.",
        "",
        "## Where the values are from",
        "",
        *(f"- {origin}" for origin in bundle.origins),
        "",
    ]
    return "\n".join(lines)


def _excluded(bundle: Bundle, preset: Preset) -> str:
    if not preset.exclude:
        return ""
    names = ", ".join(bundle.classes[index].name for index in preset.exclude)
    return f"; the published mean IoU leaves out {names}: " + " ".join(f"--exclude-class {i}" for i in preset.exclude)
