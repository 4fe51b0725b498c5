"""The plan of a classical tool: it refines the mask at full size in squares, each with a rim."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.masks.header import digest_of
from magnet_cli.plan import MemoryPlan, host_memory_plan
from magnet_cli.plan.footprint import HEAP

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    from magnet_cli.arithmetic.classical import Tool
    from magnet_cli.images import ImageInfo
    from magnet_cli.masks.spec import FieldSpec
    from magnet_cli.options.values import ValueRange
    from magnet_cli.plan import Machine
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.mask_kinds import Reading

ARITHMETIC = 2
"""Version of the computation, part of the options hash. It is raised by hand whenever the same options begin to give
another mask."""
SIDE = 1024
"""Side of the squares in pixels. It is a constant that no memory budget changes, because the result of a CRF depends on
where the mask is cut."""


@dataclass(frozen=True, kw_only=True)
class SquareSettings:
    """The resolved options on which the mask depends."""

    tool: Tool
    kind: str
    """The interpretation of the mask's values that the user asks for."""
    threshold: Fraction
    objects: tuple[str, ...] = ()
    """Names or indices of the classes that together are the object. If empty, `kind` says what the object is."""
    bands: tuple[str, ...] | None = None
    value_range: ValueRange | None = None

    def describe(self) -> dict[str, object]:
        """Return the settings as JSON values."""
        return {
            **self.tool.describe(),
            "square": SIDE,
            "rim": self.tool.reach,
            "mask_kind": self.kind,
            "threshold": float(self.threshold),
            "object": list(self.objects),
        }

    def line(self, step: SquaresPass) -> str:
        """Return what a pass does, as text."""
        return f"{self.tool.title}: {step.groups} squares of {SIDE} pixels, each with a rim of {step.rim}"

    def digest(self) -> str:
        """Return a SHA-256 over every value that the mask depends on, and `ARITHMETIC`."""
        values = {
            "arithmetic": ARITHMETIC,
            **self.describe(),
            # `describe` rounds the threshold to a float; two that differ by less must not share a journal.
            "exact": str(self.threshold),
            "seen": [self.bands, str(self.value_range)],
        }
        return digest_of(values)


@dataclass(frozen=True, kw_only=True)
class SquaresPass:
    """The only pass: all squares of the mask, row by row."""

    size: Size
    """Size of level 0."""
    rim: int
    """Pixels around a square that are refined with it and then dropped."""
    number: int = 0
    what: str = "squares"

    @property
    def columns(self) -> int:
        """The number of squares in a row."""
        return ceil(self.size.width / SIDE)

    @property
    def groups(self) -> int:
        """The number of squares."""
        return self.columns * ceil(self.size.height / SIDE)

    def box(self, group: int) -> Box:
        """Return a square by its number, cut to level 0."""
        row, column = divmod(group, self.columns)
        return Box(x=column * SIDE, y=row * SIDE, width=SIDE, height=SIDE).intersection(Box.whole(self.size))

    def area(self, box: Box) -> Box:
        """Return a square with its rim, cut to level 0."""
        return box.grown(self.rim).intersection(Box.whole(self.size))

    @property
    def pixels(self) -> int:
        """The most pixels of a square with its rim."""
        side = SIDE + 2 * self.rim
        return min(self.size.width, side) * min(self.size.height, side)


@dataclass(frozen=True, kw_only=True)
class SquarePlan:
    """The plan of a classical tool's run. It implements `MaskPlan`."""

    view: ImageView
    mask: str
    reading: Reading
    settings: SquareSettings
    evidence: Path | None
    """Probabilities that `segment` has kept. None for a run that starts from the mask alone."""
    machine: Machine
    memory: MemoryPlan
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> SquaresPass:
        """The only pass, over all squares."""
        return SquaresPass(size=self.view.info.size, rim=self.settings.tool.reach)

    @property
    def passes(self) -> tuple[SquaresPass, ...]:
        """The passes of the plan: one."""
        return (self.step,)

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields that the journal stores besides labels: none."""
        return ()

    def describe(self) -> dict[str, object]:
        """Return the plan as JSON values, memory and disk in bytes."""
        size = self.view.info.size
        return {
            "schema": 1,
            "image": self.view.info.path,
            "size": {"width": size.width, "height": size.height},
            "mask": self.mask,
            "read_as": self.reading.kind,
            "device": self.machine.device,
            **self.settings.describe(),
            **self.describe_evidence(),
            **self.view.describe(),
            "passes": [{"pass": 1, "what": self.step.what, "groups": self.step.groups}],
            "memory": {"budget": self.memory.budget, "planned": self.memory.total},
            "disk": self.disk(),
            "notes": list(self.notes),
        }

    def describe_evidence(self) -> dict[str, object]:
        """Return the source of the probabilities as JSON values."""
        return {"evidence": "mask" if self.evidence is None else str(self.evidence)}

    def lines(self) -> list[str]:
        """Return what the run does, as lines of text."""
        return [self.settings.line(self.step)]

    def disk(self) -> dict[str, int]:
        """Return upper bounds of the files' sizes in bytes."""
        # Overviews add a third to the pixels of a mask.
        pixels = self.view.info.size.pixels
        return {"mask_at_most": ceil(pixels * 4 / 3), "journal_at_most": pixels}


def square_memory(
    info: ImageInfo,
    settings: SquareSettings,
    machine: Machine,
    *,
    channels: int,
    evidence_bytes: int,
    resident: int,
    workers: int,
) -> MemoryPlan:
    """Plan the memory of a run, which depends on the image's size and not on the content of the mask.

    Args:
        info: The facts of the image.
        settings: The settings of the run.
        machine: The device and the memory of the run.
        channels: The most classes of which a square has probabilities.
        evidence_bytes: Bytes that a pixel takes while its probabilities are read.
        resident: Bytes that the mask keeps between reads.
        workers: The number of reading threads.
    """
    pixels = SquaresPass(size=info.size, rim=settings.tool.reach).pixels
    stored = np.dtype(info.dtype).itemsize * len(info.bands)
    group = pixels * (2 * stored + 12 + 3 + 4 * channels + evidence_bytes)
    base, cache = machine.base + HEAP, info.resident_bytes + resident
    compute = pixels * settings.tool.bytes_a_pixel(channels)
    # With workers one result is computed while the writer stores another.
    output = (1 + bool(workers)) * SIDE * SIDE * 4
    return host_memory_plan(
        machine.memory, base=base, cache=cache, compute=compute, group=group, output=output, readers=workers
    )
