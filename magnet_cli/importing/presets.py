"""Classes, sizes and settings of the published experiments of MagNet, with the source of each value."""

from __future__ import annotations

from dataclasses import dataclass

from magnet_cli.geometry import Size

PAPER, SCRIPT, OURS = "the paper", "the published script", "our choice"


@dataclass(frozen=True, kw_only=True)
class FastVariant:
    """Settings of MagNet-Fast in one source."""

    scales: tuple[Size, ...]
    source: str
    """The source: `PAPER`, `SCRIPT` or `OURS`."""
    patches: int
    points: str
    note: str
    """The place of the settings in the source, or which of them it does not state."""

    @property
    def words(self) -> str:
        """The settings as options of the command line."""
        scales = ",".join(map(str, self.scales))
        return f"--method magnet-fast --scales {scales} --patches {self.patches} --points {self.points}"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published experiment."""

    name: str
    domain: str
    """The kind of image, in the words of a bundle's `domain`."""
    classes: tuple[tuple[str, str], ...]
    """Names and colours (`#RRGGBB`) of the classes, by index."""
    title: str
    """The title of the data set."""
    architecture: str
    """The architecture of the backbone."""
    input: Size
    scales: tuple[Size, ...]
    """Sides of the windows, coarsest first."""
    points: str
    median: int
    fast: tuple[FastVariant, ...]
    """Settings of MagNet-Fast from each source that states them; those of the paper come first."""
    sources: tuple[str, ...]
    """A sentence for each source of values."""
    exclude: tuple[int, ...] = ()
    """Classes that the published mean IoU leaves out."""

    @property
    def origins(self) -> tuple[str, ...]:
        """The source of every value, including those of MagNet-Fast and of the normalisation."""
        fast = (f"MagNet-Fast, {variant.source}: {variant.words} ({variant.note})" for variant in self.fast)
        return (*self.sources, *fast, "mean and deviation: ImageNet's, as the published program has them")


def _squares(*sides: int) -> tuple[Size, ...]:
    return tuple(Size(width=side, height=side) for side in sides)


def _halves(*widths: int) -> tuple[Size, ...]:
    return tuple(Size(width=width, height=width // 2) for width in widths)


CITYSCAPES = Preset(
    name="cityscapes",
    domain="street",
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
    fast=(
        FastVariant(
            source=PAPER,
            scales=_halves(2048, 1024, 256),
            patches=3,
            points="65536",
            note="scales and patches: section 4.2.2; points: those of its MagNet, section 4.2.3",
        ),
        FastVariant(
            source=SCRIPT,
            scales=_halves(2048, 1024, 512, 256),
            patches=4,
            points="90%",
            note="all of these",
        ),
    ),
    sources=(
        "classes, colours: the data set's 19 training classes, in the order of their training numbers",
        "backbone: the paper, section 4.2.2; the published program's W18 is the small version 2",
        "input, scales: the paper, section 4.2",
        "a refiner a stage: the published script; the paper has one for all, section 3.1",
        "points: the published script; the paper has 65536, section 4.2.3",
        "median: the published script; the paper gives none",
    ),
)

DEEPGLOBE = Preset(
    name="deepglobe",
    domain="satellite",
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
    fast=(
        FastVariant(
            source=PAPER,
            scales=_squares(2448, 1224, 612),
            patches=3,
            points="65536",
            note="section 4.3; points: those of its MagNet",
        ),
        FastVariant(source=SCRIPT, scales=_squares(2448, 1224, 612), patches=3, points="90%", note="all of these"),
    ),
    sources=(
        "classes, colours: the data set's seven, in the published program's order",
        "unknown left out of the mean IoU: the paper, section 4.3",
        "backbone, input, scales: the paper, section 4.3",
        "one refiner for all stages: the paper, section 3.1, and the published script",
        "points: the published script; the paper has 65536, section 4.3",
        "median: the published script; the paper gives none",
    ),
    exclude=(0,),
)

GLEASON = Preset(
    name="gleason",
    domain="histology",
    title="Gleason 2019",
    architecture="psp-resnet101",
    classes=(("benign", "#4DAF4A"), ("grade 3", "#377EB8"), ("grade 4", "#FF7F00"), ("grade 5", "#E41A1C")),
    input=Size(width=512, height=512),
    scales=_squares(5000, 2500, 1250, 625),
    points="65536",
    median=11,
    fast=(
        FastVariant(
            source=PAPER, scales=_squares(5000, 2500, 1250, 625), patches=3, points="65536", note="section 4.4"
        ),
    ),
    sources=(
        "classes: the paper, section 4.4; their order is as it names them",
        f"colours: {OURS}; the data set has none",
        "backbone, input, scales, points: the paper, section 4.4",
        "one refiner for all stages: the paper, section 3.1",
        f"median: {OURS}, that of DeepGlobe; the paper gives none",
        "an early published script has five classes, points 50% and no median; no weights of it were published",
    ),
)

INRIA = Preset(
    name="inria",
    domain="aerial",
    title="Inria aerial images",
    architecture="fpn-resnet50",
    classes=(("not building", "#000000"), ("building", "#FFFFFF")),
    input=Size(width=536, height=536),
    scales=_squares(5000, 2500, 1250, 625),
    points="65536",
    median=11,
    fast=(
        FastVariant(
            source=OURS,
            scales=_squares(5000, 2500, 1250, 625),
            patches=3,
            points="65536",
            note="those of Gleason; neither the paper nor a published script has any",
        ),
    ),
    sources=(
        "classes, colours: the data set's, 0 and 255 in its files",
        "backbone, input: the paper's supplement, section 4",
        "one refiner for all stages: the paper, section 3.1",
        f"scales, points: {OURS}, those of Gleason, whose images have the same size; the paper gives none",
        f"median: {OURS}, that of DeepGlobe; the paper gives none",
    ),
)

PRESETS = {preset.name: preset for preset in (CITYSCAPES, DEEPGLOBE, GLEASON, INRIA)}
"""The published experiments by name."""
