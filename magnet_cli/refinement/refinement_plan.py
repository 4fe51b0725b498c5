"""The plan of a cascade's run: the objects of the mask, the passes that refine them, their grids, and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.arithmetic.cascade.carry import CHANNELS
from magnet_cli.arithmetic.cascade.pyramid import CascadeLevel, LevelPart, cascade_levels, level_parts, spans
from magnet_cli.arithmetic.cascade.steps import CascadeSettings
from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.masks.header import digest_of
from magnet_cli.masks.spec import FieldSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.images import ImageInfo
    from magnet_cli.options.values import ValueRange
    from magnet_cli.plan import Machine, MemoryPlan
    from magnet_cli.refinement.census import Census, LargeObject
    from magnet_cli.refinement.evidence import Evidence
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.mask_kinds import Reading

ARITHMETIC = 5
"""Version of the computation, part of the options hash. It is raised by hand whenever the same options begin to give
another mask."""
UNIT_SIDES = 4
"""Side, in L, of the largest region that is held as a whole. Larger objects are refined level by level, which gives
another result, so no memory budget changes this number."""
BLOCK_SIDES = 2
"""The most L between the first window of a block of a large object's level and the last, along either axis. So a block
covers at most nine squares of side L, and less than the largest region that is held as a whole."""
SHARED = 2
"""Channels of a level that are kept of blocks which share pixels: the outputs of strides 4 and 1."""
SQUARE = 1024
"""Side in pixels of the squares of level 0 in which masks are read and claims are joined."""
BYTES_A_PIXEL = 60
"""Host memory in bytes that a pixel takes while its region is computed: image, masks and sums, and copies of them."""


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """The resolved options on which the mask depends."""

    bands: tuple[str, ...] | None = None
    side: int
    fast: bool
    compat: str
    kind: str
    """The interpretation of the mask's values that the user asks for. The result of `auto` depends on the mask alone,
    which is hashed by itself."""
    threshold: Fraction
    stuff: tuple[str, ...]
    """Names or indices of classes whose claims count 0.51 times."""
    min_area: int
    padding: Fraction
    objects: tuple[str, ...] = ()
    """Names or indices of the classes that together are the object. If empty, `kind` says what the object is."""
    only: tuple[str, ...] = ()
    """Names or indices of the classes whose objects are refined. If empty, objects of all classes are."""
    value_range: ValueRange | None = None

    @property
    def unit(self) -> int:
        """Most pixels of a region that is held as a whole."""
        return (UNIT_SIDES * self.side) ** 2

    @property
    def cascade(self) -> CascadeSettings:
        """The settings of the cascade for one region."""
        return CascadeSettings(side=self.side, fast=self.fast, published=self.compat == "published")

    def describe(self) -> dict[str, object]:
        """Return the settings as JSON values."""
        return {
            "L": self.side,
            "fast": self.fast,
            "compat": self.compat,
            "mask_kind": self.kind,
            "threshold": float(self.threshold),
            "object": list(self.objects),
            "only": list(self.only),
            "stuff": list(self.stuff),
            "min_area": self.min_area,
            "padding": float(self.padding),
        }


@dataclass(frozen=True, kw_only=True)
class NumberedPass:
    """A pass of a plan."""

    number: int
    """The number of the pass, 0 being the first."""


@dataclass(frozen=True, kw_only=True)
class ObjectsPass(NumberedPass):
    """The pass over objects that are held as a whole. Each object is a group."""

    groups: int
    """The number of objects."""

    @property
    def what(self) -> str:
        """The kind of work, for progress messages."""
        return "objects"


@dataclass(frozen=True, kw_only=True)
class SharesPass(NumberedPass):
    """The pass that reads the mask of a large object in squares, for the grids of its levels."""

    label: int
    region: Box
    """The region of the object on level 0. Its corner lies on all grids."""
    pitches: tuple[int, ...]
    """Pitches of the grids, powers of two, in level-0 pixels."""

    @property
    def side(self) -> int:
        """The side of the squares. It is a multiple of every pitch, so that no coarser pixel lies in two squares."""
        return max(SQUARE, *self.pitches)

    @property
    def size(self) -> Size:
        """The size of the region."""
        return self.region.size

    @property
    def blocks(self) -> tuple[Box, ...]:
        """The squares on level 0, counted from the region's corner, row by row."""
        return tuple(squares(self.size, self.side))

    @property
    def groups(self) -> int:
        """The number of squares."""
        return count_squares(self.size, self.side)

    @property
    def what(self) -> str:
        """The kind of work, for progress messages."""
        return f"large object of class {self.label}, its mask"

    def field(self, pitch: int) -> str:
        """Return the name of a grid's field in the journal."""
        return share_name(self.label, pitch)

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields of the shares: one for each grid."""
        grids = ((pitch, Pitch.square(pitch)) for pitch in self.pitches)
        return tuple(
            FieldSpec(name=self.field(pitch), bands=1, size=grid.cover(self.size), pitch=grid, dtype="uint8")
            for pitch, grid in grids
        )


@dataclass(frozen=True, kw_only=True)
class LevelPass(NumberedPass):
    """The pass over one level of a large object, in blocks. The first level is one block."""

    label: int
    region: Box
    """The region of the object on level 0. Its corner lies on the grids of all levels but the first."""
    levels: tuple[CascadeLevel, ...]
    index: int
    """The number of the level in `levels`."""
    side: int
    """L, the side of a window in pixels."""
    fast: bool = False
    """Whether only the global step runs, whose result is then enlarged."""

    @property
    def level(self) -> CascadeLevel:
        """The level of this pass."""
        return self.levels[self.index]

    @property
    def is_last(self) -> bool:
        """Whether the level is the finest, whose result claims pixels of level 0."""
        return self.index == len(self.levels) - 1

    @property
    def has_windows(self) -> bool:
        """Whether the level is computed in windows, not as a whole, and not copied from the level before."""
        return self.index > 0 and not self.fast

    @cached_property
    def parts(self) -> tuple[tuple[LevelPart, ...], ...]:
        """The blocks of a level with windows, `[row][column]`."""
        return tuple(tuple(row) for row in level_parts(self.level, side=self.side, reach=BLOCK_SIDES))

    def part(self, group: int) -> LevelPart:
        """Return a block of a level with windows by its number, row by row."""
        row, column = divmod(group, len(self.parts[0]))
        return self.parts[row][column]

    @property
    def blocks(self) -> tuple[Box, ...]:
        """The pixels that each block computes, row by row; blocks with windows have some in common."""
        if self.index == 0:
            return (Box.whole(self.level.size),)
        if self.fast:
            return tuple(squares(self.level.size, BLOCK_SIDES * self.side))
        return tuple(part.box for row in self.parts for part in row)

    @property
    def groups(self) -> int:
        """The number of blocks."""
        if self.index == 0:
            return 1
        if self.fast:
            return count_squares(self.level.size, BLOCK_SIDES * self.side)
        return len(self.parts) * len(self.parts[0])

    @property
    def windows(self) -> int:
        """The number of windows of the level, each of which belongs to one block."""
        if not self.has_windows:
            return int(self.index == 0)
        return len(spans(self.level.size.height, side=self.side)) * len(spans(self.level.size.width, side=self.side))

    @cached_property
    def before(self) -> LevelPass:
        """The level from which this one starts. The first has none."""
        return replace(self, index=self.index - 1)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the fields in which the journal keeps the level; blocks of one field have no pixel in common."""
        return tuple(dict.fromkeys(self.layer(group) for group in range(self.groups)))

    def layer(self, group: int) -> str:
        """Return the name of the field in which the journal keeps a block."""
        name = f"object{self.label}-level{self.index + 1}"
        if not self.has_windows:
            return name
        row, column = divmod(group, len(self.parts[0]))
        # The blocks beside one have pixels in common with it; those next but one have none.
        return f"{name}-{row % 2}{column % 2}"

    @property
    def channels(self) -> int:
        """The number of channels that are kept of each pixel.

        Of the last level it is the probability of the finest scale alone, because no level starts from it. Which pixels
        a level has changed follows from all of its blocks; where it has one block, the block keeps that as well.
        """
        if self.is_last:
            return 1
        return SHARED if self.has_windows else CHANNELS

    @property
    def stored(self) -> int:
        """The number of values that the journal keeps of the level."""
        return self.channels * sum(box.area for box in self.blocks)

    def shares(self, layer: str, box: Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the shares that the blocks of a layer have in the rows and in the columns of a box of the level.

        The share in a pixel is their product; those of all layers sum to one.
        """
        if not self.has_windows:
            return np.ones(box.height, np.float32), np.ones(box.width, np.float32)
        row, column = int(layer[-2]), int(layer[-1])
        down = [part.shares(box)[0] for part, *_ in self.parts[row::2]]
        across = [part.shares(box)[1] for part in self.parts[0][column::2]]
        return np.sum(down, axis=0, dtype=np.float32), np.sum(across, axis=0, dtype=np.float32)

    @property
    def what(self) -> str:
        """The kind of work, for progress messages."""
        return f"large object of class {self.label}, level {self.index + 1} of {len(self.levels)}"

    @property
    def reading(self) -> int:
        """The pitch at which image and mask are read: the level's, or for the first the next finer power of two."""
        return 1 << int(self.level.pitch.x).bit_length() - 1

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields of the level."""
        return tuple(
            FieldSpec(name=name, bands=self.channels, size=self.level.size, pitch=self.level.pitch, dtype="uint8")
            for name in self.layers
        )

    def on_image(self, box: Box) -> Box:
        """Move a box from the region's grid of pitch `reading` to the image's grid of that pitch."""
        return box.shifted(x=self.region.x // self.reading, y=self.region.y // self.reading)


@dataclass(frozen=True, kw_only=True)
class FusionPass(NumberedPass):
    """The last pass, which joins the claims of all objects in squares of level 0."""

    size: Size

    @property
    def blocks(self) -> tuple[Box, ...]:
        """The squares on level 0, row by row."""
        return tuple(squares(self.size, SQUARE))

    @property
    def groups(self) -> int:
        """The number of squares."""
        return count_squares(self.size, SQUARE)

    @property
    def what(self) -> str:
        """The kind of work, for progress messages."""
        return "joining"


RefinePass = ObjectsPass | SharesPass | LevelPass | FusionPass


@dataclass(frozen=True, kw_only=True)
class RefinePlan:
    """The plan of a cascade's run over one image and its mask. It implements `MaskPlan`."""

    view: ImageView
    mask: str
    """The path of the mask."""
    reading: Reading
    settings: RefineSettings
    stuff: tuple[int, ...]
    """Classes whose claims count 0.51 times (CascadePSP, section 4.4)."""
    evidence: Evidence | None
    """Probabilities from which pixels that an object loses get their next class. None keeps their old class."""
    kept: Path | None
    """The path of these probabilities."""
    census: Census
    passes: tuple[RefinePass, ...]
    machine: Machine
    memory: MemoryPlan
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> ImageInfo:
        """The facts of the image."""
        return self.view.info

    @property
    def is_binary(self) -> bool:
        """Whether the mask has one class of objects and a background."""
        return self.reading.kind != "labels"

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields that the journal stores besides labels: masks and levels of large objects, and claims by class."""
        found = (entry for step in self.passes if isinstance(step, LevelPass | SharesPass) for entry in step.fields)
        claims = (
            FieldSpec(
                name=claims_name(label), bands=1, size=self.image.size, pitch=LEVEL0, dtype="uint8", join="largest"
            )
            for label in self.census.labels
        )
        return (*found, *claims)

    def describe(self) -> dict[str, object]:
        """Return the plan as JSON values: boxes at level 0, memory and disk in bytes."""
        memory = self.memory
        return {
            "schema": 1,
            "image": self.image.path,
            "size": {"width": self.image.size.width, "height": self.image.size.height},
            "mask": self.mask,
            "read_as": self.reading.kind,
            "device": self.machine.device,
            "precision": self.machine.precision,
            "engine": self.machine.engine,
            **self.settings.describe(),
            **self.describe_evidence(),
            **self.view.describe(),
            "objects": self.describe_objects(),
            "passes": [
                {"pass": step.number + 1, "what": step.what, "groups": step.groups, **_windows(step)}
                for step in self.passes
            ],
            "memory": {
                "budget": memory.budget,
                "planned": memory.total,
                "device_budget": memory.device_budget,
                "device_planned": memory.device,
            },
            "disk": self.disk(),
            "notes": list(self.notes),
        }

    def describe_evidence(self) -> dict[str, object]:
        """Return the source of probabilities for pixels that objects lose, as JSON values."""
        return {"evidence": "mask" if self.kept is None else str(self.kept)}

    def lines(self) -> list[str]:
        """Return what the run does, as lines of text."""
        small, left = self.census.small, self.census.left
        large = sum(each.objects for each in self.census.large.values())
        return [f"{self.census.found} objects: {small} one by one, {large} level by level, {left} left as they are"]

    def describe_objects(self) -> dict[str, object]:
        """Return the objects of the mask as JSON values."""
        classes = self.reading.classes
        return {
            "found": self.census.found,
            "refined": self.census.small,
            "left": self.census.left,
            "large": [
                {
                    "class": classes[each.label].name,
                    "objects": each.objects,
                    "pixels": each.area,
                    "box": [each.box.x, each.box.y, each.box.width, each.box.height],
                }
                for each in self.census.large.values()
            ],
        }

    def disk(self) -> dict[str, int]:
        """Return upper bounds of the files' sizes in bytes."""
        pixels = self.image.size.pixels
        regions = sum(self.census.region(self.census.at(number).box).area for number in range(self.census.small))
        levels = sum(step.stored for step in self.passes if isinstance(step, LevelPass))
        shares = sum(entry.size.pixels for step in self.passes if isinstance(step, SharesPass) for entry in step.fields)
        return {"mask_at_most": ceil(pixels * 4 / 3), "journal_at_most": pixels + regions + levels + shares}

    def last_level(self, label: int) -> LevelPass | None:
        """Return the finest level of the large objects of a class; None where there are none."""
        steps = (step for step in self.passes if isinstance(step, LevelPass) and step.label == label and step.is_last)
        return next(steps, None)


def claims_name(label: int) -> str:
    """Return the name of the field that holds the claims of a class."""
    return f"claims{label}"


def share_name(label: int, pitch: int) -> str:
    """Return the name of the field that holds the mask of a large object on a coarser grid."""
    return f"object{label}-share{pitch}"


def _windows(step: RefinePass) -> dict[str, int]:
    return {"windows": step.windows} if isinstance(step, LevelPass) else {}


def squares(size: Size, side: int) -> Iterator[Box]:
    """Yield squares that tile a size, row by row. The last ones may be smaller."""
    for y in range(0, size.height, side):
        for x in range(0, size.width, side):
            yield Box(x=x, y=y, width=side, height=side).intersection(Box.whole(size))


def count_squares(size: Size, side: int) -> int:
    """Return how many squares tile a size, without making them."""
    return ceil(size.width / side) * ceil(size.height / side)


def make_passes(census: Census, settings: RefineSettings) -> tuple[RefinePass, ...]:
    """Return the passes of a run in the order in which they follow one another.

    Raises:
        UsageError: The published arithmetic is asked for, and an object is too large to be held as a whole.
    """
    passes: list[RefinePass] = [ObjectsPass(number=0, groups=census.small)]
    for label in sorted(census.large):
        large = census.large[label]
        # The published program has no levels that are divided into blocks.
        if settings.compat == "published":
            raise UsageError(
                "the published arithmetic holds an object as a whole",
                value=f"an object of {large.box.width} x {large.box.height} pixels",
                advice="Use --compat paper, or a larger --L",
            )
        passes += _large_passes(census, large, settings, first=len(passes))
    return (*passes, FusionPass(number=len(passes), size=census.size))


def _large_passes(census: Census, large: LargeObject, settings: RefineSettings, *, first: int) -> list[RefinePass]:
    """Return the passes of a large object, numbered from `first`: its mask on coarser grids, then level after level."""
    region, levels = _levels(census, large, settings)
    steps = [
        LevelPass(
            number=first + 1 + index,
            label=large.label,
            region=region,
            levels=levels,
            index=index,
            side=settings.side,
            fast=settings.fast,
        )
        for index in range(len(levels))
    ]
    pitches = tuple(sorted({step.reading for step in steps if step.reading > 1}))
    return [SharesPass(number=first, label=large.label, region=region, pitches=pitches), *steps]


def _levels(census: Census, large: LargeObject, settings: RefineSettings) -> tuple[Box, tuple[CascadeLevel, ...]]:
    """Return the levels of a large object and its region, whose corner lies on the grid of the second level."""
    region = census.region(large.box)
    # The step depends on the region, which moving the corner may make larger: the next power of two serves both.
    step = 1
    while step * settings.side < max(region.width, region.height):
        step *= 2
    region = Box.between(
        left=region.x // step * step, top=region.y // step * step, right=region.right, bottom=region.bottom
    )
    levels = cascade_levels(region.size, side=settings.side)
    return region, (levels[0], levels[-1]) if settings.fast else levels


def options_hash(settings: RefineSettings, machine: Machine) -> str:
    """Return a SHA-256 over every resolved value that the mask depends on, and `ARITHMETIC`."""
    values = {
        # Both sizes determine how objects are divided, and with that the result.
        "arithmetic": [ARITHMETIC, UNIT_SIDES, BLOCK_SIDES],
        **settings.describe(),
        # `describe` rounds both to floats; values that differ by less must not share a journal.
        "exact": [str(settings.threshold), str(settings.padding)],
        "seen": [settings.bands, str(settings.value_range)],
        "device": machine.kind,
        "precision": machine.precision,
        # Masks of PyTorch keep the hash that they had when there was no other engine.
        **({} if machine.engine == "torch" else {"engine": machine.engine}),
    }
    return digest_of(values)


def check_memory(memory: MemoryPlan, image: str, *, advice: str = "") -> None:
    """Compare the planned memory with its budgets.

    Raises:
        DeviceError: A budget is too small. The message names what is needed.
    """
    for name, needed, budget in (
        ("host", memory.total, memory.budget),
        ("device", memory.device, memory.device_budget),
    ):
        if budget is not None and needed > budget:
            option = "--memory" if name == "host" else "--gpu-memory"
            raise DeviceError(
                f"the run needs at least {ceil(needed / (1 << 20))}MiB of {name} memory",
                value=f"{option} {budget >> 20}MiB",
                file=image,
                advice=f"Raise {option}{advice}",
            )
