"""`magnet train` trains the networks of bundles. It made every network in `weights/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.command_group import CommandGroup
from magnet_cli.cli.outcome import command, print_note
from magnet_cli.cli.parameters import NoProgress, PanelCommand
from magnet_cli.cli.volume import speaking
from magnet_cli.system.address_space import check_address_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.models.bundle import Bundle, CascadeBundle

train_app = typer.Typer(cls=CommandGroup, help="Train a bundle's networks.", rich_markup_mode=None)

Data = Annotated[Path, typer.Argument(help="Folder of scenes, or a CSV file with columns name, image, label, roi.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")]
Config = Annotated[Path, typer.Option("--config", help="TOML file with the whole configuration.")]

BACKBONE = """Train a backbone and write its bundle; an interrupted training goes on where it stopped.

Ctrl-C waits for the iteration at hand, saves a checkpoint and ends; a second one ends at once. The same command
goes on from the last checkpoint, and refuses one that was made with another configuration.

\b
The configuration, beside [bundle] and [network]:
  [data]  scenes, validation (by name), grid, ignore, label_values = { 255 = 1 }, jitter, colour,
          rare (share of windows drawn for a class), border (pixels beside a border that teach nothing)
          memory = "2GiB": scenes that together take no more when decoded are held in memory; otherwise windows are
          read from disk
  [loop]  iterations, batch, optimizer, rate, warmup, schedule = "cosine" or "step" (steps, step_factor)
          loss = "cross-entropy" or "focal" (focal_gamma), balance, decay, average
          precision = "float32", "bfloat16" or "float16"; device = "auto", "cpu", "cuda", "cuda:N", "mps"
          validate_every, patience: score the scenes of [data] validation, keep the best, stop early
          encoder_rate: the rate of an encoder as a share of `rate`; smoothing: for labels some of which are wrong
          logit_adjustment: how far the class weights of `balance` are kept out of the probabilities, 0 to 1
          seed, threads, log_every, save_every
  [network] encoder_weights = FILE, "package:NAME" or "timm:TAG": what the encoder begins with

The folder OUTPUT.training has the checkpoint, the log (log.jsonl) and its curves (curves.png), and, where scenes are
held out, a page (evaluation.html) with scores by class and scene, confusion and the worst places as pictures.
"""


@train_app.command(cls=PanelCommand, help=BACKBONE)
@speaking
@command
def backbone(data: Data, *, output: Output, config: Config, no_progress: NoProgress = False) -> None:
    """Train a backbone and write its bundle."""
    from magnet_cli.train.backbone_training import train_backbone

    _train(train_backbone, data, output, config=config, no_progress=no_progress)


CASCADE = """Train a cascade for `magnet refine`, on any labels; an interrupted training goes on where it stopped.

The cascade learns to sharpen wrong masks of single objects, whatever their class, by CascadePSP's recipe.

\b
The configuration, in addition to [bundle], [network], [data] and [loop] of a backbone:
  [bundle]   object = "building": the only kind of object that it knows; users of a mask of several classes then have
             to name theirs
  [cascade]  crop, scales: windows of these sides at level 0 are resampled to `crop` rows and columns
             pieces, smallest, classes: an object is a class in a window, or one connected piece of it
             iou = [0.8, 1.0]: how wrong masks are; coarse, shrink: how often one is enlarged from a smaller one,
             and how much smaller that is at most
             masks: how often the wrong mask is the one in the CSV file's column mask, from another program
             dropped: largest share of the mask's pieces that are missing
             soft: how often the mask is as unsure as a coarser level leaves it
             gradient, finest: weights of losses at stride 1; windows: number drawn for a validation
             cut: the probability that the bundle takes for one half
The losses are the paper's: `loss`, `focal_gamma` and `balance` of [loop] are refused.

Where [loop] validate_every is set, IoU and boundary accuracy of wrong masks on held-out scenes are printed, before and
after refinement.
"""


@train_app.command(cls=PanelCommand, help=CASCADE)
@speaking
@command
def cascade(data: Data, *, output: Output, config: Config, no_progress: NoProgress = False) -> None:
    """Train a cascade and write its bundle."""
    from magnet_cli.train.cascade_training import train_cascade

    _train(train_cascade, data, output, config=config, no_progress=no_progress)


@train_app.command(cls=PanelCommand)
@speaking
@command
def refiner(data: Data, *, output: Output, config: Config, no_progress: NoProgress = False) -> None:
    """Train a refiner for a bundle that has a backbone, and add it to the bundle."""
    from magnet_cli.train.refiner_training import train_refiner

    _train(
        lambda *words, message, progress, **_: train_refiner(*words, message=message, progress=progress),
        data,
        output,
        config=config,
        no_progress=no_progress,
    )


GRNET = """Train a GRNet - global branch, selector and local branch - and write its bundle.

An interrupted training goes on where it stopped. First the global branch is trained alone; then the selector and all
other parts are trained in turns.

\b
The configuration is that of a backbone, where [network] is the global branch, and:
  [grnet]  cells = 4: an image, a window of the bundle's one scale, is cut into 4 x 4
           fusion = "literal" (at the global branch's resolution) or "detail" (at the cells')
           variant = "selected", or "all": the local branch computes every cell, and there is no selector
           alone, selecting, refining: iterations of each turn; [loop] iterations counts all
           selector, local = { architecture = "...", options = { } }
"""

SELECTOR = """Train a selector for a bundle that has a backbone, and add it to the bundle.

An interrupted training goes on where it stopped. A selector learns in which cells of a window the backbone is worse
than in the whole window, or how much a mask improves when a window of the next stage is computed.

\b
In the configuration:
  [network]   architecture = "ppn-small", options = { cells = 4 }, and in options:
              sees = "image", or "image+field": the selector also gets the class probabilities so far
              against = "image": a cell is compared with its window; or "constant"
  [selector]  labels = "paper", or "gain"; minimum = 0.0: least share of a class that counts
  [folds]     held_out = [["a"], ["b"]]: scenes whose fields are made by backbones that have not seen them; needed for
              gains and fields; backbones = ["...", "..."]: their bundles, else one is fitted for each fold
"""


@train_app.command(cls=PanelCommand, help=GRNET)
@speaking
@command
def grnet(data: Data, *, output: Output, config: Config, no_progress: NoProgress = False) -> None:
    """Train a GRNet and write its bundle."""
    from magnet_cli.train.grnet_training import train_grnet

    _train(train_grnet, data, output, config=config, no_progress=no_progress)


@train_app.command(cls=PanelCommand, help=SELECTOR)
@speaking
@command
def selector(data: Data, *, output: Output, config: Config, no_progress: NoProgress = False) -> None:
    """Train a selector for a bundle that has a backbone, and add it to the bundle."""
    from magnet_cli.train.selector_training import train_selector

    _train(train_selector, data, output, config=config, no_progress=no_progress)


def _train(
    train: Callable[..., Bundle | CascadeBundle | None], data: Path, output: Path, *, config: Path, no_progress: bool
) -> None:
    # Under a limit on the address space the imports below can end the process without a message.
    check_address_space()
    from magnet_cli.cli.training_progress import TrainingDisplay
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.precision import slow_precision

    settings = TrainConfig.read(config)
    if (note := slow_precision(settings)) is not None:
        print_note(note)
    with TrainingDisplay(enabled=not no_progress) as display:
        bundle = train(data, output, settings, message=print_note, progress=display.line, each=display.tick)
    if bundle is not None:
        classes = f", {len(bundle.classes)} classes" if isinstance(bundle, Bundle) else ""
        print_note(f"{output}: bundle '{bundle.name}'{classes}")
