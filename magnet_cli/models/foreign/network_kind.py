"""A kind of network from elsewhere: what its files state, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from magnet_cli.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions

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
    """What the files of a network state, read without running any of them."""

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
    """One kind of network from elsewhere. Its module holds everything that only this kind knows."""

    name: str
    """The name in `bundle.json`."""
    extra: str
    """Extra of this package that installs what the kind needs; empty where it needs nothing."""
    packages: tuple[str, ...]
    """Distributions whose code computes the scores. Their versions belong to the result of a run."""
    modules: tuple[str, ...]
    """Modules whose import shows that the extra is installed."""

    def claims(self, path: Path) -> bool:
        """Whether a folder or a file is of this kind, judged by names and plain content; nothing is loaded."""

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """What the files state. Nothing in them is run.

        Raises:
            WeightsError: The files are of this kind and cannot be used; the message says why.
        """

    def load(self, folder: Path, spec: ForeignSpec) -> Callable[[Tensor], object]:
        """The network on the host, as a module where it is one: patches to whatever it returns.

        Args:
            folder: The folder that holds the files of `spec`, whose hashes have been checked.
            spec: The description. Values that the trial pass has yet to find are at their defaults.

        Raises:
            WeightsError: Weights are missing or left over, or do not fit.
        """


def check_installed(kind: NetworkKind) -> None:
    """Pass where the packages of a kind can be imported.

    Raises:
        WeightsError: One is missing; the message names the extra.
    """
    for module in kind.modules:
        try:
            import_module(module)
        except ImportError as exc:
            raise WeightsError(
                f"networks of the kind {kind.name} need the Python package {module}, which cannot be imported here",
                value=str(exc).splitlines()[0],
                advice=f"pip install 'magnet-cli[{kind.extra}]'",
            ) from exc


def runtime_of(kind: NetworkKind) -> dict[str, str]:
    """Versions of what computes the scores, by package."""
    found = {}
    for package in ("torch", *kind.packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
