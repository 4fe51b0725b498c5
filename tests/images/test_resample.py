"""Resampling keeps constants and means, moves nothing, and gives invalid pixels no weight."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images.levels import axis_downsample, choose_level, downsample, is_reduction, level_table
from magnet_cli.images.protocol import ImageInfo, Region, Request
from magnet_cli.images.reader import PIECE_PIXELS, PyramidImage, clusters, pieces, reflected
from magnet_cli.images.resampling import accumulator, divide
from magnet_cli.images.sampler import Sampler
from magnet_cli.images.store import MemoryStore, OrientedStore, Pixels, oriented

Array = NDArray[Any]
RATIOS = st.fractions(min_value=Fraction(1, 4), max_value=12, max_denominator=40)
COARSE = st.fractions(min_value=1, max_value=12, max_denominator=40)


def memory_image(values: Array, valid: NDArray[np.bool_] | None = None) -> PyramidImage:
    height, width, bands = values.shape
    size = Size(width=width, height=height)
    info = ImageInfo(
        path="memory",
        backend="memory",
        size=size,
        levels=level_table(size, []),
        bands=tuple(f"band{index + 1}" for index in range(bands)),
        dtype=values.dtype.name,
        has_mask=valid is not None,
    )
    return PyramidImage(info, MemoryStore(values, valid))


def sample(values: Array, pitch: Fraction, resample: str = "area", valid: NDArray[np.bool_] | None = None) -> Region:
    image = memory_image(values, valid)
    grid = Pitch.square(pitch)
    return image.read([Request(pitch=grid, box=Box.whole(grid.cover(image.info.size)), resample=resample)])[0]


@given(
    value=st.integers(0, 255),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    pitch=RATIOS,
    resample=st.sampled_from(["area", "bilinear"]),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"]),
)
def test_a_constant_stays(*, value: int, width: int, height: int, pitch: Fraction, resample: str, dtype: str) -> None:
    region = sample(np.full((height, width, 2), value, dtype), pitch, resample)
    assert region.pixels.dtype == dtype
    assert (region.pixels == value).all()


@given(
    values=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(1)), elements=st.integers(0, 255)
    ),
    numerator=st.integers(1, 8),
)
def test_the_mean_stays(values: Array, numerator: int) -> None:
    """The pitch divides the image, which is repeated for that, so that only whole pixels are averaged."""
    tall = np.kron(values, np.ones((numerator, numerator, 1)))
    region = sample(tall, Fraction(numerator))
    np.testing.assert_allclose(region.pixels, values, atol=1e-9)
    whole = sample(values, Fraction(values.shape[0]))
    if values.shape[0] == values.shape[1]:
        np.testing.assert_allclose(whole.pixels.ravel(), [values.mean()], atol=1e-9)


@given(pitch=COARSE, resample=st.sampled_from(["area", "bilinear"]))
def test_a_ramp_stays_centred(pitch: Fraction, resample: str) -> None:
    """Pixel i of the grid holds the ramp's value at its centre, `(i + 1/2) * pitch - 1/2` in pixel indices."""
    ramp = np.arange(200, dtype=np.float64)[None, :, None].repeat(200, axis=0)
    region = sample(ramp, pitch, resample)
    inner = region.pixels[2, 1 : int(180 / pitch), 0]
    centres = (np.arange(1, len(inner) + 1) + 0.5) * float(pitch) - 0.5
    # A ramp of pixels is a staircase: its mean over fractions of pixels lies up to 1/8 pixel beside the slope, not on
    # one side of it over a whole period.
    slack = 0.125 / float(pitch) if resample == "area" else 0
    np.testing.assert_allclose(inner, centres, atol=slack + 1e-9)
    periods = len(inner) // pitch.denominator * pitch.denominator
    if periods:
        assert abs((inner - centres)[:periods].mean()) < 1e-9


@given(pitch=st.fractions(min_value=Fraction(1, 4), max_value=Fraction(39, 40), max_denominator=40))
def test_an_enlarged_ramp_stays_centred(pitch: Fraction) -> None:
    ramp = np.arange(40, dtype=np.float64)[None, :, None].repeat(40, axis=0)
    region = sample(ramp, pitch)
    columns = np.arange(region.pixels.shape[1])
    centres = np.clip((columns + 0.5) * float(pitch) - 0.5, 0, 39)
    inside = slice(0, int(39 / pitch))
    np.testing.assert_allclose(region.pixels[0, inside, 0], centres[inside], atol=1e-9)


@given(pitch=COARSE, shift=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_shift_by_whole_pixels_moves_the_result(pitch: Fraction, shift: int, seed: int) -> None:
    offset = shift * pitch.numerator
    values = np.random.default_rng(seed).integers(0, 256, (30, 120 + offset, 2)).astype(np.uint8)
    moved = sample(values[:, offset:], pitch).pixels
    whole = sample(values, pitch).pixels
    inner = int(110 / pitch)
    steps = shift * pitch.denominator
    np.testing.assert_array_equal(moved[:, :inner], whole[:, steps : steps + inner])


@given(
    values=arrays.arrays(np.uint8, st.tuples(st.integers(1, 25), st.integers(1, 25), st.just(2))),
    pitch=COARSE,
    data=st.data(),
)
@settings(max_examples=50)
def test_invalid_pixels_weigh_nothing(values: Array, pitch: Fraction, data: st.DataObject) -> None:
    valid = data.draw(arrays.arrays(np.bool_, values.shape[:2]))
    region = sample(values, pitch, valid=valid)
    other = sample(np.where(valid[:, :, None], values, 255 - values), pitch, valid=valid)
    np.testing.assert_array_equal(region.pixels, other.pixels)
    share = sample(valid[:, :, None].astype(np.float64), pitch).pixels[:, :, 0]
    found = np.ones(share.shape, np.bool_) if region.valid is None else region.valid
    clear = abs(share - 0.5) > 1e-9
    np.testing.assert_array_equal(found[clear], share[clear] > 0.5)
    assert not region.pixels[~found].any()


def test_half_the_area_is_enough_to_be_valid() -> None:
    valid = np.array([[True, False]])
    region = sample(np.array([[[10], [200]]], np.uint8), Fraction(2), valid=valid[:1])
    assert region.valid is None
    assert region.pixels.ravel() == [10]


@pytest.mark.parametrize(("values", "mean"), [((0, 1), 1), ((1, 2), 2), ((-1, 0), 0), ((-2, -1), -1), ((3, 4), 4)])
def test_halves_are_rounded_up(values: tuple[int, int], mean: int) -> None:
    region = sample(np.array([values], np.int16)[:, :, None].repeat(2, axis=0), Fraction(2))
    assert region.pixels.ravel() == [mean]


@pytest.mark.parametrize("pitch", [Fraction(5, 3), Fraction(1224, 508), Fraction(2), Fraction(1, 2)])
def test_bilinear_agrees_with_opencv(pitch: Fraction) -> None:
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(1).integers(0, 256, (240, 240, 3)).astype(np.uint8)
    side = int(240 / pitch)
    pitch = Fraction(240, side)
    ours = sample(values, pitch, "bilinear").pixels.astype(int)
    theirs = cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR).astype(int)
    assert abs(ours - theirs).max() <= 1


def test_64_bit_and_extreme_ratios_fall_back_to_floats() -> None:
    big = np.full((5, 5, 1), 2**40, np.int64)
    assert (sample(big, Fraction(5, 2)).pixels == 2**40).all()
    fine = Fraction(2) + Fraction(1, 2**40)
    assert (sample(np.full((9, 9, 1), 200, np.uint8), fine).pixels == 200).all()


@pytest.mark.parametrize(
    ("full", "stored", "expected"),
    [(10007, 2501, 4), (10007, 2502, 4), (10007, 5003, 2), (131, 131, 1), (131, 1, 128), (1000, 300, Fraction(10, 3))],
)
def test_downsamples_are_snapped(full: int, stored: int, expected: Fraction) -> None:
    assert axis_downsample(full, stored) == expected


def test_the_longer_axis_decides() -> None:
    assert downsample(Size(width=5, height=4096), Size(width=1, height=512)) == Pitch.square(8)
    assert downsample(Size(width=600, height=400), Size(width=200, height=130)) == Pitch(
        x=Fraction(3), y=Fraction(40, 13)
    )


def test_a_label_is_no_level() -> None:
    full = Size(width=2220, height=2967)
    assert not is_reduction(full, Size(width=387, height=463))
    assert is_reduction(full, Size(width=555, height=742))
    assert not is_reduction(full, full)


def test_the_coarsest_level_that_is_fine_enough_serves() -> None:
    levels = level_table(Size(width=4096, height=4096), [Size(width=1024, height=1024), Size(width=256, height=256)])
    asked = (1, Fraction(39, 10), 4, 15, 16, 100)
    assert [choose_level(levels, Pitch.square(pitch)) for pitch in asked] == [0, 0, 1, 1, 2, 2]


@given(begin=st.integers(-50, 50), length=st.integers(0, 60), size=st.integers(1, 20))
def test_reflection_is_numpys_symmetric_padding(begin: int, length: int, size: int) -> None:
    padded = np.pad(np.arange(size), (60, 120), mode="symmetric")
    np.testing.assert_array_equal(reflected(begin, begin + length, size), padded[60 + begin : 60 + begin + length])


@given(
    x=st.integers(-300, 5000),
    y=st.integers(-300, 5000),
    width=st.integers(1, 60000),
    height=st.integers(1, 60000),
    block=st.sampled_from([Size(width=256, height=256), Size(width=40000, height=16), Size(width=512, height=4096)]),
)
def test_pieces_tile_a_box_and_stay_small(x: int, y: int, width: int, height: int, block: Size) -> None:
    box = Box(x=x, y=y, width=width, height=height)
    cut = list(pieces(box, block))
    assert sum(piece.area for piece in cut) == box.area
    assert all(box.contains(piece) for piece in cut)
    assert max(piece.area for piece in cut) <= max(PIECE_PIXELS, block.pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
@given(total=st.integers(1, 1 << 14), seed=st.integers(0, 99))
def test_means_are_rounded_as_whole_numbers_are(dtype: str, total: int, seed: int) -> None:
    """The type of the sums changes no mean, also next to a half, where one missing bit would show."""
    kind, whole = np.dtype(dtype), total * total
    limits, wide = np.iinfo(kind), accumulator(kind, total, total)
    means = np.random.default_rng(seed).integers(limits.min + 1, limits.max - 1, 50)
    sums = [int(mean) * whole + whole // 2 + near for mean in means for near in (-1, 0, 1)]
    exact = [(2 * value + whole) // (2 * whole) for value in sums]
    assert divide(np.array(sums, wide), whole, kind).tolist() == exact
    assert divide(np.array(sums, wide), np.full(len(sums), whole, wide), kind).tolist() == exact


def test_nested_requests_share_a_decode_and_far_ones_do_not() -> None:
    def sampler(x: int, side: int, pitch: int) -> Sampler:
        request = Request(
            pitch=Pitch.square(pitch), box=Box(x=x // pitch, y=0, width=side // pitch, height=side // pitch)
        )
        return Sampler(request, level=0, downsample=LEVEL0, shape=(1, np.dtype(np.uint8)), masked=False)

    found = clusters([sampler(0, 1000, 10), sampler(0, 5000, 10), sampler(2000, 1000, 1), sampler(90000, 500, 1)])
    assert [(cluster.box.width, len(cluster.samplers)) for cluster in found] == [(5000, 3), (500, 1)]


class CountingStore(MemoryStore):
    """A store in memory that counts the pixels that are requested."""

    asked = 0
    largest = 0

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        self.asked += box.area
        self.largest = max(self.largest, box.area)
        return super().fetch(level, box, bands)


def test_an_image_without_levels_is_decoded_once_for_all_pitches() -> None:
    values = np.random.default_rng(0).integers(0, 256, (2000, 3000, 1)).astype(np.uint8)
    store = CountingStore(values)
    image = PyramidImage(memory_image(values).info, store)
    requests = [
        Request(pitch=Pitch.square(p), box=Box.whole(Pitch.square(p).cover(image.info.size))) for p in (4, 10, 50)
    ]
    regions = image.read(requests)
    assert store.asked == values.size
    assert store.largest <= PIECE_PIXELS
    np.testing.assert_array_equal(regions[1].pixels, sample(values, Fraction(10)).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@given(data=st.data())
@settings(max_examples=20)
def test_orientation_turns_boxes_and_pixels_alike(orientation: int, data: st.DataObject) -> None:
    values = np.arange(7 * 5).reshape(7, 5, 1).astype(np.uint8)
    store = OrientedStore(MemoryStore(values), [Size(width=5, height=7)], orientation)
    size = oriented(Size(width=5, height=7), orientation)
    steps = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # quarter turns, counter-clockwise
    upright = np.rot90(values, steps[orientation])
    if orientation in (2, 4, 5, 7):
        upright = upright[:, ::-1]
    x, y = data.draw(st.integers(0, size.width - 1)), data.draw(st.integers(0, size.height - 1))
    box = Box(
        x=x, y=y, width=data.draw(st.integers(1, size.width - x)), height=data.draw(st.integers(1, size.height - y))
    )
    np.testing.assert_array_equal(store.fetch(0, box).values, upright[box.slices])
