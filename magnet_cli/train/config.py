"""The configuration of a training, read from a TOML file."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args, get_origin, get_type_hints

from magnet_cli.errors import UsageError
from magnet_cli.models.schema import RULES, STRICT, FieldRule, RefusedTableError, checked
from magnet_cli.system import regular_files
from magnet_cli.system.memory import parse_bytes
from magnet_cli.train.idle_keys import IdleKeys, refuse_idle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ADVICE = "Correct the configuration; docs/training.md describes its keys"

BYTES = range(256)
PAIR = 2
STRIDE = 8
"""The stride of a cascade's coarsest output."""
MOST_ROUNDS = 3
MOST_BORDER = 32
"""Most pixels of a border that teaches nothing: a wider one leaves no labels."""
MOST_MINIMUM = 0.5
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")


def rises(shares: tuple[float, ...]) -> bool:
    """Return whether each number is larger than the one before, and all lie between 0 and 1, both excluded."""
    return all(low < high for low, high in pairwise((0, *shares, 1)))


def _check_keys(table: object, place: str, *rules: tuple[str, str, object]) -> None:
    """Check the values of a table of the configuration.

    Args:
        table: The table, with its keys as attributes.
        place: The words of a message before the key, like `[data]`.
        rules: For each rule a key, what the key must be, and a value that is true where the rule holds.

    Raises:
        UsageError: A rule does not hold.
    """
    for key, what, holds in rules:
        if not holds:
            raise UsageError(f"{place} {key} must be {what}", value=getattr(table, key), advice=ADVICE)


LARGEST_CONFIG = 1 << 20
"""Largest number of bytes of a configuration."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The scenes that a network learns from, and how windows of them are drawn.

    A scene is one picture of any size with its label map. Both may be of any format that `magnet_cli.images` reads, and
    the picture has 8 bits a band. Bands are found by the names of `[bundle.input]`, where the picture has all of them;
    else the first ones are read. Pixels without data teach nothing. In a folder without `scenes`, each file of the
    subfolder `images` is a scene, and the file of the same stem in `labels` is its label map. With `scenes`, each name
    is a subfolder that has `images` and `labels`, and each of its files is a scene, `subfolder/stem`. With `grid`, its
    files, sorted by name, are adjacent crops of one picture, row by row.

    In a CSV file each line is a scene. It has the columns `image` and `label`, and optionally `name` (else the
    picture's stem), `roi`, `mask` and `corrections`. `label` may be a GeoJSON file of polygons with classes; pixels in
    none of them teach nothing. `corrections` is such a file whose polygons are laid over the label map. `roi` is a
    raster of the picture's size; pixels where its first band is 0 teach nothing. `mask` holds class indices that
    another program found in the picture, which a cascade learns to sharpen. Paths are relative to the file's folder.
    `scenes` then chooses lines by name, so that one file serves every split.
    """

    images: str = "images"
    labels: str = "labels"
    scenes: tuple[str, ...] = ()
    """Names of the scenes, in the order in which they are used. Empty takes all scenes of the folder or file."""
    validation: tuple[str, ...] = ()
    """Names of the scenes that are left out of training and used for validation."""
    grid: Annotated[tuple[int, int] | None, FieldRule("is two numbers, rows and columns")] = None
    """Rows and columns of the crops that make up a picture. It is for folders alone."""
    ignore: int = 255
    """The label of unlabelled pixels, in addition to 255 and to the nodata value of a label map. Loss, class weights
    and scores leave them out."""
    label_values: dict[str, int] = field(default_factory=dict)
    """Classes of stored values of the label maps that differ from their class: `{ 255 = 1 }`. They are applied before
    `roi`, and not to masks of this program with the bundle's classes. In no mask of this program 255 is a class."""
    jitter: float = 1.4
    """The factor by which a drawn window is at most larger or smaller than one of the bundle's scales."""
    colour: float = 1.0
    """Strength of the random changes of colour. 0 changes none."""
    rare: float = 0.0
    """Share of the windows that are drawn for a class: each of those takes a class at random, every class alike, and
    the one of eight random windows that has the most of it. It gives rare classes their share of a training."""
    border: int = 0
    """Pixels of the network's input on either side of a border between two classes that teach nothing. Labels are drawn
    by hand, and their borders are where hands differ."""
    memory: str = "2GiB"
    """Limit of the memory for scenes. Scenes that together take no more than this when they are decoded are held in
    memory. Otherwise windows are read from disk, and decoded tiles of the images take this much at most. The same
    windows are drawn either way; their pixels are the same, too, where an image stores levels that are means of 2 x 2
    finer pixels, all with data."""

    def __post_init__(self) -> None:
        for stored, label in self.label_values.items():
            if not (stored.isdecimal() and int(stored) in BYTES and label in BYTES):
                raise UsageError(
                    "[data] label_values maps stored values to classes, both from 0 to 255",
                    value=f"{stored} = {label}",
                    advice=ADVICE,
                )
        # It is parsed here only to refuse a wrong text before any work.
        parse_bytes(self.memory, option="[data] memory")
        _check_keys(
            self,
            "[data]",
            ("rare", "from 0 to 1", 0 <= self.rare <= 1),
            ("border", f"from 0 to {MOST_BORDER}", 0 <= self.border <= MOST_BORDER),
        )
        if self.grid is not None and min(self.grid) < 1:
            raise UsageError(
                "[data] grid is two numbers, rows and columns",
                value=self.grid,
                advice=ADVICE,
            )

    @property
    def values(self) -> dict[int, int]:
        """`label_values` with numbers as keys."""
        return {int(stored): label for stored, label in self.label_values.items()}


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Options of the loop that fits a network."""

    iterations: int = 5000
    batch: int = 12
    loss: str = "cross-entropy"
    """`cross-entropy`, or `focal` (Lin et al. 2017, equation 5, over softmax). Cross-entropy is the default because it
    is a proper score: its minimum is at the true probability. The focal loss distorts probabilities, and with them the
    certainty by which a run selects windows and merges maps."""
    focal_gamma: float = 2.0
    """Exponent by which the focal loss reduces the weight of pixels that are right already. 0 is cross-entropy."""
    smoothing: float = 0.0
    """Share of a label's weight that cross-entropy gives to all classes alike (Szegedy et al. 2016, section 7), for
    labels some of which are wrong."""
    rate: float = 2e-3
    """The highest learning rate. The rate grows linearly to it during `warmup`."""
    encoder_rate: float = 1.0
    """The learning rate of the encoder as a share of `rate`. An encoder that begins with weights of other images needs
    a lower one than the layers that begin at random."""
    warmup: float = 0.05
    """The share of the iterations in which the learning rate grows."""
    schedule: str = "cosine"
    """The learning rate after `warmup`: `cosine` lets it fall to zero, `step` multiplies it by `step_factor` at each of
    `steps`."""
    steps: tuple[float, ...] = (0.6, 0.8)
    """The shares of the iterations at which the schedule `step` changes the rate."""
    step_factor: float = 0.1
    optimizer: str = "adamw"
    """`adamw`, `adam` or `sgd` (stochastic gradient descent). In the last two, weight decay is part of the gradient."""
    momentum: float = 0.9
    """The momentum of `sgd`."""
    decay: float = 0.02
    """Weight decay."""
    average: float = 0.998
    """Momentum of the running average of the weights. The bundle gets the average."""
    balance: float = 0.5
    """The weight of a class in the loss is its share of the pixels to the power of minus this. With 0 all pixels weigh
    the same."""
    logit_adjustment: float = 0.0
    """How far the weights of classes that `balance` gives are kept out of the probabilities, from 0 to 1. A loss whose
    classes have weights w is least at probabilities proportional to w p, so that rare classes are predicted where they
    are not. The loss adds the logarithms of the weights, times this, to the logits (Menon et al. 2021, "Long-tail
    learning via logit adjustment", equation 10), and the network, which learns what is missing, predicts without them:
    with 1 its probabilities are p, and rare classes still count more while it learns."""
    precision: str = "float32"
    """`float32`, or with autocast `bfloat16` or `float16` (on CUDA alone, with the loss scaled)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: the first GPU, or the CPU where there is none. On a CPU a training can
    be repeated bit for bit; a GPU adds numbers in no fixed order."""
    seed: int = 0
    """The seed of the initial weights and of the drawn windows."""
    threads: int = 0
    """The number of threads within operations. 0 leaves the number as it is."""
    validate_every: int = 0
    """The number of iterations between validations on the scenes of [data] validation. The last iteration is validated
    as well. With 0 there is no validation. The bundle gets the averaged weights of the validation with the highest mean
    IoU."""
    patience: int = 0
    """Training stops after this many validations in a row without a higher mean IoU. With 0 it never stops early."""
    log_every: int = 50
    """The number of iterations between lines of the log. Each line gives the mean loss since the line before."""
    save_every: int = 500
    """The number of iterations between checkpoints."""

    def __post_init__(self) -> None:
        _check_keys(
            self,
            "in [loop] or [folds.loop],",
            ("iterations", "at least 1", self.iterations >= 1),
            ("batch", "at least 1", self.batch >= 1),
            ("encoder_rate", "from 0 to 1", 0 <= self.encoder_rate <= 1),
            ("log_every", "at least 1", self.log_every >= 1),
            ("save_every", "at least 1", self.save_every >= 1),
            ("seed", "at least 0", self.seed >= 0),
            ("threads", "at least 0", self.threads >= 0),
            ("validate_every", "at least 0", self.validate_every >= 0),
            ("patience", "at least 0", self.patience >= 0),
            ("patience", "0 without validate_every", not self.patience or self.validate_every),
            ("loss", "cross-entropy or focal", self.loss in {"cross-entropy", "focal"}),
            ("focal_gamma", "at least 0", self.focal_gamma >= 0),
            ("smoothing", "at least 0 and below 1", 0 <= self.smoothing < 1),
            ("logit_adjustment", "from 0 to 1", 0 <= self.logit_adjustment <= 1),
            ("smoothing", "0 where loss is focal", not self.smoothing or self.loss == "cross-entropy"),
            ("logit_adjustment", "0 where balance is 0", not self.logit_adjustment or self.balance),
            ("schedule", "cosine or step", self.schedule in {"cosine", "step"}),
            ("steps", "shares between 0 and 1 in rising order", rises(self.steps)),
            ("optimizer", "adamw, adam or sgd", self.optimizer in {"adamw", "adam", "sgd"}),
            ("momentum", "at least 0 and below 1", 0 <= self.momentum < 1),
            ("step_factor", "above 0 and at most 1", 0 < self.step_factor <= 1),
            ("precision", "float32, bfloat16 or float16", self.precision in {"float32", "bfloat16", "float16"}),
            ("device", "auto, cpu, cuda, cuda:N or mps", DEVICE.fullmatch(self.device)),
        )


def idle_in_loop(loop: LoopConfig, table: str) -> Iterator[IdleKeys]:
    """Yield the keys of a loop that other keys of it keep from having an effect, for every kind of training.

    Args:
        loop: The loop.
        table: The name of its table.
    """
    if loop.loss != "focal":
        yield IdleKeys(
            table=table,
            keys=("focal_gamma",),
            why=f'with loss = "{loop.loss}"',
            advice='write loss = "focal"',
            neutral=(("focal_gamma", 0),),
        )
    if loop.optimizer != "sgd":
        yield IdleKeys(
            table=table,
            keys=("momentum",),
            why=f'with optimizer = "{loop.optimizer}"',
            advice='write optimizer = "sgd"',
        )
    if loop.schedule != "step":
        yield IdleKeys(
            table=table,
            keys=("steps", "step_factor"),
            why=f'with schedule = "{loop.schedule}"',
            advice='write schedule = "step"',
            neutral=(("steps", []),),
        )
    elif not loop.steps:
        yield IdleKeys(
            table=table,
            keys=("step_factor",),
            why="with steps = []",
            advice="name the steps",
            neutral=(("step_factor", 1),),
        )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network: the name of its architecture, and the options of that architecture."""

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    encoder_weights: str = ""
    """The weights that the encoder begins with: a file (`.pth` or `.safetensors`, relative to the configuration),
    `package:NAME` for an installed Python package that holds one, or `timm:TAG` for weights that timm downloads.
    Empty begins with random weights."""

    def refuse_encoder_weights(self, *, trained: str) -> None:
        """Refuse `encoder_weights` where the network that is trained takes none.

        Raises:
            UsageError: `encoder_weights` is given.
        """
        if self.encoder_weights:
            raise UsageError(
                f"encoder_weights are for backbones, GRNets and cascades, and {trained} begins at random",
                value=self.encoder_weights,
                advice="Remove the key.",
            )


@dataclass(frozen=True, kw_only=True)
class FoldsConfig:
    """Fields for the training of refiners and selectors, made by backbones that were not trained on their scenes."""

    held_out: Annotated[tuple[tuple[str, ...], ...], FieldRule('is a list of lists of scenes, as [["a"], ["b"]]')] = ()
    """The names of the scenes of each fold. The fields of a fold come from a backbone that was fitted to all other
    scenes. Empty takes the bundle's own backbone for all scenes."""
    backbones: tuple[str, ...] = ()
    """Folder of a bundle that was trained without the scenes of each fold, relative to the configuration's folder.

    Its backbone makes the fold's fields, and no backbone is fitted.
    """
    accumulate: bool = True
    """Whether a stage refines the result of the coarser stages. Otherwise it refines the output O of the coarsest stage
    alone, as in the published training program."""
    rounds: int = 1
    """The number of further fits. The first fit takes fields that were accumulated with the mean, and each further one
    takes fields that the refiner itself has accumulated."""
    per_scale: bool = False
    """Whether each refining scale has a refiner of its own, as in the paper. Otherwise one refiner serves all."""
    temperatures: bool = True
    """Whether a temperature of the backbone and one of the refiner is fitted for each scale."""
    cross: bool = False
    """Whether scores and temperatures of a fold come from a refiner that was fitted without that fold."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The loop of the folds' backbones."""

    def __post_init__(self) -> None:
        names = [name for fold in self.held_out for name in fold]
        for holds, rule, value in (
            (0 <= self.rounds <= MOST_ROUNDS, f"rounds is 0 to {MOST_ROUNDS}", self.rounds),
            (self.accumulate or not self.rounds, "rounds is 0 where nothing is accumulated", self.rounds),
            (
                not self.backbones or len(self.backbones) == len(self.held_out),
                f"backbones has one for each of {len(self.held_out)} folds",
                len(self.backbones),
            ),
            (all(self.held_out), "a fold of held_out is empty", self.held_out),
            (len(set(names)) == len(names), "held_out names a scene twice", ", ".join(names)),
            (not self.cross or len(self.held_out) > 1, "cross needs two folds or more", len(self.held_out)),
        ):
            if not holds:
                raise UsageError(
                    f"[folds] {rule}",
                    value=value,
                    advice=ADVICE,
                )


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """The objects that a cascade learns to sharpen, the errors of their masks, and the weights of its losses.

    The defaults are those of CascadePSP (sections 3.1, 3.3 and 4.2) where the paper states them. A cascade has the
    paper's losses, so `loss` and `balance` of [loop] are refused.
    """

    crop: int = 224
    """The number of rows and of columns of a window as the network gets it."""
    scales: tuple[int, ...] = (224,)
    """The sides of windows in pixels of level 0. All are drawn equally often, and [data] jitter varies them."""
    classes: tuple[int, ...] = ()
    """The classes whose objects the cascade learns to sharpen. Empty takes all classes."""
    pieces: float = 0.5
    """The probability that an object is one connected piece of a class in the window, and not the whole class."""
    smallest: int = 64
    """The smallest number of pixels of an object in the window, and of labelled pixels around it."""
    iou: Annotated[tuple[float, float], FieldRule("must be two numbers")] = (0.8, 1.0)
    """The range in which the IoU of a wrong mask with the truth is aimed at. No wrong mask falls below its lower
    end."""
    coarse: float = 0.0
    """The probability that a wrong mask is made by shrinking and enlarging the true one, and not by dropping vertices
    of its contour."""
    shrink: float = 8.0
    """The largest factor by which such a mask is shrunk."""
    masks: float = 0.0
    """The probability that the wrong mask is the one in the column `mask` of the CSV file, where a scene has one."""
    dropped: float = 0.0
    """The largest share of a wrong mask's connected pieces that are removed, though they belong to the object. The
    cascade then learns to find the missing parts of an object."""
    soft: float = 0.0
    """The probability that a wrong mask has values between 0 and 1, as the result of a coarser level has."""
    gradient: float = 5.0
    """Weight of the loss on gradient magnitudes."""
    finest: float = 0.0
    """Weight of the cross-entropy of stride 1, in addition to its L1 + L2 loss. The paper has no cross-entropy
    there."""
    cut: float = 0.5
    """The probability of the trained network that becomes one half in the bundle. The losses on distances and gradients
    make the network leave out pixels of which it is unsure; a lower value gives some of these back to the object."""
    windows: int = 64
    """The number of windows of each validation. The same windows of the scenes of [data] validation are drawn each
    time."""

    def __post_init__(self) -> None:
        _check_keys(
            self,
            "[cascade]",
            ("crop", f"a multiple of {STRIDE}, at least {STRIDE}", self.crop >= STRIDE and self.crop % STRIDE == 0),
            ("scales", "one side or more, each at least 1", min(self.scales, default=0) >= 1),
            ("pieces", "from 0 to 1", 0 <= self.pieces <= 1),
            ("smallest", "at least 1", self.smallest >= 1),
            ("iou", "two numbers in rising order, above 0 and at most 1", 0 < self.iou[0] <= self.iou[1] <= 1),
            ("coarse", "from 0 to 1", 0 <= self.coarse <= 1),
            ("shrink", "at least 1", self.shrink >= 1),
            ("masks", "from 0 to 1", 0 <= self.masks <= 1),
            ("dropped", "from 0 to 1", 0 <= self.dropped <= 1),
            ("soft", "from 0 to 1", 0 <= self.soft <= 1),
            ("gradient", "at least 0", self.gradient >= 0),
            ("finest", "at least 0", self.finest >= 0),
            ("cut", "above 0 and below 1", 0 < self.cut < 1),
            ("windows", "at least 1", self.windows >= 1),
        )


@dataclass(frozen=True, kw_only=True)
class SelectorConfig:
    """The target that a selector of a bundle's windows learns to predict."""

    labels: str = "paper"
    """`paper` are cells in which the mean IoU of a backbone is lower than in the whole window. `gain` is how much
    better the mask becomes by computing a window; it needs fields of scenes that the backbone was not trained on
    ([folds] held_out)."""
    minimum: float = 0.0
    """Least share of an area that a class must cover to count in its mean IoU, with `paper`. The paper has no
    such limit."""

    def __post_init__(self) -> None:
        _check_keys(
            self,
            "[selector]",
            ("labels", "paper or gain", self.labels in {"paper", "gain"}),
            ("minimum", "at least 0 and below 0.5", 0 <= self.minimum < MOST_MINIMUM),
            ("minimum", "0 where labels is gain", not self.minimum or self.labels == "paper"),
        )


@dataclass(frozen=True, kw_only=True)
class GRNetConfig:
    """The parts of a GRNet beside its global branch, and the order in which all parts are trained.

    `[loop] iterations` is the number of all iterations. The first ones train the global branch alone. The others are
    rounds, in each of which the selector is trained and then the other parts.
    """

    selector: NetworkConfig = field(default_factory=lambda: NetworkConfig(architecture="ppn-resnet18"))
    local: NetworkConfig = field(default_factory=lambda: NetworkConfig(architecture="grnet-resnet18"))
    cells: int = 4
    """The number of rows and of columns of cells into which an image is cut."""
    fusion: str = "literal"
    """The resolution of fusion: `literal` is that of the global branch, as in the paper, `detail` that of the cells."""
    variant: str = "selected"
    """`selected` refines the cells that the selector chooses. `all` refines every cell and trains no selector; the
    paper calls it EnhanceNet."""
    alone: int = 500
    """The number of iterations that train the global branch alone."""
    selecting: int = 50
    """The number of iterations that train the selector in each round."""
    refining: int = 50
    """The number of iterations that train all other parts in each round."""

    def __post_init__(self) -> None:
        _check_keys(
            self,
            "[grnet]",
            ("cells", "at least 2", self.cells >= PAIR),
            ("fusion", "literal or detail", self.fusion in {"literal", "detail"}),
            ("variant", "selected or all", self.variant in {"selected", "all"}),
            ("alone", "at least 0", self.alone >= 0),
            ("selecting", "at least 1", self.selecting >= 1),
            ("refining", "at least 1", self.refining >= 1),
        )
        for part in (self.selector, self.local):
            # Both networks need the same values, so they stand in one place.
            if given := sorted({"cells", "fusion"} & set(part.options)):
                raise UsageError(
                    "cells and fusion are keys of [grnet], not options of its networks",
                    value=f"{part.architecture}: {', '.join(given)}",
                    advice="Move cells and fusion to [grnet]",
                )
        if self.selector.options.get("sees", "image") != "image":
            raise UsageError(
                "the selector of a GRNet gets the image alone",
                value=f"sees = {self.selector.options['sees']!r}",
                advice="Leave sees out of [grnet.selector] options",
            )


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a configuration: `[bundle]`, `[data]`, `[network]`, `[loop]`, `[folds]` and those of one kind."""

    __pydantic_config__ = STRICT

    network: NetworkConfig
    bundle: dict[str, Any] = field(default_factory=dict)
    """The entries of `bundle.json` except its networks. The training of a backbone or a cascade needs them."""
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    grnet: GRNetConfig = field(default_factory=GRNetConfig)
    selector: SelectorConfig = field(default_factory=SelectorConfig)

    def __post_init__(self) -> None:
        self.grnet.selector.refuse_encoder_weights(trained="a selector")
        if self.loop.validate_every and not self.data.validation:
            raise UsageError(
                "[loop] validate_every needs scenes to validate on", advice="Name some in [data] validation."
            )
        held_out = {name for fold in self.folds.held_out for name in fold}
        if both := sorted(held_out.intersection(self.data.validation)):
            raise UsageError(
                "a scene of [folds] held_out is learnt from, and one of [data] validation is not",
                value=", ".join(both),
                advice="Name each of them in one of the two",
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Tables):
    """The whole configuration of a training."""

    text: str = ""
    """The text of the file, which the bundle keeps as `train.toml`."""
    folder: Path = Path()
    """The folder of the file."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The tables as the file states them, without defaults."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a configuration from a TOML file.

        Raises:
            UsageError: The file is missing or is not TOML, a key is unknown, or a value has the wrong type.
        """
        try:
            text = regular_files.text_of(path, most=LARGEST_CONFIG)
            return cls.parse(text, folder=path.parent)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            rule, advice = f"the configuration cannot be read: {exc}", "Check the path, and that the file is TOML"
            raise UsageError(rule, file=path, advice=advice) from exc

    @classmethod
    def parse(cls, text: str, *, folder: Path = Path()) -> Self:
        """Parse the text of a configuration. Relative paths in it start at `folder`.

        Raises:
            UsageError: The text is no configuration, or states a key that has no effect beside the others.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            raise
        except (ValueError, RecursionError) as exc:
            # tomllib limits neither the depth of brackets nor the digits of a number; Python does.
            raise UsageError(
                f"the configuration cannot be read: {exc}",
                advice=ADVICE,
            ) from exc
        if not isinstance(table.get("network"), dict) or "architecture" not in table["network"]:
            raise UsageError("the configuration names no network", advice='Add [network] architecture = "fpn-small"')
        try:
            found = checked(Tables, table)
        except RefusedTableError as exc:
            raise _refusal(exc, table) from exc
        refuse_idle(table, (*idle_in_loop(found.loop, "loop"), *idle_in_loop(found.folds.loop, "folds.loop")))
        tables = {item.name: getattr(found, item.name) for item in fields(Tables)}
        return cls(**tables, text=text, folder=folder, given=table)


def _refusal(error: RefusedTableError, table: Any) -> UsageError:
    """Return an error whose message names the table, the key, and the type that a value must have."""
    if not error.place:
        return UsageError(
            f"the configuration {error.rule}",
            value=error.value,
            advice=ADVICE,
        )
    kind: Any = Tables
    above: list[str] = []
    for key in map(str, error.place):
        names = get_type_hints(kind)
        if key not in names:
            break
        if kind is NetworkConfig:
            return UsageError(
                f"[{'.'.join(above)}] needs the name of an architecture, and may have a table of options",
                value=table,
                advice=ADVICE,
            )
        table, hint = table.get(key), names[key]
        if not is_dataclass(hint) or len(above) + 1 == len(error.place):
            return _wrong_value(error, f"[{'.'.join(above) or 'top level'}] {key}", hint, table)
        kind = hint
        above.append(key)
    unknown = [str(place[-1]) for place in error.unknown if place[:-1] == error.place[:-1]]
    return UsageError(
        f"unknown keys in [{'.'.join(above) or 'top level'}]",
        value=", ".join(sorted(unknown)),
        advice=f"Choose from {', '.join(sorted(item.name for item in fields(kind)))}",
    )


def _wrong_value(error: RefusedTableError, place: str, hint: Any, value: object) -> UsageError:
    typed = error.rule in RULES.values() and value is not None
    return UsageError(
        f"{place} {f'must be of type {_toml_type(hint)}' if typed else error.rule}",
        value=value,
        advice=ADVICE,
    )


def _toml_type(hint: Any) -> str:
    """Return a type in the words of TOML, like `list of float`."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint) or Any in inner:
        return "table"
    if origin in (tuple, dict):
        return f"{'list' if origin is tuple else 'table'} of {_toml_type(inner[0 if origin is tuple else 1])}"
    return str(hint.__name__)
