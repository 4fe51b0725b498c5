"""Plans: scales, margins, grids, windows and memory, decided before anything is read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from magnet_cli.errors import DeviceError, SourceError, UsageError, WeightsError
from magnet_cli.geometry import LEVEL0, Size
from magnet_cli.images.protocol import ImageInfo, Level, Resolution
from magnet_cli.images.reading_processes import PROCESS_BYTES
from magnet_cli.options.method_settings import BundleDefaults
from magnet_cli.options.rules import ALL, parse_patches, parse_points
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.values import parse_value_range
from magnet_cli.plan import (
    AreaSpec,
    Machine,
    ModelFacts,
    Plan,
    SelectorFacts,
    check_bands,
    check_values,
    make_plan,
    needs_clamp,
    resolve_scales,
)
from magnet_cli.plan.windows import group_scales, needed_margin
from magnet_cli.segmentation.segment_job import options_hash

if TYPE_CHECKING:
    from magnet_cli.options.rules import Rule
    from magnet_cli.options.segment import Blend, Compat, Method
    from magnet_cli.plan.windows import Index, Pass, Stage

MACHINE = Machine(device="cpu", precision="float32", memory=8 << 30, base=300 << 20)


def square(side: int) -> Size:
    return Size(width=side, height=side)


def image(width: int = 1000, height: int = 700, **changed: Any) -> ImageInfo:
    size = Size(width=width, height=height)
    usual: dict[str, Any] = {
        "path": "x.tif",
        "backend": "tiff",
        "size": size,
        "levels": (Level(size=size, downsample=LEVEL0),),
        "bands": ("red", "green", "blue"),
        "dtype": "uint8",
    }
    return ImageInfo(**{**usual, **changed})


def facts(**changed: Any) -> ModelFacts:
    trained = (square(256), square(128), square(64))
    usual: dict[str, Any] = {
        "name": "small",
        "classes": 5,
        "bands": ("red", "green", "blue"),
        "value_range": (0.0, 255.0),
        "input": square(64),
        "resample": "area",
        "resolution": None,
        "unit": None,
        "trained": trained,
        "defaults": BundleDefaults(scales=trained),
        "has_refiner": True,
        "activation_bytes": 1 << 20,
    }
    return ModelFacts(**{**usual, **changed})


def sides(scales: tuple[Size, ...]) -> list[int]:
    return [scale.width for scale in scales]


def test_scales_auto_ends_where_training_ended() -> None:
    auto = SegmentOptions(scales="auto")
    assert sides(resolve_scales(auto, facts(), square(10**6))) == [256, 128, 64]
    assert sides(resolve_scales(auto, facts(trained=(square(200),)), square(10**6))) == [128, 64]
    assert sides(resolve_scales(auto, facts(trained=(square(32),)), square(10**6))) == [64]


@given(width=st.integers(1, 10**5), height=st.integers(1, 10**5))
def test_scales_full_go_on_until_one_window_covers_the_image(width: int, height: int) -> None:
    scales = resolve_scales(SegmentOptions(scales="full"), facts(), Size(width=width, height=height))
    assert scales[-1] == square(64)
    assert all(coarse.width == 2 * fine.width for coarse, fine in pairwise(scales))
    assert scales[0].width >= max(width, height)
    assert len(scales) == 1 or scales[1].width < max(width, height)


def test_methods_of_one_stage_take_one_scale() -> None:
    assert sides(resolve_scales(SegmentOptions(method="patch"), facts(), square(500))) == [64]
    assert sides(resolve_scales(SegmentOptions(method="downsample"), facts(), square(500))) == [256]
    assert sides(resolve_scales(SegmentOptions(), facts(), square(500))) == [256, 128, 64]
    rising = (square(64), square(256))
    assert sides(resolve_scales(SegmentOptions(scales=rising), facts(), square(500))) == [256, 64]
    assert sides(resolve_scales(SegmentOptions(scales=rising, method="patch"), facts(), square(500))) == [64]


@pytest.mark.parametrize(("points", "needed", "default"), [("all", 2, 8), ("50%", 12, 12), ("q>0.2", 12, 12)])
def test_a_margin_that_is_too_small_is_refused_with_the_number(points: str, needed: int, default: int) -> None:
    options = SegmentOptions(points=parse_points(points), overlap=2 * needed - 2)
    with pytest.raises(
        UsageError, match=f"an overlap of at least {2 * needed} pixels.*Take --overlap {2 * needed} or leave"
    ):
        make_plan(image(), facts(), options, MACHINE)
    assert make_plan(image(), facts(), replace(options, overlap=2 * needed), MACHINE).settings.margin == needed
    assert make_plan(image(), facts(), replace(options, overlap=None), MACHINE).settings.margin == default


@pytest.mark.parametrize(
    ("patches", "blend", "needed"),
    [("1", None, 6), ("u>0.1", None, 6), ("4,8", None, 12), ("2,16", None, 12), ("1", "none", 12)],
)
def test_stages_that_begin_a_pass_need_the_rim_of_the_median_alone(
    patches: str, blend: Blend | None, needed: int
) -> None:
    """A pass reads blended results of all blocks; only stages within a pass need what a child reaches in its parent."""
    options = SegmentOptions(
        method="magnet-fast",
        points=parse_points("q>0.2"),
        patches=parse_patches(patches),
        blend=blend,
        overlap=2 * needed - 2,
    )
    with pytest.raises(UsageError, match=f"an overlap of at least {2 * needed} pixels"):
        make_plan(image(), facts(), options, MACHINE)
    assert make_plan(image(), facts(), replace(options, overlap=2 * needed), MACHINE).settings.margin == needed
    # The default does not follow what is accepted.
    assert make_plan(image(), facts(), replace(options, overlap=None), MACHINE).settings.margin == 12


def test_the_papers_margin_serves_one_block_and_one_stage() -> None:
    none = SegmentOptions(overlap=0, points=parse_points("32"))
    assert make_plan(image(256, 256), facts(), none, MACHINE).settings.margin == 0
    assert make_plan(image(), facts(), SegmentOptions(overlap=0, method="patch"), MACHINE).settings.margin == 0
    with pytest.raises(UsageError, match="has 2 blocks"):
        make_plan(image(257, 256), facts(), none, MACHINE)


def test_a_margin_leaves_something() -> None:
    with pytest.raises(UsageError, match=r"at most 62 pixels for a network input of 64x64, .*--overlap 64"):
        make_plan(image(), facts(), SegmentOptions(overlap=64), MACHINE)
    with pytest.raises(UsageError, match="smaller --median"):
        make_plan(image(), facts(), SegmentOptions(median=99, points=parse_points("9")), MACHINE)


@given(values=st.lists(st.sampled_from((2, 3, 4)), min_size=1, max_size=3), median=st.sampled_from((1, 3, 5, 11)))
def test_the_needed_margin_is_what_children_reach(values: list[int], median: int) -> None:
    scales = [square(64)]
    for ratio in values:
        scales.insert(0, square(scales[0].width * ratio))
    margin = needed_margin(scales, median)
    for ratio in values:
        # A child's window begins `margin` of its own pixels before its cell: `margin / ratio` of its parent's.
        assert margin - Fraction(margin, ratio) >= 1 + median // 2
    assert any(margin - 1 - Fraction(margin - 1, ratio) < 1 + median // 2 for ratio in values)


def test_bands_go_by_name_or_by_number() -> None:
    assert check_bands(image(bands=("blue", "green", "red", "nir")), facts()) == (2, 1, 0)
    assert check_bands(image(bands=("band1", "band2", "band3")), facts()) == (0, 1, 2)
    with pytest.raises(WeightsError, match="needs bands red, green, blue and the image has grey"):
        check_bands(image(bands=("grey",)), facts())
    many = tuple(f"band{number}" for number in range(1, 225))
    with pytest.raises(WeightsError, match="the image has band1 to band224, 224 in all"):
        check_bands(image(bands=many), facts())


def test_bands_are_matched_by_name_whatever_the_case() -> None:
    assert check_bands(image(bands=("Blue", "GREEN", "Red")), facts()) == (2, 1, 0)


def test_several_bands_of_a_name_that_the_bundle_needs_are_refused() -> None:
    with pytest.raises(SourceError, match=r"the image has 2 bands of that name.*got --bands red.*Name bands by number"):
        check_bands(image(bands=("red", "green", "blue", "red", "nir")), facts())
    # The very name wins over one in other letters, as with --bands.
    assert check_bands(image(bands=("Red", "green", "blue", "red", "RED")), facts()) == (3, 1, 2)
    assert check_bands(image(bands=("nir", "green", "blue", "red", "nir")), facts()) == (3, 1, 2)


def test_bands_are_named_by_number_or_name() -> None:
    five = image(bands=("B2", "B3", "b4", "488", "3"))
    assert check_bands(five, facts(), ("3", "2", "1")) == (2, 1, 0)
    assert check_bands(five, facts(), ("B4", "b3", "B2")) == (2, 1, 0)
    # 488 is no number of a band here, so it is a name; 3 is a number first.
    assert check_bands(five, facts(), ("488", "3", "3")) == (3, 2, 2)
    assert check_bands(image(bands=("grey",)), facts(), ("1", "1", "1")) == (0, 0, 0)
    same = image(bands=("red", "red", "Red", "nir"))
    assert check_bands(same, facts(), ("Red", "4", "1")) == (2, 3, 0)


def test_bands_that_cannot_be_had_are_refused_with_both_sides() -> None:
    with pytest.raises(
        UsageError, match=r"small reads 3 bands, red, green, blue, and --bands names 2 \(got --bands 4,3\)"
    ):
        check_bands(image(), facts(), ("4", "3"))
    with pytest.raises(
        SourceError, match=r"x\.tif: .*no such band; its bands are 1 to 3: red, green, blue \(got --bands 4"
    ):
        check_bands(image(), facts(), ("4", "3", "2"))
    with pytest.raises(SourceError, match=r"no such band.*got --bands 0"):
        check_bands(image(), facts(), ("0", "1", "2"))
    with pytest.raises(SourceError, match="2 bands of that name"):
        check_bands(image(bands=("red", "red", "nir")), facts(), ("red", "3", "nir"))
    with pytest.raises(WeightsError, match="--bands, by number or name"):
        check_bands(image(bands=("grey",)), facts())


@pytest.mark.parametrize(
    ("span", "fitting"),
    [
        ((0, 255), {"uint8"}),
        ((0, 250), {"uint8"}),
        ((-128, 127), {"int8"}),
        ((0, 127), {"uint8", "int8"}),
        ((0, 4095), {"uint16", "int16"}),
        ((0, 10000), {"uint16", "int16"}),
        ((0, 65535), {"uint16"}),
        ((-10000, 10000), {"int16"}),
        ((0, 100000), {"uint32", "int32"}),
        ((0, 1), {"float32", "float64"}),
        ((-1, 1), {"float32", "float64"}),
        ((-30, 10), {"float32", "float64"}),
        ((0, 300.5), {"float32", "float64"}),
    ],
)
def test_stored_values_have_to_be_of_the_bundles_kind(span: tuple[float, float], fitting: set[str]) -> None:
    model = facts(value_range=span)
    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"):
        if dtype in fitting:
            assert check_values(image(dtype=dtype), model, None) == (span,) * 3
            continue
        with pytest.raises(WeightsError, match=r"needs values from .* and the image stores .*--value-range"):
            check_values(image(dtype=dtype), model, None)


def test_a_mismatch_names_both_sides_and_what_helps() -> None:
    rule = r"x\.tif: bundle small needs values from 0 to 255, stored as uint8, and the image stores uint16, 0 to 65535"
    with pytest.raises(WeightsError, match=rf"{rule}\. Give the stored values .*2%,98% or dtype"):
        check_values(image(dtype="uint16"), facts(), None)
    with pytest.raises(WeightsError, match=r"stored as uint8, and the image stores float32. Give the stored values"):
        check_values(image(dtype="float32"), facts(), None)
    with pytest.raises(WeightsError, match="from 0 to 1, stored as floats, and the image stores uint8, 0 to 255"):
        check_values(image(), facts(value_range=(0, 1)), None)


def test_a_range_may_be_given_for_any_image() -> None:
    reflectance = parse_value_range("0,10000")
    for name in ("uint16", "int16", "float32", "uint32"):
        assert check_values(image(dtype=name), facts(), reflectance) == ((0, 10000),) * 3
    dtype = parse_value_range("dtype")
    assert check_values(image(dtype="uint16"), facts(), dtype) == ((0, 65535),) * 3
    assert check_values(image(dtype="int16"), facts(), dtype) == ((-32768, 32767),) * 3
    with pytest.raises(UsageError, match="stores float32, whose values have no end"):
        check_values(image(dtype="float32"), facts(), dtype)
    with pytest.raises(
        UsageError, match=r"stores uint8, 0 to 255: nothing lies in the range .got --value-range 300,400"
    ):
        check_values(image(), facts(), parse_value_range("300,400"))
    measured = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    assert check_values(image(dtype="float32"), facts(), parse_value_range("2%,98%"), measured=measured) == measured
    with pytest.raises(
        SourceError, match=r"percentiles 2%,98% of the band for blue are both 3.*--value-range LOW,HIGH"
    ):
        check_values(image(), facts(), parse_value_range("2%,98%"), measured=(*measured[:2], (3.0, 3.0)))


def test_windows_of_another_shape_than_the_input_are_named() -> None:
    wide = facts(input=Size(width=96, height=64))
    said = (
        "windows of 128x128 are resized to 0.75 of their width and 0.5 of their height for the network's input of "
        "96x64: --scales 128x85 would keep the shape of objects"
    )
    for text, wanted in (("128", [said]), ("192x128", []), ("auto", [])):
        notes = make_plan(image(), wide, SegmentOptions(scales=parse_scales(text)), MACHINE).notes
        assert [note for note in notes if "keep the shape" in note] == wanted


def test_bands_and_values_are_part_of_the_plan() -> None:
    options = SegmentOptions(bands=("4", "3", "2"), value_range=parse_value_range("0,10000"))
    many = image(dtype="uint16", bands=("band1", "band2", "band3", "band4"))
    plan = make_plan(many, facts(), options, MACHINE)
    assert plan.bands == (3, 2, 1)
    assert plan.value_range == ((0, 10000),) * 3
    found: Any = plan.describe()
    assert found["bands"][0] == {"name": "red", "band": 4, "of_image": "band4", "low": 0, "high": 10000}
    assert found["value_range"] == "0,10000"
    percentiles = replace(options, value_range=parse_value_range("2%,98%"))
    measured = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.5))
    plan = make_plan(many, facts(), percentiles, MACHINE, measured=measured)
    assert plan.value_range == measured
    assert plan.notes[-1] == "--value-range 2%,98% of this image: band4 1 to 2, band3 3 to 4, band2 5 to 6.5"
    hashes = {
        options_hash(make_plan(many, facts(), changed, MACHINE, measured=measured))
        for changed in (options, percentiles, replace(options, bands=("1", "2", "3")), replace(options))
    }
    assert len(hashes) == 3


def test_every_option_that_the_mask_depends_on_is_in_its_hash() -> None:
    scanned = Resolution(x=Fraction(1, 4), y=Fraction(1, 4), unit="um")
    of_scale = facts(resolution=Fraction(1, 2), unit="um")
    plan = make_plan(image(resolution=scanned), of_scale, SegmentOptions(), MACHINE)
    given: dict[str, dict[str, Any]] = {
        "method": {"method": "magnet-fast"},
        "merge": {"merge": "refiner"},
        "points": {"points": parse_points("q>0.2")},
        "count of points": {"points": parse_points("100")},
        "another count": {"points": parse_points("101")},
        "threshold": {"points": parse_points("q>0.3333333")},
        "a threshold like it": {"points": parse_points("q>0.33333334")},
        "patches": {"method": "magnet-fast", "patches": parse_patches("2")},
        "more patches": {"method": "magnet-fast", "patches": parse_patches("4,3")},
        "share": {"method": "magnet-fast", "patches": parse_patches("33.33333%")},
        "a share like it": {"method": "magnet-fast", "patches": parse_patches("33.333334%")},
        "budget": {"method": "magnet-fast", "budget": Fraction(1, 5)},
        "select": {"method": "magnet-fast", "budget": Fraction(1, 5), "select": "both"},
        "median": {"points": parse_points("q>0.2"), "median": 3},
        "overlap": {"overlap": 40},
        "scales": {"scales": (square(128), square(64))},
        "coarser scales": {"scales": (square(512), square(128), square(64))},
        "size of a pixel": {"mpp": Fraction(1, 3)},
        "bands": {"bands": ("3", "2", "1")},
        "range": {"value_range": parse_value_range("0,200")},
        "probabilities": {"probabilities": True},
        "uncertainty": {"uncertainty": True},
    }
    changed: dict[str, Plan] = {
        name: make_plan(image(resolution=scanned), of_scale, SegmentOptions(**options), MACHINE)
        for name, options in given.items()
    }
    changed["an area"] = replace(plan, areas=(AreaSpec(kind="roi", source="a.geojson", digest="a"),))
    changed["a file that was changed"] = replace(plan, areas=(AreaSpec(kind="roi", source="a.geojson", digest="b"),))
    changed["precision"] = replace(plan, machine=replace(plan.machine, precision="bfloat16"))
    changed["engine"] = replace(plan, machine=replace(plan.machine, engine="openvino"))
    changed["batch"] = replace(plan, batch=plan.batch + 1)
    other = Resolution(x=Fraction(1, 4), y=Fraction(1, 5), unit="um")
    changed["what is written of a pixel"] = replace(plan, image=replace(plan.image, resolution=other))
    changed["device"] = replace(plan, machine=replace(plan.machine, device="cuda"))
    changed["group"] = replace(plan, group=tuple(2 * size for size in plan.group))
    found = {name: options_hash(other) for name, other in {"nothing": plan, **changed}.items()}
    alike = [pair for pair in combinations(found, 2) if found[pair[0]] == found[pair[1]]]
    assert alike == []


@pytest.mark.parametrize("machine", [{"memory": 4 << 30}, {"base": 400 << 20}])
def test_the_hash_does_not_depend_on_memory_or_workers(machine: dict[str, int]) -> None:
    plan = make_plan(image(), facts(), SegmentOptions(), MACHINE)
    other = make_plan(image(), facts(), SegmentOptions(num_workers=7), replace(MACHINE, **machine))  # type: ignore[arg-type]
    assert options_hash(other) == options_hash(plan)


@pytest.mark.parametrize(
    ("dtype", "span", "clamps"),
    [
        ("uint8", (0, 255), False),
        ("uint8", (0, 250), True),
        ("uint16", (0, 10000), True),
        ("uint16", (0, 65535), False),
        ("int16", (0, 10000), True),
        ("float32", (0, 1), True),
    ],
)
def test_values_are_clamped_where_some_may_lie_beyond(dtype: str, span: tuple[float, float], *, clamps: bool) -> None:
    assert needs_clamp(image(dtype=dtype), (span,) * 3) is clamps


def test_memory_is_planned_for_the_bands_that_are_seen() -> None:
    three = make_plan(image(4000, 4000), facts(), SegmentOptions(), MACHINE).memory
    bands = tuple(f"band{number}" for number in range(1, 13))
    twelve = make_plan(image(4000, 4000, bands=bands), facts(), SegmentOptions(bands=("1", "2", "3")), MACHINE).memory
    assert twelve.compute == three.compute
    assert twelve.output == three.output
    assert twelve.group > three.group


@given(text=st.sampled_from(["1,2,3", "100", "64", "1048576,64"]), width=st.integers(1, 5000))
def test_any_scales_make_a_plan(text: str, width: int) -> None:
    options = SegmentOptions(scales=parse_scales(text), points=ALL)
    assert make_plan(image(width, 50), facts(), options, MACHINE).stages


def brute_force(plan: Plan, step: Pass, stage: Stage) -> int:
    """Return the most windows that can be computed, counted block by block."""
    rule = ALL if plan.is_first(step, stage) else plan.settings.patches
    ratio, number = step.ratio(stage), stage.number - 2
    places = ({stage.window(cell) for cell in step.cells(block, stage)} for block in all_blocks(step))
    return sum(_chosen(rule, len(windows), ratio, number) for windows in places)


def all_blocks(step: Pass) -> list[Index]:
    return [step.block(number) for number in range(step.blocks.width * step.blocks.height)]


def _chosen(rule: Rule, total: int, ratio: Size, step: int) -> int:
    if rule.kind == "share":
        return min(total, ceil(rule.value(step) * total))
    if rule.kind == "count":
        return min(total, ceil(rule.value(step) * total / (ratio.width * ratio.height)))
    return total


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 1500),
    height=st.integers(1, 1500),
    scales=st.sampled_from(["64", "64,128", "64,128,256", "64,192", "100,150,300", "64x128,128x256", "64,2048"]),
    patches=st.sampled_from(["all", "3", "1,2,9", "25%", "0.01", "u>0.1"]),
)
def test_window_counts(width: int, height: int, scales: str, patches: str) -> None:
    options = SegmentOptions(
        scales=parse_scales(scales), method="magnet-fast", patches=parse_patches(patches), points=ALL
    )
    plan = make_plan(image(width, height), facts(), options, MACHINE)
    for step in plan.passes:
        blocks = [block for group in range(plan.groups(step)) for block in plan.blocks(step, group)]
        assert blocks == all_blocks(step)
        for stage in step.stages:
            cells = [cell for block in blocks for cell in step.cells(block, stage)]
            assert len(set(cells)) == len(cells) == stage.cells.width * stage.cells.height
            assert sum(stage.own(cell).area for cell in cells) == stage.extent.width * stage.extent.height
            assert plan.windows(step, stage) == brute_force(plan, step, stage)


def test_passes_span_a_factor_of_eight() -> None:
    scales = [square(side) for side in (8192, 4096, 2048, 1024, 512, 256, 100)]
    assert [sides(tuple(group)) for group in group_scales(scales)] == [[8192, 4096], [2048, 1024, 512, 256], [100]]
    options = SegmentOptions(scales=tuple(scales))
    plan = make_plan(image(20000, 20000), facts(), options, MACHINE)
    assert [stage.number for stage in plan.stages] == [1, 2, 3, 4, 5, 6, 7]
    assert [plan.is_first(step, step.stages[0]) for step in plan.passes] == [True, False, False]


@pytest.mark.parametrize(
    ("patches", "size", "stages"),
    [
        ("3", (5000, 4000), [1, 1, 1, 1]),
        ("25%", (5000, 4000), [1, 1, 1, 1]),
        ("u>0.2", (5000, 4000), [1, 1, 1, 1]),
        ("4,16,1", (5000, 4000), [3, 1]),
        ("100%", (5000, 4000), [4]),
        ("all", (5000, 4000), [4]),
        ("3", (900, 700), [4]),
    ],
)
def test_a_stage_that_leaves_out_windows_of_several_blocks_begins_a_pass(
    patches: str, size: tuple[int, int], stages: list[int]
) -> None:
    """The blocks, in which windows are ranked, are the same as those of one pass."""
    scales = tuple(square(side) for side in (2048, 1024, 512, 256))
    options = SegmentOptions(scales=scales, method="magnet-fast", patches=parse_patches(patches), overlap=32)
    plan = make_plan(image(*size), facts(), options, MACHINE)
    assert [len(step.stages) for step in plan.passes] == stages
    assert [step.number for step in plan.passes] == list(range(len(stages)))
    assert len({step.blocks for step in plan.passes}) == 1
    assert len({step.level0(step.block(0)) for step in plan.passes}) == 1
    windows = [plan.windows(step, stage) for step in plan.passes for stage in step.stages]
    whole = replace(plan.passes[0], stages=plan.stages)
    assert windows == [plan.windows(whole, stage) for stage in plan.stages]


def test_too_little_memory_names_what_is_needed() -> None:
    with pytest.raises(DeviceError, match=r"x\.tif: the run needs at least (\d+)MiB of host memory") as caught:
        make_plan(image(), facts(), SegmentOptions(), replace(MACHINE, memory=64 << 20))
    needed = int(str(caught.value).partition("at least ")[2].partition("MiB")[0])
    assert make_plan(image(), facts(), SegmentOptions(), replace(MACHINE, memory=needed << 20)).memory.ahead == 0
    with pytest.raises(DeviceError):
        make_plan(image(), facts(), SegmentOptions(), replace(MACHINE, memory=(needed - 1) << 20))


def test_a_window_larger_than_the_image_needs_memory_for_the_image_alone() -> None:
    near, far = (
        make_plan(image(), facts(), SegmentOptions(scales=(square(side),)), MACHINE).memory for side in (2048, 10**6)
    )
    assert far.total <= near.total


@pytest.mark.parametrize("compat", ["published", "published-unshifted"])
def test_the_published_arithmetic_merges_with_the_refiner(compat: Compat) -> None:
    published = SegmentOptions(compat=compat, scales=(square(256), square(128)))
    assert facts().defaults.merge == "mean"
    assert make_plan(image(256, 256), facts(), published, MACHINE).settings.merge == "refiner"
    for merge in ("mean", "certainty", "geometric"):
        with pytest.raises(UsageError, match=rf"--compat {compat} merges with the refiner \(got --merge {merge}\)"):
            make_plan(image(256, 256), facts(), replace(published, merge=merge), MACHINE)


def test_the_published_arithmetic_has_no_margin_and_so_one_block() -> None:
    published = SegmentOptions(compat="published", points=parse_points("30%"), median=11)
    plan = make_plan(image(256, 256), facts(), published, MACHINE)
    assert plan.settings.margin == 0
    assert [stage.cells.pixels for stage in plan.stages] == [1, 4, 16]


def test_the_published_arithmetic_is_planned_with_the_whole_image() -> None:
    published = SegmentOptions(compat="published", scales=(square(4096), square(1024)))
    plan = make_plan(image(4096, 4096), facts(), published, MACHINE)
    assert plan.memory.compute > 4096**2 * 5 * 4 * 5
    with pytest.raises(DeviceError, match="of host memory"):
        make_plan(image(4096, 4096), facts(), published, replace(MACHINE, memory=1 << 30))


@pytest.mark.parametrize("method", ["patch", "downsample"])
@pytest.mark.parametrize(
    ("given", "value", "other"),
    [
        ({"points": "75%"}, "--points 75%", "magnet"),
        ({"points": "q>0.2", "median": 3}, "--points q>0.2 and --median 3", "magnet"),
        ({"merge": "mean"}, "--merge mean", "magnet"),
        ({"median": 11}, "--median 11", "magnet"),
        ({"patches": "4,16"}, "--patches 4,16", "magnet-fast"),
        ({"patches": "selector"}, "--patches selector", "grnet"),
        ({"patches": "selector", "merge": "mean"}, "--patches selector and --merge mean", "magnet-fast"),
    ],
)
def test_a_method_of_one_stage_refuses_what_only_later_stages_use(
    method: Method, given: dict[str, Any], value: str, other: str
) -> None:
    words = " and ".join(f"--{name}" for name in given)
    rule = f"--method {method} computes every window of a single stage, which chooses and merges nothing"
    with pytest.raises(
        UsageError, match=re.escape(f"{rule} (got {value}). Leave {words} out, or take --method {other}")
    ):
        make_plan(image(), facts(), SegmentOptions(method=method, **given), MACHINE)
    # What is done anyway may be named, and what the bundle recommends is no option of the user.
    named = SegmentOptions(method=method, points="all", patches="all")
    own = facts(defaults=BundleDefaults(scales=(square(64),), merge="refiner", points=parse_points("75%"), median=5))
    assert make_plan(image(), own, named, MACHINE).settings.merge == "refiner"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"method": "magnet-fast", "patches": "all", "select": "change"}, "--select change ranks windows"),
        ({"overlap": 0, "blend": "spline"}, "--overlap 0 has no windows to join.*--blend spline"),
        ({"overlap": 8, "compat": "published"}, "--compat published .*--overlap 8"),
    ],
)
def test_an_option_that_another_makes_idle_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make_plan(image(), facts(), SegmentOptions(**given), MACHINE)


def test_what_changes_nothing_with_this_bundle_or_image_is_noted() -> None:
    def notes(**given: Any) -> str:
        return " ".join(make_plan(image(), facts(), SegmentOptions(**given), MACHINE).notes)

    assert "--median 5 has no effect but on the default overlap" in notes(median=5)
    assert "--median 5 has no effect: " in notes(median=5, overlap=32)
    assert "--median" not in notes(median=5, points="50%")
    assert "--merge mean has no effect" in notes(scales="64", merge="mean")
    one = notes(scales="64", method="magnet-fast", points="50%", patches="3", median=5)
    assert "one stage" in one
    assert "--points 50%, --patches 3 and --median 5 have no effect" in one
    assert "--patches 1,2,3 names 3 stages" in notes(method="magnet-fast", patches="1,2,3")
    assert notes(method="magnet-fast", patches="1,2", merge="mean") == notes()


def test_an_overlap_is_noted_where_the_bundle_alone_asks_for_the_published_windows() -> None:
    own = facts(compat="published", has_refiner=True)
    plan = make_plan(image(), own, SegmentOptions(overlap=8), MACHINE)
    assert "--overlap 8 has no effect: --compat published, which the bundle recommends" in " ".join(plan.notes)
    assert "--overlap" not in " ".join(make_plan(image(), own, SegmentOptions(), MACHINE).notes)


def test_a_refused_rule_is_spelled_as_it_was_given() -> None:
    with pytest.raises(UsageError, match=r"--patches u>0\.1\)"):
        make_plan(image(), facts(), SegmentOptions(patches=parse_patches("u>0.1")), MACHINE)


@pytest.mark.parametrize(
    ("sides", "batch", "blocks"),
    [((512, 256), 4, 4), ((1024, 512, 256), 4, 2), ((2048, 1024, 512, 256), 4, 1), ((256,), 4, 1), ((256,), 1, 1)],
)
def test_as_many_blocks_share_as_fill_their_batches(sides: tuple[int, ...], batch: int, blocks: int) -> None:
    """A block has 1, 4, 16 and 64 windows in its four stages: alone it leaves 2 of 88 places of batches empty.

    In a run of one stage a block has 16 windows.
    """
    scales = tuple(Size(width=side, height=side) for side in sides)
    plan = make_plan(image(), facts(), SegmentOptions(scales=scales, batch_size=batch, overlap=24), MACHINE)
    assert plan.group == (blocks,)


@pytest.mark.parametrize(
    ("device", "wanted", "memory", "processes"),
    [("cuda:0", None, 1 << 40, 16), ("cuda:0", 2, 1 << 40, 0), ("cpu", None, 1 << 40, 0), ("cpu", 5, 1 << 40, 5)],
)
def test_many_readers_of_a_large_image_are_processes(
    device: str, wanted: int | None, memory: int, processes: int
) -> None:
    machine = replace(MACHINE, device=device, cores=32, memory=memory, gpu_memory=1 << 40)
    options = SegmentOptions(num_workers=wanted)
    plan = make_plan(image(20_000, 20_000), facts(), options, machine)
    assert plan.memory.processes == processes
    assert make_plan(image(), facts(), options, machine).memory.processes == 0


def test_processes_are_as_few_as_memory_allows() -> None:
    gpu = replace(MACHINE, device="cuda:0", cores=16, memory=1 << 40, gpu_memory=1 << 40)
    all_of_them = make_plan(image(20_000, 20_000), facts(), SegmentOptions(), gpu).memory
    assert all_of_them.process > PROCESS_BYTES
    for fewer, expected in ((7, 7), (2, 0)):
        lacking = (16 - fewer) * all_of_them.process + all_of_them.group * all_of_them.ahead
        tight = replace(gpu, memory=all_of_them.total - lacking)
        found = make_plan(image(20_000, 20_000), facts(), SegmentOptions(), tight).memory
        assert found.processes == expected
        assert found.total <= tight.memory


def test_a_gpu_holds_no_more_blocks_than_patches_share_a_pass() -> None:
    gpu = replace(MACHINE, device="cuda:0", gpu_memory=64 << 30)
    scales = tuple(Size(width=side, height=side) for side in (1024, 512, 256))
    plans = {
        batch: make_plan(image(), facts(), SegmentOptions(scales=scales, batch_size=batch, overlap=24), gpu)
        for batch in (1, 2, 4, 16)
    }
    assert [plan.group for plan in plans.values()] == [(1,), (2,), (4,), (8,)]
    assert plans[1].memory.device < plans[2].memory.device < plans[4].memory.device


def test_the_batch_is_the_bundles_for_the_device_and_the_precision() -> None:
    model = replace(facts(), batches={("cpu", "float32"): 3, ("cuda", "bfloat16"): 32})
    for device, precision, batch in (("cpu", "float32", 3), ("cpu", "bfloat16", 4), ("cuda:1", "bfloat16", 32)):
        machine = replace(MACHINE, device=device, precision=precision)
        assert make_plan(image(), model, SegmentOptions(), machine).batch == batch
    assert make_plan(image(), model, SegmentOptions(batch_size=2), MACHINE).batch == 2


def test_too_little_device_memory_names_what_is_needed() -> None:
    device = replace(MACHINE, device="cuda:0", gpu_memory=100 << 20, context=300 << 20)
    with pytest.raises(DeviceError, match=r"at least (\d+)MiB of device memory") as caught:
        make_plan(image(), facts(), SegmentOptions(), device)
    needed = int(str(caught.value).partition("at least ")[2].partition("MiB")[0])
    plan = make_plan(image(), facts(), SegmentOptions(), replace(device, gpu_memory=needed << 20))
    assert plan.memory.device_budget == needed << 20


def test_a_device_holds_the_weights() -> None:
    """In host memory the weights are part of what is in use before the first read."""
    heavy = facts(weight_bytes=123 << 20)
    on_host = [make_plan(image(), model, SegmentOptions(), MACHINE).memory for model in (facts(), heavy)]
    assert on_host[0] == on_host[1]
    device = replace(MACHINE, device="cuda:0", gpu_memory=8 << 30)
    light, found = (make_plan(image(), model, SegmentOptions(), device).memory.device for model in (facts(), heavy))
    assert found - light == 123 << 20


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (SegmentOptions(method="magnet-fast", select="ppn"), True),
        (SegmentOptions(method="magnet-fast"), False),
        (SegmentOptions(method="grnet"), True),
        (SegmentOptions(method="grnet", patches=ALL), False),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_selector_takes_memory_where_it_is_asked(options: SegmentOptions, asked: bool, device: str) -> None:  # noqa: FBT001
    machine = replace(MACHINE, device=device, gpu_memory=8 << 30)
    selector = SelectorFacts(against="constant", constant=0, sees_field=False, activation_bytes=1 << 20)
    light, heavy = (
        make_plan(image(), facts(cells=4, local_bytes=1 << 20, selector=which), options, machine)
        for which in (selector, replace(selector, activation_bytes=65 << 20))
    )
    more = heavy.memory.compute + heavy.memory.device - light.memory.compute - light.memory.device
    assert more == (light.batch * (64 << 20) if asked else 0)


@pytest.mark.parametrize(
    ("device", "cores", "wanted", "readers"),
    [("cpu", 64, None, 2), ("cuda:1", 64, None, 16), ("cuda:0", 8, None, 8), ("mps", 1, None, 2), ("cuda:0", 64, 0, 0)],
)
def test_an_accelerator_is_fed_by_all_cores(device: str, cores: int, wanted: int | None, readers: int) -> None:
    machine = replace(MACHINE, device=device, cores=cores, memory=1 << 40, gpu_memory=1 << 40)
    assert machine.readers(wanted) == readers
    assert make_plan(image(), facts(), SegmentOptions(num_workers=wanted), machine).memory.ahead == readers


@given(memory=st.integers(1 << 29, 1 << 36), workers=st.integers(0, 64))
def test_memory_is_planned_within_the_budget_and_changes_nothing_else(memory: int, workers: int) -> None:
    options = SegmentOptions(num_workers=workers)
    usual = make_plan(image(), facts(), SegmentOptions(), MACHINE)
    plan = make_plan(image(), facts(), options, replace(MACHINE, memory=memory))
    assert plan.memory.total <= memory
    assert plan.memory.ahead <= workers
    assert replace(plan, memory=usual.memory, machine=MACHINE) == usual


@settings(deadline=None, max_examples=30)
@given(side=st.integers(1000, 200_000), ratio=st.integers(1, 4))
def test_memory_does_not_grow_with_the_image(side: int, ratio: int) -> None:
    assume(side * ratio < 300_000)
    usual = make_plan(image(100_000, 100_000), facts(), SegmentOptions(), MACHINE).memory
    found = make_plan(image(side * ratio, side), facts(), SegmentOptions(), MACHINE).memory
    assert found.total <= usual.total


def test_a_plan_is_json() -> None:
    options = SegmentOptions(scales="full", points=parse_points("q>0.2"), probabilities=True)
    pixel = Resolution(x=Fraction("0.2522"), y=Fraction("0.2522"), unit="um")
    plan = make_plan(image(3001, 1999, resolution=pixel, cache_bytes=7), facts(), options, MACHINE)
    found = json.loads(json.dumps(plan.describe(), allow_nan=False))
    assert found["image"] == "x.tif"
    assert found["size"] == {"width": 3001, "height": 1999}
    assert found["points"] == "q>0.2"
    assert found["memory"]["planned"] <= found["memory"]["budget"]
    assert found["disk"]["decode_cache"] == 7
    assert found["disk"]["probabilities_at_most"] == 3001 * 1999 * 5
    stages = [stage for step in found["passes"] for stage in step["stages"]]
    assert [stage["scale"]["width"] for stage in stages] == [4096, 2048, 1024, 512, 256, 128, 64]


def test_memory_and_disk_hold_what_small_blocks_keep_for_their_neighbours() -> None:
    # A block of which little lies deep inside keeps all of its values, which is more than a ring along its borders.
    options = SegmentOptions(method="patch", overlap="50%")
    plan = make_plan(image(), facts(classes=50), options, MACHINE)
    (step,) = plan.passes
    block = step.block(step.blocks.width + 1)
    assert step.kept(block) == [step.reach(block)]
    assert plan.memory.output >= 2 * plan.group[0] * step.reach(block).area * plan.classes * 2
    fields = plan.disk()["fields_at_most"]
    with_area = replace(plan, areas=(AreaSpec(kind="roi", source="a.geojson", digest="a"),), uncertainty=True)
    validity = plan.image.size.pixels + step.stages[-1].extent.pixels
    assert with_area.disk()["fields_at_most"] == fields + validity
