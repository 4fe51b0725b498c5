"""The scores of a bundle over several images equal those that are counted from its masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import stats

from magnet_cli.errors import MagnetError, SourceError, UsageError
from magnet_cli.evaluation.boundary import BoundaryCounts
from magnet_cli.evaluation.mask_scores import Confusion, Evaluation, evaluate
from magnet_cli.evaluation.method_scores import Cost, ImageScore, Scores, evaluate_methods, score_each
from magnet_cli.evaluation.plot import draw_distributions
from magnet_cli.evaluation.statistics import Distribution, Pooled, paired_difference
from magnet_cli.events import Events, Step
from magnet_cli.geometry import Size
from magnet_cli.images.cache import CacheBudget
from magnet_cli.images.dataset import DatasetSample
from magnet_cli.models.networks import Networks
from magnet_cli.models.python_network import NetworkDescription
from magnet_cli.options.evaluate import EvaluationOptions, ScoreOptions
from magnet_cli.options.parts import JobPart
from magnet_cli.options.segment import Method, SegmentOptions
from magnet_cli.report.inks import COLOURS
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.image_run import ImageResult
from tests.cli.support import expected_labels, write_colours_bundle, write_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.masks.targets import Target

SIZES = ((60, 90), (50, 70), (45, 64))
FEW: tuple[Method, ...] = ("downsample", "patch")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write three images of different sizes. Part of each truth is wrong, and part is not labelled."""
    lines = ["image,label,roi"]
    rng = np.random.default_rng(1)
    for number, size in enumerate(SIZES):
        write_image(tmp_path / f"i{number}.tif", seed=number, size=size)
        truth = expected_labels(size)
        truth[: 4 + 6 * number] = rng.integers(0, 3, size[1])
        truth[-5:, :20] = 255
        roi = np.ones(size, np.uint8)
        roi[:, :6] = 0
        tifffile.imwrite(tmp_path / f"t{number}.tif", truth, photometric="minisblack")
        tifffile.imwrite(tmp_path / f"r{number}.tif", roi, photometric="minisblack")
        lines.append(f"i{number}.tif,t{number}.tif,{f'r{number}.tif' if number else ''}")
    (tmp_path / "data.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "data.csv"


def options(bundle: Path, methods: tuple[Method, ...] = FEW, **more: Any) -> ScoreOptions:
    return ScoreOptions(methods=methods, segment=SegmentOptions(weights=str(bundle), device="cpu"), **more)


def counted(folder: Path, data: Path, method: str) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return mask and truth of each image at the pixels that count, as flat arrays."""
    found = []
    for number in range(len(SIZES)):
        mask = tifffile.imread(folder / method / f"i{number}.tif", key=0)
        truth = tifffile.imread(data.parent / f"t{number}.tif")
        known = truth != 255
        if number:
            known &= tifffile.imread(data.parent / f"r{number}.tif") != 0
        found.append((mask[known], truth[known]))
    return found


def ious(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> list[float]:
    return [
        float(((mask == label) & (truth == label)).sum() / ((mask == label) | (truth == label)).sum())
        for label in range(3)
    ]


def test_scores_are_those_of_the_masks_arrays(data: Path, colours: Path, tmp_path: Path) -> None:
    found = evaluate_methods(data, tmp_path / "out", options(colours, iou_threshold=0.8))
    for one in found.methods:
        pairs = counted(tmp_path / "out", data, one.method)
        mask, truth = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        described = one.describe()
        assert "mba_paper" not in described
        assert [entry.name for entry in one.pooled.classes] == ["r", "g", "b"]
        assert [entry.iou for entry in one.pooled.classes] == pytest.approx(ious(mask, truth))
        assert described["confusion"] == [
            [int(((truth == row) & (mask == column)).sum()) for column in (0, 1, 2, 255)] for row in range(3)
        ]
        assert described["pixel_accuracy"] == pytest.approx((mask == truth).mean())
        singles = [np.mean(ious(*pair)) for pair in pairs]
        assert one.mious.values == pytest.approx(singles)
        assert described["miou_mean"] == pytest.approx(np.mean(singles))
        assert any(value < 0.8 for value in singles)
        assert described["thresholded_iou"] == pytest.approx(np.mean([v if v >= 0.8 else 0 for v in singles]))
        f1 = [2 * iou / (1 + iou) for iou in ious(mask, truth)]
        assert described["f1"] == pytest.approx(np.mean(f1))
        assert one.ious(1).values == pytest.approx([ious(*pair)[1] for pair in pairs])
        assert described["megapixels"] == pytest.approx(sum(h * w for h, w in SIZES) / 1e6)


def test_a_mask_as_the_truth_has_classes_and_no_stored_values(data: Path, colours: Path, tmp_path: Path) -> None:
    data.write_text("image,label\ni0.tif,t0.tif\n", encoding="utf-8")
    evaluate_methods(data, tmp_path / "out", options(colours, ("downsample",)))
    data.write_text("image,label\ni0.tif,out/downsample/i0.tif\ni1.tif,t1.tif\n", encoding="utf-8")
    counting = EvaluationOptions(truth_values={0: 1, 1: 0})
    (score,) = evaluate_methods(data, options=options(colours, ("downsample",), evaluation=counting)).methods
    assert [found.accuracy == 1 for found in score.found] == [True, False]


@pytest.mark.parametrize("bands", [3, 4])
def test_labels_where_the_image_has_no_data_do_not_count(colours: Path, tmp_path: Path, bands: int) -> None:
    """No method can find a class there, and a training leaves such pixels out, too.

    A fourth band, which the network does not read, has data everywhere.
    """
    size = SIZES[0]
    write_image(tmp_path / "a.tif", seed=1, size=size)
    pixels = tifffile.imread(tmp_path / "a.tif")
    pixels[:20] = 7
    pixels = np.dstack([pixels, *[np.full(size, 100, np.uint8)] * (bands - 3)])
    more: dict[str, Any] = {} if bands == 3 else {"extrasamples": ["unspecified"], "planarconfig": "contig"}
    tags = [(42113, 2, 0, "7", True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tags, **more)
    tifffile.imwrite(tmp_path / "t.tif", expected_labels(size), photometric="minisblack")
    (tmp_path / "data.csv").write_text("image,label\na.tif,t.tif\n", encoding="utf-8")
    found = evaluate_methods(tmp_path / "data.csv", tmp_path / "out", options(colours, ("patch",)))
    mask = tifffile.imread(tmp_path / "out" / "patch" / "a.tif", key=0)
    assert (mask[:20] == 255).all()
    confusion = np.array(found.methods[0].describe()["confusion"])
    assert confusion.sum() == (size[0] - 20) * size[1]
    # Three classes of the truth; the fourth column counts pixels that were not computed.
    assert confusion[:, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "given", [pytest.param({"patches": "1"}, marks=pytest.mark.full), {"select": "change"}, {"budget": "50%"}]
)
def test_what_chooses_windows_is_for_the_method_that_chooses(data: Path, colours: Path, given: dict[str, Any]) -> None:
    segment = SegmentOptions(weights=str(colours), device="cpu", **given)
    for methods in (("magnet-fast", "magnet", "patch"), ("magnet",)):
        found = evaluate_methods(data, options=ScoreOptions(methods=methods, segment=segment)).methods
        assert [len(score.found) for score in found] == ([3, 3, 3] if len(methods) > 1 else [0])
        if len(methods) == 1:
            assert isinstance(found[0].rows[0].error, UsageError)


@pytest.mark.parametrize("given", [{"points": "50%", "median": 3}, {"merge": "mean"}])
def test_what_later_stages_use_is_for_the_methods_that_have_some(
    data: Path, colours: Path, given: dict[str, Any]
) -> None:
    segment = SegmentOptions(weights=str(colours), device="cpu", **given)
    found = evaluate_methods(data, options=ScoreOptions(methods=("magnet", "patch"), segment=segment)).methods
    assert [len(score.found) for score in found] == [3, 3]
    (alone,) = evaluate_methods(data, options=ScoreOptions(methods=("patch",), segment=segment)).methods
    assert isinstance(alone.rows[0].error, UsageError)


def test_an_image_that_is_decoded_as_a_whole_is_decoded_beside_its_mask(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder for temporary files may be small; a finished mask would have no score then."""
    size = SIZES[0]
    write_image(tmp_path / "a.tif", seed=1, size=size)
    opacity = np.full(size, 255, np.uint8)
    opacity[:20] = 0
    Image.fromarray(np.dstack([tifffile.imread(tmp_path / "a.tif"), opacity])).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "t.tif", expected_labels(size), photometric="minisblack")
    (tmp_path / "data.csv").write_text("image,label\na.png,t.tif\n", encoding="utf-8")
    folders = []
    within = CacheBudget.within

    def noting(folder: Path) -> CacheBudget:
        folders.append(folder)
        return within(folder) if tmp_path in folder.parents else CacheBudget(folder=folder, max_bytes=0)

    monkeypatch.setattr("magnet_cli.images.cache.MEMORY_BYTES", 1)
    monkeypatch.setattr(CacheBudget, "within", noting)
    (row,) = evaluate_methods(tmp_path / "data.csv", tmp_path / "out", options(colours, ("patch",))).methods[0].rows
    assert row.error is None
    assert row.evaluation is not None
    assert row.evaluation.labelled == (size[0] - 20) * size[1]
    assert tmp_path / "out" / "patch" in folders


def test_a_network_of_the_callers_own_is_scored_as_a_bundle_that_computes_the_same(
    data: Path, colours: Path, tmp_path: Path
) -> None:
    own = ScoreOptions(methods="patch", segment=SegmentOptions(device="cpu", tissue="none"))
    described = NetworkDescription(classes=["r", "g", "b"], size=32, scales="32,64,128", version="1")
    found = evaluate_methods(data, tmp_path / "own", own, network=lambda x: 20 * x, description=described)
    bundles = evaluate_methods(data, tmp_path / "theirs", options(colours, ("patch",)))
    for one, other in zip(found.methods, bundles.methods, strict=True):
        assert one.pooled.confusion.tolist() == other.pooled.confusion.tolist()
        assert [entry.name for entry in one.pooled.classes] == ["r", "g", "b"]


def test_a_network_and_a_bundle_are_not_scored_together(data: Path, colours: Path) -> None:
    described = NetworkDescription(classes=3, size=32, version="1")
    with pytest.raises(UsageError, match="takes the place of a bundle"):
        evaluate_methods(data, None, options(colours), network=lambda x: x, description=described)


def test_boundary_pixels_are_pooled_and_the_papers_mean_is_over_images(
    data: Path, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    counting = EvaluationOptions(boundary="paper")
    (one,) = evaluate_methods(data, out, options(colours, ("patch",), evaluation=counting)).methods
    near, right = np.zeros(5), np.zeros(5)
    paper = []
    for number in range(len(SIZES)):
        roi = data.parent / f"r{number}.tif" if number else None
        found = evaluate(out / "patch" / f"i{number}.tif", data.parent / f"t{number}.tif", counting, roi=roi)
        assert found.boundary is not None
        assert found.boundary_beside is not None
        near += found.boundary.near
        right += found.boundary.right
        paper.append(found.boundary_beside.mba)
    described = one.describe()
    assert described["mba"] == pytest.approx(np.mean(right / near))
    assert described["mba_paper"] == pytest.approx(np.mean(np.array(paper, np.float64)))


def test_a_finished_mask_is_not_computed_again(
    data: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_methods(data, tmp_path / "out", options(colours))
    (tmp_path / "out" / "patch" / "i1.tif").unlink()
    (tmp_path / "out" / "patch" / "i1.json").unlink()
    looks = []
    predict = Networks.predict

    def looking(self: Networks, *args: Any, **more: Any) -> Any:
        looks.append(1)
        return predict(self, *args, **more)

    monkeypatch.setattr(Networks, "predict", looking)
    second = evaluate_methods(data, tmp_path / "out", options(colours))
    done = {(row.sample.name, row.method): row.was_done for one in second.methods for row in one.rows}
    assert [key for key, was_done in done.items() if not was_done] == [("i1", "patch")]
    assert looks
    looks.clear()
    third = evaluate_methods(data, tmp_path / "out", options(colours))
    assert looks == []
    timeless = ("seconds", "host_peak")
    for before, after in zip(first.methods, third.methods, strict=True):
        kept = [{k: v for k, v in one.describe().items() if k not in timeless} for one in (before, after)]
        assert kept[0] == kept[1]
    assert all(row.cost is not None for one in third.methods for row in one.rows)


def test_without_a_folder_no_mask_stays(
    data: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    heard = Heard()
    rows = []
    for row in score_each(data, None, options(colours), events=heard):
        assert list(place.iterdir()) == []
        rows.append(row)
    assert [row.mask for row in rows] == [None] * 6
    assert all(row.evaluation is not None for row in rows)
    assert [text for text in heard.messages if "done" in text] == [
        f"{method}, {name}: done" for name in ("i0", "i1", "i2") for method in FEW
    ]
    assert not any(str(place) in text for text in heard.messages)
    assert heard.steps


class Heard(Events):
    """Events that keep everything that is reported."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps: list[Step] = []
        self.failures: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def failed(self, image: str, error: MagnetError) -> None:
        self.failures.append(f"{Path(image).name}: {error}")


def test_a_sample_whose_files_do_not_fit_is_told_once_and_stops_no_other(
    data: Path, colours: Path, tmp_path: Path
) -> None:
    (tmp_path / "i0.tif").write_text("no image")
    tifffile.imwrite(tmp_path / "t1.tif", np.zeros((3, 3), np.uint8))
    heard = Heard()
    rows = list(score_each(data, tmp_path / "out", options(colours), events=heard))
    assert [(row.sample.name, row.method) for row in rows] == [
        ("i0", None),
        ("i1", None),
        ("i2", "downsample"),
        ("i2", "patch"),
    ]
    assert [text.split(":")[0] for text in heard.failures] == ["i0.tif", "i1.tif"]
    assert not list((tmp_path / "out").rglob("i1*"))
    found = Scores.of(rows, options(colours))
    for one in found.methods:
        assert [row.sample.name for row in one.rows if row.error is None] == ["i2"]
        assert "i0.tif" in str(one.rows[0].error)
        assert "t1.tif" in str(one.rows[1].error)
        assert (one.describe()["images"], one.describe()["failed"]) == (1, 2)
    (gain,) = found.gains
    assert (gain.difference.images, gain.difference.low) == (1, None)


def test_wrong_use(data: Path, colours: Path, tmp_path: Path) -> None:
    for methods in ((), ("patch", "patch")):
        with pytest.raises(UsageError, match="once each"):
            ScoreOptions(methods=methods)
    with pytest.raises(UsageError, match="from 0 to 1"):
        ScoreOptions(iou_threshold=65)
    (tmp_path / "i1.tif").unlink()
    with pytest.raises(SourceError, match=r"data.csv: the image of line 3 is missing .*i1.tif"):
        evaluate_methods(data, None, options(colours))
    (tmp_path / "patch").mkdir()
    write_image(tmp_path / "patch" / "a.tif")
    data.write_text("image,label\npatch/a.tif,t0.tif\n", encoding="utf-8")
    with pytest.raises(UsageError, match="may not replace an input"):
        evaluate_methods(data, tmp_path, replace(options(colours)))


def test_an_interval_is_students() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 7))
    found = paired_difference(first.tolist(), second.tolist())
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.images == 7
    assert (found.mean, found.low, found.high) == pytest.approx(((first - second).mean(), interval.low, interval.high))
    alone = paired_difference([0.5], [0.25])
    assert (alone.mean, alone.low, alone.high) == (0.25, None, None)


def test_a_distribution_leaves_out_what_is_none() -> None:
    found = Distribution.of([0.5, None, 0.7, 0.6, 0.9])
    assert found.describe() == pytest.approx(
        {"images": 4, "mean": 0.675, "min": 0.5, "q25": 0.575, "median": 0.65, "q75": 0.75, "max": 0.9}
    )
    assert found.thresholded(0.65) == pytest.approx((0.7 + 0.9) / 4)
    assert found.thresholded(0.7) == found.thresholded(0.65)
    assert (Distribution.of([None]).mean, Distribution.of([]).thresholded(0.5)) == (None, None)


def evaluated(mask: NDArray[np.uint8], truth: NDArray[np.uint8], counting: EvaluationOptions) -> Evaluation:
    confusion = Confusion()
    confusion.add(truth, mask)
    classes = confusion.scores(counting, names=None)
    labelled, right = confusion.totals(counting)
    return Evaluation(
        size=Size(width=truth.shape[-1], height=1),
        classes=classes,
        labelled=labelled,
        right=right,
        not_computed=confusion.not_computed(counting),
        confusion=confusion.table(classes, counting),
        boundary=BoundaryCounts(radii=(1.0,) * 5),
        boundary_beside=None,
        notes=(),
    )


def test_pooled_images_are_one_long_image() -> None:
    rng = np.random.default_rng(2)
    counting = EvaluationOptions(ignore=(1,), exclude=(4,))
    parts = [rng.choice(np.array(values, np.uint8), (2, 50)) for values in ((0, 1, 2), (2, 4, 255), (0, 5, 1, 255))]
    pooled = Pooled.of([evaluated(mask, truth, counting) for mask, truth in parts], counting)
    mask, truth = np.concatenate(parts, axis=1)
    whole = evaluated(mask, truth, counting)
    assert pooled.classes == whole.classes
    assert np.array_equal(pooled.confusion, whole.confusion)
    assert (pooled.labelled, pooled.right, pooled.not_computed) == (whole.labelled, whole.right, whole.not_computed)
    assert (pooled.miou, pooled.f1, pooled.accuracy) == (whole.miou, whole.f1, whole.accuracy)
    assert pooled.mba is None


def scores(values: dict[Method, Sequence[float | None]]) -> Scores:
    """Return scores of images of one class by their IoUs. None stands for an image that failed."""
    rows = []
    for method, shares in values.items():
        for number, share in enumerate(shares):
            mask = np.zeros(1000, np.uint8)
            mask[: 0 if share is None else 1000 - round(1000 * share)] = 255
            found = None if share is None else evaluated(mask, np.zeros(1000, np.uint8), EvaluationOptions())
            sample = DatasetSample(name=str(number), image=Path(f"{number}.tif"), label=Path(f"{number}.tif"))
            rows.append(ImageScore(sample=sample, method=method, mask=None, evaluation=found))
    return Scores.of(rows, ScoreOptions(methods=tuple(values)))


def test_gains_are_over_the_images_that_both_have() -> None:
    found = scores({"downsample": [0.5, 0.6, None, 0.2], "magnet": [0.7, 0.9, 0.1, 0.3], "patch": [0.4, 0.5, 0.9, 0.1]})
    gains = {(gain.method, gain.baseline): gain for gain in found.gains}
    assert set(gains) == {("magnet", "downsample"), ("magnet", "patch"), ("patch", "downsample")}
    over = gains["magnet", "downsample"].difference
    assert over.images == 3
    assert over.mean == pytest.approx(0.2)
    assert gains["magnet", "patch"].difference.images == 4
    # Means over images: downsample 0.433, patch 0.475.
    assert [gain.baseline for gain in found.gains if gain.is_best_baseline] == ["patch"]
    assert any("not every method has every image" in note for note in found.notes)
    json.dumps(found.describe(), allow_nan=False)


def test_a_baseline_has_no_gain_over_itself() -> None:
    found = scores({"patch": [0.5, 0.25], "magnet": [0.75, 0.5]})
    assert [(gain.method, gain.baseline) for gain in found.gains] == [("magnet", "patch")]


def colours_of(picture: bytes) -> set[str]:
    pixels = imagecodecs.png_decode(picture)[..., :3]
    return {"#" + bytes(colour).hex().upper() for colour in np.unique(pixels.reshape(-1, 3), axis=0)}


@pytest.mark.parametrize(
    "shares", [pytest.param([0.5], marks=pytest.mark.full), [0.5, None, 0.3], [0.01 * number for number in range(90)]]
)
def test_the_picture_shows_the_methods_that_have_scores(shares: list[float | None]) -> None:
    found = scores({"patch": shares, "magnet": shares, "downsample": [None] * len(shares)})
    seen = colours_of(draw_distributions(found))
    assert [method for method, colour in COLOURS.items() if colour in seen] == ["patch", "magnet"]


def test_the_picture_counts_the_images_that_have_scores() -> None:
    one, other = (draw_distributions(scores({"patch": shares})) for shares in ([0.5, None, 0.3], [0.5, 0.3]))
    assert one == other


def test_costs_add_up_and_peaks_do_not() -> None:
    cost = Cost(windows_run=3, megapixels=0.5, seconds=1.5, host_peak=7, device_peak=None)
    other = replace(cost, host_peak=9, device_peak=4)
    assert Cost.total([cost, other]) == Cost(windows_run=6, megapixels=1.0, seconds=3.0, host_peak=9, device_peak=4)


def test_whole_images_are_scored(data: Path, colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Glass that a run over slides skips, and what lies outside of a region, would count as wrong."""
    taken: list[str] = []

    def stop(target: Target, model: object, options: SegmentOptions, events: Events) -> ImageResult:
        del model, events
        taken.append(options.tissue)
        return ImageResult(image=target.image, mask=target.mask, error=SourceError("it is enough"))

    monkeypatch.setattr("magnet_cli.evaluation.method_scores.segment_target", stop)
    plain = SegmentOptions(weights=str(colours), device="cpu")
    for asked in (plain, replace(plain, tissue="none"), replace(plain, tissue="otsu")):
        evaluate_methods(data, options=ScoreOptions(methods=FEW[:1], segment=asked))
    assert taken == ["none"] * 6 + ["otsu"] * 3
    limited = replace(plain, roi="0,0,10,10")
    with pytest.raises(UsageError, match=r"would count as wrong.*got roi=.*column roi"):
        evaluate_methods(data, options=ScoreOptions(segment=limited))


def test_a_part_and_a_cluster_exclude_each_other(data: Path) -> None:
    with pytest.raises(UsageError, match="part and cluster each say who shares a run"):
        segment(data.with_name("i0.tif"), part=JobPart(index=0, count=2), cluster="local:2")
