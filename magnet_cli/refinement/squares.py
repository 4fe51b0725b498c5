"""The plan of a classical tool: squares of the mask at full size, each looked at with a rim."""

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
    from magnet_cli.refinement.image_view import Seen
    from magnet_cli.refinement.mask_kinds import Reading

ARITHMETIC = 2
"""Raised by hand when the same options begin to give another mask; part of the options hash."""
SIDE = 1024
"""Of the squares. Part of the method, never of the memory at hand: what a CRF says depends on where it is cut."""


@dataclass(frozen=True, kw_only=True)
class SquareSettings:
    """The options on which a mask depends, all of them resolved."""

    tool: Tool
    kind: str
    """How the mask is to be read, as it was asked for."""
    threshold: Fraction
    objects: tuple[str, ...] = ()
    """Names or indices of the classes that are the object together; none: as the mask's kind says."""
    bands: tuple[str, ...] | None = None
    value_range: ValueRange | None = None

    def describe(self) -> dict[str, object]:
        """As JSON values."""
        return {
            **self.tool.describe(),
            "square": SIDE,
            "rim": self.tool.reach,
            "mask_kind": self.kind,
            "threshold": float(self.threshold),
            "object": list(self.objects),
        }

    def line(self, step: SquaresPass) -> str:
        """For people."""
        return f"{self.tool.title}: {step.groups} squares of {SIDE} pixels, each with a rim of {step.rim}"

    def digest(self) -> str:
        """SHA-256 over every value that the mask depends on, and `ARITHMETIC`."""
        values = {
            "arithmetic": ARITHMETIC,
            **self.describe(),
            "exact": str(self.threshold),
            "seen": [self.bands, str(self.value_range)],
        }
        return digest_of(values)


@dataclass(frozen=True, kw_only=True)
class SquaresPass:
    """All squares, row by row."""

    size: Size
    """Of level 0."""
    rim: int
    number: int = 0
    what: str = "squares"

    @property
    def columns(self) -> int:
        """Squares in a row."""
        return ceil(self.size.width / SIDE)

    @property
    def groups(self) -> int:
        """Squares."""
        return self.columns * ceil(self.size.height / SIDE)

    def box(self, group: int) -> Box:
        """A square, inside level 0."""
        row, column = divmod(group, self.columns)
        return Box(x=column * SIDE, y=row * SIDE, width=SIDE, height=SIDE).intersection(Box.whole(self.size))

    def area(self, box: Box) -> Box:
        """A square with the rim around it, inside level 0."""
        return box.grown(self.rim).intersection(Box.whole(self.size))

    @property
    def pixels(self) -> int:
        """The most of a square with its rim."""
        side = SIDE + 2 * self.rim
        return min(self.size.width, side) * min(self.size.height, side)


@dataclass(frozen=True, kw_only=True)
class SquarePlan:
    """A run of a classical tool; see `MaskPlan`."""

    seen: Seen
    mask: str
    reading: Reading
    settings: SquareSettings
    evidence: Path | None
    """What was kept of `segment`; None for the mask alone."""
    machine: Machine
    memory: MemoryPlan
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> SquaresPass:
        """The only pass."""
        return SquaresPass(size=self.seen.info.size, rim=self.settings.tool.reach)

    @property
    def passes(self) -> tuple[SquaresPass, ...]:
        """See `MaskPlan`."""
        return (self.step,)

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """See `MaskPlan`."""
        return ()

    def describe(self) -> dict[str, object]:
        """As JSON values: memory and disk in bytes."""
        size = self.seen.info.size
        return {
            "schema": 1,
            "image": self.seen.info.path,
            "size": {"width": size.width, "height": size.height},
            "mask": self.mask,
            "read_as": self.reading.kind,
            "device": self.machine.device,
            **self.settings.describe(),
            **self.describe_evidence(),
            **self.seen.describe(),
            "passes": [{"pass": 1, "what": self.step.what, "groups": self.step.groups}],
            "memory": {"budget": self.memory.budget, "planned": self.memory.total},
            "disk": self.disk(),
            "notes": list(self.notes),
        }

    def describe_evidence(self) -> dict[str, object]:
        """Where probabilities come from, as JSON values."""
        return {"evidence": "mask" if self.evidence is None else str(self.evidence)}

    def lines(self) -> list[str]:
        """See `MaskPlan`."""
        return [self.settings.line(self.step)]

    def disk(self) -> dict[str, int]:
        """See `MaskPlan`."""
        pixels = self.seen.info.size.pixels
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
    """What a run takes: known from the image's size, before there is a mask.

    Args:
        info: Of the image.
        settings: Of the run.
        machine: Where it runs.
        channels: The most classes that may win a pixel of a square.
        evidence_bytes: Memory that a pixel takes while its probabilities are read.
        resident: Memory that the mask keeps between reads.
        workers: Threads that read ahead.
    """
    pixels = SquaresPass(size=info.size, rim=settings.tool.reach).pixels
    stored = np.dtype(info.dtype).itemsize * len(info.bands)
    group = pixels * (2 * stored + 12 + 3 + 4 * channels + evidence_bytes)
    base, cache = machine.base + HEAP, info.resident_bytes + resident
    compute = pixels * settings.tool.bytes_a_pixel(channels)
    # A result that is made, and one that is stored beside it.
    output = (1 + bool(workers)) * SIDE * SIDE * 4
    return host_memory_plan(
        machine.memory, base=base, cache=cache, compute=compute, group=group, output=output, readers=workers
    )
