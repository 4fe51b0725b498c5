"""Checking that every file of a bundle is there, unchanged, and fits its network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.models.engines.quantised_graph import FILE, GRAPH, graph_of
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.foreign.network_files import check_digests
from magnet_cli.models.foreign.trial import KEPT, LABELS_KEPT, Trial, replay, windows_of_bundle
from magnet_cli.models.network_spec import Bundle, CascadeBundle
from magnet_cli.models.registry import build_backbone, build_cascade, build_local, build_refiner, build_selector
from magnet_cli.models.weights_file import filled

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.models.network_spec import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """The result of checking one file of weights."""

    file: Path
    role: str
    """`backbone`, `refiner`, `selector`, `local`, `cascade` or `backbone in 8 bits`, or `network` and `trial` of a
    foreign network."""
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
    if isinstance(bundle, Bundle) and bundle.foreign is not None:
        return verify_foreign(bundle, bundle.foreign)
    checks = [_checked(bundle, role, spec) for role, spec in bundle.networks]
    if isinstance(bundle, Bundle) and (bundle.folder / FILE).is_file():
        checks.append(_checked_graph(bundle))
    return checks


def verify_foreign(bundle: Bundle, spec: ForeignSpec) -> list[FileCheck]:
    """Check the hash of each file of a network from elsewhere, and run the kept picture through it again."""
    checks = [_foreign_check(bundle, spec, name) for name in spec.files]
    if not any(check.error for check in checks):
        checks.append(replace(_foreign_check(bundle, spec, spec.trial), role="trial", error=_replayed(bundle, spec)))
    return checks


def _foreign_check(bundle: Bundle, spec: ForeignSpec, name: str) -> FileCheck:
    path, error = bundle.foreign_files / name if name in spec.files else bundle.folder / name, None
    try:
        check_digests(bundle.foreign_files, {key: value for key, value in spec.files.items() if key == name})
    except WeightsError as found:
        error = found
    return FileCheck(
        file=path,
        role="network",
        architecture=spec.kind,
        bytes=path.stat().st_size if path.is_file() else 0,
        hashed=name in spec.files,
        error=error,
    )


def _replayed(bundle: Bundle, spec: ForeignSpec) -> WeightsError | None:
    """Return why the network does not give what it gave at the import; None where it does."""
    file = bundle.folder / spec.trial
    try:
        kept = Trial.decode(file)
        networks = load_foreign(bundle, device="cpu", precision="float32")
        found = replay(
            lambda patch: networks.predict(patch, bundle.input.size), windows_of_bundle(bundle, kept.picture)
        )
    except WeightsError as error:
        return error
    same, apart = kept.compare(found)
    if same >= LABELS_KEPT and apart <= KEPT:
        return None
    return WeightsError(
        "the network gives another result for the kept picture than at the import",
        value=f"{same:.2%} of pixels have the same class, probabilities lie up to {apart:.3g} apart",
        file=file,
        advice="Import the network again, or install the versions of the libraries that 'magnet weights show' names",
    )


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


def _checked_graph(bundle: Bundle) -> FileCheck:
    path, error = bundle.folder / GRAPH, None
    try:
        graph_of(bundle)
    except WeightsError as found:
        error = found
    return FileCheck(
        file=path,
        role="backbone in 8 bits",
        architecture=bundle.backbone.architecture,
        bytes=path.stat().st_size if path.is_file() else 0,
        error=error,
        hashed=True,
    )


def _load(bundle: Bundle | CascadeBundle, role: str, spec: NetworkSpec) -> None:
    filled(partial(_built, bundle, role, spec), spec=spec, folder=bundle.folder)


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
