"""The parts of the published arithmetic are right: resizing, windows, cut-outs, joining, points and settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter
from torch.nn import functional

from magnet_cli.arithmetic.published.image_resize import resize_uint8_bilinear
from magnet_cli.arithmetic.published.point_choice import certainty, choose_points, median_zero_padded, point_count
from magnet_cli.arithmetic.published.stages import PublishedSettings, settings_from_scales
from magnet_cli.arithmetic.published.window_grid import OverlapMean, PublishedCutOut, place_windows
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size

sides = st.integers(1, 90)
sizes = st.builds(Size, width=sides, height=sides)


def square(side: int) -> Size:
    return Size(width=side, height=side)


SMALL = PublishedSettings(
    stages=(square(32), square(64), square(128)), crop=square(32), input=square(32), points=0.3, median=3
)


class TestResize:
    @settings(deadline=None, max_examples=80)
    @given(source=sizes, target=sizes, bands=st.sampled_from([1, 3, 4]), seed=st.integers(0, 9))
    def test_it_gives_what_opencv_gives(self, source: Size, target: Size, bands: int, seed: int) -> None:
        cv2 = pytest.importorskip("cv2")
        shape = (source.height, source.width, bands)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        expected = cv2.resize(pixels, (target.width, target.height), interpolation=cv2.INTER_LINEAR)

        found = resize_uint8_bilinear(pixels, size=target)

        np.testing.assert_array_equal(found, expected.reshape(target.height, target.width, bands))

    def test_exact_halving_is_a_box_average(self) -> None:
        pixels = np.array([[0, 3, 10, 10], [1, 3, 10, 12]], np.uint8)[:, :, None]

        found = resize_uint8_bilinear(pixels, size=Size(width=2, height=1))

        assert found.ravel().tolist() == [2, 11]  # 7 / 4 and 42 / 4 = 10.5, rounded up


class TestWindows:
    @given(crop=sizes, extra=st.tuples(st.integers(0, 300), st.integers(0, 300)))
    def test_they_reach_every_edge_in_even_steps_and_stay_inside(self, crop: Size, extra: tuple[int, int]) -> None:
        stage = Size(width=crop.width + extra[0], height=crop.height + extra[1])

        boxes = place_windows(stage, crop=crop)

        assert len(boxes) == -(-stage.width // crop.width) * -(-stage.height // crop.height)
        assert (max(box.right for box in boxes), max(box.bottom for box in boxes)) == (stage.width, stage.height)
        for starts in (sorted({box.x for box in boxes}), sorted({box.y for box in boxes})):
            steps = np.diff(starts)
            assert starts[0] == 0
            assert (steps[:-1] == steps[0]).all() if len(steps) else True

    def test_columns_come_before_rows(self) -> None:
        boxes = place_windows(Size(width=20, height=25), crop=square(10))

        assert [(box.x, box.y) for box in boxes] == [(0, 0), (0, 7), (0, 15), (10, 0), (10, 7), (10, 15)]

    def test_a_stage_smaller_than_the_crop_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"windows of 10x10 in a stage of 9x20"):
            place_windows(Size(width=9, height=20), crop=square(10))


class TestCutOut:
    ramp = torch.arange(20.0).expand(1, 20, 20)
    region = np.array([4, 6, 12, 14], np.float32)

    def test_the_exact_one_gives_the_pixels_back(self) -> None:
        found = PublishedCutOut(size=square(8), shifted=False).one(self.ramp, self.region)

        torch.testing.assert_close(found, self.ramp[:, 6:14, 4:12])

    def test_the_published_one_lies_half_a_pixel_to_the_top_left(self) -> None:
        across = PublishedCutOut(size=square(8), shifted=True).one(self.ramp, self.region)
        down = PublishedCutOut(size=square(8), shifted=True).one(self.ramp.transpose(1, 2), self.region)

        torch.testing.assert_close(across, self.ramp[:, 6:14, 4:12] + 0.5)
        torch.testing.assert_close(down, self.ramp.transpose(1, 2)[:, 6:14, 4:12] + 0.5)

    def test_every_bin_is_sampled_as_often_as_it_has_pixels(self) -> None:
        values = torch.rand((2, 24, 36), generator=torch.Generator().manual_seed(0))
        whole = np.array([0, 0, 36, 24], np.float32)

        found = PublishedCutOut(size=Size(width=12, height=12), shifted=False).one(values, whole)

        torch.testing.assert_close(found, functional.avg_pool2d(values[None], (2, 3))[0])


class TestOverlapMean:
    def test_overlaps_are_averaged_in_any_order(self) -> None:
        boxes = place_windows(Size(width=15, height=10), crop=square(10))
        patches = [torch.full((1, 5, 5), value) for value in (0.2, 0.6)]
        size = Size(width=15, height=10)

        results = []
        for order in ((0, 1), (1, 0)):
            joined = OverlapMean(classes=1, size=size, device=torch.device("cpu"))
            for i in order:
                joined.add(patches[i], boxes[i])
            results.append(joined.mean())

        expected = torch.tensor([0.2] * 5 + [0.4] * 5 + [0.6] * 5).expand(1, 10, 15)
        torch.testing.assert_close(results[0], expected)
        torch.testing.assert_close(results[1], results[0])

    def test_what_no_patch_reached_is_known(self) -> None:
        joined = OverlapMean(classes=1, size=Size(width=20, height=10), device=torch.device("cpu"))
        joined.add(torch.ones((1, 10, 10)), place_windows(Size(width=20, height=10), crop=square(10))[1])

        assert joined.covered[:, 10:].all()
        assert not joined.covered[:, :10].any()
        assert not joined.mean()[:, :, :10].any()


class TestPoints:
    @settings(deadline=None, max_examples=30)
    @given(size=sizes, k=st.sampled_from([1, 3, 5, 11]), seed=st.integers(0, 9))
    def test_the_median_is_padded_with_zeros(self, size: Size, k: int, seed: int) -> None:
        scores = np.random.default_rng(seed).random((size.height, size.width), np.float32)

        found = median_zero_padded(torch.from_numpy(scores), k=k)

        np.testing.assert_array_equal(found.numpy(), median_filter(scores, size=k, mode="constant"))

    @settings(max_examples=50)
    @given(values=st.lists(st.integers(0, 4), min_size=1, max_size=60), data=st.data())
    def test_the_highest_are_chosen_and_ties_go_to_the_lowest_index(
        self, values: list[int], data: st.DataObject
    ) -> None:
        count = data.draw(st.integers(0, len(values)))
        expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]

        found = choose_points(torch.tensor([values], dtype=torch.float32), count=count)

        assert found[0].nonzero()[:, 0].tolist() == sorted(expected)

    @pytest.mark.parametrize(
        ("points", "selected", "windows", "expected"),
        [
            (0.3, 16, 16, 28090),
            (0.75, 1, 4, 17556),
            (500, 9, 9, 500),
            (500, 1, 64, 500),
            (65536, 1, 64, 1463),
            (1.0, 23, 36, 59823),  # 93636 * (23 / 36) is a little less in floating point
            (65536, 23, 36, 59823),
        ],
    )
    def test_counts_are_limited_to_the_selected_windows(
        self, points: float, selected: int, windows: int, expected: int
    ) -> None:
        assert point_count(points, stage=square(306), selected=selected, windows=windows) == expected

    def test_certainty_is_the_lead_of_the_first_over_the_second(self) -> None:
        assert certainty(torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1)).item() == pytest.approx(0.2)


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"stages": (square(64), square(128))},
                r"one window must cover .* windows of 32x32 in a first stage of 64x64",
            ),
            ({"stages": (square(16), square(64))}, r"no stage may be smaller .* in a stage of 16x16"),
            ({"stages": ()}, r"at least one scale"),
            ({"median": 16}, r"odd width \(got 16\)"),
            ({"points": 0}, r"points are an integer of at least 1, or a share"),
            ({"points": 1.5}, r"points are an integer of at least 1, or a share"),
            ({"patches": (3,)}, r"1 numbers for 3 stages"),
            ({"patches": -2}, r"counts of windows"),
        ],
    )
    def test_what_the_published_programs_fail_at_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            replace(SMALL, **change)

    def test_scales_of_an_image_make_crop_and_stages(self) -> None:
        scales = [square(612), square(2448), square(1224)]

        found = settings_from_scales(scales, image=square(2448), input=square(508), points=0.75)

        assert found.crop == square(612)
        assert found.stages == (square(612), square(1224), square(2448))
        assert [found.scale_of(i) for i in range(3)] == [square(2448), square(1224), square(612)]

    def test_an_image_is_stretched_to_the_coarsest_scale(self) -> None:
        found = settings_from_scales(
            [square(612), square(306), square(153)], image=Size(width=700, height=640), input=square(128)
        )

        assert found.stages == (square(153), square(306), square(612))

    def test_an_image_of_which_pixels_would_go_unread_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"an image of 1300x640, a scale of 612x612"):
            settings_from_scales([square(612), square(306)], image=Size(width=1300, height=640), input=square(128))

    def test_scales_that_do_not_nest_are_refused(self) -> None:
        with pytest.raises(UsageError, match="scales differ"):
            settings_from_scales([square(612), square(612)], image=square(612), input=square(128))
