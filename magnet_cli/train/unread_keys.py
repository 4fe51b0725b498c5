"""Keys of a configuration that a kind of training does not read: a file that states them is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from magnet_cli.errors import UsageError
from magnet_cli.train.idle_keys import IdleKeys, refuse_idle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.train.config import LoopConfig, TrainConfig

Kind = Literal["backbone", "cascade", "refiner", "grnet", "selector"]
TABLES: dict[Kind, tuple[str, ...]] = {
    "backbone": ("bundle", "data", "network", "loop"),
    "cascade": ("bundle", "data", "network", "loop", "cascade"),
    "grnet": ("bundle", "data", "network", "loop", "grnet"),
    "refiner": ("data", "network", "loop", "folds"),
    "selector": ("data", "network", "loop", "folds", "selector"),
}
"""Tables of the configuration that each training reads."""
NONE = "none"
"""Instead of a refiner's architecture: temperatures and scores only."""
TARGETS = ("loss", "focal_gamma", "balance")
"""Keys of `[loop]` on how the loss of a pixel is counted."""


def refuse_idle_keys(config: TrainConfig, kind: Kind) -> None:
    """Refuse tables and keys that a kind of training does not read.

    Raises:
        UsageError: The file states such a table or key.
    """
    for table, stated in config.given.items():
        if table not in TABLES[kind] and stated:
            also = "; the description of the bundle is in its bundle.json" if table == "bundle" else ""
            raise UsageError(
                f"[{table}] has no effect on the training of a {kind}",
                value=", ".join(stated),
                advice=f"Remove the table{also}",
            )
    refuse_idle(config.given, _KINDS[kind](config))


def _backbone(_: TrainConfig) -> Iterator[IdleKeys]:
    yield from ()


def _cascade(config: TrainConfig) -> Iterator[IdleKeys]:
    yield IdleKeys(
        table="loop", keys=TARGETS, why="on a cascade, which has the paper's losses", neutral=(("balance", 0),)
    )
    if not config.cascade.coarse:
        yield IdleKeys(
            table="cascade",
            keys=("shrink",),
            why="without [cascade] coarse, the probability of masks that are shrunk",
            advice="state coarse",
            neutral=(("shrink", 1),),
        )
    if not config.loop.validate_every:
        yield IdleKeys(
            table="cascade",
            keys=("windows",),
            why="without a validation",
            advice="state [loop] validate_every",
        )


def _grnet(config: TrainConfig) -> Iterator[IdleKeys]:
    if config.grnet.variant == "all":
        yield IdleKeys(
            table="grnet",
            keys=("selecting",),
            why='with variant = "all", which trains no selector',
            advice='write variant = "selected"',
        )


def _refiner(config: TrainConfig) -> Iterator[IdleKeys]:
    if config.network.architecture == NONE:
        why = f'with architecture = "{NONE}", which fits temperatures alone'
        advice = "name the architecture of a refiner"
        yield IdleKeys(table="network", keys=("options",), why=why, advice=advice, neutral=(("options", {}),))
        yield IdleKeys(table="loop", keys=_all_of(config.loop), why=why, advice=advice)
        yield IdleKeys(
            table="folds",
            keys=("accumulate", "rounds", "per_scale", "cross"),
            why=why,
            advice=advice,
            neutral=(("rounds", 0), ("per_scale", False), ("cross", False)),
        )
    # The fields of a refiner are made on the device of this loop, whoever has fitted the backbones.
    yield from _of_folds(config, drawing=("jitter", "colour", "rare", "border"), used=("device",))


def _selector(config: TrainConfig) -> Iterator[IdleKeys]:
    yield IdleKeys(table="loop", keys=TARGETS, why="on a selector, which has losses of its own")
    yield IdleKeys(
        table="folds",
        keys=("accumulate", "rounds", "per_scale", "temperatures", "cross"),
        why="on a selector: it is for refiners",
        neutral=(("rounds", 0), ("per_scale", False), ("cross", False)),
    )
    # Windows are drawn for the selector itself as well: without folds by all keys, and with folds by their colours. And
    # fields that are made for folds are made on the device of the folds' loop.
    has_folds = bool(config.folds.held_out)
    drawing = ("jitter", "rare", "border") if has_folds else ()
    yield from _of_folds(config, drawing=drawing, used=("device",) if has_folds else ())


def _of_folds(config: TrainConfig, *, drawing: tuple[str, ...], used: tuple[str, ...]) -> Iterator[IdleKeys]:
    """Yield keys that only concern backbones of folds, where none is fitted.

    Args:
        config: The configuration.
        drawing: Keys of `[data]` on windows that are drawn for such backbones alone.
        used: Keys of `[folds.loop]` that have an effect all the same.
    """
    folds = config.folds
    if folds.held_out and not folds.backbones:
        return
    why = "where no backbone of a fold is fitted"
    advice = "leave out [folds] backbones" if folds.backbones else "hold out scenes in [folds] held_out"
    neutral = (("jitter", 1), ("colour", 0), ("rare", 0), ("border", 0))
    yield IdleKeys(table="data", keys=drawing, why=why, advice=advice, neutral=neutral)
    keys = tuple(key for key in _all_of(folds.loop) if key not in used)
    yield IdleKeys(table="folds.loop", keys=keys, why=why, advice=advice)


def _all_of(loop: LoopConfig) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(loop))


_KINDS = {"backbone": _backbone, "cascade": _cascade, "grnet": _grnet, "refiner": _refiner, "selector": _selector}
