"""The configuration of a training, as a TOML file says it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

from magnet_cli.errors import UsageError
from magnet_cli.models.schema import RULES, STRICT, FieldRule, RefusedTableError, checked
from magnet_cli.system.memory import parse_bytes

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
    """Whether numbers rise, and lie between 0 and 1."""
    return all(low < high for low, high in pairwise((0, *shares, 1)))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where scenes lie below the data folder, and how they are drawn from.

    A scene is one picture of any size with its label map, both of any kind that `magnet_cli.images` reads, the picture
    of 8 bits a band; where it has no data, nothing is learnt. In a folder without `scenes`, each file of the subfolder
    `images` is one, and its label is the file of the same stem in `labels`. With `scenes`, each name is a subfolder
    that has `images` and `labels`, and each of its files a scene, `subfolder/stem`; with `grid` its files, sorted by
    name, are adjacent crops of one picture, row by row.

    In a CSV file each line is a scene: `image`, `label`, and if need be `name` (else the picture's stem), `roi`, a
    raster of the picture's size, where whose first band is 0 nothing is learnt, and `mask`, class indices that
    something else found in the picture, which a cascade learns to sharpen. Paths are relative to the file's folder.
    `scenes` then picks lines by name, so that one file serves every split.
    """

    images: str = "images"
    labels: str = "labels"
    scenes: tuple[str, ...] = ()
    """Names, in the order in which they count; empty: everything there is."""
    validation: tuple[str, ...] = ()
    """Scenes of those that are taken out of training and validated on, by name."""
    grid: Annotated[tuple[int, int] | None, FieldRule("is two numbers, rows and columns")] = None
    """Rows and columns; of folders only."""
    ignore: int = 255
    """The label that says nothing: neither loss, class weights nor scores count its pixels."""
    label_values: dict[str, int] = field(default_factory=dict)
    """Class meant by a stored value of the label maps, where it differs: `{ 255 = 1 }`. Applied before `roi`."""
    jitter: float = 1.4
    """A drawn window is up to this factor larger or smaller than one of the bundle's scales."""
    colour: float = 1.0
    """Strength of the random changes of colour; 0 is none."""
    rare: float = 0.0
    """Share of the windows that are drawn for a class: each of those takes a class at random, every class alike, and
    the one of eight random windows that has the most of it. It gives rare classes their share of a training."""
    border: int = 0
    """Pixels of the network's input on either side of a border between two classes that teach nothing. Labels are drawn
    by hand, and their borders are where hands differ."""
    memory: str = "2GiB"
    """Scenes that decoded take no more than this together are held in memory; else windows are read from disk, and
    decoded tiles of the images take this much at most. The windows drawn are the same, and their pixels too where the
    levels that an image stores are means of 2 x 2 finer pixels, all with data."""

    def __post_init__(self) -> None:
        for stored, label in self.label_values.items():
            if not (stored.isdecimal() and int(stored) in BYTES and label in BYTES):
                raise UsageError(
                    "[data] label_values maps stored values to classes, both from 0 to 255", value=f"{stored} = {label}"
                )
        parse_bytes(self.memory, option="[data] memory")
        for key, what, holds in (
            ("rare", "from 0 to 1", 0 <= self.rare <= 1),
            ("border", f"from 0 to {MOST_BORDER}", 0 <= self.border <= MOST_BORDER),
        ):
            if not holds:
                raise UsageError(f"[data] {key} must be {what}", value=getattr(self, key))
        if self.grid is not None and min(self.grid) < 1:
            raise UsageError("[data] grid is two numbers, rows and columns", value=self.grid)

    @property
    def values(self) -> dict[int, int]:
        """`label_values` by numbers."""
        return {int(stored): label for stored, label in self.label_values.items()}


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a network is fitted."""

    iterations: int = 5000
    batch: int = 12
    loss: str = "cross-entropy"
    """`cross-entropy`, or `focal` (Lin et al. 2017, equation 5, over softmax). Cross-entropy is the default because it
    is a proper score: its minimum is the true probability. A loss that bends probabilities, as the focal one does,
    bends the certainty that decides where a run looks closer and which map it believes."""
    focal_gamma: float = 2.0
    """How much the focal loss leaves out what is right already; 0 is cross-entropy."""
    smoothing: float = 0.0
    """Share of a label's weight that cross-entropy gives to all classes alike (Szegedy et al. 2016, section 7), for
    labels some of which are wrong."""
    rate: float = 2e-3
    """Highest learning rate, reached along a line at the end of `warmup`."""
    encoder_rate: float = 1.0
    """The learning rate of the encoder as a share of `rate`. An encoder that begins with weights of other images needs
    a lower one than the layers that begin at random."""
    warmup: float = 0.05
    """Share of the iterations."""
    schedule: str = "cosine"
    """What follows: `cosine`, down to zero; or `step`, times `step_factor` at each of `steps`."""
    steps: tuple[float, ...] = (0.6, 0.8)
    """Shares of the iterations."""
    step_factor: float = 0.1
    optimizer: str = "adamw"
    """`adamw`; or `adam`, or `sgd`, stochastic gradient descent: their decay is part of the gradient."""
    momentum: float = 0.9
    """The momentum of `sgd`."""
    decay: float = 0.02
    """Weight decay."""
    average: float = 0.998
    """Momentum of the running average of the weights, which is what the bundle gets."""
    balance: float = 0.5
    """Classes are weighted by their share to the power of minus this; 0 weighs every pixel alike."""
    precision: str = "float32"
    """`float32`, or by autocast `bfloat16` or `float16` (CUDA only, with the loss scaled)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`; `auto` is the first GPU, or the CPU where there is none. A CPU repeats a training
    bit for bit; a GPU adds up in no fixed order."""
    seed: int = 0
    """Initial weights and windows are functions of it."""
    threads: int = 0
    """Threads within operations; 0 leaves them as they are."""
    validate_every: int = 0
    """Iterations from one look at the scenes of [data] validation to the next, the last iteration included; 0 is never.
    The bundle gets the averaged weights of the best look, by mean IoU."""
    patience: int = 0
    """Training stops after this many validations in a row without a better mean IoU; 0 is never."""
    log_every: int = 50
    """Iterations from one line of the log to the next; each gives the mean loss since the one before."""
    save_every: int = 500
    """Iterations from one checkpoint to the next."""

    def __post_init__(self) -> None:
        for key, what, holds in (
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
            ("smoothing", "0 where loss is focal", not self.smoothing or self.loss == "cross-entropy"),
            ("schedule", "cosine or step", self.schedule in {"cosine", "step"}),
            ("steps", "shares that rise, between 0 and 1", rises(self.steps)),
            ("optimizer", "adamw, adam or sgd", self.optimizer in {"adamw", "adam", "sgd"}),
            ("momentum", "at least 0 and below 1", 0 <= self.momentum < 1),
            ("step_factor", "above 0 and at most 1", 0 < self.step_factor <= 1),
            ("precision", "float32, bfloat16 or float16", self.precision in {"float32", "bfloat16", "float16"}),
            ("device", "auto, cpu, cuda, cuda:N or mps", DEVICE.fullmatch(self.device)),
        ):
            if not holds:
                raise UsageError(f"in a loop, {key} must be {what}", value=getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network."""

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    encoder_weights: str = ""
    """What the encoder begins with: a file of weights (`.pth` or `.safetensors`, relative to the configuration),
    `package:NAME` for an installed Python package that holds one, or `timm:TAG` for weights that timm downloads.
    Empty: random weights."""

    def refuse_encoder_weights(self, *, trained: str) -> None:
        """Refuse `encoder_weights` where the network that is trained takes none.

        Raises:
            UsageError: They are given.
        """
        if self.encoder_weights:
            raise UsageError(
                f"encoder_weights are for backbones and GRNets, and {trained} begins at random",
                value=self.encoder_weights,
                advice="Remove the key.",
            )


@dataclass(frozen=True, kw_only=True)
class FoldsConfig:
    """How fields are made of scenes that the backbone behind them has not seen."""

    held_out: Annotated[tuple[tuple[str, ...], ...], FieldRule('is a list of lists of scenes, as [["a"], ["b"]]')] = ()
    """Scenes of each fold; a backbone is fitted on all others. Empty: the bundle's own backbone looks at all."""
    backbones: tuple[str, ...] = ()
    """A bundle's folder for each fold, which has not seen the fold's scenes; its backbone looks at them, and none is
    fitted. Relative to the configuration's folder."""
    accumulate: bool = True
    """A stage refines what the stages below it made; false, as the published program trains: the coarsest stage's O."""
    rounds: int = 1
    """After the fit to fields that were accumulated by the mean: fits to fields that the refiner itself accumulated."""
    per_scale: bool = False
    """One refiner for each refining scale, as in the paper; false: one for all."""
    temperatures: bool = True
    """Fit a temperature of the backbone and of the refiner for each scale."""
    cross: bool = False
    """Score the refiner, and fit its temperatures, with refiners that were fitted without the fold they look at."""
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
                raise UsageError(f"[folds] {rule}", value=value)


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """What a cascade learns from; the defaults are CascadePSP's (sections 3.1, 3.3 and 4.2) where the paper has any.

    The losses are the paper's too: `loss` and `balance` of [loop] do not count.
    """

    crop: int = 224
    """Rows and columns of a window as the network sees it."""
    scales: tuple[int, ...] = (224,)
    """Sides of windows at level 0, each as likely as the others; [data] jitter makes them larger and smaller."""
    classes: tuple[int, ...] = ()
    """Those whose objects are learnt from; empty: all."""
    pieces: float = 0.5
    """Probability that an object is one connected piece of a class in the window, instead of all of it."""
    smallest: int = 64
    """Pixels of an object in the window at least, and of what lies around it."""
    iou: Annotated[tuple[float, float], FieldRule("must be two numbers")] = (0.8, 1.0)
    """Least IoU of a wrong mask with the truth, and the largest that is aimed at."""
    coarse: float = 0.0
    """Probability that a wrong mask is enlarged from a smaller one, instead of made of a contour's vertices."""
    shrink: float = 8.0
    """Most that such a mask is smaller by."""
    masks: float = 0.0
    """Probability that the wrong mask is what something else found, in a scene that has such a mask."""
    dropped: float = 0.0
    """Largest share of a wrong mask's connected pieces that are left out, though they belong to the object: what is to
    be sharpened is then a part of what is there."""
    soft: float = 0.0
    """Probability that a wrong mask is unsure, as a coarser level of a refinement leaves it."""
    gradient: float = 5.0
    """Weight of the loss on gradient magnitudes."""
    finest: float = 0.0
    """Weight of the cross-entropy of stride 1 beside its L1 + L2; the paper has none there."""
    cut: float = 0.5
    """Probability of the trained network that the bundle takes for one half. The losses on distances and gradients have
    it leave out what it is unsure of; a lower cut takes some of it back."""
    windows: int = 64
    """Drawn from the scenes of [data] validation, the same ones each time."""

    def __post_init__(self) -> None:
        for key, what, holds in (
            ("crop", f"a multiple of {STRIDE}, at least {STRIDE}", self.crop >= STRIDE and self.crop % STRIDE == 0),
            ("scales", "at least 1, and one or more of them", min(self.scales, default=0) >= 1),
            ("pieces", "from 0 to 1", 0 <= self.pieces <= 1),
            ("smallest", "at least 1", self.smallest >= 1),
            ("iou", "two numbers that rise, above 0 and at most 1", 0 < self.iou[0] <= self.iou[1] <= 1),
            ("coarse", "from 0 to 1", 0 <= self.coarse <= 1),
            ("shrink", "at least 1", self.shrink >= 1),
            ("masks", "from 0 to 1", 0 <= self.masks <= 1),
            ("dropped", "from 0 to 1", 0 <= self.dropped <= 1),
            ("soft", "from 0 to 1", 0 <= self.soft <= 1),
            ("gradient", "at least 0", self.gradient >= 0),
            ("finest", "at least 0", self.finest >= 0),
            ("cut", "above 0 and below 1", 0 < self.cut < 1),
            ("windows", "at least 1", self.windows >= 1),
        ):
            if not holds:
                raise UsageError(f"[cascade] {key} must be {what}", value=getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class SelectorConfig:
    """What a selector for the windows of a bundle learns."""

    labels: str = "paper"
    """`paper`: cells that a backbone does worse in than in the whole window. `gain`: how much better the mask gets by
    computing a window, from fields of scenes that the backbone behind them has not seen ([folds] held_out)."""
    minimum: float = 0.0
    """A class that covers less than this share of an area does not count in its mean IoU, for `paper`. The paper has
    none."""

    def __post_init__(self) -> None:
        for key, what, holds in (
            ("labels", "paper or gain", self.labels in {"paper", "gain"}),
            ("minimum", "at least 0 and below 0.5", 0 <= self.minimum < MOST_MINIMUM),
            ("minimum", "0 where labels is gain", not self.minimum or self.labels == "paper"),
        ):
            if not holds:
                raise UsageError(f"[selector] {key} must be {what}", value=getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class GRNetConfig:
    """What a GRNet is beside its global branch, and how its parts take turns.

    `[loop] iterations` counts everything: first those of the global branch alone, then rounds of `selecting` and
    `refining`, as many as there is room for.
    """

    selector: NetworkConfig = field(default_factory=lambda: NetworkConfig(architecture="ppn-resnet18"))
    local: NetworkConfig = field(default_factory=lambda: NetworkConfig(architecture="grnet-resnet18"))
    cells: int = 4
    """Cells a side that an image is cut into."""
    fusion: str = "literal"
    """`literal`: at the global branch's resolution, as the paper has it; or `detail`: at the cells'."""
    variant: str = "selected"
    """`selected`, or `all`: every cell is refined and no selector is trained ("EnhanceNet")."""
    alone: int = 500
    """Iterations of the global branch alone."""
    selecting: int = 50
    """Iterations of the selector in each round."""
    refining: int = 50
    """Iterations of everything else in each round."""

    def __post_init__(self) -> None:
        for key, what, holds in (
            ("cells", "at least 2", self.cells >= PAIR),
            ("fusion", "literal or detail", self.fusion in {"literal", "detail"}),
            ("variant", "selected or all", self.variant in {"selected", "all"}),
            ("alone", "at least 0", self.alone >= 0),
            ("selecting", "at least 1", self.selecting >= 1),
            ("refining", "at least 1", self.refining >= 1),
        ):
            if not holds:
                raise UsageError(f"[grnet] {key} must be {what}", value=getattr(self, key))
        for part in (self.selector, self.local):
            if given := sorted({"cells", "fusion"} & set(part.options)):
                raise UsageError("[grnet] itself says how images are cut", value=f"{part.architecture}: {given}")
        if self.selector.options.get("sees", "image") != "image":
            raise UsageError("[grnet] selector sees the image alone", value=self.selector.options["sees"])


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a configuration: `[bundle]`, `[data]`, `[network]`, `[loop]`, `[folds]` and those of one kind."""

    __pydantic_config__ = STRICT

    network: NetworkConfig
    bundle: dict[str, Any] = field(default_factory=dict)
    """What bundle.json says beside the networks, in its own words; needed for a backbone."""
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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Tables):
    """A whole training."""

    text: str = ""
    """The file as it was read; kept in the bundle as train.toml."""
    folder: Path = Path()
    """Where the file lies."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            UsageError: The file is missing or no TOML, a key is unknown, or a value has the wrong type.
        """
        try:
            text = path.read_text(encoding="utf-8")
            return cls.parse(text, folder=path.parent)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise UsageError(f"the configuration cannot be read: {exc}", file=path) from exc

    @classmethod
    def parse(cls, text: str, *, folder: Path = Path()) -> Self:
        """The configuration that a TOML text describes; relative paths in it begin in `folder`."""
        table = tomllib.loads(text)
        if not isinstance(table.get("network"), dict) or "architecture" not in table["network"]:
            raise UsageError("the configuration names no network", advice='Add [network] architecture = "fpn-small"')
        try:
            found = checked(Tables, table)
        except RefusedTableError as exc:
            raise _refusal(exc, table) from exc
        return cls(**{item.name: getattr(found, item.name) for item in fields(Tables)}, text=text, folder=folder)


def _refusal(error: RefusedTableError, table: Any) -> UsageError:
    """The error as a message that names the table, the key, and the type that a value must have."""
    if not error.place:
        return UsageError(f"the configuration {error.rule}", value=error.value)
    kind: Any = Tables
    above: list[str] = []
    for key in map(str, error.place):
        names = get_type_hints(kind)
        if key not in names:
            break
        if kind is NetworkConfig:
            return UsageError(f"[{'.'.join(above)}] is an architecture's name and a table of options", value=table)
        table, hint = table.get(key), names[key]
        if not is_dataclass(hint) or len(above) + 1 == len(error.place):
            return _wrong_value(error, f"[{'.'.join(above) or 'top level'}] {key}", hint, table)
        kind = hint
        above.append(key)
    unknown = [str(place[-1]) for place in error.unknown if place[:-1] == error.place[:-1]]
    return UsageError(
        f"unknown keys in [{'.'.join(above) or 'top level'}]",
        value=", ".join(sorted(unknown)),
        advice=f"Known: {sorted(item.name for item in fields(kind))}",
    )


def _wrong_value(error: RefusedTableError, place: str, hint: Any, value: object) -> UsageError:
    typed = error.rule in RULES.values() and value is not None
    return UsageError(f"{place} {f'must be of type {_toml_type(hint)}' if typed else error.rule}", value=value)


def _toml_type(hint: Any) -> str:
    """A type as TOML's users know it: `list of float`."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint) or Any in inner:
        return "table"
    if origin in (tuple, dict):
        return f"{'list' if origin is tuple else 'table'} of {_toml_type(inner[0 if origin is tuple else 1])}"
    return str(hint.__name__)
