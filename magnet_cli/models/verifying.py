"""Checking that every file of a bundle is there, unchanged, and fits its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.models.networks import fill, read_state
from magnet_cli.models.registry import build_backbone, build_refiner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magnet_cli.models.spec import Bundle, NetworkSpec


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """What was found of one file of weights."""

    file: Path
    role: str
    """`backbone`, `refiner` or `selector`."""
    architecture: str
    bytes: int
    hashed: bool
    """Whether the description gives a hash to compare with."""
    error: WeightsError | None

    def describe(self) -> dict[str, object]:
        """As JSON values."""
        found = {
            "file": str(self.file),
            "role": self.role,
            "architecture": self.architecture,
            "bytes": self.bytes,
            "hashed": self.hashed,
            "ok": self.error is None,
        }
        return found if self.error is None else {**found, "error": str(self.error)}


def verify_bundle(bundle: Bundle) -> list[FileCheck]:
    """Load each file of a bundle: its hash, its keys and shapes, and that all weights are finite.

    No network that reads a selector is known yet, so of one the hash alone is checked.
    """
    return [_checked(bundle, role, spec) for role, spec in _specs(bundle)]


def _specs(bundle: Bundle) -> Iterator[tuple[str, NetworkSpec]]:
    yield "backbone", bundle.backbone
    for spec in bundle.refiners:
        yield "refiner", spec
    if bundle.selector is not None:
        yield "selector", bundle.selector


def _checked(bundle: Bundle, role: str, spec: NetworkSpec) -> FileCheck:
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


def _load(bundle: Bundle, role: str, spec: NetworkSpec) -> None:
    if role == "backbone":
        bands = len(bundle.input.bands)
        network = build_backbone(spec.architecture, classes=bundle.logits, bands=bands, options=spec.options)
    elif role == "refiner":
        network = build_refiner(spec.architecture, classes=len(bundle.classes), options=spec.options)
    else:
        read_state(bundle.folder / spec.file, sha256=spec.sha256)
        return
    fill(network, spec=spec, folder=bundle.folder)
