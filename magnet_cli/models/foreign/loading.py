"""Loading the network from elsewhere of a bundle: files checked, the kind's own loader, the adapter around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from magnet_cli.errors import WeightsError
from magnet_cli.models.foreign.adapter import Adapted
from magnet_cli.models.foreign.kinds import kind_named
from magnet_cli.models.foreign.network_files import check_digests
from magnet_cli.models.foreign.network_kind import check_installed, engine_of, runtime_of
from magnet_cli.models.networks import Networks, placed, precision_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.options.shared import EngineOption


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Library versions that run a network from elsewhere: those of this machine, and those of its import."""

    here: dict[str, str]
    """Versions by package."""
    at_import: dict[str, str]

    @property
    def text(self) -> str:
        """The versions here in one line, as a journal keeps them."""
        return ", ".join(f"{package} {release}" for package, release in sorted(self.here.items()))

    @property
    def note(self) -> str | None:
        """Return a warning that names packages which have changed since the import, or None where none has."""
        changed = [
            f"{package} {self.here.get(package, 'none')} here, {release} at the import"
            for package, release in sorted(self.at_import.items())
            if self.here.get(package) != release
        ]
        if not changed:
            return None
        return f"{'; '.join(changed)}: 'magnet weights verify' shows whether the network still gives the same result"


def runtime(bundle: Bundle, engine: EngineOption = "auto") -> Runtime:
    """Return the packages that run a bundle's network from elsewhere."""
    spec = _spec(bundle)
    kind = kind_named(spec.kind, file=bundle.folder)
    chosen = engine_of(kind, engine, spec.runtime)
    return Runtime(here=runtime_of(kind, chosen), at_import=dict(spec.runtime))


def load_foreign(bundle: Bundle, *, device: str, precision: str, engine: EngineOption = "auto") -> Networks:
    """Read, check and place the network from elsewhere of a bundle.

    Args:
        bundle: A bundle with `foreign`.
        device: `cpu`, `cuda:1`, `mps`.
        precision: `float32`, or what modules compute in under autocast.
        engine: Library that computes the network; `auto` is that of the import.

    Raises:
        WeightsError: A file is missing or has changed, or a package is missing.
        DeviceError: The device or the precision is not to be had.
    """
    precision_of(precision)
    spec, place = _spec(bundle), placed(device)
    check_digests(bundle.foreign_files, spec.files)
    network = load_kind(bundle, spec, engine)
    return Networks(
        bundle=bundle,
        backbone=Adapted(on_device(network, place), spec=spec),
        refiners=(),
        device=place,
        precision=precision,
    )


def load_kind(bundle: Bundle, spec: ForeignSpec, engine: EngineOption = "auto") -> Callable[[Tensor], object]:
    """Return the network as its kind loads it, on the host."""
    kind = kind_named(spec.kind, file=bundle.folder)
    chosen = engine_of(kind, engine, spec.runtime)
    check_installed(kind, chosen)
    return frozen(kind.load(bundle.foreign_files, spec, chosen))


def frozen(network: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
    """Return a network without dropout and gradients; anything but a module is left as it is."""
    if isinstance(network, nn.Module):
        network.train(mode=False)
        # TorchScript has no `requires_grad_` for whole modules.
        for parameter in network.parameters():
            parameter.requires_grad = False
    return network


def on_device(network: Callable[[Tensor], object], device: torch.device) -> Callable[[Tensor], object]:
    """Return a network on a device; anything but a module has to place itself where its patches are."""
    return network.to(device) if isinstance(network, nn.Module) else network


def _spec(bundle: Bundle) -> ForeignSpec:
    if bundle.foreign is None:
        raise WeightsError(
            "the bundle has a network of this program",
            value=bundle.name,
            advice="Name a bundle that 'magnet weights import --network' has made",
        )
    return bundle.foreign
