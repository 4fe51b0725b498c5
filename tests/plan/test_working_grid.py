"""Options, bundle and image decide at which size of a pixel the image is read, and scales may have a unit."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.errors import MagnetError, SourceError, UsageError, WeightsError
from magnet_cli.geometry import LEVEL0, Pitch, Size
from magnet_cli.images.protocol import ImageInfo, Level, Resolution
from magnet_cli.options.lengths import PhysicalScales
from magnet_cli.options.method_settings import BundleDefaults
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import (
    Machine,
    ModelFacts,
    Plan,
    WorkingGrid,
    make_plan,
    resolve_scales,
    with_pixel_size,
    working_grid,
)
from magnet_cli.plan.windows import group_scales

MACHINE = Machine(device="cpu", precision="float32", memory=8 << 30, base=300 << 20)
SIZE = Size(width=1000, height=700)


def image(pixel: str | None = None, unit: str = "um", **changed: Any) -> ImageInfo:
    """Return an image with levels of downsample 1, 4 and 16/3."""
    usual: dict[str, Any] = {
        "path": "x.tif",
        "backend": "tiff",
        "size": SIZE,
        "levels": tuple(
            Level(size=pitch.cover(SIZE), downsample=pitch)
            for pitch in (LEVEL0, Pitch.square(4), Pitch.square(Fraction(16, 3)))
        ),
        "bands": ("red", "green", "blue"),
        "dtype": "uint8",
        "resolution": size(pixel, unit) if pixel else None,
    }
    return ImageInfo(**{**usual, **changed})


def size(value: str, unit: str = "um") -> Resolution:
    return Resolution(x=Fraction(value), y=Fraction(value), unit=unit)


def facts(trained_at: str | None = None, unit: str = "um") -> ModelFacts:
    trained = tuple(Size(width=side, height=side) for side in (256, 128, 64))
    return ModelFacts(
        name="small",
        classes=5,
        bands=("red", "green", "blue"),
        value_range=(0.0, 255.0),
        input=Size(width=64, height=64),
        resample="area",
        resolution=Fraction(trained_at) if trained_at else None,
        unit=("m" if unit == "m" else "um") if trained_at else None,
        trained=trained,
        defaults=BundleDefaults(scales=trained),
        has_refiner=True,
        activation_bytes=1 << 20,
    )


def grid(info: ImageInfo, model: ModelFacts, **options: Any) -> WorkingGrid:
    chosen = SegmentOptions(**options)
    return working_grid(with_pixel_size(info, model, chosen), model, chosen)


def plan(info: ImageInfo, model: ModelFacts, **options: Any) -> Plan:
    return make_plan(info, model, SegmentOptions(**options), MACHINE)


def scales(text: str) -> PhysicalScales:
    found = parse_scales(text)
    assert isinstance(found, PhysicalScales)
    return found


def test_a_bundle_reads_every_image_at_the_size_it_was_trained_at() -> None:
    found = grid(image("0.2522"), facts("0.5"))
    assert found.pitch == Pitch.square(Fraction(5000, 2522))
    assert found.notes == ("the image is read at 0.5 um a pixel: a pixel that is read is 1.983 of its pixels wide",)
    assert grid(image("0.5"), facts("0.5")).notes == ()
    assert found.pixel == size("0.5")
    ground = grid(image("0.1", "m"), facts("0.5", "m"))
    assert (ground.pitch, ground.pixel) == (Pitch.square(5), size("0.5", "m"))


@pytest.mark.parametrize(
    ("info", "options", "pitch", "told"),
    [
        (image("0.25"), {"mpp": Fraction(1)}, 4, "read at 1 um a pixel: a pixel that is read is 4 of"),
        (
            image("0.2", "m"),
            {"gsd": Fraction("0.3")},
            Fraction(3, 2),
            "read at 0.3 m a pixel: a pixel that is read is 1.5",
        ),
        (image(), {"level": 0}, 1, "read at the pixel size of level 0"),
        (image("9"), {"level": 2}, Fraction(16, 3), "level 2: a pixel that is read is 5.333 of its"),
        (image(objective=Fraction(40)), {"mag": Fraction(20)}, 2, "read at 20x, and was taken at 40x: a pixel"),
        (image("0.25", objective=Fraction(40)), {"mag": Fraction("7.5")}, Fraction(16, 3), "taken at 40x"),
        (image("0.25"), {"mag": Fraction(20)}, 2, "read at 20x, taken as 0.5 um a pixel because it names no objective"),
        (image(), {"mag": Fraction(20), "slide_mpp": Fraction(1, 4)}, 2, "taken as 0.5 um a pixel"),
        (image("9"), {"slide_mpp": Fraction(1, 4)}, 1, "a pixel of the full resolution is taken as 0.25 um"),
    ],
)
def test_the_size_asked_for_beats_the_bundles(
    info: ImageInfo, options: dict[str, Any], pitch: Fraction | int, told: str
) -> None:
    unit = info.resolution.unit if info.resolution else "um"
    found = grid(info, facts("0.25", unit), **options)
    assert found.pitch == Pitch.square(pitch)
    assert any(told in note for note in found.notes), found.notes


def test_a_size_that_either_side_lacks_means_one_to_one() -> None:
    found = grid(image("0.25"), facts())
    assert found.pitch == LEVEL0
    assert len(found.notes) == 1
    assert "1:1" in found.notes[0]
    found = grid(image(), facts("0.5"))
    assert (found.pitch, found.pixel) == (LEVEL0, None)
    assert found.notes == ("the file does not state the size of a pixel: the image is read 1:1 (set --slide-mpp)",)
    assert "0.5 is usual at its magnification" in grid(image(objective=Fraction(20)), facts("0.5")).notes[0]


@pytest.mark.parametrize(
    ("info", "options", "match"),
    [
        (
            image(),
            {"mpp": Fraction(1)},
            "--mpp needs the physical size of a pixel and the file does not state it.*slide-mpp",
        ),
        (image(), {"gsd": Fraction(1)}, "--gsd needs the physical size"),
        (
            image("1", "m"),
            {"mpp": Fraction(1)},
            r"--mpp is for .* microscope, in um, and this one .* in m\. Take --gsd",
        ),
        (image("1"), {"gsd": Fraction(1)}, r"--gsd is for .* ground, in m, and this one .* in um\. Take --mpp"),
        (image("1", "m"), {"mag": Fraction(20)}, r"--mag is for images of microscopes.*Take --gsd"),
        (image(), {"mag": Fraction(20)}, "--mag needs the magnification .* and the image has neither.*--slide-mpp"),
        (image(), {"level": 3}, r"the image has 3 levels, numbered from 0 \(got --level 3\)\. Take one .*magnet info"),
        (image("40"), {"mpp": Fraction(1)}, r"enlarged 32 times at most.*got 40 times, --mpp 1\).*--slide-mpp"),
        (
            image("0.25"),
            {"mpp": Fraction(501)},
            r"larger than twice the whole image.*got 2,004 of its 1000x700 pixels, --mpp",
        ),
        (image("0.0002"), {}, r"larger than twice.*got 2,500 of its 1000x700 pixels, as bundle small was trained"),
        (image("20"), {}, r"enlarged 32 times at most.*got 40 times, as bundle small was trained"),
    ],
)
def test_what_the_image_lacks_is_refused(info: ImageInfo, options: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        grid(info, facts("0.5"), **options)
    assert caught.value.file == "x.tif"


def test_an_image_may_be_a_single_pixel_of_what_is_read() -> None:
    assert grid(image("0.25"), facts("0.5"), mpp=Fraction(250)).pitch == Pitch.square(1000)
    tiny = Size(width=1, height=1)
    one = image("0.25", size=tiny, levels=(Level(size=tiny, downsample=LEVEL0),))
    assert grid(one, facts("4")).pitch == Pitch.square(16)


def test_a_bundle_for_the_ground_does_not_read_slides() -> None:
    with pytest.raises(WeightsError, match=r"trained at 0\.5 m a pixel and the image is measured in um.*--level"):
        grid(image("0.25"), facts("0.5", "m"))
    assert grid(image("0.25"), facts("0.5", "m"), level=1).pitch == Pitch.square(4)


def test_a_magnification_that_contradicts_the_size_is_told() -> None:
    def notes(pixel: str) -> int:
        return len(grid(image(pixel, objective=Fraction(40)), facts(), mag=Fraction(20)).notes)

    assert [notes(pixel) for pixel in ("0.25", "0.13", "0.5", "0.51", "0.12")] == [1, 1, 1, 2, 2]


def test_the_given_size_of_a_pixel_reaches_mask_and_report() -> None:
    quarter = {"slide_mpp": Fraction(1, 4)}
    assert plan(image(), facts(), **quarter).image.resolution == size("0.25")
    assert plan(image("9"), facts(), **quarter).image.resolution == size("0.25")
    assert plan(image("9"), facts()).image.resolution == size("9")
    assert plan(image("9", "m"), facts(), **quarter).image.resolution == size("0.25", "m")


@pytest.mark.parametrize(
    ("info", "model", "options", "unit"),
    [
        (image(), facts(), {}, "um"),
        (image(), facts("0.5", "m"), {}, "m"),
        (image(crs="EPSG:4326"), facts(), {}, "m"),
        (image(), facts(), {"gsd": Fraction(1, 2)}, "m"),
        (image(), facts("0.5", "m"), {"mpp": Fraction(1, 2)}, "um"),
        (image(), facts(), {"scales": scales("500m")}, "m"),
        (image(), facts(), {"scales": scales("500mm")}, "um"),
        (image("40"), facts(), {"gsd": Fraction(2, 5)}, "m"),
        (image("40"), facts("0.5", "um"), {"scales": scales("500m")}, "m"),
        (image("0.25", is_slide=True), facts(), {"scales": scales("0.001m")}, "um"),
        (image("0.25", objective=Fraction(40)), facts(), {"scales": scales("0.001m")}, "um"),
        (image("1", "m"), facts(), {"scales": scales("500mm")}, "m"),
    ],
)
def test_the_given_size_is_in_the_unit_of_what_is_asked(
    info: ImageInfo, model: ModelFacts, options: dict[str, Any], unit: str
) -> None:
    found = with_pixel_size(info, model, SegmentOptions(slide_mpp=Fraction(1, 4), **options)).resolution
    assert found == size("0.25", unit)


def test_the_plan_says_at_which_size_it_reads() -> None:
    described = plan(image("0.25", objective=Fraction(40)), facts(), mag=Fraction(10)).describe()
    assert described["working_pixel"] == {"width": 4.0, "height": 4.0}
    assert described["working_size"] == {"width": 1.0, "height": 1.0, "unit": "um"}
    assert described["read_at"] == "--mag 10"
    bare = plan(image(), facts()).describe()
    assert (bare["working_size"], bare["read_at"]) == (None, None)


def windows(found: WorkingGrid) -> list[tuple[int, int]]:
    assert found.scales is not None
    return [(scale.width, scale.height) for scale in found.scales]


@pytest.mark.parametrize(
    ("pixel", "trained", "text", "working", "expected"),
    [
        ("0.25", "0.5", "320um,640um", "0.5", [1280, 640]),
        ("0.25", "0.5", "0.32mm , 640um", "0.5", [1280, 640]),
        ("0.25", None, "320um,640um", "0.25", [2560, 1280]),
        ("0.2522", None, "320um,640um", "320/1269", [2538, 1269]),
        ("0.25", "0.3", "320um,640um", "320/1067", [2134, 1067]),
        ("0.25", "0.5", "320um,500um", "0.5", [1000, 640]),
        ("0.25", "0.3", "320um,500um", "20/67", [1675, 1072]),
        ("0.25", "50", "20um", "20", [1]),
    ],
)
def test_scales_with_a_unit_choose_the_working_pixel(
    pixel: str, trained: str | None, text: str, working: str, expected: list[int]
) -> None:
    found = grid(image(pixel), facts(trained), scales=scales(text))
    assert windows(found) == [(side, side) for side in expected]
    assert len(found.notes) == 1
    assert ("of which scales are whole numbers" in found.notes[0]) == (working not in (trained, pixel))
    assert found.pixel is not None
    assert abs(found.pixel.x / Fraction(working) - 1) < Fraction(1, 10**10)


def test_scales_are_converted_between_metres_and_micrometres() -> None:
    assert windows(grid(image("0.5", "m"), facts(), scales=scales("500m,0.25km"))) == [(1000, 1000), (500, 500)]
    assert windows(grid(image("0.5", "m"), facts(), scales=scales("500000000um"))) == [(1000, 1000)]
    assert windows(grid(image("0.5"), facts(), scales=scales("0.001m"))) == [(2000, 2000)]


def test_scales_are_rounded_where_the_size_is_asked_for() -> None:
    found = grid(image("0.25"), facts(), mpp=Fraction("0.3"), scales=scales("320um,640um,700um"))
    assert found.pixel == size("0.3")
    assert windows(found) == [(2333, 2333), (2134, 2134), (1067, 1067)]
    assert found.notes[-1] == (
        "scales are whole pixels of the size that is read: 700um is 2333.33 x 2333.33 pixels and taken as 2333 x 2333; "
        "640um is 2133.33 x 2133.33 pixels and taken as 2134 x 2134; "
        "320um is 1066.67 x 1066.67 pixels and taken as 1067 x 1067"
    )
    exact = grid(image("0.25"), facts(), mpp=Fraction("0.5"), scales=scales("320x160um,640x320um"))
    assert windows(exact) == [(1280, 640), (640, 320)]
    assert exact.notes == ("the image is read at 0.5 um a pixel: a pixel that is read is 2 of its pixels wide",)
    levelled = grid(image(resolution=Resolution(x=Fraction(1, 4), y=Fraction(1, 2), unit="um")), facts(), level=1,
                    scales=scales("320um"))  # fmt: skip
    assert windows(levelled) == [(320, 160)]


@pytest.mark.parametrize(
    ("info", "options", "match"),
    [
        (image(), {}, r"scales with a unit need the physical size .*\(got 1.2um, 1um\)\. Add --slide-mpp"),
        (image(), {"level": 1}, "scales with a unit need the physical size"),
        (image(objective=Fraction(20)), {"mag": Fraction(20)}, "scales with a unit need the physical size"),
        (image("1"), {"mpp": Fraction(2)}, r"at least one pixel of the working grid \(got 1um at 2 um a pixel\)"),
        (image("1"), {"mpp": Fraction(1)}, r"must differ .*\(got 1\.2um, 1um as 1x1, 1x1\)"),
    ],
)
def test_scales_with_a_unit_that_cannot_be_had(info: ImageInfo, options: dict[str, Any], match: str) -> None:
    with pytest.raises(MagnetError, match=match):
        grid(info, facts(), scales=scales("1um,1.2um"), **options)


@pytest.mark.parametrize(
    ("info", "given", "options", "match"),
    [
        (image("40"), "51.2m", {}, r"goes with the image.*1000x700.*got 51\.2m is 1280000x1280000 at 40 um.*in m for"),
        (image("1"), "51.2m,102.4m", {"mpp": Fraction(1)}, r"goes with the image.*--slide-mpp"),
        (image("0.25"), "51.2m", {"slide_mpp": Fraction("0.25"), "mag": Fraction(20)}, "goes with the image"),
        (image("0.2", "m"), "80km", {}, r"goes with the image.*got 80km is 400000x400000 at 0\.2 m"),
        (image("0.25"), "320um,1000mm", {"mpp": Fraction(1)}, r"got 1000mm is 1000000x1000000"),
    ],
)
def test_scales_that_only_a_wrong_unit_can_give_are_refused(
    info: ImageInfo, given: str, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        grid(info, facts(), scales=scales(given), **options)


def test_a_size_in_metres_mends_a_file_that_seems_to_be_measured_in_micrometres() -> None:
    chosen = {"slide_mpp": Fraction(1, 5), "gsd": Fraction(2, 5)}
    assert grid(image("40"), facts(), **chosen).pitch == Pitch.square(2)


def test_scales_with_a_unit_need_an_image() -> None:
    with pytest.raises(UsageError, match="need an image"):
        resolve_scales(SegmentOptions(scales=scales("1um")), facts(), SIZE)


@settings(max_examples=150, deadline=None)
@given(
    finest=st.decimals("0.5", "2000", places=2),
    ratios=st.lists(st.integers(2, 4), max_size=3),
    pixel=st.decimals("0.05", "3", places=4),
    trained=st.none() | st.decimals("0.1", "10", places=2),
    asked=st.none() | st.decimals("0.1", "3", places=2),
)
def test_scales_with_a_unit_are_whole_and_nest(
    finest: Any, ratios: list[int], pixel: Any, trained: Any, asked: Any
) -> None:
    sides = [Fraction(finest)]
    for ratio in ratios:
        sides.append(sides[-1] * ratio)
    text = ",".join(f"{float(side):.4f}um" for side in sides)
    info, model = image(str(pixel)), facts(None if trained is None else str(trained))
    options: dict[str, Any] = {} if asked is None else {"mpp": Fraction(asked)}
    try:
        found = grid(info, model, scales=scales(text), **options)
    except (SourceError, UsageError) as error:
        said = ("enlarged", "goes with the image", "at least one pixel")
        assert any(words in str(error) for words in said)  # noqa: PT017 - all are right
        return
    got = [width for width, _ in windows(found)][::-1]
    assert [coarse % fine for fine, coarse in pairwise(got)] == [0] * len(ratios)
    assert found.scales is not None
    assert sum(len(group) for group in group_scales(found.scales)) == len(sides)
    for side, count in zip(sides, got, strict=True):
        real = count * found.pitch.x * Fraction(pixel)
        if asked is None:
            assert abs(real / side - 1) < Fraction(1, 10**6)
        else:
            exact = side / Fraction(asked)
            assert count == exact or any(f"taken as {count} x" in note for note in found.notes)
            assert abs(count - exact) <= Fraction(1, 2) * (side / sides[0])


def test_methods_of_one_stage_take_one_scale_with_a_unit() -> None:
    chosen = {"scales": scales("32um,64um")}
    assert [stage.scale.width for stage in plan(image("0.5"), facts(), method="patch", **chosen).stages] == [64]
    assert [stage.scale.width for stage in plan(image("0.5"), facts(), **chosen).stages] == [128, 64]


def test_a_pixel_that_is_not_square_gives_square_windows_on_the_ground() -> None:
    odd = replace(image(), resolution=Resolution(x=Fraction(1, 2), y=Fraction(1), unit="m"))
    found = grid(odd, facts(), scales=scales("64m"))
    assert (windows(found), found.pitch) == ([(128, 128)], Pitch(x=Fraction(1), y=Fraction(1, 2)))
