"""Checking that every file of a bundle is there, unchanged, and fits its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.models.network_spec import CascadeBundle
from magnet_cli.models.networks import fill
from magnet_cli.models.registry import build_backbone, build_cascade, build_local, build_refiner, build_selector

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from magnet_cli.models.network_spec import Bundle, NetworkSpec


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """The result of checking one file of weights."""

    file: Path
    role: str
    """`backbone`, `refiner`, `selector`, `local` or `cascade`."""
    error: WeightsError | None
    architecture: str
    bytes: int
    hashed: bool
    """Whether the description gives a hash to compare with."""

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        found = {
            "file": str(self.file),
            "role": self.role,
            "architecture": self.architecture,
            "bytes": self.bytes,
            "hashed": self.hashed,
            "ok": self.error is None,
        }
        return found if self.error is None else {**found, "error": str(self.error)}


def verify_bundle(bundle: Bundle | CascadeBundle) -> list[FileCheck]:
    """Load each file of a bundle: its hash, its keys and shapes, and that all weights are finite."""
    return [_checked(bundle, role, spec) for role, spec in bundle.networks]


def _checked(bundle: Bundle | CascadeBundle, role: str, spec: NetworkSpec) -> FileCheck:
    path = bundle.folder / spec.file
    error = None
    try:
        _load(bundle, role, spec)
    except WeightsError as found:
        error = found if found.file else WeightsError(found.rule, value=found.value, file=path, advice=found.advice)
    return FileCheck(
        file=path,
        role=role,
        architecture=spec.architecture,
        bytes=path.stat().st_size if path.is_file() else 0,
        hashed=spec.sha256 is not None,
        error=error,
    )


def _load(bundle: Bundle | CascadeBundle, role: str, spec: NetworkSpec) -> None:
    fill(_built(bundle, role, spec), spec=spec, folder=bundle.folder)


def _built(bundle: Bundle | CascadeBundle, role: str, spec: NetworkSpec) -> nn.Module:
    options = spec.options
    if isinstance(bundle, CascadeBundle):
        return build_cascade(spec.architecture, options=options)
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    if role == "backbone":
        return build_backbone(spec.architecture, classes=bundle.logits, bands=bands, options=options)
    if role == "refiner":
        return build_refiner(spec.architecture, classes=classes, options=options)
    if role == "selector":
        return build_selector(spec.architecture, bands=bands, classes=classes, options=options)
    return build_local(spec.architecture, classes=classes, bands=bands, options=options)
