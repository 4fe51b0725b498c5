"""The last pass of a cascade: it joins the claims of all objects to one label a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from skimage.measure import label as connected
from typing_extensions import override

from magnet_cli.arithmetic.cascade.fusion import fuse, is_given_up, pass_on
from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.refinement.level_fields import level_claims
from magnet_cli.refinement.refinement_plan import claims_name
from magnet_cli.run.job import Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.refinement.evidence import ClassProbabilities
    from magnet_cli.refinement.pass_context import RefineWork
    from magnet_cli.refinement.refinement_plan import FusionPass

RIM = 1024
"""Most pixels around a square that are read to measure the objects at its border."""


@dataclass(frozen=True, kw_only=True)
class Square:
    """A square of level 0 with the claims of all classes."""

    box: Box
    labels: NDArray[np.uint8]
    """Labels of the input mask, `(height, width)`."""
    claims: dict[int, NDArray[np.uint8]]
    """Largest claim on each pixel by class, `(height, width)` uint8; 255 where there is none."""
    held: NDArray[np.bool_]
    """True on objects that are too small to be refined and keep their labels, `(height, width)`."""
    shares: ClassProbabilities | None
    """Class probabilities before refinement. None without evidence, and where no pixel needs it."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The refined labels of a square."""

    box: Box
    labels: NDArray[np.uint8]
    changed: int
    """Pixels whose label differs from the input's."""


class Joining(Runner):
    """The pass that joins the claims of all objects."""

    def __init__(self, work: RefineWork, step: FusionPass) -> None:
        self._work = work
        self._blocks = step.blocks

    @override
    def read(self, group: int) -> Square:
        box = self._blocks[group]
        claims = {label: self._claims(label, box) for label in self._work.plan.census.labels}
        labels, evidence = self._work.mask.read(box), self._work.plan.evidence
        # Probabilities are decoded only where an object loses a pixel: most squares need none.
        wanted = evidence is not None and is_given_up(labels, claims).any()
        shares = evidence.read(box, labels) if evidence is not None and wanted else None
        return Square(box=box, labels=labels, claims=claims, held=self._held(box), shares=shares)

    @override
    def compute(self, given: Square, known: None) -> Joined:
        del known
        plan = self._work.plan
        labels = fuse(given.labels, given.claims, stuff=plan.stuff, binary=plan.is_binary)
        if given.shares is not None:
            labels = pass_on(labels, given.claims, **vars(given.shares))
        # Small objects keep their labels, whatever their neighbours claim.
        labels[given.held] = given.labels[given.held]
        return Joined(box=given.box, labels=labels, changed=int(np.count_nonzero(labels != given.labels)))

    @override
    def store(self, group: GroupId, found: Joined) -> dict[str, object]:
        self._work.resources.sink.put_labels(group, box=found.box, labels=found.labels)
        counts = np.bincount(found.labels.ravel(), minlength=NODATA + 1)
        classes = len(self._work.plan.reading.classes)
        return {
            "labels": counts[:classes].tolist(),
            "nodata": int(counts[NODATA]),
            "changed": found.changed,
        }

    def _claims(self, label: int, box: Box) -> NDArray[np.uint8]:
        """Return the largest claim of a class on each pixel, `(height, width)` uint8; 255 where there is none."""
        results, large = self._work.resources.results, self._work.plan.last_level(label)
        found: NDArray[np.uint8] = results.read_stored_field(claims_name(label), box)[0].astype(np.uint8, copy=False)
        if large is None:
            return found
        other = level_claims(results, large, box)
        # 255 stands for no claim; one more wraps it to 0, below every claim.
        wins = other + np.uint8(1) > found + np.uint8(1)
        found[wins] = other[wins]
        return found

    def _held(self, box: Box) -> NDArray[np.bool_]:
        """Return which pixels of a square lie on objects that have too few pixels to be refined.

        An object of n pixels reaches less than n pixels beyond the square, so a rim of that width contains all of it.
        """
        least = self._work.plan.settings.min_area
        whole = Box.whole(self._work.plan.image.size)
        around = box.grown(min(least, RIM)).intersection(whole)
        numbers = connected(self._work.objects(around), background=NODATA, connectivity=2)  # type: ignore[no-untyped-call]
        small = np.bincount(numbers.ravel()) < least
        # Component 0 is the background, which has no size.
        small[0] = False
        for edge, is_cut in (
            (numbers[0], around.y > 0),
            (numbers[-1], around.bottom < whole.bottom),
            (numbers[:, 0], around.x > 0),
            (numbers[:, -1], around.right < whole.right),
        ):
            # A component that leaves the rim may be larger than what is visible of it, so it is not small.
            if is_cut:
                small[edge] = False
        held: NDArray[np.bool_] = small[numbers[box.shifted(x=-around.x, y=-around.y).slices]]
        return held
