"""The description of a bundle as JSON values and as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from magnet_cli.models.bundle import Bundle, CascadeBundle, NetworkSpec

    AnyBundle = Bundle | CascadeBundle

CARD = "README.md"


def summary(bundle: AnyBundle) -> dict[str, object]:
    """Return the short description of a bundle as JSON values."""
    from magnet_cli.models.bundle import CascadeBundle

    card = bundle.folder / CARD
    known: dict[str, object] = {
        "name": bundle.name,
        "domain": bundle.domain or None,
        "folder": str(bundle.folder),
        "card": str(card) if card.is_file() else None,
        "bytes": _bytes(bundle),
    }
    if isinstance(bundle, CascadeBundle):
        return {**known, "kind": "cascade", "side": bundle.side, "object": bundle.kind_of_object or None}
    return {
        **known,
        "kind": "segmentation",
        "classes": [vars(entry) for entry in bundle.classes],
        "scales": [{"width": scale.width, "height": scale.height} for scale in bundle.scales],
    }


def bundle_lines(bundle: AnyBundle) -> list[str]:
    """Return the short description of a bundle as two lines of text."""
    from magnet_cli.models.bundle import CascadeBundle

    size = format_bytes(_bytes(bundle))
    if isinstance(bundle, CascadeBundle):
        what = f"  {_domain(bundle)}, {bundle.network.architecture}, windows of {bundle.side}, {size}"
        return [f"{bundle.name}: sharpens masks of {bundle.kind_of_object or 'any object'}", what]
    return [
        f"{bundle.name}: {', '.join(entry.name for entry in bundle.classes)}",
        f"  {_domain(bundle)}, {bundle.backbone.architecture}, scales {_scales(bundle)}, {size}",
    ]


def _domain(bundle: AnyBundle) -> str:
    return f"for {bundle.domain} images" if bundle.domain else "domain not stated"


def described_lines(bundle: AnyBundle) -> list[str]:
    """Return the full description of a bundle as lines of text."""
    from magnet_cli.models.bundle import CascadeBundle

    card = bundle.folder / CARD
    middle = _cascade_lines(bundle) if isinstance(bundle, CascadeBundle) else _segmentation_lines(bundle)
    return [
        f"{bundle.name}: {bundle.folder}",
        f"  model card: {card if card.is_file() else 'none'}",
        f"  domain: {bundle.domain or 'not stated'}",
        f"  licence: {bundle.licence or 'not stated'}",
        f"  source: {bundle.source or 'not stated'}",
        *middle,
        *(f"  origin: {origin}" for origin in bundle.origins),
        *(f"  note: {note}" for note in bundle.notes),
    ]


def _cascade_lines(bundle: CascadeBundle) -> list[str]:
    return [
        f"  input: windows of {bundle.side} pixels, {', '.join(bundle.input.bands)}",
        f"  object: {bundle.kind_of_object or 'any'}",
        f"  arithmetic: {bundle.compat}",
        f"  cascade: {bundle.network.architecture}, {_file(bundle, bundle.network)}",
    ]


def _segmentation_lines(bundle: Bundle) -> list[str]:
    pixel = bundle.resolution
    low, high = bundle.input.range
    magnet = ", ".join(f"{key} {value}" for key, value in vars(bundle.magnet).items())
    lines = [
        f"  input: {bundle.input.size} pixels, {', '.join(bundle.input.bands)}, values from {low:g} to {high:g}",
        f"  pixel size: {'not known' if pixel is None else f'{float(pixel.value):g} {pixel.unit}'}",
        f"  scales: {_scales(bundle)}",
        f"  defaults: {magnet}",
        *_network_lines(bundle),
    ]
    for spec in bundle.refiners:
        serves = "every scale" if spec.scale is None else f"windows of {spec.scale}"
        lines.append(f"  refiner: {spec.architecture}, {_file(bundle, spec)}, {spec.input}, {serves}")
    for role, part in (("selector", bundle.selector), ("local", bundle.local)):
        if part is not None:
            lines.append(f"  {role}: {part.architecture}, {_file(bundle, part)}")
    return lines + [f"  class {index}: {entry.name} {entry.color}" for index, entry in enumerate(bundle.classes)]


def _network_lines(bundle: Bundle) -> list[str]:
    if bundle.foreign is None:
        return [f"  backbone: {bundle.backbone.architecture}, {_file(bundle, bundle.backbone)}"]
    spec = bundle.foreign
    libraries = ", ".join(f"{name} {release}" for name, release in spec.runtime.items())
    return [
        f"  network from elsewhere: {spec.kind}, {', '.join(spec.files)}, {format_bytes(_bytes(bundle))}",
        f"  tried with: {libraries}",
    ]


def _file(bundle: AnyBundle, spec: NetworkSpec) -> str:
    path = bundle.folder / spec.file
    return f"{spec.file}, {format_bytes(path.stat().st_size) if path.is_file() else 'MISSING'}"


def _scales(bundle: Bundle) -> str:
    return ",".join(str(scale) for scale in bundle.scales)


def _bytes(bundle: AnyBundle) -> int:
    from magnet_cli.models.bundle import Bundle

    paths = {bundle.folder / spec.file for _, spec in bundle.networks}
    if isinstance(bundle, Bundle) and bundle.foreign is not None:
        paths = {bundle.foreign_files / name for name in bundle.foreign.files}
    return sum(path.stat().st_size for path in paths if path.is_file())
