"""Settings of the published arithmetic: sizes of its stages, windows and patches, and what it refines."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import TYPE_CHECKING

from magnet_cli.arithmetic.published.point_choice import check_median
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL_PATCHES = -1
"""The value of `patches` that selects every window of every stage."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Bilinear without antialiasing reads two pixels an axis: shrunk further, pixels of the image go unread.
_LARGEST_SHRINK = 2


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """One run of the published arithmetic; refuses what the published programs get wrong or fail at.

    Raises:
        UsageError: If a value is out of range, a stage is smaller than the crop, or the first stage is larger.
    """

    stages: tuple[Size, ...]
    """The whole image is resized to each of these, coarsest first; the aspect need not be kept."""
    crop: Size
    """Windows of a stage, in pixels of the stage."""
    input: Size
    """Each window is resized to this before the network sees it."""
    points: float = 1.0
    """Refined pixels a stage: an integer is a count for the whole stage, any other number a share in (0, 1]."""
    patches: int | tuple[int, ...] = ALL_PATCHES
    """Windows that each stage after the first refines, the most uncertain ones; a tuple has one number a stage."""
    median: int = 11
    """Width of the median filter over the scores, in pixels of `input`; odd."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """One value a band, in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """One value a band, in 0..1."""
    batch: int = 1
    """Windows in one forward pass."""

    def __post_init__(self) -> None:
        self._check_stages()
        self._check_numbers()
        check_median(self.median)

    @property
    def finest(self) -> Size:
        """Size of the last stage, and so of the result."""
        return self.stages[-1]

    def patches_of(self, stage: int) -> int:
        """Return the windows to refine at a stage, or `ALL_PATCHES`; stage 0 has one window and refines none."""
        return self.patches if isinstance(self.patches, int) else self.patches[stage - 1]

    def scale_of(self, stage: int) -> Size:
        """Return the side of a stage's windows in pixels of the finest stage, rounded."""
        size = self.stages[stage]
        return Size(
            width=max(1, _rounded(Fraction(self.crop.width * self.finest.width, size.width))),
            height=max(1, _rounded(Fraction(self.crop.height * self.finest.height, size.height))),
        )

    def _check_stages(self) -> None:
        if not self.stages:
            raise UsageError(
                "the published arithmetic needs at least one scale", advice="Give a scale, such as --scales 512"
            )
        first = self.stages[0]
        if first.width > self.crop.width or first.height > self.crop.height:
            raise UsageError(
                "one window must cover the whole image at the coarsest scale",
                value=f"windows of {self.crop} in a first stage of {first}",
                advice="Add a scale as large as the image",
            )
        for size in self.stages:
            if size.width < self.crop.width or size.height < self.crop.height:
                raise UsageError(
                    "no stage may be smaller than the window cut from it",
                    value=f"windows of {self.crop} in a stage of {size}",
                    advice="Leave out scales larger than the image",
                )

    def _check_numbers(self) -> None:
        if not (self.points >= 1 if isinstance(self.points, int) else 0 < self.points <= 1):
            raise UsageError(
                "points are an integer of at least 1, or a share in (0, 1]",
                value=self.points,
                advice="Write --points 4096 or --points 75%",
            )
        counts = (self.patches,) if isinstance(self.patches, int) else self.patches
        if any(count < ALL_PATCHES for count in counts):
            raise UsageError(
                "patches are counts of windows, or -1 for all",
                value=self.patches,
                advice="Write --patches 16, or --patches all",
            )
        if not isinstance(self.patches, int) and len(self.patches) != len(self.stages) - 1:
            raise UsageError(
                "a list of patches has one number for each stage after the first",
                value=f"{len(self.patches)} numbers for {len(self.stages)} stages",
                advice="Give one number for each stage after the first",
            )
        if len(self.mean) != len(self.std) or min(self.std) <= 0 or self.batch < 1:
            raise UsageError(
                "every band has a mean and a positive deviation, and a batch has at least one window",
                value=f"mean {self.mean}, std {self.std}, batch {self.batch}",
                advice="Correct input.mean and input.std of the bundle, and give a batch of at least 1",
            )


def settings_from_scales(
    scales: Sequence[Size],
    *,
    image: Size,
    input: Size,  # noqa: A002 - the settings' own name
    points: float = 1.0,
    patches: int | tuple[int, ...] = ALL_PATCHES,
    median: int = 11,
) -> PublishedSettings:
    """Return the settings that follow from window sides, with the normalisation of ImageNet.

    The published programs take a crop and the sizes that the image is resized to, not windows of the image. Here
    the crop is the finest scale, and the whole image is stretched to the coarsest one, as they stretch it to their
    largest size: a stage is `crop * coarsest / scale` on either axis. Windows of 2448, 1224 and 612 pixels make a crop
    of 612 and stages of 612, 1224 and 2448.

    Args:
        scales: Window sides in working-grid pixels, in any order.
        image: Size of the image on the working grid; equal to the coarsest scale unless it is to be stretched.
        input: The network's input size; `PublishedSettings.input` describes it.
        points: The number of refined pixels; `PublishedSettings.points` describes it.
        patches: The number of refined windows; `PublishedSettings.patches` describes it.
        median: The side of the median filter; `PublishedSettings.median` describes it.

    Raises:
        UsageError: If a scale comes twice, one axis grows where the other shrinks, or the image is so much larger than
            the coarsest scale that the finest stage would not read all its pixels; and as the settings do.
    """
    ordered = sorted(scales, key=lambda scale: scale.pixels, reverse=True)
    if not ordered or not all(_nests(large, small) for large, small in pairwise(ordered)):
        raise UsageError(
            "scales differ from each other, and a coarser one is as wide and as high as a finer one",
            value=", ".join(map(str, scales)),
            advice="Give each scale once",
        )
    coarsest, crop = ordered[0], ordered[-1]
    if image.width > _LARGEST_SHRINK * coarsest.width or image.height > _LARGEST_SHRINK * coarsest.height:
        raise UsageError(
            "the published arithmetic stretches the whole image to the coarsest scale, at least half the image's size",
            value=f"an image of {image}, a scale of {coarsest}",
            advice="Leave out --compat, or give scales of which the coarsest covers the image",
        )
    stages = tuple(
        Size(
            width=_rounded(Fraction(crop.width * coarsest.width, scale.width)),
            height=_rounded(Fraction(crop.height * coarsest.height, scale.height)),
        )
        for scale in ordered
    )
    return PublishedSettings(stages=stages, crop=crop, input=input, points=points, patches=patches, median=median)


def _nests(large: Size, small: Size) -> bool:
    return large != small and large.width >= small.width and large.height >= small.height


def _rounded(value: Fraction) -> int:
    # A half goes up. Python's `round` takes it to the even number.
    return floor(value + Fraction(1, 2))
