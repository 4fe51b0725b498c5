"""A mask that is computed group by group while its page is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from magnet_cli.geometry import Box, Size
from magnet_cli.images import fingerprint
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import OutputPaths, finish_output
from magnet_cli.masks.spec import FieldSpec, GroupId, MaskSpec, parts
from magnet_cli.system.closing import Closing
from tests.exports.support import CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


@dataclass(kw_only=True)
class GrowingMask(Closing):
    """The run of a mask, which this process makes step by step."""

    path: Path
    labels: NDArray[np.uint8]
    boxes: list[Box]
    """The box of level 0 that each group fills."""
    journal: Journal
    scales: tuple[str, ...] = ("256",)
    """The finest scale of each pass."""
    done: int = 0

    @classmethod
    def begin(
        cls,
        path: Path,
        image: Path,
        labels: NDArray[np.uint8],
        *,
        block: int,
        tile: int = 512,
        fields: tuple[FieldSpec, ...] = (),
        scales: tuple[str, ...] = ("256",),
    ) -> Self:
        """Begin a run."""
        size = Size(width=labels.shape[1], height=labels.shape[0])
        spec = MaskSpec(size=size, classes=CLASSES, tile=tile)
        header = JournalHeader(hashes={"input": fingerprint(image)}, spec=spec, fields=fields)
        journal = Journal.open(OutputPaths.of(path).journal, header=header)
        boxes = [part.box for part in parts(Box.whole(size), block)]
        return cls(path=path, labels=labels, boxes=boxes, journal=journal, scales=scales)

    def compute(self, groups: int) -> None:
        """Finish some more groups."""
        for box in self.boxes[self.done : self.done + groups]:
            group = GroupId(pass_index=len(self.scales) - 1, index=self.done)
            self.journal.put_labels(group, box=box, labels=self.labels[box.slices])
            self.finish_group(group)
            self.done += 1

    def put(self, group: GroupId, name: str, box: Box, values: NDArray[np.floating]) -> None:
        """Store values of a field as a group of its own."""
        self.journal.put_field(group, name=name, box=box, values=values)
        self.finish_group(group)

    def finish_group(self, group: GroupId) -> None:
        """Finish a group with the facts that a run stores for whoever watches it."""
        counts = {"groups": [1] * (len(self.scales) - 1) + [len(self.boxes)], "scales": list(self.scales)}
        self.journal.finish_group(group, counts=counts)

    def finish(self) -> None:
        """Write the mask."""
        self.compute(len(self.boxes))
        finish_output(self.journal, OutputPaths.of(self.path), report={"schema": 1})

    @override
    def close(self) -> None:
        self.journal.close()
