"""The working grid: the pixel size at which an image is read, and the scales with a unit on that grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError, UsageError, WeightsError
from magnet_cli.geometry import LEVEL0, Pitch, Size
from magnet_cli.images.protocol import Resolution
from magnet_cli.options.lengths import PhysicalScales, in_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import ImageInfo
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan.segmentation_plan import ModelFacts


FIXED_POINT = 1_000_000
"""Largest denominator of the working grid's factor: an error below 1e-7 pixel over 100,000 pixels."""
UM_AT_ONE = 10
"""Micrometres a pixel that scanners give an image of magnification 1: 0.5 at 20, 0.25 at 40."""
MOST_DISAGREEMENT = 2
"""Ratio beyond which a file's magnification and its pixel size contradict each other."""
LONGEST_SIDE, MOST_LARGER = 262_144, 8
"""Limits in pixels and in images; a window that is larger than both has a wrong unit."""
MOST_ENLARGED = 32
"""Largest factor of enlargement: beyond it one of the two sizes is wrong, and the run would take for ever."""


LEAST_LARGEST = 64
"""Images with fewer pixels a side are read as if they had so many: what their few pixels reflect is little."""


@dataclass(frozen=True, kw_only=True)
class WorkingGrid:
    """The size of a pixel at which an image is read."""

    pitch: Pitch
    """Level-0 pixels of a working-grid pixel."""
    pixel: Resolution | None
    """Physical size of a working-grid pixel; None where the file does not state the size of a pixel."""
    scales: tuple[Size, ...] | None
    """The scales that were given with a unit, in working-grid pixels, coarsest first; None where none were."""
    notes: tuple[str, ...]
    """Messages for the user about the choice."""


def working_grid(info: ImageInfo, facts: ModelFacts, options: SegmentOptions) -> WorkingGrid:
    """Return the working grid that follows from the options, or else from the bundle.

    Args:
        info: The image, with the size of a pixel that the user gave (`with_pixel_size`).
        facts: The facts of the bundle.
        options: `--mpp`, `--gsd`, `--level`, `--mag`, `--slide-mpp` and `--scales`.

    Raises:
        SourceError: The image lacks the size, level or magnification that is needed.
        UsageError: A scale is less than a working pixel, or two are the same.
        WeightsError: The bundle's unit is not the image's.
    """
    pitch, notes = _pitch(info, facts, options)
    scales: tuple[Size, ...] | None = None
    if isinstance(options.scales, PhysicalScales):
        fitted, scales, said = _fitted(options.scales, info, pitch, free=options.reading is None)
        pitch, notes = fitted, notes + said if fitted == pitch else said
    # Such a factor comes from a unit that was mistaken, metres for micrometres for example.
    if max(1 / pitch.x, 1 / pitch.y) > MOST_ENLARGED:
        raise SourceError(
            f"an image is enlarged {MOST_ENLARGED} times at most, or one of the sizes is wrong",
            value=f"{float(1 / pitch.x):.4g} times, {options.reading or f'as bundle {facts.name} was trained'}",
            file=info.path,
            advice="Read it at a coarser size, or set --slide-mpp",
        )
    # A pixel that reaches far beyond the image would be a mean over countless reflections of it.
    if max(pitch.x, pitch.y) > 2 * max(info.size.width, info.size.height, LEAST_LARGEST):
        raise SourceError(
            "a pixel that is read is larger than twice the whole image, so that one of the sizes is wrong",
            value=f"{float(max(pitch.x, pitch.y)):,.4g} of its {info.size} pixels, "
            f"{options.reading or f'as bundle {facts.name} was trained'}",
            file=info.path,
            advice="Read it at a finer size, or set --slide-mpp",
        )
    return WorkingGrid(pitch=pitch, pixel=_pixel(info, pitch), scales=scales, notes=(*_given(info, options), *notes))


def with_pixel_size(info: ImageInfo, facts: ModelFacts, options: SegmentOptions) -> ImageInfo:
    """Return the image with the size of a pixel that the user gave: areas and the mask's tags follow it."""
    if options.slide_mpp is None:
        return info
    unit = _unit(info, facts, options)
    return replace(info, resolution=Resolution(x=options.slide_mpp, y=options.slide_mpp, unit=unit))


def _unit(info: ImageInfo, facts: ModelFacts, options: SegmentOptions) -> str:
    """Return the unit of `--slide-mpp`: that of the other options, else the image's own, else the bundle's.

    The other options come first, because this one is for images whose own size is wrong: an aerial photograph with the
    density of a print seems to be measured in micrometres.
    """
    if info.crs is not None or info.geo_tags or options.gsd is not None:
        return "m"
    if options.mpp is not None or options.mag is not None:
        return "um" if info.resolution is None else info.resolution.unit
    from_a_microscope = info.is_slide or info.objective is not None
    if isinstance(options.scales, PhysicalScales) and options.scales.in_metres and not from_a_microscope:
        return "m"
    return info.resolution.unit if info.resolution is not None else facts.unit or "um"


def _given(info: ImageInfo, options: SegmentOptions) -> tuple[str, ...]:
    if options.slide_mpp is None or info.resolution is None:
        return ()
    return (f"a pixel of the full resolution is taken as {float(options.slide_mpp):g} {info.resolution.unit}",)


def _pitch(info: ImageInfo, facts: ModelFacts, options: SegmentOptions) -> tuple[Pitch, tuple[str, ...]]:
    # At most one of the four options is given: `SegmentOptions` refuses more.
    if options.level is not None:
        return _of_level(info, options.level)
    if options.mag is not None:
        return _of_magnification(info, options.mag)
    if options.mpp is not None:
        return _of_size(info, options.mpp, "um", option="--mpp")
    if options.gsd is not None:
        return _of_size(info, options.gsd, "m", option="--gsd")
    return _of_bundle(info, facts)


def _of_level(info: ImageInfo, number: int) -> tuple[Pitch, tuple[str, ...]]:
    if number >= len(info.levels):
        raise SourceError(
            f"the image has {len(info.levels)} levels, numbered from 0",
            value=f"--level {number}",
            file=info.path,
            advice="Take one that 'magnet info' lists",
        )
    pitch = info.levels[number].downsample
    return pitch, (_read_at(f"the pixel size of level {number}", pitch),)


def _of_magnification(info: ImageInfo, wanted: Fraction) -> tuple[Pitch, tuple[str, ...]]:
    found = info.resolution
    if found is not None and found.unit != "um":
        raise _wrong_unit(info, "--mag", f"microscopes, and this one is measured in {found.unit}", "Take --gsd")
    shown = f"{float(wanted):g}x"
    if info.objective is not None:
        pitch = Pitch.square((info.objective / wanted).limit_denominator(FIXED_POINT))
        taken = f"{shown}, and was taken at {float(info.objective):g}x"
        return pitch, (_read_at(taken, pitch), *_contradiction(info.objective, found))
    if found is None:
        raise SourceError(
            "--mag needs the magnification of the objective or the physical size of a pixel, and the image has neither",
            file=info.path,
            advice="Add --slide-mpp with the size of a full-resolution pixel in um",
        )
    pitch, _ = _of_size(info, UM_AT_ONE / wanted, "um", option="--mag")
    said = f"{shown}, taken as {float(UM_AT_ONE / wanted):g} um a pixel because it names no objective"
    return pitch, (_read_at(said, pitch),)


def _contradiction(objective: Fraction, found: Resolution | None) -> tuple[str, ...]:
    if found is None:
        return ()
    ratio = objective * found.x / UM_AT_ONE
    if max(ratio, 1 / ratio) <= MOST_DISAGREEMENT:
        return ()
    usual = f"{float(UM_AT_ONE / objective):g}"
    return (f"{float(objective):g}x with {float(found.x):.4g} um a pixel is odd, {usual} is usual: --mpp is safer",)


def _of_size(info: ImageInfo, wanted: Fraction, unit: str, *, option: str) -> tuple[Pitch, tuple[str, ...]]:
    found = info.resolution
    if found is None:
        raise SourceError(
            f"{option} needs the physical size of a pixel and the file does not state it",
            file=info.path,
            advice="Add --slide-mpp with the size of a full-resolution pixel",
        )
    if found.unit != unit:
        what = "what lies under a microscope, in um" if unit == "um" else "the ground, in m"
        other = "--gsd" if unit == "um" else "--mpp"
        raise _wrong_unit(info, option, f"{what}, and this one is measured in {found.unit}", f"Take {other}")
    pitch = _over(wanted, found)
    return pitch, (_read_at(f"{float(wanted):g} {unit} a pixel", pitch),)


def _wrong_unit(info: ImageInfo, option: str, what: str, advice: str) -> SourceError:
    return SourceError(f"{option} is for images of {what}", file=info.path, advice=advice)


def _of_bundle(info: ImageInfo, facts: ModelFacts) -> tuple[Pitch, tuple[str, ...]]:
    found, wanted = info.resolution, facts.resolution
    if wanted is None:
        return LEVEL0, (f"bundle {facts.name} names no resolution: the image is read 1:1",)
    if found is None:
        usual = None if info.objective is None else float(UM_AT_ONE / info.objective)
        hint = "set --slide-mpp" if usual is None else f"set --slide-mpp, {usual:g} is usual at its magnification"
        return LEVEL0, (f"the file does not state the size of a pixel: the image is read 1:1 ({hint})",)
    if facts.unit != found.unit:
        raise WeightsError(
            f"the bundle was trained at {float(wanted):g} {facts.unit} a pixel and the image is measured in "
            f"{found.unit}",
            file=info.path,
            advice="Take a bundle for this kind of image, or say with --mpp, --gsd or --level how to read it",
        )
    pitch = _over(wanted, found)
    if pitch == LEVEL0:
        return pitch, ()
    return pitch, (_read_at(f"{float(wanted):g} {found.unit} a pixel", pitch),)


def _over(wanted: Fraction, found: Resolution) -> Pitch:
    """Return the level-0 pixels of a physical size."""
    return Pitch(
        # Sizes in files are decimals of many digits. A bounded denominator keeps the integers of the grids small.
        x=(wanted / found.x).limit_denominator(FIXED_POINT),
        y=(wanted / found.y).limit_denominator(FIXED_POINT),
    )


def _read_at(scale: str, pitch: Pitch) -> str:
    """Return the note on the scale at which an image is read."""
    return f"the image is read at {scale}: a pixel that is read is {float(pitch.x):.4g} of its pixels wide"


def _pixel(info: ImageInfo, pitch: Pitch) -> Resolution | None:
    found = info.resolution
    return found and Resolution(x=found.x * pitch.x, y=found.y * pitch.y, unit=found.unit)


def _fitted(
    scales: PhysicalScales, info: ImageInfo, pitch: Pitch, *, free: bool
) -> tuple[Pitch, tuple[Size, ...], tuple[str, ...]]:
    """Convert scales with a unit to working-grid pixels; a free pitch is chosen so that the scales are whole pixels.

    Raises:
        SourceError: The file does not state the size of a pixel.
        UsageError: A scale is less than a working pixel, or two are the same.
    """
    pixel, found = _pixel(info, pitch), info.resolution
    if pixel is None or found is None:
        raise SourceError(
            "scales with a unit need the physical size of a pixel and the file does not state it",
            value=", ".join(map(str, scales.sizes)),
            file=info.path,
            advice="Add --slide-mpp with the size of a full-resolution pixel, or give scales in pixels",
        )
    # If the size of a pixel was not asked for, a slightly different one may make all windows whole pixels.
    exact = fit_exactly(scales, min(pixel.x, pixel.y), pixel.unit) if free else None
    if exact is None:
        sizes, notes = fit_rounded(scales, pixel)
        _check_sides(sizes, scales, pixel, info)
        return pitch, _distinct(sizes, scales), notes
    side, sizes = exact
    _check_sides(sizes, scales, Resolution(x=side, y=side, unit=pixel.unit), info)
    chosen = _over(side, found)
    same = chosen == pitch
    said = f"{float(side):g} {pixel.unit} a pixel, of which scales are whole numbers"
    return chosen, sizes, () if same else (_read_at(said, chosen),)


def _check_sides(sizes: Sequence[Size], scales: PhysicalScales, pixel: Resolution, info: ImageInfo) -> None:
    """Refuse windows that only a wrong unit or a wrong size of a pixel can give."""
    most = MOST_LARGER * max(info.size.width, info.size.height)
    metres_of_a_slide = scales.in_metres and pixel.unit == "um"
    for size, scale in zip(sizes, scales.sizes, strict=True):
        side = max(size.width, size.height)
        if side > most and (metres_of_a_slide or side > LONGEST_SIDE):
            hint = "; it is in m for scales in m" if metres_of_a_slide else ""
            raise UsageError(
                f"a scale is a window of a size that goes with the image, which has {info.size} pixels",
                value=f"{scale} is {size} at {float(pixel.x):.4g} {pixel.unit} a pixel",
                file=info.path,
                advice=f"Take smaller scales, or say with --slide-mpp how large a pixel is{hint}",
            )


def _distinct(sizes: tuple[Size, ...], scales: PhysicalScales) -> tuple[Size, ...]:
    if len(set(sizes)) < len(sizes):
        raise UsageError(
            "each scale must differ from the others in working-grid pixels",
            value=f"{', '.join(map(str, scales.sizes))} as {', '.join(map(str, sizes))}",
            advice="Read at a finer size, or leave one out",
        )
    return sizes


LEAST_PIXELS = 8
"""Working pixels of what all sides have in common: with fewer, the pixel chosen would lie far from the one wanted."""


def fit_exactly(scales: PhysicalScales, wanted: Fraction, unit: str) -> tuple[Fraction, tuple[Size, ...]] | None:
    """Return the pixel size nearest to a wanted one with which every side is a whole number of pixels.

    Args:
        scales: Window sides, coarsest first.
        wanted: Size of a pixel.
        unit: The unit of `wanted`, `um` or `m`.

    Returns:
        That size, and the sides in pixels; None where the sides have too little in common for it to be near.
    """
    sides = [in_unit(side, unit) for size in scales.sizes for side in (size.width, size.height)]
    common = reduce(_common, sides)
    if common < min(sides) and common < LEAST_PIXELS * wanted:
        return None
    pixel = common / max(1, round(common / wanted))
    sizes = tuple(
        Size(width=int(in_unit(size.width, unit) / pixel), height=int(in_unit(size.height, unit) / pixel))
        for size in scales.sizes
    )
    return pixel, sizes


def fit_rounded(scales: PhysicalScales, pixel: Resolution) -> tuple[tuple[Size, ...], tuple[str, ...]]:
    """Return the sides in working pixels of a size that is asked for, to the nearest whole one.

    Sizes that are multiples of each other stay so.

    Args:
        scales: Window sides, coarsest first.
        pixel: Size of a working pixel.

    Returns:
        The sides, coarsest first, and a note where one of them is not what was asked.

    Raises:
        UsageError: A side is less than a pixel.
    """
    widths = [in_unit(size.width, pixel.unit) / pixel.x for size in scales.sizes]
    heights = [in_unit(size.height, pixel.unit) / pixel.y for size in scales.sizes]
    if min(widths + heights) < 1:
        raise UsageError(
            "a scale is at least one pixel of the working grid",
            value=f"{scales.sizes[-1]} at {float(pixel.x):.4g} {pixel.unit} a pixel",
            advice="Read at a finer size, or take larger scales",
        )
    sizes = tuple(
        Size(width=width, height=height) for width, height in zip(_whole(widths), _whole(heights), strict=True)
    )
    inexact = [
        f"{scale} is {float(width):.6g} x {float(height):.6g} pixels and taken as {size.width} x {size.height}"
        for scale, size, width, height in zip(scales.sizes, sizes, widths, heights, strict=True)
        if width != size.width or height != size.height
    ]
    if not inexact:
        return sizes, ()
    return sizes, (f"scales are whole pixels of the size that is read: {'; '.join(inexact)}",)


def _whole(exact: Sequence[Fraction]) -> list[int]:
    """Return the lengths, longest first, to the nearest whole number, from the shortest up: whole ratios are kept."""
    found: list[int] = []
    finer = None
    for length in reversed(exact):
        ratio = None if finer is None else length / finer
        whole = ratio is not None and ratio.denominator == 1
        found.append(found[-1] * int(ratio) if whole and ratio is not None else round(length))
        finer = length
    return found[::-1]


def _common(one: Fraction, other: Fraction) -> Fraction:
    """Return the largest length of which both are whole multiples."""
    shared = gcd(one.numerator * other.denominator, other.numerator * one.denominator)
    return Fraction(shared, one.denominator * other.denominator)
