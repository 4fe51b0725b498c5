"""Fields are accumulated over stages, and refiners and temperatures are fitted to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import tifffile
import torch

import magnet_cli
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.models.bundle import InputSpec, load_bundle
from magnet_cli.models.registry import build_backbone, build_refiner
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan.windows import Stage
from magnet_cli.train.canvases import HeldField, HeldTruth, StageTruth, StoredField
from magnet_cli.train.scene_fields import own_logs
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.stage_runs import (
    Previous,
    Refiners,
    accumulated_runs,
    direct_runs,
    ending_of,
    mean_iou,
    merged_field,
)
from tests.train.fields import make_bundle, make_scene, probabilities_in, square, view_of, whole
from tests.train.support import pixels_of

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.train.scene_fields import SceneView
    from magnet_cli.train.stage_runs import StageRun

pytestmark = pytest.mark.full


def echo(*, own: bool) -> torch.nn.Module:
    """Return a refiner that says what one of its inputs says, hardened."""
    network = build_refiner("conv", classes=2, options={})
    weight = torch.zeros(2, 4, 1, 1)
    weight[:, : 2 if own else 4][:, 0 if own else 2 :, 0, 0] = 3 * torch.eye(2)
    network.load_state_dict({"conv.weight": weight, "conv.bias": torch.zeros(2)})
    return network.eval()


def test_the_field_of_a_fold_is_its_own_backbones(tmp_path: Path) -> None:
    scene = make_scene("a", seed=0)
    bundle, other = (load_bundle(str(make_bundle(tmp_path / str(seed), seed=seed))) for seed in (1, 2))
    mine, theirs = (view_of(tmp_path / "fields", one, scene) for one in (bundle, other))
    assert mine.key != theirs.key
    assert not torch.equal(whole(mine.logs[0]), whole(theirs.logs[0]))
    assert torch.equal(whole(view_of(tmp_path / "fields", bundle, scene).logs[1]), whole(mine.logs[1]))


def test_a_field_is_the_network_on_every_pixel(tmp_path: Path) -> None:
    """Compare at the finest scale, where a margin as wide as the kernel's reach leaves no trace of windows."""
    scene = make_scene("s", seed=3, rows=37, columns=41)
    torch.manual_seed(0)
    network = build_backbone("conv", classes=2, bands=3, options={"kernel": 3}).eval()
    stage = Stage(
        number=1, scale=square(16), input=square(16), margin=1, image=Size(width=41, height=37), working=LEVEL0
    )
    spec = InputSpec(
        size=square(16), bands=("r", "g", "b"), range=(0, 255), mean=(0, 0, 0), std=(1, 1, 1), resample="area"
    )
    field = StoredField.made(tmp_path / "f.npy", (2, 37, 41))
    own_logs(network, scene, stage=stage, spec=spec, into=field)
    with torch.no_grad():
        patch = torch.from_numpy(pixels_of(scene) / np.float32(255)).permute(2, 0, 1)
        said = network(patch[None]).log_softmax(dim=1)[0]
    torch.testing.assert_close(whole(field).float(), said, atol=2e-3, rtol=0)


def test_labels_lie_at_the_centres_of_canvas_pixels() -> None:
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    scene = LabelledScene.of("s", pixels=np.zeros((5, 7, 3), np.uint8), labels=labels)
    stage = Stage(number=1, scale=square(6), input=square(2), margin=0, image=Size(width=7, height=5), working=LEVEL0)
    truth = StageTruth(scene.labels, stage=stage)
    expected = labels[np.ix_([1, 4], [1, 4, 6])]
    np.testing.assert_array_equal(truth.read(Box.whole(truth.size)), expected)
    np.testing.assert_array_equal(truth.read(Box(x=1, y=1, width=2, height=1)), expected[1:, 1:])
    np.testing.assert_array_equal(truth.counts, np.bincount(expected.ravel(), minlength=256))


@pytest.mark.parametrize("scales", [(16, 32, 64), (16, 40)])
def test_accumulated_fields_are_what_a_run_of_the_program_makes(tmp_path: Path, scales: tuple[int, ...]) -> None:
    """Windows of a training have the weights that they have in a run."""
    scene = make_scene("s", seed=11, rows=150, columns=118)
    folder = make_bundle(tmp_path / "tiny", scales=scales, magnet={"margin": 3})
    bundle = load_bundle(str(folder))
    view = view_of(tmp_path / "fields", bundle, scene)
    *_, last = accumulated_runs([view], temperatures=[1.0] * len(scales), how="mean", refiners=[Refiners()])
    ours = whole(merged_field(last, how="mean", refiners=Refiners())).argmax(dim=0).numpy()
    tifffile.imwrite(tmp_path / "s.tif", pixels_of(scene), photometric="rgb", tile=(64, 64))
    options = SegmentOptions(weights=str(folder), merge="mean", device="cpu", num_workers=0)
    (result,) = magnet_cli.segment([tmp_path / "s.tif"], tmp_path / "mask.tif", options)
    assert result.error is None
    theirs = tifffile.imread(tmp_path / "mask.tif")
    inner = (slice(8, -8), slice(8, -8))
    assert ours.shape == theirs.shape
    assert (ours[inner] == theirs[inner]).mean() >= 0.999
    assert 0.1 < theirs.mean() < 0.9
    alone = whole(view.logs[-1]).argmax(dim=0).numpy()
    assert (ours[inner] != alone[inner]).mean() > 0.01, "the stages below changed nothing"
    assert last.stage.margin == 3


def test_windows_of_a_training_are_blended_as_in_a_run(tmp_path: Path) -> None:
    """On an image of one block, probabilities are those of the program at every pixel, also where windows overlap."""
    scene = make_scene("s", seed=11, rows=40, columns=38)
    folder = make_bundle(tmp_path / "tiny", scales=(16, 64), magnet={"margin": 3})
    view = view_of(tmp_path / "fields", load_bundle(str(folder)), scene)
    (step,) = accumulated_runs([view], temperatures=[1.0, 1.0], how="mean", refiners=[Refiners()])
    assert (step.stage.cells, step.stage.fade) == (Size(width=4, height=4), 3)
    tifffile.imwrite(tmp_path / "s.tif", pixels_of(scene), photometric="rgb", tile=(64, 64))
    for method, field in (("patch", view.logs[-1]), ("magnet", merged_field(step, how="mean", refiners=Refiners()))):
        mask = tmp_path / f"{method}.tif"
        options = SegmentOptions(
            weights=str(folder), method=cast("Any", method), device="cpu", num_workers=0, probabilities=True
        )
        (result,) = magnet_cli.segment([tmp_path / "s.tif"], mask, options)
        assert result.error is None
        found = torch.from_numpy(probabilities_in(mask))
        torch.testing.assert_close(whole(field).float().exp(), found, atol=3e-3, rtol=0)


def as_it_is(field: Previous) -> torch.Tensor:
    """Return all of what a stage came to, on its own grid."""
    return field.sample(Box.whole(field.stage.extent), field.stage.pitch)


def steps_of(view: SceneView, **named: Any) -> list[StageRun]:
    return accumulated_runs([view], temperatures=[1.0] * len(view.stages), **named)


def test_what_a_refiner_says_is_what_the_next_stage_refines(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_bundle(tmp_path / "tiny", scales=(16, 32, 64))))
    view = view_of(tmp_path / "fields", bundle, make_scene("s", seed=4))
    first, second = steps_of(view, how="refiner", refiners=[Refiners(networks=((None, echo(own=True)),))])
    box = Box.whole(first.stage.extent)
    torch.testing.assert_close(as_it_is(second.field), (3 * first.own(box)).softmax(dim=0), atol=2e-3, rtol=0)
    assert torch.equal(as_it_is(first.field), whole(view.logs[0]).float().softmax(dim=0).half().float())
    plain, mean = steps_of(view, how="mean", refiners=[Refiners()])
    expected = (plain.own(box) + plain.under(box)) / 2
    torch.testing.assert_close(as_it_is(mean.field), expected, atol=2e-3, rtol=0)


def test_the_refiner_of_the_nearest_scale_is_asked(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_bundle(tmp_path / "tiny", scales=(16, 32))))
    (step,) = steps_of(view_of(tmp_path / "fields", bundle, make_scene("s", seed=4)), how="mean", refiners=[Refiners()])
    pair = Refiners(networks=((square(64), echo(own=False)), (square(16), echo(own=True))))
    box = Box.whole(step.stage.extent)
    for refiners, expected in ((pair, step.own(box)), (Refiners(networks=pair.networks[:1]), step.under(box))):
        found = whole(merged_field(step, how="refiner", refiners=refiners)).float().exp()
        torch.testing.assert_close(found, (3 * expected).softmax(dim=0), atol=2e-3, rtol=0)


def test_direct_pairs_lie_over_the_coarsest_scale(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_bundle(tmp_path / "tiny", scales=(16, 32, 64))))
    view = view_of(tmp_path / "fields", bundle, make_scene("s", seed=4))
    first, second = direct_runs([view], temperatures=[1.5, 1.0, 1.0])
    expected = (whole(view.logs[0]).float() / 1.5).softmax(dim=0).half().float()
    for step in (first, second):
        assert step.field.stage == view.stages[0]
        assert torch.equal(as_it_is(step.field), expected)


def test_runs_end_with_a_score_and_a_temperature_a_stage(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_bundle(tmp_path / "tiny", scales=(16, 32, 64))))
    view = view_of(tmp_path / "fields", bundle, make_scene("s", seed=4))
    refiners = [Refiners(networks=((None, echo(own=True)),))]
    ending = ending_of([view], temperatures=[1.0] * 3, how="refiner", refiners=refiners, ignore=255, fitting=True)
    assert len(ending.fits) == 2
    assert ending.miou == pytest.approx(mean_iou([view.logs[-1]], [view.labels[-1]], ignore=255), abs=0.01)


def test_mean_iou_counts_labelled_pixels_of_classes_that_occur() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    logs = torch.tensor([[[1.0, 0, 0, 0]], [[0, 1.0, 1, 1]], [[0.5] * 4]])
    assert mean_iou([HeldField(logs)], [HeldTruth(truth)], ignore=255) == pytest.approx((1 / 2 + 1 / 2) / 2)
