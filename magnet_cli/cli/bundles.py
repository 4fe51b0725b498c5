"""`magnet train`: how every file in weights/ was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.ending import command, say

if TYPE_CHECKING:
    from magnet_cli.models.bundle import Bundle

train_app = typer.Typer(help="Train a bundle's networks.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path, typer.Argument(help="Folder of scenes, or a CSV with columns name, image, label.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")]
Config = Annotated[Path, typer.Option("--config", help="TOML file with the whole configuration.")]


@train_app.command()
@command
def backbone(data: Data, *, output: Output, config: Config) -> None:
    """Train a backbone and write its bundle; an interrupted training goes on where it stopped."""
    from magnet_cli.train.backbone import train_backbone
    from magnet_cli.train.config import TrainConfig

    _told(train_backbone(data, output, TrainConfig.read(config), progress=_line), output)


@train_app.command()
@command
def refiner(data: Data, *, output: Output, config: Config) -> None:
    """Train a refiner for a bundle that has a backbone, and add it."""
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.refiner import train_refiner

    _told(train_refiner(data, output, TrainConfig.read(config), progress=_line), output)


def _line(line: dict[str, float]) -> None:
    say("  ".join(f"{key} {value:g}" for key, value in line.items()))


def _told(bundle: Bundle | None, output: Path) -> None:
    if bundle is not None:
        say(f"{output}: bundle '{bundle.name}', {len(bundle.classes)} classes")
