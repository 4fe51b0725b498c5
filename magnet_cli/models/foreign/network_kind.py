"""A kind of network from elsewhere: what its files state, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from magnet_cli.errors import WeightsError
from magnet_cli.models.engines.graph_engine import ENGINES, check_modules, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName, EngineOption

VALUES = [
    "classes",
    "channels",
    "bands",
    "input",
    "range",
    "values",
    "mean",
    "std",
    "pixel",
    "activation",
    "output",
    "multiple",
    "trim",
    "layout",
    "output_layout",
    "input_type",
    "batch",
    "preparation",
    "task",
    "licence",
    "name",
]
"""Names of the values that files may state; `NetworkOptions` has an option for each that a user may give."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A value, and where it was found."""

    value: Any
    origin: str
    """A file and the key in it, an option, or a sentence about what was measured or assumed."""


@dataclass(frozen=True, kw_only=True)
class NetworkReading:
    """Facts from the files of a network, none of which is run."""

    kind: str
    path: Path
    """The folder or the file that names the network."""
    root: Path
    """The folder that holds the files."""
    files: tuple[str, ...]
    """Paths of the files that the network needs, relative to `root`."""
    stated: Mapping[str, Stated] = field(default_factory=dict)
    """Values by their names in `VALUES`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values that only the kind understands."""
    holds_code: bool = False
    """Whether loading or running the files runs code that lies in them."""

    def __post_init__(self) -> None:
        unknown = set(self.stated) - set(VALUES)
        if unknown:
            message = f"a kind states values that nothing reads: {sorted(unknown)}"
            raise ValueError(message)


class NetworkKind(Protocol):
    """One kind of network from elsewhere. Its module holds everything that is special to this kind."""

    name: str
    """The name in `bundle.json`."""
    extra: str
    """Extra of this package that installs what the kind needs; empty where it needs nothing."""
    packages: tuple[str, ...]
    """Distributions whose code computes the scores beside the engine's. Their versions belong to the result of a run.
    """
    modules: tuple[str, ...]
    """Modules whose import shows that what reads the files is installed."""
    engines: tuple[EngineName, ...]
    """Engines that compute such networks, the preferred one first."""

    def claims(self, path: Path) -> bool:
        """Return whether a folder or a file is of this kind, judged by names and plain content; nothing is loaded."""

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return what the files state. Nothing in them is run.

        Raises:
            WeightsError: The files are of this kind and cannot be used; the message says why.
        """

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> Callable[[Tensor], object]:
        """Return the network on the host, as a module where it is one. It maps patches to whatever it returns.

        Args:
            folder: The folder that holds the files of `spec`, whose hashes have been checked.
            spec: The description. Values that the trial pass has yet to find are at their defaults.
            engine: One of `engines`, which computes the network.

        Raises:
            WeightsError: Weights are missing or left over, or do not fit.
        """


def check_installed(kind: NetworkKind, engine: EngineName | None = None) -> None:
    """Check that the packages of a kind can be imported.

    Args:
        kind: The kind.
        engine: The engine that is to compute; None where files are only read.

    Raises:
        WeightsError: A package is missing. The message names the extra.
    """
    check_modules(kind.modules, what=f"a network of the kind {kind.name}", extra=kind.extra)
    if engine in ENGINES:
        check_modules((ENGINES[engine].package,), what=f"a network of the kind {kind.name} with the engine {engine}")


def engine_of(kind: NetworkKind, wanted: EngineOption, known: Mapping[str, str] | None = None) -> EngineName:
    """Return the engine that computes a network.

    Args:
        kind: The kind of the network.
        wanted: The engine of `--engine`. `auto` takes the engine of the import, else the first one that is installed.
        known: Versions of the packages that computed the network when it was imported; None before that.

    Raises:
        WeightsError: That engine does not compute networks of this kind.
    """
    if wanted == "auto":
        installed = [name for name in kind.engines if name not in ENGINES or ENGINES[name].is_installed]
        imported = [name for name in kind.engines if name in ENGINES and ENGINES[name].package in (known or {})]
        return next(iter([*imported, *installed]), kind.engines[0])
    if wanted not in kind.engines:
        raise WeightsError(
            f"networks of the kind {kind.name} are computed by {' or '.join(kind.engines)}",
            value=f"--engine {wanted}",
            advice="Leave --engine out, or export the network to ONNX",
        )
    return wanted


def runtime_of(kind: NetworkKind, engine: EngineName) -> dict[str, str]:
    """Return the versions of what computes the scores, by package."""
    own = (ENGINES[engine].package,) if engine in ENGINES else ()
    return {package: version_of(package) for package in ("torch", *kind.packages, *own)}
