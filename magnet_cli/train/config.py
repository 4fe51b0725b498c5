"""The configuration of a training, as a TOML file says it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def known(table: dict[str, Any], kind: type, *, where: str) -> dict[str, Any]:
    """The table itself, after a check that each key is a field of the dataclass `kind`."""
    names = {item.name for item in fields(kind)}
    if unknown := sorted(set(table) - names):
        raise UsageError(f"unknown keys in [{where}]", value=", ".join(unknown), advice=f"Known: {sorted(names)}")
    return table


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where scenes lie below the data folder, and how they are drawn from.

    A scene is one large picture with its label map. Without `scenes`, each file of the folder `images` is one, and
    its label is the file of the same stem in `labels`. With `scenes`, each name is a subfolder that has `images` and
    `labels`; with `grid` its files, sorted by name, are adjacent crops of one picture, row by row.
    """

    images: str = "images"
    labels: str = "labels"
    scenes: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    """Rows and columns."""
    ignore: int = 255
    """The label that says nothing."""
    jitter: float = 1.4
    """A drawn window is up to this factor larger or smaller than one of the bundle's scales."""
    colour: float = 1.0
    """Strength of the random changes of colour; 0 is none."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a network is fitted."""

    iterations: int = 5000
    batch: int = 12
    rate: float = 2e-3
    """Highest learning rate, reached after `warmup` and lowered to zero along a cosine."""
    warmup: float = 0.05
    """Share of the iterations."""
    decay: float = 0.02
    """Weight decay of AdamW."""
    average: float = 0.998
    """Momentum of the running average of the weights, which is what the bundle gets."""
    balance: float = 0.5
    """Classes are weighted by their share to the power of minus this; 0 is plain cross-entropy."""
    precision: str = "float32"
    """`float32` or `bfloat16` (autocast)."""
    seed: int = 0
    threads: int = 0
    """Threads within operations; 0 leaves them as they are."""
    log_every: int = 50
    save_every: int = 500


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network."""

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FoldsConfig:
    """How fields are made of scenes that the backbone behind them has not seen."""

    held_out: tuple[tuple[str, ...], ...] = ()
    """Scenes of each fold; a backbone is fitted on all others. Empty: the bundle's own backbone looks at all."""
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training: `[bundle]`, `[data]`, `[network]`, `[loop]`, `[folds]`."""

    network: NetworkConfig
    bundle: dict[str, Any] = field(default_factory=dict)
    """What bundle.json says beside the networks, in its own words; needed for a backbone."""
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    text: str = ""
    """The file as it was read; kept in the bundle as train.toml."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            UsageError: The file is missing or no TOML, a key is unknown, or a value has the wrong type.
        """
        try:
            text = path.read_text(encoding="utf-8")
            return cls.parse(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise UsageError(f"the configuration cannot be read: {exc}", file=path) from exc

    @classmethod
    def parse(cls, text: str) -> Self:
        """The configuration that a TOML text describes."""
        table = known(tomllib.loads(text), cls, where="top level")
        folds = known(dict(table.get("folds", {})), FoldsConfig, where="folds")
        data: dict[str, Any] = known(dict(table.get("data", {})), DataConfig, where="data")
        data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        if "network" not in table or "architecture" not in table["network"]:
            raise UsageError("the configuration names no network", advice='Add [network] architecture = "fpn-small"')
        return cls(
            network=NetworkConfig(**known(table["network"], NetworkConfig, where="network")),
            bundle=dict(table.get("bundle", {})),
            data=DataConfig(**data),
            loop=loop_config(table.get("loop", {}), where="loop"),
            folds=FoldsConfig(
                held_out=tuple(tuple(fold) for fold in folds.get("held_out", ())),
                loop=loop_config(folds.get("loop", {}), where="folds.loop"),
            ),
            text=text,
        )


def loop_config(table: dict[str, Any], *, where: str) -> LoopConfig:
    """A loop's settings, each of its default's type.

    Raises:
        UsageError: A key is unknown, or a value has another type.
    """
    for key, value in known(table, LoopConfig, where=where).items():
        kind = type(getattr(LoopConfig(), key))
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise UsageError(f"[{where}] {key} must be of type {kind.__name__}", value=value)
    config = LoopConfig(**table)
    if config.iterations < 1 or config.batch < 1 or config.save_every < 1 or config.log_every < 1:
        raise UsageError(f"[{where}] iterations, batch, save_every and log_every are at least 1")
    if config.precision not in {"float32", "bfloat16"}:
        raise UsageError(f"[{where}] precision is float32 or bfloat16", value=config.precision)
    return config
