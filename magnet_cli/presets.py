"""What the published experiments of MagNet are about: classes, sizes and settings, and where each figure is from."""

from __future__ import annotations

from dataclasses import dataclass

from magnet_cli.geometry import Size

Named = tuple[tuple[str, str], ...]

OURS = "our choice: the paper does not give it"


@dataclass(frozen=True, kw_only=True)
class FastVariant:
    """MagNet-Fast's settings."""

    scales: tuple[Size, ...]
    patches: int
    points: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published experiment."""

    name: str
    title: str
    """Of the data set."""
    architecture: str
    """Of the backbone."""
    classes: Named
    """Name and `#RRGGBB` by index."""
    input: Size
    scales: tuple[Size, ...]
    """Sides of the windows, coarsest first."""
    points: str
    median: int
    fast: FastVariant
    origins: tuple[str, ...]
    """Where the figures are from."""
    exclude: tuple[int, ...] = ()
    """Classes that the published mean IoU leaves out."""


def _squares(*sides: int) -> tuple[Size, ...]:
    return tuple(Size(width=side, height=side) for side in sides)


def _halves(*widths: int) -> tuple[Size, ...]:
    return tuple(Size(width=width, height=width // 2) for width in widths)


CITYSCAPES = Preset(
    name="cityscapes",
    title="Cityscapes",
    architecture="hrnet18-ocr",
    classes=(
        ("road", "#804080"),
        ("sidewalk", "#F423E8"),
        ("building", "#464646"),
        ("wall", "#66669C"),
        ("fence", "#BE9999"),
        ("pole", "#999999"),
        ("traffic light", "#FAAA1E"),
        ("traffic sign", "#DCDC00"),
        ("vegetation", "#6B8E23"),
        ("terrain", "#98FB98"),
        ("sky", "#4682B4"),
        ("person", "#DC143C"),
        ("rider", "#FF0000"),
        ("car", "#00008E"),
        ("truck", "#000046"),
        ("bus", "#003C64"),
        ("train", "#005064"),
        ("motorcycle", "#0000E6"),
        ("bicycle", "#770B20"),
    ),
    input=Size(width=256, height=128),
    scales=_halves(2048, 1024, 512, 256),
    points="32768",
    median=5,
    fast=FastVariant(scales=_halves(2048, 1024, 256), patches=3, points="90%"),
    origins=(
        "classes and colours: the data set's 19 training classes, in the order of their training numbers",
        "input, scales: the paper, section 4.2",
        "points: the published program's script; the paper has 65536",
        "median: the published program's script",
        "MagNet-Fast: scales and patches from the paper (the published script has 4 patches on all four scales)",
        "MagNet-Fast: points from the published program's script",
    ),
)

DEEPGLOBE = Preset(
    name="deepglobe",
    title="DeepGlobe land cover",
    architecture="fpn-resnet50",
    classes=(
        ("unknown", "#000000"),
        ("urban", "#00FFFF"),
        ("agriculture", "#FFFF00"),
        ("rangeland", "#FF00FF"),
        ("forest", "#00FF00"),
        ("water", "#0000FF"),
        ("barren", "#FFFFFF"),
    ),
    input=Size(width=508, height=508),
    scales=_squares(2448, 1224, 612),
    points="75%",
    median=11,
    fast=FastVariant(scales=_squares(2448, 1224, 612), patches=3, points="90%"),
    origins=(
        "classes and colours: the data set's seven, in the published program's order; unknown is not in the mean IoU",
        "input, scales: the paper, section 4.3",
        "points: the published program's script; the paper has 65536",
        "median: the published program's script",
        "MagNet-Fast: patches from the paper, points from the published program's script",
    ),
    exclude=(0,),
)

GLEASON = Preset(
    name="gleason",
    title="Gleason 2019",
    architecture="psp-resnet101",
    classes=(("benign", "#4DAF4A"), ("grade 3", "#377EB8"), ("grade 4", "#FF7F00"), ("grade 5", "#E41A1C")),
    input=Size(width=512, height=512),
    scales=_squares(5000, 2500, 1250, 625),
    points="65536",
    median=11,
    fast=FastVariant(scales=_squares(5000, 2500, 1250, 625), patches=3, points="65536"),
    origins=(
        "classes: the paper, section 4.4; colours: our choice, because the data set has none",
        "input, scales, points: the paper, section 4.4",
        f"median: {OURS}",
        "MagNet-Fast: scales, patches and points from the paper",
    ),
)

INRIA = Preset(
    name="inria",
    title="Inria aerial images",
    architecture="fpn-resnet50",
    classes=(("not building", "#000000"), ("building", "#FFFFFF")),
    input=Size(width=536, height=536),
    scales=_squares(5000, 2500, 1250, 625),
    points="65536",
    median=11,
    fast=FastVariant(scales=_squares(5000, 2500, 1250, 625), patches=3, points="65536"),
    origins=(
        "classes and colours: the data set's, 0 and 255 in its files",
        "input: the paper's supplement, section 4",
        f"scales: {OURS}; those of Gleason, whose images have the same size",
        f"points, median, everything of MagNet-Fast: {OURS}",
    ),
)

PRESETS = {preset.name: preset for preset in (CITYSCAPES, DEEPGLOBE, GLEASON, INRIA)}
"""By name."""
